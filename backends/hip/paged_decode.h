// Decode attention over a paged KV cache: one new token a request, keys split into partitions.
//
// Reads the split layout (docs/reference/backends.md#rocm-attn; x elements are 16 bytes):
//   key cache    [blocks, KV heads, D / x, block size, x]
//   value cache  [blocks, KV heads, D, block size]
// One workgroup takes one partition of one request's keys for one KV head, with all query heads that
// share it; `combine` merges the partitions. Scores are kept in base 2 (docs/attention-mathematics.md).
#pragma once

#include "device.h"

namespace rocm_attn {

constexpr int PARTITION = 256;  // tokens
constexpr int MOST_HEADS = 16;  // query heads that may share a KV head

enum class Cache { SAME, E4M3FN, E4M3FNUZ };

template <Cache CACHE>
struct Stored {  // one element of the cache
  static constexpr int BYTES = CACHE == Cache::SAME ? 2 : 1;
  static constexpr int X = 16 / BYTES;
  static constexpr int BIAS = CACHE == Cache::E4M3FNUZ ? 8 : 7;
};

struct Arguments {
  unsigned short* out;            // [rows, query heads, D], 16-bit
  float* partial_out;             // [requests, query heads, partitions, D]; unused with one partition
  float* partial_max;             // [requests, query heads, partitions], base 2
  float* partial_sum;             // [requests, query heads, partitions]
  const unsigned short* query;    // [rows, query heads, D], 16-bit
  const unsigned char* key;       // see above
  const unsigned char* value;     // see above
  const int* block_table;         // [requests, at least ceil(seq_len / block size)]
  const int* seq_lens;            // [requests]
  const int* query_start_loc;     // [requests + 1], or null: row i is request i
  const float* alibi_slopes;      // [query heads], or null
  const float* k_scale;           // one, or null
  const float* v_scale;           // one, or null
  long long out_stride, query_stride;        // elements from row to row; heads are dense
  long long key_stride, value_stride;        // bytes from block to block; the rest is dense
  long long table_stride;                    // elements from request to request
  int requests, query_heads, kv_heads, partitions;
  float scale;
};

// Where a request's token is, and whether this workgroup has anything to do.
struct Work {
  int request, partition, kv_head, group, seq_len, first, count, row;
  bool idle;   // nothing to do
  bool empty;  // but write zeros: the request has no tokens at all
};

__device__ inline Work work_of(const Arguments& a) {
  Work w;
  w.request = static_cast<int>(blockIdx.x);
  w.partition = static_cast<int>(blockIdx.y);
  w.kv_head = static_cast<int>(blockIdx.z);
  w.group = a.query_heads / a.kv_heads;
  w.seq_len = a.seq_lens[w.request];
  w.first = w.partition * PARTITION;
  const int left = w.seq_len - w.first;
  w.count = left < PARTITION ? left : PARTITION;
  w.row = w.request;
  bool decode = true;
  if (a.query_start_loc) {  // requests with several new tokens are prefill's
    w.row = a.query_start_loc[w.request];
    decode = a.query_start_loc[w.request + 1] - w.row == 1;
  }
  w.idle = !decode || w.count <= 0;
  w.empty = decode && w.seq_len <= 0 && a.partitions == 1;  // with more, `combine` writes them
  return w;
}

// Byte offset of the 16 bytes that hold dims [dim, dim + x) of a token's key.
template <int D, int BLOCK, int BYTES>
__device__ inline long long key_offset(const Arguments& a, const Work& w, const int* table, int token, int dim) {
  constexpr int X = 16 / BYTES;
  const long long block = table[token / BLOCK];
  const int slot = token % BLOCK;
  return block * a.key_stride + (static_cast<long long>(w.kv_head) * D * BLOCK + (dim / X * BLOCK + slot) * X) * BYTES;
}

// Byte offset of the 16 bytes that hold one dim of tokens [token, token + x), all of one block.
template <int D, int BLOCK, int BYTES>
__device__ inline long long value_offset(const Arguments& a, const Work& w, const int* table, int token, int dim) {
  const long long block = table[token / BLOCK];
  const int slot = token % BLOCK;
  return block * a.value_stride + ((static_cast<long long>(w.kv_head) * D + dim) * BLOCK + slot) * BYTES;
}

struct alignas(16) Line {  // what one load brings
  unsigned char byte[16];
};

__device__ inline Line load_line(const unsigned char* base, long long offset) {
#if defined(__AMDGCN__) || defined(__CUDACC__)
  struct alignas(16) Words { unsigned at[4]; };
  const Words words = *reinterpret_cast<const Words*>(base + offset);
  Line line;
  __builtin_memcpy(&line, &words, 16);
  return line;
#else
  Line line;
  __builtin_memcpy(&line, base + offset, 16);
  return line;
#endif
}

template <Cache CACHE, bool FORMAT>
__device__ inline float element(const Line& line, int i) {
  if constexpr (CACHE == Cache::SAME)
    return to_float<FORMAT>(static_cast<unsigned short>(line.byte[2 * i] | line.byte[2 * i + 1] << 8));
  else
    return from_e4m3<Stored<CACHE>::BIAS>(line.byte[i]);
}

// Widen a line to 16-bit elements.
template <Cache CACHE, bool FORMAT>
__device__ inline void widen(const Line& line, unsigned short* to) {
  if constexpr (CACHE == Cache::SAME) {
    __builtin_memcpy(to, &line, 16);
  } else {
    unsigned words[4];
    __builtin_memcpy(words, &line, 16);
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      const Floats<4> four = four_from_e4m3<Stored<CACHE>::BIAS>(words[word]);
#pragma unroll
      for (int i = 0; i < 4; ++i) to[4 * word + i] = from_exact<FORMAT>(four.at[i]);
    }
  }
}

