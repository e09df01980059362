// The words of CUDA C++ in plain C++, so that a kernel file runs, unchanged, on a CPU.
//
// Each CUDA thread of a block is a coroutine with a stack of its own; a barrier or a shuffle is a
// yield. Blocks run one after the other, and so do the warps of a block, each as far as it gets,
// forwards or backwards: a kernel that lacks a barrier gives wrong results in one of the two, as
// a warp then is ahead of another by as much as it can be. What is wrong is noted in
// `complaint`, the first of all: a barrier that some threads do not reach, an index outside its
// array, shared memory written beyond its end. Shared memory is filled with NaN before each block.

#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __restrict__
#define __shared__ static __attribute__((section("emulated_shared")))

extern "C" {  // what the linker knows about all shared memory of the file; absent where there is none
extern char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));
}

struct dim3 {
    unsigned x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

// ---- complaints -------------------------------------------------------------------------------

static char complaint[400];

static void complain(const char* format, ...) {
    if (complaint[0]) return;
    va_list values;
    va_start(values, format);
    const int used = vsnprintf(complaint, 300, format, values);
    va_end(values);
    snprintf(complaint + used, 100, " (block %u %u %u, thread %u %u %u)", blockIdx.x, blockIdx.y,
             blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
}

static inline long long checked(long long index, long long size) {
    if (index >= 0 && index < size) return index;
    complain("index %lld of an axis of %lld", index, size);
    return 0;
}

// ---- coroutines -------------------------------------------------------------------------------

#if defined(__x86_64__)
// Keep what a function must keep, exchange the stacks, take it back.
extern "C" void emulation_switch(void** from, void* to) __attribute__((visibility("hidden")));
asm(".text\n.hidden emulation_switch\n.globl emulation_switch\nemulation_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");

struct Coroutine {
    void* stack;

    void start(char* memory, size_t size, void (*function)()) {
        void** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(memory + size) & ~15ul);
        *--top = nullptr;  // where `function` would return to; it never does
        *--top = reinterpret_cast<void*>(function);
        for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
        stack = top;
    }
};
static inline void exchange(Coroutine& from, Coroutine& to) { emulation_switch(&from.stack, to.stack); }
#else
#include <ucontext.h>
struct Coroutine {
    ucontext_t context;

