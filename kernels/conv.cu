// Convolution, its statistics, and its gradient by the weights: see ops/conv.py for the equations.
//
// A "plane" is an input channel at one of the kz distances along Z: with the taps ordered as
// [input, kz][ky][kx], 2-D and 3-D are one loop over planes.

#include "common.cuh"
#include "tiles.cuh"

constexpr int OUTS = 8;  // output channels that a thread sums at once: the blocks of `w`
constexpr int RESIDENT = sizeof(real) == 4 ? 2 : 1;  // blocks whose registers fit a processor

// ---- forward ----------------------------------------------------------------------------------
//
// y[o, p] = b[o] + Σ_plane Σ_ky Σ_kx w[plane, ky, kx, o] · x[plane, p + k − P]
//
// A block has a tile of (4 blockDim.x) × blockDim.y pixels of OUTS output channels. Its threads
// bring some planes of x and their weights into shared memory, with the affine and ReLU that the
// reader of a map must apply; then each sums OUTS × 4 numbers in registers, so that one load of four
// pixels and one of four weights feed 16 multiply-adds. Where the image is so small that its tiles
// would leave processors idle, blockDim.z groups of threads share the planes among them (a plane
// each, in turn), and sum in the end, in their order.

// sums[o][p] += Σ w[dx][o] · row[p + dx] over TAPS taps, or the first `taps` of 4.
template <int TAPS>
__device__ inline void add_taps(
    real (&sums)[OUTS][PIXELS], const real* row, const real* weights, int taps
) {
    real window[2 * PIXELS];
    *reinterpret_cast<Four*>(window) = load_four(row);
    if (TAPS > 1) *reinterpret_cast<Four*>(window + PIXELS) = load_four(row + PIXELS);
#pragma unroll
    for (int dx = 0; dx < TAPS; ++dx) {
        if (TAPS == 4 && dx >= taps) break;
        const Four low = load_four(weights + dx * OUTS), high = load_four(weights + dx * OUTS + 4);
#pragma unroll
        for (int o = 0; o < OUTS; ++o)
#pragma unroll
            for (int p = 0; p < PIXELS; ++p)
                sums[o][p] = fma(o < 4 ? low.at[o % 4] : high.at[o % 4], window[p + dx], sums[o][p]);
    }
}

// Kernels of width 1, 3 and 5 (all that the network has) are loops of known length.
__device__ inline void add_row(
    real (&sums)[OUTS][PIXELS], const real* row, const real* weights, int kx
) {
    if (kx == 5)
        add_taps<5>(sums, row, weights, 5);
    else if (kx == 3)
        add_taps<3>(sums, row, weights, 3);
    else if (kx == 1)
        add_taps<1>(sums, row, weights, 1);
    else
        for (int dx = 0; dx < kx; dx += 4)
            add_taps<4>(sums, row + dx, weights + dx * OUTS, kx - dx);
}

// Four pixels of y, and what they add to the moments; none where the tile is over the edge.
__device__ inline void store_four(
    const Array<real, 5>& y, int64 n, int64 channel, int64 z, int64 line, int64 column, real bias,
    const real (&v)[PIXELS], real& total, real& squares
) {
    const int64 width = y.shape[4];
    if (channel >= y.shape[1] || line >= y.shape[3] || column >= width) return;
    real* to = &y(n, channel, z, line, column);
    const int inside = int(min(width - column, int64(PIXELS)));
    if (inside == PIXELS && width % PIXELS == 0) {
        Four biased;
        for (int p = 0; p < PIXELS; ++p) biased.at[p] = v[p] + bias;
        *reinterpret_cast<Four*>(to) = biased;
    }
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) {
        if (p >= inside) break;
        if (width % PIXELS != 0) to[p] = v[p] + bias;
        total += v[p];
        squares += v[p] * v[p];
    }
}