// Scores in base 2: log2(e) * (scale * <q, k> + slope * (k - last)).
constexpr float LOG2_E = 1.4426950408889634f;

__device__ inline float score_of(const Arguments& a, float product, float factor, int head, int token, int seq_len) {
  float score = product * factor;
  if (a.alibi_slopes) score += a.alibi_slopes[head] * LOG2_E * static_cast<float>(token - (seq_len - 1));
  return score;
}

// log2(e) * scale * k_scale. An infinite k_scale makes zeros and both signs of a key's elements NaN.
__device__ inline float score_factor(const Arguments& a) {
  const float k_scale = a.k_scale ? *a.k_scale : 1.0f;
  return a.scale * LOG2_E * k_scale + (k_scale - k_scale);
}

template <bool FORMAT, int D>
__device__ inline void write_result(const Arguments& a, const Work& w, int head_in_group, int dim, float sum_of_weights,
                                    float value) {
  const int head = w.kv_head * w.group + head_in_group;
  if (a.partitions == 1) {
    const float result = sum_of_weights == 0 ? 0.0f : value / sum_of_weights;
    a.out[w.row * a.out_stride + head * D + dim] = from_float<FORMAT>(result);
  } else {
    const long long place = (static_cast<long long>(w.request) * a.query_heads + head) * a.partitions + w.partition;
    a.partial_out[place * D + dim] = value;
  }
}

template <int D>
__device__ inline void write_zeros(const Arguments& a, const Work& w) {
  for (int i = static_cast<int>(threadIdx.x); i < w.group * D; i += THREADS)
    a.out[w.row * a.out_stride + w.kv_head * w.group * D + i] = 0;
}

__device__ inline void write_weights(const Arguments& a, const Work& w, int head_in_group, float max, float sum) {
  const int head = w.kv_head * w.group + head_in_group;
  const long long place = (static_cast<long long>(w.request) * a.query_heads + head) * a.partitions + w.partition;
  a.partial_max[place] = max;
  a.partial_sum[place] = sum;
}

constexpr float NEVER = -3.0e38f;  // the score of no token; finite, so that exp2(-inf - NEVER) is 0 and not NaN

// A token's weight, from its score and the largest; NaN for a score of NaN or +inf.
__device__ inline float weight_of(float score, float max) { return score == NEVER ? 0.0f : exp2_of(score - max); }

