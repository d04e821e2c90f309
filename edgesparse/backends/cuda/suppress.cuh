// Greedy non-maximum suppression of one image's boxes by one block, like OpenCV's NMSBoxes: highest score first, lower
// key first among equal scores. A box is suppressed when a better one of its class overlaps it by more than `iou`.
// All threads finish a step before the next one starts.
#pragma once
#include "compact.cuh"

enum { MOST = ACROSS * GROUPS, WORDS = MOST / 32 };  // boxes per block: one per thread

struct Suppression {
    float score[MOST];
    int32_t key[MOST];
    Record sorted[MOST];
    uint32_t covers[MOST][WORDS];  // the later boxes that each covers, as bits
    uint32_t suppressed[WORDS];
    int32_t kept[MOST], count;
};

DEVICE float overlap(const float* a, const float* b) {
    const float width = fminf(a[2], b[2]) - fmaxf(a[0], b[0]), height = fminf(a[3], b[3]) - fmaxf(a[1], b[1]);
    const float shared = width > 0 && height > 0 ? width * height : 0;
    const float all = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared;
    return all > 1e-12f ? shared / all : 1;
}

DEVICE void read_boxes(Suppression& s, const Record* records, int count, int thread) {
    if (thread < count) {
        s.score[thread] = records[thread].score;
        s.key[thread] = records[thread].key;
    }
    for (int word = 0; word < WORDS; word++) s.covers[thread][word] = 0;
    if (thread < WORDS) s.suppressed[thread] = 0;
}

DEVICE void sort_boxes(Suppression& s, const Record* records, int count, int thread) {
    if (thread >= count) return;
    const float score = s.score[thread];
    const int key = s.key[thread];
    int rank = 0;
    for (int other = 0; other < count; other++)
        rank += s.score[other] > score || (s.score[other] == score && s.key[other] < key);
    s.sorted[rank] = records[thread];
}

DEVICE void find_covered(Suppression& s, const Outputs& o, int count, int thread) {
    if (thread >= count) return;
    const Record own = s.sorted[thread];
    const int label = own.key % o.classes;
    for (int other = thread + 1; other < count; other++)
        if ((o.agnostic || s.sorted[other].key % o.classes == label) && overlap(own.box, s.sorted[other].box) > o.iou)
            s.covers[thread][other / 32] |= 1u << (other % 32);
}

// Called by one thread.
DEVICE void select_kept(Suppression& s, const Outputs& o, int count) {
    s.count = 0;
    for (int i = 0; i < count && s.count < o.max_det; i++) {
        if (s.suppressed[i / 32] >> (i % 32) & 1) continue;
        s.kept[s.count++] = i;
        for (int word = i / 32; word < WORDS; word++) s.suppressed[word] |= s.covers[i][word];
    }
}

template <class T>
DEVICE void return_kept(const Suppression& s, const Outputs& o, int image, Summary* summary, Record* out,
                        float* details, int thread) {
    if (thread < s.count) return_one<T>(o, s.sorted[s.kept[thread]], image, thread, out, details);
    if (thread == 0) summary->kept = s.count;
}
