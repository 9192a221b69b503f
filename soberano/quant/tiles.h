// The bytes of a weight as kernels read it: tiles of 16 rows, described in soberano/quant/tiles.py.
//
// A 64-byte vector of codes holds 16 rows x 4 columns, so one dot4 against four broadcast activations adds to 16
// outputs. Vector j of a group of 32 columns holds columns 4 j to 4 j + 3; nibbles pair vector i (low) with vector i +
// 4 (high).
#pragma once
#include <cstdint>

#include "soberano/backends/simd.h"

namespace soberano {

enum class TileKind : int32_t {
  q4 = 0,
  q4m = 1,
  q5 = 2,
  q5m = 3,
  q8 = 4,
  q4k = 5,
  q5k = 6,
  q6k = 7,
  f16 = 8,
  bf16 = 9,
  f32 = 10,
  iq4 = 11,
  iq4k = 12,
  mxfp4 = 13
};

template <int bits> struct Codes;

template <> struct Codes<4> {
  uint8_t low[4][64];
  inline void unpack(u8x64* v) const {
    for (int i = 0; i < 4; i++) {
      u8x64 both = load(low[i]);
      v[i] = low_nibbles(both), v[i + 4] = high_nibbles(both);
    }
  }
};

template <> struct Codes<5> {
  uint8_t low[4][64];
  uint8_t high[64];  // bit j: the fifth bit of vector j
  inline void unpack(u8x64* v) const {
    u8x64 h = load(high);
    for (int i = 0; i < 4; i++) {
      u8x64 both = load(low[i]);
      v[i] = low_nibbles(both), v[i + 4] = high_nibbles(both);
    }
    v[0] = or_bits<4, 16>(v[0], h), v[1] = or_bits<3, 16>(v[1], h), v[2] = or_bits<2, 16>(v[2], h),
    v[3] = or_bits<1, 16>(v[3], h);
    v[4] = or_bits<0, 16>(v[4], h), v[5] = or_bits<-1, 16>(v[5], h), v[6] = or_bits<-2, 16>(v[6], h),
    v[7] = or_bits<-3, 16>(v[7], h);
  }
};

template <> struct Codes<6> {
  uint8_t low[4][64];
  uint8_t high[2][64];  // bits 2 j and 2 j + 1 of high[h]: the upper two bits of vector 4 h + j
  inline void unpack(u8x64* v) const {
    for (int i = 0; i < 4; i++) {
      u8x64 both = load(low[i]);
      v[i] = low_nibbles(both), v[i + 4] = high_nibbles(both);
    }
    for (int h = 0; h < 2; h++) {
      u8x64 bits = load(high[h]);
      v[4 * h + 0] = or_bits<4, 48>(v[4 * h + 0], bits), v[4 * h + 1] = or_bits<2, 48>(v[4 * h + 1], bits);
      v[4 * h + 2] = or_bits<0, 48>(v[4 * h + 2], bits), v[4 * h + 3] = or_bits<-2, 48>(v[4 * h + 3], bits);
    }
  }
};

template <> struct Codes<8> {
  uint8_t code[8][64];
  inline void unpack(u8x64* v) const {
    for (int i = 0; i < 8; i++) v[i] = load(code[i]);
  }
};

// Nibbles that name sixteen numbers: unpacked they are these numbers, made unsigned by adding `zero`.
template <class Book> struct Named : Codes<4> {
  inline void unpack(u8x64* v) const {
    Codes<4>::unpack(v);
    for (int i = 0; i < 8; i++) v[i] = look_up(Book::table, v[i]);
  }
};
struct Iq4Book {
  static constexpr int zero = 127;
  static constexpr uint8_t table[16] = {0, 23, 44, 62, 78, 92, 105, 117, 128, 140, 152, 165, 180, 196, 216, 240};
};
struct E2m1Book {
  static constexpr int zero = 12;
  static constexpr uint8_t table[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
};

// One scale for 32 columns: w = d (code - zero) - m. A scale of one byte is the exponent of half a power of two.
template <int bits_, int zero_, bool minimum_, class Codes_ = Codes<bits_>, class Scale = uint16_t> struct Flat {
  static constexpr int bits = bits_, zero = zero_, columns = 32, group = 32;
  static constexpr bool minimum = minimum_, plain = false;
  Codes_ codes[1];
  Scale d[16];
  uint16_t m[minimum ? 16 : 0];
};

// A scale for 256 columns and a small integer one for each group: w = (d sub) (code - zero) - (m submin).
template <int bits_, int zero_, bool minimum_, int group_, class Sub, class Codes_ = Codes<bits_>> struct TwoLevel {
  static constexpr int bits = bits_, zero = zero_, columns = 256, group = group_;
  static constexpr bool minimum = minimum_, plain = false;
  Codes_ codes[8];
  Sub sub[256 / group][16];
  uint8_t submin[minimum ? 8 : 0][16];
  uint16_t d[16];
  uint16_t m[minimum ? 16 : 0];
};

// Numbers as they are, 16 rows of a column side by side.
template <class Number_> struct Plain {
  using Number = Number_;
  static constexpr int columns = 32;
  static constexpr bool plain = true;
  typename Number::Bits w[columns][16];
  f32x16 column(int c) const { return Number::read(w[c]); }
};

struct Half {
  using Bits = uint16_t;
  static f32x16 read(const Bits* p) { return load_f16(p); }
};
struct Brain {  // bfloat16
  using Bits = uint16_t;
  static f32x16 read(const Bits* p) { return load_bf16(p); }
};
struct Single {
  using Bits = float;
  static f32x16 read(const Bits* p) { return load(p); }
};

inline f32x16 load_scale(const uint16_t* d) { return load_f16(d); }
inline f32x16 load_scale(const uint8_t* e) { return load_half_powers(e); }
inline f32x16 load_sub(const uint8_t* s) { return load_u8(s); }
inline f32x16 load_sub(const int8_t* s) { return load_i8(s); }

// What multiplies the codes of group g of a tile: scale (of its first and second 16 columns) and minimum, for 16 rows.
template <class Tile> struct Scales {
  Scales(const Tile& w, f32x16 d, f32x16 m, int g) : scale{d, d}, minimum(m) {
    if constexpr (Tile::columns == 256) {
      if constexpr (Tile::group == 32) scale[0] = scale[1] = d * load_sub(w.sub[g]);
      if constexpr (Tile::group == 16) scale[0] = d * load_sub(w.sub[2 * g]), scale[1] = d * load_sub(w.sub[2 * g + 1]);
      if constexpr (Tile::minimum) minimum = m * load_u8(w.submin[g]);
    }
  }
  f32x16 scale[2], minimum;
};

// Columns 4 j to 4 j + 3 of a group whose codes are unpacked: a vector of sixteen rows for each. Only the subtraction
// rounds, since every product is exact.
template <class Tile> void decode_four(const Scales<Tile>& s, const u8x64* v, int j, f32x16* columns) {
  const f32x16 scale = s.scale[j / 4], least = fnma(scale, set1(float(Tile::zero)), set1(0.0f) - s.minimum);
  for (int c = 0; c < 4; c++) columns[c] = fma(scale, byte_of(v[j], c), least);
}

template <class Tile> f32x16 load_minima(const Tile& w) {
  if constexpr (Tile::minimum) return load_f16(w.m);
  return set1(0.0f);
}

// Columns 16 half to 16 half + 15 of a tile.
template <class Tile> void decode_sixteen(const Tile& w, int half, f32x16* columns) {
  if constexpr (Tile::plain) {
    for (int c = 0; c < 16; c++) columns[c] = w.column(16 * half + c);
  } else {
    u8x64 v[8];
    w.codes[half / 2].unpack(v);
    const Scales<Tile> s(w, load_scale(w.d), load_minima(w), half / 2);
    for (int j = 0; j < 4; j++) decode_four(s, v, 4 * (half % 2) + j, columns + 4 * j);
  }
}

using Q4 = Flat<4, 8, false>;
using Q4M = Flat<4, 0, true>;
using Q5 = Flat<5, 16, false>;
using Q5M = Flat<5, 0, true>;
using Q8 = Flat<8, 128, false>;
using Q4K = TwoLevel<4, 0, true, 32, uint8_t>;
using Q5K = TwoLevel<5, 0, true, 32, uint8_t>;
using Q6K = TwoLevel<6, 32, false, 16, int8_t>;
using F16 = Plain<Half>;
using BF16 = Plain<Brain>;
using F32 = Plain<Single>;
using IQ4 = Flat<8, Iq4Book::zero, false, Named<Iq4Book>>;
using IQ4K = TwoLevel<8, Iq4Book::zero, false, 32, int8_t, Named<Iq4Book>>;
using MXFP4 = Flat<5, E2m1Book::zero, false, Named<E2m1Book>, uint8_t>;

static_assert(sizeof(Q4) == 288 && sizeof(Q4M) == 320 && sizeof(Q5) == 352 && sizeof(Q5M) == 384 && sizeof(Q8) == 544,
              "packed");
static_assert(sizeof(Q4K) == 2368 && sizeof(Q5K) == 2880 && sizeof(Q6K) == 3360, "packed");
static_assert(sizeof(IQ4) == 288 && sizeof(IQ4K) == 2208 && sizeof(MXFP4) == 272, "packed");
static_assert(sizeof(F16) == 1024 && sizeof(BF16) == 1024 && sizeof(F32) == 2048, "packed");

// Call use<Tile>() for the tile of a kind. False if there is no such kind.
template <class Use> bool with_tile(int64_t kind, Use&& use) {
  switch (TileKind(kind)) {
    case TileKind::q4:
      use(Q4{});
      return true;
    case TileKind::q4m:
      use(Q4M{});
      return true;
    case TileKind::q5:
      use(Q5{});
      return true;
    case TileKind::q5m:
      use(Q5M{});
      return true;
    case TileKind::q8:
      use(Q8{});
      return true;
    case TileKind::q4k:
      use(Q4K{});
      return true;
    case TileKind::q5k:
      use(Q5K{});
      return true;
    case TileKind::q6k:
      use(Q6K{});
      return true;
    case TileKind::f16:
      use(F16{});
      return true;
    case TileKind::bf16:
      use(BF16{});
      return true;
    case TileKind::f32:
      use(F32{});
      return true;
    case TileKind::iq4:
      use(IQ4{});
      return true;
    case TileKind::iq4k:
      use(IQ4K{});
      return true;
    case TileKind::mxfp4:
      use(MXFP4{});
      return true;
  }
  return false;
}

}  // namespace soberano
