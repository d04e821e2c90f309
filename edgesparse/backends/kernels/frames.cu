// The kernels of the frame path. Compiled for the GPU that is there, at first use: backends/cuda_kernels.py.
#include "compact.cuh"
#include "letterbox.cuh"

#ifndef ROWS
#define ROWS 2
#endif

// Blocks of 32 x 8 threads; the grid covers the input, ROWS rows of pixels a thread, a picture a layer.
#define LETTERBOX(NAME, T)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) NAME(const Input* __restrict__ input,                      \
                                                           const Picture* __restrict__ pictures,                \
                                                           const Tap* __restrict__ taps, T* __restrict__ out) { \
        const int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 8 * ROWS + threadIdx.y;                   \
        _Pragma("unroll") for (int row = 0; row < ROWS; row++)                                                  \
            letterbox(*input, pictures[blockIdx.z], taps, out, x, y + 8 * row, blockIdx.z);                     \
    }

LETTERBOX(letterbox_float32, float)
LETTERBOX(letterbox_float16, __half)
LETTERBOX(letterbox_int8, int8_t)
LETTERBOX(letterbox_uint8, uint8_t)

template <class T>
__device__ __forceinline__ void compact(const Outputs& o, Count* count, Record* records, int32_t* found) {
    __shared__ Best best[GROUPS][ACROSS];
    const int lane = threadIdx.x, group = threadIdx.y, picture = blockIdx.y;
    const int candidate = blockIdx.x * ACROSS + lane;
    best[group][lane] = best_of_group<T>(o, count, records, picture, candidate, group);
    __syncthreads();
    if (group == 0) best_of_all<T>(o, count, records, picture, candidate, best, lane);
    __syncthreads();
    if (lane == 0 && group == 0) {
        __threadfence();
        tell(count, found, picture, gridDim.x);
    }
}

// Blocks of ACROSS x GROUPS threads; the grid covers the candidates, a picture a row.
#define COMPACT(NAME, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) NAME(const Outputs* __restrict__ outputs, Count* count,       \
                                                           Record* records, int32_t* found) {                      \
        compact<T>(*outputs, count, records, found);                                                                \
    }

COMPACT(compact_float32, float)
COMPACT(compact_float16, __half)
