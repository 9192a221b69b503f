// Activations of the feed-forward layer, sixteen at a time. Meanings: soberano/ops/activation.py.
#pragma once
#include "soberano/backends/simd.h"

namespace soberano {

enum class Activation : int32_t { silu = 0, gelu = 1, gelu_erf = 2 };

// 1 / (1 + exp(-x)). Beyond 87 on either side exp would leave its range, and the result has long been 0 or 1.
inline f32x16 sigmoid(f32x16 x) { return set1(1.0f) / (set1(1.0f) + exp(min(set1(0.0f) - x, set1(87.0f)))); }

// |x| P(a standard normal number < -|x|), by the polynomial of activation.py; exp stays above 0, at about 1e-38.
inline f32x16 tail(f32x16 size) {
  constexpr float kTail[] = {0.127661538f,   0.12765991f,   0.114647028f,  0.0875935304f, 0.0597993262f,
                             -0.0125339992f, 0.0704682611f, -0.151607695f, 0.0979352152f, -0.0216231323f};
  const f32x16 t = set1(1.0f) / fma(size, set1(0.32f), set1(1.0f));
  f32x16 value = set1(kTail[9]);
  for (int i = 8; i >= 0; i--) value = fma(value, t, set1(kTail[i]));
  return size * (exp(size * size * set1(-0.5f)) * t * value);
}

template <Activation act> inline f32x16 activate(f32x16 x) {
  if constexpr (act == Activation::silu) return x * sigmoid(x);
  if constexpr (act == Activation::gelu_erf) return max(x, set1(0.0f)) - tail(max(x, set1(0.0f) - x));
  // The tanh form: 0.5 (1 + tanh(u)) is sigmoid(2 u), with u = sqrt(2 / pi) (x + 0.044715 x^3).
  const f32x16 cubic = fma(x * x * x, set1(0.044715f), x);
  return x * sigmoid(cubic * set1(1.5957691216057308f));
}

}  // namespace soberano
