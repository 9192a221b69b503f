// More of simd.h, for scans of vectors, under the same promise. What has no instruction of its own is written with the
// functions of simd.h, so that it serves every target.
//
//   greater(a, b)               16 bits, bit i set where a[i] > b[i]
//   sums(sixteen)               lane i is sum(sixteen[i])
//   load_i32(p)                 16 integers as floats
//   dot_bytes(a, b, n)          sum of n products of signed bytes, exact; n a multiple of 64, no byte -128
//   expand_signs(bits, bytes)   64 bits become 64 bytes: 1 where the bit is set, -1 where it is not
#pragma once
#include "soberano/backends/simd.h"

namespace soberano {

#if SOBERANO_AVX512
inline uint32_t greater(f32x16 a, f32x16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
inline f32x16 sums(const f32x16* a) {
  // The halves of `sum`, of sixteen vectors at once: each step adds two vectors into one.
  __m512 four[4];
  for (int m = 0; m < 4; m++) {
    __m512 eight[2];
    for (int i = 0; i < 2; i++) {
      const __m512 x = a[m + 8 * i].v, y = a[m + 8 * i + 4].v;
      eight[i] = _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xEE));
    }
    four[m] =
        _mm512_add_ps(_mm512_shuffle_f32x4(eight[0], eight[1], 0x88), _mm512_shuffle_f32x4(eight[0], eight[1], 0xDD));
  }
  __m512 two[2];
  for (int i = 0; i < 2; i++)
    two[i] = _mm512_add_ps(_mm512_shuffle_ps(four[2 * i], four[2 * i + 1], 0x44),
                           _mm512_shuffle_ps(four[2 * i], four[2 * i + 1], 0xEE));
  return {_mm512_add_ps(_mm512_shuffle_ps(two[0], two[1], 0x88), _mm512_shuffle_ps(two[0], two[1], 0xDD))};
}
inline f32x16 load_i32(const int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }
inline int32_t dot_bytes(const int8_t* a, const int8_t* b, int64_t n) {
  // The instruction wants unsigned bytes on one side: a + 128, and 128 b is taken away again.
  const __m512i offset = _mm512_set1_epi8(-128);
  __m512i with = _mm512_setzero_si512(), without = with;
  for (int64_t i = 0; i < n; i += 64) {
    const __m512i y = _mm512_loadu_si512(b + i);
    with = _mm512_dpbusd_epi32(with, _mm512_xor_si512(_mm512_loadu_si512(a + i), offset), y);
    without = _mm512_dpbusd_epi32(without, offset, y);
  }
  return _mm512_reduce_add_epi32(_mm512_sub_epi32(with, without));
}
inline void expand_signs(const uint8_t* bits, int8_t* bytes) {
  uint64_t word;
  std::memcpy(&word, bits, 8);
  _mm512_storeu_si512(bytes, _mm512_mask_blend_epi8(word, _mm512_set1_epi8(-1), _mm512_set1_epi8(1)));
}
#else
inline uint32_t greater(f32x16 a, f32x16 b) {
  float x[16], y[16];
  store(x, a), store(y, b);
  uint32_t mask = 0;
  for (int i = 0; i < 16; i++) mask |= uint32_t(x[i] > y[i]) << i;
  return mask;
}
inline f32x16 sums(const f32x16* a) {
  float each[16];
  for (int i = 0; i < 16; i++) each[i] = sum(a[i]);
  return load(each);
}
inline f32x16 load_i32(const int32_t* p) {
  float x[16];
  for (int i = 0; i < 16; i++) x[i] = float(p[i]);
  return load(x);
}
inline void expand_signs(const uint8_t* bits, int8_t* bytes) {
  for (int i = 0; i < 64; i++) bytes[i] = bits[i / 8] >> (i % 8) & 1 ? 1 : -1;
}
inline int32_t dot_bytes(const int8_t* a, const int8_t* b, int64_t n) {
  int32_t sum = 0;
#if SOBERANO_AVX2
  __m256i total = _mm256_setzero_si256();
  for (int64_t i = 0; i < n; i += 32) {
    const __m256i x = _mm256_loadu_si256((const __m256i*)(a + i)), y = _mm256_loadu_si256((const __m256i*)(b + i));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(y, x));
    total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  int32_t lanes[8];
  _mm256_storeu_si256((__m256i*)lanes, total);
  for (int32_t lane : lanes) sum += lane;
#else
  for (int64_t i = 0; i < n; i++) sum += int32_t(a[i]) * b[i];
#endif
  return sum;
}
#endif

}  // namespace soberano
