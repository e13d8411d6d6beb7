// The host side: picks the kernel and launches it. Compiled by hipcc, or by nvcc for the plain kernel.
#pragma once

#include "kernels.h"

#if defined(__HIP__) || defined(__HIPCC__)
#define ROCM_ATTN_RUNTIME(name) hip##name
#else
#define ROCM_ATTN_RUNTIME(name) cuda##name
#endif

namespace rocm_attn {

using Stream = ROCM_ATTN_RUNTIME(Stream_t);

template <bool FORMAT, Cache CACHE, int D, int BLOCK>
void decode(const Arguments& a, bool plain, Stream stream) {
  const dim3 grid(a.requests, a.partitions, a.kv_heads);
  const int heads = a.query_heads / a.kv_heads;
  if (!plain) {
    decode_by_matrix<FORMAT, CACHE, D, BLOCK><<<grid, THREADS, 0, stream>>>(a);
  } else {
#define ROCM_ATTN_BOUND(HEADS)                                                             \
  if (heads <= HEADS) {                                                                    \
    decode_plainly<FORMAT, CACHE, D, BLOCK, HEADS><<<grid, THREADS, 0, stream>>>(a);       \
  } else
    ROCM_ATTN_EACH_BOUND(ROCM_ATTN_BOUND) return;
#undef ROCM_ATTN_BOUND
  }
  if (a.partitions > 1) combine<FORMAT, D><<<dim3(a.requests, a.query_heads), D, 0, stream>>>(a);
}

}  // namespace rocm_attn

// Return null, or what is wrong. cache: 0 as the query, 7 e4m3fn, 8 e4m3fnuz.
extern "C" const char* rocm_attn_decode(const rocm_attn::Arguments* a, int brain, int cache, int head_size,
                                        int block_size, int plain, void* stream) {
  using namespace rocm_attn;
  constexpr int CODES[] = {0, 7, 8};
#define ROCM_ATTN_SHAPE(FORMAT, CACHE, D, BLOCK)                                                              \
  if (brain == FORMAT && cache == CODES[static_cast<int>(CACHE)] && head_size == D && block_size == BLOCK) {  \
    decode<FORMAT, CACHE, D, BLOCK>(*a, plain, static_cast<Stream>(stream));                                  \
    const auto status = ROCM_ATTN_RUNTIME(GetLastError)();                                                    \
    return status == ROCM_ATTN_RUNTIME(Success) ? nullptr : ROCM_ATTN_RUNTIME(GetErrorString)(status);        \
  }
  ROCM_ATTN_EACH(ROCM_ATTN_SHAPE)
#undef ROCM_ATTN_SHAPE
  return "no kernel for this dtype, cache, head size and block size";
}

extern "C" int rocm_attn_arguments_size() { return sizeof(rocm_attn::Arguments); }
