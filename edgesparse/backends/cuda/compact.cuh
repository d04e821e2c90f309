// After the engine: the candidates that reach their threshold, as boxes in the input's pixels, and their number.
// If they are few, the block that finishes last runs NMS (suppress.cuh), and only the boxes it keeps leave the GPU.
// The layouts are those of Head.strided (edgesparse/runtime/heads).
#pragma once
#include "shared.cuh"

enum Kind { CENTER_SIZE, CORNERS, EXP, SIGMOID_EXP, SIGMOID_SQUARE, TANH_SIGMOID, DISTANCES, BINS };
enum Scoring { CONFIDENCES, LOGITS, SOFTMAX };
// MAPS: kernels of their own for kinds after EXP, scoring after CONFIDENCES, powers other than 1, and limited sizes.
enum { ACROSS = 32, GROUPS = 8 };  // candidates per block; groups of threads that share the classes of each
enum { LEVELS = 9 };
#define ROUNDING 1e-3f  // how far a score may exceed 1
#define COUNTED 0.1f    // what is dropped below this score is noise and not counted

struct Plane {  // value k of candidate r of image p is at[p * image + r * row + k * step]; at: null for none
    const void* at;
    int32_t image, row, step, gap;
};

struct Level {  // some of the candidates: all, or those of one stride or anchor
    Plane boxes, scores, objectness, details;
    int32_t candidates, gap;
};

struct Prior {  // what a candidate's values are relative to: x and y of each, in pixels
    float center[2], step[2], size[2];
};

struct View {  // how boxes in the input's pixels become those of a frame or its part: x and y of each
    float offset[2], scale[2], limit[2];
};

struct Outputs {
    Level level[LEVELS];
    const float* thresholds;  // one per class, to the power of 1 / power, like lowest
    const Prior* priors;      // one per candidate; null for none
    const View* views;        // one per image; null: boxes after NMS stay in the input's pixels
    int32_t levels, candidates, classes, kind, scoring, bins;
    int32_t multi_label, capacity;  // multi_label: a box counts once for each class that reaches its threshold
    float lowest, least_logit;      // lowest: of the thresholds. Below least_logit, no sigmoid reaches it
    float object_power, power;      // a score is (objectness ^ object_power * class) ^ power
    float log_scale, log_limit;     // of the logarithm of a size
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
    int32_t found, kept, dropped;  // kept: boxes after NMS, in struct Kept; -1: NMS did not run, all are in records
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

template <class T>
DEVICE void box_of_distances(const Outputs& o, const Plane& plane, const T* at, const Prior& prior, float* box) {
    for (int k = 0; k < 4; k++) {
        const T* first = at + (size_t)k * o.bins * plane.step;
        const float side = (o.kind == BINS ? mean_bin(first, plane.step, o.bins) : value(first, 0)) * prior.step[k % 2];
        box[k] = prior.center[k % 2] + (k < 2 ? -side : side);
    }
}

template <bool MAPS> DEVICE float center_of(int kind, float value) {
    if (!MAPS || kind == EXP) return value;
    return kind == TANH_SIGMOID ? tanhf(value) : sigmoid(value);
}

template <bool MAPS> DEVICE float size_of(const Outputs& o, float value) {
    if (!MAPS) return expf(value);
    if (o.kind == EXP || o.kind == SIGMOID_EXP) {
        const float log = value * o.log_scale;
        return expf(log > o.log_limit ? o.log_limit : log);  // NaN stays
    }
    const float share = sigmoid(value);
    return o.kind == TANH_SIGMOID ? share : 4.0f * share * share;
}

template <class T, bool MAPS>
DEVICE void box_of(const Outputs& o, const Plane& plane, const T* at, int candidate, float* box) {
    if (MAPS && o.kind >= DISTANCES) {
        box_of_distances(o, plane, at, o.priors[candidate], box);
        return;
    }
    for (int k = 0; k < 4; k++) box[k] = value(at, k * plane.step);
    if (o.kind == CORNERS) return;
    if (o.kind != CENTER_SIZE) {
        const Prior& prior = o.priors[candidate];
        for (int axis = 0; axis < 2; axis++) {
            box[axis] = prior.center[axis] + center_of<MAPS>(o.kind, box[axis]) * prior.step[axis];
            box[axis + 2] = size_of<MAPS>(o, box[axis + 2]) * prior.size[axis];
        }
    }
    for (int axis = 0; axis < 2; axis++) {
        const float center = box[axis], half = 0.5f * box[axis + 2];
        box[axis] = center - half;
        box[axis + 2] = center + half;
    }
}

// A negative confidence counts as 0.
DEVICE float power(float base, float exponent) {
    return exponent == 1.0f ? base : expf(exponent * logf(base < 0.0f ? 0.0f : base));
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
    box_of<T, MAPS>(o, level.boxes, values_of<T>(level.boxes, image, cell), candidate, box);
    if (MAPS) best.score = power(best.score, o.power);
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

template <bool MAPS> DEVICE float objectness_of(const Outputs& o, float raw) {
    if (!MAPS) return raw;
    return power(o.scoring == CONFIDENCES ? raw : sigmoid(raw), o.object_power);
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
        if (MAPS && o.scoring != CONFIDENCES) score = softmax ? expf(score - all) : sigmoid(score);
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

// `details` has a row of o.details values (at least 1) per box of an image; the box goes to the row `place`.
template <class T> DEVICE void return_details(const Outputs& o, int key, int image, int place, float* details) {
    if (!o.details) return;
    int cell = key / o.classes;
    const Plane& plane = level_of(o, cell).details;
    const T* at = values_of<T>(plane, image, cell);
    for (int e = 0; e < o.details; e++) details[(size_t)place * o.details + e] = value(at, e * plane.step);
}

// Return all boxes within the capacity, in their order of arrival, for NMS on the CPU. Each thread copies every 256th.
template <class T>
DEVICE void return_all(const Outputs& o, const Record* records, int image, Record* out, float* details, int count,
                       int thread) {
    for (int i = thread; i < count; i += ACROSS * GROUPS) {
        out[i] = records[i];
        return_details<T>(o, records[i].key, image, i, details);
    }
}
