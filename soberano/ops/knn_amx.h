// The products of knn_products.h in the matrix unit: 32 rows with 16 queries, in bytes or in bfloat16.
//
// A tile of rows is read where the rows lie. A query is two numbers, high and low: 15 bits in bytes, or a bfloat16 and
// the bfloat16 of what it left over. So four sums grow at a time, (rows 0 to 15, rows 16 to 31) x (high, low), which is
// also how many the unit needs to be busy.
#pragma once
#include "soberano/ops/knn_products.h"
#if SOBERANO_AMX

namespace soberano {

struct Bytes {
  using Row = int8_t;
  using Sum = int32_t;
  static void multiply() {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 5, 6);
    _tile_dpbssd(2, 4, 7);
    _tile_dpbssd(3, 5, 7);
  }
  static float split(const float* q, int64_t D, Row* high, Row* low) { return soberano::split(q, D, high, low); }
  static f32x16 join(const Sum* high, const Sum* low, f32x16 step) { return soberano::join(high, low, step); }
};

inline uint16_t to_bf16(float x) {  // to nearest, ties to even; x is finite
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

struct Bfloat16s {
  using Row = uint16_t;
  using Sum = float;
  static void multiply() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 5, 6);
    _tile_dpbf16ps(2, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
  static float split(const float* q, int64_t D, Row* high, Row* low) {
    for (int64_t i = 0; i < D; i++) {
      high[i] = to_bf16(q[i]);
      const uint32_t bits = uint32_t(high[i]) << 16;
      float rounded;
      std::memcpy(&rounded, &bits, 4);
      low[i] = to_bf16(q[i] - rounded);
    }
    return 1.0f;
  }
  static f32x16 join(const Sum* high, const Sum* low, f32x16) { return load(high) + load(low); }
};

template <class Number> class TileProducts {
 public:
  using Row = typename Number::Row;
  static constexpr int per_tile = 64 / sizeof(Row), together = 4 / sizeof(Row);  // columns of a tile, of a lane

  TileProducts(const float* queries, int64_t Q, int64_t D)
      : padded(up_to(D, per_tile)), queries_(up_to(Q, kQueries) * padded * 2), step_(up_to(Q, kQueries)) {
    std::vector<Row> parts[2] = {std::vector<Row>(padded), std::vector<Row>(padded)};
    for (int64_t q = 0; q < Q; q++) {
      for (auto& part : parts) std::fill(part.begin(), part.end(), Row(0));
      step_.data[q] = Number::split(queries + q * D, D, parts[0].data(), parts[1].data());
      for (int64_t i = 0; i < padded; i++)
        for (int part = 0; part < 2; part++)
          // Group, tile of columns, part, lane of columns, query, column of the lane.
          queries_.data[(q / kQueries * 2 * padded + i / per_tile * 2 * per_tile + part * per_tile) * kQueries +
                        (i % per_tile / together * kQueries + q % kQueries) * together + i % together] = parts[part][i];
    }
  }

  void block(const Row* rows, int64_t stride, int64_t, int64_t g, float (*raw)[kQueries]) const {
    const Row* queries = queries_.data + g * 2 * padded * kQueries;
    const int64_t bytes = stride * sizeof(Row), tiles = padded / per_tile;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t t = 0; t < tiles; t++, queries += 2 * 16 * per_tile) {
      if (!g)  // later groups find the rows near
        for (int r = 0; r < kRows; r++) __builtin_prefetch((const char*)rows + kRows * bytes + (t * kRows + r) * 64);
      _tile_loadd(4, rows + t * per_tile, bytes);
      _tile_loadd(5, rows + 16 * stride + t * per_tile, bytes);
      _tile_loadd(6, queries, 64);
      _tile_loadd(7, queries + 16 * per_tile, 64);
      Number::multiply();
    }
    alignas(64) typename Number::Sum high[kRows][kQueries], low[kRows][kQueries];
    _tile_stored(0, high[0], 64);
    _tile_stored(1, high[16], 64);
    _tile_stored(2, low[0], 64);
    _tile_stored(3, low[16], 64);
    const f32x16 step = load(step_.data + g * kQueries);
    for (int r = 0; r < kRows; r++) store(raw[r], Number::join(high[r], low[r], step));
  }

  const int64_t padded;

 private:
  Aligned<Row> queries_;
  Aligned<float> step_;
};

}  // namespace soberano
#endif