// Write the results of an fp8 cache under a v_scale that is not finite: as a factor of each stored value it
// makes infinities, and NaN of zeros and of both signs, which a factor of their sum would not.
template <bool FORMAT, Cache CACHE, int D, int BLOCK>
__device__ inline void write_scaled_beyond_range(const Arguments& a, const Work& w, const int* table,
                                                 const float* sums_of_weights, float v_scale) {
  constexpr int X = Stored<CACHE>::X, BYTES = Stored<CACHE>::BYTES;
  for (int i = static_cast<int>(threadIdx.x); i < w.group * D; i += THREADS) {
    float sum = 0;
    for (int start = 0; start < w.count; start += X) {
      const Line line = load_line(a.value, value_offset<D, BLOCK, BYTES>(a, w, table, w.first + start, i % D));
#pragma unroll
      for (int k = 0; k < X; ++k)  // unrolled: a line that is indexed at run time would lie in scratch
        if (start + k < w.count) sum += element<CACHE, FORMAT>(line, k) * v_scale;
    }
    write_result<FORMAT, D>(a, w, i / D, i % D, sums_of_weights[i / D], sum);
  }
}

// --- with matrix instructions -----------------------------------------------------------------------

// Scores are D = K Q^T: lane l holds head l % 16 and RESULTS tokens of a tile. The output is D = P V:
// lane l holds dim l % 16 and RESULTS heads. The weights P change hands through LDS.
template <class M, bool FORMAT, Cache CACHE, int D, int BLOCK>
struct MatrixDecode {
  static constexpr int X = Stored<CACHE>::X, BYTES = Stored<CACHE>::BYTES;
  static constexpr int WAVES = THREADS / M::WAVE;
  static constexpr int CHUNK = X > M::PER_LANE ? X : M::PER_LANE;  // of K that a lane takes at a time
  static constexpr int LINES = CHUNK / X, PRODUCTS = CHUNK / M::PER_LANE;
  static constexpr int STEPS = D / (M::GROUPS * CHUNK);
  static constexpr int WAVE_TOKENS = PARTITION / WAVES, WAVE_TILES = WAVE_TOKENS / TILE;
  static constexpr int DIM_TILES = D / TILE;
  static constexpr int TILES_EACH = DIM_TILES > WAVES ? DIM_TILES / WAVES : 1;  // dim tiles of one wave
  static constexpr int SHARERS = DIM_TILES > WAVES ? 1 : WAVES / DIM_TILES;     // waves of one dim tile
  static constexpr int SHARE = PARTITION / SHARERS;                             // tokens of one sharer
  static constexpr int VALUE_STEP = M::GROUPS * CHUNK;                          // tokens of one step over values
  // Whether the first values are loaded before scores are complete: with a 16-bit cache, whose lines hold half as many
  // tokens, the registers for it would cost a wave or two a SIMD.
  static constexpr bool EARLY = CACHE != Cache::SAME;
  static constexpr int PADDED = PARTITION + 8;  // a row of weights; 16 bytes more spread the LDS banks
  static_assert(D % (M::GROUPS * CHUNK) == 0, "whole steps");
  static_assert(SHARE % VALUE_STEP == 0, "whole steps");

  // What a lane loads of the values of one step.
  struct Values {
    Line at[TILES_EACH][LINES];
  };

  struct Lds {
    unsigned short weights[MOST_HEADS][PADDED];
    float wave_max[WAVES][MOST_HEADS];
    float wave_sum[WAVES][MOST_HEADS];
    float shared_out[SHARERS > 1 ? SHARERS : 1][MOST_HEADS][SHARERS > 1 ? D : 1];
  };

