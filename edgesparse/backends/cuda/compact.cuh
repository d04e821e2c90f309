// After the engine: the candidates that reach the least score, as boxes in the input's pixels, and how many they are.
// Where they are few the block that is through last suppresses those that others cover (suppress.cuh); only what is
// left leaves the GPU. Which layouts there are, and what their numbers mean: edgesparse/runtime/heads/families.py.
#pragma once
#include "shared.cuh"

enum Kind { CENTRE_SIZE = 0, CORNERS = 1, ON_GRID = 2 };
enum { ACROSS = 32, GROUPS = 8 };  // candidates of a block; groups of threads that share the classes of each

struct Outputs {  // where candidate r of image p has its box (value k) and its score for class c, counted in values:
    const void *boxes, *scores;  // boxes[p * box_image + r * box_row + k * box_step], scores likewise with c
    int32_t candidates, classes;
    int32_t box_image, box_row, box_step, score_image, score_row, score_step;
    int32_t objectness;  // its k among the box's values; -1: there is none
    int32_t kind, every, capacity;  // every: a box counts once for each class that reaches its score
    float least;  // of `enough`, the score that each class must reach
    const float* enough;
    float iou;
    int32_t max_det, agnostic, most;  // most: candidates up to which they are suppressed here
    int32_t levels, columns[4], rows[4], stride[4];  // ON_GRID: the grids, one after the other
};

struct Record {
    float box[4], score;
    int32_t key;  // candidate * classes + class: what orders them, as their order of arrival is any
};

struct Count {
    uint32_t found, done;  // candidates of an image; blocks that are through with it
};

struct Told {
    int32_t found, kept;  // kept: how many are left; -1: nothing was suppressed, all of them come
};

struct Best {
    float score;
    int32_t label;
};

DEVICE float value(const float* at, int index) { return at[index]; }
#ifdef __CUDACC__
DEVICE float value(const __half* at, int index) { return __half2float(at[index]); }
#endif

DEVICE bool better(Best a, Best b) { return a.score > b.score || (a.score == b.score && a.label < b.label); }

template <class T> DEVICE void box_of(const Outputs& o, const T* at, int candidate, float* box) {
    float a = value(at, 0), b = value(at, o.box_step), c = value(at, 2 * o.box_step), d = value(at, 3 * o.box_step);
    if (o.kind == ON_GRID) {
        int level = 0, cell = candidate;
        while (level + 1 < o.levels && cell >= o.columns[level] * o.rows[level]) {
            cell -= o.columns[level] * o.rows[level];
            level++;
        }
        const float stride = (float)o.stride[level];
        a = a * stride + (float)(cell % o.columns[level]) * stride;
        b = b * stride + (float)(cell / o.columns[level]) * stride;
        c = expf(c) * stride;
        d = expf(d) * stride;
    }
    const float half_width = 0.5f * c, half_height = 0.5f * d;
    box[0] = o.kind == CORNERS ? a : a - half_width;
    box[1] = o.kind == CORNERS ? b : b - half_height;
    box[2] = o.kind == CORNERS ? c : a + half_width;
    box[3] = o.kind == CORNERS ? d : b + half_height;
}

template <class T>
DEVICE void emit(const Outputs& o, Count* count, Record* records, int image, int candidate, Best best) {
    const uint32_t place = atomicAdd(&count[image].found, 1u);
    if (place >= (uint32_t)o.capacity) return;
    Record& record = records[(size_t)image * o.capacity + place];
    const T* at = (const T*)o.boxes + (size_t)image * o.box_image + (size_t)candidate * o.box_row;
    float box[4];
    box_of(o, at, candidate, box);
    for (int k = 0; k < 4; k++) record.box[k] = box[k];
    record.score = best.score;
    record.key = candidate * o.classes + best.label;
}

// The best of the classes group, group + GROUPS, ...; with `every`, each that is enough is handed over at once.
template <class T>
DEVICE Best best_of_group(const Outputs& o, Count* count, Record* records, int image, int candidate, int group) {
    Best best = {-1.0f, 0};
    if (candidate >= o.candidates) return best;
    float sure = 1.0f;
    if (o.objectness >= 0) {
        const T* box = (const T*)o.boxes + (size_t)image * o.box_image + (size_t)candidate * o.box_row;
        sure = value(box, o.objectness * o.box_step);
        if (!(sure >= o.least)) return best;  // a score is objectness times class, never more
    }
    const T* scores = (const T*)o.scores + (size_t)image * o.score_image + (size_t)candidate * o.score_row;
#pragma unroll 4
    for (int label = group; label < o.classes; label += GROUPS) {
        const Best found = {sure * value(scores, label * o.score_step), label};
        if (o.every) {
            if (found.score >= o.enough[label]) emit<T>(o, count, records, image, candidate, found);
        } else if (better(found, best)) {
            best = found;
        }
    }
    return best;
}

template <class T>
DEVICE void best_of_all(const Outputs& o, Count* count, Record* records, int image, int candidate,
                        const Best (*found)[ACROSS], int lane) {
    if (o.every || candidate >= o.candidates) return;
    Best best = found[0][lane];
    for (int group = 1; group < GROUPS; group++)
        if (better(found[group][lane], best)) best = found[group][lane];
    if (best.score >= o.enough[best.label]) emit<T>(o, count, records, image, candidate, best);
}

// How many were found, by the last block that is through with an image, which tells it and sets the count to nothing
// for the next run; -1 by all others. By one thread.
DEVICE int found_by_last(Count* count, Told* told, int image, uint32_t blocks) {
    if (atomicAdd(&count[image].done, 1u) + 1 < blocks) return -1;
    const int found = (int)atomicAdd(&count[image].found, 0u);
    told[image].found = found;
    told[image].kept = found ? -1 : 0;
    count[image].found = count[image].done = 0;
    return found;
}

// All candidates for which there is room, as they came: for the CPU to suppress. Each thread every 256th.
DEVICE void hand_over_all(const Record* records, Record* out, int count, int thread) {
    for (int i = thread; i < count; i += ACROSS * GROUPS) out[i] = records[i];
}
