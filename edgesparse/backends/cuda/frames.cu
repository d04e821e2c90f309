// The kernels of the frame path. Compiled for the GPU that is there, at first use: backends/cuda_kernels.py.
#include "compact.cuh"
#include "letterbox.cuh"
#include "suppress.cuh"

#ifndef ROWS
#define ROWS 2
#endif

// Blocks of 32 x 8 threads; the grid covers the input, ROWS rows of pixels a thread, an image a layer. Images come as
// an argument, which a graph's node takes anew, and not from memory: theirs is the host's, and each block would wait.
#define LETTERBOX(NAME, T)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) NAME(const Input* __restrict__ input,                      \
                                                           const Images images,                              \
                                                           const Tap* __restrict__ taps, T* __restrict__ out) { \
        const int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 8 * ROWS + threadIdx.y;                   \
        _Pragma("unroll") for (int row = 0; row < ROWS; row++)                                                  \
            letterbox(*input, images.of[blockIdx.z], taps, out, x, y + 8 * row, blockIdx.z);                     \
    }

LETTERBOX(letterbox_float32, float)
LETTERBOX(letterbox_int8, int8_t)
LETTERBOX(letterbox_uint8, uint8_t)

template <class T>
DEVICE void compact(const Outputs& o, Count* counts, Record* records, Told* told, Record* out) {
    __shared__ Best best[GROUPS][ACROSS];
    __shared__ Suppression s;
    __shared__ int found;
    const int lane = threadIdx.x, group = threadIdx.y, thread = group * ACROSS + lane, image = blockIdx.y;
    const int candidate = blockIdx.x * ACROSS + lane;
    best[group][lane] = best_of_group<T>(o, counts, records, image, candidate, group);
    __syncthreads();
    if (group == 0) best_of_all<T>(o, counts, records, image, candidate, best, lane);
    __threadfence();
    __syncthreads();
    if (thread == 0) {
        found = least(found_by_last(counts, told, image, gridDim.x), o.capacity);
        __threadfence();
    }
    __syncthreads();
    if (found <= 0) return;
    const Record* own = records + (size_t)image * o.capacity;
    Record* to = out + (size_t)image * o.capacity;
    if (found > o.most) {
        hand_over_all(own, to, found, thread);
        return;
    }
    read_own(s, own, found, thread);
    __syncthreads();
    sort_own(s, own, found, thread);
    __syncthreads();
    cover_own(s, o, found, thread);
    __syncthreads();
    if (thread == 0) choose(s, o, found);
    __syncthreads();
    hand_over_own(s, told + image, to, thread);
}

// Blocks of ACROSS x GROUPS threads; the grid covers the candidates, an image a row. `told` and `out` are the host's.
#define COMPACT(NAME, T)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
        NAME(const Outputs* __restrict__ outputs, Count* counts, Record* records, Told* told, Record* out) {       \
        compact<T>(*outputs, counts, records, told, out);                                                          \
    }

COMPACT(compact_float32, float)

#ifdef __CUDACC__
LETTERBOX(letterbox_float16, __half)
COMPACT(compact_float16, __half)
#endif
