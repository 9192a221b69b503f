// The product for prompts: bfloat16 weights and activations, float32 sums, in the matrix unit (AMX).
//
// A prompt multiplies every weight by hundreds of tokens, so it is worth decoding two panels (32 rows) of a weight to
// bfloat16 once and giving them to a unit that does 8192 multiply-adds at a time. Sums run over all inputs inside the
// unit in one order, so a token's result does not depend on the others; but it is not the result of linear_int.h's
// integers, and soberano.backends.plan says which of the two a token gets: by its role, never by the size of the batch.
//
// The unit is faster than its memory: what it reads has to come from the second-level cache. So tokens lie in the order
// in which they are read, and wide inputs are walked in chunks of columns, each for several panels before the next.
#pragma once
#include "soberano/backends/amx.h"
#if SOBERANO_AMX
#include <algorithm>
#include <vector>

#include "soberano/backends/pool.h"
#include "soberano/backends/scratch.h"
#include "soberano/ops/linear_weight.h"

namespace soberano {

// Columns of a chunk: two decoded panels of them stay in the first-level cache.
inline int64_t chunk_of(int64_t inputs) { return inputs <= 640 ? inputs : 512; }

// Tokens x columns / 32 that the second-level cache holds beside the panels: then a panel may walk all chunks alone.
constexpr int64_t kNear = 16 * 1536;

// Decode tiles of a panel of 16 rows to the unit's order: out[group of 32 columns][pair of columns][row][2] bfloat16.
template <class Number> void decode_tiles(const Plain<Number>* tiles, int64_t count, uint16_t* out) {
  for (int64_t b = 0; b < count; b++)
    for (int c = 0; c < Plain<Number>::columns; c += 2, out += 32) {
      if constexpr (std::is_same_v<Number, Brain>)
        _mm512_storeu_si512(out, interleave_halves(_mm512_loadu_si512(tiles[b].w[c])));
      else
        _mm512_storeu_si512(out, to_bf16_pairs(tiles[b].column(c).v, tiles[b].column(c + 1).v));
    }
}

template <class Tile> void decode_tiles(const Tile* tiles, int64_t count, uint16_t* out) {
  for (int64_t b = 0; b < count; b++) {
    const Tile& w = tiles[b];
    const f32x16 d = load_scale(w.d);
    const f32x16 m = load_minima(w);
    for (int g = 0; g < Tile::columns / 32; g++) {
      const Scales<Tile> s(w, d, m, g);
      u8x64 v[8];
      w.codes[g].unpack(v);
#pragma GCC unroll 8
      for (int j = 0; j < 8; j++) {
        f32x16 column[4];
        decode_four(s, v, j, column);
        _mm512_storeu_si512(out, to_bf16_pairs(column[0].v, column[1].v));
        _mm512_storeu_si512(out + 32, to_bf16_pairs(column[2].v, column[3].v));
        out += 64;
      }
    }
  }
}

// Columns [first, first + count) of panel p.
inline void decode_panel(const Weight& w, int64_t p, int64_t first, int64_t count, uint16_t* out) {
  with_tile(w.kind, [&](auto tile) {
    using Tile = decltype(tile);
    decode_tiles((const Tile*)w.panel(p) + first / Tile::columns, count / Tile::columns, out);
  });
}

// Sixteen columns of sixteen rows as pairs of rows: out[pair][column][2] bfloat16.
inline void turn_pairs(const f32x16* columns, uint16_t* out) {
  const __m512i first = _mm512_set_epi32(27, 19, 11, 3, 26, 18, 10, 2, 25, 17, 9, 1, 24, 16, 8, 0);
  const __m512i last = _mm512_add_epi32(first, _mm512_set1_epi32(4));
  __m512i four[2][4];  // pairs 0 to 3 and 4 to 7, a pair in each quarter, of columns 4 j to 4 j + 3
  for (int j = 0; j < 4; j++) {
    const f32x16* c = columns + 4 * j;
    const __m512i a = (__m512i)_mm512_cvtne2ps_pbh(c[1].v, c[0].v), b = (__m512i)_mm512_cvtne2ps_pbh(c[3].v, c[2].v);
    four[0][j] = _mm512_permutex2var_epi32(a, first, b), four[1][j] = _mm512_permutex2var_epi32(a, last, b);
  }
  for (int half = 0; half < 2; half++, out += 128) {
    const __m512i* f = four[half];
    const __m512i a = _mm512_shuffle_i32x4(f[0], f[1], 0x44), b = _mm512_shuffle_i32x4(f[2], f[3], 0x44);
    const __m512i c = _mm512_shuffle_i32x4(f[0], f[1], 0xEE), d = _mm512_shuffle_i32x4(f[2], f[3], 0xEE);
    _mm512_storeu_si512(out, _mm512_shuffle_i32x4(a, b, 0x88));
    _mm512_storeu_si512(out + 32, _mm512_shuffle_i32x4(a, b, 0xDD));
    _mm512_storeu_si512(out + 64, _mm512_shuffle_i32x4(c, d, 0x88));
    _mm512_storeu_si512(out + 96, _mm512_shuffle_i32x4(c, d, 0xDD));
  }
}

// Up to 32 tokens of `count` columns, a token `stride` numbers after the other, as the unit reads them: for every 32
// columns two tiles of (16 tokens, 32 columns) bfloat16. What is not there is zero, in tokens as in columns.
inline void convert_block(const float* x, int64_t tokens, int64_t count, int64_t stride, uint16_t* out) {
  for (int64_t t = 0; t < 32; t++)
    for (int64_t i = 0; i < count; i += 32) {
      const float* from = x + t * stride + i;
      const uint32_t there = t < tokens ? ~uint64_t(0) >> (64 - std::min<int64_t>(32, count - i)) : 0;
      const __m512 a = _mm512_maskz_loadu_ps(there & 65535, from), b = _mm512_maskz_loadu_ps(there >> 16, from + 16);
      _mm512_storeu_si512(out + i * 32 + t * 32, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
}

// Tokens as the unit reads them: for every 32 tokens and 32 columns two tiles of (16 tokens, 32 columns) bfloat16.
// Tokens that are not there are zero.
class Bf16Tokens {
 public:
  void resize(int64_t tokens, int64_t columns) {
    T = tokens, inputs = columns, blocks = (tokens + 31) / 32;
    data_ = memory_.room(blocks * 32 * columns);
  }

  void convert(const float* x, int64_t tokens, int64_t columns) {
    resize(tokens, columns);
    fill(x, columns, 0);
  }

  // Take `count` columns of x as those from `at` on, a multiple of 32; fill up with zeros to the next multiple.
  void fill(const float* x, int64_t count, int64_t at) {
    Pool::instance().parallel(int(blocks), [&](int block) {
      convert_block(x + 32 * block * count, T - 32 * block, count, count, tiles(block, at / 32));
    });
  }

  // The 32 columns from i, a multiple of 32, of token t.
  uint16_t* row(int64_t t, int64_t i) const { return tiles(t / 32, i / 32) + t % 32 * 32; }

  // The two tiles of 32 tokens and 32 columns; those of the next 32 columns follow.
  uint16_t* tiles(int64_t block, int64_t group) const { return data_ + (block * inputs + group * 32) * 32; }

  int64_t T = 0, inputs = 0, blocks = 0;

 private:
  Scratch<uint16_t> memory_;
  uint16_t* data_ = nullptr;
};

// The sums of 32 tokens and two panels: tile 2 * panel + token / 16 holds 16 tokens x 16 outputs.
struct Bf16Sums {
  alignas(64) float tile[4][16][16];

  static void zero() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  void store() {
    _tile_stored(0, tile[0], 64);
    _tile_stored(1, tile[1], 64);
    _tile_stored(2, tile[2], 64);
    _tile_stored(3, tile[3], 64);
  }
  void load() const {
    _tile_loadd(0, tile[0], 64);
    _tile_loadd(1, tile[1], 64);
    _tile_loadd(2, tile[2], 64);
    _tile_loadd(3, tile[3], 64);
  }
};

// Add to tiles 0 to 3 the products of 32 tokens with two panels over `groups` x 32 columns.
inline void multiply(const uint16_t* tokens, const uint16_t* first, const uint16_t* second, int64_t groups) {
  for (int64_t g = 0; g < groups; g++, tokens += 1024, first += 512, second += 512) {
    _tile_stream_loadd(4, tokens, 64);
    _tile_loadd(6, first, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_stream_loadd(5, tokens + 512, 64);
    _tile_dpbf16ps(1, 5, 6);
    _tile_loadd(7, second, 64);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// Multiply tokens by pairs of panels: decode(weight, panel, first column, count, out) makes them as decode_panel does,
// and finish(pair, first token) is called with the sums of 32 tokens in tiles 0 to 3.
template <class Decode, class Finish>
void multiply_pairs(const Bf16Tokens& x, const std::vector<PanelPair>& pairs, Decode&& decode, Finish&& finish) {
  Pool& pool = Pool::instance();
  const int64_t count = int64_t(pairs.size()), width = chunk_of(x.inputs);
  const int64_t each = x.blocks * x.inputs <= kNear ? 1 : std::clamp<int64_t>(count / (2 * pool.threads()), 1, 16);
  pool.parallel(int((count + each - 1) / each), [&](int share) {
    static thread_local Scratch<uint16_t> decoded_memory;
    static thread_local Scratch<Bf16Sums> sums_memory;
    uint16_t* decoded = decoded_memory.room(32 * width);
    Bf16Sums* kept = sums_memory.room(width < x.inputs ? each * x.blocks : 0);
    const int64_t from = share * each, to = std::min(count, from + each);
    configure_tiles();
    for (int64_t at = 0; at < x.inputs; at += width) {
      const int64_t columns = std::min(width, x.inputs - at);
      for (int64_t i = from; i < to; i++) {
        const PanelPair& pair = pairs[i];
        uint16_t* second = pair.second ? decoded + 16 * columns : decoded;
        decode(*pair.first, pair.first_panel, at, columns, decoded);
        if (pair.second) decode(*pair.second, pair.second_panel, at, columns, second);
        for (int64_t block = 0; block < x.blocks; block++) {
          Bf16Sums& sums = kept[(i - from) * x.blocks + block];
          at ? sums.load() : Bf16Sums::zero();
          multiply(x.tiles(block, at / 32), decoded, second, columns / 32);
          at + columns < x.inputs ? sums.store() : finish(pair, block * 32);
        }
      }
    }
    _tile_release();
  });
}

// Store the sums of `tokens` tokens and `lanes` outputs, up to 32 each, from y on; rows of y are `stride` apart.
inline void store_outputs(float* y, int64_t tokens, int64_t lanes, int64_t stride, const float* bias = nullptr) {
  if (tokens == 32 && lanes == 32 && !bias) {
    const int64_t bytes = stride * sizeof(float);
    _tile_stored(0, y, bytes);
    _tile_stored(1, y + 16 * stride, bytes);
    _tile_stored(2, y + 16, bytes);
    _tile_stored(3, y + 16 * stride + 16, bytes);
    return;
  }
  Bf16Sums sums;
  sums.store();
  for (int64_t half = 0; half < 2 && lanes > 16 * half; half++) {
    const int64_t left = lanes - 16 * half;
    const f32x16 more = bias ? load_some(bias + 16 * half, left) : set1(-0.0f);  // x + -0 is x, even where x is -0
    for (int64_t n = 0; n < tokens; n++)
      store_some(y + n * stride + 16 * half, load(sums.tile[2 * half + n / 16][n % 16]) + more, left);
  }
}

// ys[k] (T, outputs of weights[k]) = weights[k] x and its bias.
inline void products_bf16(const std::vector<Weight>& weights, const Bf16Tokens& x, const std::vector<float*>& ys) {
  std::vector<PanelPair> pairs;
  for (const Weight& w : weights) add_pairs(w, pairs);
  multiply_pairs(x, pairs, decode_panel, [&](const PanelPair& pair, int64_t t) {
    const Weight& w = *pair.first;
    const int64_t first = pair.first_panel * 16;
    store_outputs(ys[&w - weights.data()] + t * w.outputs + first, std::min<int64_t>(32, x.T - t),
                  std::min<int64_t>(32, w.outputs - first), w.outputs, w.bias ? w.bias + first : nullptr);
  });
}

}  // namespace soberano
#endif