  static __device__ void run(const Arguments& a, Lds& lds) {
    const Work w = work_of(a);
    if (w.empty) write_zeros<D>(a, w);
    if (w.idle) return;
    const int thread = static_cast<int>(threadIdx.x);
    const int wave = thread / M::WAVE, lane = thread % M::WAVE;
    const int column = lane % 16, part = M::GROUPS == 1 ? 0 : lane / 16;
    const int* table = a.block_table + w.request * a.table_stride;

    float scores[WAVE_TILES][M::RESULTS];
    Values first;
    score_tiles(a, w, table, wave, lane, column, part, scores, first);
    weigh(lds, wave, lane, column, scores);
    __syncthreads();

    float max = NEVER, sum = 0;
#pragma unroll
    for (int i = 0; i < WAVES; ++i) max = larger(max, lds.wave_max[i][column]);
#pragma unroll
    for (int i = 0; i < WAVES; ++i) sum += lds.wave_sum[i][column] * exp2_of(lds.wave_max[i][column] - max);
    rescale(lds, wave, lane, column, scores, max);
    if (a.partitions > 1 && thread < w.group) write_weights(a, w, column, max, sum);
    __syncthreads();  // the weights are whole; wave_max is free
    if (thread < MOST_HEADS) lds.wave_sum[0][thread] = sum;

    sum_values(a, w, table, lds, wave, lane, column, part, first);
  }

  static __device__ int first_tile(int wave) { return SHARERS > 1 ? wave % DIM_TILES : wave * TILES_EACH; }
  static __device__ int first_value(int wave) { return SHARERS > 1 ? wave / DIM_TILES * SHARE : 0; }

  // Load the values of a step from `start` of the partition; zeros beyond the request's end.
  static __device__ Values load_values(const Arguments& a, const Work& w, const int* table, int wave, int column, int part,
                                       int start) {
    Values values{};
#pragma unroll
    for (int tile = 0; tile < TILES_EACH; ++tile)
#pragma unroll
      for (int i = 0; i < LINES; ++i) {
        const int dim = (first_tile(wave) + tile) * TILE + column;
        const int token = w.first + start + part * CHUNK + i * X;
        if (token < w.seq_len)
          values.at[tile][i] = load_line(a.value, value_offset<D, BLOCK, BYTES>(a, w, table, token, dim));
      }
    return values;
  }

