// Convolution with a small PSF: see ops/direct_convolution.py for the equations.

#include "common.cuh"
#include "tiles.cuh"

// y[i] = Σ_j psf[j] x[i + j]. A block has (4 blockDim.x) × blockDim.y pixels of one plane, a thread
// four of them; of each plane of x that they reach, the part that is needed is in shared memory,
// and so are the lines of the PSF. `weights` is [kz][ky + 7][kx][8], of which the first of the 8
// is the PSF.
extern "C" __global__ void __launch_bounds__(256, 2) direct_convolution_kernel(
    Array<const real, 4> x, Array<const int64, 1> taps, Array<const real, 1> weights,
    Array<real, 4> y, int64 pixels
) {
    DYNAMIC_SHARED(real, shared);
    const int kz = int(x.shape[1] - y.shape[1]) + 1, ky = int(x.shape[2] - y.shape[2]) + 1;
    const int kx = int(x.shape[3] - y.shape[3]) + 1;
    const int tall = int(blockDim.y) + ky - 1, length = row_length(int(blockDim.x) * PIXELS, kx);
    real* const psf = shared + tall * length;
    const int threads = int(blockDim.x * blockDim.y);
    const int thread = int(threadIdx.x + blockDim.x * threadIdx.y);
    const int64 tiles_x = (y.shape[3] + blockDim.x * PIXELS - 1) / (blockDim.x * PIXELS);
    // tiles of all planes along X, for along Y and Z a grid ends at 65535
    const int64 tiles = tiles_x * ((y.shape[2] + blockDim.y - 1) / blockDim.y);
    const int64 at = blockIdx.x % tiles, of = blockIdx.x / tiles;
    const int64 y0 = at / tiles_x * blockDim.y, x0 = at % tiles_x * blockDim.x * PIXELS;
    const int64 c = of / y.shape[1], z = of % y.shape[1];

    real acc[PIXELS] = {};
    for (int dz = 0; dz < kz; ++dz) {
        __syncthreads();  // nobody reads the last plane any more
        for (int r = thread / 32; r < tall; r += threads / 32) {
            const real* row = y0 + r < x.shape[2] ? &x(c, z + dz, y0 + r, 0) : nullptr;
            copy_row(shared + r * length, length, row, x0, x.shape[3], false, 1, 0, thread % 32);
        }
        for (int tap = thread; tap < ky * kx; tap += threads)
            psf[tap] = weights((int64(dz) * (ky + 7) * kx + tap) * 8);
        __syncthreads();
        for (int dy = 0; dy < ky; ++dy) {
            const real* row = shared + (threadIdx.y + dy) * length + threadIdx.x * PIXELS;
            Four low = load_four(row);
            for (int dx = 0; dx < kx; dx += PIXELS) {
                const Four high = dx + 1 < kx ? load_four(row + dx + PIXELS) : low;
#pragma unroll
                for (int d = 0; d < PIXELS; ++d) {
                    if (dx + d >= kx) break;
                    const real weight = psf[dy * kx + dx + d];
#pragma unroll
                    for (int p = 0; p < PIXELS; ++p)
                        acc[p] = fma(weight, p + d < PIXELS ? low.at[p + d] : high.at[p + d - PIXELS],
                                     acc[p]);
                }
                low = high;
            }
        }
    }
    const int64 line = y0 + threadIdx.y, column = x0 + threadIdx.x * PIXELS;
    for (int p = 0; p < PIXELS; ++p)
        if (line < y.shape[2] && column + p < y.shape[3]) y(c, z, line, column + p) = acc[p];
}
