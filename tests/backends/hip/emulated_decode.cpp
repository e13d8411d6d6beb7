// backends/hip's kernels as a shared library for the CPU. Built by tests/backends/hip/conftest.py with
// -DROCM_ATTN_EMULATE=<a struct of device.h>, and -DROCM_ATTN_EACH(...) for fewer kernels.
#include "emulator.h"

namespace rocm_attn {  // what device.h leaves to the emulator
inline float of_lane_xor(float value, int mask) { return emulator::of_lane_xor(value, mask); }
template <class M, bool FORMAT, class A, class D>
D multiply_add(const A& a, const A& b, const D& c);
}  // namespace rocm_attn

#include "kernels.h"
#include "layout.h"  // generated: const emulator::Layout LAYOUT

namespace emulator {
inline float widen(unsigned short bits, bool brain) {
  return brain ? rocm_attn::from_bf16(bits) : rocm_attn::from_f16(bits);
}
}  // namespace emulator

namespace rocm_attn {
template <class M, bool FORMAT, class A, class D>
D multiply_add(const A& a, const A& b, const D& c) {
  return emulator::multiply_add<M::PER_LANE, M::RESULTS>(LAYOUT, FORMAT == BF16, a, b, c);
}

template <bool FORMAT, Cache CACHE, int D, int BLOCK>
void decode(const Arguments& a, bool plain) {
  const emulator::Dim3 grid{static_cast<unsigned>(a.requests), static_cast<unsigned>(a.partitions),
                            static_cast<unsigned>(a.kv_heads)};
  const int heads = a.query_heads / a.kv_heads;
  if (!plain) {
    emulator::run(grid, THREADS, Matrix::WAVE, [&] { decode_by_matrix<FORMAT, CACHE, D, BLOCK>(a); });
  } else {
#define BOUND(HEADS)                                                                                     \
  if (heads <= HEADS) {                                                                                  \
    emulator::run(grid, THREADS, 0, [&] { decode_plainly<FORMAT, CACHE, D, BLOCK, HEADS>(a); });         \
  } else
    ROCM_ATTN_EACH_BOUND(BOUND) emulator::die("too many heads");
#undef BOUND
  }
  if (a.partitions > 1)
    emulator::run({static_cast<unsigned>(a.requests), static_cast<unsigned>(a.query_heads), 1}, D, 0,
                  [&] { combine<FORMAT, D>(a); });
}
}  // namespace rocm_attn

extern "C" {
using namespace rocm_attn;

int most_heads() { return MOST_HEADS; }
int partition() { return PARTITION; }
int arguments_size() { return sizeof(Arguments); }
int matrix_wave() { return Matrix::WAVE; }

int matrix_groups() { return Matrix::GROUPS; }
int matrix_per_lane() { return Matrix::PER_LANE; }
int matrix_results() { return Matrix::RESULTS; }
int matrix_row(int lane, int i) { return Matrix::row(lane, i); }

float widen_16(int brain, unsigned short bits) { return brain ? from_bf16(bits) : from_f16(bits); }
unsigned short narrow_16(int brain, float value) { return brain ? to_bf16(value) : to_f16(value); }
float widen_e4m3(int bias, unsigned char byte) { return bias == 8 ? from_e4m3<8>(byte) : from_e4m3<7>(byte); }

int emulated_decode(const Arguments* a, int brain, int cache, int head_size, int block_size, int plain) {
#define SHAPE(FORMAT, CACHE, D, BLOCK)                                                                    \
  if (brain == FORMAT && cache == static_cast<int>(CACHE) && head_size == D && block_size == BLOCK) {     \
    decode<FORMAT, CACHE, D, BLOCK>(*a, plain);                                                           \
    return 0;                                                                                             \
  }
  ROCM_ATTN_EACH(SHAPE)
#undef SHAPE
  return 1;
}
}
