// Sixteen lanes in one AVX-512 register, with the dot product of VNNI. Included by simd.h, whose promise holds here.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace soberano {

struct f32x16 {
  __m512 v;
};
struct i32x16 {
  __m512i v;
};
struct u8x64 {
  __m512i v;
};

inline f32x16 set1(float x) { return {_mm512_set1_ps(x)}; }
inline f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, f32x16 a) { _mm512_storeu_ps(p, a.v); }
inline f32x16 load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline void store_f16(uint16_t* p, f32x16 a) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline f32x16 load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
inline f32x16 load_u8(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
inline f32x16 load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
inline f32x16 operator+(f32x16 a, f32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline f32x16 operator-(f32x16 a, f32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline f32x16 operator*(f32x16 a, f32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline f32x16 operator/(f32x16 a, f32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline f32x16 max(f32x16 a, f32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline f32x16 min(f32x16 a, f32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline f32x16 abs(f32x16 a) { return {_mm512_abs_ps(a.v)}; }
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }    // a b + c
inline f32x16 fnma(f32x16 a, f32x16 b, f32x16 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a b
inline f32x16 round_even(f32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline f32x16 scale2(f32x16 a, f32x16 n) {
  return {
      _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), _mm512_slli_epi32(_mm512_cvtps_epi32(n.v), 23)))};
}
inline i32x16 set1(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline i32x16 add(i32x16 a, i32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline i32x16 times128(i32x16 a) { return {_mm512_slli_epi32(a.v, 7)}; }
inline f32x16 to_f32(i32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline void store_i8(int8_t* p, f32x16 a) {
  _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
inline u8x64 load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline u8x64 low_nibbles(u8x64 a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline u8x64 high_nibbles(u8x64 a) { return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))}; }
inline u8x64 look_up(const uint8_t* table, u8x64 a) {  // table[a], a below 16
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table)), a.v)};
}
inline f32x16 byte_of(u8x64 a, int c) {  // bytes 4 i + c, as floats
  return {_mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(a.v, 8 * c), _mm512_set1_epi32(255)))};
}
template <int shift, int mask>  // a | ((b << shift) & mask), byte by byte; a negative shift goes right
inline u8x64 or_bits(u8x64 a, u8x64 b) {
  __m512i s =
      shift >= 0 ? _mm512_slli_epi16(b.v, shift >= 0 ? shift : 0) : _mm512_srli_epi16(b.v, shift < 0 ? -shift : 0);
  return {_mm512_ternarylogic_epi32(a.v, s, _mm512_set1_epi8(mask), 0xF8)};
}
// acc[i] += sum over c of codes[4 i + c] * four[c]: unsigned codes against four signed bytes.
template <int bits> inline i32x16 dot4(i32x16 acc, u8x64 codes, const int8_t* four) {
  int32_t word;
  std::memcpy(&word, four, 4);
  return {_mm512_dpbusd_epi32(acc.v, codes.v, _mm512_set1_epi32(word))};
}

inline __m256 low_half(f32x16 a) { return _mm512_castps512_ps256(a.v); }
inline __m256 high_half(f32x16 a) { return _mm512_extractf32x8_ps(a.v, 1); }

}  // namespace soberano
