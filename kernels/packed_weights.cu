// The weights of a convolution in the order of its kernels: see ops/packed_weights.py.

#include "common.cuh"

constexpr int OUTS = 8;  // as in conv.cu

// One thread for each of the packed weights.
extern "C" __global__ void pack_weights_kernel(
    Array<const real, 3> w, Array<real, 3> into, bool mirrored
) {
    const int64 at = thread_index();
    if (at >= into.size()) return;
    const int64 taps = w.shape[2], outputs = mirrored ? w.shape[1] : w.shape[0];
    const int64 place = at / OUTS % into.shape[1], i = place / taps, tap = place % taps;
    const int64 o = at / OUTS / into.shape[1] * OUTS + at % OUTS;
    real value = 0;
    if (o < outputs) value = mirrored ? w(i, o, taps - 1 - tap) : w(o, i, tap);
    into.flat(at) = value;
}

// One thread for each weight: the sum of what the slices found; the first have a bias each, too.
extern "C" __global__ void combine_weights_kernel(
    Array<const real, 5> partial, Array<const real, 2> bias, Array<real, 2> gw, Array<real, 1> gb
) {
    const int64 item = thread_index(), triple = partial.shape[4];
    if (item >= gw.size()) return;
    if (item < gb.size()) {
        real sum = bias(0, item);
        for (int64 s = 1; s < bias.shape[0]; ++s) sum += bias(s, item);
        gb(item) = sum;
    }
    const int64 o = item / gw.shape[1], tap = item % gw.shape[1];
    real total = partial(0, o / OUTS, tap / triple, o % OUTS, tap % triple);
    for (int64 s = 1; s < partial.shape[0]; ++s)
        total += partial(s, o / OUTS, tap / triple, o % OUTS, tap % triple);
    gw(o, tap) = total;
}
