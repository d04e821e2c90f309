// The kernels' arithmetic compiled for the CPU, a thread after the other: what cuLaunchKernel would run, as a function.
#include <string.h>

#include "compact.cuh"
#include "letterbox.cuh"

template <class T> static void letterboxes(const int* grid, void** given) {
    const Input& input = **(const Input**)given[0];
    const Picture* pictures = *(const Picture**)given[1];
    const Tap* taps = *(const Tap**)given[2];
    T* out = *(T**)given[3];
    for (int picture = 0; picture < grid[2]; picture++)
        for (int y = 0; y < grid[1] * 8 * 2; y++)  // two rows a thread
            for (int x = 0; x < grid[0] * 32; x++) letterbox(input, pictures[picture], taps, out, x, y, picture);
}

static void compacted(const int* grid, void** given) {
    const Outputs& outputs = **(const Outputs**)given[0];
    Count* count = *(Count**)given[1];
    Record* records = *(Record**)given[2];
    int32_t* found = *(int32_t**)given[3];
    for (int picture = 0; picture < grid[1]; picture++)
        for (int block = grid[0] - 1; block >= 0; block--) {  // blocks come in any order
            Best best[GROUPS][ACROSS];
            for (int group = 0; group < GROUPS; group++)
                for (int lane = 0; lane < ACROSS; lane++)
                    best[group][lane] =
                        best_of_group<float>(outputs, count, records, picture, block * ACROSS + lane, group);
            for (int lane = 0; lane < ACROSS; lane++)
                best_of_all<float>(outputs, count, records, picture, block * ACROSS + lane, best, lane);
            tell(count, found, picture, grid[0]);
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
