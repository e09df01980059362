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

// Neighbouring threads for each weight: the sum of what the slices found, SHARES of them in turn, whose
// sums are added in a fixed order; the first weights have a bias each, too.
constexpr int SHARES = 8;  // as in packed_weights.py

__device__ inline real sum_of_shares(real total) {
#pragma unroll
    for (int distance = SHARES / 2; distance > 0; distance /= 2)
        total += __shfl_down_sync(0xffffffffu, total, distance);
    return total;
}

extern "C" __global__ void combine_weights_kernel(
    Array<const real, 5> partial, Array<const real, 2> bias, Array<real, 2> gw, Array<real, 1> gb
) {
    const int64 item = thread_index() / SHARES, triple = partial.shape[4];
    const int share = int(threadIdx.x) % SHARES;
    const bool weighs = item < gw.size(), biased = item < gb.size();
    const int64 o = weighs ? item / gw.shape[1] : 0, tap = weighs ? item % gw.shape[1] : 0;
    real total = 0, sum = 0;
    if (weighs)
        for (int64 s = share; s < partial.shape[0]; s += SHARES)
            total += partial(s, o / OUTS, tap / triple, o % OUTS, tap % triple);
    if (biased)
        for (int64 s = share; s < bias.shape[0]; s += SHARES) sum += bias(s, item);
    total = sum_of_shares(total);
    sum = sum_of_shares(sum);
    if (share == 0 && weighs) gw(o, tap) = total;
    if (share == 0 && biased) gb(item) = sum;
}
