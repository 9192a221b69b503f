// Sixteen lanes, written once: float and int32 vectors over AVX-512, AVX2 or plain C++, chosen by the compiler's
// target.
//
// Promise: every function gives the same bits on every path. Integer sums are exact; float sums run in the one order
// written here; a multiply-add is fused only where it says fma. Build with -ffp-contract=off, or the promise is void.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define SOBERANO_AVX512 1
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define SOBERANO_AVX2 1
#include <immintrin.h>
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

#if SOBERANO_AVX512

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

#elif SOBERANO_AVX2

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

#else

struct f32x16 {
  float v[16];
};
struct i32x16 {
  int32_t v[16];
};
struct u8x64 {
  uint8_t v[64];
};
#define SOBERANO_LANES(n, type, expression)          \
  type r;                                            \
  for (int i = 0; i < n; i++) r.v[i] = (expression); \
  return r;

inline f32x16 set1(float x) { SOBERANO_LANES(16, f32x16, x) }
inline f32x16 load(const float* p) { SOBERANO_LANES(16, f32x16, p[i]) }
inline void store(float* p, f32x16 a) { std::memcpy(p, a.v, 64); }
inline f32x16 load_f16(const uint16_t* p) { SOBERANO_LANES(16, f32x16, f16_to_f32(p[i])) }
inline void store_f16(uint16_t* p, f32x16 a) {
  for (int i = 0; i < 16; i++) p[i] = f32_to_f16(a.v[i]);
}
inline f32x16 load_u8(const uint8_t* p) { SOBERANO_LANES(16, f32x16, float(p[i])) }
inline f32x16 load_i8(const int8_t* p) { SOBERANO_LANES(16, f32x16, float(p[i])) }
inline f32x16 operator+(f32x16 a, f32x16 b) { SOBERANO_LANES(16, f32x16, a.v[i] + b.v[i]) }
inline f32x16 operator-(f32x16 a, f32x16 b) { SOBERANO_LANES(16, f32x16, a.v[i] - b.v[i]) }
inline f32x16 operator*(f32x16 a, f32x16 b) { SOBERANO_LANES(16, f32x16, a.v[i] * b.v[i]) }
inline f32x16 operator/(f32x16 a, f32x16 b) { SOBERANO_LANES(16, f32x16, a.v[i] / b.v[i]) }
inline f32x16 max(f32x16 a, f32x16 b) { SOBERANO_LANES(16, f32x16, a.v[i] > b.v[i] ? a.v[i] : b.v[i]) }
inline f32x16 min(f32x16 a, f32x16 b) { SOBERANO_LANES(16, f32x16, a.v[i] < b.v[i] ? a.v[i] : b.v[i]) }
inline f32x16 abs(f32x16 a) { SOBERANO_LANES(16, f32x16, std::fabs(a.v[i])) }
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { SOBERANO_LANES(16, f32x16, __builtin_fmaf(a.v[i], b.v[i], c.v[i])) }
inline f32x16 fnma(f32x16 a, f32x16 b, f32x16 c) { SOBERANO_LANES(16, f32x16, __builtin_fmaf(-a.v[i], b.v[i], c.v[i])) }
inline f32x16 round_even(f32x16 a) { SOBERANO_LANES(16, f32x16, std::nearbyint(a.v[i])) }
inline f32x16 scale2(f32x16 a, f32x16 n) {
  f32x16 r;
  for (int i = 0; i < 16; i++) {
    uint32_t bits;
    std::memcpy(&bits, &a.v[i], 4);
    bits += uint32_t(int32_t(n.v[i])) << 23;
    std::memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
inline i32x16 set1(int32_t x) { SOBERANO_LANES(16, i32x16, x) }
inline i32x16 add(i32x16 a, i32x16 b) { SOBERANO_LANES(16, i32x16, a.v[i] + b.v[i]) }
inline i32x16 times128(i32x16 a) { SOBERANO_LANES(16, i32x16, a.v[i] * 128) }
inline f32x16 to_f32(i32x16 a) { SOBERANO_LANES(16, f32x16, float(a.v[i])) }
inline void store_i8(int8_t* p, f32x16 a) {
  for (int i = 0; i < 16; i++) p[i] = int8_t(std::nearbyint(a.v[i]));
}
inline u8x64 load(const uint8_t* p) { SOBERANO_LANES(64, u8x64, p[i]) }
inline u8x64 low_nibbles(u8x64 a) { SOBERANO_LANES(64, u8x64, uint8_t(a.v[i] & 15)) }
inline u8x64 high_nibbles(u8x64 a) { SOBERANO_LANES(64, u8x64, uint8_t(a.v[i] >> 4)) }
template <int shift, int mask> inline u8x64 or_bits(u8x64 a, u8x64 b) {
  SOBERANO_LANES(64, u8x64, uint8_t(a.v[i] | ((shift >= 0 ? b.v[i] << (shift & 7) : b.v[i] >> (-shift & 7)) & mask)))
}
template <int bits> inline i32x16 dot4(i32x16 acc, u8x64 codes, const int8_t* four) {
  for (int i = 0; i < 16; i++)
    for (int c = 0; c < 4; c++) acc.v[i] += int32_t(codes.v[4 * i + c]) * four[c];
  return acc;
}

#endif

#if !SOBERANO_AVX512 && !SOBERANO_AVX2
inline f32x16 load_bf16(const uint16_t* p) {
  float x[16];
  for (int i = 0; i < 16; i++) {
    const uint32_t bits = uint32_t(p[i]) << 16;
    std::memcpy(x + i, &bits, 4);
  }
  return load(x);
}
#endif

// Sixteen bfloat16 numbers, rounded to nearest, ties to even; NaN stays NaN.
inline void store_bf16(uint16_t* p, f32x16 a) {
  float x[16];
  store(x, a);
  for (int i = 0; i < 16; i++) {
    uint32_t bits;
    std::memcpy(&bits, x + i, 4);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    p[i] = uint16_t(nan ? bits >> 16 | 64 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}

// The one order in which sixteen lanes are added: halves onto each other, four times.
#if SOBERANO_AVX512 || SOBERANO_AVX2
#if SOBERANO_AVX512
inline __m256 low_half(f32x16 a) { return _mm512_castps512_ps256(a.v); }
inline __m256 high_half(f32x16 a) { return _mm512_extractf32x8_ps(a.v, 1); }
#else
inline __m256 low_half(f32x16 a) { return a.lo; }
inline __m256 high_half(f32x16 a) { return a.hi; }
#endif
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
#else
template <class Fold> inline float fold(f32x16 a, Fold&& two) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) a.v[i] = two(a.v[i], a.v[i + half]);
  return a.v[0];
}
inline float sum(f32x16 a) {
  return fold(a, [](float x, float y) { return x + y; });
}
inline float largest(f32x16 a) {
  return fold(a, [](float x, float y) { return x > y ? x : y; });
}
#endif

// exp(x) for x <= 88, to 1 ulp or so; below -87 it stays at exp(-87), about 1e-38. NaN is not kept. Cody-Waite
// reduction, then a polynomial of degree 6 in Horner form.
inline f32x16 exp(f32x16 x) {
  x = max(x, set1(-87.0f));
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

}  // namespace soberano
