// Tiles of images in shared memory, for the convolutions.

#pragma once

constexpr int PIXELS = 4;  // neighbours along X that a thread has: what one load brings

struct __align__(16) Four {
    real at[PIXELS];
};

__device__ inline Four load_four(const real* p) { return *reinterpret_cast<const Four*>(p); }

// Numbers in a row of a tile `width` pixels wide: with what taps reach beyond, in steps of four.
__device__ inline int row_length(int width, int kx) {
    return width + (kx == 1 ? 0 : kx <= 5 ? 4 : (kx + 3) / 4 * 4);
}

// Copies one row, `length` numbers from column x0 on, by the 32 threads of a warp; zeros outside of
// 0 … width − 1, or everywhere if `row` is null. With `activate`, relu(scale · v + shift).
__device__ inline void copy_row(
    real* to, int length, const real* row, int64 x0, int64 width, bool activate, real scale,
    real shift, int lane
) {
    for (int j = lane; j < length; j += 32) {
        real v = 0;
        if (row && x0 + j >= 0 && x0 + j < width) {
            v = row[x0 + j];
            if (activate) {
                v = v * scale + shift;
                v = v > 0 ? v : real(0);
            }
        }
        to[j] = v;
    }
}

// Rows y0 … of the planes `first` … of x, as the convolution reads them: plane p is that of input
// channel p / kz, p % kz − kz / 2 planes away from z. `tile` is [plane][tall][length].
__device__ inline void copy_planes(
    real* tile, int planes, int tall, int length, const Array<const real, 5>& x,
    const Array<const real, 2>& affine, int64 n, int64 z, int64 y0, int64 x0, int64 first, int kz,
    int warp, int warps, int lane
) {
    const bool activate = affine.shape[0] == 2;
    for (int r = warp; r < planes * tall; r += warps) {
        const int64 plane = first + r / tall, channel = plane / kz;
        const int64 zz = z + plane % kz - kz / 2, yy = y0 + r % tall;
        const bool inside = zz >= 0 && zz < x.shape[2] && yy >= 0 && yy < x.shape[3];
        const real* row = inside ? &x(n, channel, zz, yy, 0) : nullptr;
        const real scale = activate ? affine(0, channel) : real(1);
        const real shift = activate ? affine(1, channel) : real(0);
        copy_row(tile + r * length, length, row, x0, x.shape[4], activate, scale, shift, lane);
    }
}
