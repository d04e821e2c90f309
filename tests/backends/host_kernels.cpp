// The kernels' arithmetic compiled for the CPU, a thread after the other: what cuLaunchKernel would run, as a function.
#include <string.h>

#include "compact.cuh"
#include "letterbox.cuh"
#include "suppress.cuh"

template <class T> static void letterboxes(const int* grid, void** given) {
    const Input& input = **(const Input**)given[0];
    const Picture* pictures = *(const Picture**)given[1];
    const Tap* taps = *(const Tap**)given[2];
    T* out = *(T**)given[3];
    for (int picture = 0; picture < grid[2]; picture++)
        for (int y = 0; y < grid[1] * 8 * 2; y++)  // two rows a thread
            for (int x = 0; x < grid[0] * 32; x++) letterbox(input, pictures[picture], taps, out, x, y, picture);
}

static void suppressed(const Outputs& o, const Record* own, Told* told, Record* out, int found) {
    static Suppression s;
    if (found > o.most) {
        for (int thread = 0; thread < MOST; thread++) hand_over_all(own, out, found, thread);
        return;
    }
    for (int thread = 0; thread < MOST; thread++) read_own(s, own, found, thread);
    for (int thread = 0; thread < MOST; thread++) sort_own(s, own, found, thread);
    for (int thread = 0; thread < MOST; thread++) cover_own(s, o, found, thread);
    choose(s, o, found);
    for (int thread = 0; thread < MOST; thread++) hand_over_own(s, told, out, thread);
}

static void compacted(const int* grid, void** given) {
    const Outputs& outputs = **(const Outputs**)given[0];
    Count* counts = *(Count**)given[1];
    Record* records = *(Record**)given[2];
    Told* told = *(Told**)given[3];
    Record* out = *(Record**)given[4];
    for (int picture = 0; picture < grid[1]; picture++)
        for (int block = grid[0] - 1; block >= 0; block--) {  // blocks come in any order
            Best best[GROUPS][ACROSS];
            for (int group = 0; group < GROUPS; group++)
                for (int lane = 0; lane < ACROSS; lane++)
                    best[group][lane] =
                        best_of_group<float>(outputs, counts, records, picture, block * ACROSS + lane, group);
            for (int lane = 0; lane < ACROSS; lane++)
                best_of_all<float>(outputs, counts, records, picture, block * ACROSS + lane, best, lane);
            const int found = least(found_by_last(counts, told, picture, grid[0]), outputs.capacity);
            const size_t first = (size_t)picture * outputs.capacity;
            if (found > 0) suppressed(outputs, records + first, told + picture, out + first, found);
        }
}

extern "C" int launch(const char* name, const int* grid, void** given) {
    if (!strcmp(name, "letterbox_float32")) letterboxes<float>(grid, given);
    else if (!strcmp(name, "letterbox_int8")) letterboxes<int8_t>(grid, given);
    else if (!strcmp(name, "letterbox_uint8")) letterboxes<uint8_t>(grid, given);
    else if (!strcmp(name, "compact_float32")) compacted(grid, given);
    else return 1;
    return 0;
}
