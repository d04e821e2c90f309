// From camera frames to the network's input: resize, pad, convert colors and scale a batch of any sizes in one pass.
//
// Bilinear with half-pixel centres in the fixed point of OpenCV's resize (INTER_LINEAR, 8 bit: weights of 11 bits, rows
// blended in 16, modules/imgproc/src/resize.cpp), and its conversion of NV12 and YUYV (BT.601, 20 bits, chroma not
// interpolated, color_yuv.simd.hpp), so that the CPU's path gives the same bytes.
#pragma once
#include "shared.cuh"

enum Pixels { BGR = 0, RGB = 1, NV12 = 2, YUYV = 3 };

struct Image {  // a frame or a part of one, and the rectangle of the input that it fills
    const uint8_t* data;
    int32_t pixels, pitch, width, height;  // pitch: bytes from one row of the frame to the next
    int32_t top, left, rows, columns;
    int32_t taps, chroma;  // index of its first tap: one per column, then one per row; bytes from data to NV12's colors
};

enum { IMAGES = 64 };  // per launch: the arguments of a kernel are limited to 4096 bytes

struct Images {
    Image of[IMAGES];
};

struct Tap {  // two neighbors, at and at + 1, and their weights of 2048; columns are always inside, rows are clamped
    int32_t at;
    int16_t near, far;
};

struct Input {  // the network's; channels in its own order. swap: its order is RGB
    int32_t height, width, swap, pad;
    float scale[3], shift[3];
};

struct Pixel {
    int blue, green, red;
};

DEVICE int byte_of(uint32_t word, int index) { return (word >> (8 * index)) & 255; }

DEVICE uint32_t words_at(uint32_t low, uint32_t high, int bytes) {
#ifdef __CUDACC__
    return __funnelshift_r(low, high, 8 * bytes);
#else
    return bytes ? (low >> (8 * bytes)) | (high << (32 - 8 * bytes)) : low;
#endif
}

// Six bytes from `at` on by aligned words. Only words that hold one of them are read.
DEVICE void two_of_three_bytes(const uint8_t* at, Pixel& one, Pixel& other) {
    const int off = (uintptr_t)at & 3;
    const uint32_t* words = (const uint32_t*)(at - off);
    const uint32_t a = words[0], b = words[1], c = off == 3 ? words[2] : 0;
    const uint32_t low = words_at(a, b, off), high = words_at(b, c, off);
    one = {byte_of(low, 0), byte_of(low, 1), byte_of(low, 2)};
    other = {byte_of(low, 3), byte_of(high, 0), byte_of(high, 1)};
}

DEVICE int byte(int value) { return most(0, least(255, value >> 20)); }

DEVICE Pixel from_yuv(int luma, int u, int v) {
    const int y = most(0, luma - 16) * 1220542 + (1 << 19);
    u -= 128;
    v -= 128;
    return {byte(y + 2116026 * u), byte(y - 409993 * u - 852492 * v), byte(y + 1673527 * v)};
}

template <int PIXELS> DEVICE void two(const Image& p, int x, int y, Pixel& one, Pixel& other) {
    const uint8_t* row = p.data + y * p.pitch;  // fits, and 64 bits would cost registers
    if (PIXELS == BGR || PIXELS == RGB) {
        if (p.width > 1) two_of_three_bytes(row + 3 * x, one, other);
        else one = other = {row[0], row[1], row[2]};
        return;
    }
    const int next = least(x + 1, p.width - 1);
    if (PIXELS == NV12) {
        const uint8_t* chroma = p.data + (p.chroma + y / 2 * p.pitch);
        one = from_yuv(row[x], chroma[x & ~1], chroma[x | 1]);
        other = from_yuv(row[next], chroma[next & ~1], chroma[next | 1]);
    } else {
        const uint8_t *a = row + 4 * (x / 2), *b = row + 4 * (next / 2);
        one = from_yuv(row[2 * x], a[1], a[3]);
        other = from_yuv(row[2 * next], b[1], b[3]);
    }
}

DEVICE int blend(int a, int b, int c, int d, Tap across, Tap down) {
    const int upper = (a * across.near + b * across.far) >> 4, lower = (c * across.near + d * across.far) >> 4;
    return (((down.near * upper) >> 16) + ((down.far * lower) >> 16) + 2) >> 2;
}

template <int PIXELS> DEVICE Pixel sample(const Image& p, Tap across, Tap down) {
    Pixel a, b, c, d;
    two<PIXELS>(p, across.at, most(down.at, 0), a, b);
    if (down.far) two<PIXELS>(p, across.at, least(down.at + 1, p.height - 1), c, d);
    else c = a, d = b;  // for example in every row when 1080 lines become 360
    Pixel found = {blend(a.blue, b.blue, c.blue, d.blue, across, down),
                   blend(a.green, b.green, c.green, d.green, across, down),
                   blend(a.red, b.red, c.red, d.red, across, down)};
    if (PIXELS == RGB) found = {found.red, found.green, found.blue};
    return found;
}

DEVICE Pixel pixel_at(const Image& p, const Tap* __restrict__ taps, int row, int column) {
    const Tap across = taps[p.taps + column], down = taps[p.taps + p.columns + row];
    switch (p.pixels) {
    case RGB: return sample<RGB>(p, across, down);
    case NV12: return sample<NV12>(p, across, down);
    case YUYV: return sample<YUYV>(p, across, down);
    default: return sample<BGR>(p, across, down);
    }
}

struct Reach {  // the neighbors in one direction, of which the outer ones may weigh nothing
    int first, end;
};

