// The convolution and its gradient by the weights on tensor cores: see ops/tensor_cores.py.
//
// A block of threads is (32 lanes, warps along the outputs, warps along the columns of B).

#include "common.cuh"
#include "tf32.cuh"

struct __align__(16) Four {
    uint32 at[4];
};

extern "C" __global__ void round_kernel(
    Array<const float32, 5> x, Array<const float32, 2> affine, Array<float32, 5> y
) {
    const int64 i = thread_index(), pixels = x.shape[2] * x.shape[3] * x.shape[4];
    if (i >= x.size()) return;
    float32 v = x.flat(i);
    if (affine.shape[0] == 2) {
        const int64 channel = i / pixels % x.shape[1];
        v = v * affine(0, channel) + affine(1, channel);
        v = v > 0 ? v : 0.0f;
    }
    y.flat(i) = rounded(v);
}

// ---- weights ----------------------------------------------------------------------------------

// As the lanes hold them: [high, low][16 outputs, 8 inputs, kz, tap][lane][4], one thread for each
// number of `high`; there is no `low` where numbers are rounded.
extern "C" __global__ void pack_matrix_kernel(
    Array<const float32, 3> w, Array<float32, 3> into, bool mirrored
) {
    const int64 at = thread_index(), size = into.shape[1] * into.shape[2];
    if (at >= size) return;
    const int64 taps = w.shape[2], outputs = w.shape[mirrored ? 1 : 0];
    const int64 inputs = w.shape[mirrored ? 0 : 1], octets = (inputs + 7) / 8;
    const int64 step = at / 128, lane = at % 128 / 4, part = at % 4;
    const int64 o = step / (octets * taps) * 16 + lane / 4 + part % 2 * 8, tap = step % taps;
    const int64 i = step / taps % octets * 8 + lane % 4 + part / 2 * 4;
    float32 v = 0;
    if (o < outputs && i < inputs) v = mirrored ? w(i, o, taps - 1 - tap) : w(o, i, tap);
    if (into.shape[0] == 1) {
        into.flat(at) = rounded(v);
        return;
    }
    uint32 high, low;
    split(v, high, low);
    into.flat(at) = __uint_as_float(high);
    into.flat(size + at) = __uint_as_float(low);
}

// ---- tiles of images --------------------------------------------------------------------------

// Numbers of a plane of a tile, so many that four or eight of them side by side, from eight or four
// planes, are in 32 different banks of shared memory: `apart` more than a multiple of 32.
__device__ inline int padded(int numbers, int apart) {
    return (numbers + 31 - apart) / 32 * 32 + apart;
}

struct Tile {
    int planes, tall, length, apart;
};

// Copies channels `first` … of x, from (z, y0, x0) on, to shared memory, a channel by each warp in
// turn; zeros where x has nothing. Numbers pass x's affine and ReLU, and are rounded.
template <int PRODUCTS>
__device__ inline void copy_tile(
    float32* to, const Tile& tile, const Array<const float32, 5>& x,
    const Array<const float32, 2>& affine, int64 n, int first, int64 z, int y0, int x0
) {
    constexpr int TOGETHER = 4;  // loads that are under way at once
    const int warp = int(threadIdx.y + blockDim.y * threadIdx.z), lane = int(threadIdx.x);
    const int warps = int(blockDim.y * blockDim.z);
    const int channels = int(x.shape[1]), height = int(x.shape[3]), width = int(x.shape[4]);
    const int count = tile.tall * tile.length;
    const int columns = 32 % tile.length, rows = 32 / tile.length;  // one step on
    for (int plane = warp; plane < tile.planes; plane += warps) {
        const bool there = first + plane < channels, activate = there && affine.shape[0] == 2;
        const float32 scale = activate ? affine(0, first + plane) : 1.0f;
        const float32 shift = activate ? affine(1, first + plane) : 0.0f;
        const float32* const from = there ? &x(n, first + plane, z, 0, 0) : nullptr;
        int row = y0 + lane / tile.length, column = lane % tile.length;
        for (int i = lane; i < count; i += TOGETHER * 32) {
            float32 v[TOGETHER];
#pragma unroll
            for (int k = 0; k < TOGETHER; ++k) {
                const int at = x0 + column;
                const bool inside = there && row >= 0 && row < height && at >= 0 && at < width;
                v[k] = inside && i + 32 * k < count ? from[row * width + at] : 0.0f;
                if (activate && inside) v[k] = v[k] * scale + shift;
                column += columns;
                row += rows;
                if (column >= tile.length) column -= tile.length, ++row;
            }
#pragma unroll
            for (int k = 0; k < TOGETHER; ++k) {
                if (activate) v[k] = v[k] > 0 ? v[k] : 0.0f;
                if (i + 32 * k < count)
                    to[plane * tile.apart + i + 32 * k] = PRODUCTS == 1 ? rounded(v[k]) : v[k];
            }
        }
    }
}

