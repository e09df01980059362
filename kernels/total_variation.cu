// Terms of a loss that look at neighbours: see ops/total_variation.py for the equations.

#include "common.cuh"

__device__ inline real square_root(real v) { return sqrt(v); }

// A block has a row: its inverse lengths 1 / √(|∇x|² + ε²), and the sum of the lengths. The last
// pixel's next is itself: no difference, no gradient.
extern "C" __global__ void total_variation_forward_kernel(
    Array<const real, 4> x, Array<real, 4> inverse, Array<float64, 1> partial, real eps, real sz,
    real sy, real sx
) {
    __shared__ float64 shared[32];
    const int64 depth = x.shape[1], height = x.shape[2], width = x.shape[3];
    const int64 y = blockIdx.x % height, z = blockIdx.x / height % depth;
    const int64 plane = blockIdx.x / height / depth;
    const int64 below = min(y + 1, height - 1), behind = min(z + 1, depth - 1);
    float64 length = 0;
    for (int64 i = threadIdx.x; i < width; i += blockDim.x) {
        const real here = x(plane, z, y, i);
        const real gx = sx * (x(plane, z, y, min(i + 1, width - 1)) - here);
        const real gy = sy * (x(plane, z, below, i) - here);
        const real gz = sz * (x(plane, behind, y, i) - here);
        const real s = square_root(gx * gx + gy * gy + gz * gz + eps * eps);
        length += float64(s);
        inverse(plane, z, y, i) = s != 0 ? real(1) / s : real(0);
    }
    length = block_sum(length, shared);
    if (threadIdx.x == 0) partial(blockIdx.x) = length;
}

// gx = gl · slopes[1] · ∇ᵀ(∇x / length): a pixel is in the differences to its next and to its last
// neighbours. A block has a row.
extern "C" __global__ void total_variation_backward_kernel(
    Array<const real, 4> x, Array<const real, 4> inverse, Array<real, 4> gx,
    Array<const real, 1> gl, Array<const float64, 1> slopes, real sz, real sy, real sx
) {
    const int64 depth = x.shape[1], height = x.shape[2], width = x.shape[3];
    const int64 y = blockIdx.x % height, z = blockIdx.x / height % depth;
    const int64 plane = blockIdx.x / height / depth;
    const int64 above = max(y - 1, 0ll), below = min(y + 1, height - 1);
    const int64 before = max(z - 1, 0ll), behind = min(z + 1, depth - 1);
    const real sxx = sx * sx, syy = sy * sy, szz = sz * sz;
    const real scale = real(float64(gl(0)) * slopes(1));
    for (int64 i = threadIdx.x; i < width; i += blockDim.x) {
        const int64 left = max(i - 1, 0ll), right = min(i + 1, width - 1);
        const real here = x(plane, z, y, i);
        real own = sxx * (x(plane, z, y, right) - here) + syy * (x(plane, z, below, i) - here);
        own += szz * (x(plane, behind, y, i) - here);
        real g = sxx * inverse(plane, z, y, left) * (here - x(plane, z, y, left));
        g += syy * inverse(plane, z, above, i) * (here - x(plane, z, above, i));
        g += szz * inverse(plane, before, y, i) * (here - x(plane, before, y, i));
        gx(plane, z, y, i) = scale * (g - inverse(plane, z, y, i) * own);
    }
}

// A block has a filter: the sum of its squared differences, and their slope, scale · ∇ᵀ∇w.
extern "C" __global__ void kernel_continuity_forward_kernel(
    Array<const real, 4> w, Array<real, 4> slope, Array<float64, 1> partial, real scale
) {
    __shared__ float64 shared[32];
    const int64 f = blockIdx.x, depth = w.shape[1], height = w.shape[2], width = w.shape[3];
    float64 total = 0;
    for (int64 tap = threadIdx.x; tap < depth * height * width; tap += blockDim.x) {
        const int64 x = tap % width, y = tap / width % height, z = tap / width / height;
        const real here = w(f, z, y, x);
        // at the border a tap is its own neighbour: no difference
        const real rx = here - w(f, z, y, min(x + 1, width - 1));
        const real ry = here - w(f, z, min(y + 1, height - 1), x);
        const real rz = here - w(f, min(z + 1, depth - 1), y, x);
        total += float64(rx * rx) + float64(ry * ry) + float64(rz * rz);
        real g = rx + ry + rz + (here - w(f, z, y, max(x - 1, 0ll)));
        g += (here - w(f, z, max(y - 1, 0ll), x)) + (here - w(f, max(z - 1, 0ll), y, x));
        slope(f, z, y, x) = scale * g;
    }
    total = block_sum(total, shared);
    if (threadIdx.x == 0) partial(f) = total;
}
