// Greedy non-maximum suppression of one image's boxes by one block, like OpenCV's NMSBoxes: highest score first, lower
// key first among equal scores. A box is suppressed when a better one of its class overlaps it by more than `iou`.
// All threads finish a step before the next one starts.
#pragma once
#include "compact.cuh"

enum { MOST = ACROSS * GROUPS, WORDS = MOST / 32 };  // boxes per block: one per thread

struct alignas(16) Corners {  // written at once
    float of[4];
};

struct Kept {  // what NMS keeps of an image, in the arrays that the caller gets copies of
    Corners box[MOST];
    float score[MOST];
    int64_t label[MOST];
};

struct Suppression {
    float score[MOST];
    int32_t key[MOST], label[MOST];
    Record sorted[MOST];
    uint32_t covers[MOST][WORDS];  // the later boxes that each covers, as bits
    uint32_t suppressed[WORDS], kept[WORDS], seen[WORDS];  // seen: of those kept, what is returned
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
    if (thread < WORDS) s.suppressed[thread] = s.kept[thread] = s.seen[thread] = 0;
}

DEVICE void sort_boxes(Suppression& s, const Outputs& o, const Record* records, int count, int thread) {
    if (thread >= count) return;
    const float score = s.score[thread];
    const int key = s.key[thread];
    int rank = 0;
    for (int other = 0; other < count; other++)
        rank += s.score[other] > score || (s.score[other] == score && s.key[other] < key);
    s.sorted[rank] = records[thread];
    s.label[rank] = o.agnostic ? 0 : key % o.classes;
}

// Pairs are shared out by eights, a byte of the bits each, so that few boxes keep many threads busy without atomics.
DEVICE void find_covered(Suppression& s, const Outputs& o, int count, int thread) {
    const int across = 4 * ((count + 31) / 32);
    for (int task = thread; task < count * across; task += MOST) {
        const int own = task / across, byte = task % across;
        uint32_t covered = 0;
        for (int other = most(own + 1, 8 * byte); other < least(count, 8 * byte + 8); other++)
            if (s.label[other] == s.label[own] && overlap(s.sorted[own].box, s.sorted[other].box) > o.iou)
                covered |= 1u << (other % 8);
        ((uint8_t*)s.covers[own])[byte] = (uint8_t)covered;  // little-endian, like every GPU
    }
}

// Decide on the boxes of one word of bits; the words before it are decided. Thread `word` passes on what they suppress
// in the word of that index. All of these threads find the same bits, so that they wait only once per word.
DEVICE void select_kept(Suppression& s, int count, int now, int thread) {
    if (thread < now || 32 * thread >= count) return;
    const int first = 32 * now, boxes = least(32, count - first);
    uint32_t left = ~s.suppressed[now] & (0xffffffffu >> (32 - boxes)), suppressed = 0;
#pragma unroll 8
    for (int i = 0; i < boxes; i++) {
        const uint32_t counts = 0u - (left >> i & 1);
        left &= ~(s.covers[first + i][now] & counts);
        suppressed |= s.covers[first + i][thread] & counts;
    }
    if (thread == now) s.kept[now] = left;
    else s.suppressed[thread] |= suppressed;
}

DEVICE int ones(uint32_t bits) {
#ifdef __CUDACC__
    return __popc(bits);
#else
    return __builtin_popcount(bits);
#endif
}

// How many bits before that of `thread` are set.
DEVICE int before(const uint32_t* bits, int thread) {
    int count = ones(bits[thread / 32] & ((1u << (thread % 32)) - 1));
    for (int word = 0; word < thread / 32; word++) count += ones(bits[word]);
    return count;
}

// The operations of Letterbox.to_frame (edgesparse/runtime/letterbox.py) in the same order, each rounded as there.
DEVICE void to_frame(const View& view, float* box) {
    for (int k = 0; k < 4; k++)
        box[k] = fminf(fmaxf((box[k] - view.offset[k % 2]) / view.scale[k % 2], 0.0f), view.limit[k % 2]);
}

// Of the kept boxes, the first `max_det` are returned: in the frame's pixels, if there are views, without those that
// are in the padding altogether. Each thread changes only its own box.
DEVICE void select_seen(Suppression& s, const Outputs& o, int image, int thread) {
    const uint32_t bit = 1u << (thread % 32);
    if (!(s.kept[thread / 32] & bit) || before(s.kept, thread) >= o.max_det) return;
    if (o.views) {
        float* box = s.sorted[thread].box;
        to_frame(o.views[image], box);
        if (!(box[0] < box[2] && box[1] < box[3])) return;
    }
    atomicOr(&s.seen[thread / 32], bit);
}

// Boxes keep their order.
template <class T>
DEVICE void return_kept(const Suppression& s, const Outputs& o, int image, Summary* summary, Kept* to, float* details,
                        int thread) {
    const int seen = s.seen[thread / 32] >> (thread % 32) & 1, place = before(s.seen, thread);
    if (seen) {
        const Record& record = s.sorted[thread];
        to->box[place] = {{record.box[0], record.box[1], record.box[2], record.box[3]}};
        to->score[place] = record.score;
        to->label[place] = record.key % o.classes;
        return_details<T>(o, record.key, image, place, details);
    }
    if (thread == MOST - 1) summary->kept = place + seen;
}