// ---- forward ----------------------------------------------------------------------------------
//
// y[o, p] = b[o] + Σ_octet Σ_dz Σ_tap  (w of 16 outputs × 8 inputs) · (x of 8 inputs × 8 pixels)
//
// A block has a tile of pixels, `columns` wide, of one plane; a warp M × 16 outputs of N × 8 pixels,
// whose sums are in its registers. The tile's pixels and what the taps reach beyond are brought to
// shared memory, `staged` × 8 channels at a time; the weights come as the lanes hold them, a step
// ahead where there are registers for that.

template <int M>
__device__ inline void load_weights(Four (&to)[M], const float32* from, int64 block) {
#pragma unroll
    for (int m = 0; m < M; ++m) to[m] = *reinterpret_cast<const Four*>(from + m * block);
}

template <int M, int N, int PRODUCTS>
__device__ inline void correlate(
    const Array<const float32, 5>& x, const Array<const float32, 2>& affine,
    const Array<const float32, 3>& w, const Array<const float32, 1>& b,
    const Array<float32, 5>& y, const Array<float64, 3>& sums, int kz, int ky, int kx, int columns,
    int staged
) {
    DYNAMIC_SHARED(float32, shared);
    const int lane = int(threadIdx.x), group = lane / 4, member = lane % 4;
    const int warps = int(blockDim.z), lines = warps * N * 8 / columns, taps = ky * kx;
    Tile tile = {0, lines + ky - 1, columns + kx - 1, 0};
    tile.apart = padded(tile.tall * tile.length, 8);
    const int octets = int(x.shape[1] + 7) / 8;
    const int height = int(y.shape[3]), width = int(y.shape[4]);
    const int across = (width + columns - 1) / columns;
    const int tiles = across * ((height + lines - 1) / lines);  // of a plane
    const int at = int(blockIdx.x) % tiles, of = int(blockIdx.x) / tiles;
    const int y0 = at / across * lines, x0 = at % across * columns;
    const int depth = int(y.shape[2]), n = of / depth, z = of % depth;
    const int first_out = int(blockIdx.y * blockDim.y + threadIdx.y) * M * 16;
    const int64 block = int64(octets) * kz * taps * 128, all = w.shape[1] * w.shape[2];
    const float32* const weights = w.data + first_out / 16 * block + lane * 4;

    int place[N];  // of this lane's pixels of the tile
#pragma unroll
    for (int t = 0; t < N; ++t) {
        const int q = (int(threadIdx.z) * N + t) * 8;
        place[t] = member * tile.apart + q / columns * tile.length + q % columns + group;
    }
    float32 acc[M][N][4] = {};
    for (int first = 0; first < octets; first += staged)
        for (int dz = 0; dz < kz; ++dz) {
            const int zz = z + dz - kz / 2;
            if (zz < 0 || zz >= depth) continue;
            const int here = min(staged, octets - first), steps = here * taps;
            tile.planes = 8 * here;
            copy_tile<PRODUCTS>(
                shared, tile, x, affine, n, 8 * first, zz, y0 - ky / 2, x0 - kx / 2
            );
            __syncthreads();
            const float32* from = weights + (int64(first) * kz + dz) * taps * 128;
            Four next[M];
            if (PRODUCTS == 1) load_weights(next, from, block);
#pragma unroll 1
            for (int step = 0, at = 0, row = 0, dx = 0, dy = 0; step < steps; ++step) {
                Four high[M], low[M];
                if (PRODUCTS == 1) {
#pragma unroll
                    for (int m = 0; m < M; ++m) high[m] = next[m];
                } else {
                    load_weights(high, from, block);
                    load_weights(low, from + all, block);
                }
                const float32* const pixels = shared + at;
                from += 128;
                ++at;
                if (++dx == kx) {
                    dx = 0;
                    at = row += tile.length;
                    if (++dy == ky) {
                        dy = 0;
                        at = row += 8 * tile.apart - ky * tile.length;
                        from += int64(kz - 1) * taps * 128;
                    }
                }
                if (PRODUCTS == 1 && step + 1 < steps) load_weights(next, from, block);
#pragma unroll
                for (int t = 0; t < N; ++t) {
                    const float32 one = pixels[place[t]], two = pixels[place[t] + 4 * tile.apart];
#pragma unroll
                    for (int m = 0; m < M; ++m)
                        multiply<PRODUCTS>(acc[m][t], high[m].at, low[m].at, one, two);
                }
            }
            __syncthreads();
        }

    const int outs = int(blockDim.y) * M * 16;  // of the block; [moment][output][warp]
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int channel = first_out + m * 16 + half * 8 + group;
            const bool there = channel < y.shape[1];
            const float32 bias = there ? b(channel) : 0.0f;
            float32* const to = there ? &y(n, channel, z, 0, 0) : nullptr;
            float32 total = 0, squares = 0;
#pragma unroll
            for (int t = 0; t < N; ++t) {
                const int q = (int(threadIdx.z) * N + t) * 8 + 2 * member;
                const int line = y0 + q / columns, column = x0 + q % columns;
                if (!there || line >= height) continue;
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    if (column + k >= width) continue;
                    const float32 v = acc[m][t][2 * half + k];
                    to[line * width + column + k] = v + bias;
                    total += v;
                    squares += v * v;
                }
            }
            if (sums.shape[0] == 0) continue;
            for (int distance = 1; distance < 4; distance *= 2) {
                total += __shfl_xor_sync(0xffffffffu, total, distance);
                squares += __shfl_xor_sync(0xffffffffu, squares, distance);
            }
            if (member) continue;
            const int out = int(threadIdx.y) * M * 16 + m * 16 + half * 8 + group;
            shared[out * warps + threadIdx.z] = total;
            shared[(outs + out) * warps + threadIdx.z] = squares;
        }
    if (sums.shape[0] == 0) return;
    __syncthreads();
    const int threads = int(blockDim.x * blockDim.y * blockDim.z);
    int i = int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
    for (; i < 2 * outs; i += threads) {
        const int64 channel = int64(blockIdx.y) * outs + i % outs;
        if (channel >= y.shape[1]) continue;
        float64 total = 0;
        for (int warp = 0; warp < warps; ++warp) total += shared[i * warps + warp];
        sums(blockIdx.x, i / outs, channel) = total;
    }
}

