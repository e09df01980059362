// Arrays of random numbers: see random.py. A thread has a Philox block: four neighbours.

#include "common.cuh"
#include "philox.cuh"

extern "C" __global__ void random_bits_kernel(
    Array<uint32, 1> y, Array<const float64, 1> step, uint64 stream, uint64 seed
) {
    const int64 block = thread_index();
    if (4 * block >= y.size()) return;
    const Words w = philox(block, uint64(step(0)), stream, seed);
    for (int lane = 0; lane < 4; ++lane)
        if (4 * block + lane < y.size()) y(4 * block + lane) = w.lane[lane];
}

extern "C" __global__ void random_normal_kernel(
    Array<real, 1> y, Array<const float64, 1> step, uint64 stream, uint64 seed
) {
    const int64 block = thread_index();
    if (4 * block >= y.size()) return;
    float64 z[4];
    normals(block, uint64(step(0)), stream, seed, z);
    for (int lane = 0; lane < 4; ++lane)
        if (4 * block + lane < y.size()) y(4 * block + lane) = real(z[lane]);
}
