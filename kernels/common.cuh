// What every kernel file begins with: the names of types, arrays, sums over a block.
//
// The launcher pastes this text in front of a kernel file, behind one line for each type that is
// left open: `typedef float real;` or `typedef double real;`. Types are called what numpy calls
// them. Nothing here needs a header of the CUDA toolkit.
//
// Kernels are compiled with --fmad=false: a product and a sum are rounded like on the CPU, one
// after the other, unless the text says fma().

#pragma once

typedef unsigned char uint8;
typedef unsigned int uint32;
typedef long long int64;
typedef unsigned long long uint64;
typedef float float32;
typedef double float64;

#ifndef CHECKED  // emulation looks whether the index is inside
#define CHECKED(index, size) (index)
#endif

#ifndef DYNAMIC_SHARED  // shared memory whose size the launch decides
#define DYNAMIC_SHARED(T, name)                                  \
    extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    T* const name = reinterpret_cast<T*>(name##_bytes)
#endif

// A C-contiguous array, passed by value: where it is, and its shape.
template <class T, int N>
struct Array {
    T* data;
    int64 shape[N];

    __device__ int64 size() const {
        int64 n = 1;
        for (int axis = 0; axis < N; ++axis) n *= shape[axis];
        return n;
    }

    template <class... Index>
    __device__ T& operator()(Index... index) const {
        static_assert(sizeof...(Index) == N, "one index for each axis");
        const int64 at[N] = {static_cast<int64>(index)...};
        int64 offset = 0;
        for (int axis = 0; axis < N; ++axis) offset = offset * shape[axis] + CHECKED(at[axis], shape[axis]);
        return data[offset];
    }

    // The same memory as one axis.
    __device__ T& flat(int64 i) const { return data[CHECKED(i, size())]; }
};

// ---- who am I ---------------------------------------------------------------------------------

__device__ inline int64 thread_index() { return int64(blockIdx.x) * blockDim.x + threadIdx.x; }

// Where a thread is in a map that it walks through, `step` places at a time, counted in I: uint32
// wherever the map is small enough. It divides once, not for each place: a division takes as long as
// ten pixels, one of 64-bit numbers as long as fifty.
template <class I>
struct Walk {
    I z, y, x, height, width, down, along, across;

    __device__ Walk(I first, I step, I height, I width) : height(height), width(width) {
        const I line = first / width, lines = step / width;
        x = first - line * width, z = line / height, y = line - z * height;
        across = step - lines * width, down = lines / height, along = lines - down * height;
    }

    __device__ void next() {
        x += across, y += along, z += down;
        if (x >= width) x -= width, ++y;
        if (y >= height) y -= height, ++z;
    }
};

// Whether the pixels of some channels, and a grid's step beyond them, are numbers of 32 bits.
template <class T>
__device__ inline bool counted_in_32_bits(const Array<T, 5>& map, int64 channels = 1) {
    return channels * map.shape[2] * map.shape[3] * map.shape[4] < (1ll << 31);
}

// ---- sums over the threads of a block ---------------------------------------------------------
//
// In an order that the number of threads alone decides: no atomics.

template <class T>
__device__ inline T warp_sum(T v) {  // lane 0 has it
    for (int distance = 16; distance > 0; distance /= 2)
        v += __shfl_down_sync(0xffffffffu, v, distance);
    return v;
}

// Thread 0 has the sum. `shared` holds 32 numbers; the block must be one-dimensional, and a
// multiple of 32 threads wide.
template <class T>
__device__ inline T block_sum(T v, T* shared) {
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int warp = 1; warp < int(blockDim.x) / 32; ++warp) v += shared[warp];
    __syncthreads();  // `shared` may be used again
    return v;
}

// ---- how a feature map is read ----------------------------------------------------------------

// v, or relu(scale · v + shift) where the map has an affine (2, C). One of shape (0, 0) is none.
struct Activation {
    bool none;
    real scale, shift;

    __device__ Activation(const Array<const real, 2>& affine, int64 channel)
        : none(affine.shape[0] != 2), scale(1), shift(0) {
        if (!none) scale = affine(0, channel), shift = affine(1, channel);
    }

    __device__ real operator()(real v) const {
        if (none) return v;
        v = v * scale + shift;
        return v > 0 ? v : real(0);
    }
};

// N neighbours of a line, read and written by one instruction (of 16 bytes at most).
template <int N>
struct alignas(N * sizeof(real) < 16 ? N * sizeof(real) : 16) Pack {
    real at[N];
};

template <int N>
__device__ inline Pack<N> load(const real* from) {
    return *reinterpret_cast<const Pack<N>*>(from);
}

template <int N>
__device__ inline void store(real* to, const Pack<N>& v) {
    *reinterpret_cast<Pack<N>*>(to) = v;
}

// Whether an array can be read N numbers at a time: its lines begin where such a pack may.
template <int N, class T>
__device__ inline bool in_packs(const Array<T, 5>& map) {
    return map.shape[4] % N == 0 && reinterpret_cast<uint64>(map.data) % alignof(Pack<N>) == 0;
}