    void start(char* memory, size_t size, void (*function)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = memory;
        context.uc_stack.ss_size = size;
        makecontext(&context, function, 0);
    }
};
static inline void exchange(Coroutine& from, Coroutine& to) { swapcontext(&from.context, &to.context); }
#endif

// ---- the threads of a block -------------------------------------------------------------------

constexpr int MOST = 1024;
constexpr size_t STACK = 64 << 10;
enum State { READY, AT_BARRIER, IN_SHUFFLE, DONE };

struct Thread {
    Coroutine coroutine;
    State state;
    int line;             // of the barrier or shuffle that it waits at
    unsigned mask;        // of the lanes that take part in it
    unsigned shuffles;    // so far: neighbouring ones use different slots
    char slot[2][32];     // what the others read
};

static Thread threads[MOST];
// A copy that a thread does not wait for: nobody may read its target before `arrived`.
struct Copy {
    void* to;
    char what[64];
    size_t size;
};
static Copy copies[MOST][256];
static int copying[MOST];

static inline void copies_arrive(int thread) {
    for (int i = 0; i < copying[thread]; ++i)
        memcpy(copies[thread][i].to, copies[thread][i].what, copies[thread][i].size);
    copying[thread] = 0;
}

static Coroutine scheduler;
static int current, count;
static char* stacks;
static void (*body)(void*);
static void* body_data;

static void yield(State state, int line) {
    threads[current].state = state;
    threads[current].line = line;
    exchange(threads[current].coroutine, scheduler);
}

static void run_thread() {
    body(body_data);
    yield(DONE, 0);
}

static void place(int thread) {
    current = thread;
    threadIdx.x = thread % blockDim.x;
    threadIdx.y = thread / blockDim.x % blockDim.y;
    threadIdx.z = thread / blockDim.x / blockDim.y;
}

// Lets the lanes of a warp go on that all wait in the same shuffle.
static bool release_shuffles(int warp, int lanes) {
    bool released = false;
    for (int lane = 0; lane < lanes; ++lane) {
        Thread& first = threads[warp + lane];
        if (first.state != IN_SHUFFLE) continue;
        bool all = true;
        for (int other = 0; other < lanes; ++other)
            if (first.mask >> other & 1) {
                const Thread& t = threads[warp + other];
                all = all && t.state == IN_SHUFFLE && t.line == first.line;
            }
        if (!all) continue;
        for (int other = 0; other < lanes; ++other)
            if (first.mask >> other & 1) threads[warp + other].state = READY;
        released = true;
    }
    return released;
}

// Runs a warp until all of its threads wait for others, or are done.
static void run_warp(int warp, bool backwards) {
    const int lanes = count - warp < 32 ? count - warp : 32;
    do
        for (int i = 0; i < lanes; ++i) {
            const int thread = warp + (backwards ? lanes - 1 - i : i);
            if (threads[thread].state != READY) continue;
            place(thread);
            exchange(scheduler, threads[thread].coroutine);
        }
    while (release_shuffles(warp, lanes));
}

static void run_block(bool backwards) {
    for (int i = 0; i < count; ++i) {
        threads[i].state = READY;
        threads[i].shuffles = 0;
        if (copying[i]) complain("copies of the last block's were never waited for");
        copying[i] = 0;
        threads[i].coroutine.start(stacks + i * STACK, STACK, run_thread);
    }
    while (true) {
        const int warps = (count + 31) / 32;
        for (int i = 0; i < warps; ++i) run_warp(32 * (backwards ? warps - 1 - i : i), backwards);
        int waiting = 0, done = 0;
        for (int i = 0; i < count; ++i) {
            waiting += threads[i].state == AT_BARRIER && threads[i].line == threads[0].line;
            done += threads[i].state == DONE;
        }
        if (done == count) return;
        if (waiting < count) {
            place(0);
            complain("not all threads reach the same barrier: %d of %d are at line %d, %d ended",
                     waiting, count, threads[0].line, done);
            return;
        }
        for (int i = 0; i < count; ++i) threads[i].state = READY;
    }
}

// ---- shared memory ----------------------------------------------------------------------------

constexpr size_t DYNAMIC = 227 << 10;  // as much as a block can have
alignas(64) static char dynamic_memory[DYNAMIC + 64];
static size_t dynamic_size;

static void poison_shared() {
    if (__start_emulated_shared)
        memset(__start_emulated_shared, 0xff, __stop_emulated_shared - __start_emulated_shared);
    memset(dynamic_memory, 0xff, dynamic_size + 64);
}

static void check_shared() {
    for (size_t i = dynamic_size; i < dynamic_size + 64; ++i)
        if (dynamic_memory[i] != char(0xff)) complain("shared memory written beyond its end");
}

// ---- a launch ---------------------------------------------------------------------------------

template <class... T, size_t... I>
static void call(void (*kernel)(T...), void** values, std::index_sequence<I...>) {
    kernel(*static_cast<T*>(values[I])...);
}

struct Launch {
    unsigned grid[3], block[3];
    uint64_t shared;
    int backwards;
    void** values;
};

// Runs `kernel` as cuLaunchKernel does: `values` are the addresses of its arguments.
template <class... T>
static const char* launch(void (*kernel)(T...), const Launch& how) {
    static void (*function)(T...);
    function = kernel;
    body = [](void* data) {
        call(function, static_cast<void**>(data), std::index_sequence_for<T...>());
    };
    body_data = how.values;
    complaint[0] = 0;
    dynamic_size = how.shared;
    blockDim = {how.block[0], how.block[1], how.block[2]};
    gridDim = {how.grid[0], how.grid[1], how.grid[2]};
    count = blockDim.x * blockDim.y * blockDim.z;
    if (count < 1 || count > MOST || dynamic_size > DYNAMIC) return "a block too large";
    if (!stacks) stacks = static_cast<char*>(malloc(MOST * STACK));
    const long long blocks = 1ll * gridDim.x * gridDim.y * gridDim.z;
    for (long long i = 0; i < blocks && !complaint[0]; ++i) {
        const long long block = how.backwards ? blocks - 1 - i : i;
        blockIdx.x = block % gridDim.x;
        blockIdx.y = block / gridDim.x % gridDim.y;
        blockIdx.z = block / gridDim.x / gridDim.y;
        poison_shared();
        run_block(how.backwards);
        check_shared();
    }
    return complaint;
}

// The sizes of a kernel's arguments, so that the launcher can compare them with its own.
template <class... T>
static int sizes(void (*)(T...), int* out) {
    const int all[] = {static_cast<int>(sizeof(T))...};
    memcpy(out, all, sizeof(all));
    return sizeof...(T);
}

// ---- shuffles, and the tensor core ------------------------------------------------------------

template <class T>
static T shuffle(unsigned mask, T value, int source, int line) {
    static_assert(sizeof(T) <= sizeof(Thread::slot[0]), "larger than a slot");
    const int warp = current / 32 * 32;
    Thread& own = threads[current];
    const int slot = own.shuffles++ % 2;
    memcpy(own.slot[slot], &value, sizeof(T));
    own.mask = mask;
    yield(IN_SHUFFLE, line);
    if (source < 0 || source > 31 || warp + source >= count) return value;
    if (!(mask >> source & 1)) complain("a shuffle reads lane %d, which takes no part", source);
    memcpy(&value, threads[warp + source].slot[slot], sizeof(T));
    return value;
}

// A number, and the exponent by which a tensor core aligns it: a product's is the sum of its factors'.
struct Addend {
    double value;
    int exponent;
};

static inline int exponent_of(float v) { return v == 0 ? -1000 : std::ilogb(v); }

// What a tensor core makes of a sum: all addends are aligned to the largest and cut towards zero one
// bit behind its 24, added, and cut towards zero to a float. An A100's; later ones keep more bits.
// M. Fasi, N. J. Higham, M. Mikaitis, S. Pranesh, "Numerical behavior of NVIDIA tensor cores" (2021);
// F. A. Khattak, M. Mikaitis, "Accurate models of NVIDIA tensor cores" (2025).
static float truncated_sum(const Addend* addends, int n) {
    int largest = -1000;
    double plain = 0;
    for (int i = 0; i < n; ++i) {
        plain += addends[i].value;
        if (addends[i].exponent > largest) largest = addends[i].exponent;
    }
    if (largest == -1000 || !std::isfinite(plain)) return float(plain);
    const double unit = std::ldexp(1.0, largest - 24);
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += std::trunc(addends[i].value / unit);
    sum *= unit;
    const float nearest = float(sum);
    return std::abs(nearest) > std::abs(sum) ? std::nextafter(nearest, 0.0f) : nearest;
}

// mma.m16n8k8 of PTX, in TF32: D += A B. A lane holds these numbers, with group = lane / 4 and
// member = lane % 4: A (group, member), (group + 8, member), (group, member + 4),
// (group + 8, member + 4); B (member, group), (member + 4, group); D (group, 2 member),
// (group, 2 member + 1), (group + 8, 2 member), (group + 8, 2 member + 1). The unit does not see
// the last 13 bits of A and B, and takes four of the eight products at once.
static void multiply_matrices(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const auto seen = [](unsigned bits) {
        float v;
        bits &= 0xffffe000u;
        memcpy(&v, &bits, 4);
        return v;
    };
    const int warp = current / 32 * 32, lane = current % 32, group = lane / 4, member = lane % 4;
    if (warp + 32 > count) complain("a tensor core needs 32 lanes");
    const float mine[6] = {seen(a[0]), seen(a[1]), seen(a[2]), seen(a[3]), seen(b0), seen(b1)};
    Thread& own = threads[current];
    const int slot = own.shuffles++ % 2;
    memcpy(own.slot[slot], mine, sizeof(mine));
    own.mask = 0xffffffffu;
    yield(IN_SHUFFLE, -1);
    for (int i = 0; i < 4; ++i)
        for (int four = 0; four < 2; ++four) {
            Addend addends[5] = {{d[i], exponent_of(d[i])}};
            for (int k = 0; k < 4; ++k) {
                float left[6], right[6];
                memcpy(left, threads[warp + group * 4 + k].slot[slot], sizeof(left));
                memcpy(right, threads[warp + (2 * member + i % 2) * 4 + k].slot[slot], sizeof(right));
                const float x = left[four * 2 + i / 2], y = right[4 + four];
                const int exponent = x == 0 || y == 0 ? -1000 : exponent_of(x) + exponent_of(y);
                addends[1 + k] = {double(x) * y, exponent};
            }
            d[i] = truncated_sum(addends, 5);
        }
}

}  // namespace emulation

