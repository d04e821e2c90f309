// What both kernels share, and what stands for CUDA's words where a C++ compiler reads this (tests do so).
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define DEVICE __device__ __forceinline__
#else
#include <math.h>
#define DEVICE static inline
#define __restrict__
template <class T> static inline T atomicAdd(T* at, T value) {
    T old = *at;
    *at = old + value;
    return old;
}
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
#endif

DEVICE int least(int a, int b) { return a < b ? a : b; }
DEVICE int most(int a, int b) { return a > b ? a : b; }
