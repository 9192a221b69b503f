// Sixteen lanes in plain C++, for any processor. Included by simd.h, whose promise holds here.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace soberano {

struct f32x16 {
  float v[16];
};
struct i32x16 {
  int32_t v[16];
};
struct u8x64 {
  uint8_t v[64];
};
// What is long is called: all of it in one place costs compilers a minute, and no processor runs it faster.
#define SOBERANO_APART __attribute__((noinline))
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
inline f32x16 abs(f32x16 a){SOBERANO_LANES(16, f32x16, std::fabs(a.v[i]))} SOBERANO_APART inline f32x16
    fma(f32x16 a, f32x16 b, f32x16 c){SOBERANO_LANES(16, f32x16, __builtin_fmaf(a.v[i], b.v[i], c.v[i]))} SOBERANO_APART
    inline f32x16 fnma(f32x16 a, f32x16 b,
                       f32x16 c){SOBERANO_LANES(16, f32x16, __builtin_fmaf(-a.v[i], b.v[i], c.v[i]))} SOBERANO_APART
    inline f32x16 round_even(f32x16 a){SOBERANO_LANES(16, f32x16, std::nearbyint(a.v[i]))} SOBERANO_APART inline f32x16
    scale2(f32x16 a, f32x16 n) {
  f32x16 r;
  for (int i = 0; i < 16; i++) {
    uint32_t bits;
    std::memcpy(&bits, &a.v[i], 4);
    if (!std::isnan(n.v[i])) bits += uint32_t(int32_t(n.v[i])) << 23;
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
inline u8x64 high_nibbles(u8x64 a){SOBERANO_LANES(64, u8x64, uint8_t(a.v[i] >> 4))} SOBERANO_APART inline u8x64
    look_up(const uint8_t* table, u8x64 a) {
  SOBERANO_LANES(64, u8x64, table[a.v[i]])
}
inline f32x16 byte_of(u8x64 a, int c) { SOBERANO_LANES(16, f32x16, float(a.v[4 * i + c])) }
template <int shift, int mask> SOBERANO_APART inline u8x64 or_bits(u8x64 a, u8x64 b) {
  SOBERANO_LANES(64, u8x64, uint8_t(a.v[i] | ((shift >= 0 ? b.v[i] << (shift & 7) : b.v[i] >> (-shift & 7)) & mask)))
}
template <int bits> SOBERANO_APART inline i32x16 dot4(i32x16 acc, u8x64 codes, const int8_t* four) {
  for (int i = 0; i < 16; i++)
    for (int c = 0; c < 4; c++) acc.v[i] += int32_t(codes.v[4 * i + c]) * four[c];
  return acc;
}

// The one order in which sixteen lanes are added: halves onto each other, four times.
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

}  // namespace soberano
