// Shared by both kernels, with replacements for CUDA's keywords where a C++ compiler builds this, as tests do.
#pragma once
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define DEVICE __device__ __forceinline__
#else
#define DEVICE static inline
#define __global__
#define __shared__ static  // one block runs at a time
#define __restrict__
#define __launch_bounds__(...)
struct Index {
    unsigned x, y, z;
};
inline thread_local Index threadIdx, blockIdx;
inline Index gridDim;
inline void (*barrier)();
static inline void __syncthreads() { barrier(); }
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
template <class T> static inline T atomicAdd(T* at, T value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
template <class T> static inline T atomicOr(T* at, T value) { return __atomic_fetch_or(at, value, __ATOMIC_RELAXED); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
struct __half {
    uint16_t bits;
};
static inline __half __float2half_rn(float value) {  // finite values below 65520
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits < 0x38800000) return {(uint16_t)(sign | (uint32_t)rintf(fabsf(value) * 16777216.0f))};  // subnormal
    return {(uint16_t)(sign | ((bits + 0xfff + (bits >> 13 & 1) - 0x38000000) >> 13))};
}
#endif

DEVICE int least(int a, int b) { return a < b ? a : b; }
DEVICE int most(int a, int b) { return a > b ? a : b; }
