// The optimiser: see optim.py for the equations.

#include "common.cuh"
#include "philox.cuh"

constexpr int64 BLOCK = 4096;  // as in optim.py

__device__ inline real square_root(real v) { return sqrt(v); }

// One step of Adam. A thread has four weights, those of a Philox block.
extern "C" __global__ void adam_kernel(
    Array<real, 1> w, Array<const real, 1> g, Array<real, 1> first, Array<real, 1> second,
    real b1, real a1, real b2, real a2, real eps, real l2, real l1, Array<const float64, 1> rate,
    Array<const float64, 1> root, Array<const float64, 1> sigma, Array<const float64, 1> step,
    uint64 stream, uint64 seed
) {
    const int64 block = thread_index();
    if (4 * block >= w.size()) return;
    const real pace = real(rate(0)), inverse = real(root(0)), spread = real(sigma(0));
    float64 z[4] = {0, 0, 0, 0};
    if (spread > 0) normals(block, uint64(step(0)), stream, seed, z);
    for (int lane = 0; lane < 4; ++lane) {
        const int64 i = 4 * block + lane;
        if (i >= w.size()) return;
        const real sign = real(w(i) > 0) - real(w(i) < 0);
        const real slope = g(i) + l2 * w(i) + l1 * sign;
        const real m = b1 * first(i) + a1 * slope;
        const real v = b2 * second(i) + a2 * slope * slope;
        first(i) = m;
        second(i) = v;
        real moved = w(i) - pace * m / (square_root(v) * inverse + eps);
        if (spread > 0) moved += spread * real(z[lane]);
        w(i) = moved;
    }
}

// average ← kept · average + new · params. One thread per weight.
extern "C" __global__ void moving_average_kernel(
    Array<const real, 1> params, Array<real, 1> average, real kept, real fresh
) {
    const int64 i = thread_index();
    if (i < average.size()) average(i) = kept * average(i) + fresh * params(i);
}

// statistics ← statistics + momenta · (batch − statistics). One thread per number.
extern "C" __global__ void running_kernel(
    Array<real, 1> statistics, Array<const real, 1> batch, Array<const real, 1> momenta
) {
    const int64 i = thread_index();
    if (i < batch.size()) statistics(i) += momenta(i) * (batch(i) - statistics(i));
}

// Sums of runs of BLOCK weights: a block of threads has a run.
extern "C" __global__ void total_kernel(Array<const real, 1> vector, Array<float64, 1> partial) {
    __shared__ float64 shared[32];
    const int64 first = blockIdx.x * BLOCK, last = min(first + BLOCK, vector.size());
    float64 found = 0;
    for (int64 i = first + threadIdx.x; i < last; i += blockDim.x) found += float64(vector(i));
    found = block_sum(found, shared);
    if (threadIdx.x == 0) partial(blockIdx.x) = found;
}
