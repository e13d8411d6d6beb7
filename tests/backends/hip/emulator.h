// Runs a workgroup of backends/hip's kernels on the CPU: each thread is a fiber, which runs until it must
// wait for the others of its wave or of its workgroup.
//
// A matrix instruction is computed from what all lanes hold, by the layout in LAYOUT (made by the test from
// backends/hip/matrix_layout.py), so a lane that loaded the wrong element gives a wrong product. Where the
// hardware wants an element twice, both copies must agree. LDS is filled with NaN before each workgroup.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(...)
#define ROCM_ATTN_LDS(Type, name) Type& name = *static_cast<Type*>(emulator::lds(sizeof(Type)))

namespace emulator {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

struct Layout {  // of one instruction
  int k, wave, per_lane, results;
  const int (*a)[2];  // [lane * per_lane + i] -> row, k
  const int (*b)[2];  // -> k, column
  const int (*d)[2];  // [lane * results + i] -> row, column
};

struct Meeting {  // of all members of a wave or workgroup
  int arrived = 0;
  long long generation = 0;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  unsigned thread;
  bool done;
};

inline ucontext_t scheduler;
inline std::vector<Fiber> fibers;
inline Fiber* current;
inline Dim3 block_index, grid_size;
inline int wave_size;
inline Meeting workgroup;
inline std::vector<Meeting> waves;
inline std::vector<float> exchange;          // a float of each thread
inline std::vector<unsigned short> operand_a, operand_b;
inline std::vector<float> sums;
inline std::vector<unsigned char> lds_bytes;

inline void die(const char* what) {
  std::fprintf(stderr, "emulator: %s\n", what);
  std::abort();
}

inline void* lds(std::size_t size) {
  if (size > 65536) die("more LDS than 64 KiB");
  return lds_bytes.data();
}

inline void yield() { swapcontext(&current->context, &scheduler); }

inline void meet(Meeting& meeting, int members) {
  const long long before = meeting.generation;
  if (++meeting.arrived == members) {
    meeting.arrived = 0;
    ++meeting.generation;
    return;
  }
  while (meeting.generation == before) yield();
}

inline void meet_workgroup() { meet(workgroup, static_cast<int>(fibers.size())); }
inline void meet_wave() { meet(waves[current->thread / wave_size], wave_size); }

inline float of_lane_xor(float value, int mask) {
  exchange[current->thread] = value;
  meet_wave();
  const float other = exchange[current->thread ^ static_cast<unsigned>(mask)];
  meet_wave();
  return other;
}

inline float widen(unsigned short bits, bool brain);

template <int N, int R, class A, class D>
D multiply_add(const Layout& layout, bool brain, const A& a, const A& b, const D& c) {
  const unsigned thread = current->thread, wave = thread / layout.wave, lane = thread % layout.wave;
  std::memcpy(&operand_a[thread * 16], a.at, N * 2);
  std::memcpy(&operand_b[thread * 16], b.at, N * 2);
  meet_wave();
  if (lane == 0) {
    static float A_[16][32], B_[32][16], D_[16][16];
    static bool seen_a[16][32], seen_b[32][16];
    std::memset(seen_a, 0, sizeof(seen_a));
    std::memset(seen_b, 0, sizeof(seen_b));
    for (int l = 0; l < layout.wave; ++l)
      for (int i = 0; i < N; ++i) {
        const unsigned at = (wave * layout.wave + l) * 16 + i;
        const int* ia = layout.a[l * N + i];
        const int* ib = layout.b[l * N + i];
        const float va = widen(operand_a[at], brain), vb = widen(operand_b[at], brain);
        if (seen_a[ia[0]][ia[1]] && std::memcmp(&A_[ia[0]][ia[1]], &va, 4)) die("copies of an element of A differ");
        if (seen_b[ib[0]][ib[1]] && std::memcmp(&B_[ib[0]][ib[1]], &vb, 4)) die("copies of an element of B differ");
        A_[ia[0]][ia[1]] = va, seen_a[ia[0]][ia[1]] = true;
        B_[ib[0]][ib[1]] = vb, seen_b[ib[0]][ib[1]] = true;
      }
    for (int m = 0; m < 16; ++m)
      for (int n = 0; n < 16; ++n) {
        double sum = 0;
        for (int k = 0; k < layout.k; ++k) sum += static_cast<double>(A_[m][k]) * B_[k][n];
        D_[m][n] = static_cast<float>(sum);
      }
    for (int l = 0; l < layout.wave; ++l)
      for (int i = 0; i < R; ++i) {
        const int* id = layout.d[l * R + i];
        sums[(wave * layout.wave + l) * 8 + i] = D_[id[0]][id[1]];
      }
  }
  meet_wave();
  D result;
  for (int i = 0; i < R; ++i) result.at[i] = c.at[i] + sums[thread * 8 + i];
  meet_wave();
  return result;
}

template <class Body>
void body_of_fiber(unsigned high, unsigned low) {
  const auto pointer = (static_cast<unsigned long long>(high) << 32) | low;
  (*reinterpret_cast<Body*>(pointer))();
  current->done = true;
  swapcontext(&current->context, &scheduler);
}

// Run body as each thread of each workgroup of a grid.
template <class Body>
void run(Dim3 grid, int threads, int lanes, Body body) {
  grid_size = grid;
  wave_size = lanes ? lanes : 32;
  fibers = std::vector<Fiber>(threads);
  exchange.assign(threads, 0);
  operand_a.assign(threads * 16, 0);
  operand_b.assign(threads * 16, 0);
  sums.assign(threads * 8, 0);
  for (auto& fiber : fibers) fiber.stack.reset(new char[64 * 1024]);
  for (block_index.z = 0; block_index.z < grid.z; ++block_index.z)
    for (block_index.y = 0; block_index.y < grid.y; ++block_index.y)
      for (block_index.x = 0; block_index.x < grid.x; ++block_index.x) {
        lds_bytes.assign(65536, 0xff);
        workgroup = Meeting{};
        waves.assign(threads / wave_size + 1, Meeting{});
        for (int i = 0; i < threads; ++i) {
          Fiber& fiber = fibers[i];
          fiber.thread = static_cast<unsigned>(i);
          fiber.done = false;
          getcontext(&fiber.context);
          fiber.context.uc_stack.ss_sp = fiber.stack.get();
          fiber.context.uc_stack.ss_size = 64 * 1024;
          fiber.context.uc_link = nullptr;
          const auto pointer = reinterpret_cast<unsigned long long>(&body);
          makecontext(&fiber.context, reinterpret_cast<void (*)()>(body_of_fiber<Body>), 2,
                      static_cast<unsigned>(pointer >> 32), static_cast<unsigned>(pointer));
        }
        int idle_rounds = 0;
        for (bool open = true; open;) {
          open = false;
          const long long before = workgroup.generation;
          long long progress = 0;
          for (auto& meeting : waves) progress += meeting.generation;
          bool ended = false;
          for (auto& fiber : fibers)
            if (!fiber.done) {
              current = &fiber;
              swapcontext(&scheduler, &fiber.context);
              ended |= fiber.done;
              open |= !fiber.done;
            }
          long long after = 0;
          for (auto& meeting : waves) after += meeting.generation;
          const bool moved = ended || workgroup.generation != before || after != progress;
          idle_rounds = moved ? 0 : idle_rounds + 1;
          if (idle_rounds > 3) die("threads wait for each other for ever: a barrier that not all reach");
        }
      }
}

}  // namespace emulator

struct EmulatedThreadIndex {
  struct X {
    operator unsigned() const { return emulator::current->thread; }
  } x;
};
inline const EmulatedThreadIndex threadIdx;
#define blockIdx emulator::block_index
#define __syncthreads() emulator::meet_workgroup()