extern "C" __global__ void __launch_bounds__(256, RESIDENT) conv_forward_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<const real, 3> w,
    Array<const real, 1> b, Array<const int64, 1> taps, Array<real, 5> y, Array<float64, 3> sums,
    int64 kz, int64 ky, int64 kx, int64 rows, int64 groups, int64 tile
) {
    DYNAMIC_SHARED(real, shared);
    __shared__ float64 moments[OUTS][2][8];  // of each warp
    const int slices = int(blockDim.z), slice = int(threadIdx.z);
    const int in_slice = int(threadIdx.x + blockDim.x * threadIdx.y);
    const int per_slice = int(blockDim.x * blockDim.y), threads = per_slice * slices;
    const int thread = in_slice + per_slice * slice;
    const int tall = int(blockDim.y + ky - 1), length = row_length(int(blockDim.x) * PIXELS, int(kx));
    const int filter = int(ky * kx) * OUTS;
    const int planes = int(x.shape[1] * kz);
    // as many planes as fit: the same as in forward_launch of conv_tiling.py
    const int fit = 40960 / (int(sizeof(real)) * (tall * length + filter) * slices);
    const int staged = slices * max(1, min(fit, 4));
    real* const weights = shared + staged * tall * length;

    const int64 tiles_x = (y.shape[4] + blockDim.x * PIXELS - 1) / (blockDim.x * PIXELS);
    // tiles of all planes along X, for along Z a grid ends at 65535
    const int64 tiles = tiles_x * ((y.shape[3] + blockDim.y - 1) / blockDim.y);
    const int64 at = blockIdx.x % tiles, of = blockIdx.x / tiles;
    const int64 y0 = at / tiles_x * blockDim.y, x0 = at % tiles_x * blockDim.x * PIXELS;
    const int64 n = of / y.shape[2], z = of % y.shape[2];
    const int64 line = y0 + threadIdx.y, column = x0 + threadIdx.x * PIXELS;
    const bool inside = line < y.shape[3] && column < y.shape[4];
    const real* const filters = &w(blockIdx.y, 0, 0);

    real acc[OUTS][PIXELS] = {};
    for (int first = 0; first < planes; first += staged) {
        const int here = min(staged, planes - first);
        copy_planes(shared, here, tall, length, x, affine, n, z, y0 - ky / 2, x0 - kx / 2, first,
                    int(kz), thread / 32, threads / 32, thread % 32);
        const Four* const from = reinterpret_cast<const Four*>(filters + int64(first) * filter);
        for (int i = thread; i < here * filter / 4; i += threads)
            reinterpret_cast<Four*>(weights)[i] = from[i];
        __syncthreads();
        for (int plane = slice; inside && plane < here; plane += slices)
            for (int dy = 0; dy < ky; ++dy) {
                const int row = plane * tall + int(threadIdx.y) + dy;
                add_row(acc, shared + row * length + threadIdx.x * PIXELS,
                        weights + (plane * int(ky) + dy) * int(kx) * OUTS, int(kx));
            }
        __syncthreads();
    }

#pragma unroll
    for (int half = 0; half < OUTS; half += 4) {
        if (slices > 1) {  // [slice][output][pixel][thread], so that a warp reads side by side
            __syncthreads();
#pragma unroll
            for (int o = 0; o < 4; ++o)
#pragma unroll
                for (int p = 0; p < PIXELS; ++p)
                    shared[((slice * 4 + o) * PIXELS + p) * per_slice + in_slice] = acc[half + o][p];
            __syncthreads();
        }
#pragma unroll
        for (int o = 0; o < 4; ++o) {
            if (slices > 1 && o % slices != slice) continue;  // a slice each, in turn
            real v[PIXELS];
#pragma unroll
            for (int p = 0; p < PIXELS; ++p) {
                v[p] = acc[half + o][p];
                if (slices == 1) continue;
                v[p] = 0;
                for (int s = 0; s < slices; ++s)
                    v[p] += shared[((s * 4 + o) * PIXELS + p) * per_slice + in_slice];
            }
            const int64 channel = int64(blockIdx.y) * OUTS + half + o;
            real total = 0, squares = 0;
            store_four(y, n, channel, z, line, column, channel < y.shape[1] ? b(channel) : real(0),
                       v, total, squares);
            if (sums.shape[0] == 0) continue;
            total = warp_sum(total);
            squares = warp_sum(squares);
            if (thread % 32 == 0) {
                moments[half + o][0][in_slice / 32] = total;
                moments[half + o][1][in_slice / 32] = squares;
            }
        }
    }
    if (sums.shape[0] == 0) return;
    __syncthreads();
    const int64 channel = int64(blockIdx.y) * OUTS + thread / 2;
    if (thread >= 2 * OUTS || channel >= y.shape[1]) return;
    float64 total = 0;
    for (int warp = 0; warp < per_slice / 32; ++warp) total += moments[thread / 2][thread % 2][warp];
    sums(blockIdx.x, thread % 2, channel) = total;
}

