// The product with plain weights (float16, bfloat16, float32) in float32: no rounding but that of the sums.
//
// The columns of a panel are summed in runs of 256, and in each run the even and the odd ones by fused multiply-adds;
// the two are added, and that to the runs before. This is one order, whatever the batch, the threads and the
// instruction set, so a row of activations has the same bits everywhere. Even and odd, since one sum would wait for its
// own last addition; runs, since so many columns of two panels stay in the first-level cache: see linear_f32.h.
#pragma once
#include "soberano/ops/linear_weight.h"

namespace soberano {

constexpr int64_t kRun = 256;

// Tokens whose sums fit the registers beside a column of weights.
#if SOBERANO_AVX512
constexpr int kPlainTokens = 8;
#else
constexpr int kPlainTokens = 2;
#endif

// acc[n] = panel x[n] for N rows of activations x, `stride` apart.
template <class Tile, int N>
void plain_panel(const Tile* tiles, int64_t inputs, const float* x, int64_t stride, f32x16* acc) {
  if constexpr (N > kPlainTokens) {
    plain_panel<Tile, kPlainTokens>(tiles, inputs, x, stride, acc);
    plain_panel<Tile, N - kPlainTokens>(tiles, inputs, x + kPlainTokens * stride, stride, acc + kPlainTokens);
  } else {
    for (int64_t run = 0; run < inputs; run += kRun) {
      const int64_t end = std::min(inputs, run + kRun);
      f32x16 even[N], odd[N];
      for (int n = 0; n < N; n++) even[n] = odd[n] = set1(0.0f);
      for (int64_t at = run; at < end; at += Tile::columns, tiles++) {
        for (int c = 0; c < Tile::columns; c += 2) {
          prefetch<2 * sizeof(Tile) / Tile::columns>(tiles, c / 2);
          const f32x16 first = tiles->column(c), second = tiles->column(c + 1);
#pragma GCC unroll 8
          for (int n = 0; n < N; n++) {
            even[n] = fma(first, set1(x[n * stride + at + c]), even[n]);
            odd[n] = fma(second, set1(x[n * stride + at + c + 1]), odd[n]);
          }
        }
      }
      for (int n = 0; n < N; n++) acc[n] = run ? acc[n] + (even[n] + odd[n]) : even[n] + odd[n];
    }
  }
}

}  // namespace soberano
