// What device code needs of HIP's language, for machines that have clang and no ROCm.
// Only names of the language are here; mathematics and everything else of ROCm's headers is not.
#pragma once

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __host__ __attribute__((host))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))

// clang heeds the attribute launch_bounds for CUDA alone. As in HIP, the second bound is in waves per SIMD.
#define HIP_LANGUAGE_WORKGROUP(most) __attribute__((amdgpu_flat_work_group_size(1, most)))
#define HIP_LANGUAGE_WAVES(most, waves) HIP_LANGUAGE_WORKGROUP(most) __attribute__((amdgpu_waves_per_eu(waves)))
#define HIP_LANGUAGE_THIRD(first, second, third, ...) third
#define __launch_bounds__(...) \
  HIP_LANGUAGE_THIRD(__VA_ARGS__, HIP_LANGUAGE_WAVES, HIP_LANGUAGE_WORKGROUP, )(__VA_ARGS__)

#define __syncthreads() \
  (__builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup"), __builtin_amdgcn_s_barrier(), \
   __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup"))

namespace hip_language {
struct ThreadIdx {
  __declspec(property(get = get_x)) unsigned x;
  __declspec(property(get = get_y)) unsigned y;
  __declspec(property(get = get_z)) unsigned z;
  __device__ unsigned get_x() const { return __builtin_amdgcn_workitem_id_x(); }
  __device__ unsigned get_y() const { return __builtin_amdgcn_workitem_id_y(); }
  __device__ unsigned get_z() const { return __builtin_amdgcn_workitem_id_z(); }
};
struct BlockIdx {
  __declspec(property(get = get_x)) unsigned x;
  __declspec(property(get = get_y)) unsigned y;
  __declspec(property(get = get_z)) unsigned z;
  __device__ unsigned get_x() const { return __builtin_amdgcn_workgroup_id_x(); }
  __device__ unsigned get_y() const { return __builtin_amdgcn_workgroup_id_y(); }
  __device__ unsigned get_z() const { return __builtin_amdgcn_workgroup_id_z(); }
};
struct BlockDim {
  __declspec(property(get = get_x)) unsigned x;
  __declspec(property(get = get_y)) unsigned y;
  __declspec(property(get = get_z)) unsigned z;
  __device__ unsigned get_x() const { return __builtin_amdgcn_workgroup_size_x(); }
  __device__ unsigned get_y() const { return __builtin_amdgcn_workgroup_size_y(); }
  __device__ unsigned get_z() const { return __builtin_amdgcn_workgroup_size_z(); }
};
struct GridDim {
  __declspec(property(get = get_x)) unsigned x;
  __declspec(property(get = get_y)) unsigned y;
  __declspec(property(get = get_z)) unsigned z;
  __device__ unsigned get_x() const {
    return __builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x();
  }
  __device__ unsigned get_y() const {
    return __builtin_amdgcn_grid_size_y() / __builtin_amdgcn_workgroup_size_y();
  }
  __device__ unsigned get_z() const {
    return __builtin_amdgcn_grid_size_z() / __builtin_amdgcn_workgroup_size_z();
  }
};
}  // namespace hip_language

extern const __device__ __attribute__((weak)) hip_language::ThreadIdx threadIdx;
extern const __device__ __attribute__((weak)) hip_language::BlockIdx blockIdx;
extern const __device__ __attribute__((weak)) hip_language::BlockDim blockDim;
extern const __device__ __attribute__((weak)) hip_language::GridDim gridDim;
