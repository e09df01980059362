// Blocks of pixels to channels and back: see ops/strided.py for the equations.
//
// gridDim.y blocks per (image, channel) of the map that has pixels, not blocks; a thread per pixel
// of what is written.

#include "common.cuh"

// y[n, (c, k), q] = x[n, first + c, S q + k], or 0 where x ends before.
extern "C" __global__ void space_to_depth_kernel(
    Array<const real, 5> x, Array<real, 5> y, int64 first, int64 sz, int64 sy, int64 sx
) {
    const int64 channels = x.shape[1] - first, taps = sz * sy * sx;
    const int64 n = blockIdx.x / channels, c = blockIdx.x % channels;
    const int64 height = y.shape[3], width = y.shape[4], pixels = y.shape[2] * height * width;
    for (int64 p = int64(blockIdx.y) * blockDim.x + threadIdx.x; p < taps * pixels;
         p += int64(gridDim.y) * blockDim.x) {
        const int64 tap = p / pixels, j = p % width, i = p / width % height;
        const int64 z = p % pixels / width / height;
        const int64 zz = z * sz + tap / (sy * sx), ii = i * sy + tap / sx % sy;
        const int64 jj = j * sx + tap % sx;
        const bool inside = zz < x.shape[2] && ii < x.shape[3] && jj < x.shape[4];
        y(n, c * taps + tap, z, i, j) = inside ? x(n, first + c, zz, ii, jj) : real(0);
    }
}

// y[n, first + c, S q + k] = x[n, (c, k), q], or 0 where x ends before. In front of these `first`
// channels of skip; with first = 0, it is added.
extern "C" __global__ void depth_to_space_kernel(
    Array<const real, 5> x, Array<const real, 5> skip, Array<const real, 2> affine,
    Array<real, 5> y, int64 first, int64 sz, int64 sy, int64 sx
) {
    const int64 n = blockIdx.x / y.shape[1], c = blockIdx.x % y.shape[1];
    const int64 height = y.shape[3], width = y.shape[4], pixels = y.shape[2] * height * width;
    const bool beside = skip.size() > 0 && (first == 0 || c < first);
    const Activation activated(affine, beside ? c : 0);
    for (int64 p = int64(blockIdx.y) * blockDim.x + threadIdx.x; p < pixels;
         p += int64(gridDim.y) * blockDim.x) {
        const int64 j = p % width, i = p / width % height, z = p / width / height;
        real v = beside ? activated(skip(n, c, z, i, j)) : real(0);
        if (c >= first && z / sz < x.shape[2] && i / sy < x.shape[3] && j / sx < x.shape[4]) {
            const int64 tap = (z % sz * sy + i % sy) * sx + j % sx;
            v += x(n, (c - first) * sz * sy * sx + tap, z / sz, i / sy, j / sx);
        }
        y(n, c, z, i, j) = v;
    }
}
