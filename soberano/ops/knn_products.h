// Inner products of 16 rows with 32 queries, for each kind of row. Every kind has a class with
//
//   Row                            what a row is made of, here: float, bfloat16 as uint16_t, or codes as int8_t
//   padded                         how many Rows a row must have for `block`, zeros at the end; 0 for no matter
//   Sums                           room for the products of 16 rows with 32 queries
//   block(rows, stride, n, g, sums)    multiply n <= 16 rows with the 32 queries of group g
//   product(sums, r, h, g)             the products of row r with the 16 queries of half h of the group
//
// Floats are multiplied and added column by column in 16 lanes, then the lanes in the order of `sum`: a product has the
// same bits in any batch and on any path. Codes are multiplied with queries of 15 bits, 128 high + low, in exact
// integers (docs/decisions/0004). Only the matrix unit's bfloat16 has an order of its own: there all batches use it.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "soberano/backends/amx.h"
#include "soberano/backends/scratch.h"
#include "soberano/backends/simd_scan.h"

namespace soberano {

constexpr int kRows = 16, kQueries = 32;
#if SOBERANO_AVX512
constexpr int kTogether = 4;  // queries that meet 4 rows at a time: as many sums as there are registers
#else
constexpr int kTogether = 1;
#endif

inline int64_t up_to(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

inline f32x16 load_row(const float* p) { return load(p); }
inline f32x16 load_row(const uint16_t* p) { return load_bf16(p); }

// R rows against N queries, each of D columns, padded with zeros for the queries: products[r * kQueries + n].
template <int R, int N, class Row>
void dots(const Row* const* rows, const float* queries, int64_t width, int64_t D, int64_t ahead, float* products) {
  f32x16 acc[R][N];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) acc[r][n] = set1(0.0f);
  const auto columns = [&](const Row* const* from, int64_t at, int64_t i) {
    f32x16 x[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) x[r] = load_row(from[r] + at);
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
      const f32x16 q = load(queries + n * width + i);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) acc[r][n] = fma(x[r], q, acc[r][n]);
    }
  };
  int64_t i = 0;
  for (; i + 16 <= D; i += 16) {
    if (ahead)
      for (int r = 0; r < R; r++) __builtin_prefetch((const char*)(rows[r] + i) + ahead);
    columns(rows, i, i);
  }
  if (i < D) {
    Row last[R][16] = {};
    const Row* from[R];
    for (int r = 0; r < R; r++) std::copy(rows[r] + i, rows[r] + D, last[r]), from[r] = last[r];
    columns(from, 0, i);
  }
  if constexpr (R * N == 16) {
    float each[16];
    store(each, sums(acc[0]));
    for (int r = 0; r < R; r++) std::copy(each + N * r, each + N * (r + 1), products + r * kQueries);
  } else {
    for (int r = 0; r < R; r++)
      for (int n = 0; n < N; n++) products[r * kQueries + n] = sum(acc[r][n]);
  }
}

