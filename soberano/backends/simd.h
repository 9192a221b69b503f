// Sixteen lanes, written once: float and int32 vectors over AVX-512, AVX2, NEON or plain C++, chosen by the compiler's
// target. A header for each says how; here is what they share.
//
// Promise: every function gives the same bits on every path. Integer sums are exact; float sums run in the one order
// written here; a multiply-add is fused only where it says fma. Build with -ffp-contract=off, or the promise is void.
// One thing is the processor's: which of the many NaNs the result of an invalid operation is.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(SOBERANO_PORTABLE)  // asked for, whatever the target has
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define SOBERANO_AVX512 1
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define SOBERANO_AVX2 1
#elif defined(__aarch64__) && defined(__ARM_NEON)
#define SOBERANO_NEON 1
#endif

namespace soberano {

inline float f16_to_f32(uint16_t h) {
  uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000 | (mantissa << 13) | (mantissa ? 0x00400000 : 0);
  } else if (exponent) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    float value = float(mantissa) * 5.9604644775390625e-08f;  // 2^-24
    std::memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

inline uint16_t f32_to_f16(float x) {  // round to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00 | ((magnitude >> 13) & 1023));
  if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);
  if (magnitude < 0x38800000) {  // subnormal half: let the float adder round
    float value, shifted;
    std::memcpy(&value, &magnitude, 4);
    shifted = value + 0.5f;
    uint32_t rounded;
    std::memcpy(&rounded, &shifted, 4);
    return uint16_t(sign | (rounded - 0x3f000000));
  }
  uint32_t odd = (magnitude >> 13) & 1;
  return uint16_t(sign | ((magnitude + 0xfff + odd - 0x38000000) >> 13));
}

inline float bf16_to_f32(uint16_t b) {
  const uint32_t bits = uint32_t(b) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

inline uint16_t f32_to_bf16(float x) {  // round to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  return uint16_t(nan ? bits >> 16 | 64 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace soberano

#if SOBERANO_AVX512
#include "soberano/backends/simd_avx512.h"
#include "soberano/backends/simd_fold_x86.h"
#elif SOBERANO_AVX2
#include "soberano/backends/simd_avx2.h"
#include "soberano/backends/simd_fold_x86.h"
#elif SOBERANO_NEON
#include "soberano/backends/simd_neon.h"
#else
#include "soberano/backends/simd_portable.h"
#endif

namespace soberano {

#if !SOBERANO_AVX512 && !SOBERANO_AVX2
inline f32x16 load_bf16(const uint16_t* p) {
  float x[16];
  for (int i = 0; i < 16; i++) x[i] = bf16_to_f32(p[i]);
  return load(x);
}
#endif

// 2^(e - 128), of which the two least are subnormal.
inline f32x16 load_half_powers(const uint8_t* e) {
  float x[16];
  for (int i = 0; i < 16; i++) {
    const uint32_t bits = e[i] < 2 ? uint32_t(0x00200000) << e[i] : uint32_t(e[i] - 1) << 23;
    std::memcpy(x + i, &bits, 4);
  }
  return load(x);
}

// The first `lanes` of sixteen numbers, or all of them; the others are zero.
inline f32x16 load_some(const float* p, int64_t lanes) {
  if (lanes >= 16) return load(p);
  float all[16] = {};
  std::memcpy(all, p, lanes * sizeof(float));
  return load(all);
}
inline void store_some(float* p, f32x16 a, int64_t lanes) {
  if (lanes >= 16) return store(p, a);
  float all[16];
  store(all, a);
  std::memcpy(p, all, lanes * sizeof(float));
}

// Sixteen bfloat16 numbers, rounded as f32_to_bf16 rounds.
inline void store_bf16(uint16_t* p, f32x16 a) {
  float x[16];
  store(x, a);
  for (int i = 0; i < 16; i++) p[i] = f32_to_bf16(x[i]);
}

// exp(x) for x <= 88, to 1 ulp or so; below -87 it stays at exp(-87), about 1e-38. NaN stays NaN. Cody-Waite
// reduction, then a polynomial of degree 6 in Horner form.
inline f32x16 exp(f32x16 x) {
  x = max(set1(-87.0f), x);  // in this order: the maximum of anything and NaN is its second argument
  f32x16 n = round_even(x * set1(1.44269504088896341f));
  f32x16 r = fnma(n, set1(0.693359375f), x);
  r = fnma(n, set1(-2.12194440e-4f), r);
  f32x16 p = set1(1.3888889e-3f);  // 1/720
  p = fma(p, r, set1(8.3333333e-3f));
  p = fma(p, r, set1(4.1666667e-2f));
  p = fma(p, r, set1(1.6666667e-1f));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  return scale2(p, n);
}

// tanh(x) to 3 ulp or so, as x P(x^2) / Q(x^2): a fit to the relative error up to 9, where it is 1. NaN stays NaN.
inline f32x16 tanh(f32x16 x) {
  x = max(set1(-9.0f), min(set1(9.0f), x));  // in this order, as in exp
  const f32x16 z = x * x;
  f32x16 p = set1(1.33547599e-8f), q = set1(7.77660145e-7f);
  p = fma(p, z, set1(2.06091628e-5f)), q = fma(q, z, set1(3.28564317e-4f));
  p = fma(p, z, set1(3.49559339e-3f)), q = fma(q, z, set1(2.58770026e-2f));
  p = fma(p, z, set1(1.33810302e-1f)), q = fma(q, z, set1(4.67143458e-1f));
  p = fma(p, z, set1(1.0f)), q = fma(q, z, set1(1.0f));
  return x * p / q;
}

}  // namespace soberano
