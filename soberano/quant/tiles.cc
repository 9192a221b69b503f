// Repack blocks as files store them (ggml's block_q*) into the tiles of tiles.h. The meaning is `pack` in
// soberano/quant/tiles.py.
#include <algorithm>
#include <cstring>

#include "soberano/backends/pool.h"
#include "soberano/quant/tiles.h"

namespace soberano {
namespace {

// One block of one row, taken apart: codes in column order, scales as they are.
struct Row {
  uint8_t code[256];
  uint16_t d, m;
  uint8_t sub[16], submin[8];
};

inline uint16_t read16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}
inline uint32_t read32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

inline void nibbles(const uint8_t* q, uint8_t* code) {
  for (int i = 0; i < 16; i++) code[i] = q[i] & 15, code[i + 16] = q[i] >> 4;
}

inline void fifth_bits(const uint8_t* high, uint8_t* code) {
  uint32_t bits = read32(high);
  for (int i = 0; i < 32; i++) code[i] |= ((bits >> i) & 1) << 4;
}

// The twelve bytes of Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minima.
inline void six_bits(const uint8_t* s, Row& row) {
  for (int j = 0; j < 4; j++) {
    row.sub[j] = s[j] & 63, row.submin[j] = s[j + 4] & 63;
    row.sub[j + 4] = (s[j + 8] & 15) | (s[j] >> 6) << 4;
    row.submin[j + 4] = (s[j + 8] >> 4) | (s[j + 4] >> 6) << 4;
  }
}

// A block of each format: its bytes, how it is read, and where its nibbles lie (`paired`) if a byte of it holds the two
// columns that a byte of a tile holds; 0 if not.
struct FileQ4_0 {
  using Tile = Q4;
  static constexpr int bytes = 18, paired = 2;
  static void read(const uint8_t* b, Row& r) { r.d = read16(b); }
};
struct FileQ4_1 {
  using Tile = Q4M;
  static constexpr int bytes = 20, paired = 4;
  static void read(const uint8_t* b, Row& r) { r.d = read16(b), r.m = read16(b + 2) ^ 0x8000; }
};
struct FileQ5_0 {
  using Tile = Q5;
  static constexpr int bytes = 22, paired = 0;
  static void read(const uint8_t* b, Row& r) { r.d = read16(b), nibbles(b + 6, r.code), fifth_bits(b + 2, r.code); }
};
struct FileQ5_1 {
  using Tile = Q5M;
  static constexpr int bytes = 24, paired = 0;
  static void read(const uint8_t* b, Row& r) {
    r.d = read16(b), r.m = read16(b + 2) ^ 0x8000, nibbles(b + 8, r.code), fifth_bits(b + 4, r.code);
  }
};
struct FileQ8_0 {
  using Tile = Q8;
  static constexpr int bytes = 34, paired = 0;
  static void read(const uint8_t* b, Row& r) {
    r.d = read16(b);
    for (int i = 0; i < 32; i++) r.code[i] = b[2 + i] ^ 128;
  }
};
struct FileQ4_K {
  using Tile = Q4K;
  static constexpr int bytes = 144, paired = 0;
  static void read(const uint8_t* b, Row& r) {
    r.d = read16(b), r.m = read16(b + 2), six_bits(b + 4, r);
    for (int c = 0; c < 4; c++)
      for (int i = 0; i < 32; i++)
        r.code[64 * c + i] = b[16 + 32 * c + i] & 15, r.code[64 * c + 32 + i] = b[16 + 32 * c + i] >> 4;
  }
};
struct FileQ5_K {
  using Tile = Q5K;
  static constexpr int bytes = 176, paired = 0;
  static void read(const uint8_t* b, Row& r) {
    r.d = read16(b), r.m = read16(b + 2), six_bits(b + 4, r);
    for (int c = 0; c < 4; c++)
      for (int i = 0; i < 32; i++) {
        uint8_t both = b[48 + 32 * c + i], high = b[16 + i] >> (2 * c);
        r.code[64 * c + i] = (both & 15) | (high & 1) << 4, r.code[64 * c + 32 + i] = (both >> 4) | (high & 2) << 3;
      }
  }
};
struct FileQ6_K {
  using Tile = Q6K;
  static constexpr int bytes = 210, paired = 0;
  static void read(const uint8_t* b, Row& r) {
    for (int half = 0; half < 2; half++) {
      const uint8_t *low = b + 64 * half, *high = b + 128 + 32 * half;
      uint8_t* to = r.code + 128 * half;
      for (int i = 0; i < 32; i++) {
        to[i] = (low[i] & 15) | (high[i] & 3) << 4, to[i + 32] = (low[i + 32] & 15) | (high[i] >> 2 & 3) << 4;
        to[i + 64] = (low[i] >> 4) | (high[i] >> 4 & 3) << 4, to[i + 96] = (low[i + 32] >> 4) | (high[i] >> 6) << 4;
      }
    }
    std::memcpy(r.sub, b + 192, 16);
    r.d = read16(b + 208);
  }
};

struct FileIQ4_NL {
  using Tile = IQ4;
  static constexpr int bytes = 18, paired = 2;
  static void read(const uint8_t* b, Row& r) { r.d = read16(b); }
};
struct FileIQ4_XS {
  using Tile = IQ4K;
  static constexpr int bytes = 136, paired = 0;
  static void read(const uint8_t* b, Row& r) {
    r.d = read16(b);
    for (int g = 0; g < 8; g++) {
      nibbles(b + 8 + 16 * g, r.code + 32 * g);
      r.sub[g] = ((b[4 + g / 2] >> 4 * (g % 2) & 15) | (b[2 + g / 4] >> 2 * (g % 4) & 3) << 4) - 32;
    }
  }
};
struct FileMXFP4 {
  using Tile = MXFP4;
  static constexpr int bytes = 17, paired = 1;
  static void read(const uint8_t* b, Row& r) { r.d = b[0]; }
};

inline void place(const uint8_t* code, int row, Codes<4>& to) {
  for (int i = 0; i < 4; i++) {
    uint32_t word = read32(code + 4 * i) | read32(code + 16 + 4 * i) << 4;
    std::memcpy(to.low[i] + 4 * row, &word, 4);
  }
}

template <int bits> inline void place(const uint8_t* code, int row, Codes<bits>& to) {
  constexpr int wide = bits - 4, per = 8 / wide;
  for (int i = 0; i < 4; i++) {
    uint32_t word = (read32(code + 4 * i) & 0x0f0f0f0f) | (read32(code + 16 + 4 * i) & 0x0f0f0f0f) << 4;
    std::memcpy(to.low[i] + 4 * row, &word, 4);
  }
  for (int plane = 0; plane < wide; plane++) {  // what is above the nibbles of `per` words shares a word
    uint32_t word = 0;
    for (int j = 0; j < per; j++) word |= (read32(code + 4 * (plane * per + j)) >> 4 & 0x0f0f0f0f) << (wide * j);
    std::memcpy((uint8_t*)to.high + 64 * plane + 4 * row, &word, 4);
  }
}

inline void place(const uint8_t* code, int row, Codes<8>& to) {
  for (int j = 0; j < 8; j++) std::memcpy(to.code[j] + 4 * row, code + 4 * j, 4);
}

template <class File> void pack(const uint8_t* raw, uint8_t* out, int64_t O, int64_t I) {
  using Tile = typename File::Tile;
  const int64_t panels = (O + 15) / 16, blocks = I / Tile::columns;
  Pool::instance().parallel(int(panels), [&](int p) {
    Tile* tiles = (Tile*)out + p * blocks;
    std::memset((void*)tiles, 0, blocks * sizeof(Tile));
    for (int r = 0; r < 16 && p * 16 + r < O; r++) {
      const uint8_t* from = raw + (p * 16 + r) * blocks * File::bytes;
      for (int64_t b = 0; b < blocks; b++, from += File::bytes) {
        Row row;
        File::read(from, row);
        Tile& tile = tiles[b];
        if constexpr (File::paired) {
          for (int i = 0; i < 4; i++) std::memcpy(tile.codes[0].low[i] + 4 * r, from + File::paired + 4 * i, 4);
        } else {
          for (int g = 0; g < Tile::columns / 32; g++) place(row.code + 32 * g, r, tile.codes[g]);
        }
        if constexpr (Tile::columns == 256)
          for (int s = 0; s < 256 / Tile::group; s++) tile.sub[s][r] = row.sub[s];
        if constexpr (Tile::columns == 256 && Tile::minimum)
          for (int s = 0; s < 8; s++) tile.submin[s][r] = row.submin[s];
        tile.d[r] = row.d;
        if constexpr (Tile::minimum) tile.m[r] = row.m;
      }
    }
  });
}

template <class Tile> void pack_plain(const uint8_t* raw, uint8_t* out, int64_t O, int64_t I) {
  using Bits = typename Tile::Number::Bits;
  const int64_t panels = (O + 15) / 16, blocks = I / Tile::columns;
  Pool::instance().parallel(int(panels), [&](int p) {
    for (int64_t b = 0; b < blocks; b++) {
      Tile& tile = ((Tile*)out)[p * blocks + b];
      for (int r = 0; r < 16; r++) {
        Bits row[Tile::columns] = {};
        if (p * 16 + r < O) std::memcpy(row, raw + ((p * 16 + r) * I + b * Tile::columns) * sizeof(Bits), sizeof row);
        for (int c = 0; c < Tile::columns; c++) tile.w[c][r] = row[c];
      }
    }
  });
}

}  // namespace
}  // namespace soberano

