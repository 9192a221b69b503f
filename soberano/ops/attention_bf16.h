// Attention of a block of prompt queries to one run of keys in the matrix unit (AMX): queries, keys, weights and values
// as bfloat16, scores and sums in float32.
//
// A tile's sums run over the numbers of a head, or over the keys of the run, in one order, and what a query may not see
// counts 0: so its bits depend on its own position only. They are not those of attention_f32.h, and the role of a token
// says which of the two it gets: see soberano/backends/plan.py.
#pragma once
#include "soberano/backends/amx.h"
#if SOBERANO_AMX
#include <array>

#include "soberano/ops/attention_softmax.h"

namespace soberano {

constexpr int kTile = 512;  // bfloat16 numbers in a tile: 16 rows of 32
constexpr float kLog2E = 1.44269504f;

// Sixteen pairs of bfloat16: a row of the right-hand tile from two rows of numbers.
inline void store_pairs(uint16_t* to, f32x16 first, f32x16 second) {
  _mm512_store_si512(to, to_bf16_pairs(first.v, second.v));
}

inline void store_bf16(uint16_t* to, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 32)
    _mm512_store_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16), _mm512_loadu_ps(from + i)));
}

// 2^x for x <= 0, to 3e-6: a thousandth of what a weight loses when it is rounded to bfloat16. NaN stays NaN.
inline __m512 power_of_2(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-126.0f), x);  // of anything and NaN, the second
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(0.00957010143f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0559178603f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240247448f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693121815f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.999999261f));
  return _mm512_scalef_ps(p, n);
}

// The keys `from` to `to` of a run as lanes: a bit each.
class Lanes {
 public:
  void set(int from, int to) {
    static_assert(kRun == 128);
    alignas(64) static constexpr auto kCount = [] {
      std::array<uint8_t, kRun> count{};
      for (int i = 0; i < kRun; i++) count[i] = uint8_t(i);
      return count;
    }();
    for (int half = 0; half < 2; half++) {
      const __m512i key = _mm512_load_si512(kCount.data() + 64 * half);
      const uint64_t lanes = _mm512_mask_cmpge_epu8_mask(_mm512_cmplt_epu8_mask(key, _mm512_set1_epi8(char(to))), key,
                                                         _mm512_set1_epi8(char(from)));
      std::memcpy(lanes_ + 4 * half, &lanes, 8);
    }
  }
  __mmask16 at(int key) const { return lanes_[key / 16]; }  // of sixteen

 private:
  uint16_t lanes_[kRun / 16];
};

