// The sum of two maps: see ops/add.py. One thread per element.

#include "common.cuh"

extern "C" __global__ void add_kernel(
    Array<const real, 1> a, Array<const real, 1> b, Array<real, 1> y
) {
    const int64 i = thread_index();
    if (i < y.size()) y(i) = a(i) + b(i);
}
