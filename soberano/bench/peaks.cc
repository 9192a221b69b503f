// What this machine can do at most with the threads of the kernels: read memory, and multiply in registers.
//
// A share of a peak is honest only if the peak is of the same run and the same threads, so soberano/bench/peaks.py
// measures both here and now. Nothing that is multiplied leaves the registers.
#include <atomic>
#include <cstdint>

#include "soberano/backends/amx.h"
#include "soberano/backends/pool.h"
#include "soberano/backends/simd.h"

namespace soberano {
namespace {

#if SOBERANO_AVX512
constexpr int kSums = 12;  // enough to hide the latency of a multiply-add, few enough for the registers
#else
constexpr int kSums = 6;
#endif

volatile float sink;  // what is stored here cannot be left out

uint64_t sum_words(const uint64_t* words, int64_t count) {
  constexpr int64_t kLine = 8, kAhead = 256;  // words of a cache line; how far ahead memory is asked for, 2 kB
  uint64_t sums[kLine] = {};
  for (int64_t i = 0; i + kLine <= count; i += kLine) {
    __builtin_prefetch(words + i + kAhead);
    for (int j = 0; j < kLine; j++) sums[j] += words[i + j];
  }
  uint64_t total = 0;
  for (uint64_t sum : sums) total += sum;
  return total;
}

double multiply_floats(int64_t rounds) {
  f32x16 sums[kSums];
  for (f32x16& sum : sums) sum = set1(1.0f);
  const f32x16 a = set1(0.5f), b = set1(sink);
  for (int64_t r = 0; r < rounds; r++)
#pragma GCC unroll 12
    for (int i = 0; i < kSums; i++) sums[i] = fma(sums[i], a, b);
  float out[16];
  for (f32x16 sum : sums) store(out, sum), sink = out[0];
  return 2.0 * 16 * kSums * double(rounds);
}

double multiply_bytes(int64_t rounds) {
  uint8_t codes[64] = {3, 1, 2};
  int8_t four[4] = {int8_t(sink), 1, -1, 2};
  i32x16 sums[kSums];
  for (i32x16& sum : sums) sum = set1(int32_t(0));
  u8x64 code = load(codes);
  for (int64_t r = 0; r < rounds; r++) {
    asm volatile("" : "+m"(four));  // else the compiler sees that each round does the same
#pragma GCC unroll 12
    for (int i = 0; i < kSums; i++) sums[i] = dot4<4>(sums[i], code, four);
  }
  float out[16];
  for (i32x16 sum : sums) store(out, to_f32(sum)), sink = out[0];
  return 2.0 * 64 * kSums * double(rounds);
}

#if SOBERANO_AVX512 && defined(__AVX512VL__)
// The same in half vectors: some processors do more than twice as many of these.
double multiply_bytes_in_halves(int64_t rounds) {
  __m256i sums[kSums], code = _mm256_set1_epi8(3), four = _mm256_set1_epi8(1);
  for (__m256i& sum : sums) sum = _mm256_set1_epi32(int32_t(sink));
  for (int64_t r = 0; r < rounds; r++) {
    asm volatile("" : "+v"(four));
#pragma GCC unroll 12
    for (int i = 0; i < kSums; i++) sums[i] = _mm256_dpbusd_epi32(sums[i], code, four);
  }
  for (__m256i sum : sums) sink = float(_mm256_extract_epi32(sum, 0));
  return 2.0 * 32 * kSums * double(rounds);
}
#endif

#if SOBERANO_AMX
// `four` multiplies four pairs of tiles of 16 rows and `columns` columns.
template <class Four> double multiply_tiles(int64_t rounds, int columns, Four&& four) {
  configure_tiles();
  for (int64_t r = 0; r < rounds; r++) four();
  _tile_release();
  return 4 * 2.0 * 16 * 16 * columns * double(rounds);
}

double multiply_bf16_tiles(int64_t rounds) {
  return multiply_tiles(rounds, 32, [] {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  });
}

double multiply_byte_tiles(int64_t rounds) {
  return multiply_tiles(rounds, 64, [] {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 5, 6);
    _tile_dpbusd(2, 4, 7);
    _tile_dpbusd(3, 5, 7);
  });
}
#endif

}  // namespace
}  // namespace soberano

// Read `bytes` at `data` once, a share for each thread. The sum goes to `out`, so that nothing is left out.
extern "C" void soberano_read_all(const uint64_t* data, uint64_t* out, int64_t bytes) {
  using namespace soberano;
  Pool& pool = Pool::instance();
  const int64_t shares = 4 * pool.threads(), words = bytes / 8 / shares;
  std::atomic<uint64_t> total{0};
  pool.parallel(int(shares), [&](int i) { total += sum_words(data + i * words, words); });
  *out = total;
}

// Multiply `rounds` times in each of some shares. `kind`: 0 float32, 1 bytes, 2 bytes in half vectors, 3 tiles of
// bfloat16, 4 tiles of bytes. `operations` gets how many multiplications and additions that was: 0 where the library
// has none of that kind.
extern "C" void soberano_multiply(double* operations, int64_t kind, int64_t rounds) {
  using namespace soberano;
  double (*multiply)(int64_t) = kind == 0 ? multiply_floats : kind == 1 ? multiply_bytes : nullptr;
#if SOBERANO_AVX512 && defined(__AVX512VL__)
  if (kind == 2) multiply = multiply_bytes_in_halves;
#endif
#if SOBERANO_AMX
  if (kind == 3 && amx_allowed()) multiply = multiply_bf16_tiles;
  if (kind == 4 && amx_allowed()) multiply = multiply_byte_tiles;
#endif
  Pool& pool = Pool::instance();
  const int shares = 4 * pool.threads();
  std::atomic<double> total{0};
  if (multiply) {
    pool.parallel(shares, [&](int) {
      double done = multiply(rounds), before = total;
      while (!total.compare_exchange_weak(before, before + done)) {
      }
    });
  }
  *operations = total;
}
