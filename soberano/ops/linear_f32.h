// The product in float32, at the speed of arithmetic: with plain weights for many tokens the sums of linear_plain.h,
// bit for bit; and with any weight, decoded, where activations may not be rounded.
//
// Two panels meet a few tokens at a time, so a number that is loaded takes part in several multiply-adds. A run of
// columns of both panels stays in the first-level cache while a part of the tokens, which stays in the second, passes
// by.
#pragma once
#include <algorithm>

#include "soberano/backends/pool.h"
#include "soberano/backends/scratch.h"
#include "soberano/ops/linear_plain.h"

namespace soberano {

// Tokens, and panels of a pair, whose sums fit the registers.
#if SOBERANO_AVX512
constexpr int kBlockTokens = 6, kBlockPanels = 2;
#else
constexpr int kBlockTokens = 3, kBlockPanels = 1;
#endif

constexpr int64_t kPart = 256;  // tokens: a run of their columns stays in the second-level cache
constexpr int64_t kMany = 16;   // tokens from which on this pays

// sums[n][p] over `columns`, up to kRun, of panel p and of row n of x.
template <int N, int P>
void block_run(const float* const* panels, int64_t columns, const float* x, int64_t stride, f32x16 (*sums)[P]) {
  f32x16 even[N][P], odd[N][P];
#pragma GCC unroll 8
  for (int n = 0; n < N; n++)
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) even[n][p] = odd[n][p] = set1(0.0f);
  for (int64_t c = 0; c < columns; c += 2) {
    f32x16 first[P], second[P];
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) first[p] = load(panels[p] + 16 * c), second[p] = load(panels[p] + 16 * c + 16);
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      const f32x16 a = set1(x[n * stride + c]), b = set1(x[n * stride + c + 1]);
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) even[n][p] = fma(first[p], a, even[n][p]), odd[n][p] = fma(second[p], b, odd[n][p]);
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < N; n++)
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) sums[n][p] = even[n][p] + odd[n][p];
}

// Multiply rows of x (T, I), `stride` apart, by pairs of panels: decode(weight, panel, first column, count, memory)
// says where so many columns of a panel are, 16 rows side by side; finish(pair, token, sums of the first panel, of the
// second) is called once for each pair and token.
template <class Decode, class Finish>
void multiply_f32(const float* x, int64_t T, int64_t I, int64_t stride, const std::vector<PanelPair>& pairs,
                  Decode&& decode, Finish&& finish) {
  Pool& pool = Pool::instance();
  const int64_t count = int64_t(pairs.size()), parts = (T + kPart - 1) / kPart;
  const int64_t each = std::clamp<int64_t>(count * parts / (4 * pool.threads()), 1, 16);
  const int64_t groups = (count + each - 1) / each;
  pool.parallel(int(parts * groups), [&](int share) {
    static thread_local Scratch<float> decoded_memory, kept_memory;
    float* decoded = decoded_memory.room(2 * 16 * kRun);
    float* kept = kept_memory.room(I > kRun ? each * kPart * 32 : 0);
    const int64_t t0 = share / groups * kPart, t1 = std::min(T, t0 + kPart);
    const int64_t from = share % groups * each, to = std::min(count, from + each);
    for (int64_t at = 0; at < I; at += kRun) {
      const int64_t columns = std::min(kRun, I - at);
      for (int64_t i = from; i < to; i++) {
        const PanelPair& pair = pairs[i];
        const float* panels[2];
        panels[0] = panels[1] = decode(*pair.first, pair.first_panel, at, columns, decoded);
        if (pair.second) panels[1] = decode(*pair.second, pair.second_panel, at, columns, decoded + 16 * kRun);
        auto block = [&](auto N, int64_t t) {
          f32x16 sums[2 / kBlockPanels][N][kBlockPanels];
          for (int p = 0; p < 2; p += kBlockPanels)
            block_run<N, kBlockPanels>(panels + p, columns, x + t * stride + at, stride, sums[p / kBlockPanels]);
          for (int n = 0; n < N; n++) {
            float* before = kept + ((i - from) * kPart + t + n - t0) * 32;
            f32x16 a = sums[0][n][0], b = sums[2 / kBlockPanels - 1][n][kBlockPanels - 1];
            if (at) a = load(before) + a, b = load(before + 16) + b;
            if (at + columns == I)
              finish(pair, t + n, a, b);
            else
              store(before, a), store(before + 16, b);
          }
        };
        int64_t t = t0;
        for (; t + kBlockTokens <= t1; t += kBlockTokens) block(std::integral_constant<int, kBlockTokens>(), t);
        for (; t + 2 <= t1; t += 2) block(std::integral_constant<int, 2>(), t);
        for (; t < t1; t++) block(std::integral_constant<int, 1>(), t);
      }
    }
  });
}

// Columns [first, first + count) of panel p, float32 ones where they are.
inline const float* float_columns(const Weight& w, int64_t p, int64_t first, int64_t count, float* memory) {
  if (TileKind(w.kind) == TileKind::f32) return (const float*)w.panel(p) + 16 * first;
  with_tile(w.kind, [&](auto tile) {
    using Tile = decltype(tile);
    const Tile* tiles = (const Tile*)w.panel(p) + first / Tile::columns;
    float* to = memory;
    for (int64_t b = 0; b < count / Tile::columns; b++)
      for (int half = 0; half < Tile::columns / 16; half++, to += 256) {
        f32x16 columns[16];
        decode_sixteen(tiles[b], half, columns);
        for (int c = 0; c < 16; c++) store(to + 16 * c, columns[c]);
      }
  });
  return memory;
}

// ys[k] (T, outputs of weights[k]) = weights[k] x and its bias.
inline void products_f32(const std::vector<Weight>& weights, const float* x, int64_t T, int64_t I,
                         const std::vector<float*>& ys) {
  std::vector<PanelPair> pairs;
  for (const Weight& w : weights) add_pairs(w, pairs);
  multiply_f32(x, T, I, I, pairs, float_columns, [&](const PanelPair& pair, int64_t t, f32x16 a, f32x16 b) {
    const Weight& w = *pair.first;
    const int64_t first = pair.first_panel * 16;
    float* y = ys[&w - weights.data()] + t * w.outputs + first;
    store_some(y, w.biased(pair.first_panel, a), w.outputs - first);
    if (pair.second) store_some(y + 16, w.biased(pair.second_panel, b), w.outputs - first - 16);
  });
}

}  // namespace soberano