// ---- gradient by the weights ------------------------------------------------------------------
//
// gw[o, plane, ky, kx] = Σ_p gy[o, p] · x[plane, p + k − P]
//
// blockIdx.x is a slice of the image (some bands of `rows` rows), blockIdx.y a block of OUTS output
// channels, blockIdx.z some planes, or a part of one if kernels are tall. Each warp has one row of
// taps, (plane, ky): its 32 threads go over the pixels of a tile of gy and of x in shared memory,
// four at a time, with OUTS × kx sums in registers, and are summed in the end. The slices' sums are
// added afterwards, in their order.

constexpr int TILE_X = 64, TILE_Y = 8;
constexpr int WARPS = sizeof(real) == 4 ? 10 : 8;  // of a block, at most: they share registers

// sums[o][dx] += Σ_p gy[o][p] · row[p + dx], for four pixels.
template <int TAPS>
__device__ inline void add_products(real (&sums)[OUTS][TAPS], const real* row, const real* gy) {
    real window[2 * PIXELS];
    *reinterpret_cast<Four*>(window) = load_four(row);
    if (TAPS > 1) *reinterpret_cast<Four*>(window + PIXELS) = load_four(row + PIXELS);
#pragma unroll
    for (int o = 0; o < OUTS; ++o) {
        const Four g = load_four(gy + o * TILE_Y * TILE_X);
#pragma unroll
        for (int dx = 0; dx < TAPS; ++dx)
#pragma unroll
            for (int p = 0; p < PIXELS; ++p)
                sums[o][dx] = fma(g.at[p], window[p + dx], sums[o][dx]);
    }
}

