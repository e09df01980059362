// Masks of uint8, pixel by pixel: see ops/masks.py.

#include "common.cuh"

// found = a or b, a and b, a and not b. gridDim.y blocks for each plane; `group` of a's share one of b's.
extern "C" __global__ void combine_masks_kernel(
    Array<const uint8, 2> a, Array<const uint8, 2> b, Array<uint8, 2> found, int64 group, int64 how
) {
    const int64 plane = blockIdx.x, pixels = a.shape[1];
    for (int64 i = int64(blockIdx.y) * blockDim.x + threadIdx.x; i < pixels;
         i += int64(gridDim.y) * blockDim.x) {
        const uint8 m = a(plane, i), other = b(plane / group, i);
        found(plane, i) = how == 0 ? m | other : m & (how == 1 ? other : uint8(~other));
    }
}
