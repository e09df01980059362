// Max-pooling: see ops/pool.py for the equations.
//
// gridDim.y blocks per (image, channel); a thread has one pixel of what is written, so that
// neighbouring threads write neighbouring pixels. What windows share stays in the cache.

#include "common.cuh"

extern "C" __global__ void max_pool_forward_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<real, 5> y, int64 wz, int64 wy,
    int64 wx
) {
    const int64 n = blockIdx.x / y.shape[1], c = blockIdx.x % y.shape[1];
    const int64 height = y.shape[3], width = y.shape[4], pixels = y.shape[2] * height * width;
    for (int64 p = int64(blockIdx.y) * blockDim.x + threadIdx.x; p < pixels;
         p += int64(gridDim.y) * blockDim.x) {
        const int64 j = p % width, i = p / width % height, z = p / width / height;
        real best = activated(x(n, c, z * wz, i * wy, j * wx), affine, c);
        for (int64 dz = 0; dz < wz; ++dz)
            for (int64 dy = 0; dy < wy; ++dy)
                for (int64 dx = 0; dx < wx; ++dx) {
                    const real v =
                        activated(x(n, c, z * wz + dz, i * wy + dy, j * wx + dx), affine, c);
                    best = v > best ? v : best;
                }
        y(n, c, z, i, j) = best;
    }
}

// gx is gy where its pixel was the first maximum of its window, else 0; `plus` is added.
extern "C" __global__ void max_pool_backward_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<const real, 5> gy,
    Array<const real, 5> plus, Array<real, 5> gx, int64 wz, int64 wy, int64 wx
) {
    const int64 n = blockIdx.x / gx.shape[1], c = blockIdx.x % gx.shape[1];
    const int64 height = gx.shape[3], width = gx.shape[4], pixels = gx.shape[2] * height * width;
    const bool add = plus.size() > 0;
    for (int64 p = int64(blockIdx.y) * blockDim.x + threadIdx.x; p < pixels;
         p += int64(gridDim.y) * blockDim.x) {
        const int64 j = p % width, i = p / width % height, z = p / width / height;
        const int64 qz = z / wz, qy = i / wy, qx = j / wx;
        real g = add ? plus(n, c, z, i, j) : real(0);
        if (qz < gy.shape[2] && qy < gy.shape[3] && qx < gy.shape[4]) {
            int64 at = 0, place = 0;
            real best = activated(x(n, c, qz * wz, qy * wy, qx * wx), affine, c);
            for (int64 dz = 0; dz < wz; ++dz)
                for (int64 dy = 0; dy < wy; ++dy)
                    for (int64 dx = 0; dx < wx; ++dx, ++place) {
                        const real v = activated(
                            x(n, c, qz * wz + dz, qy * wy + dy, qx * wx + dx), affine, c
                        );
                        if (v > best) best = v, at = place;
                    }
            if (at == ((z % wz) * wy + i % wy) * wx + j % wx) g += gy(n, c, qz, qy, qx);
        }
        gx(n, c, z, i, j) = g;
    }
}
