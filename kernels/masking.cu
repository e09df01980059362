// Masks, and what hidden pixels are filled with: see masking.py.

#include "common.cuh"
#include "philox.cuh"

// A thread has a Philox block, so four pixels: hidden where the word is below the limit.
extern "C" __global__ void random_mask_kernel(
    Array<uint8, 1> mask, Array<const float64, 1> limit, Array<const float64, 1> step,
    uint64 stream, uint64 seed
) {
    const int64 block = thread_index();
    if (4 * block >= mask.size()) return;
    const Words w = philox(block, uint64(step(0)), stream, seed);
    const uint64 below_it = uint64(limit(0));
    for (int lane = 0; lane < 4; ++lane)
        if (4 * block + lane < mask.size()) mask(4 * block + lane) = w.lane[lane] < below_it;
}

// A thread has a box, and hides one pixel of it, unless that lies over the edge.
extern "C" __global__ void stratified_mask_kernel(
    Array<uint8, 4> mask, int64 bz, int64 by, int64 bx, int64 depth, int64 side,
    Array<const float64, 1> step, uint64 stream, uint64 seed
) {
    const int64 box = thread_index();
    if (box >= mask.shape[0] * bz * by * bx) return;
    const Words w = philox(box, uint64(step(0)), stream, seed);
    const int64 z = box / (bx * by) % bz * depth + below(w.lane[0], depth);
    const int64 y = box / bx % by * side + below(w.lane[1], side);
    const int64 x = box % bx * side + below(w.lane[2], side);
    if (z < mask.shape[1] && y < mask.shape[2] && x < mask.shape[3])
        mask(box / (bx * by * bz), z, y, x) = 1;
}

// A thread has a Philox block, so four pixels. `group` channels share a mask.
extern "C" __global__ void fill_gaussian_kernel(
    Array<const real, 1> image, Array<const uint8, 1> hidden, Array<real, 1> filled, int64 group,
    int64 plane, real mean, real sigma, Array<const float64, 1> noise,
    Array<const float64, 1> step, uint64 stream, uint64 seed
) {
    const int64 block = thread_index();
    if (4 * block >= filled.size()) return;
    const real added = real(noise(0));
    float64 z[4] = {0, 0, 0, 0};
    if (sigma > 0 || added > 0) normals(block, uint64(step(0)), stream, seed, z);
    for (int lane = 0; lane < 4; ++lane) {
        const int64 i = 4 * block + lane;
        if (i >= filled.size()) return;
        const int64 at = group == 1 ? i : i / (group * plane) * plane + i % plane;
        const real normal = real(z[lane]);
        filled(i) = hidden(at) ? mean + sigma * normal : image(i) + added * normal;
    }
}

// A warp has a row; each hidden pixel takes the value of a random pixel that is seen around it
// (`pick`), or the mean of all those. Three throws mostly find one; if not, all are counted and
// one of them is drawn.
extern "C" __global__ void fill_neighbour_kernel(
    Array<const real, 4> image, Array<const uint8, 4> hidden, Array<real, 4> filled, int64 group,
    int64 radius, bool pick, real mean, Array<const float64, 1> step, uint64 stream, uint64 seed
) {
    const int64 depth = image.shape[1], height = image.shape[2], width = image.shape[3];
    const int64 row = thread_index() / 32;
    if (row >= image.shape[0] * depth * height) return;
    const int64 y = row % height, z = row / height % depth, plane = row / height / depth;
    const int64 hide = plane / group;
    const int64 z0 = max(z - radius, 0ll), z1 = min(z + radius + 1, depth);
    const int64 y0 = max(y - radius, 0ll), y1 = min(y + radius + 1, height);
    for (int64 x = threadIdx.x % 32; x < width; x += 32) {
        if (!hidden(hide, z, y, x)) {
            filled(plane, z, y, x) = image(plane, z, y, x);
            continue;
        }
        const int64 x0 = max(x - radius, 0ll), x1 = min(x + radius + 1, width);
        const int64 size_x = x1 - x0, size_yx = (y1 - y0) * size_x;
        const Words four = philox(row * width + x, uint64(step(0)), stream, seed);
        real value = mean;
        bool found = false;
        for (int at_throw = 0; pick && at_throw < 3 && !found; ++at_throw) {
            const int64 at = below(four.lane[at_throw], (z1 - z0) * size_yx);
            const int64 k = z0 + at / size_yx, j = y0 + at / size_x % (y1 - y0), i = x0 + at % size_x;
            if (!hidden(hide, k, j, i)) {
                value = image(plane, k, j, i);
                found = true;
            }
        }
        int64 chosen = -1;  // of those seen, which one is picked: known after they are counted
        while (!found) {
            int64 seen = 0;
            float64 total = 0;
            for (int64 k = z0; k < z1; ++k)
                for (int64 j = y0; j < y1; ++j)
                    for (int64 i = x0; i < x1; ++i) {
                        if (hidden(hide, k, j, i)) continue;
                        total += float64(image(plane, k, j, i));
                        if (seen == chosen) value = image(plane, k, j, i);
                        ++seen;
                    }
            found = seen == 0 || !pick || chosen >= 0;
            if (seen > 0 && !pick) value = real(total * (1.0 / float64(seen)));
            chosen = below(four.lane[3], seen);
        }
        filled(plane, z, y, x) = value;
    }
}
