// Activations of the gated feed-forward layer, sixteen at a time. Meanings: soberano/ops/activation.py.
#pragma once
#include "soberano/backends/simd.h"

namespace soberano {

enum class Activation : int32_t { silu = 0, gelu = 1 };

// 1 / (1 + exp(-x)). Beyond 87 on either side exp would leave its range, and the result has long been 0 or 1.
inline f32x16 sigmoid(f32x16 x) { return set1(1.0f) / (set1(1.0f) + exp(min(set1(0.0f) - x, set1(87.0f)))); }

template <Activation act> inline f32x16 activate(f32x16 x) {
  if constexpr (act == Activation::silu) return x * sigmoid(x);
  // The tanh form: 0.5 (1 + tanh(u)) is sigmoid(2 u), with u = sqrt(2 / pi) (x + 0.044715 x^3).
  const f32x16 cubic = fma(x * x * x, set1(0.044715f), x);
  return x * sigmoid(cubic * set1(1.5957691216057308f));
}

}  // namespace soberano
