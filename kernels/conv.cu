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

    const int height = int(y.shape[3]), width = int(y.shape[4]), depth = int(y.shape[2]);
    const int tall_y = int(blockDim.y), wide_y = int(blockDim.x) * PIXELS;
    const int tiles_x = (width + wide_y - 1) / wide_y;
    // tiles of all planes along X, for along Z a grid ends at 65535
    const int tiles = tiles_x * ((height + tall_y - 1) / tall_y);
    const int at = int(blockIdx.x) % tiles, of = int(blockIdx.x) / tiles;
    const int y0 = at / tiles_x * tall_y, x0 = at % tiles_x * wide_y, n = of / depth, z = of % depth;
    const int line = y0 + int(threadIdx.y), column = x0 + int(threadIdx.x) * PIXELS;
    const bool inside = line < height && column < width;
    const real* const filters = &w(blockIdx.y, 0, 0);

    real acc[OUTS][PIXELS] = {};
    for (int first = 0; first < planes; first += staged) {
        const int here = min(staged, planes - first);
        const Planes some = {here, tall, length, n, z, y0 - int(ky) / 2, x0 - int(kx) / 2, first,
                             int(kz)};
        copy_planes(shared, some, x, thread / 32, threads / 32, thread % 32);
        const Four* const from = reinterpret_cast<const Four*>(filters + int64(first) * filter);
        for (int i = thread; i < here * filter / 4; i += threads)
            copy_async(reinterpret_cast<Four*>(weights) + i, from + i, true);
        arrived();
        activate_planes(shared, some, x, affine, thread / 32, threads / 32, thread % 32);
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
// blockIdx.x is a slice of the image's tiles and some planes, or a part of one if kernels are tall;
// blockIdx.y a block of OUTS output channels. A tile of gy and those planes of x come to shared
// memory. Each warp has ROWS rows of taps, (plane, ky) each, so that one load of gy is for all of
// them: its 32 threads go over the tile's pixels, four at a time, with ROWS × OUTS × kx sums in
// registers, and are summed in the end. The slices' sums are added afterwards, in their order.

constexpr int TILE_X = 64, TILE_Y = sizeof(real) == 4 ? 12 : 8;
constexpr int TILE = TILE_X * TILE_Y;
constexpr int WARPS = 8;  // of a block
constexpr int MOST = 62 << 10;  // bytes of shared memory for its tiles, which every GPU has

// sums[r][o][dx] += Σ_p gy[o][p] · row[r][p + dx], for four pixels.
template <int ROWS, int TAPS>
__device__ inline void add_products(
    real (&sums)[ROWS][OUTS][TAPS], const real* tile, const int (&rows)[ROWS], const real* gy
) {
    real window[ROWS][2 * PIXELS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        *reinterpret_cast<Four*>(window[r]) = load_four(tile + rows[r]);
        if (TAPS > 1)
            *reinterpret_cast<Four*>(window[r] + PIXELS) = load_four(tile + rows[r] + PIXELS);
    }
#pragma unroll
    for (int o = 0; o < OUTS; ++o) {
        const Four g = load_four(gy + o * TILE);
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int dx = 0; dx < TAPS; ++dx)
#pragma unroll
                for (int p = 0; p < PIXELS; ++p)
                    sums[r][o][dx] = fma(g.at[p], window[r][p + dx], sums[r][o][dx]);
    }
}

// Begins to copy a tile of OUTS channels of gy; zeros where it has nothing.
__device__ inline void copy_gradient(
    real* to, const Array<const real, 5>& gy, int n, int first, int z, int y0, int x0, int thread,
    int threads
) {
    constexpr int FOURS = TILE_X / PIXELS;
    const int channels = int(gy.shape[1]), height = int(gy.shape[3]), width = int(gy.shape[4]);
    const uint64 address = reinterpret_cast<uint64>(gy.data);
    const bool aligned = width % PIXELS == 0 && address % sizeof(Four) == 0;
    const int column = x0 + thread % FOURS * PIXELS;
#pragma unroll 1
    for (int line = thread / FOURS; line < TILE_Y; line += threads / FOURS) {
        const bool there = y0 + line < height && column < width;
        const uint32 plane = uint32(gy.shape[2] * height * width);  // of a channel: 16 GiB at most
        const real* from = gy.data + (int64(n) * channels + first) * plane;
        from += (int64(z) * height + y0 + line) * width + column;
        real* at = to + line * TILE_X + thread % FOURS * PIXELS;
#pragma unroll 1
        for (int o = 0; o < OUTS; ++o) {
            const bool inside = there && first + o < channels;
            if (aligned)
                copy_async(reinterpret_cast<Four*>(at), reinterpret_cast<const Four*>(from), inside);
            else
#pragma unroll 1
                for (int p = 0; p < PIXELS; ++p)
                    copy_async(at + p, from + p, inside && column + p < width);
            from += plane;
            at += TILE;
        }
    }
}

