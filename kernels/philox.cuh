// Random numbers: the generator and the normal distribution of ssi_cupy/random.py, word for word.

#pragma once

struct Words {
    uint32 lane[4];
};

// The four words of a block of Philox 4×32-10.
__device__ inline Words philox(uint64 block, uint64 step, uint64 stream, uint64 seed) {
    uint32 a = uint32(block), b = uint32(block >> 32), c = uint32(step), d = uint32(stream);
    uint32 k = uint32(seed), m = uint32(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64 p = 0xD2511F53ull * a, q = 0xCD9E8D57ull * c;
        a = uint32(q >> 32) ^ b ^ k;
        b = uint32(q);
        c = uint32(p >> 32) ^ d ^ m;
        d = uint32(p);
        k += 0x9E3779B9u;
        m += 0xBB67AE85u;
    }
    return {{a, b, c, d}};
}

// A whole number in [0, high) of a word, by Lemire's multiplication.
__device__ inline int64 below(uint32 word, int64 high) {
    return int64((uint64(word) * uint64(high)) >> 32);
}

// Two standard normal numbers of two words, by Box and Muller: √(−2 ln u) (cos θ, sin θ). Sums and
// products only, rounded one by one, so that the CPU has the same bits.
__device__ inline void box_muller(uint32 u, uint32 v, float64* x, float64* y) {
    // ln u = e ln 2 + ln m with m in [√½, √2), and ln m = 2 artanh f with f = (m−1)/(m+1)
    const int64 bits = __double_as_longlong((float64(u) + 0.5) * 2.3283064365386963e-10);
    const int64 exponent = (bits - 0x3FE6A09E667F3BCDll) >> 52;
    const float64 m = __longlong_as_double(bits - exponent * (1ll << 52));
    const float64 f = (m - 1.0) / (m + 1.0), g = f * f;
    float64 s = 2.0 / 11 + g * (2.0 / 13 + g * (2.0 / 15 + g * (2.0 / 17)));
    s = 2.0 + g * (2.0 / 3 + g * (2.0 / 5 + g * (2.0 / 7 + g * (2.0 / 9 + g * s))));
    float64 r = sqrt(-2.0 * (float64(exponent) * 0.6931471805599453 + f * s));
    // θ = quarter · π/2 + t with t in (−π/4, π/4)
    const int quarter = int(v >> 30);
    const float64 quarter_turn = 3.141592653589793 * 4.656612873077393e-10;
    const float64 t = (float64(v & 0x3FFFFFFFu) + (0.5 - 536870912.0)) * quarter_turn;
    const float64 h = t * t;
    float64 sine = 1.0 / 362880 + h * (-1.0 / 39916800 + h * (1.0 / 6227020800 - h / 1307674368000));
    sine = t * (1.0 + h * (-1.0 / 6 + h * (1.0 / 120 + h * (-1.0 / 5040 + h * sine))));
    float64 cosine = 1.0 / 479001600 + h * (-1.0 / 87178291200 + h / 20922789888000);
    cosine = -1.0 / 3628800 + h * cosine;
    cosine = 1.0 + h * (-1.0 / 2 + h * (1.0 / 24 + h * (-1.0 / 720 + h * (1.0 / 40320 + h * cosine))));
    r = r * (1.0 - 2.0 * (quarter >> 1));
    *x = r * (quarter & 1 ? -sine : cosine);
    *y = r * (quarter & 1 ? cosine : sine);
}

// The four standard normal numbers of a block.
__device__ inline void normals(
    uint64 block, uint64 step, uint64 stream, uint64 seed, float64* four
) {
    const Words w = philox(block, step, stream, seed);
    box_muller(w.lane[0], w.lane[1], four, four + 1);
    box_muller(w.lane[2], w.lane[3], four + 2, four + 3);
}
