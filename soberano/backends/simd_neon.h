// Sixteen lanes in four NEON registers of AArch64. Included by simd.h, whose promise holds here.
//
// Every AArch64 processor has what is used here, except for the dot products: those of int8 (ARMv8.2, optional) and of
// uint8 by int8 (I8MM, ARMv8.6) are taken where the target has them.
#pragma once
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace soberano {

struct f32x16 {
  float32x4_t v[4];
};
struct i32x16 {
  int32x4_t v[4];
};
struct u8x64 {
  uint8x16_t v[4];
};
#define SOBERANO_QUARTERS(type, expression)                                  \
  type r;                                                                    \
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) r.v[i] = (expression); \
  return r;

inline float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline float32x4_t smaller(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }

inline f32x16 set1(float x) { SOBERANO_QUARTERS(f32x16, vdupq_n_f32(x)) }
inline f32x16 load(const float* p) { SOBERANO_QUARTERS(f32x16, vld1q_f32(p + 4 * i)) }
inline void store(float* p, f32x16 a) {
  for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.v[i]);
}
inline f32x16 load_f16(const uint16_t* p) {
  SOBERANO_QUARTERS(f32x16, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))))
}
inline void store_f16(uint16_t* p, f32x16 a) {
  for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
inline f32x16 to_f32(i32x16 a) { SOBERANO_QUARTERS(f32x16, vcvtq_f32_s32(a.v[i])) }
inline f32x16 widen(int16x8_t lo, int16x8_t hi) {
  return to_f32({vmovl_s16(vget_low_s16(lo)), vmovl_high_s16(lo), vmovl_s16(vget_low_s16(hi)), vmovl_high_s16(hi)});
}
inline f32x16 load_u8(const uint8_t* p) {
  const uint8x16_t a = vld1q_u8(p);
  return widen(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a))), vreinterpretq_s16_u16(vmovl_high_u8(a)));
}
inline f32x16 load_i8(const int8_t* p) {
  const int8x16_t a = vld1q_s8(p);
  return widen(vmovl_s8(vget_low_s8(a)), vmovl_high_s8(a));
}
inline f32x16 operator+(f32x16 a, f32x16 b) { SOBERANO_QUARTERS(f32x16, vaddq_f32(a.v[i], b.v[i])) }
inline f32x16 operator-(f32x16 a, f32x16 b) { SOBERANO_QUARTERS(f32x16, vsubq_f32(a.v[i], b.v[i])) }
inline f32x16 operator*(f32x16 a, f32x16 b) { SOBERANO_QUARTERS(f32x16, vmulq_f32(a.v[i], b.v[i])) }
inline f32x16 operator/(f32x16 a, f32x16 b) { SOBERANO_QUARTERS(f32x16, vdivq_f32(a.v[i], b.v[i])) }
// NEON's own maximum and minimum differ from those of x86 and C++ in NaN and in signed zeros.
inline f32x16 max(f32x16 a, f32x16 b) { SOBERANO_QUARTERS(f32x16, larger(a.v[i], b.v[i])) }
inline f32x16 min(f32x16 a, f32x16 b) { SOBERANO_QUARTERS(f32x16, smaller(a.v[i], b.v[i])) }
inline f32x16 abs(f32x16 a) { SOBERANO_QUARTERS(f32x16, vabsq_f32(a.v[i])) }
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { SOBERANO_QUARTERS(f32x16, vfmaq_f32(c.v[i], a.v[i], b.v[i])) }
inline f32x16 fnma(f32x16 a, f32x16 b, f32x16 c) { SOBERANO_QUARTERS(f32x16, vfmsq_f32(c.v[i], a.v[i], b.v[i])) }
inline f32x16 round_even(f32x16 a) { SOBERANO_QUARTERS(f32x16, vrndnq_f32(a.v[i])) }
inline f32x16 scale2(f32x16 a, f32x16 n) {
  SOBERANO_QUARTERS(
      f32x16, vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a.v[i]), vshlq_n_s32(vcvtnq_s32_f32(n.v[i]), 23))))
}
inline i32x16 set1(int32_t x) { SOBERANO_QUARTERS(i32x16, vdupq_n_s32(x)) }
inline i32x16 add(i32x16 a, i32x16 b) { SOBERANO_QUARTERS(i32x16, vaddq_s32(a.v[i], b.v[i])) }
inline i32x16 times128(i32x16 a) { SOBERANO_QUARTERS(i32x16, vshlq_n_s32(a.v[i], 7)) }
inline int16x8_t to_i16(float32x4_t lo, float32x4_t hi) {
  return vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(lo)), vcvtnq_s32_f32(hi));
}
inline void store_i8(int8_t* p, f32x16 a) {
  vst1q_s8(p, vqmovn_high_s16(vqmovn_s16(to_i16(a.v[0], a.v[1])), to_i16(a.v[2], a.v[3])));
}
inline u8x64 load(const uint8_t* p) { SOBERANO_QUARTERS(u8x64, vld1q_u8(p + 16 * i)) }
inline u8x64 low_nibbles(u8x64 a) { SOBERANO_QUARTERS(u8x64, vandq_u8(a.v[i], vdupq_n_u8(15))) }
inline u8x64 high_nibbles(u8x64 a) { SOBERANO_QUARTERS(u8x64, vshrq_n_u8(a.v[i], 4)) }
inline u8x64 look_up(const uint8_t* table, u8x64 a) { SOBERANO_QUARTERS(u8x64, vqtbl1q_u8(vld1q_u8(table), a.v[i])) }
inline f32x16 byte_of(u8x64 a, int c) {
  SOBERANO_QUARTERS(
      f32x16, vcvtq_f32_u32(vandq_u32(vshlq_u32(vreinterpretq_u32_u8(a.v[i]), vdupq_n_s32(-8 * c)), vdupq_n_u32(255))))
}
template <int by> inline uint8x16_t shifted(uint8x16_t a) {
  if constexpr (by >= 0) return vshlq_n_u8(a, by);
  if constexpr (by < 0) return vshrq_n_u8(a, -by);
}
template <int shift, int mask> inline u8x64 or_bits(u8x64 a, u8x64 b) {
  SOBERANO_QUARTERS(u8x64, vorrq_u8(a.v[i], vandq_u8(shifted<shift>(b.v[i]), vdupq_n_u8(mask))))
}