// `ggml` is the type id of the blocks. Returns 0, or 1 for a type without tiles.
extern "C" int soberano_pack_tiles(const uint8_t* raw, uint8_t* tiles, int64_t O, int64_t I, int64_t ggml) {
  using namespace soberano;
  switch (ggml) {
    case 0:
      pack_plain<F32>(raw, tiles, O, I);
      return 0;
    case 1:
      pack_plain<F16>(raw, tiles, O, I);
      return 0;
    case 30:
      pack_plain<BF16>(raw, tiles, O, I);
      return 0;
    case 2:
      pack<FileQ4_0>(raw, tiles, O, I);
      return 0;
    case 3:
      pack<FileQ4_1>(raw, tiles, O, I);
      return 0;
    case 6:
      pack<FileQ5_0>(raw, tiles, O, I);
      return 0;
    case 7:
      pack<FileQ5_1>(raw, tiles, O, I);
      return 0;
    case 8:
      pack<FileQ8_0>(raw, tiles, O, I);
      return 0;
    case 12:
      pack<FileQ4_K>(raw, tiles, O, I);
      return 0;
    case 13:
      pack<FileQ5_K>(raw, tiles, O, I);
      return 0;
    case 14:
      pack<FileQ6_K>(raw, tiles, O, I);
      return 0;
    case 20:
      pack<FileIQ4_NL>(raw, tiles, O, I);
      return 0;
    case 23:
      pack<FileIQ4_XS>(raw, tiles, O, I);
      return 0;
    case 39:
      pack<FileMXFP4>(raw, tiles, O, I);
      return 0;
  }
  return 1;
}
