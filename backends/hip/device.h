// The few primitives that the kernels are written in, for each compiler that builds them: clang for
// AMD GPUs, nvcc, and g++ with tests/backends/hip/emulator.h, which runs a workgroup on the CPU.
//
// A 16-bit number travels as its bits (unsigned short), so that no compiler's half type is needed.
#pragma once

#if !defined(ROCM_ATTN_EMULATE)
#if defined(__HIP__)
#include <hip/hip_runtime.h>
#elif defined(__CUDACC__)
#include <cuda_runtime.h>
#endif
#define ROCM_ATTN_LDS(Type, name) __shared__ Type name
#endif

namespace rocm_attn {

constexpr int THREADS = 256;  // of every workgroup
constexpr int TILE = 16;      // rows, and columns, of a matrix instruction's result

template <int N>
struct alignas(N * 2 < 16 ? N * 2 : 16) Bits {
  unsigned short at[N];
};

template <int N>
struct alignas(N * 4 < 16 ? N * 4 : 16) Floats {
  float at[N];
};

// --- which matrix instruction -----------------------------------------------------------------------
//
// Each shape multiplies A [16, K] by B [K, 16] and adds to D [16, 16]. Lane l gives row l % 16 of A
// and column l % 16 of B, PER_LANE elements of K each, and gets column l % 16 of D. GROUPS groups of
// 16 lanes share K; which elements of K a group holds is the same for A and B, so that any assignment
// of them gives the same product. backends/hip/matrix_layout.py has the documented layouts; the
// emulator multiplies by them, and the tests compare both.

struct Mfma16 {  // v_mfma_f32_16x16x16_{f16,bf16_1k}: gfx90a, gfx942
  static constexpr int WAVE = 64, GROUPS = 4, PER_LANE = 4, RESULTS = 4;
  static __device__ int row(int lane, int i) { return 4 * (lane / 16) + i; }
};
struct Mfma32 {  // v_mfma_f32_16x16x32_{f16,bf16}: gfx950
  static constexpr int WAVE = 64, GROUPS = 4, PER_LANE = 8, RESULTS = 4;
  static __device__ int row(int lane, int i) { return 4 * (lane / 16) + i; }
};
struct Wmma11 {  // v_wmma_f32_16x16x16_{f16,bf16}: RDNA3; both halves of a wave hold all of K
  static constexpr int WAVE = 32, GROUPS = 1, PER_LANE = 16, RESULTS = 8;
  static __device__ int row(int lane, int i) { return 2 * i + lane / 16; }
};
struct Wmma12 {  // the same name on RDNA4, where each half holds half of K
  static constexpr int WAVE = 32, GROUPS = 2, PER_LANE = 8, RESULTS = 8;
  static __device__ int row(int lane, int i) { return 8 * (lane / 16) + i; }
};
struct NoMatrix {  // any other GPU: the plain kernel
  static constexpr int WAVE = 0;
};

#if defined(ROCM_ATTN_EMULATE)
using Matrix = ROCM_ATTN_EMULATE;
#elif defined(__gfx950__)
using Matrix = Mfma32;
#elif defined(__gfx90a__) || defined(__gfx942__)
using Matrix = Mfma16;
#elif defined(__gfx1100__) || defined(__gfx1101__) || defined(__gfx1102__) || defined(__gfx1103__) || \
    defined(__gfx1150__) || defined(__gfx1151__) || defined(__gfx1152__) || defined(__gfx1153__)
using Matrix = Wmma11;
#elif defined(__gfx1200__) || defined(__gfx1201__)
using Matrix = Wmma12;
#else
using Matrix = NoMatrix;
#endif

// --- numbers ----------------------------------------------------------------------------------------

constexpr bool F16 = false, BF16 = true;  // the two 16-bit formats, as template arguments

__device__ inline unsigned bits_of(float value) {
  unsigned bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}
__device__ inline float float_of(unsigned bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

// float16 of finite magnitude below 2**-14 is subnormal: its mantissa counts units of 2**-24.
__device__ inline float from_f16(unsigned short bits) {
#if defined(__AMDGCN__)
  _Float16 half;
  __builtin_memcpy(&half, &bits, 2);
  return static_cast<float>(half);
#else
  const unsigned sign = (bits & 0x8000u) << 16, exponent = (bits >> 10) & 31u, mantissa = bits & 1023u;
  if (exponent == 31) return float_of(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2**-24
    return sign ? -magnitude : magnitude;
  }
  return float_of(sign | ((exponent + 112u) << 23) | (mantissa << 13));
#endif
}

// Rounds to nearest, ties to even.
__device__ inline unsigned short to_f16(float value) {
#if defined(__AMDGCN__)
  const _Float16 half = static_cast<_Float16>(value);
  unsigned short bits;
  __builtin_memcpy(&bits, &half, 2);
  return bits;
#else
  const unsigned all = bits_of(value), sign = (all >> 16) & 0x8000u, magnitude = all & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<unsigned short>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<unsigned short>(sign | 0x7c00u);  // 65520 and up
  if (magnitude < 0x38800000u) {  // below 2**-14; the sum's last mantissa bit counts 2**-24
    const unsigned sum = bits_of(float_of(magnitude) + 0.5f);
    return static_cast<unsigned short>(sign | (sum - 0x3f000000u));
  }
  const unsigned odd = (magnitude >> 13) & 1u;
  return static_cast<unsigned short>(sign | ((magnitude + 0xfffu + odd - 0x38000000u) >> 13));
#endif
}

__device__ inline float from_bf16(unsigned short bits) {
  return float_of(static_cast<unsigned>(bits) << 16);
}
__device__ inline unsigned short to_bf16(float value) {
  const unsigned all = bits_of(value);
  if ((all & 0x7fffffffu) > 0x7f800000u) return static_cast<unsigned short>((all >> 16) | 64u);
  return static_cast<unsigned short>((all + 0x7fffu + ((all >> 16) & 1u)) >> 16);
}

template <bool FORMAT>
__device__ inline float to_float(unsigned short bits) {
  return FORMAT == BF16 ? from_bf16(bits) : from_f16(bits);
}
template <bool FORMAT>
__device__ inline unsigned short from_float(float value) {
  return FORMAT == BF16 ? to_bf16(value) : to_f16(value);
}

// The same for values that the format holds exactly: nothing to round.
template <bool FORMAT>
__device__ inline unsigned short from_exact(float value) {
  return FORMAT == BF16 ? static_cast<unsigned short>(bits_of(value) >> 16) : to_f16(value);
}

// e4m3 in its two flavours: OCP "fn" has bias 7 and its NaN at 0x7f and 0xff; "fnuz" has bias 8 and its
// NaN at 0x80. Neither has infinities. Exponent and mantissa are put in their places of a float16, bias
// 15, which makes the value 2**(15 - BIAS) times too small; subnormals come out right by themselves.
// Every value is exact in both 16-bit formats. NaN is made by arithmetic on the float16's exponent: a
// comparison would take a scalar register for each of the 16 bytes that a lane widens at once.
template <int BIAS>
__device__ inline float from_e4m3(unsigned byte) {
  const unsigned magnitude = byte & 0x7fu, sign = byte & 0x80u;
  const unsigned nan = BIAS == 8 ? ((byte ^ 0x80u) - 1u) >> 31 : (magnitude + 1u) >> 7;  // 1 or 0
  const auto half = static_cast<unsigned short>(magnitude << 7 | sign << 8 | nan * 0x7e00u);
  return from_f16(half) * (BIAS == 8 ? 128.0f : 256.0f);
}

// Whether the GPU has an instruction that decodes e4m3 of that bias.
#if defined(__gfx942__)
constexpr int DECODED_BIAS = 8;
#elif defined(__gfx950__) || defined(__gfx1200__) || defined(__gfx1201__)
constexpr int DECODED_BIAS = 7;
#else
constexpr int DECODED_BIAS = 0;
#endif

// Four bytes of e4m3, exact.
template <int BIAS>
__device__ inline Floats<4> four_from_e4m3(unsigned word) {
  Floats<4> four;
  if constexpr (BIAS == DECODED_BIAS) {
#if defined(__gfx942__) || defined(__gfx950__) || defined(__gfx1200__) || defined(__gfx1201__)
    const auto low = __builtin_amdgcn_cvt_pk_f32_fp8(static_cast<int>(word), false);
    const auto high = __builtin_amdgcn_cvt_pk_f32_fp8(static_cast<int>(word), true);
    four = {low[0], low[1], high[0], high[1]};
#endif
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) four.at[i] = from_e4m3<BIAS>(word >> 8 * i & 0xffu);
  }
  return four;
}

__device__ inline float exp2_of(float value) {
#if defined(__AMDGCN__)
  return __builtin_amdgcn_exp2f(value);
#else
  return exp2f(value);
#endif
}

// The larger of a, which is a number, and b; a if b is NaN. (A NaN is not lost: its weight is NaN.)
__device__ inline float larger(float a, float b) { return b > a ? b : a; }
// False for NaN and infinities.
__device__ inline bool is_finite(float value) { return value - value == 0.0f; }

// --- lanes ------------------------------------------------------------------------------------------

#if !defined(ROCM_ATTN_EMULATE)
// The value of lane (own lane ^ mask).
__device__ inline float of_lane_xor(float value, int mask) {
#if defined(__AMDGCN__)
  const int lane = __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0u));
  return float_of(__builtin_amdgcn_ds_bpermute((lane ^ mask) * 4, bits_of(value)));
