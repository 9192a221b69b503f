// The one order in which sixteen lanes are added, for both AVX widths: halves onto each other, four times.
#pragma once
#include <immintrin.h>

namespace soberano {

template <class Fold> inline float fold(f32x16 a, Fold&& two) {
  __m256 eight = two(low_half(a), high_half(a));
  __m256 four = two(eight, _mm256_permute2f128_ps(eight, eight, 1));
  __m256 pair = two(four, _mm256_permute_ps(four, 0x4E));
  return _mm256_cvtss_f32(two(pair, _mm256_permute_ps(pair, 0xB1)));
}
inline float sum(f32x16 a) {
  return fold(a, [](__m256 x, __m256 y) { return _mm256_add_ps(x, y); });
}
inline float largest(f32x16 a) {
  return fold(a, [](__m256 x, __m256 y) { return _mm256_max_ps(x, y); });
}

}  // namespace soberano
