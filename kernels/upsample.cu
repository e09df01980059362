// Upsampling and concatenation: see ops/upsample.py for the equations.
//
// gridDim.y blocks per (image, channel) of what is written, a thread per pixel of it.

#include "common.cuh"

extern "C" __global__ void upsample_concat_forward_kernel(
    Array<const real, 5> skip, Array<const real, 2> skip_affine, Array<const real, 5> low,
    Array<const real, 2> low_affine, Array<real, 5> y, int64 fz, int64 fy, int64 fx
) {
    const int64 n = blockIdx.x / y.shape[1], c = blockIdx.x % y.shape[1];
    const int64 height = y.shape[3], width = y.shape[4], pixels = y.shape[2] * height * width;
    const int64 k = c - skip.shape[1];  // the channel of `low`, from 0 on
    for (int64 p = int64(blockIdx.y) * blockDim.x + threadIdx.x; p < pixels;
         p += int64(gridDim.y) * blockDim.x) {
        const int64 j = p % width, i = p / width % height, z = p / width / height;
        real v = 0;  // where the target has more than the source
        if (k < 0)
            v = activated(skip(n, c, z, i, j), skip_affine, c);
        else if (z / fz < low.shape[2] && i / fy < low.shape[3] && j / fx < low.shape[4])
            v = activated(low(n, k, z / fz, i / fy, j / fx), low_affine, k);
        y(n, c, z, i, j) = v;
    }
}

// gx[q] = the sum over what q was repeated to, of the channels of gy from `first` on.
extern "C" __global__ void upsample_backward_kernel(
    Array<const real, 5> gy, int64 first, Array<real, 5> gx, int64 fz, int64 fy, int64 fx
) {
    const int64 n = blockIdx.x / gx.shape[1], c = blockIdx.x % gx.shape[1];
    const int64 height = gx.shape[3], width = gx.shape[4], pixels = gx.shape[2] * height * width;
    for (int64 p = int64(blockIdx.y) * blockDim.x + threadIdx.x; p < pixels;
         p += int64(gridDim.y) * blockDim.x) {
        const int64 j = p % width, i = p / width % height, z = p / width / height;
        real total = 0;
        for (int64 dz = 0; dz < fz; ++dz)
            for (int64 dy = 0; dy < fy; ++dy)
                for (int64 dx = 0; dx < fx; ++dx)
                    total += gy(n, first + c, z * fz + dz, i * fy + dy, j * fx + dx);
        gx(n, c, z, i, j) = total;
    }
}
