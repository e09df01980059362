// A spectrum times a transfer function: see ops/fft_convolution.py. gridDim.y blocks for each line.

#include "common.cuh"

// spectrum ← spectrum · transfer, or its conjugate, complex numbers as two real ones.
extern "C" __global__ void filter_kernel(
    Array<real, 3> spectrum, Array<const real, 3> transfer, bool conjugate
) {
    const int64 line = blockIdx.x, columns = spectrum.shape[1];
    const int64 of = line % transfer.shape[0];
    for (int64 i = int64(blockIdx.y) * blockDim.x + threadIdx.x; i < columns;
         i += int64(gridDim.y) * blockDim.x) {
        const real a = spectrum(line, i, 0), b = spectrum(line, i, 1);
        const real c = transfer(of, i, 0), d = conjugate ? -transfer(of, i, 1) : transfer(of, i, 1);
        spectrum(line, i, 0) = a * c - b * d;
        spectrum(line, i, 1) = a * d + b * c;
    }
}
