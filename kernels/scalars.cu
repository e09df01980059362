// Single numbers that stay on the device: see ops/scalars.py for the equations.

#include "common.cuh"

// One block of threads sums all parts, each thread every so many of them.
extern "C" __global__ void reduced_kernel(
    Array<const float64, 2> partial, Array<real, 1> value, Array<float64, 1> found,
    float64 divisor, int64 power
) {
    __shared__ float64 shared[32];
    float64 total = 0, weight = 0;
    for (int64 i = threadIdx.x; i < partial.shape[0]; i += blockDim.x) {
        total += partial(i, 0);
        if (divisor == 0) weight += partial(i, 1);
    }
    total = block_sum(total, shared);
    weight = block_sum(weight, shared);
    if (threadIdx.x > 0) return;
    const float64 by = divisor != 0 ? divisor : (weight != 0 ? weight : 1.0);
    float64 mean = total / by, slope = 1;
    if (power == 2) slope = 2 * mean, mean *= mean;
    if (power == 0) mean = sqrt(mean), slope = mean > 0 ? 0.5 / mean : 0.0;
    value(0) = real(mean);
    found(0) = mean;
    found(1) = slope / by;
}

// total ← factor · term, or total + factor · term; `value` is that, rounded. One thread per number.
extern "C" __global__ void weighted_kernel(
    Array<const real, 1> term, Array<float64, 1> total, Array<real, 1> value, float64 factor,
    bool first
) {
    const int64 i = thread_index();
    if (i >= term.size()) return;
    const float64 sum = (first ? 0.0 : total(i)) + factor * float64(term(i));
    total(i) = sum;
    if (value.size() > 0) value(i) = real(sum);
}
