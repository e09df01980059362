// Terms of a loss: see ops/loss_terms.py for the equations.
//
// A block of threads has a run of BLOCK pixels, and writes its sum; what follows sums these in
// their order.

#include "common.cuh"

constexpr int64 BLOCK = 4096;  // as in loss_terms.py

__device__ inline real absolute(real v) { return v < 0 ? -v : v; }

// Σ m ρ(x − y) and Σ m of each run; kind 0 is L2, 1 is L1, 2 is Huber.
extern "C" __global__ void masked_loss_forward_kernel(
    Array<const real, 2> x, Array<const real, 2> y, Array<const weight, 2> mask,
    Array<float64, 2> partial, int64 blocks, int64 group, int64 kind, real delta
) {
    __shared__ float64 shared[32];
    const int64 plane = blockIdx.x / blocks, first = blockIdx.x % blocks * BLOCK;
    const int64 last = min(first + BLOCK, x.shape[1]);
    const real half = real(0.5);
    float64 loss = 0, weights = 0;
    for (int64 i = first + threadIdx.x; i < last; i += blockDim.x) {
        const weight m = mask(plane / group, i);
        if (m == 0) continue;  // counts for nothing, whatever x is there
        const real r = absolute(x(plane, i) - y(plane, i));
        real rho = r;
        if (kind == 0) rho = r * r;
        if (kind == 2) rho = r > delta ? delta * (r - half * delta) : half * r * r;
        loss += float64(m) * float64(rho);
        weights += float64(m);
    }
    loss = block_sum(loss, shared);
    weights = block_sum(weights, shared);
    if (threadIdx.x == 0) {
        partial(blockIdx.x, 0) = loss;
        partial(blockIdx.x, 1) = weights;
    }
}

// gx = gl · slopes[1] · m ρ'(x − y).
extern "C" __global__ void masked_loss_backward_kernel(
    Array<const real, 2> x, Array<const real, 2> y, Array<const weight, 2> mask,
    Array<real, 2> gx, Array<const real, 1> gl, Array<const float64, 1> slopes, int64 blocks,
    int64 group, int64 kind, real delta
) {
    const real scale = real(float64(gl(0)) * slopes(1));
    const int64 plane = blockIdx.x / blocks, first = blockIdx.x % blocks * BLOCK;
    const int64 last = min(first + BLOCK, x.shape[1]);
    for (int64 i = first + threadIdx.x; i < last; i += blockDim.x) {
        const weight m = mask(plane / group, i);
        const real r = x(plane, i) - y(plane, i);
        real slope = 2 * r;
        if (kind == 1) slope = r > 0 ? real(1) : (r < 0 ? real(-1) : r);
        if (kind == 2) slope = r < -delta ? -delta : (r > delta ? delta : r);
        gx(plane, i) = m != 0 ? scale * real(m) * slope : real(0);
    }
}

// Σ relu(low − x) + relu(x − high) of each run. NaN is neither inside nor below: it is summed.
extern "C" __global__ void bound_forward_kernel(
    Array<const real, 1> x, Array<float64, 1> partial, real low, real high
) {
    __shared__ float64 shared[32];
    const int64 first = blockIdx.x * BLOCK, last = min(first + BLOCK, x.size());
    float64 excess = 0;
    for (int64 i = first + threadIdx.x; i < last; i += blockDim.x) {
        const real v = x(i);
        if (!(low <= v && v <= high)) excess += float64(v < low ? low - v : v - high);
    }
    excess = block_sum(excess, shared);
    if (threadIdx.x == 0) partial(blockIdx.x) = excess;
}

// gx = gl · slopes[1] · ([x > high] − [x < low]). One thread per pixel.
extern "C" __global__ void bound_backward_kernel(
    Array<const real, 1> x, Array<real, 1> gx, Array<const real, 1> gl,
    Array<const float64, 1> slopes, real low, real high
) {
    const int64 i = thread_index();
    const real scale = real(float64(gl(0)) * slopes(1));
    if (i < gx.size()) gx(i) = scale * (real(x(i) > high) - real(x(i) < low));
}
