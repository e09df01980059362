// Upsampling and concatenation: see ops/upsample.py for the equations.
//
// gridDim.y blocks per (image, channel) of what is written, a thread per pixel of it.

#include "common.cuh"

// F is the factor where it is known, or 0: then a division by it is one by a constant.
template <class I, int FZ, int FY, int FX>
__device__ inline void upsample_concat_forward(
    const Array<const real, 5>& skip, const Array<const real, 2>& skip_affine, const Array<const real, 5>& low,
    const Array<const real, 2>& low_affine, const Array<real, 5>& y, I given_z, I given_y, I given_x
) {
    const I fz = FZ ? I(FZ) : given_z, fy = FY ? I(FY) : given_y, fx = FX ? I(FX) : given_x;
    const uint32 channels = uint32(y.shape[1]);
    const int64 n = blockIdx.x / channels, c = blockIdx.x % channels;
    const I height = I(y.shape[3]), width = I(y.shape[4]);
    const I pixels = I(y.shape[2]) * height * width;
    const int64 k = c - skip.shape[1];  // the channel of `low`, from 0 on
    const I deep = I(low.shape[2]), tall = I(low.shape[3]), wide = I(low.shape[4]);
    const real* const from = k < 0 ? &skip(n, c, 0, 0, 0) : &low(n, k, 0, 0, 0);
    real* const to = &y(n, c, 0, 0, 0);
    for (I p = I(blockIdx.y) * blockDim.x + threadIdx.x; p < pixels; p += I(gridDim.y) * blockDim.x) {
        const Place<I> at(p, height, width);
        const I z = at.z, i = at.y, j = at.x;
        real v = 0;  // where the target has more than the source
        if (k < 0)
            v = activated(from[p], skip_affine, c);
        else if (const I a = z / fz, b = i / fy, d = j / fx; a < deep && b < tall && d < wide)
            v = activated(from[(a * tall + b) * wide + d], low_affine, k);
        to[p] = v;
    }
}

extern "C" __global__ void upsample_concat_forward_kernel(
    Array<const real, 5> skip, Array<const real, 2> skip_affine, Array<const real, 5> low,
    Array<const real, 2> low_affine, Array<real, 5> y, int64 fz, int64 fy, int64 fx
) {
    if (!counted_in_32_bits(y))
        upsample_concat_forward<int64, 0, 0, 0>(skip, skip_affine, low, low_affine, y, fz, fy, fx);
    else if (fz == 1 && fy == 2 && fx == 2)
        upsample_concat_forward<uint32, 1, 2, 2>(skip, skip_affine, low, low_affine, y, 1, 2, 2);
    else
        upsample_concat_forward<uint32, 0, 0, 0>(skip, skip_affine, low, low_affine, y, fz, fy, fx);
}

// gx[q] = the sum over what q was repeated to, of the channels of gy from `first` on.
template <class I, int FZ, int FY, int FX>
__device__ inline void upsample_backward(
    const Array<const real, 5>& gy, int64 first, const Array<real, 5>& gx, I given_z, I given_y,
    I given_x
) {
    const I fz = FZ ? I(FZ) : given_z, fy = FY ? I(FY) : given_y, fx = FX ? I(FX) : given_x;
    const uint32 channels = uint32(gx.shape[1]);
    const int64 n = blockIdx.x / channels, c = blockIdx.x % channels;
    const I height = I(gx.shape[3]), width = I(gx.shape[4]);
    const I pixels = I(gx.shape[2]) * height * width;
    const I wide = I(gy.shape[4]), plane = I(gy.shape[3]) * wide;
    const real* const from = &gy(n, first + c, 0, 0, 0);
    real* const to = &gx(n, c, 0, 0, 0);
    for (I p = I(blockIdx.y) * blockDim.x + threadIdx.x; p < pixels; p += I(gridDim.y) * blockDim.x) {
        const Place<I> at(p, height, width);
        const I z = at.z, i = at.y, j = at.x;
        const real* const block = from + (z * fz * plane + i * fy * wide + j * fx);
        real total = 0;
#pragma unroll
        for (I dz = 0; dz < fz; ++dz)
#pragma unroll
            for (I dy = 0; dy < fy; ++dy)
#pragma unroll
                for (I dx = 0; dx < fx; ++dx) total += block[dz * plane + dy * wide + dx];
        to[p] = total;
    }
}

extern "C" __global__ void upsample_backward_kernel(
    Array<const real, 5> gy, int64 first, Array<real, 5> gx, int64 fz, int64 fy, int64 fx
) {
    if (!counted_in_32_bits(gy))
        upsample_backward<int64, 0, 0, 0>(gy, first, gx, fz, fy, fx);
    else if (fz == 1 && fy == 2 && fx == 2)
        upsample_backward<uint32, 1, 2, 2>(gy, first, gx, 1, 2, 2);
    else
        upsample_backward<uint32, 0, 0, 0>(gy, first, gx, fz, fy, fx);
}