#define CHECKED(index, size) emulation::checked(index, size)
#define DYNAMIC_SHARED(T, name) T* const name = reinterpret_cast<T*>(emulation::dynamic_memory)
#define __syncthreads() emulation::yield(emulation::AT_BARRIER, __LINE__)
#define __syncwarp(...) emulation::shuffle(0xffffffffu, 0, emulation::current % 32, __LINE__)
#define __shfl_sync(mask, value, lane) emulation::shuffle(mask, value, lane, __LINE__)
#define __shfl_down_sync(mask, value, distance) \
    emulation::shuffle(mask, value, emulation::current % 32 + (distance), __LINE__)
#define __shfl_xor_sync(mask, value, bits) \
    emulation::shuffle(mask, value, emulation::current % 32 ^ (bits), __LINE__)

#define COPY_ASYNC
template <class T>
static inline void copy_async(T* to, const T* from, bool there) {
    using namespace emulation;
    static_assert(sizeof(T) <= sizeof(Copy::what), "larger than a copy");
    constexpr size_t together = sizeof(T) < 16 ? sizeof(T) : 16;
    const uintptr_t places = reinterpret_cast<uintptr_t>(to) | (there ? reinterpret_cast<uintptr_t>(from) : 0);
    if (places % together) complain("a copy of %d bytes that are not aligned", int(sizeof(T)));
    if (copying[current] == 256) copies_arrive(current);
    Copy& copy = copies[current][copying[current]++];
    copy.to = to, copy.size = sizeof(T);
    const T value = there ? *from : T{};
    memcpy(copy.what, &value, sizeof(T));
    memset(static_cast<void*>(to), 0xff, sizeof(T));
}
static inline void arrived() { emulation::copies_arrive(emulation::current); }

#define TENSOR_CORE
static inline void tensor_core(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    emulation::multiply_matrices(d, a, b0, b1);
}

template <class T>
static inline T __ldg(const T* p) { return *p; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline long long min(long long a, long long b) { return a < b ? a : b; }
static inline long long max(long long a, long long b) { return a > b ? a : b; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline long long __double_as_longlong(double v) { long long i; memcpy(&i, &v, 8); return i; }
static inline unsigned __float_as_uint(float v) { unsigned i; memcpy(&i, &v, 4); return i; }
static inline float __uint_as_float(unsigned i) { float v; memcpy(&v, &i, 4); return v; }
static inline double __longlong_as_double(long long i) { double v; memcpy(&v, &i, 8); return v; }
using std::fma;
using std::sqrt;
