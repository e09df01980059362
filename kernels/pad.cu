// Padding: see ops/pad.py for the equations. A warp of 32 threads has a line.

#include "common.cuh"

extern "C" __global__ void pad_forward_kernel(
    Array<const real, 4> x, Array<const int64, 1> mz, Array<const int64, 1> my,
    Array<const int64, 1> mx, int64 before, Array<real, 4> y
) {
    const int64 depth = y.shape[1], height = y.shape[2], width = y.shape[3];
    const int64 line = thread_index() / 32;
    if (line >= y.shape[0] * depth * height) return;
    const int64 c = line / height / depth, z = line / height % depth, v = line % height;
    const int64 source_z = mz(z), source_y = my(v);
    for (int64 i = threadIdx.x % 32; i < width; i += 32) {
        // what is not border need not be looked up
        const bool inside = i >= before && i < before + x.shape[3];
        const int64 from = inside ? i - before : mx(i);
        const bool zero = source_z < 0 || source_y < 0 || from < 0;
        y(c, z, v, i) = zero ? real(0) : x(c, source_z, source_y, from);
    }
}

// gx of a pixel is the sum over the places that it was copied to. `lz[fz[z] … fz[z + 1])` are the
// planes that plane z was copied to, so for the lines; along a line the borders are searched, which
// are short. Nobody writes where another does, and the order of the sum is fixed.
extern "C" __global__ void pad_backward_kernel(
    Array<const real, 4> gy, Array<const int64, 1> fz, Array<const int64, 1> lz,
    Array<const int64, 1> fy, Array<const int64, 1> ly, Array<const int64, 1> mx, int64 before,
    Array<real, 4> gx
) {
    const int64 depth = gx.shape[1], height = gx.shape[2], inner = gx.shape[3];
    const int64 line = thread_index() / 32;
    if (line >= gx.shape[0] * depth * height) return;
    const int64 c = line / height / depth, z = line / height % depth, v = line % height;
    for (int64 i = threadIdx.x % 32; i < inner; i += 32) {
        real total = 0;
        for (int64 a = fz(z); a < fz(z + 1); ++a)
            for (int64 b = fy(v); b < fy(v + 1); ++b) {
                const int64 plane = lz(a), row = ly(b);
                for (int64 j = 0; j < before; ++j)
                    if (mx(j) == i) total += gy(c, plane, row, j);
                total += gy(c, plane, row, before + i);
                for (int64 j = before + inner; j < gy.shape[3]; ++j)
                    if (mx(j) == i) total += gy(c, plane, row, j);
            }
        gx(c, z, v, i) = total;
    }
}