// Taps dx0 … dx0 + TAPS − 1 of this warp's rows, over all tiles of this block's slice.
template <int ROWS, int TAPS>
__device__ inline void gather_taps(
    const Array<const real, 5>& x, const Array<const real, 2>& affine,
    const Array<const real, 5>& gy, const Array<real, 5>& partial, const Array<real, 2>& bias,
    int kz, int ky, int kx, int dx0, int slices, real* shared, real* biases
) {
    constexpr int warps = WARPS;
    const int lane = int(threadIdx.x), warp = int(threadIdx.y);
    const int lines = min(ky, warps * ROWS), chunks = (ky + lines - 1) / lines;  // of ky
    const int tall = TILE_Y + lines - 1, length = row_length(TILE_X, kx);
    const int fit = (MOST / int(sizeof(real)) - OUTS * TILE) / (tall * length);
    const int planes = int(x.shape[1]) * kz, per_block = max(1, min(warps * ROWS / lines, fit));
    const int parts = (planes + per_block - 1) / per_block * chunks, of = int(blockIdx.x) % parts;
    const int first = of / chunks * per_block, here = min(per_block, planes - first);
    const int dy0 = of % chunks * lines, part = int(blockIdx.x) / parts;
    real* const tile = shared + OUTS * TILE;  // gy comes first
    const int channels = int(gy.shape[1]), depth = int(gy.shape[2]), height = int(gy.shape[3]);
    const int width = int(gy.shape[4]), first_out = int(blockIdx.y) * OUTS;
    const int across = (width + TILE_X - 1) / TILE_X;
    const int of_plane = across * ((height + TILE_Y - 1) / TILE_Y);
    const int64 count = gy.shape[0] * depth * of_plane;  // below 2³¹, as the grid's blocks
    const bool sum_bias = dx0 == 0 && of == 0;
    if (warp == 0 && lane < OUTS) biases[lane] = 0;

    const int all = here * lines;  // rows of taps of this block; the last warp may have too many
    int rows[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const int row = min(warp + r * warps, all - 1);
        rows[r] = (row / lines * tall + row % lines) * length + dx0 + lane % 16 * PIXELS;
    }
    real acc[ROWS][OUTS][TAPS] = {};
    const int last = int((part + 1) * count / slices);
#pragma unroll 1
    for (int t = int(part * count / slices); t < last; ++t) {
        const int plane = t / of_plane, at = t % of_plane;
        const int y0 = at / across * TILE_Y, x0 = at % across * TILE_X;
        const int n = plane / depth, z = plane % depth;
        __syncthreads();  // nobody reads the last tile any more
        copy_gradient(shared, gy, n, first_out, z, y0, x0, warp * 32 + lane, warps * 32);
        const Planes some = {here, tall, length, n, z, y0 + dy0 - ky / 2, x0 - kx / 2, first, kz};
        copy_planes(tile, some, x, warp, warps, lane);
        arrived();
        activate_planes(tile, some, x, affine, warp, warps, lane);
        __syncthreads();
        for (int o = warp; sum_bias && o < OUTS; o += warps) {
            real total = 0;
            for (int i = lane; i < TILE; i += 32) total += shared[o * TILE + i];
            total = warp_sum(total);
            if (lane == 0) biases[o] += total;
        }
        if (warp >= all || x0 + lane % 16 * PIXELS >= width) continue;
        const int bottom = min(TILE_Y, height - y0);
        const real* from = tile + lane / 16 * length;
        const real* g = shared + lane * PIXELS;
#pragma unroll 1
        for (int line = lane / 16; line < bottom; line += 2) {
            add_products<ROWS, TAPS>(acc, from, rows, g);
            from += 2 * length;
            g += 2 * TILE_X;
        }
    }
    __syncthreads();
    if (sum_bias && warp == 0 && lane < OUTS && first_out + lane < channels)
        bias(part, first_out + lane) = biases[lane];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const int row = warp + r * warps, dy = dy0 + row % lines;
        if (row >= all || dy >= ky) continue;
        const int64 tap = (int64(first + row / lines) * ky + dy) * kx + dx0;
#pragma unroll
        for (int o = 0; o < OUTS; ++o)
#pragma unroll
            for (int dx = 0; dx < TAPS; ++dx) {
                const real total = warp_sum(acc[r][o][dx]);
                if (lane == 0 && dx0 + dx < kx)
                    partial(part, blockIdx.y, (tap + dx) / 3, o, (tap + dx) % 3) = total;
            }
    }
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int TOGETHER = 1;  // blocks on a processor: before 2022 the compiler finds no way for two
#else
constexpr int TOGETHER = RESIDENT;
#endif

// Rows of taps of a warp by the width of the kernel: as in conv_tiling.py.
extern "C" __global__ void __launch_bounds__(32 * WARPS, TOGETHER) conv_weights_kernel(
    Array<const real, 5> x, Array<const real, 2> affine, Array<const real, 5> gy,
    Array<const int64, 1> taps, Array<real, 5> partial, Array<real, 2> bias, int64 kz, int64 ky,
    int64 kx, int64 rows, int64 slices
) {
    DYNAMIC_SHARED(real, shared);
    __shared__ real sums[OUTS];  // of gy, each by one warp
    const int z = int(kz), y = int(ky), k = int(kx), s = int(slices);
    if (kx == 5)
        gather_taps<2, 5>(x, affine, gy, partial, bias, z, y, k, 0, s, shared, sums);
    else if (kx == 3)
        gather_taps<3, 3>(x, affine, gy, partial, bias, z, y, k, 0, s, shared, sums);
    else if (kx == 1)
        gather_taps<1, 1>(x, affine, gy, partial, bias, z, y, k, 0, s, shared, sums);
    else
        for (int dx = 0; dx < k; dx += 4)
            gather_taps<1, 4>(x, affine, gy, partial, bias, z, y, k, dx, s, shared, sums);
}
