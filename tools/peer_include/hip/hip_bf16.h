// The names of HIP's bfloat16 that vLLM's kernels use, over clang's own __bf16, whose conversion from
// float rounds to nearest even.
#pragma once
#include <hip/hip_fp16.h>

struct __hip_bfloat16 {
  __bf16 data;
  __hip_bfloat16() = default;
  __host__ __device__ __hip_bfloat16(float value) : data(static_cast<__bf16>(value)) {}
  __host__ __device__ operator float() const { return static_cast<float>(data); }
};

struct __hip_bfloat162 {
  __hip_bfloat16 x, y;
};

__host__ __device__ inline float __bfloat162float(__hip_bfloat16 value) { return value; }
__host__ __device__ inline __hip_bfloat16 __float2bfloat16(float value) { return {value}; }
__host__ __device__ inline __hip_bfloat162 __float22bfloat162_rn(float2 value) { return {{value.x}, {value.y}}; }
__host__ __device__ inline float2 __bfloat1622float2(__hip_bfloat162 value) { return {value.x, value.y}; }
__host__ __device__ inline __hip_bfloat162 __bfloat162bfloat162(__hip_bfloat16 value) { return {value, value}; }

__host__ __device__ inline __hip_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  return __builtin_bit_cast(__hip_bfloat16, bits);
}

__host__ __device__ inline __hip_bfloat16 __hadd(__hip_bfloat16 a, __hip_bfloat16 b) {
  return {static_cast<float>(a) + static_cast<float>(b)};
}
__host__ __device__ inline __hip_bfloat16 __hmul(__hip_bfloat16 a, __hip_bfloat16 b) {
  return {static_cast<float>(a) * static_cast<float>(b)};
}
__host__ __device__ inline __hip_bfloat162 __hadd2(__hip_bfloat162 a, __hip_bfloat162 b) {
  return {__hadd(a.x, b.x), __hadd(a.y, b.y)};
}
__host__ __device__ inline __hip_bfloat162 __hmul2(__hip_bfloat162 a, __hip_bfloat162 b) {
  return {__hmul(a.x, b.x), __hmul(a.y, b.y)};
}
__host__ __device__ inline __hip_bfloat162 __hfma2(__hip_bfloat162 a, __hip_bfloat162 b, __hip_bfloat162 c) {
  return __hadd2(__hmul2(a, b), c);
}
