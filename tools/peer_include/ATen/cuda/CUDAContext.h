// What vLLM's cuda_compat.h names of the runtime in host code, by HIP's names, as hipify would.
#pragma once
#include <hip/hip_runtime.h>
#define cudaDeviceProp hipDeviceProp_t
#define cudaGetDevice hipGetDevice
#define cudaGetDeviceProperties hipGetDeviceProperties
