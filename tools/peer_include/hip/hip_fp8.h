// The names of HIP's 8-bit floats that vLLM's kernels use. Where the GPU converts them (gfx942 in the
// fnuz flavour; gfx950, gfx12 in OCP's), by its instruction, as HIP does; else by arithmetic of our own.
#pragma once
#include <hip/hip_fp16.h>

#if defined(__gfx942__)
#define HIP_FP8_TYPE_OCP 0
#define HIP_FP8_TYPE_FNUZ 1
#else
#define HIP_FP8_TYPE_OCP 1
#define HIP_FP8_TYPE_FNUZ 0
#endif
#if defined(__gfx942__) || defined(__gfx950__) || defined(__gfx1200__) || defined(__gfx1201__)
#define HIP_FP8_CVT_FAST_PATH 1
#endif

enum __hip_saturation_t { __HIP_NOSAT = 0, __HIP_SATFINITE = 1 };
enum __hip_fp8_interpretation_t { __HIP_E4M3 = 0, __HIP_E5M2 = 1, __HIP_E4M3_FNUZ = 2, __HIP_E5M2_FNUZ = 3 };
using __hip_fp8_storage_t = unsigned char;
using __hip_fp8x2_storage_t = unsigned short;

__host__ __device__ inline float __hip_e4m3_to_float(__hip_fp8_storage_t byte, __hip_fp8_interpretation_t kind) {
#if defined(HIP_FP8_CVT_FAST_PATH)
  return __builtin_amdgcn_cvt_f32_fp8(byte, 0);
#else
  const unsigned short bits = static_cast<unsigned short>((byte & 0x7fu) << 7 | (byte & 0x80u) << 8);
  const bool nan = kind == __HIP_E4M3 ? (byte & 0x7fu) == 0x7fu : byte == 0x80u;
  const float value = static_cast<float>(__builtin_bit_cast(_Float16, bits)) * (kind == __HIP_E4M3 ? 256.0f : 128.0f);
  return nan ? __builtin_nanf("") : value;
#endif
}

__host__ __device__ inline __hip_fp8_storage_t __hip_cvt_float_to_fp8(float value, __hip_saturation_t,
                                                                      __hip_fp8_interpretation_t kind) {
  const float most = kind == __HIP_E4M3 ? 448.0f : 240.0f;
  const float held = __builtin_fminf(__builtin_fmaxf(value, -most), most);
#if defined(HIP_FP8_CVT_FAST_PATH)
  return static_cast<__hip_fp8_storage_t>(__builtin_amdgcn_cvt_pk_fp8_f32(held, held, 0, false));
#else
  // Of a float16 2**(15 - bias) times smaller, the upper byte, rounded to nearest even.
  const _Float16 small = static_cast<_Float16>(held * (kind == __HIP_E4M3 ? 1 / 256.0f : 1 / 128.0f));
  const unsigned bits = __builtin_bit_cast(unsigned short, small), magnitude = bits & 0x7fffu;
  const unsigned rounded = (magnitude + 63u + ((magnitude >> 7) & 1u)) >> 7;
  return static_cast<__hip_fp8_storage_t>(rounded | (bits >> 8 & 0x80u));
#endif
}

template <__hip_fp8_interpretation_t KIND>
struct HipFp8 {
  static constexpr __hip_saturation_t __default_saturation = __HIP_SATFINITE;
  static constexpr __hip_fp8_interpretation_t __default_interpret = KIND;
  __hip_fp8_storage_t __x;
  __host__ __device__ operator float() const { return __hip_e4m3_to_float(__x, KIND); }
};

template <__hip_fp8_interpretation_t KIND>
struct HipFp8x2 {
  __hip_fp8x2_storage_t __x;
  __host__ __device__ operator float2() const {
    return {__hip_e4m3_to_float(__x & 0xff, KIND), __hip_e4m3_to_float(__x >> 8, KIND)};
  }
};

using __hip_fp8_e4m3 = HipFp8<__HIP_E4M3>;
using __hip_fp8_e5m2 = HipFp8<__HIP_E5M2>;
using __hip_fp8_e4m3_fnuz = HipFp8<__HIP_E4M3_FNUZ>;
using __hip_fp8_e5m2_fnuz = HipFp8<__HIP_E5M2_FNUZ>;
using __hip_fp8x2_e4m3 = HipFp8x2<__HIP_E4M3>;
using __hip_fp8x2_e4m3_fnuz = HipFp8x2<__HIP_E4M3_FNUZ>;

__host__ __device__ inline __half_raw __hip_cvt_fp8_to_halfraw(__hip_fp8_storage_t byte, __hip_fp8_interpretation_t kind) {
  __half_raw raw;
  raw.data = static_cast<_Float16>(__hip_e4m3_to_float(byte, kind));
  return raw;
}

__host__ __device__ inline __half2_raw __hip_cvt_fp8x2_to_halfraw2(__hip_fp8x2_storage_t bytes,
                                                                   __hip_fp8_interpretation_t kind) {
  __half2_raw raw;
  raw.data = HipHalf2{static_cast<_Float16>(__hip_e4m3_to_float(bytes & 0xff, kind)),
                      static_cast<_Float16>(__hip_e4m3_to_float(bytes >> 8, kind))};
  return raw;
}

__host__ __device__ inline __hip_fp8_storage_t __hip_cvt_halfraw_to_fp8(__half_raw value, __hip_saturation_t saturation,
                                                                       __hip_fp8_interpretation_t kind) {
  return __hip_cvt_float_to_fp8(static_cast<float>(value.data), saturation, kind);
}

__host__ __device__ inline __hip_fp8x2_storage_t __hip_cvt_float2_to_fp8x2(float2 value, __hip_saturation_t saturation,
                                                                         __hip_fp8_interpretation_t kind) {
  return static_cast<__hip_fp8x2_storage_t>(__hip_cvt_float_to_fp8(value.x, saturation, kind) |
                                            __hip_cvt_float_to_fp8(value.y, saturation, kind) << 8);
}

__host__ __device__ inline __hip_fp8x2_storage_t __hip_cvt_halfraw2_to_fp8x2(__half2_raw value,
                                                                           __hip_saturation_t saturation,
                                                                           __hip_fp8_interpretation_t kind) {
  return __hip_cvt_float2_to_fp8x2(float2{static_cast<float>(value.data.x), static_cast<float>(value.data.y)},
                                   saturation, kind);
}
