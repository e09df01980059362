// One number in, one number out: see ops/pointwise.py for the equations. One thread per element.

#include "common.cuh"

extern "C" __global__ void relu_forward_kernel(Array<const real, 1> x, Array<real, 1> y) {
    const int64 i = thread_index();
    if (i < y.size()) y(i) = x(i) < 0 ? real(0) : x(i);  // NaN stays NaN
}

extern "C" __global__ void relu_backward_kernel(
    Array<const real, 1> gy, Array<const real, 1> y, Array<real, 1> gx
) {
    const int64 i = thread_index();
    if (i < gx.size()) gx(i) = y(i) > 0 ? gy(i) : real(0);
}

extern "C" __global__ void clamp_forward_kernel(
    Array<const real, 1> x, real low, real high, Array<real, 1> y
) {
    const int64 i = thread_index();
    if (i < y.size()) y(i) = x(i) < low ? low : (x(i) > high ? high : x(i));
}

extern "C" __global__ void clamp_backward_kernel(
    Array<const real, 1> gy, Array<const real, 1> x, real low, real high, Array<real, 1> gx
) {
    const int64 i = thread_index();
    if (i < gx.size()) gx(i) = low <= x(i) && x(i) <= high ? gy(i) : real(0);
}

// ---- sensor response --------------------------------------------------------------------------

// Beyond 9 standard deviations lies 1e-19 of the noise.
__device__ inline float64 up_to_9(float64 u) { return u > 9.0 ? 9.0 : u; }

// exp(-u²/2)/√(2π) for 0 ≤ u ≤ 9: Taylor's series of its 64th root, as on the CPU.
__device__ inline float64 normal_density(float64 u) {
    const float64 t = u * u * (-1.0 / 128);
    float64 p = 1 + t / 12 * (1 + t / 13 * (1 + t / 14));
    p = 1 + t * (1.0 / 8) * (1 + t * (1.0 / 9) * (1 + t * (1.0 / 10) * (1 + t * (1.0 / 11) * p)));
    p = 1 + t * (1.0 / 4) * (1 + t * (1.0 / 5) * (1 + t * (1.0 / 6) * (1 + t * (1.0 / 7) * p)));
    p = 1 + t * (1 + t * (1.0 / 2) * (1 + t * (1.0 / 3) * p));
    for (int doubling = 0; doubling < 6; ++doubling) p *= p;
    return p * 0.3989422804014327;
}

// Q(u)/φ(u) for 0 ≤ u ≤ 9: the Chebyshev fit of the CPU, in s from -1 to 1.
__device__ inline float64 mills_ratio(float64 u) {
    const float64 s = 17.0 / 9 - (104.0 / 9) / (u + 4);
    float64 p = 9.954536258561477e-10 + s * 3.8131181150965616e-10;
    p = -2.524195255459056e-08 + s * (-5.229528633865702e-09 + s * p);
    p = 4.5957115832373265e-07 + s * (4.0793032278018035e-08 + s * p);
    p = -8.234906050570633e-06 + s * (-1.9909212158499228e-07 + s * p);
    p = 0.00016538505096891712 + s * (3.159078164321445e-06 + s * p);
    p = -0.003158250706398337 + s * (-0.00033336934494329005 + s * p);
    p = -0.09798323261521137 + s * (0.025279631661086224 + s * p);
    p = -0.4707795295165636 + s * (0.25302060615488 + s * p);
    return 0.4035808455450227 + s * p;
}

// y = E[clip(m + σ N)] with m = gain · x + offset, and its slope dy/dx.
extern "C" __global__ void sensor_response_kernel(
    Array<const real, 1> x, float64 noise, float64 gain, float64 offset, float64 low,
    float64 high, Array<real, 1> y, Array<real, 1> slope
) {
    const int64 i = thread_index();
    if (i >= y.size()) return;
    const float64 m = gain * x(i) + offset;
    const float64 below = m - low, above = m - high;
    const float64 a = up_to_9((below < 0 ? -below : below) / noise);
    const float64 b = up_to_9((above < 0 ? -above : above) / noise);
    const float64 density_a = normal_density(a), density_b = normal_density(b);
    const float64 tail_a = density_a * mills_ratio(a), tail_b = density_b * mills_ratio(b);
    const float64 clipped = m < low ? low : (m > high ? high : m);
    y(i) = real(clipped + noise * ((density_a - a * tail_a) - (density_b - b * tail_b)));
    const float64 outside = m < low ? tail_a - tail_b : tail_b - tail_a;
    slope(i) = real(gain * (m < low || m > high ? outside : 1 - tail_a - tail_b));
}
