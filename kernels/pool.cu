// Max-pooling: see ops/pool.py for the equations.
//
// gridDim.y blocks per (image, channel); a thread has one pixel of what is written, so that
// neighbouring threads write neighbouring pixels. What windows share stays in the cache.

#include "common.cuh"

template <class I>
__device__ inline void max_pool_forward(
    const Array<const real, 5>& x, const Array<const real, 2>& affine, const Array<real, 5>& y,
    I wz, I wy, I wx
) {
    const uint32 channels = uint32(y.shape[1]);
    const int64 n = blockIdx.x / channels, c = blockIdx.x % channels;
    const I height = I(y.shape[3]), width = I(y.shape[4]);
    const I pixels = I(y.shape[2]) * height * width;
    for (I p = I(blockIdx.y) * blockDim.x + threadIdx.x; p < pixels; p += I(gridDim.y) * blockDim.x) {
        const Place<I> at(p, height, width);
        const I z = at.z, i = at.y, j = at.x;
        real best = activated(x(n, c, z * wz, i * wy, j * wx), affine, c);
        for (I dz = 0; dz < wz; ++dz)
            for (I dy = 0; dy < wy; ++dy)
                for (I dx = 0; dx < wx; ++dx) {
                    const real v =
                        activated(x(n, c, z * wz + dz, i * wy + dy, j * wx + dx), affine, c);
                    best = v > best ? v : best;
                }
        y(n, c, z, i, j) = best;
    }
}

extern "C" __global__ void max_pool_forward_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<real, 5> y, int64 wz, int64 wy,
    int64 wx
) {
    if (counted_in_32_bits(y))
        max_pool_forward<uint32>(x, affine, y, wz, wy, wx);
    else
        max_pool_forward<int64>(x, affine, y, wz, wy, wx);
}

// gx is gy where its pixel was the first maximum of its window, else 0; `plus` is added.
template <class I>
__device__ inline void max_pool_backward(
    const Array<const real, 5>& x, const Array<const real, 2>& affine, const Array<const real, 5>& gy,
    const Array<const real, 5>& plus, const Array<real, 5>& gx, I wz, I wy, I wx
) {
    const uint32 channels = uint32(gx.shape[1]);
    const int64 n = blockIdx.x / channels, c = blockIdx.x % channels;
    const I height = I(gx.shape[3]), width = I(gx.shape[4]);
    const I pixels = I(gx.shape[2]) * height * width;
    const bool add = plus.size() > 0;
    for (I p = I(blockIdx.y) * blockDim.x + threadIdx.x; p < pixels; p += I(gridDim.y) * blockDim.x) {
        const Place<I> at(p, height, width);
        const I z = at.z, i = at.y, j = at.x;
        const I qz = z / wz, qy = i / wy, qx = j / wx;
        real g = add ? plus(n, c, z, i, j) : real(0);
        if (qz < gy.shape[2] && qy < gy.shape[3] && qx < gy.shape[4]) {
            I winner = 0, place = 0;
            real best = activated(x(n, c, qz * wz, qy * wy, qx * wx), affine, c);
            for (I dz = 0; dz < wz; ++dz)
                for (I dy = 0; dy < wy; ++dy)
                    for (I dx = 0; dx < wx; ++dx, ++place) {
                        const real v = activated(
                            x(n, c, qz * wz + dz, qy * wy + dy, qx * wx + dx), affine, c
                        );
                        if (v > best) best = v, winner = place;
                    }
            if (winner == ((z % wz) * wy + i % wy) * wx + j % wx) g += gy(n, c, qz, qy, qx);
        }
        gx(n, c, z, i, j) = g;
    }
}

extern "C" __global__ void max_pool_backward_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<const real, 5> gy,
    Array<const real, 5> plus, Array<real, 5> gx, int64 wz, int64 wy, int64 wx
) {
    if (counted_in_32_bits(gx))
        max_pool_backward<uint32>(x, affine, gy, plus, gx, wz, wy, wx);
    else
        max_pool_backward<int64>(x, affine, gy, plus, gx, wz, wy, wx);
}