  static __device__ void score_tiles(const Arguments& a, const Work& w, const int* table, int wave, int lane, int column,
                                     int part, float (&scores)[WAVE_TILES][M::RESULTS], Values& first) {
    const bool is_head = column < w.group;
    Bits<CHUNK> query[STEPS];
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      const int dim = (step * M::GROUPS + part) * CHUNK;
      const unsigned short* from = a.query + w.row * a.query_stride + (w.kv_head * w.group + (is_head ? column : 0)) * D;
      query[step] = *reinterpret_cast<const Bits<CHUNK>*>(from + dim);
      if (!is_head) query[step] = Bits<CHUNK>{};
    }
    const float factor = score_factor(a);
    const int head = w.kv_head * w.group + (is_head ? column : 0);
#pragma unroll
    for (int tile = 0; tile < WAVE_TILES; ++tile) {
      const int start = w.first + wave * WAVE_TOKENS + tile * TILE;
      const int own = start + column;
      const int token = own < w.seq_len ? own : w.seq_len - 1;  // beyond the end: a row that is masked below
      Line keys[STEPS][LINES];
      const auto load_keys = [&](int step) {
#pragma unroll
        for (int i = 0; i < LINES; ++i) {
          const int dim = (step * M::GROUPS + part) * CHUNK + i * X;
          keys[step][i] = load_line(a.key, key_offset<D, BLOCK, BYTES>(a, w, table, token, dim));
        }
      };
      if constexpr (EARLY) {
        if (start < w.seq_len) {
#pragma unroll
          for (int step = 0; step < STEPS; ++step) load_keys(step);
        }
        // Behind the last loads of keys, as loads return in order.
        if (tile == WAVE_TILES - 1) first = load_values(a, w, table, wave, column, part, first_value(wave));
      }
      Floats<M::RESULTS> sum{};
      if (start < w.seq_len) {
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
          if constexpr (!EARLY) load_keys(step);
          Bits<CHUNK> key;
#pragma unroll
          for (int i = 0; i < LINES; ++i) widen<CACHE, FORMAT>(keys[step][i], key.at + i * X);
#pragma unroll
          for (int i = 0; i < PRODUCTS; ++i)
            sum = multiply_add<M, FORMAT>(slice(key, i), slice(query[step], i), sum);
        }
      }
#pragma unroll
      for (int i = 0; i < M::RESULTS; ++i) {
        const int of = start + M::row(lane, i);
        scores[tile][i] = of < w.seq_len ? score_of(a, sum.at[i], factor, head, of, w.seq_len) : NEVER;
      }
    }
  }

  static __device__ Bits<M::PER_LANE> slice(const Bits<CHUNK>& from, int i) {
    Bits<M::PER_LANE> to;
    __builtin_memcpy(&to, from.at + i * M::PER_LANE, sizeof(to));
    return to;
  }

  // The wave's own maximum and sum of weights for each head.
  static __device__ void weigh(Lds& lds, int wave, int lane, int column, float (&scores)[WAVE_TILES][M::RESULTS]) {
    float max = NEVER, sum = 0;
#pragma unroll
    for (int tile = 0; tile < WAVE_TILES; ++tile)
#pragma unroll
      for (int i = 0; i < M::RESULTS; ++i) max = larger(max, scores[tile][i]);
#pragma unroll
    for (int mask = 16; mask < M::WAVE; mask *= 2) max = larger(max, of_lane_xor(max, mask));
#pragma unroll
    for (int tile = 0; tile < WAVE_TILES; ++tile)
#pragma unroll
      for (int i = 0; i < M::RESULTS; ++i)
        sum += weight_of(scores[tile][i], max);
#pragma unroll
    for (int mask = 16; mask < M::WAVE; mask *= 2) sum += of_lane_xor(sum, mask);
    if (lane < 16) {
      lds.wave_max[wave][column] = max;
      lds.wave_sum[wave][column] = sum;
    }
  }

  static __device__ void rescale(Lds& lds, int wave, int lane, int column, float (&scores)[WAVE_TILES][M::RESULTS],
                                 float max) {
#pragma unroll
    for (int tile = 0; tile < WAVE_TILES; ++tile)
#pragma unroll
      for (int i = 0; i < M::RESULTS; ++i) {
        lds.weights[column][wave * WAVE_TOKENS + tile * TILE + M::row(lane, i)] =
            from_float<FORMAT>(weight_of(scores[tile][i], max));
      }
  }

  static __device__ void sum_values(const Arguments& a, const Work& w, const int* table, Lds& lds, int wave, int lane,
                                    int column, int part, Values values) {
    Floats<M::RESULTS> sums[TILES_EACH] = {};
    const int begin = first_value(wave), end = begin + SHARE < w.count ? begin + SHARE : w.count;
    for (int start = begin; start < end; start += VALUE_STEP) {  // the same for all lanes of the wave
      const int own = start + part * CHUNK;                      // of the partition's tokens
      if (!EARLY || start > begin) values = load_values(a, w, table, wave, column, part, start);
      const Bits<CHUNK> weight = *reinterpret_cast<const Bits<CHUNK>*>(&lds.weights[column][own]);
#pragma unroll
      for (int tile = 0; tile < TILES_EACH; ++tile) {
        Bits<CHUNK> value;
#pragma unroll
        for (int i = 0; i < LINES; ++i) widen<CACHE, FORMAT>(values.at[tile][i], value.at + i * X);
        if (w.first + own + CHUNK > w.seq_len) {  // what the cache holds beyond the end may be NaN
#pragma unroll
          for (int i = 0; i < CHUNK; ++i)
            if (w.first + own + i >= w.seq_len) value.at[i] = 0;
        }
#pragma unroll
        for (int i = 0; i < PRODUCTS; ++i)
          sums[tile] = multiply_add<M, FORMAT>(slice(weight, i), slice(value, i), sums[tile]);
      }
    }
    __syncthreads();  // for wave_sum[0], and before shared_out is read
    const float v_scale = a.v_scale ? *a.v_scale : 1.0f;
    if constexpr (CACHE != Cache::SAME) {
      if (!is_finite(v_scale)) {
        write_scaled_beyond_range<FORMAT, CACHE, D, BLOCK>(a, w, table, lds.wave_sum[0], v_scale);
        return;
      }
    }
    if constexpr (SHARERS == 1) {
#pragma unroll
      for (int tile = 0; tile < TILES_EACH; ++tile)
#pragma unroll
        for (int i = 0; i < M::RESULTS; ++i) {
          const int head = M::row(lane, i);
          if (head < w.group)
            write_result<FORMAT, D>(a, w, head, (first_tile(wave) + tile) * TILE + column, lds.wave_sum[0][head],
                                    sums[tile].at[i] * v_scale);
        }
    } else {
#pragma unroll
      for (int i = 0; i < M::RESULTS; ++i)
        lds.shared_out[wave / DIM_TILES][M::row(lane, i)][first_tile(wave) * TILE + column] = sums[0].at[i];
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < w.group * D; i += THREADS) {
        float sum = 0;
#pragma unroll
        for (int s = 0; s < SHARERS; ++s) sum += lds.shared_out[s][i / D][i % D];
        write_result<FORMAT, D>(a, w, i / D, i % D, lds.wave_sum[0][i / D], sum * v_scale);
      }
    }
  }
};