extern "C" __global__ void __launch_bounds__(192, 2) matrix_forward_kernel(
    Array<const float32, 5> x, Array<const float32, 2> affine, Array<const float32, 3> w,
    Array<const float32, 1> b, Array<float32, 5> y, Array<float64, 3> sums, int64 kz, int64 ky,
    int64 kx, int64 tall, int64 columns, int64 staged
) {
    const int z = int(kz), v = int(ky), u = int(kx), wide = int(columns), octets = int(staged);
    if (w.shape[0] == 1 && tall == 2)
        correlate<2, 8, 1>(x, affine, w, b, y, sums, z, v, u, wide, octets);
    else if (w.shape[0] == 1)
        correlate<3, 4, 1>(x, affine, w, b, y, sums, z, v, u, wide, octets);
    else if (tall == 2)
        correlate<2, 8, 3>(x, affine, w, b, y, sums, z, v, u, wide, octets);
    else
        correlate<3, 4, 3>(x, affine, w, b, y, sums, z, v, u, wide, octets);
}

// ---- gradient by the weights ------------------------------------------------------------------
//
// gw[o, i, k] = Σ_p  (gy of 16 outputs × 8 pixels) · (x of 8 pixels × 8 inputs, shifted by the tap)
//
// A matrix as wide as there are (octet of inputs, tap), for each dz. A block has some of its columns
// and a slice of the image: a warp has M × 16 outputs and COLUMNS of them, with their sums in its
// registers. The slices' sums are added afterwards, in their order.

constexpr int PIXELS = 128;  // as in ops/tensor_cores.py

