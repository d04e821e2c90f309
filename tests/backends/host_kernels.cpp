// The kernels compiled for the CPU, as functions by name: what cuLaunchKernel would run. Blocks run one after another,
// the last one first; the threads of a block run to each barrier in turn. With -DRACES, a program for ThreadSanitizer
// that runs the kernel with barriers in real threads, on random data.
#include <pthread.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "frames.cu"

static const unsigned THREADS = MOST;
#ifdef RACES
static pthread_barrier_t together;
#endif

template <class Kernel> static void each_block(const int* grid, Kernel kernel) {
    for (unsigned z = grid[2]; z-- > 0;)
        for (unsigned y = grid[1]; y-- > 0;)
            for (unsigned x = grid[0]; x-- > 0;) kernel(Index{x, y, z});
}

static Index index_of(unsigned thread) { return {thread % ACROSS, thread / ACROSS, 0}; }
static Index whole(const int* grid) { return {(unsigned)grid[0], (unsigned)grid[1], (unsigned)grid[2]}; }

template <class Kernel> static void alone(const int* grid, Kernel kernel) {
    gridDim = whole(grid);
    each_block(grid, [&](Index block) {
        blockIdx = block;
        for (unsigned i = 0; i < THREADS; i++) {
            threadIdx = index_of(i);
            kernel();
        }
    });
}

#ifdef RACES
template <class Kernel> static void in_step(const int* grid, Kernel kernel) {
    gridDim = whole(grid);
    pthread_barrier_init(&together, nullptr, THREADS);
    barrier = [] { pthread_barrier_wait(&together); };
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < THREADS; i++)
        threads.emplace_back([=] {
            threadIdx = index_of(i);
            each_block(grid, [&](Index block) {
                blockIdx = block;
                kernel();
                barrier();  // the next block has its own shared memory
            });
        });
    for (auto& thread : threads) thread.join();
    pthread_barrier_destroy(&together);
}
#else
// Threads are contexts of one OS thread, which is fast: each runs to the next barrier, then the next one does.
static ucontext_t caller, contexts[THREADS];
static char stacks[THREADS][1 << 15];
static unsigned current;
static std::function<void()> running;

template <class Kernel> static void in_step(const int* grid, Kernel kernel) {
    gridDim = whole(grid);
    barrier = [] { swapcontext(&contexts[current], &caller); };
    each_block(grid, [&](Index block) {
        unsigned ended = 0;
        running = [&] {
            kernel();
            ended++;
        };
        blockIdx = block;
        for (unsigned i = 0; i < THREADS; i++) {
            getcontext(&contexts[i]);
            contexts[i].uc_stack.ss_sp = stacks[i];
            contexts[i].uc_stack.ss_size = sizeof stacks[i];
            contexts[i].uc_link = &caller;
            makecontext(&contexts[i], [] { running(); }, 0);
        }
        while (ended < THREADS)
            for (current = 0; current < THREADS; current++) {
                threadIdx = index_of(current);
                swapcontext(&caller, &contexts[current]);
            }
    });
}
#endif

template <class T> static T* at(void** given, int i) { return *(T**)given[i]; }

extern "C" int launch(const char* name, const int* grid, void** given) {
    const Input* input = at<Input>(given, 0);
    const Images& images = *(const Images*)given[1];
    const Tap* taps = at<Tap>(given, 2);
#define RESIZED(TYPE, T)                                                                     \
    if (!strcmp(name, "letterbox_" #TYPE))                                                   \
        alone(grid, [&] { letterbox_##TYPE(input, images, taps, at<T>(given, 3)); });        \
    else if (!strcmp(name, "crop_" #TYPE))                                                   \
        alone(grid, [&] { crop_##TYPE(input, images, taps, at<T>(given, 3)); });             \
    else
    RESIZED(float32, float)
    RESIZED(float16, __half)
    RESIZED(int8, int8_t)
    RESIZED(uint8, uint8_t)
    RESIZED(float16x8, __half)
    RESIZED(int8x4, int8_t)
    RESIZED(int8x32, int8_t)
    if (!strcmp(name, "compact_float32"))
        in_step(grid, [=] {
            compact_float32(at<Outputs>(given, 0), at<Count>(given, 1), at<Record>(given, 2), at<Summary>(given, 3),
                            at<Record>(given, 4), at<float>(given, 5), at<Kept>(given, 6));
        });
    else if (!strcmp(name, "maps_float32"))
        in_step(grid, [=] {
            maps_float32(at<Outputs>(given, 0), at<Count>(given, 1), at<Record>(given, 2), at<Summary>(given, 3),
                         at<Record>(given, 4), at<float>(given, 5), at<Kept>(given, 6));
        });
    else
        return 1;
    return 0;
}

#ifdef RACES
int main() {
    const int candidates = 150, classes = 11, images = 2, capacity = 200;
    std::mt19937 any(0);
    std::uniform_real_distribution<float> unit(0, 1);
    std::vector<float> boxes(images * candidates * 4), scores(images * candidates * classes), thresholds(classes, 0.5f);
    for (float least : {0.9f, 0.99f}) {
        for (float& value : boxes) value = 50 * unit(any);
        for (float& value : scores) value = unit(any) > least ? unit(any) : 0;
        std::vector<Count> counts(images);
        std::vector<Record> records(images * capacity), out(images * capacity);
        std::vector<Summary> summaries(images);
        std::vector<Kept> kept(images);
        std::vector<View> views(images, View{{0, 5}, {0.5f, 0.25f}, {90, 100}});
        Outputs o = {};
        o.levels = 1, o.level[0].candidates = o.candidates = candidates, o.classes = classes;
        o.level[0].boxes = {boxes.data(), 4 * candidates, 4, 1, 0};
        o.level[0].scores = {scores.data(), classes * candidates, classes, 1, 0};
        o.thresholds = thresholds.data(), o.capacity = capacity;
        o.iou = 0.05f, o.max_det = 30, o.nms_limit = MOST, o.views = views.data();
        for (int multi_label = 0; multi_label < 2; multi_label++) {
            o.multi_label = multi_label;
            const int grid[3] = {(candidates + ACROSS - 1) / ACROSS, images, 1};
            in_step(grid, [&] {
                compact_float32(&o, counts.data(), records.data(), summaries.data(), out.data(), nullptr, kept.data());
            });
            for (const Summary& one : summaries)
                if (one.found <= 0 || one.kept <= 0 || one.kept > one.found || counts[0].done) return 1;
        }
    }
    return 0;
}
#endif
