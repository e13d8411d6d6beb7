// The names of HIP's half type that vLLM's kernels use, over clang's own _Float16. Triton's wheel, whose
// HIP headers these stand beside, has everything but the small float types.
#pragma once
#include <hip/hip_runtime.h>

using HipHalf2 = _Float16 __attribute__((ext_vector_type(2)));

struct __half_raw {
  union {
    _Float16 data;
    unsigned short x;
  };
};

struct __half2_raw {
  union {
    HipHalf2 data;
    struct {
      __half_raw x, y;
    };
  };
};

struct __half {
  _Float16 data;
  __half() = default;
  __host__ __device__ __half(_Float16 value) : data(value) {}
  __host__ __device__ operator float() const { return static_cast<float>(data); }
};

struct __half2 {
  HipHalf2 data;
  __half2() = default;
  __host__ __device__ __half2(HipHalf2 value) : data(value) {}
};

using half = __half;
using half2 = __half2;

__host__ __device__ inline __half2 operator+(const __half2& a, const __half2& b) { return a.data + b.data; }

__host__ __device__ inline __half2 __float22half2_rn(float2 value) {
  return HipHalf2{static_cast<_Float16>(value.x), static_cast<_Float16>(value.y)};
}