// float and bfloat16 rows by vector instructions.
template <class T> class FloatProducts {
 public:
  using Row = T;
  struct Sums {
    alignas(64) float raw[kRows][kQueries] = {};
  };
  FloatProducts(const float* queries, int64_t Q, int64_t D)
      : padded(0), Q_(Q), D_(D), width_(up_to(D, 16)), queries_(Q * width_) {
    for (int64_t q = 0; q < Q; q++) std::copy(queries + q * D, queries + (q + 1) * D, queries_.data() + q * width_);
  }

  void block(const Row* rows, int64_t stride, int64_t n, int64_t g, Sums& sums) const {
    const int64_t present = std::min<int64_t>(kQueries, Q_ - g * kQueries);
    // Whoever comes after the first few queries finds the rows near.
    int64_t q = 0, ahead = g ? 0 : std::max<int64_t>(4 * stride * sizeof(Row), 2048);
    for (; q + kTogether <= present; q += kTogether, ahead = 0)
      few<kTogether>(rows, stride, n, g * kQueries + q, ahead, sums.raw[0] + q);
    for (; q < present; q++, ahead = 0) few<1>(rows, stride, n, g * kQueries + q, ahead, sums.raw[0] + q);
  }

  f32x16 product(const Sums& sums, int64_t r, int h, int64_t) const { return load(sums.raw[r] + 16 * h); }

  // Four rows, wherever they lie, with one query.
  void four(const Row* const* rows, int64_t query, float (*products)[kQueries]) const {
    dots<4, 1>(rows, queries_.data() + query * width_, width_, D_, 0, products[0]);
  }

  const int64_t padded;

 private:
  // n rows with N queries, few enough for both to stay in the first cache.
  template <int N>
  void few(const Row* rows, int64_t stride, int64_t n, int64_t query, int64_t ahead, float* products) const {
    const float* queries = queries_.data() + query * width_;
    int64_t r = 0;
    for (; r + 4 <= n; r += 4) {
      const Row* four[4];
      for (int i = 0; i < 4; i++) four[i] = rows + (r + i) * stride;
      dots<4, N>(four, queries, width_, D_, ahead, products + r * kQueries);
    }
    for (; r < n; r++) {
      const Row* one = rows + r * stride;
      dots<1, N>(&one, queries, width_, D_, 0, products + r * kQueries);
    }
  }

  int64_t Q_, D_, width_;
  Scratch<float> queries_;
};

// A query in 15 bits: q is about step * (128 high + low). Numbers below 1e-30 become zero.
inline float split(const float* q, int64_t D, int8_t* high, int8_t* low) {
  float largest = 0.0f;
  for (int64_t i = 0; i < D; i++) largest = std::max(largest, std::fabs(q[i]));
  if (largest < 1e-30f) return 0.0f;
  const float scale = 16256.0f / largest;
  for (int64_t i = 0; i < D; i++) {
    const int value = int(std::nearbyint(q[i] * scale));
    high[i] = int8_t((value + 16384 + 64) / 128 - 128);
    low[i] = int8_t(value - 128 * high[i]);
  }
  return largest / 16256.0f;
}

inline f32x16 join(const int32_t* high, const int32_t* low, f32x16 step) {
  return fma(load_i32(high), set1(128.0f), load_i32(low)) * step;
}

// Codes by vector instructions.
class CodeProducts {
 public:
  using Row = int8_t;
  struct Sums {
    alignas(64) int32_t high[kRows][kQueries] = {}, low[kRows][kQueries] = {};
  };
  CodeProducts(const float* queries, int64_t Q, int64_t D)
      : padded(up_to(D, 64)), Q_(Q), high_(Q * padded), low_(Q * padded), step_(up_to(Q, kQueries)) {
    for (int64_t q = 0; q < Q; q++)
      step_.data()[q] = split(queries + q * D, D, high_.data() + q * padded, low_.data() + q * padded);
  }

  void block(const Row* rows, int64_t stride, int64_t n, int64_t g, Sums& sums) const {
    const int64_t first = g * kQueries, present = std::min<int64_t>(kQueries, Q_ - first);
    for (int64_t r = 0; r < n; r++)
      for (int64_t q = 0; q < present; q++) {
        sums.high[r][q] = dot_bytes(rows + r * stride, high_.data() + (first + q) * padded, padded);
        sums.low[r][q] = dot_bytes(rows + r * stride, low_.data() + (first + q) * padded, padded);
      }
  }

  f32x16 product(const Sums& sums, int64_t r, int h, int64_t g) const {
    return join(sums.high[r] + 16 * h, sums.low[r] + 16 * h, load(step_.data() + g * kQueries + 16 * h));
  }

  const int64_t padded;

 private:
  int64_t Q_;
  Scratch<int8_t> high_, low_;
  Scratch<float> step_;
};

}  // namespace soberano
