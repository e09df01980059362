// Upsampling and concatenation: see ops/upsample.py for the equations.
//
// gridDim.y blocks per (image, channel) of what is written; a thread writes N pixels of a line at
// once, and goes on by as many as there are threads.

#include "common.cuh"

// F is the factor where it is known when this is compiled, or 0. With N > 1, so it must be, and N
// pixels fill lines without a rest.
template <class I, int FZ, int FY, int FX, int N>
__device__ inline void upsample_concat_forward(
    const Array<const real, 5>& skip, const Array<const real, 2>& skip_affine, const Array<const real, 5>& low,
    const Array<const real, 2>& low_affine, const Array<real, 5>& y, I given_z, I given_y, I given_x
) {
    constexpr int READ = N > 1 ? N / FX : 1;
    const I fz = FZ ? I(FZ) : given_z, fy = FY ? I(FY) : given_y, fx = FX ? I(FX) : given_x;
    const uint32 n = blockIdx.x / uint32(y.shape[1]), c = blockIdx.x % uint32(y.shape[1]);
    const I height = I(y.shape[3]), width = I(y.shape[4]) / N;
    const I count = I(y.shape[2]) * height * width, step = I(gridDim.y) * blockDim.x;
    real* const to = y.data + int64(blockIdx.x) * (int64(count) * N);
    I p = I(blockIdx.y) * blockDim.x + threadIdx.x;
    if (c < skip.shape[1]) {
        const Activation activated(skip_affine, c);
        const real* const from = skip.data + (n * skip.shape[1] + c) * (int64(count) * N);
        for (; p < count; p += step) {
            Pack<N> v = load<N>(from + p * N);
#pragma unroll
            for (int k = 0; k < N; ++k) v.at[k] = activated(v.at[k]);
            store(to + p * N, v);
        }
        return;
    }
    const int64 of = c - skip.shape[1];  // the channel of `low`
    const I deep = I(low.shape[2]), tall = I(low.shape[3]), wide = I(low.shape[4]);
    const Activation activated(low_affine, of);
    const real* const from = low.data + (n * low.shape[1] + of) * (low.shape[2] * tall * wide);
    for (Walk<I> at(p, step, height, width); p < count; p += step, at.next()) {
        const I z = at.z / fz, i = at.y / fy, j = at.x * N / fx;
        Pack<N> v = {};  // where the target has more than the source
        if (z < deep && i < tall && j < wide) {
            const auto few = load<READ>(from + ((z * tall + i) * wide + j));
#pragma unroll
            for (int k = 0; k < N; ++k) v.at[k] = activated(few.at[k * READ / N]);
        }
        store(to + p * N, v);
    }
}

extern "C" __global__ void upsample_concat_forward_kernel(
    Array<const real, 5> skip, Array<const real, 2> skip_affine, Array<const real, 5> low,
    Array<const real, 2> low_affine, Array<real, 5> y, int64 fz, int64 fy, int64 fx
) {
    const bool two = fz == 1 && fy == 2 && fx == 2;
    if (!counted_in_32_bits(y))
        upsample_concat_forward<int64, 0, 0, 0, 1>(skip, skip_affine, low, low_affine, y, fz, fy, fx);
    else if (two && in_packs<4>(skip) && in_packs<2>(low) && in_packs<4>(y))
        upsample_concat_forward<uint32, 1, 2, 2, 4>(skip, skip_affine, low, low_affine, y, 1, 2, 2);
    else if (two)
        upsample_concat_forward<uint32, 1, 2, 2, 1>(skip, skip_affine, low, low_affine, y, 1, 2, 2);
    else
        upsample_concat_forward<uint32, 0, 0, 0, 1>(skip, skip_affine, low, low_affine, y, fz, fy, fx);
}

// gx[q] = the sum over what q was repeated to, of the channels of gy from `first` on.
template <class I, int FZ, int FY, int FX, int N>
__device__ inline void upsample_backward(
    const Array<const real, 5>& gy, int64 first, const Array<real, 5>& gx, I given_z, I given_y,
    I given_x
) {
    constexpr int READ = N > 1 ? N * FX : 1;
    const I fz = FZ ? I(FZ) : given_z, fy = FY ? I(FY) : given_y, fx = FX ? I(FX) : given_x;
    const uint32 n = blockIdx.x / uint32(gx.shape[1]), c = blockIdx.x % uint32(gx.shape[1]);
    const I height = I(gx.shape[3]), width = I(gx.shape[4]) / N;
    const I count = I(gx.shape[2]) * height * width, step = I(gridDim.y) * blockDim.x;
    const I wide = I(gy.shape[4]), plane = I(gy.shape[3]) * wide;
    const real* const from = gy.data + (n * gy.shape[1] + first + c) * (gy.shape[2] * plane);
    real* const to = gx.data + int64(blockIdx.x) * (int64(count) * N);
    I p = I(blockIdx.y) * blockDim.x + threadIdx.x;
    for (Walk<I> at(p, step, height, width); p < count; p += step, at.next()) {
        const real* const block = from + (at.z * fz * plane + at.y * fy * wide + at.x * (N * fx));
        Pack<N> total = {};
#pragma unroll
        for (I dz = 0; dz < fz; ++dz)
#pragma unroll
            for (I dy = 0; dy < fy; ++dy)
#pragma unroll
                for (I dx = 0; dx < N * fx; dx += READ) {
                    const auto row = load<READ>(block + (dz * plane + dy * wide + dx));
#pragma unroll
                    for (int k = 0; k < READ; ++k) total.at[k / (READ / N)] += row.at[k];
                }
        store(to + p * N, total);
    }
}

extern "C" __global__ void upsample_backward_kernel(
    Array<const real, 5> gy, int64 first, Array<real, 5> gx, int64 fz, int64 fy, int64 fx
) {
    const bool two = fz == 1 && fy == 2 && fx == 2;
    if (!counted_in_32_bits(gy))
        upsample_backward<int64, 0, 0, 0, 1>(gy, first, gx, fz, fy, fx);
    else if (two && in_packs<4>(gy) && in_packs<2>(gx))
        upsample_backward<uint32, 1, 2, 2, 2>(gy, first, gx, 1, 2, 2);
    else if (two)
        upsample_backward<uint32, 1, 2, 2, 1>(gy, first, gx, 1, 2, 2);
    else
        upsample_backward<uint32, 0, 0, 0, 1>(gy, first, gx, fz, fy, fx);
}