// --- anywhere ---------------------------------------------------------------------------------------

// The same by ordinary arithmetic. For scores a thread is a token; for the output it is a dim, of a
// share of the partition's tokens. HEADS bounds the query heads that share a KV head.
template <bool FORMAT, Cache CACHE, int D, int BLOCK, int HEADS>
struct PlainDecode {
  static constexpr int X = Stored<CACHE>::X, BYTES = Stored<CACHE>::BYTES;
  static constexpr int SHARERS = THREADS / D, SHARE = PARTITION / SHARERS;
  static_assert(THREADS == PARTITION, "a thread is a token");

  struct Lds {
    float query[HEADS][D];
    float weights[HEADS][PARTITION];
    float reduced[HEADS][THREADS / 32];
    float max[HEADS], sum[HEADS];
    float shared_out[SHARERS][D];
  };

  static __device__ void run(const Arguments& a, Lds& lds) {
    const Work w = work_of(a);
    if (w.empty) write_zeros<D>(a, w);
    if (w.idle) return;
    const int thread = static_cast<int>(threadIdx.x);
    const int* table = a.block_table + w.request * a.table_stride;
    const unsigned short* query = a.query + w.row * a.query_stride + w.kv_head * w.group * D;
    for (int i = thread; i < w.group * D; i += THREADS) lds.query[i / D][i % D] = to_float<FORMAT>(query[i]);
    __syncthreads();

    float scores[HEADS] = {};
    if (thread < w.count) {
      for (int dim = 0; dim < D; dim += X) {
        const Line line = load_line(a.key, key_offset<D, BLOCK, BYTES>(a, w, table, w.first + thread, dim));
#pragma unroll
        for (int i = 0; i < X; ++i) {
          const float key = element<CACHE, FORMAT>(line, i);
#pragma unroll
          for (int head = 0; head < HEADS; ++head)
            if (head < w.group) scores[head] += key * lds.query[head][dim + i];
        }
      }
    }
    const float factor = score_factor(a);
#pragma unroll
    for (int head = 0; head < HEADS; ++head)
      if (head < w.group) {
        const int named = w.kv_head * w.group + head;
        lds.weights[head][thread] =
            thread < w.count ? score_of(a, scores[head], factor, named, w.first + thread, w.seq_len) : NEVER;
      }
    __syncthreads();
    reduce<true>(lds, w.group, thread);
#pragma unroll
    for (int head = 0; head < HEADS; ++head)
      if (head < w.group) {
        lds.weights[head][thread] = weight_of(lds.weights[head][thread], lds.max[head]);
      }
    __syncthreads();
    reduce<false>(lds, w.group, thread);
    if (a.partitions > 1 && thread < w.group) write_weights(a, w, thread, lds.max[thread], lds.sum[thread]);
    sum_values(a, w, table, lds, thread);
  }

  // Each head's maximum, or sum, over the partition.
  template <bool MAX>
  static __device__ void reduce(Lds& lds, int heads, int thread) {
    constexpr int PARTS = THREADS / 32;
    for (int i = thread; i < heads * PARTS; i += THREADS) {
      float all = MAX ? NEVER : 0.0f;
      for (int k = 0; k < 32; ++k) {
        const float one = lds.weights[i / PARTS][i % PARTS * 32 + k];
        all = MAX ? larger(all, one) : all + one;
      }
      lds.reduced[i / PARTS][i % PARTS] = all;
    }
    __syncthreads();
    if (thread < heads) {
      float all = MAX ? NEVER : 0.0f;
      for (int k = 0; k < PARTS; ++k) {
        const float one = lds.reduced[thread][k];
        all = MAX ? larger(all, one) : all + one;
      }
      (MAX ? lds.max : lds.sum)[thread] = all;
    }
    __syncthreads();
  }

