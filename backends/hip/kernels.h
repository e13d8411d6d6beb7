// Which kernels there are: every combination that the gate of ROCM_ATTN lets through.
#pragma once

#include "paged_decode.h"

// EACH(format, cache, head size, block size)
#define ROCM_ATTN_EACH_SHAPE(EACH, FORMAT, CACHE) \
  EACH(FORMAT, CACHE, 64, 16) EACH(FORMAT, CACHE, 64, 32) EACH(FORMAT, CACHE, 128, 16) EACH(FORMAT, CACHE, 128, 32)
#define ROCM_ATTN_EACH_CACHE(EACH, FORMAT)                    \
  ROCM_ATTN_EACH_SHAPE(EACH, FORMAT, ::rocm_attn::Cache::SAME)   \
  ROCM_ATTN_EACH_SHAPE(EACH, FORMAT, ::rocm_attn::Cache::E4M3FN) \
  ROCM_ATTN_EACH_SHAPE(EACH, FORMAT, ::rocm_attn::Cache::E4M3FNUZ)
#if !defined(ROCM_ATTN_EACH)  // a test may want fewer
#define ROCM_ATTN_EACH(EACH) \
  ROCM_ATTN_EACH_CACHE(EACH, ::rocm_attn::F16) ROCM_ATTN_EACH_CACHE(EACH, ::rocm_attn::BF16)
#endif

// The plain kernel is compiled for these bounds on the query heads that share a KV head.
#define ROCM_ATTN_EACH_BOUND(EACH) EACH(1) EACH(4) EACH(8) EACH(16)
