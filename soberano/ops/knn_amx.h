// The products of knn_products.h in the matrix unit, in bytes or in bfloat16.
//
// A tile of 16 rows is read where the rows lie. A query is two numbers, high and low: 15 bits in bytes, or a bfloat16
// and the bfloat16 of what it left over. So four sums grow at a time, (16 queries, 16 more) x (high, low), as many as
// the unit needs to be busy; and the rows, which come from the second cache, are read once for all four.
#pragma once
#include "soberano/ops/knn_products.h"
#if SOBERANO_AMX

namespace soberano {

struct Bytes {
  using Row = int8_t;
  using Sum = int32_t;
  // The unit's functions take numbers, no variables: sum, rows, queries.
  static void high0() { _tile_dpbssd(0, 4, 5); }
  static void low0() { _tile_dpbssd(1, 4, 6); }
  static void high1() { _tile_dpbssd(2, 4, 7); }
  static void low1() { _tile_dpbssd(3, 4, 5); }
  static float split(const float* q, int64_t D, Row* high, Row* low) { return soberano::split(q, D, high, low); }
  static f32x16 join(const Sum* high, const Sum* low, f32x16 step) { return soberano::join(high, low, step); }
};

struct Bfloat16s {
  using Row = uint16_t;
  using Sum = float;
  // The unit's functions take numbers, no variables: sum, rows, queries.
  static void high0() { _tile_dpbf16ps(0, 4, 5); }
  static void low0() { _tile_dpbf16ps(1, 4, 6); }
  static void high1() { _tile_dpbf16ps(2, 4, 7); }
  static void low1() { _tile_dpbf16ps(3, 4, 5); }
  static float split(const float* q, int64_t D, Row* high, Row* low) {
    for (int64_t i = 0; i < D; i++) {
      high[i] = f32_to_bf16(q[i]);
      low[i] = f32_to_bf16(q[i] - bf16_to_f32(high[i]));
    }
    return 1.0f;
  }
  static f32x16 join(const Sum* high, const Sum* low, f32x16) { return load(high) + load(low); }
};

template <class Number> class TileProducts {
 public:
  using Row = typename Number::Row;
  struct Sums {
    alignas(64) typename Number::Sum tiles[4][kRows][16];  // half 0 high, half 0 low, half 1 high, half 1 low
  };
  static constexpr int per_tile = 64 / sizeof(Row), together = 4 / sizeof(Row);  // columns of a tile, of a lane
  static constexpr int tile = 16 * per_tile;

  TileProducts(const float* queries, int64_t Q, int64_t D)
      : padded(up_to(D, per_tile)), Q_(Q), queries_(up_to(Q, kQueries) * padded * 2), step_(up_to(Q, kQueries)) {
    std::vector<Row> parts[2] = {std::vector<Row>(padded), std::vector<Row>(padded)};
    for (int64_t q = 0; q < Q; q++) {
      for (auto& part : parts) std::fill(part.begin(), part.end(), Row(0));
      step_.data()[q] = Number::split(queries + q * D, D, parts[0].data(), parts[1].data());
      Row* group = queries_.data() + q / kQueries * kQueries * padded * 2;
      for (int64_t i = 0; i < padded; i++)
        for (int part = 0; part < 2; part++)
          group[(i / per_tile * 4 + q % kQueries / 16 * 2 + part) * tile + i % per_tile / together * 16 * together +
                q % 16 * together + i % together] = parts[part][i];
    }
  }

  void block(const Row* rows, int64_t stride, int64_t, int64_t g, Sums& sums) const {
    const Row* queries = queries_.data() + g * kQueries * padded * 2;
    const int64_t bytes = stride * sizeof(Row), tiles = padded / per_tile;
    const char* ahead = (const char*)rows + std::max<int64_t>(kRows * bytes, 4096);
    const bool second = Q_ - g * kQueries > 16;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t t = 0; t < tiles; t++, queries += 4 * tile) {
      if (!g)  // later groups find the rows near. Into the second cache: the first would be busy with waiting
        for (int r = 0; r < kRows; r++) __builtin_prefetch(ahead + (t * kRows + r) * 64, 0, 2);
      _tile_loadd(4, rows + t * per_tile, bytes);
      _tile_loadd(5, queries, 64);
      Number::high0();
      _tile_loadd(6, queries + tile, 64);
      Number::low0();
      if (second) {
        _tile_loadd(7, queries + 2 * tile, 64);
        Number::high1();
        _tile_loadd(5, queries + 3 * tile, 64);
        Number::low1();
      }
    }
    _tile_stored(0, sums.tiles[0], 64);
    _tile_stored(1, sums.tiles[1], 64);
    if (!second) return;
    _tile_stored(2, sums.tiles[2], 64);
    _tile_stored(3, sums.tiles[3], 64);
  }

  f32x16 product(const Sums& sums, int64_t r, int h, int64_t g) const {
    return Number::join(sums.tiles[2 * h][r], sums.tiles[2 * h + 1][r], load(step_.data() + g * kQueries + 16 * h));
  }

  const int64_t padded;

 private:
  int64_t Q_;
  Scratch<Row> queries_;
  Scratch<float> step_;
};

}  // namespace soberano
#endif
