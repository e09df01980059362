// The optimiser: see optim.py for the equations.

#include "common.cuh"
#include "philox.cuh"

__device__ inline real square_root(real v) { return sqrt(v); }

// One step of Adam. A thread has four weights, those of a Philox block.
extern "C" __global__ void adam_kernel(
    Array<real, 1> w, Array<const real, 1> g, Array<real, 1> first, Array<real, 1> second,
    real b1, real a1, real b2, real a2, real rate, real root, real eps, real l2, real l1,
    real sigma, uint64 step, uint64 stream, uint64 seed
) {
    const int64 block = thread_index();
    if (4 * block >= w.size()) return;
    float64 z[4] = {0, 0, 0, 0};
    if (sigma > 0) normals(block, step, stream, seed, z);
    for (int lane = 0; lane < 4; ++lane) {
        const int64 i = 4 * block + lane;
        if (i >= w.size()) return;
        const real sign = real(w(i) > 0) - real(w(i) < 0);
        const real slope = g(i) + l2 * w(i) + l1 * sign;
        const real m = b1 * first(i) + a1 * slope;
        const real v = b2 * second(i) + a2 * slope * slope;
        first(i) = m;
        second(i) = v;
        real moved = w(i) - rate * m / (square_root(v) * root + eps);
        if (sigma > 0) moved += sigma * real(z[lane]);
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
