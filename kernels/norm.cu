// Batch normalisation: see ops/norm.py for the equations.
//
// The sums over parts have one block per (image, channel, run of `block` pixels); the maps are gone
// through by gridDim.y blocks per (image, channel).

#include "common.cuh"

// Which entry of an affine is that of row (n, c): each branch of images has entries of its own.
__device__ inline int64 column_of(
    int64 row, const Array<const real, 5>& x, const Array<const real, 2>& affine
) {
    const int64 channels = x.shape[1];
    return row / channels * (affine.shape[1] / channels) / x.shape[0] * channels + row % channels;
}

// Of each part, Σ (x − pivot) and Σ (x − pivot)².
extern "C" __global__ void batch_moments_kernel(
    Array<const real, 5> x, Array<const real, 1> pivot, Array<float64, 3> moments, int64 block
) {
    __shared__ float64 shared[32];
    const int64 channels = x.shape[1];
    const int64 blocks = moments.shape[0] / x.shape[0], row = blockIdx.x / blocks;
    const int64 pixels = x.shape[2] * x.shape[3] * x.shape[4];
    const int64 first = blockIdx.x % blocks * block;
    const int64 last = first + block < pixels ? first + block : pixels;
    const real around = pivot(row % channels);
    float64 total = 0, squares = 0;
    for (int64 i = first + threadIdx.x; i < last; i += blockDim.x) {
        const float64 v = x.flat(row * pixels + i) - around;
        total += v;
        squares += v * v;
    }
    total = block_sum(total, shared);
    squares = block_sum(squares, shared);
    if (threadIdx.x == 0) {
        const int64 part = row / channels * blocks + blockIdx.x % blocks;
        moments(part, 0, row % channels) = total;
        moments(part, 1, row % channels) = squares;
    }
}

// Scale and shift from the sums, or from the `given` mean and variance. One block per channel.
extern "C" __global__ void batch_affine_kernel(
    Array<const float64, 3> moments, Array<const real, 1> pivot, Array<const float64, 2> given,
    Array<const real, 1> gamma, Array<const real, 1> beta, Array<real, 2> affine,
    Array<float64, 2> found, Array<real, 2> into, int64 at, int64 count, float64 eps
) {
    __shared__ float64 shared[32];
    const int64 c = blockIdx.x, channels = gamma.shape[0], parts = moments.shape[0];
    const int64 branches = affine.shape[1] / channels;
    for (int64 branch = 0; branch < branches; ++branch) {
        const int64 last = (branch + 1) * parts / branches;
        float64 total = 0, squares = 0;
        for (int64 part = branch * parts / branches + threadIdx.x; part < last;
             part += blockDim.x) {
            total += moments(part, 0, c);
            squares += moments(part, 1, c);
        }
        total = block_sum(total, shared) / count;
        squares = block_sum(squares, shared) / count;
        if (threadIdx.x > 0) continue;
        float64 mean = total + (pivot.size() > 0 ? float64(pivot(c)) : 0.0);
        float64 variance = squares - total * total;
        if (variance < 0) variance = 0;
        if (into.size() > 0) {
            into(branch, at + c) = mean;
            into(branch, at + channels + c) = variance * count / (count > 1 ? count - 1 : 1);
        }
        if (given.size() > 0) {
            mean = given(0, c);
            variance = given(1, c);
        }
        const float64 inverse_std = 1 / sqrt(variance + eps);
        const int64 column = branch * channels + c;
        const float64 scale = gamma(c) * inverse_std;
        affine(0, column) = scale;
        affine(1, column) = beta(c) - scale * mean;
        found(0, column) = mean;
        found(1, column) = inverse_std;
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

// Of each part, Σ gy and Σ gy · (x − μ); gy counts only where the ReLU passes it.
extern "C" __global__ void batch_norm_sums_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<const real, 5> gy,
    Array<const float64, 2> found, Array<float64, 3> partial, bool relu, int64 block
) {
    __shared__ float64 shared[32];
    const int64 blocks = partial.shape[0] / x.shape[0], row = blockIdx.x / blocks;
    const int64 column = column_of(row, x, affine);
    const int64 pixels = x.shape[2] * x.shape[3] * x.shape[4];
    const int64 first = blockIdx.x % blocks * block;
    const int64 last = first + block < pixels ? first + block : pixels;
    const real scale = affine(0, column), shift = affine(1, column), mean = found(0, column);
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
        const int64 part = row / x.shape[1] * blocks + blockIdx.x % blocks;
        partial(part, 0, row % x.shape[1]) = all;
        partial(part, 1, row % x.shape[1]) = products;
    }
}

// What the next kernel takes from the sums, and (gγ, gβ). One block per channel.
extern "C" __global__ void batch_norm_coefficients_kernel(
    Array<const float64, 3> partial, Array<const real, 2> affine, Array<const float64, 2> found,
    Array<real, 2> coefficients, Array<real, 1> g_gamma, Array<real, 1> g_beta, int64 count
) {
    __shared__ float64 shared[32];
    const int64 c = blockIdx.x, parts = partial.shape[0], channels = partial.shape[2];
    const int64 branches = affine.shape[1] / channels;
    float64 totals = 0, products = 0;
    for (int64 branch = 0; branch < branches; ++branch) {
        const int64 last = (branch + 1) * parts / branches;
        float64 total = 0, product = 0;
        for (int64 part = branch * parts / branches + threadIdx.x; part < last;
             part += blockDim.x) {
            total += partial(part, 0, c);
            product += partial(part, 1, c);
        }
        total = block_sum(total, shared);
        product = block_sum(product, shared);
        if (threadIdx.x > 0) continue;
        const int64 column = branch * channels + c;
        const float64 inverse_std = found(1, column);
        product *= inverse_std;
        const float64 scale = affine(0, column);
        coefficients(0, column) = affine(0, column);
        coefficients(1, column) = count ? -scale * inverse_std * product / count : 0;
        coefficients(2, column) = count ? -scale * total / count : 0;
        totals += total;
        products += product;
    }
    if (threadIdx.x > 0) return;
    g_gamma(c) = products;
    g_beta(c) = totals;
}

// gx = a · gy + b · (x − μ) + c, with the three coefficients of each channel; `plus` is added.
extern "C" __global__ void batch_norm_backward_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<const real, 5> gy,
    Array<const float64, 2> found, Array<const real, 2> coefficients,
    Array<const real, 5> plus, Array<real, 5> gx, bool relu
) {
    const int64 row = blockIdx.x, column = column_of(row, x, affine);
    const int64 pixels = x.shape[2] * x.shape[3] * x.shape[4];
    const real scale = affine(0, column), shift = affine(1, column), mean = found(0, column);
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