template <class Page> class AttendBf16 {
 public:
  AttendBf16(const Call& call, const Block& block)
      : c_(call), n_(call.n), block_(block), queries_(call, block), padded_((block.rows + 31) / 32 * 32) {
    static thread_local Scratch<uint16_t> memory;
    q_ = memory.room(padded_ * n_.E);
    const float scale = c_.scale * kLog2E;  // scores count in powers of 2
    for (int r = 0; r < padded_; r++) {
      alignas(64) float scaled[kWidth];
      for (int64_t e = 0; e < n_.E; e++) scaled[e] = r < block.rows ? queries_.row(r)[e] * scale : 0.0f;
      store_bf16(q_ + r * n_.E, scaled, n_.E);
    }
    configure_tiles();
  }
  ~AttendBf16() { _tile_release(); }
  AttendBf16(const AttendBf16&) = delete;

  void run(int64_t start, const Part& part) const {
    static thread_local Scratch<uint16_t> key_memory, value_memory;
    uint16_t *k = key_memory.room(kRun * n_.E), *v = value_memory.room(kRun * n_.E);
    Seen seen;
    queries_.see(start, seen);
    pack(start, seen, k, v);
    std::fill(seen.from + block_.rows, seen.from + padded_, 0);
    std::fill(seen.to + block_.rows, seen.to + padded_, 0);
    const int first = seen.least / 32;  // group of 32 keys
    for (int r = 0; r < padded_; r += 32) {
      alignas(64) float s[32 * kRun];
      alignas(64) uint16_t weights[32 * kRun];
      const int keys = *std::max_element(seen.to + r, seen.to + r + 32), groups = (keys + 31) / 32;
      for (int g = first; g < groups; g++) scores(q_ + r * n_.E, k + 2 * g * n_.E * 16, s + 32 * g);
      if (c_.cap > 0)
        for (int i = 0; i < 32; i++) bend(s + i * kRun, 32 * first, 32 * groups, c_.cap * kLog2E);
      weigh(s, seen.from + r, seen.to + r, 32 * first, 32 * groups, weights, part, r);
      for (int64_t e = 0; e < n_.E && keys; e += 32)
        values(weights, v + e / 16 * (kRun / 32) * kTile, first, groups, part.value + r * n_.E + e);
    }
  }

 private:
  // The keys and values of the run as right-hand tiles: k[16 keys][32 numbers of a head], v[16 numbers][32 keys]. Keys
  // that nobody sees are left as they are; values that nobody sees are 0, since 0 times what lies there may be no 0.
  void pack(int64_t start, const Seen& seen, uint16_t* k, uint16_t* v) const {
    static thread_local Scratch<float> page_memory;
    float* numbers = page_memory.room(n_.E * n_.page);
    const RunPages<Page> pages(c_, block_, start);
    const int64_t first = seen.least / n_.page, count = (seen.most + n_.page - 1) / n_.page;
    for (int64_t key = first * n_.page / 32 * 32; key < first * n_.page; key += 2) no_values(v, key);
    for (int64_t p = first; p < count; p++) {
      Page::read_keys(pages.key(p), n_.E, n_.page, numbers);
      Soon soon = pages.after_key(p, n_.E / 2);
      for (int64_t key = 0; key < n_.page; key += 16)
        for (int64_t e = 0; e < n_.E; e += 2) {
          soon.ask();
          store_pairs(k + (p * n_.page + key) * n_.E + e * 16, load(numbers + e * n_.page + key),
                      load(numbers + (e + 1) * n_.page + key));
        }
      Page::read_values(pages.value(p), n_.E, n_.page, numbers);
      soon = pages.after_value(p, n_.page / 2);
      if (seen.least > p * n_.page) std::fill(numbers, numbers + seen.least % n_.page * n_.E, 0.0f);
      if (seen.most < (p + 1) * n_.page)
        std::fill(numbers + seen.most % n_.page * n_.E, numbers + n_.page * n_.E, 0.0f);
      for (int64_t key = 0; key < n_.page; key += 2) {
        soon.ask();
        for (int64_t e = 0; e < n_.E; e += 16)
          store_pairs(value_row(v, e, p * n_.page + key), load(numbers + key * n_.E + e),
                      load(numbers + (key + 1) * n_.E + e));
      }
    }
    for (int64_t key = count * n_.page; key % 32; key += 2) no_values(v, key);  // the rest of a group of 32
  }

  void no_values(uint16_t* v, int64_t key) const {
    for (int64_t e = 0; e < n_.E; e += 16) store_pairs(value_row(v, e, key), set1(0.0f), set1(0.0f));
  }

  // Where 16 numbers of a key and of the next one lie in the tiles of values.
  static uint16_t* value_row(uint16_t* v, int64_t e, int64_t key) {
    return v + (e / 16 * (kRun / 32) + key / 32) * kTile + key % 32 * 16;
  }

  // s (32, 32) of (32, kRun) = q (32, E) . k (32, E).
  void scores(const uint16_t* q, const uint16_t* k, float* s) const {
    zero();
    for (int64_t e = 0; e < n_.E; e += 32) {
      _tile_loadd(4, q + e, n_.E * 2);
      _tile_loadd(5, q + 16 * n_.E + e, n_.E * 2);
      _tile_loadd(6, k + e * 16, 64);
      _tile_loadd(7, k + n_.E * 16 + e * 16, 64);
      multiply();
    }
    keep(s, kRun);
  }

  // Turn 32 rows of scores into bfloat16 weights relative to the largest that the row sees; what it does not see is 0.
  static void weigh(const float* s, const int* from, const int* to, int first, int keys, uint16_t* weights,
                    const Part& part, int r) {
    Lanes seen[32];
    for (int i = 0; i < 32; i++) {
      seen[i].set(from[i], to[i]);
      f32x16 top = set1(-INFINITY);
      for (int key = from[i] / 16 * 16; key < to[i]; key += 16)
        top.v = _mm512_mask_max_ps(top.v, seen[i].at(key), top.v, _mm512_load_ps(s + i * kRun + key));
      part.peak[r + i] = largest(top);
    }
    for (int i = 0; i < 32; i++) {
      const f32x16 peak = set1(part.peak[r + i]);
      f32x16 total = set1(0.0f);
      for (int key = first; key < keys; key += 32) {
        f32x16 weight[2];
        for (int half = 0; half < 2; half++) {
          const int at = key + 16 * half;
          weight[half].v = _mm512_maskz_mov_ps(seen[i].at(at), power_of_2((load(s + i * kRun + at) - peak).v));
          total = total + weight[half];
        }
        _mm512_store_si512(weights + i * kRun + key, (__m512i)_mm512_cvtne2ps_pbh(weight[1].v, weight[0].v));
      }
      part.peak[r + i] *= 0.693147181f;  // from powers of 2 to powers of e
      part.weight[r + i] = to[i] ? sum(total) : -1.0f;
    }
  }

  // part (32, 32) of (32, E) = weights (32, keys) . v (keys, 32).
  void values(const uint16_t* weights, const uint16_t* v, int first, int groups, float* part) const {
    zero();
    for (int g = first; g < groups; g++) {
      _tile_loadd(4, weights + 32 * g, kRun * 2);
      _tile_loadd(5, weights + 16 * kRun + 32 * g, kRun * 2);
      _tile_loadd(6, v + g * kTile, 64);
      _tile_loadd(7, v + (kRun / 32 + g) * kTile, 64);
      multiply();
    }
    keep(part, n_.E);
  }

  // Tiles 0 to 3 are the sums of 2 x 2 blocks of 16 rows x 16 columns; 4 and 5 rows; 6 and 7 columns.
  static void zero() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  static void multiply() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  static void keep(float* to, int64_t stride) {
    _tile_stored(0, to, stride * 4);
    _tile_stored(1, to + 16, stride * 4);
    _tile_stored(2, to + 16 * stride, stride * 4);
    _tile_stored(3, to + 16 * stride + 16, stride * 4);
  }

  const Call& c_;
  const Shape& n_;
  const Block& block_;
  const Queries queries_;
  const int padded_;
  uint16_t* q_;
};

}  // namespace soberano
#endif
