// After the engine: the candidates that reach their threshold, as boxes in the input's pixels, and their number.
// If they are few, the block that finishes last runs NMS (suppress.cuh), and only the boxes it keeps leave the GPU.
// The layouts are those of Head.strided (edgesparse/runtime/heads).
#pragma once
#include "shared.cuh"

enum Kind { CENTER_SIZE = 0, CORNERS = 1, ON_GRID = 2, BINS = 3, SHARES = 4 };
enum Scoring { CONFIDENCES = 0, LOGITS = 1, SOFTMAX = 2 };  // MAPS: all but the first, in kernels of their own
enum { ACROSS = 32, GROUPS = 8 };  // candidates per block; groups of threads that share the classes of each
enum { LEVELS = 4 };
#define ROUNDING 1e-3f  // how far a score may exceed 1
#define COUNTED 0.1f    // what is dropped below this score is noise and not counted

struct Plane {  // value k of candidate r of image p is at[p * image + r * row + k * step]; at: null for none
    const void* at;
    int32_t image, row, step, gap;
};

struct Level {  // some of the candidates: all, or the cells of one stride
    Plane boxes, scores, objectness, details;
    int32_t candidates, rows, columns, stride;
};

struct Outputs {
    Level level[LEVELS];
    const float* thresholds;  // one per class
    int32_t levels, candidates, classes, kind, scoring, bins;
    int32_t multi_label, capacity;  // multi_label: a box counts once for each class that reaches its threshold
    float lowest, least_logit;      // lowest: of the thresholds. Below least_logit, no sigmoid reaches it
    float powers[2];                // SOFTMAX: of objectness and class in their product
    float iou;
    int32_t max_det, agnostic, nms_limit;  // nms_limit: up to this many candidates, NMS runs here
    int32_t details;  // how many more values a box has, such as the coefficients of a mask
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

DEVICE float sigmoid(float logit) { return tanhf(0.5f * logit) * 0.5f + 0.5f; }

// The level of a candidate, which becomes its place among those of the level.
DEVICE const Level& level_of(const Outputs& o, int& candidate) {
    int i = 0;
    while (i + 1 < o.levels && candidate >= o.level[i].candidates) candidate -= o.level[i++].candidates;
    return o.level[i];
}

template <class T> DEVICE const T* values_of(const Plane& plane, int image, int candidate) {
    return (const T*)plane.at + (size_t)image * plane.image + (size_t)candidate * plane.row;
}

// The mean of 0, 1, 2, ... weighed by the softmax of `bins` logits.
template <class T> DEVICE float mean_bin(const T* at, int step, int bins) {
    float most = value(at, 0), sum = 0.0f, weighed = 0.0f;
    for (int i = 1; i < bins; i++) most = fmaxf(most, value(at, i * step));
    for (int i = 0; i < bins; i++) {
        const float weight = expf(value(at, i * step) - most);
        sum += weight;
        weighed += weight * (float)i;
    }
    return weighed / sum;
}

template <class T> DEVICE void box_of_bins(const Outputs& o, const Level& level, const T* at, int cell, float* box) {
    const float center[2] = {(float)(cell % level.columns) + 0.5f, (float)(cell / level.columns) + 0.5f};
    for (int k = 0; k < 4; k++) {
        const float side = mean_bin(at + (size_t)k * o.bins * level.boxes.step, level.boxes.step, o.bins);
        box[k] = (k < 2 ? center[k] - side : center[k - 2] + side) * (float)level.stride;
    }
}

template <class T, bool MAPS>
DEVICE void box_of(const Outputs& o, const Level& level, const T* at, int cell, float* box) {
    if (MAPS && o.kind == BINS) {
        box_of_bins(o, level, at, cell, box);
        return;
    }
    const int step = level.boxes.step;
    float a = value(at, 0), b = value(at, step), c = value(at, 2 * step), d = value(at, 3 * step);
    const bool shares = MAPS && o.kind == SHARES;
    if (o.kind == ON_GRID || shares) {
        const float stride = (float)level.stride;
        a = (shares ? tanhf(a) : a) * stride + (float)(cell % level.columns) * stride;
        b = (shares ? tanhf(b) : b) * stride + (float)(cell / level.columns) * stride;
        c = shares ? sigmoid(c) * (float)(level.columns * level.stride) : expf(c) * stride;
        d = shares ? sigmoid(d) * (float)(level.rows * level.stride) : expf(d) * stride;
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

template <class T, bool MAPS>
DEVICE void emit(const Outputs& o, Count* count, Record* records, int image, int candidate, Best best) {
    int cell = candidate;
    const Level& level = level_of(o, cell);
    float box[4];
    box_of<T, MAPS>(o, level, values_of<T>(level.boxes, image, cell), cell, box);
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

DEVICE float power(float base, float exponent) { return expf(exponent * logf(base)); }

template <bool MAPS> DEVICE float objectness_of(const Outputs& o, float raw) {
    if (!MAPS) return raw;
    return o.scoring == SOFTMAX ? power(sigmoid(raw), o.powers[0]) : sigmoid(raw);
}

// The logarithm of the sum of the exponentials of all classes.
template <class T> DEVICE float log_sum(const T* scores, int step, int classes) {
    float most = value(scores, 0), sum = 0.0f;
    for (int label = 1; label < classes; label++) most = fmaxf(most, value(scores, label * step));
    for (int label = 0; label < classes; label++) sum += expf(value(scores, label * step) - most);
    return most + logf(sum);
}

// The best of the classes group, group + GROUPS, ...; with multi_label, each that reaches its threshold is emitted.
// A score that is no number counts as infinite, so that it is emitted, and dropped there.
template <class T, bool MAPS>
DEVICE Best best_of_group(const Outputs& o, Count* count, Record* records, int image, int candidate, int group) {
    Best best = {-1.0f, 0};
    if (candidate >= o.candidates) return best;
    int cell = candidate;
    const Level& level = level_of(o, cell);
    float object = 1.0f;
    if (level.objectness.at) {
        object = objectness_of<MAPS>(o, value(values_of<T>(level.objectness, image, cell), 0));
        if (object < o.lowest) return best;  // a score is objectness times class, so never more
    }
    const T* scores = values_of<T>(level.scores, image, cell);
    const int step = level.scores.step;
    const bool softmax = MAPS && o.scoring == SOFTMAX;
    const float all = softmax ? log_sum(scores, step, o.classes) : 0.0f;
    const float least = MAPS && o.scoring == LOGITS && object == object ? o.least_logit : -INFINITY;
#pragma unroll(MAPS ? 1 : 4)
    for (int label = group; label < o.classes; label += GROUPS) {
        float score = value(scores, label * step);
        if (MAPS && score < least) continue;  // no exponential for most cells
        if (MAPS) score = softmax ? expf(o.powers[1] * (score - all)) : sigmoid(score);
        Best next = {object * score, label};
        if (next.score != next.score) next.score = INFINITY;
        if (o.multi_label) {
            if (next.score >= o.thresholds[label]) emit<T, MAPS>(o, count, records, image, candidate, next);
        } else if (better(next, best)) {
            best = next;
        }
    }
    return best;
}

template <class T, bool MAPS>
DEVICE void best_of_all(const Outputs& o, Count* count, Record* records, int image, int candidate,
                        const Best (*bests)[ACROSS], int lane) {
    if (o.multi_label || candidate >= o.candidates) return;
    Best best = bests[0][lane];
    for (int group = 1; group < GROUPS; group++)
        if (better(bests[group][lane], best)) best = bests[group][lane];
    if (best.score >= o.thresholds[best.label]) emit<T, MAPS>(o, count, records, image, candidate, best);
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
    if (!o.details) return;
    int cell = record.key / o.classes;
    const Plane& plane = level_of(o, cell).details;
    const T* at = values_of<T>(plane, image, cell);
    for (int e = 0; e < o.details; e++) details[(size_t)place * o.details + e] = value(at, e * plane.step);
}

// Return all boxes within the capacity, in their order of arrival, for NMS on the CPU. Each thread copies every 256th.
template <class T>
DEVICE void return_all(const Outputs& o, const Record* records, int image, Record* out, float* details, int count,
                       int thread) {
    for (int i = thread; i < count; i += ACROSS * GROUPS) return_one<T>(o, records[i], image, i, out, details);
}
