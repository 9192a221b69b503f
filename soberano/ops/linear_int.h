// The product in exact integers: codes of a weight against activations of 15 bits.
//
// The activations of a call are quantised once, per 32 columns, to 15 bits with a float scale: two signed bytes, 128
// high + low. A decode step waits for memory, so the second byte is nearly free, and it takes the product from the
// error of 8-bit activations (a mean KL divergence of 4e-3 on SmolLM2, as in other engines) to that of float32. Codes
// against bytes are summed in exact integers within a group of 32 (or 16) columns, and groups are added in one fixed
// order by fused multiply-adds. So an output has the same bits alone or in a batch, on one thread or many, on every
// instruction set. A token with an activation that is not finite gets outputs that are all NaN.
#pragma once
#include <algorithm>
#include <cmath>

#include "soberano/backends/pool.h"
#include "soberano/backends/scratch.h"
#include "soberano/ops/linear_f32.h"
#include "soberano/ops/linear_weight.h"

namespace soberano {

constexpr float kTop = 127 * 128;  // the largest activation of a group, in units of its scale
constexpr float kLeast = 1e-30f;   // a group with nothing above it counts as zeros: its scale might not be normal

// Rows of activations as the kernels eat them: as they are, for plain weights; and for codes bytes (T, I / 32, high and
// low, 32), and per group of 32 its scale, its scale times its sum, and the sums of its halves.
class Activations {
 public:
  // Quantises only if one of the weights has codes. `x` is read again by the product.
  void take(const float* x, int64_t tokens, int64_t columns, const std::vector<Weight>& weights) {
    numbers = x, inputs = columns, groups = columns / 32;
    if (all_plain(weights)) return;
    bytes = bytes_.room(tokens * columns * 2), d = d_.room(tokens * groups), dsum = dsum_.room(tokens * groups);
    half = half_.room(tokens * groups * 2);
    const int64_t parts = tokens < 8 ? 1 : tokens / 4;
    Pool::instance().parallel(int(parts), [&](int i) {
      for (int64_t g = i * tokens / parts * groups; g < (i + 1) * tokens / parts * groups; g++) quantise(x + 32 * g, g);
    });
  }

  int64_t inputs = 0, groups = 0;
  const float* numbers = nullptr;
  int8_t* bytes = nullptr;
  float *d = nullptr, *dsum = nullptr;
  int32_t* half = nullptr;

 private:
  void quantise(const float* from, int64_t at) {
    int8_t* to = bytes + at * 64;
    const f32x16 a = load(from), b = load(from + 16);
    const float top = largest(max(abs(a), abs(b)));
    const f32x16 inverse = set1(top > kLeast ? kTop / top : 0.0f);
    const f32x16 first = round_even(a * inverse), second = round_even(b * inverse);
    const float sums[2] = {sum(first), sum(second)};  // exact: whole numbers below 2^24
    if (std::isnan(sums[0] + sums[1])) {              // so is 0 times an infinity; `top` may have lost either
      std::fill(to, to + 64, int8_t(0));
      half[2 * at] = half[2 * at + 1] = 0, d[at] = dsum[at] = NAN;
      return;
    }
    split(first, to), split(second, to + 16);
    half[2 * at] = int32_t(sums[0]), half[2 * at + 1] = int32_t(sums[1]);
    d[at] = top * (1.0f / kTop);
    dsum[at] = d[at] * float(half[2 * at] + half[2 * at + 1]);
  }

  // Store sixteen whole numbers v as high and low bytes, v = 128 high + low.
  static void split(f32x16 v, int8_t* to) {
    const f32x16 high = round_even(v * set1(1.0f / 128));
    store_i8(to, high);
    store_i8(to + 32, v - high * set1(128.0f));
  }