template <int M, int COLUMNS, int PRODUCTS>
__device__ inline void gather(
    const Array<const float32, 5>& x, const Array<const float32, 2>& affine,
    const Array<const float32, 5>& gy, const Array<float32, 5>& partial,
    const Array<float32, 2>& bias, int kz, int ky, int kx, int columns, int64 slices
) {
    DYNAMIC_SHARED(float32, shared);
    const int lane = int(threadIdx.x), group = lane / 4, member = lane % 4;
    const int taps = ky * kx, all = int(x.shape[1] + 7) / 8 * taps;
    const int outs = int(blockDim.y) * M * 16, parts = int(gridDim.z) / kz;
    const int dz = int(blockIdx.z) / parts;
    const int first = int(blockIdx.z) % parts * int(blockDim.z) * COLUMNS;
    const int last = min(all, first + int(blockDim.z) * COLUMNS), octet = first / taps;
    const int mine = first + int(threadIdx.z) * COLUMNS;
    const Tile of_gy = {outs, PIXELS / columns, columns, padded(PIXELS, 4)};
    Tile tile = {((last - 1) / taps + 1 - octet) * 8, of_gy.tall + ky - 1, columns + kx - 1, 0};
    tile.apart = padded(tile.tall * tile.length, 4);
    float32* const pixels = shared + outs * of_gy.apart;
    float32* const biases = pixels + tile.planes * tile.apart;
    const int warp = int(threadIdx.y + blockDim.y * threadIdx.z);
    const int warps = int(blockDim.y * blockDim.z);
    const int first_out = int(blockIdx.y) * outs;
    const int64 part = blockIdx.x;
    const bool sum_bias = blockIdx.z == 0;
    for (int o = warp; sum_bias && lane == 0 && o < outs; o += warps) biases[o] = 0;

    int place[COLUMNS];  // of this lane's first pixel, shifted by the tap
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        const int column = min(mine + c, all - 1), tap = column % taps;
        const int plane = (column / taps - octet) * 8 + group;
        place[c] = plane * tile.apart + tap / kx * tile.length + tap % kx + member;
    }
    const int depth = int(gy.shape[2]), across = int(gy.shape[4] + columns - 1) / columns;
    const int down = int(gy.shape[3] + of_gy.tall - 1) / of_gy.tall;
    const int count = int(gy.shape[0]) * depth * down * across;  // tiles
    const int end = int((part + 1) * count / slices);
    const Array<const float32, 2> none = {nullptr, {0, 0}};
    float32 acc[M][COLUMNS][4] = {};
    for (int t = int(part * count / slices); t < end; ++t) {
        const int of_plane = across * down, at = t % of_plane, plane = t / of_plane;
        const int x0 = at % across * columns, y0 = at / across * of_gy.tall;
        const int n = plane / depth, z = plane % depth, zz = z + dz - kz / 2;
        const bool inside = zz >= 0 && zz < depth;
        if (!inside && !sum_bias) continue;
        __syncthreads();  // nobody reads the last tile any more
        copy_tile<PRODUCTS>(shared, of_gy, gy, none, n, first_out, z, y0, x0);
        if (inside)
            copy_tile<PRODUCTS>(pixels, tile, x, affine, n, 8 * octet, zz, y0 - ky / 2, x0 - kx / 2);
        __syncthreads();
        for (int o = warp; sum_bias && o < outs; o += warps) {
            float32 total = 0;
            for (int q = lane; q < PIXELS; q += 32) total += shared[o * of_gy.apart + q];
            total = warp_sum(total);
            if (lane == 0) biases[o] += total;
        }
        if (!inside) continue;
        const float32* from = shared + (int(threadIdx.y) * M * 16 + group) * of_gy.apart + member;
        const float32* here = pixels;
#pragma unroll 1
        for (int q = 0; q < PIXELS; q += 8, from += 8) {
            uint32 high[M][4], low[M][4];
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    const float32 v = from[(m * 16 + k % 2 * 8) * of_gy.apart + k / 2 * 4];
                    if (PRODUCTS == 3)
                        split(v, high[m][k], low[m][k]);
                    else
                        high[m][k] = __float_as_uint(v);
                }
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) {
                const float32 one = here[place[c]], two = here[place[c] + 4];
#pragma unroll
                for (int m = 0; m < M; ++m) multiply<PRODUCTS>(acc[m][c], high[m], low[m], one, two);
                if (PRODUCTS == 3) __syncwarp();  // or more are loaded than registers hold
            }
            const bool ends = ((q + 8) & (columns - 1)) == 0;  // a line; columns is a power of two
            here += ends ? 8 + tile.length - columns : 8;
        }
    }
    if (sum_bias)
        for (int o = warp; lane == 0 && o < outs; o += warps)
            if (first_out + o < gy.shape[1]) bias(part, first_out + o) = biases[o];
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
        if (mine + c >= last) continue;
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int64 o = first_out + (int(threadIdx.y) * M + m) * 16 + group + k / 2 * 8;
                const int64 i = (mine + c) / taps * 8 + 2 * member + k % 2;
                const int64 tap = (i * kz + dz) * taps + (mine + c) % taps;
                if (o < gy.shape[1] && i < x.shape[1])
                    partial(part, o / 8, tap / 3, o % 8, tap % 3) = acc[m][c][k];
            }
    }
}

extern "C" __global__ void __launch_bounds__(192, 2) matrix_weights_kernel(
    Array<const float32, 5> x, Array<const float32, 2> affine, Array<const float32, 5> gy,
    Array<float32, 5> partial, Array<float32, 2> bias, int64 kz, int64 ky, int64 kx,
    int64 products, int64 tall, int64 columns, int64 slices
) {
    const int z = int(kz), v = int(ky), u = int(kx), wide = int(columns);
    if (products == 1 && tall == 2)
        gather<2, 9, 1>(x, affine, gy, partial, bias, z, v, u, wide, slices);
    else if (products == 1)
        gather<3, 6, 1>(x, affine, gy, partial, bias, z, v, u, wide, slices);
    else if (tall == 2)
        gather<2, 9, 3>(x, affine, gy, partial, bias, z, v, u, wide, slices);
    else
        gather<3, 6, 3>(x, affine, gy, partial, bias, z, v, u, wide, slices);
}