// acc[i] += sum over c of a[4 i + c] * b[4 i + c]: signed bytes by signed bytes.
inline int32x4_t dot(int32x4_t acc, int8x16_t a, int8x16_t b) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(acc, a, b);
#else
  const int16x8_t lo = vmull_s8(vget_low_s8(a), vget_low_s8(b)), hi = vmull_high_s8(a, b);
  return vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(lo), vpaddlq_s16(hi)));  // two products may be 2^15: too wide for int16
#endif
}
template <int bits> inline i32x16 dot4(i32x16 acc, u8x64 codes, const int8_t* four) {
  int32_t word;
  std::memcpy(&word, four, 4);
  const int8x16_t b = vreinterpretq_s8_s32(vdupq_n_s32(word));
#if defined(__ARM_FEATURE_MATMUL_INT8)
  SOBERANO_QUARTERS(i32x16, vusdotq_s32(acc.v[i], codes.v[i], b))
#else
  if constexpr (bits < 8) {
    SOBERANO_QUARTERS(i32x16, dot(acc.v[i], vreinterpretq_s8_u8(codes.v[i]), b))
  } else {  // codes above 127 are no signed bytes: take 128 from each, and what that changes from the sum
    const int32x4_t change = dot(vdupq_n_s32(0), vdupq_n_s8(-128), b);
    const uint8x16_t sign = vdupq_n_u8(128);
    SOBERANO_QUARTERS(i32x16, dot(vsubq_s32(acc.v[i], change), vreinterpretq_s8_u8(veorq_u8(codes.v[i], sign)), b))
  }
#endif
}

// The one order in which sixteen lanes are added: halves onto each other, four times.
template <class Fold> inline float fold(f32x16 a, Fold&& two) {
  const float32x4_t four = two(two(a.v[0], a.v[2]), two(a.v[1], a.v[3]));
  const float32x4_t pair = two(four, vextq_f32(four, four, 2));
  return vgetq_lane_f32(two(pair, vextq_f32(pair, pair, 1)), 0);
}
inline float sum(f32x16 a) { return fold(a, vaddq_f32); }
inline float largest(f32x16 a) { return fold(a, larger); }

}  // namespace soberano
