// All kernels and no host code, to be compiled for a GPU that is not there (docs/hip-decode.md).
#include "kernels.h"

namespace rocm_attn {
#define MATRIX(FORMAT, CACHE, D, BLOCK) template __global__ void decode_by_matrix<FORMAT, CACHE, D, BLOCK>(Arguments);
#define PLAIN(FORMAT, CACHE, D, BLOCK)                                             \
  template __global__ void decode_plainly<FORMAT, CACHE, D, BLOCK, 1>(Arguments);  \
  template __global__ void decode_plainly<FORMAT, CACHE, D, BLOCK, 4>(Arguments);  \
  template __global__ void decode_plainly<FORMAT, CACHE, D, BLOCK, 8>(Arguments);  \
  template __global__ void decode_plainly<FORMAT, CACHE, D, BLOCK, 16>(Arguments);
#if !defined(ROCM_ATTN_ONLY_PLAIN)
ROCM_ATTN_EACH(MATRIX)
#endif
#if !defined(ROCM_ATTN_ONLY_MATRIX)
ROCM_ATTN_EACH(PLAIN)
#endif
template __global__ void combine<F16, 64>(Arguments);
template __global__ void combine<F16, 128>(Arguments);
template __global__ void combine<BF16, 64>(Arguments);
template __global__ void combine<BF16, 128>(Arguments);
}  // namespace rocm_attn
