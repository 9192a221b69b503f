// Sixteen lanes in two AVX2 registers. Included by simd.h, whose promise holds here.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace soberano {

struct f32x16 {
  __m256 lo, hi;
};
struct i32x16 {
  __m256i lo, hi;
};
struct u8x64 {
  __m256i lo, hi;
};

inline f32x16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline f32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, f32x16 a) { _mm256_storeu_ps(p, a.lo), _mm256_storeu_ps(p + 8, a.hi); }
inline f32x16 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
inline void store_f16(uint16_t* p, f32x16 a) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
inline __m256 widen_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline f32x16 load_bf16(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
inline f32x16 load_u8(const uint8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p))),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8))))};
}
inline f32x16 load_i8(const int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p))),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8))))};
}
inline f32x16 operator+(f32x16 a, f32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline f32x16 operator-(f32x16 a, f32x16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline f32x16 operator*(f32x16 a, f32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline f32x16 operator/(f32x16 a, f32x16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline f32x16 max(f32x16 a, f32x16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline f32x16 min(f32x16 a, f32x16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline f32x16 abs(f32x16 a) {
  __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline f32x16 fnma(f32x16 a, f32x16 b, f32x16 c) {
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
inline f32x16 round_even(f32x16 a) {
  return {_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline __m256 scale2(__m256 a, __m256 n) {
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}
inline f32x16 scale2(f32x16 a, f32x16 n) { return {scale2(a.lo, n.lo), scale2(a.hi, n.hi)}; }
inline i32x16 set1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline i32x16 add(i32x16 a, i32x16 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline i32x16 times128(i32x16 a) { return {_mm256_slli_epi32(a.lo, 7), _mm256_slli_epi32(a.hi, 7)}; }
inline f32x16 to_f32(i32x16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline void store_i8(int8_t* p, f32x16 a) {
  int32_t words[16];
  _mm256_storeu_si256((__m256i*)words, _mm256_cvtps_epi32(a.lo)),
      _mm256_storeu_si256((__m256i*)(words + 8), _mm256_cvtps_epi32(a.hi));
  for (int i = 0; i < 16; i++) p[i] = int8_t(words[i]);
}
inline u8x64 load(const uint8_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
inline u8x64 low_nibbles(u8x64 a) {
  __m256i m = _mm256_set1_epi8(15);
  return {_mm256_and_si256(a.lo, m), _mm256_and_si256(a.hi, m)};
}
inline u8x64 high_nibbles(u8x64 a) {
  __m256i m = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi16(a.lo, 4), m), _mm256_and_si256(_mm256_srli_epi16(a.hi, 4), m)};
}
inline u8x64 look_up(const uint8_t* table, u8x64 a) {
  const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table));
  return {_mm256_shuffle_epi8(t, a.lo), _mm256_shuffle_epi8(t, a.hi)};
}
inline f32x16 byte_of(u8x64 a, int c) {
  const __m256i m = _mm256_set1_epi32(255);
  return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(a.lo, 8 * c), m)),
          _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(a.hi, 8 * c), m))};
}
template <int shift, int mask> inline __m256i or_bits(__m256i a, __m256i b) {
  __m256i s = shift >= 0 ? _mm256_slli_epi16(b, shift >= 0 ? shift : 0) : _mm256_srli_epi16(b, shift < 0 ? -shift : 0);
  return _mm256_or_si256(a, _mm256_and_si256(s, _mm256_set1_epi8(mask)));
}
template <int shift, int mask> inline u8x64 or_bits(u8x64 a, u8x64 b) {
  return {or_bits<shift, mask>(a.lo, b.lo), or_bits<shift, mask>(a.hi, b.hi)};
}
template <int bits> inline __m256i dot4(__m256i acc, __m256i codes, __m256i word) {
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (bits < 8) return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, word), ones));
  // Codes above 127 would saturate maddubs: halve them, and add the bit that is lost.
  __m256i half = _mm256_and_si256(_mm256_srli_epi16(codes, 1), _mm256_set1_epi8(127)),
          odd = _mm256_and_si256(codes, _mm256_set1_epi8(1));
  __m256i twice = _mm256_slli_epi32(_mm256_madd_epi16(_mm256_maddubs_epi16(half, word), ones), 1);
  return _mm256_add_epi32(_mm256_add_epi32(acc, twice), _mm256_madd_epi16(_mm256_maddubs_epi16(odd, word), ones));
}
template <int bits> inline i32x16 dot4(i32x16 acc, u8x64 codes, const int8_t* four) {
  int32_t word;
  std::memcpy(&word, four, 4);
  return {dot4<bits>(acc.lo, codes.lo, _mm256_set1_epi32(word)), dot4<bits>(acc.hi, codes.hi, _mm256_set1_epi32(word))};
}

inline __m256 low_half(f32x16 a) { return a.lo; }
inline __m256 high_half(f32x16 a) { return a.hi; }

}  // namespace soberano
