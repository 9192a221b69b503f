// The product for prompts: bfloat16 weights and activations, float32 sums, in the matrix unit (AMX).
//
// A prompt multiplies every weight by hundreds of tokens, so it is worth decoding 32 rows of a weight to bfloat16 once
// and giving them to a unit that does 8192 multiply-adds at a time. Sums run over all inputs inside the unit in one
// order, so a token's result does not depend on the others; but it is not the result of linear.cc's integers, and
// soberano.backends.plan says which of the two a token gets: by its role, never by the size of the batch.
#pragma once
#include "soberano/backends/amx.h"
#if SOBERANO_AMX
#include <algorithm>
#include <memory>

#include "soberano/backends/pool.h"
#include "soberano/quant/tiles.h"

namespace soberano {

inline __m512i to_bf16_pairs(__m512 first, __m512 second) {
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                              6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(second, first));
}

// Decode a panel of 16 rows to the matrix unit's order: out[group of 32 columns][pair of columns][row][2] bfloat16.
template <class Tile> void decode_panel(const Tile* tiles, int64_t blocks, uint16_t* out) {
  for (int64_t b = 0; b < blocks; b++) {
    const Tile& w = tiles[b];
    const f32x16 d = load_f16(w.d);
    f32x16 m = set1(0.0f);
    if constexpr (Tile::minimum) m = load_f16(w.m);
    for (int g = 0; g < Tile::columns / 32; g++) {
      const Scales<Tile> s(w, d, m, g);
      u8x64 v[8];
      w.codes[g].unpack(v);
#pragma GCC unroll 8
      for (int j = 0; j < 8; j++) {
        const f32x16 scale = s.scale[j / 4], offset = fma(scale, set1(float(Tile::zero)), s.minimum);
        __m512 column[4];
        for (int c = 0; c < 4; c++) {
          const __m512i code = _mm512_and_si512(_mm512_srli_epi32(v[j].v, 8 * c), _mm512_set1_epi32(255));
          column[c] = _mm512_fmsub_ps(scale.v, _mm512_cvtepi32_ps(code), offset.v);
        }
        _mm512_storeu_si512(out, to_bf16_pairs(column[0], column[1]));
        _mm512_storeu_si512(out + 32, to_bf16_pairs(column[2], column[3]));
        out += 64;
      }
    }
  }
}

// Tokens as the unit reads them: (T rounded up to 32, I) bfloat16; rows that are not there are zero.
struct Bf16Tokens {
  Bf16Tokens(const float* x, int64_t T, int64_t I) : padded((T + 31) / 32 * 32), data(new uint16_t[padded * I]) {
    Pool::instance().parallel(int(padded / 32), [&](int block) {
      for (int64_t t = block * 32; t < block * 32 + 32; t++) {
        uint16_t* row = data.get() + t * I;
        if (t >= T) std::fill(row, row + I, 0);
        for (int64_t i = 0; i < I && t < T; i += 32)
          _mm512_storeu_si512(row + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + t * I + i + 16),
                                                                    _mm512_loadu_ps(x + t * I + i)));
      }
    });
  }
  int64_t padded;
  std::unique_ptr<uint16_t[]> data;
};

// Two panels (32 outputs from `first`) for all tokens. `weights` has room for both, decoded.
template <class Tile>
void panels_bf16(const Tile* tiles, int64_t blocks, const Bf16Tokens& x, int64_t I, float* y, int64_t T,
                 int64_t outputs, int64_t first, uint16_t* weights) {
  const int64_t panel = I * 16, groups = I / 32;
  const bool second = first + 16 < outputs;
  decode_panel(tiles, blocks, weights);
  if (second) decode_panel(tiles + blocks, blocks, weights + panel);
  for (int64_t t = 0; t < T; t += 32) {
    const uint16_t* rows = x.data.get() + t * I;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t g = 0; g < groups; g++) {
      _tile_loadd(4, rows + g * 32, I * 2);
      _tile_loadd(6, weights + g * 512, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, rows + 16 * I + g * 32, I * 2);
      _tile_dpbf16ps(1, 5, 6);
      if (second) {
        _tile_loadd(7, weights + panel + g * 512, 64);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    alignas(64) float block[4][16][16];
    _tile_stored(0, block[0], 64);
    _tile_stored(1, block[1], 64);
    _tile_stored(2, block[2], 64);
    _tile_stored(3, block[3], 64);
    for (int half = 0; half < (second ? 2 : 1); half++) {
      const int64_t at = first + 16 * half, lanes = std::min<int64_t>(16, outputs - at);
      for (int64_t n = 0; n < 32 && t + n < T; n++)
        std::copy(block[2 * half + n / 16][n % 16], block[2 * half + n / 16][n % 16] + lanes,
                  y + (t + n) * outputs + at);
    }
  }
}

}  // namespace soberano
#endif