struct Sum {
    float blue, green, red, weight;
};

// Weights of a triangle that is as wide as the reduction, like Pillow's BILINEAR (src/libImaging/Resample.c), in whole
// numbers: 2 * reach - |(2 * at + 1) * target - (2 * place + 1) * source|.
DEVICE Reach reach_of(int place, int source, int target) {
    const int middle = (2 * place + 1) * source, reach = 2 * most(source, target);
    return {most(0, middle - reach - target) / (2 * target),
            least(source, most(0, middle + reach - target) / (2 * target) + 1)};
}

DEVICE int weight_of(int at, int place, int source, int target) {
    const int distance = (2 * at + 1) * target - (2 * place + 1) * source;
    return at < source ? most(0, 2 * most(source, target) - most(distance, -distance)) : 0;
}

DEVICE void add(Sum& sum, Pixel pixel, int weight) {
    sum.blue += (float)(pixel.blue * weight);
    sum.green += (float)(pixel.green * weight);
    sum.red += (float)(pixel.red * weight);
    sum.weight += (float)weight;
}

DEVICE int rounded(float value) { return (int)floorf(value + 0.5f); }

DEVICE Pixel mean(const Sum& sum) {
    return {rounded(sum.blue / sum.weight), rounded(sum.green / sum.weight), rounded(sum.red / sum.weight)};
}

// Each row of the neighborhood is rounded before rows are added, as there.
template <int PIXELS> DEVICE Pixel antialiased(const Image& p, int row, int column) {
    const Reach across = reach_of(column, p.width, p.columns), down = reach_of(row, p.height, p.rows);
    Sum rows = {0, 0, 0, 0};
    for (int y = down.first; y < down.end; y++) {
        Sum pixels = {0, 0, 0, 0};
        for (int x = across.first; x < across.end; x += 2) {
            const int at = most(0, least(x, p.width - 2));  // nothing beyond the row is read
            Pixel one, other;
            two<PIXELS>(p, at, y, one, other);
            add(pixels, one, at < x ? 0 : weight_of(at, column, p.width, p.columns));
            add(pixels, other, weight_of(at + 1, column, p.width, p.columns));
        }
        add(rows, mean(pixels), weight_of(y, row, p.height, p.rows));
    }
    const Pixel found = mean(rows);
    if (PIXELS == RGB) return {found.red, found.green, found.blue};
    return found;
}

DEVICE Pixel antialiased_at(const Image& p, int row, int column) {
    switch (p.pixels) {
    case RGB: return antialiased<RGB>(p, row, column);
    case NV12: return antialiased<NV12>(p, row, column);
    case YUYV: return antialiased<YUYV>(p, row, column);
    default: return antialiased<BGR>(p, row, column);
    }
}

// A value 0..255 in the network's type: bytes unchanged, all others scaled; INT8 is rounded and clipped.
DEVICE void put(uint8_t* at, int value, float, float) { *at = (uint8_t)value; }
DEVICE void put(float* at, int value, float scale, float shift) { *at = __fmaf_rn((float)value, scale, shift); }
DEVICE void put(int8_t* at, int value, float scale, float shift) {
    *at = (int8_t)most(-128, least(127, (int)rintf(__fmaf_rn((float)value, scale, shift))));
}
DEVICE void put(__half* at, int value, float scale, float shift) {
    *at = __float2half_rn(__fmaf_rn((float)value, scale, shift));
}

struct alignas(16) Quad {
    uint32_t words[4];
};

// A pixel's three values, and zeros up to CHANNELS, in words of 4 or 16 bytes.
template <int CHANNELS, class T> DEVICE void put_together(T* at, Pixel pixel, const Input& input) {
    T values[4] = {};
    put(values, pixel.blue, input.scale[0], input.shift[0]);
    put(values + 1, pixel.green, input.scale[1], input.shift[1]);
    put(values + 2, pixel.red, input.scale[2], input.shift[2]);
    Quad quad = {};
    memcpy(&quad, values, sizeof values);
    if constexpr (CHANNELS * sizeof(T) == 4) {
        *(uint32_t*)at = quad.words[0];
    } else {
        *(Quad*)at = quad;
        if constexpr (CHANNELS * sizeof(T) == 32) ((Quad*)at)[1] = {};
    }
}

// One pixel of the network's input: N x 3 x height x width, or N x height x width x CHANNELS.
template <bool ANTIALIAS, int CHANNELS, class T>
DEVICE void letterbox(const Input& input, const Image& p, const Tap* __restrict__ taps, T* __restrict__ out, int x,
                      int y, int image) {
    if (x >= input.width || y >= input.height) return;
    const int column = x - p.left, row = y - p.top;
    Pixel found = {input.pad, input.pad, input.pad};
    if (column >= 0 && column < p.columns && row >= 0 && row < p.rows)
        found = ANTIALIAS ? antialiased_at(p, row, column) : pixel_at(p, taps, row, column);
    if (input.swap) found = {found.red, found.green, found.blue};
    const size_t plane = (size_t)input.height * input.width;
    const size_t pixel = (size_t)y * input.width + x;
    if constexpr (CHANNELS) {
        put_together<CHANNELS>(out + CHANNELS * (plane * image + pixel), found, input);
    } else {
        T* at = out + 3 * plane * image + pixel;
        put(at, found.blue, input.scale[0], input.shift[0]);
        put(at + plane, found.green, input.scale[1], input.shift[1]);
        put(at + 2 * plane, found.red, input.scale[2], input.shift[2]);
    }
}