// Taps dx0 … dx0 + TAPS − 1 of this warp's row, over all tiles of this block's slice.
template <int TAPS>
__device__ inline void gather_taps(
    const Array<const real, 5>& x, const Array<const real, 2>& affine,
    const Array<const real, 5>& gy, const Array<real, 5>& partial, const Array<real, 2>& bias,
    int kz, int ky, int kx, int dx0, int64 rows, int64 slices, real* shared, real* biases
) {
    const int lane = int(threadIdx.x), warp = int(threadIdx.y), warps = int(blockDim.y);
    const int lines = min(ky, WARPS), chunks = (ky + lines - 1) / lines;  // of ky
    const int planes = int(x.shape[1]) * kz, per_block = warps / lines;
    const int first = int(blockIdx.z) / chunks * per_block, here = min(per_block, planes - first);
    const int dy0 = int(blockIdx.z) % chunks * lines, dy = dy0 + warp % lines;
    const bool busy = warp / lines < here && dy < ky;
    const int tall = TILE_Y + lines - 1, length = row_length(TILE_X, kx);
    real* const tile = shared + OUTS * TILE_Y * TILE_X;  // gy comes first
    const int64 channels = gy.shape[1], depth = gy.shape[2], height = gy.shape[3];
    const int64 width = gy.shape[4], bands = (height + rows - 1) / rows;
    const int64 count = gy.shape[0] * depth * bands, part = blockIdx.x, block = blockIdx.y;
    const bool sum_bias = dx0 == 0 && blockIdx.z == 0;
    if (warp == 0 && lane < OUTS) biases[lane] = 0;

    real acc[OUTS][TAPS] = {};
    for (int64 band = part * count / slices; band < (part + 1) * count / slices; ++band) {
        const int64 n = band / (depth * bands), z = band / bands % depth;
        const int64 top = band % bands * rows, bottom = min(top + rows, height);
        for (int64 y0 = top; y0 < bottom; y0 += TILE_Y)
            for (int64 x0 = 0; x0 < width; x0 += TILE_X) {
                __syncthreads();  // nobody reads the last tile any more
                for (int r = warp; r < OUTS * TILE_Y; r += warps) {
                    const int64 o = block * OUTS + r / TILE_Y, line = y0 + r % TILE_Y;
                    const bool inside = o < channels && line < bottom;
                    const real* row = inside ? &gy(n, o, z, line, 0) : nullptr;
                    copy_row(shared + r * TILE_X, TILE_X, row, x0, width, false, 1, 0, lane);
                }
                copy_planes(tile, here, tall, length, x, affine, n, z, y0 + dy0 - ky / 2,
                            x0 - kx / 2, first, kz, warp, warps, lane);
                __syncthreads();
                for (int o = warp; sum_bias && o < OUTS; o += warps) {
                    real total = 0;
                    for (int at = lane; at < TILE_Y * TILE_X; at += 32)
                        total += shared[o * TILE_Y * TILE_X + at];
                    total = warp_sum(total);
                    if (lane == 0) biases[o] += total;
                }
                if (!busy) continue;
                const real* const mine = tile + (warp / lines * tall + warp % lines) * length + dx0;
#pragma unroll 1
                for (int at = lane * PIXELS; at < TILE_Y * TILE_X; at += 32 * PIXELS) {
                    const int line = at / TILE_X, column = at % TILE_X;
                    if (y0 + line >= bottom || x0 + column >= width) continue;
                    add_products<TAPS>(acc, mine + line * length + column, shared + at);
                }
            }
    }
    __syncthreads();
    if (sum_bias && warp == 0 && lane < OUTS && block * OUTS + lane < channels)
        bias(part, block * OUTS + lane) = biases[lane];
    if (!busy) return;
    const int64 tap = (int64(first + warp / lines) * ky + dy) * kx + dx0;
#pragma unroll
    for (int o = 0; o < OUTS; ++o) {
#pragma unroll
        for (int dx = 0; dx < TAPS; ++dx) {
            const real total = warp_sum(acc[o][dx]);
            if (lane == 0 && dx0 + dx < kx)
                partial(part, block, (tap + dx) / 3, o, (tap + dx) % 3) = total;
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) conv_weights_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<const real, 5> gy,
    Array<const int64, 1> taps, Array<real, 5> partial, Array<real, 2> bias, int64 kz, int64 ky,
    int64 kx, int64 rows, int64 slices
) {
    DYNAMIC_SHARED(real, shared);
    __shared__ real sums[OUTS];  // of gy, each by one warp
    const int z = int(kz), y = int(ky), k = int(kx);
    if (kx == 5)
        gather_taps<5>(x, affine, gy, partial, bias, z, y, k, 0, rows, slices, shared, sums);
    else if (kx == 3)
        gather_taps<3>(x, affine, gy, partial, bias, z, y, k, 0, rows, slices, shared, sums);
    else if (kx == 1)
        gather_taps<1>(x, affine, gy, partial, bias, z, y, k, 0, rows, slices, shared, sums);
    else
        for (int dx = 0; dx < k; dx += 4)
            gather_taps<4>(x, affine, gy, partial, bias, z, y, k, dx, rows, slices, shared, sums);
}
