// The products of causal_attention.cc in the matrix unit (AMX): what is multiplied as bfloat16, sums in float32.
#pragma once
#include "soberano/backends/amx.h"
#if SOBERANO_AMX
#include "soberano/ops/causal_attention_f32.h"

namespace soberano::causal {

constexpr int kTile = 512;  // bfloat16 numbers in a tile: 16 rows of 32

inline __m512i to_bf16(const float* from) {
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from));
}

// Sixteen rows of sixteen 32-bit numbers, turned in place.
inline void turn(__m512i* rows) {
  for (int step = 8; step; step /= 2) {  // halves of sixteen rows, of eight, of four, of two
    __m512i first, second;  // where lane i of the two results comes from: rows[r], or 16 and rows[r + step]
    alignas(64) int32_t low[16], high[16];
    for (int i = 0; i < 16; i++) low[i] = i & step ? 16 + i - step : i, high[i] = i & step ? 16 + i : i + step;
    first = _mm512_load_si512(low), second = _mm512_load_si512(high);
    for (int r = 0; r < 16; r++) {
      if (r & step) continue;
      const __m512i a = rows[r], b = rows[r + step];
      rows[r] = _mm512_permutex2var_epi32(a, first, b), rows[r + step] = _mm512_permutex2var_epi32(a, second, b);
    }
  }
}

// As MatrixF32. Heads are a multiple of 32 wide.
class MatrixBf16 {
 public:
  using Number = uint16_t;
  struct Unit {
    Unit() { configure_tiles(); }
    ~Unit() { _tile_release(); }
  };

  MatrixBf16(const Call& call, const float* x, Ways ways, Scratch<uint16_t>& memory) : c_(call) {
    const int64_t block = kTokens * c_.E, whole = c_.B * c_.K * c_.blocks() * block;
    uint16_t* room = memory.room(2 * whole);
    scores_ = room, mix_ = room + whole;
    Pool::instance().parallel(int(c_.B * c_.K * c_.blocks()), [&](int i) {
      const int64_t head = i / c_.blocks();
      const Rows rows(c_, x + c_.row(head / c_.K, 0, head % c_.K, c_.K), c_.K * c_.E, i % c_.blocks() * kTokens);
      if (ways & kScores) rows.across(room + i * block);
      if (ways & kMix) rows.along(room + whole + i * block);
    });
  }

  void scores(const Block& block, int64_t head, const float* x, int64_t step, float* weights) const {
    alignas(64) uint16_t left[kTokens * kWidest];
    for (int64_t t = 0; t < kTokens; t++)
      for (int64_t e = 0; e < c_.E; e += 32)
        _mm512_store_si512(left + t * c_.E + e, t < block.rows() ? to_bf16(x + t * step + e) : _mm512_setzero_si512());
    for (int64_t key = block.from; key < block.to; key += kTokens) {
      const uint16_t* right = scores_ + (head * c_.blocks() + key / kTokens) * kTokens * c_.E;
      multiply(c_.E / 32, left, 32, c_.E, right, kTile, c_.E / 32 * kTile, weights + key, c_.padded(), false);
    }
  }

  void mix(const Block& block, int64_t head, const float* weights, float* out, int64_t step) const {
    static thread_local Scratch<uint16_t> memory;
    const int64_t span = block.span();
    uint16_t* const left = memory.room(kTokens * span);
    for (int64_t t = 0; t < kTokens; t++)
      for (int64_t key = 0; key < span; key += 32)
        _mm512_store_si512(left + t * span + key, t < block.rows()
                                                      ? to_bf16(weights + t * c_.padded() + block.from + key)
                                                      : _mm512_setzero_si512());
    const uint16_t* right = mix_ + (head * c_.blocks() + block.from / kTokens) * kTokens * c_.E;
    alignas(64) float rows[kTokens * 32];
    for (int64_t e = 0; e < c_.E; e += 32) {
      multiply(span / 32, left, 32, span, right + e / 16 * kTile, c_.E / 16 * kTile, kTile, rows, 32, false);
      for (int64_t t = 0; t < block.rows(); t++)
        store(out + t * step + e, load(rows + t * 32)), store(out + t * step + e + 16, load(rows + t * 32 + 16));
    }
  }