  static __device__ void sum_values(const Arguments& a, const Work& w, const int* table, Lds& lds, int thread) {
    const int dim = thread % D, sharer = thread / D;
    const float v_scale = a.v_scale ? *a.v_scale : 1.0f;
    if constexpr (CACHE != Cache::SAME) {
      if (!is_finite(v_scale)) {
        write_scaled_beyond_range<FORMAT, CACHE, D, BLOCK>(a, w, table, lds.sum, v_scale);
        return;
      }
    }
    float sums[HEADS] = {};
    const int end = (sharer + 1) * SHARE < w.count ? (sharer + 1) * SHARE : w.count;
    for (int start = sharer * SHARE; start < end; start += X) {
      const Line line = load_line(a.value, value_offset<D, BLOCK, BYTES>(a, w, table, w.first + start, dim));
#pragma unroll
      for (int i = 0; i < X; ++i) {
        if (start + i >= end) continue;  // what the cache holds beyond the end may be NaN
        const float value = element<CACHE, FORMAT>(line, i);
#pragma unroll
        for (int head = 0; head < HEADS; ++head)
          if (head < w.group) sums[head] += lds.weights[head][start + i] * value;
      }
    }
#pragma unroll
    for (int head = 0; head < HEADS; ++head) {
      if (head >= w.group) break;
      lds.shared_out[sharer][dim] = sums[head];
      __syncthreads();
      if (sharer == 0) {
        float sum = 0;
        for (int s = 0; s < SHARERS; ++s) sum += lds.shared_out[s][dim];
        write_result<FORMAT, D>(a, w, head, dim, lds.sum[head], sum * v_scale);
      }
      __syncthreads();
    }
  }
};

// --- the kernels ------------------------------------------------------------------------------------

template <bool FORMAT, Cache CACHE, int D, int BLOCK>
__global__ __launch_bounds__(THREADS) void decode_by_matrix(Arguments a) {
  if constexpr (Matrix::WAVE != 0) {
    using Kernel = MatrixDecode<Matrix, FORMAT, CACHE, D, BLOCK>;
    ROCM_ATTN_LDS(typename Kernel::Lds, lds);
    Kernel::run(a, lds);
  }
}

template <bool FORMAT, Cache CACHE, int D, int BLOCK, int HEADS>
__global__ __launch_bounds__(THREADS) void decode_plainly(Arguments a) {
  using Kernel = PlainDecode<FORMAT, CACHE, D, BLOCK, HEADS>;
  ROCM_ATTN_LDS(typename Kernel::Lds, lds);
  Kernel::run(a, lds);
}

// Merge the partitions of one query head: a thread is a dim.
template <bool FORMAT, int D>
__global__ __launch_bounds__(D) void combine(Arguments a) {
  const int request = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  const int dim = static_cast<int>(threadIdx.x);
  const int seq_len = a.seq_lens[request];
  int row = request;
  if (a.query_start_loc) {
    row = a.query_start_loc[request];
    if (a.query_start_loc[request + 1] - row != 1) return;
  }
  const int used = (seq_len + PARTITION - 1) / PARTITION;
  const long long place = (static_cast<long long>(request) * a.query_heads + head) * a.partitions;
  float max = NEVER, sum = 0, value = 0;
  for (int i = 0; i < used; ++i) max = larger(max, a.partial_max[place + i]);
  for (int i = 0; i < used; ++i) {
    const float weight = exp2_of(a.partial_max[place + i] - max);
    sum += weight * a.partial_sum[place + i];
    value += weight * a.partial_out[(place + i) * D + dim];
  }
  a.out[row * a.out_stride + head * D + dim] = from_float<FORMAT>(sum == 0 ? 0.0f : value / sum);
}

}  // namespace rocm_attn
