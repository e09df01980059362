// Masked pixels show others: see missing.py.

#include "common.cuh"

// A thread has a masked pixel, and copies all its channels from the pixel that it shows.
extern "C" __global__ void copy_missing_kernel(
    Array<real, 3> image, Array<const int64, 1> places, Array<const int64, 1> sources
) {
    const int64 i = thread_index(), pixels = image.shape[2];
    if (i >= places.size() || places(i) < 0) return;
    const int64 n = places(i) / pixels, place = places(i) % pixels, source = sources(i) % pixels;
    for (int64 c = 0; c < image.shape[1]; ++c) image(n, c, place) = image(n, c, source);
}