  static void gather(const Call& c, const Block& block, const float* weights, const float* x, int64_t step,
                     float* sums) {
    alignas(64) uint16_t left[kWidest * kTokens], right[2 * kTile];  // x turned: a number of each of 32 tokens
    for (int64_t e = 0; e < c.E; e += 16) {
      __m512i pairs[16];
      for (int64_t t = 0; t < kTokens; t += 2)
        pairs[t / 2] = to_bf16_pairs(numbers(x, step, block.rows(), t, e), numbers(x, step, block.rows(), t + 1, e));
      turn(pairs);
      for (int i = 0; i < 16; i++) _mm512_store_si512(left + (e + i) * kTokens, pairs[i]);
    }
    for (int64_t key = block.from; key < block.to; key += 32) {
      for (int64_t t = 0; t < kTokens; t += 2)
        for (int half = 0; half < 2; half++)
          _mm512_store_si512(right + half * kTile + t * 16,
                             to_bf16_pairs(numbers(weights, c.padded(), block.rows(), t, key + 16 * half),
                                           numbers(weights, c.padded(), block.rows(), t + 1, key + 16 * half)));
      for (int64_t e = 0; e < c.E; e += 32)
        multiply(1, left + e * kTokens, 0, kTokens, right, 0, kTile, sums + e * c.padded() + key, c.padded(), true);
    }
  }

 private:
  static constexpr int64_t kWidest = 512;

  // Sixteen numbers of row t, or zeros where there are not so many rows.
  static __m512 numbers(const float* x, int64_t step, int64_t rows, int64_t t, int64_t at) {
    return t < rows ? _mm512_loadu_ps(x + t * step + at) : _mm512_setzero_ps();
  }

  // 32 keys or values of a head as right-hand tiles; zeros where the text has ended.
  struct Rows {
    Rows(const Call& call, const float* x, int64_t row, int64_t first)
        : c(call), data(x + first * row), step(row), count(std::min(kTokens, c.T - first)) {}

    // Numbers of a head are what is summed over: tiles [16 keys][32 numbers].
    void across(uint16_t* to) const {
      for (int64_t key = 0; key < kTokens; key += 16)
        for (int64_t e = 0; e < c.E; e += 32, to += kTile) {
          __m512i pairs[16];
          for (int i = 0; i < 16; i++) pairs[i] = key + i < count ? to_bf16(data + (key + i) * step + e) : __m512i();
          turn(pairs);
          for (int i = 0; i < 16; i++) _mm512_store_si512(to + i * 32, pairs[i]);
        }
    }

    // Keys are what is summed over: tiles [16 numbers][32 keys].
    void along(uint16_t* to) const {
      for (int64_t e = 0; e < c.E; e += 16)
        for (int64_t key = 0; key < kTokens; key += 2, to += 32)
          _mm512_store_si512(to,
                             to_bf16_pairs(numbers(data, step, count, key, e), numbers(data, step, count, key + 1, e)));
    }

    const Call& c;
    const float* data;
    const int64_t step, count;
  };

  // out (32, 32) = left (32, 32 count) . right, or that beside what is there. Tiles of the left are `left_step` numbers
  // apart, their rows `left_row`; those of the right `right_step`, and those of its other 16 columns `right_half`
  // behind.
  static void multiply(int64_t count, const uint16_t* left, int64_t left_step, int64_t left_row, const uint16_t* right,
                       int64_t right_step, int64_t right_half, float* out, int64_t out_row, bool add) {
    if (add) {
      _tile_loadd(0, out, out_row * 4);
      _tile_loadd(1, out + 16, out_row * 4);
      _tile_loadd(2, out + 16 * out_row, out_row * 4);
      _tile_loadd(3, out + 16 * out_row + 16, out_row * 4);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t i = 0; i < count; i++, left += left_step, right += right_step) {
      _tile_loadd(4, left, left_row * 2);
      _tile_loadd(5, left + 16 * left_row, left_row * 2);
      _tile_loadd(6, right, 64);
      _tile_loadd(7, right + right_half, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, out_row * 4);
    _tile_stored(1, out + 16, out_row * 4);
    _tile_stored(2, out + 16 * out_row, out_row * 4);
    _tile_stored(3, out + 16 * out_row + 16, out_row * 4);
  }

  const Call& c_;
  const uint16_t *scores_, *mix_;
};

}  // namespace soberano::causal
#endif
