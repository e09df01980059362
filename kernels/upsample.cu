// Upsampling and concatenation: see ops/upsample.py for the equations.
//
// gridDim.y blocks per (image, channel) of what is written, a thread per pixel of it.

#include "common.cuh"

template <class I>
__device__ inline void upsample_concat_forward(
    const Array<const real, 5>& skip, const Array<const real, 2>& skip_affine, const Array<const real, 5>& low,
    const Array<const real, 2>& low_affine, const Array<real, 5>& y, I fz, I fy, I fx
) {
    const uint32 channels = uint32(y.shape[1]);
    const int64 n = blockIdx.x / channels, c = blockIdx.x % channels;
    const I height = I(y.shape[3]), width = I(y.shape[4]);
    const I pixels = I(y.shape[2]) * height * width;
    const int64 k = c - skip.shape[1];  // the channel of `low`, from 0 on
    for (I p = I(blockIdx.y) * blockDim.x + threadIdx.x; p < pixels; p += I(gridDim.y) * blockDim.x) {
        const Place<I> at(p, height, width);
        const I z = at.z, i = at.y, j = at.x;
        real v = 0;  // where the target has more than the source
        if (k < 0)
            v = activated(skip(n, c, z, i, j), skip_affine, c);
        else if (z / fz < low.shape[2] && i / fy < low.shape[3] && j / fx < low.shape[4])
            v = activated(low(n, k, z / fz, i / fy, j / fx), low_affine, k);
        y(n, c, z, i, j) = v;
    }
}

extern "C" __global__ void upsample_concat_forward_kernel(
    Array<const real, 5> skip, Array<const real, 2> skip_affine, Array<const real, 5> low,
    Array<const real, 2> low_affine, Array<real, 5> y, int64 fz, int64 fy, int64 fx
) {
    if (counted_in_32_bits(y))
        upsample_concat_forward<uint32>(skip, skip_affine, low, low_affine, y, fz, fy, fx);
    else
        upsample_concat_forward<int64>(skip, skip_affine, low, low_affine, y, fz, fy, fx);
}

// gx[q] = the sum over what q was repeated to, of the channels of gy from `first` on.
template <class I>
__device__ inline void upsample_backward(
    const Array<const real, 5>& gy, int64 first, const Array<real, 5>& gx, I fz, I fy, I fx
) {
    const uint32 channels = uint32(gx.shape[1]);
    const int64 n = blockIdx.x / channels, c = blockIdx.x % channels;
    const I height = I(gx.shape[3]), width = I(gx.shape[4]);
    const I pixels = I(gx.shape[2]) * height * width;
    for (I p = I(blockIdx.y) * blockDim.x + threadIdx.x; p < pixels; p += I(gridDim.y) * blockDim.x) {
        const Place<I> at(p, height, width);
        const I z = at.z, i = at.y, j = at.x;
        real total = 0;
        for (I dz = 0; dz < fz; ++dz)
            for (I dy = 0; dy < fy; ++dy)
                for (I dx = 0; dx < fx; ++dx)
                    total += gy(n, first + c, z * fz + dz, i * fy + dy, j * fx + dx);
        gx(n, c, z, i, j) = total;
    }
}

extern "C" __global__ void upsample_backward_kernel(
    Array<const real, 5> gy, int64 first, Array<real, 5> gx, int64 fz, int64 fy, int64 fx
) {
    if (counted_in_32_bits(gx))
        upsample_backward<uint32>(gy, first, gx, fz, fy, fx);
    else
        upsample_backward<int64>(gy, first, gx, fz, fy, fx);
}