#else
  (void)mask;
  return value;  // only the matrix kernels ask, and they are AMD's
#endif
}
#endif

// --- the product ------------------------------------------------------------------------------------

#if defined(__AMDGCN__) && !defined(ROCM_ATTN_EMULATE)
template <class To, class From>
__device__ inline To recast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "same bits");
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

template <class T, int N>
using Vector = T __attribute__((ext_vector_type(N)));

template <class M, bool FORMAT>
__device__ inline Floats<M::RESULTS> multiply_add(const Bits<M::PER_LANE>& a, const Bits<M::PER_LANE>& b,
                                                  const Floats<M::RESULTS>& c) {
  constexpr int N = M::PER_LANE;
  const auto sum = recast<Vector<float, M::RESULTS>>(c);
#if defined(__gfx950__)
  using Half = Vector<_Float16, N>;
  using Brain = Vector<__bf16, N>;
  if constexpr (FORMAT == F16)
    return recast<Floats<4>>(
        __builtin_amdgcn_mfma_f32_16x16x32_f16(recast<Half>(a), recast<Half>(b), sum, 0, 0, 0));
  else
    return recast<Floats<4>>(
        __builtin_amdgcn_mfma_f32_16x16x32_bf16(recast<Brain>(a), recast<Brain>(b), sum, 0, 0, 0));
#elif defined(__gfx90a__) || defined(__gfx942__)
  using Half = Vector<_Float16, N>;
  using Brain = Vector<short, N>;
  if constexpr (FORMAT == F16)
    return recast<Floats<4>>(
        __builtin_amdgcn_mfma_f32_16x16x16f16(recast<Half>(a), recast<Half>(b), sum, 0, 0, 0));
  else
    return recast<Floats<4>>(
        __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(recast<Brain>(a), recast<Brain>(b), sum, 0, 0, 0));
#elif defined(__gfx1200__) || defined(__gfx1201__)
  using Half = Vector<_Float16, N>;
  using Brain = Vector<__bf16, N>;
  if constexpr (FORMAT == F16)
    return recast<Floats<8>>(
        __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(recast<Half>(a), recast<Half>(b), sum));
  else
    return recast<Floats<8>>(
        __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12(recast<Brain>(a), recast<Brain>(b), sum));
#else
  using Half = Vector<_Float16, N>;
  using Brain = Vector<short, N>;
  if constexpr (FORMAT == F16)
    return recast<Floats<8>>(
        __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(recast<Half>(a), recast<Half>(b), sum));
  else
    return recast<Floats<8>>(
        __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(recast<Brain>(a), recast<Brain>(b), sum));
#endif
}
#elif !defined(ROCM_ATTN_EMULATE)
template <class M, bool FORMAT>
__device__ inline Floats<M::RESULTS> multiply_add(const Bits<M::PER_LANE>&, const Bits<M::PER_LANE>&,
                                                  const Floats<M::RESULTS>& c) {
  return c;  // never compiled into a kernel: this target has no matrix kernel
}
#endif

}  // namespace rocm_attn
