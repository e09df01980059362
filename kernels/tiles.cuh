// Tiles of images in shared memory, for the convolutions.

#pragma once

constexpr int PIXELS = 4;  // neighbours along X that a thread has: what one load brings

struct __align__(16) Four {
    real at[PIXELS];
};

__device__ inline Four load_four(const real* p) { return *reinterpret_cast<const Four*>(p); }

// Numbers in a row of a tile `width` pixels wide: with what taps reach beyond, in steps of four.
__device__ inline int row_length(int width, int kx) {
    return width + (kx == 1 ? 0 : kx <= 5 ? 4 : (kx + 3) / 4 * 4);
}

// Copies one row, `length` numbers from column x0 on, by the 32 threads of a warp; zeros outside of
// 0 … width − 1, or everywhere if `row` is null. With `activate`, relu(scale · v + shift).
__device__ inline void copy_row(
    real* to, int length, const real* row, int64 x0, int64 width, bool activate, real scale,
    real shift, int lane
) {
    for (int j = lane; j < length; j += 32) {
        real v = 0;
        if (row && x0 + j >= 0 && x0 + j < width) {
            v = row[x0 + j];
            if (activate) {
                v = v * scale + shift;
                v = v > 0 ? v : real(0);
            }
        }
        to[j] = v;
    }
}

// ---- copies that a thread does not wait for -----------------------------------------------------

#ifndef COPY_ASYNC  // the emulation has its own
#define COPY_ASYNC
// *to = *from, or 0 if not `there`, wherever `from` then is: from memory to shared memory, by the
// time of `arrived`.
template <class T>
__device__ inline void copy_async(T* to, const T* from, bool there) {
#if __CUDA_ARCH__ >= 800
    constexpr int SIZE = sizeof(T) < 16 ? sizeof(T) : 16;
    const uint32 at = uint32(__cvta_generic_to_shared(to));
    const int bytes = there ? SIZE : 0;
#pragma unroll
    for (int i = 0; i < int(sizeof(T)); i += SIZE)
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(at + i),
                     "l"(reinterpret_cast<const char*>(from) + i), "n"(SIZE), "r"(bytes)
                     : "memory");
#else
    *to = there ? *from : T{};  // a GPU before 2020 waits
#endif
}

// What this thread has copied is there, for itself; for others after a barrier.
__device__ inline void arrived() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
#endif

// Some planes of x as a convolution reads them, from line y0 and column x0 on: plane p is that of
// input channel p / kz, p % kz − kz / 2 planes away from z. In shared memory they are
// [plane][tall][length]. Each plane has some warps, and each of these a row at a time, of which a
// thread has every 32nd number: the same for both functions, so that none waits for another.
constexpr int PARTS = 3;  // of 32 numbers, that most rows have

struct Planes {
    int count, tall, length, n, z, y0, x0, first, kz;
};

// Begins to copy them; zeros outside of x.
__device__ inline void copy_planes(
    real* tile, const Planes& planes, const Array<const real, 5>& x, int warp, int warps, int lane
) {
    const int height = int(x.shape[3]), width = int(x.shape[4]);
    const int each = max(1, warps / planes.count), groups = warps / each;  // warps of a plane
#pragma unroll 1
    for (int p = warp / each; p < planes.count; p += groups) {
        const int plane = planes.first + p, zz = planes.z + plane % planes.kz - planes.kz / 2;
        const bool there = zz >= 0 && zz < int(x.shape[2]);
        const real* const from = there ? &x(planes.n, plane / planes.kz, zz, 0, 0) : x.data;
#pragma unroll 1
        for (int j = lane; j < planes.length; j += PARTS * 32) {
            const int column = planes.x0 + j;
            bool inside[PARTS];
#pragma unroll
            for (int q = 0; q < PARTS; ++q)
                inside[q] = there && unsigned(column + 32 * q) < unsigned(width);
            real* to = tile + (p * planes.tall + warp % each) * planes.length + j;
#pragma unroll 1
            for (int row = warp % each; row < planes.tall; row += each) {
                const unsigned line = unsigned(planes.y0 + row);
                const real* const at = from + uint64(line) * unsigned(width) + column;
#pragma unroll
                for (int q = 0; q < PARTS; ++q)
                    if (j + 32 * q < planes.length)
                        copy_async(to + 32 * q, at + 32 * q, inside[q] && line < unsigned(height));
                to += each * planes.length;
            }
        }
    }
}

// Makes relu(scale · v + shift) of those that have arrived, but of the zeros.
__device__ inline void activate_planes(
    real* tile, const Planes& planes, const Array<const real, 5>& x,
    const Array<const real, 2>& affine, int warp, int warps, int lane
) {
    if (affine.shape[0] != 2) return;
    const int height = int(x.shape[3]), width = int(x.shape[4]);
    const int each = max(1, warps / planes.count), groups = warps / each;
#pragma unroll 1
    for (int p = warp / each; p < planes.count; p += groups) {
        const int plane = planes.first + p, zz = planes.z + plane % planes.kz - planes.kz / 2;
        if (zz < 0 || zz >= int(x.shape[2])) continue;
        const real scale = affine(0, plane / planes.kz), shift = affine(1, plane / planes.kz);
#pragma unroll 1
        for (int j = lane; j < planes.length; j += PARTS * 32) {
            bool inside[PARTS];
#pragma unroll
            for (int q = 0; q < PARTS; ++q)
                inside[q] = j + 32 * q < planes.length &&
                            unsigned(planes.x0 + j + 32 * q) < unsigned(width);
            real* to = tile + (p * planes.tall + warp % each) * planes.length + j;
#pragma unroll 1
            for (int row = warp % each; row < planes.tall; row += each) {
                const bool on = unsigned(planes.y0 + row) < unsigned(height);
#pragma unroll
                for (int q = 0; q < PARTS; ++q)
                    if (on && inside[q]) {
                        const real v = to[32 * q] * scale + shift;
                        to[32 * q] = v > 0 ? v : real(0);
                    }
                to += each * planes.length;
            }
        }
    }
}