  Scratch<int8_t> bytes_;
  Scratch<float> d_, dsum_;
  Scratch<int32_t> half_;
};

// start + codes (16 rows x `columns`) against as many activations, in units of the scale.
template <int bits, int columns> inline i32x16 dot(i32x16 start, const u8x64* v, const int8_t* a) {
#if !SOBERANO_AVX512  // few registers: a chain after the other
  if constexpr (columns == 32) return dot<bits, 16>(dot<bits, 16>(start, v, a), v + 4, a + 16);
#endif
  i32x16 high = set1(0), low = start;
#pragma GCC unroll 8
  for (int j = 0; j < columns / 4; j++)
    high = dot4<bits>(high, v[j], a + 4 * j), low = dot4<bits>(low, v[j], a + 32 + 4 * j);
  return add(times128(high), low);
}

// One panel of codes, 16 outputs, for N tokens, the first of them token t.
template <class Tile, int N>
inline void coded_panel(const uint8_t* data, const Activations& x, int64_t t, f32x16* acc) {
  const Tile* tiles = (const Tile*)data;
  for (int n = 0; n < N; n++) acc[n] = set1(0.0f);
  const int64_t blocks = x.inputs / Tile::columns;
  for (int64_t b = 0; b < blocks; b++) {
    const Tile& w = tiles[b];
    const f32x16 d = load_scale(w.d);
    const f32x16 m = load_minima(w);
    for (int g = 0; g < Tile::columns / 32; g++) {
      prefetch<sizeof(Tile) / (Tile::columns / 32)>(&w, g);
      u8x64 v[8];
      w.codes[g].unpack(v);
      const Scales<Tile> s(w, d, m, g);
      const int64_t group = b * (Tile::columns / 32) + g;
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) {
        const int64_t at = (t + n) * x.groups + group;
        const int8_t* a = x.bytes + at * 64;
        const int32_t* half = x.half + 2 * at;
        const f32x16 unit = set1(x.d[at]);
        if constexpr (Tile::group == 32) {
          const i32x16 zero = set1(-Tile::zero * (half[0] + half[1]));
          acc[n] = fma(to_f32(dot<Tile::bits, 32>(zero, v, a)), s.scale[0] * unit, acc[n]);
        } else {
          const i32x16 first = set1(-Tile::zero * half[0]), second = set1(-Tile::zero * half[1]);
          acc[n] = fma(to_f32(dot<Tile::bits, 16>(first, v, a)), s.scale[0] * unit, acc[n]);
          acc[n] = fma(to_f32(dot<Tile::bits, 16>(second, v + 4, a + 16)), s.scale[1] * unit, acc[n]);
        }
        if constexpr (Tile::minimum) acc[n] = fnma(s.minimum, set1(x.dsum[at]), acc[n]);
      }
    }
  }
}

// One panel of any weight.
template <class Tile, int N> inline void panel(const uint8_t* data, const Activations& x, int64_t t, f32x16* acc) {
  if constexpr (Tile::plain)
    plain_panel<Tile, N>((const Tile*)data, x.inputs, x.numbers + t * x.inputs, x.inputs, acc);
  else
    coded_panel<Tile, N>(data, x, t, acc);
}

// Call use(std::integral_constant<int, N>, t) for tokens t to t + N - 1, until all T are done. Codes are unpacked once
// for the N tokens, and stay in the first-level cache for the rest.
template <class Use> void each_tokens(int64_t T, Use&& use) {
  int64_t t = 0;
  for (; t + 8 <= T; t += 8) use(std::integral_constant<int, 8>(), t);
  for (; t + 2 <= T; t += 2) use(std::integral_constant<int, 2>(), t);
  for (; t < T; t++) use(std::integral_constant<int, 1>(), t);
}

// Into how many shares to cut `bytes` of weights for T tokens. Long runs of memory read best, but a thread that is late
// should leave something to the others: a few shares a thread; and less than 64 kB stays with the caller.
inline int64_t shares_of(int64_t bytes, int64_t T) {
  const int64_t work = bytes * std::max<int64_t>(1, T / 2);
  return work < 65536 ? 1 : Pool::instance().threads() * std::clamp<int64_t>(work >> 18, 1, 4);
}

// ys[k] (T, outputs of weights[k]) = weights[k] x and its bias, for the same activations.
inline void products_int(const std::vector<Weight>& weights, const Activations& x, int64_t T,
                         const std::vector<float*>& ys) {
  int64_t bytes = 0;
  for (const Weight& w : weights) bytes += w.bytes;
  const int64_t n = shares_of(bytes, T);
  Pool::instance().parallel(int(n), [&](int i) {
    share_of(weights, n, i, [&](size_t k, int64_t first, int64_t last) {
      const Weight& w = weights[k];
      with_tile(w.kind, [&](auto tile) {
        for (int64_t p = first; p < last; p++)
          each_tokens(T, [&](auto N, int64_t t) {
            f32x16 acc[N];
            panel<decltype(tile), N>(w.panel(p), x, t, acc);
            for (int m = 0; m < N; m++)
              store_some(ys[k] + (t + m) * w.outputs + p * 16, w.biased(p, acc[m]), w.outputs - p * 16);
          });
      });
    });
  });
}

// The same from activations x (T, I), in whichever way is fast: the bits do not depend on it.
inline void products(const std::vector<Weight>& weights, const float* x, int64_t T, int64_t I,
                     const std::vector<float*>& ys) {
  if (T >= kMany && all_plain(weights)) return products_f32(weights, x, T, I, ys);
  static thread_local Activations memory;
  Activations& activations = memory;
  activations.take(x, T, I, weights);
  products_int(weights, activations, T, ys);
}

}  // namespace soberano
