// Blocks of pixels to channels and back: see ops/strided.py for the equations.
//
// gridDim.y blocks per (image, channel) of the map that has pixels, not blocks; a thread writes a
// pixel, and goes on by as many as there are threads.

#include "common.cuh"

// y[n, (c, k), q] = x[n, first + c, S q + k], or 0 where x ends before. All taps of a channel lie
// behind each other in y: planes of one deep map.
template <class I>
__device__ inline void space_to_depth(
    const Array<const real, 5>& x, const Array<real, 5>& y, int64 first, I sz, I sy, I sx
) {
    const uint32 channels = uint32(x.shape[1] - first);
    const uint32 n = blockIdx.x / channels, c = blockIdx.x % channels;
    const I taps = sz * sy * sx, deep = I(y.shape[2]), height = I(y.shape[3]);
    const I width = I(y.shape[4]), planes = taps * deep;
    const I count = planes * height * width, step = I(gridDim.y) * blockDim.x;
    const I front = I(x.shape[2]), tall = I(x.shape[3]), wide = I(x.shape[4]);
    const real* const from = x.data + (n * x.shape[1] + first + c) * (int64(front) * tall * wide);
    real* const to = y.data + int64(blockIdx.x) * int64(count);
    I p = I(blockIdx.y) * blockDim.x + threadIdx.x;
    for (Walk<I> at(p, step, height, width); p < count; p += step, at.next()) {
        const I tap = at.z / deep, z = at.z - tap * deep, row = tap / sx, dz = row / sy;
        const I zz = z * sz + dz, i = at.y * sy + row - dz * sy, j = at.x * sx + tap - row * sx;
        const bool inside = zz < front && i < tall && j < wide;
        to[p] = inside ? from[(zz * tall + i) * wide + j] : real(0);
    }
}

extern "C" __global__ void space_to_depth_kernel(
    Array<const real, 5> x, Array<real, 5> y, int64 first, int64 sz, int64 sy, int64 sx
) {
    if (counted_in_32_bits(x) && counted_in_32_bits(y, sz * sy * sx))
        space_to_depth<uint32>(x, y, first, sz, sy, sx);
    else
        space_to_depth<int64>(x, y, first, sz, sy, sx);
}

// y[n, first + c, S q + k] = x[n, (c, k), q], or 0 where x ends before. In front of these `first`
// channels of skip; with first = 0, it is added.
template <class I>
__device__ inline void depth_to_space(
    const Array<const real, 5>& x, const Array<const real, 5>& skip,
    const Array<const real, 2>& affine, const Array<real, 5>& y, int64 first, I sz, I sy, I sx
) {
    const uint32 n = blockIdx.x / uint32(y.shape[1]), c = blockIdx.x % uint32(y.shape[1]);
    const I deep = I(y.shape[2]), height = I(y.shape[3]), width = I(y.shape[4]);
    const I count = deep * height * width, step = I(gridDim.y) * blockDim.x;
    const I front = I(x.shape[2]), tall = I(x.shape[3]), wide = I(x.shape[4]);
    const I plane = front * tall * wide;  // of a tap
    const bool beside = skip.size() > 0 && (first == 0 || c < first), there = c >= first;
    const Activation activated(affine, beside ? c : 0);
    const real* const before = skip.data + (n * skip.shape[1] + c) * int64(count);
    const real* const from = x.data + (n * x.shape[1] + (c - first) * (sz * sy * sx)) * int64(plane);
    real* const to = y.data + int64(blockIdx.x) * int64(count);
    I p = I(blockIdx.y) * blockDim.x + threadIdx.x;
    for (Walk<I> at(p, step, height, width); p < count; p += step, at.next()) {
        real v = beside ? activated(before[p]) : real(0);
        const I z = at.z / sz, i = at.y / sy, j = at.x / sx;
        if (there && z < front && i < tall && j < wide) {
            const I tap = ((at.z - z * sz) * sy + at.y - i * sy) * sx + at.x - j * sx;
            v += from[int64(tap) * plane + ((z * tall + i) * wide + j)];
        }
        to[p] = v;
    }
}

extern "C" __global__ void depth_to_space_kernel(
    Array<const real, 5> x, Array<const real, 5> skip, Array<const real, 2> affine,
    Array<real, 5> y, int64 first, int64 sz, int64 sy, int64 sx
) {
    if (counted_in_32_bits(y))
        depth_to_space<uint32>(x, skip, affine, y, first, sz, sy, sx);
    else
        depth_to_space<int64>(x, skip, affine, y, first, sz, sy, sx);
}
