// After the engine: the candidates that reach their threshold, as boxes in the input's pixels, and their number.
// If they are few, the block that finishes last runs NMS (suppress.cuh), and only the boxes it keeps leave the GPU.
// The layouts are those of Head.strided (edgesparse/runtime/heads).
#pragma once
#include "shared.cuh"

enum Kind { CENTER_SIZE = 0, CORNERS = 1, ON_GRID = 2 };
enum { ACROSS = 32, GROUPS = 8 };  // candidates per block; groups of threads that share the classes of each
#define ROUNDING 1e-3f  // how far a score may exceed 1
#define COUNTED 0.1f    // what is dropped below this score is noise and not counted

struct Outputs {  // The box of candidate r of image p has value k at boxes[p * box_image + r * box_row + k * box_step];
    const void *boxes, *scores;  // its score for class c is at scores[p * score_image + r * score_row + c * score_step].
    int32_t candidates, classes;
    int32_t box_image, box_row, box_step, score_image, score_row, score_step;
    int32_t objectness;  // its k among the box's values; -1 for none
    int32_t kind, multi_label, capacity;  // multi_label: a box counts once for each class that reaches its threshold
    float lowest;  // of the thresholds
    const float* thresholds;  // one per class
    float iou;
    int32_t max_det, agnostic, nms_limit;  // nms_limit: up to this many candidates, NMS runs here
    int32_t levels, columns[4], rows[4], stride[4];  // ON_GRID: the grids in their order
    int32_t details, first_detail;  // how many more values a box has, such as the coefficients of a mask: value e is
                                    // at scores[p * score_image + r * score_row + first_detail + e * score_step]
};

struct Record {
    float box[4], score;
    int32_t key;  // candidate * classes + class: sorts them, as they arrive in any order
};

struct Count {
    uint32_t found, dropped, done;  // boxes of an image; candidates that are no boxes; blocks that have finished it
};

struct Summary {
    int32_t found, kept, dropped;  // kept: boxes after NMS; -1: NMS did not run, all boxes are returned
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

// The rule of edgesparse/runtime/boxes.py. Comparisons with NaN are false.
DEVICE bool is_box(const float* box, float score) {
    for (int k = 0; k < 4; k++)
        if (!(fabsf(box[k]) <= FLT_MAX)) return false;
    return box[0] < box[2] && box[1] < box[3] && score >= 0.0f && score <= 1.0f + ROUNDING;
}

template <class T>
DEVICE void emit(const Outputs& o, Count* count, Record* records, int image, int candidate, Best best) {
    const T* at = (const T*)o.boxes + (size_t)image * o.box_image + (size_t)candidate * o.box_row;
    float box[4];
    box_of(o, at, candidate, box);
    if (!is_box(box, best.score)) {
        if (!(best.score < COUNTED)) atomicAdd(&count[image].dropped, 1u);
        return;
    }
    const uint32_t place = atomicAdd(&count[image].found, 1u);
    if (place >= (uint32_t)o.capacity) return;
    Record& record = records[(size_t)image * o.capacity + place];
    for (int k = 0; k < 4; k++) record.box[k] = box[k];
    record.score = fminf(best.score, 1.0f);
    record.key = candidate * o.classes + best.label;
}

// The best of the classes group, group + GROUPS, ...; with multi_label, each that reaches its threshold is emitted.
// A score that is no number counts as infinite, so that it is emitted, and dropped there.
template <class T>
DEVICE Best best_of_group(const Outputs& o, Count* count, Record* records, int image, int candidate, int group) {
    Best best = {-1.0f, 0};
    if (candidate >= o.candidates) return best;
    float object = 1.0f;
    if (o.objectness >= 0) {
        const T* box = (const T*)o.boxes + (size_t)image * o.box_image + (size_t)candidate * o.box_row;
        object = value(box, o.objectness * o.box_step);
        if (object < o.lowest) return best;  // a score is objectness times class, so never more
    }
    const T* scores = (const T*)o.scores + (size_t)image * o.score_image + (size_t)candidate * o.score_row;
#pragma unroll 4
    for (int label = group; label < o.classes; label += GROUPS) {
        Best next = {object * value(scores, label * o.score_step), label};
        if (next.score != next.score) next.score = INFINITY;
        if (o.multi_label) {
            if (next.score >= o.thresholds[label]) emit<T>(o, count, records, image, candidate, next);
        } else if (better(next, best)) {
            best = next;
        }
    }
    return best;
}

template <class T>
DEVICE void best_of_all(const Outputs& o, Count* count, Record* records, int image, int candidate,
                        const Best (*bests)[ACROSS], int lane) {
    if (o.multi_label || candidate >= o.candidates) return;
    Best best = bests[0][lane];
    for (int group = 1; group < GROUPS; group++)
        if (better(bests[group][lane], best)) best = bests[group][lane];
    if (best.score >= o.thresholds[best.label]) emit<T>(o, count, records, image, candidate, best);
}

// The number of boxes, in the last block that finishes an image, which also writes the summary and resets the count for
// the next run; -1 in all other blocks. Called by one thread.
DEVICE int found_by_last(Count* count, Summary* summary, int image, uint32_t blocks) {
    if (atomicAdd(&count[image].done, 1u) + 1 < blocks) return -1;
    const int found = (int)atomicAdd(&count[image].found, 0u);
    summary[image].found = found;
    summary[image].kept = found ? -1 : 0;
    summary[image].dropped = (int)atomicAdd(&count[image].dropped, 0u);
    count[image].found = count[image].dropped = count[image].done = 0;
    return found;
}

// Return one box with its details. `details` has a row of o.details values (at least 1) per box of an image.
template <class T>
DEVICE void return_one(const Outputs& o, const Record& record, int image, int place, Record* out, float* details) {
    out[place] = record;
    const T* at = (const T*)o.scores + (size_t)image * o.score_image + (size_t)(record.key / o.classes) * o.score_row;
    for (int e = 0; e < o.details; e++)
        details[(size_t)place * o.details + e] = value(at, o.first_detail + e * o.score_step);
}

// Return all boxes within the capacity, in their order of arrival, for NMS on the CPU. Each thread copies every 256th.
template <class T>
DEVICE void return_all(const Outputs& o, const Record* records, int image, Record* out, float* details, int count,
                       int thread) {
    for (int i = thread; i < count; i += ACROSS * GROUPS) return_one<T>(o, records[i], image, i, out, details);
}
