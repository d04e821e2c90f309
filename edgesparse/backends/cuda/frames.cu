// The kernels of the frame path, compiled for the present GPU at first use (kernels.py).
#include "compact.cuh"
#include "letterbox.cuh"
#include "suppress.cuh"

#ifndef ROWS
#define ROWS 2
#endif

// Blocks of 32 x 8 threads; the grid covers the input with ROWS rows of pixels per thread and one layer per image.
// Images are passed by value, which a graph's node can update. Reading them from host memory would stall every block.
#define LETTERBOX(NAME, ANTIALIAS, T, CHANNELS)                                                               \
    extern "C" __global__ void __launch_bounds__(256) NAME(const Input* __restrict__ input,                      \
                                                           const Images images,                              \
                                                           const Tap* __restrict__ taps, T* __restrict__ out) { \
        const int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 8 * ROWS + threadIdx.y;                   \
        _Pragma("unroll") for (int row = 0; row < ROWS; row++)                                                  \
            letterbox<ANTIALIAS, CHANNELS>(*input, images.of[blockIdx.z], taps, out, x, y + 8 * row, blockIdx.z); \
    }
#define RESIZE(TYPE, T, CHANNELS)                    \
    LETTERBOX(letterbox_##TYPE, false, T, CHANNELS) \
    LETTERBOX(crop_##TYPE, true, T, CHANNELS)

RESIZE(float32, float, 0)
RESIZE(float16, __half, 0)
RESIZE(int8, int8_t, 0)
RESIZE(uint8, uint8_t, 0)
// Channels of a pixel together, as TensorRT's HWC8, CHW4 and CHW32 have them (image_format.py).
RESIZE(float16x8, __half, 8)
RESIZE(int8x4, int8_t, 4)
RESIZE(int8x32, int8_t, 32)

template <class T, bool MAPS>
DEVICE void compact(const Outputs& o, Count* counts, Record* records, Summary* summaries, Record* out, float* details,
                    Kept* kept) {
    __shared__ Best best[GROUPS][ACROSS];
    __shared__ Suppression s;
    __shared__ int found;
    const int lane = threadIdx.x, group = threadIdx.y, thread = group * ACROSS + lane, image = blockIdx.y;
    const int candidate = blockIdx.x * ACROSS + lane;
    best[group][lane] = best_of_group<T, MAPS>(o, counts, records, image, candidate, group);
    __syncthreads();
    if (group == 0) best_of_all<T, MAPS>(o, counts, records, image, candidate, best, lane);
    __threadfence();
    __syncthreads();
    if (thread == 0) {
        found = least(found_by_last(counts, summaries, image, gridDim.x), o.capacity);
        __threadfence();
    }
    __syncthreads();
    if (found <= 0) return;
    const Record* mine = records + (size_t)image * o.capacity;
    float* beside = details + (size_t)image * o.capacity * o.details;
    if (found > o.nms_limit) {
        return_all<T>(o, mine, image, out + (size_t)image * o.capacity, beside, found, thread);
        return;
    }
    read_boxes(s, mine, found, thread);
    __syncthreads();
    sort_boxes(s, o, mine, found, thread);
    __syncthreads();
    find_covered(s, o, found, thread);
    __syncthreads();
    for (int word = 0; 32 * word < found; word++) {
        select_kept(s, found, word, thread);
        __syncthreads();
    }
    select_seen(s, o, image, thread);
    __syncthreads();
    return_kept<T>(s, o, image, summaries + image, kept + image, beside, thread);
}

// Blocks of ACROSS x GROUPS threads; the grid covers the candidates with one row per image. `summaries`, `out`,
// `details` and `kept` are in host memory. The second bound is what a multiprocessor must hold at least: with no bound
// the compiler spills registers of MAPS to fit one block more.
#define COMPACT(NAME, T, MAPS)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256, MAPS ? 4 : 6)                                                \
        NAME(const Outputs* __restrict__ outputs, Count* counts, Record* records, Summary* summaries, Record* out, \
             float* details, Kept* kept) {                                                                         \
        compact<T, MAPS>(*outputs, counts, records, summaries, out, details, kept);                                \
    }

COMPACT(compact_float32, float, false)
COMPACT(maps_float32, float, true)

#ifdef __CUDACC__
COMPACT(compact_float16, __half, false)
COMPACT(maps_float16, __half, true)
#endif
