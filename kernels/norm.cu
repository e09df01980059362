// Batch normalisation: see ops/norm.py for the equations.
//
// The sums have one block per (image, channel, run of `block` pixels); the maps are gone through
// by gridDim.y blocks per (image, channel).

#include "common.cuh"

// Which entry of an affine is that of row (n, c): each branch of images has entries of its own.
__device__ inline int64 column_of(
    int64 row, const Array<const real, 5>& x, const Array<const real, 2>& affine
) {
    const int64 channels = x.shape[1];
    return row / channels * (affine.shape[1] / channels) / x.shape[0] * channels + row % channels;
}

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
    const int64 row = blockIdx.x, column = column_of(row, x, affine);
    const int64 pixels = x.shape[2] * x.shape[3] * x.shape[4];
    const real scale = affine(0, column), shift = affine(1, column);
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
    const int64 blocks = partial.shape[2], row = blockIdx.x / blocks;
    const int64 column = column_of(row, x, affine);
    const int64 pixels = x.shape[2] * x.shape[3] * x.shape[4];
    const int64 first = blockIdx.x % blocks * block;
    const int64 last = first + block < pixels ? first + block : pixels;
    const real scale = affine(0, column), shift = affine(1, column), mean = centre(column);
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

// What the next kernel takes from the sums, and (gγ, gβ). One thread per channel.
extern "C" __global__ void batch_norm_coefficients_kernel(
    Array<const float64, 4> partial, Array<const real, 2> affine,
    Array<const float64, 1> inverse_std, Array<real, 2> coefficients, Array<real, 2> gradient,
    int64 count
) {
    const int64 c = thread_index(), images = partial.shape[0], channels = partial.shape[1];
    if (c >= channels) return;
    const int64 branches = affine.shape[1] / channels;
    float64 g_gamma = 0, g_beta = 0;
    for (int64 branch = 0; branch < branches; ++branch) {
        const int64 first = branch * images / branches, last = (branch + 1) * images / branches;
        float64 total = 0, product = 0;
        for (int64 n = first; n < last; ++n)
            for (int64 block = 0; block < partial.shape[2]; ++block) {
                total += partial(n, c, block, 0);
                product += partial(n, c, block, 1);
            }
        const int64 column = branch * channels + c;
        product *= inverse_std(column);
        const float64 scale = affine(0, column);
        coefficients(0, column) = affine(0, column);
        coefficients(1, column) = count ? -scale * inverse_std(column) * product / count : 0;
        coefficients(2, column) = count ? -scale * total / count : 0;
        g_gamma += product;
        g_beta += total;
    }
    gradient(0, c) = g_gamma;
    gradient(1, c) = g_beta;
}

// gx = a · gy + b · (x − μ) + c, with the three coefficients of each channel; `plus` is added.
extern "C" __global__ void batch_norm_backward_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<const real, 5> gy,
    Array<const real, 1> centre, Array<const real, 2> coefficients,
    Array<const real, 5> plus, Array<real, 5> gx, bool relu
) {
    const int64 row = blockIdx.x, column = column_of(row, x, affine);
    const int64 pixels = x.shape[2] * x.shape[3] * x.shape[4];
    const real scale = affine(0, column), shift = affine(1, column), mean = centre(column);
    const real a = coefficients(0, column), b = coefficients(1, column);
    const real c = coefficients(2, column);
    const bool add = plus.size() > 0;
    for (int64 i = int64(blockIdx.y) * blockDim.x + threadIdx.x; i < pixels;
         i += int64(gridDim.y) * blockDim.x) {
        const real v = x.flat(row * pixels + i);
        real g = gy.flat(row * pixels + i);
        if (relu && !(v * scale + shift > 0)) g = 0;
        g = a * g + b * (v - mean) + c;
        gx.flat(row * pixels + i) = add ? g + plus.flat(row * pixels + i) : g;
    }
}
