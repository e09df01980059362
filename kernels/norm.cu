// Batch normalisation: see ops/norm.py for the equations.
//
// The sums have one block per (image, channel, run of `block` pixels); the maps are gone through
// by gridDim.y blocks per (image, channel).

#include "common.cuh"

// Of each run of pixels, Σ (x − pivot) and Σ (x − pivot)².
extern "C" __global__ void batch_moments_kernel(
    Array<const real, 5> x, Array<const real, 1> pivot, Array<float64, 4> partial, int64 block
) {
    __shared__ float64 shared[32];
    const int64 blocks = partial.shape[2], row = blockIdx.x / blocks;
    const int64 pixels = x.shape[2] * x.shape[3] * x.shape[4];
    const int64 first = blockIdx.x % blocks * block;
    const int64 last = first + block < pixels ? first + block : pixels;
    const real around = pivot(row % x.shape[1]);
    float64 total = 0, squares = 0;
    for (int64 i = first + threadIdx.x; i < last; i += blockDim.x) {
        const float64 v = x.flat(row * pixels + i) - around;
        total += v;
        squares += v * v;
    }
    total = block_sum(total, shared);
    squares = block_sum(squares, shared);
    if (threadIdx.x == 0) {
        partial.flat(2 * int64(blockIdx.x)) = total;
        partial.flat(2 * int64(blockIdx.x) + 1) = squares;
    }
}

// y = scale · x + shift, and its ReLU on request.
extern "C" __global__ void batch_norm_forward_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<real, 5> y, bool relu
) {
    const int64 row = blockIdx.x, channel = row % x.shape[1];
    const int64 pixels = x.shape[2] * x.shape[3] * x.shape[4];
    const real scale = affine(0, channel), shift = affine(1, channel);
    for (int64 i = int64(blockIdx.y) * blockDim.x + threadIdx.x; i < pixels;
         i += int64(gridDim.y) * blockDim.x) {
        const real v = x.flat(row * pixels + i) * scale + shift;
        y.flat(row * pixels + i) = v > 0 || !relu ? v : real(0);
    }
}

// Of each run of pixels, Σ gy and Σ gy · (x − μ); gy counts only where the ReLU passes it.
extern "C" __global__ void batch_norm_sums_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<const real, 5> gy,
    Array<const real, 1> centre, Array<float64, 4> partial, bool relu, int64 block
) {
    __shared__ float64 shared[32];
    const int64 blocks = partial.shape[2], row = blockIdx.x / blocks, channel = row % x.shape[1];
    const int64 pixels = x.shape[2] * x.shape[3] * x.shape[4];
    const int64 first = blockIdx.x % blocks * block;
    const int64 last = first + block < pixels ? first + block : pixels;
    const real scale = affine(0, channel), shift = affine(1, channel), mean = centre(channel);
    // A thread sums some hundred pixels in the arrays' own precision, the block in double.
    real total = 0, product = 0;
    for (int64 i = first + threadIdx.x; i < last; i += blockDim.x) {
        const real v = x.flat(row * pixels + i);
        real g = gy.flat(row * pixels + i);
        if (relu && !(v * scale + shift > 0)) g = 0;
        total += g;
        product += g * (v - mean);
    }
    const float64 all = block_sum(float64(total), shared);
    const float64 products = block_sum(float64(product), shared);
    if (threadIdx.x == 0) {
        partial.flat(2 * int64(blockIdx.x)) = all;
        partial.flat(2 * int64(blockIdx.x) + 1) = products;
    }
}

// gx = a · gy + b · (x − μ) + c, with the three coefficients of each channel.
extern "C" __global__ void batch_norm_backward_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<const real, 5> gy,
    Array<const real, 1> centre, Array<const real, 2> coefficients, Array<real, 5> gx, bool relu
) {
    const int64 row = blockIdx.x, channel = row % x.shape[1];
    const int64 pixels = x.shape[2] * x.shape[3] * x.shape[4];
    const real scale = affine(0, channel), shift = affine(1, channel), mean = centre(channel);
    const real a = coefficients(0, channel), b = coefficients(1, channel);
    const real c = coefficients(2, channel);
    for (int64 i = int64(blockIdx.y) * blockDim.x + threadIdx.x; i < pixels;
         i += int64(gridDim.y) * blockDim.x) {
        const real v = x.flat(row * pixels + i);
        real g = gy.flat(row * pixels + i);
        if (relu && !(v * scale + shift > 0)) g = 0;
        gx.flat(row * pixels + i) = a * g + b * (v - mean) + c;
    }
}
