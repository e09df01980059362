// Numbers of 11 significant bits (TF32), and products of them on tensor cores.

#pragma once

// A warp multiplies 16 × 8 by 8 × 8 numbers at once (mma.m16n8k8): D += A B, in TF32. Its 32 lanes
// hold the numbers like this, with group = lane / 4 and member = lane % 4:
//
//     A   (group, member), (group + 8, member), (group, member + 4), (group + 8, member + 4)
//     B   (member, group), (member + 4, group)
//     D   (group, 2 member), (group, 2 member + 1), and both again 8 rows below

// The nearest number of 11 significant bits. NaN stays NaN, which the sum alone would not do.
__device__ inline float32 rounded(float32 v) {
    return v == v ? __uint_as_float((__float_as_uint(v) + 0x1000u) & 0xffffe000u) : v;
}

// high + low = v but for its last bit: two numbers of 11 bits. A NaN is in `low`.
__device__ inline void split(float32 v, uint32& high, uint32& low) {
    high = (__float_as_uint(v) + 0x1000u) & 0xffffe000u;
    low = __float_as_uint(v - __uint_as_float(high));
}

#ifndef TENSOR_CORE  // the emulation has one of its own
#define TENSOR_CORE
__device__ inline void tensor_core(float32 (&d)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)
    );
#else
    __trap();  // never launched there
#endif
}
#endif

// D += A B of rounded numbers, or with three products of split ones, the smaller ones first. Tensor
// cores cut sums towards zero, which adds up over a long sum. So the three have an accumulator of
// their own, and it is added to D in float32, to the nearest.
template <int PRODUCTS>
__device__ inline void multiply(
    float32 (&d)[4], const uint32 (&a)[4], const uint32 (&a_low)[4], float32 first, float32 second
) {
    if (PRODUCTS == 1) {
        tensor_core(d, a, __float_as_uint(first), __float_as_uint(second));
    } else {
        uint32 high[2], low[2];
        split(first, high[0], low[0]);
        split(second, high[1], low[1]);
        float32 fresh[4] = {};
        tensor_core(fresh, a_low, high[0], high[1]);
        tensor_core(fresh, a, low[0], low[1]);
        tensor_core(fresh, a, high[0], high[1]);
#pragma unroll
        for (int k = 0; k < 4; ++k) d[k] += fresh[k];
    }
}
