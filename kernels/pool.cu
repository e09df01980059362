// Max-pooling: see ops/pool.py for the equations.
//
// gridDim.y blocks per (image, channel); a thread has one pixel of what is written, so that
// neighbouring threads write neighbouring pixels. What windows share stays in the cache.

#include "common.cuh"

// W is the window where it is known, or 0: then a division by it is one by a constant.
template <class I, int WZ, int WY, int WX>
__device__ inline void max_pool_forward(
    const Array<const real, 5>& x, const Array<const real, 2>& affine, const Array<real, 5>& y,
    I given_z, I given_y, I given_x
) {
    const I wz = WZ ? I(WZ) : given_z, wy = WY ? I(WY) : given_y, wx = WX ? I(WX) : given_x;
    const uint32 channels = uint32(y.shape[1]);
    const int64 n = blockIdx.x / channels, c = blockIdx.x % channels;
    const I height = I(y.shape[3]), width = I(y.shape[4]);
    const I pixels = I(y.shape[2]) * height * width;
    const I wide = I(x.shape[4]), plane = I(x.shape[3]) * wide;
    const real* const from = &x(n, c, 0, 0, 0);
    real* const to = &y(n, c, 0, 0, 0);
    for (I p = I(blockIdx.y) * blockDim.x + threadIdx.x; p < pixels; p += I(gridDim.y) * blockDim.x) {
        const Place<I> at(p, height, width);
        const real* const window = from + (at.z * wz * plane + at.y * wy * wide + at.x * wx);
        real best = activated(*window, affine, c);
#pragma unroll
        for (I dz = 0; dz < wz; ++dz)
#pragma unroll
            for (I dy = 0; dy < wy; ++dy)
#pragma unroll
                for (I dx = 0; dx < wx; ++dx) {
                    const real v = activated(window[dz * plane + dy * wide + dx], affine, c);
                    best = v > best ? v : best;
                }
        to[p] = best;
    }
}

extern "C" __global__ void max_pool_forward_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<real, 5> y, int64 wz, int64 wy,
    int64 wx
) {
    if (!counted_in_32_bits(x))
        max_pool_forward<int64, 0, 0, 0>(x, affine, y, wz, wy, wx);
    else if (wz == 1 && wy == 2 && wx == 2)
        max_pool_forward<uint32, 1, 2, 2>(x, affine, y, 1, 2, 2);
    else
        max_pool_forward<uint32, 0, 0, 0>(x, affine, y, wz, wy, wx);
}

// gx is gy where its pixel was the first maximum of its window, else 0; `plus` is added. A thread has
// a window, or what is left of one at the end.
template <class I, int WZ, int WY, int WX>
__device__ inline void max_pool_backward(
    const Array<const real, 5>& x, const Array<const real, 2>& affine, const Array<const real, 5>& gy,
    const Array<const real, 5>& plus, const Array<real, 5>& gx, I given_z, I given_y, I given_x
) {
    const I wz = WZ ? I(WZ) : given_z, wy = WY ? I(WY) : given_y, wx = WX ? I(WX) : given_x;
    const uint32 channels = uint32(gx.shape[1]);
    const int64 n = blockIdx.x / channels, c = blockIdx.x % channels;
    const I deep = I(gx.shape[2]), tall = I(gx.shape[3]), wide = I(gx.shape[4]), plane = tall * wide;
    const I height = (tall + wy - 1) / wy, width = (wide + wx - 1) / wx;
    const I windows = (deep + wz - 1) / wz * height * width;
    const bool add = plus.size() > 0;
    const int64 map = &gx(n, c, 0, 0, 0) - gx.data;
    for (I p = I(blockIdx.y) * blockDim.x + threadIdx.x; p < windows;
         p += I(gridDim.y) * blockDim.x) {
        const Place<I> at(p, height, width);
        const I z = at.z * wz, y = at.y * wy, first = at.x * wx;
        const int64 corner = map + (z * plane + y * wide + first);
        const real* const window = x.data + corner;
        const bool whole = z + wz <= deep && y + wy <= tall && first + wx <= wide;
        I winner = 0, place = 0;
        real g = 0;
        if (whole) {
            g = gy(n, c, at.z, at.y, at.x);
            real best = activated(*window, affine, c);
#pragma unroll
            for (I dz = 0; dz < wz; ++dz)
#pragma unroll
                for (I dy = 0; dy < wy; ++dy)
#pragma unroll
                    for (I dx = 0; dx < wx; ++dx, ++place) {
                        const real v = activated(window[dz * plane + dy * wide + dx], affine, c);
                        if (v > best) best = v, winner = place;
                    }
        }
        place = 0;
#pragma unroll
        for (I dz = 0; dz < wz; ++dz)
#pragma unroll
            for (I dy = 0; dy < wy; ++dy)
#pragma unroll
                for (I dx = 0; dx < wx; ++dx, ++place) {
                    if (!whole && (z + dz >= deep || y + dy >= tall || first + dx >= wide)) continue;
                    const int64 pixel = corner + (dz * plane + dy * wide + dx);
                    real v = add ? plus.data[pixel] : real(0);
                    if (whole && place == winner) v += g;
                    gx.data[pixel] = v;
                }
    }
}

extern "C" __global__ void max_pool_backward_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<const real, 5> gy,
    Array<const real, 5> plus, Array<real, 5> gx, int64 wz, int64 wy, int64 wx
) {
    if (!counted_in_32_bits(gx))
        max_pool_backward<int64, 0, 0, 0>(x, affine, gy, plus, gx, wz, wy, wx);
    else if (wz == 1 && wy == 2 && wx == 2)
        max_pool_backward<uint32, 1, 2, 2>(x, affine, gy, plus, gx, 1, 2, 2);
    else
        max_pool_backward<uint32, 0, 0, 0>(x, affine, gy, plus, gx, wz, wy, wx);
}
