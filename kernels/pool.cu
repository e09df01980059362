// Max-pooling: see ops/pool.py for the equations.
//
// gridDim.y blocks per (image, channel); a thread has N windows of a line at once, and goes on by as
// many as there are threads. Neighbouring threads have neighbouring windows.

#include "common.cuh"

// W is the window where it is known when this is compiled, or 0. With N > 1, so it must be, N windows
// fill lines without a rest, and their rows are read at once.
template <class I, int WZ, int WY, int WX, int N>
__device__ inline void max_pool_forward(
    const Array<const real, 5>& x, const Array<const real, 2>& affine, const Array<real, 5>& y,
    I given_z, I given_y, I given_x
) {
    constexpr int READ = N > 1 ? N * WX : 1;
    const I wz = WZ ? I(WZ) : given_z, wy = WY ? I(WY) : given_y, wx = WX ? I(WX) : given_x;
    const I height = I(y.shape[3]), width = I(y.shape[4]) / N;
    const I count = I(y.shape[2]) * height * width, step = I(gridDim.y) * blockDim.x;
    const I wide = I(x.shape[4]), plane = I(x.shape[3]) * wide;
    const Activation activated(affine, blockIdx.x % uint32(x.shape[1]));
    const real* const from = x.data + int64(blockIdx.x) * (x.shape[2] * plane);
    real* const to = y.data + int64(blockIdx.x) * (int64(count) * N);
    I p = I(blockIdx.y) * blockDim.x + threadIdx.x;
    for (Walk<I> at(p, step, height, width); p < count; p += step, at.next()) {
        const real* const windows = from + (at.z * wz * plane + at.y * wy * wide + at.x * (N * wx));
        Pack<N> best = {};
#pragma unroll
        for (I dz = 0; dz < wz; ++dz)
#pragma unroll
            for (I dy = 0; dy < wy; ++dy)
#pragma unroll
                for (I dx = 0; dx < N * wx; dx += READ) {
                    const auto row = load<READ>(windows + (dz * plane + dy * wide + dx));
#pragma unroll
                    for (int k = 0; k < READ; ++k) {
                        const bool first = dz == 0 && dy == 0 && dx == 0 && k % (READ / N) == 0;
                        const real v = activated(row.at[k]);
                        real& most = best.at[k / (READ / N)];
                        most = first || v > most ? v : most;
                    }
                }
        store(to + p * N, best);
    }
}

extern "C" __global__ void max_pool_forward_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<real, 5> y, int64 wz, int64 wy,
    int64 wx
) {
    const bool two = wz == 1 && wy == 2 && wx == 2;
    if (!counted_in_32_bits(x))
        max_pool_forward<int64, 0, 0, 0, 1>(x, affine, y, wz, wy, wx);
    else if (two && in_packs<4>(x) && in_packs<2>(y))
        max_pool_forward<uint32, 1, 2, 2, 2>(x, affine, y, 1, 2, 2);
    else if (two)
        max_pool_forward<uint32, 1, 2, 2, 1>(x, affine, y, 1, 2, 2);
    else
        max_pool_forward<uint32, 0, 0, 0, 1>(x, affine, y, wz, wy, wx);
}

// gx is gy where its pixel was the first maximum of its window, else 0; `plus` is added. Lines may end
// with what is left of a window.
template <class I, int WZ, int WY, int WX, int N>
__device__ inline void max_pool_backward(
    const Array<const real, 5>& x, const Array<const real, 2>& affine, const Array<const real, 5>& gy,
    const Array<const real, 5>& plus, const Array<real, 5>& gx, I given_z, I given_y, I given_x
) {
    constexpr int READ = N > 1 ? N * WX : 1;
    const I wz = WZ ? I(WZ) : given_z, wy = WY ? I(WY) : given_y, wx = WX ? I(WX) : given_x;
    const I deep = I(gx.shape[2]), tall = I(gx.shape[3]), wide = I(gx.shape[4]), plane = tall * wide;
    const I height = (tall + wy - 1) / wy, width = (wide + wx - 1) / wx / N;
    const I count = (deep + wz - 1) / wz * height * width, step = I(gridDim.y) * blockDim.x;
    const I rows = I(gy.shape[3]), columns = I(gy.shape[4]);
    const Activation activated(affine, blockIdx.x % uint32(x.shape[1]));
    const int64 map = int64(blockIdx.x) * (int64(deep) * plane);
    const real* const grads = gy.data + int64(blockIdx.x) * (gy.shape[2] * rows * columns);
    const bool add = plus.size() > 0;
    I p = I(blockIdx.y) * blockDim.x + threadIdx.x;
    for (Walk<I> at(p, step, height, width); p < count; p += step, at.next()) {
        const I z = at.z * wz, y = at.y * wy, left = at.x * (N * wx);
        const bool whole = z + wz <= deep && y + wy <= tall && left + N * wx <= wide;
        const int64 corner = map + (z * plane + y * wide + left);
        Pack<N> g = {}, best = {};
        I winner[N] = {};
        if (whole) {
            g = load<N>(grads + ((at.z * rows + at.y) * columns + at.x * N));
#pragma unroll
            for (I dz = 0; dz < wz; ++dz)
#pragma unroll
                for (I dy = 0; dy < wy; ++dy)
#pragma unroll
                    for (I dx = 0; dx < N * wx; dx += READ) {
                        const auto row = load<READ>(x.data + corner + (dz * plane + dy * wide + dx));
#pragma unroll
                        for (int k = 0; k < READ; ++k) {
                            const I place = (dz * wy + dy) * wx + dx + k % (READ / N);
                            const real v = activated(row.at[k]);
                            const int of = k / (READ / N);
                            if (place == 0 || v > best.at[of]) best.at[of] = v, winner[of] = place;
                        }
                    }
        }
#pragma unroll
        for (I dz = 0; dz < wz; ++dz)
#pragma unroll
            for (I dy = 0; dy < wy; ++dy)
#pragma unroll
                for (I dx = 0; dx < N * wx; dx += READ) {
                    if (!whole && (z + dz >= deep || y + dy >= tall || left + dx >= wide)) continue;
                    const int64 here = corner + (dz * plane + dy * wide + dx);
                    Pack<READ> v = {};
                    if (add) v = load<READ>(plus.data + here);
#pragma unroll
                    for (int k = 0; k < READ; ++k) {
                        const I place = (dz * wy + dy) * wx + dx + k % (READ / N);
                        const int of = k / (READ / N);
                        if (whole && place == winner[of]) v.at[k] += g.at[of];
                    }
                    store(gx.data + here, v);
                }
    }
}

extern "C" __global__ void max_pool_backward_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<const real, 5> gy,
    Array<const real, 5> plus, Array<real, 5> gx, int64 wz, int64 wy, int64 wx
) {
    const bool two = wz == 1 && wy == 2 && wx == 2;
    if (!counted_in_32_bits(gx))
        max_pool_backward<int64, 0, 0, 0, 1>(x, affine, gy, plus, gx, wz, wy, wx);
    else if (two && in_packs<4>(x) && in_packs<4>(plus) && in_packs<4>(gx) && in_packs<2>(gy))
        max_pool_backward<uint32, 1, 2, 2, 2>(x, affine, gy, plus, gx, 1, 2, 2);
    else if (two)
        max_pool_backward<uint32, 1, 2, 2, 1>(x, affine, gy, plus, gx, 1, 2, 2);
    else
        max_pool_backward<uint32, 0, 0, 0, 1>(x, affine, gy, plus, gx, wz, wy, wx);
}
