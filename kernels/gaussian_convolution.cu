// A Gaussian's transfer function, and its gradient: see ops/gaussian_convolution.py for the
// equations. A block has a row of the half spectrum.

#include "common.cuh"

struct Gaussian {  // what a row needs to know
    float64 wide_z, along, across, cosine, sine;
};

__device__ inline Gaussian gaussian_of(Array<const real, 1> parameters) {
    const float64 wide = exp(2.0 * float64(parameters(1))), a = parameters(2);
    const float64 angle = parameters(3);
    return {
        exp(2.0 * float64(parameters(0))), wide * exp(2.0 * a), wide * exp(-2.0 * a), cos(angle),
        sin(angle)
    };
}

__device__ inline float64 frequency(int64 k, int64 size) {
    return float64(2 * k <= size ? k : k - size) / float64(size);
}

extern "C" __global__ void gaussian_transfer_kernel(
    Array<const real, 1> parameters, Array<real, 4> transfer, int64 width, int64 cz, int64 cy,
    int64 cx
) {
    const float64 pi = 3.141592653589793;
    const Gaussian h = gaussian_of(parameters);
    const int64 depth = transfer.shape[0], height = transfer.shape[1], columns = transfer.shape[2];
    const int64 z = blockIdx.x / height, y = blockIdx.x % height;
    const float64 fz = frequency(z, depth), fy = frequency(y, height);
    const float64 tz = float64(parameters(4)) - float64(cz), ty = float64(parameters(5)) - float64(cy);
    const float64 tx = float64(parameters(6)) - float64(cx);
    for (int64 x = threadIdx.x; x < columns; x += blockDim.x) {
        const float64 fx = float64(x) / float64(width);
        const float64 u = h.cosine * fx + h.sine * fy, v = h.cosine * fy - h.sine * fx;
        const float64 power = h.wide_z * fz * fz + h.along * u * u + h.across * v * v;
        const float64 size = exp(-2.0 * pi * pi * power);
        const float64 turn = -2.0 * pi * (fz * tz + fy * ty + fx * tx);
        transfer(z, y, x, 0) = real(size * cos(turn));
        transfer(z, y, x, 1) = real(size * sin(turn));
    }
}

extern "C" __global__ void gaussian_gradient_kernel(
    Array<const real, 1> parameters, Array<const real, 4> product, Array<float64, 2> partial,
    int64 width
) {
    __shared__ float64 shared[32];
    const float64 pi = 3.141592653589793;
    const Gaussian h = gaussian_of(parameters);
    const int64 depth = product.shape[0], height = product.shape[1], columns = product.shape[2];
    const int64 row = blockIdx.x, z = row / height, y = row % height;
    const float64 fz = frequency(z, depth), fy = frequency(y, height);
    float64 sums[6] = {0, 0, 0, 0, 0, 0};
    for (int64 x = threadIdx.x; x < columns; x += blockDim.x) {
        const float64 fx = float64(x) / float64(width);
        const float64 u = h.cosine * fx + h.sine * fy, v = h.cosine * fy - h.sine * fx;
        const float64 twice = x == 0 || 2 * x == width ? 1.0 : 2.0;
        const float64 re = twice * float64(product(z, y, x, 0));
        const float64 im = twice * float64(product(z, y, x, 1));
        sums[0] += re;
        sums[1] += re * (h.along * u * u + h.across * v * v);
        sums[2] += re * (h.along * u * u - h.across * v * v);
        sums[3] += re * u * v;
        sums[4] += im;
        sums[5] += im * fx;
    }
    for (int i = 0; i < 6; ++i) sums[i] = block_sum(sums[i], shared);
    if (threadIdx.x != 0) return;
    const float64 slope = -4.0 * pi * pi;
    partial(row, 0) = slope * h.wide_z * fz * fz * sums[0];
    partial(row, 1) = slope * sums[1];
    partial(row, 2) = slope * sums[2];
    partial(row, 3) = slope * (h.along - h.across) * sums[3];
    partial(row, 4) = 2.0 * pi * fz * sums[4];
    partial(row, 5) = 2.0 * pi * fy * sums[4];
    partial(row, 6) = 2.0 * pi * sums[5];
}
