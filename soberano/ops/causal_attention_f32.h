// The products of causal_attention.cc in float32: each number is summed in one order.
#pragma once
#include "soberano/backends/pool.h"
#include "soberano/backends/scratch.h"
#include "soberano/ops/causal_attention_block.h"

namespace soberano::causal {

constexpr int64_t kRows = 4;

// Numbers in rows: element (i, j) is at data[i * row + j * column].
struct Matrix {
  const float* data;
  int64_t row, column = 1;
};

template <int R, int V, bool add>
void multiply_tile(int64_t K, Matrix a, const float* b, int64_t b_row, float* c, int64_t c_row) {
  f32x16 sums[R][V];
  for (int r = 0; r < R; r++)
    for (int i = 0; i < V; i++) sums[r][i] = add ? load(c + r * c_row + 16 * i) : set1(0.0f);
  for (int64_t k = 0; k < K; k++) {
    f32x16 right[V];
    for (int i = 0; i < V; i++) right[i] = load(b + k * b_row + 16 * i);
    for (int r = 0; r < R; r++) {
      const f32x16 left = set1(a.data[r * a.row + k * a.column]);
      for (int i = 0; i < V; i++) sums[r][i] = fma(left, right[i], sums[r][i]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int i = 0; i < V; i++) store(c + r * c_row + 16 * i, sums[r][i]);
}

// C (M, N) = A (M, K) B (K, N), or that beside what C holds; B and C in rows, N a multiple of 16.
template <bool add = false>
void multiply(int64_t M, int64_t N, int64_t K, Matrix a, const float* b, int64_t b_row, float* c, int64_t c_row) {
  const auto columns = [&](int64_t n, auto four, auto one) {
    int64_t m = 0;
    for (; m + kRows <= M; m += kRows)
      four(K, Matrix{a.data + m * a.row, a.row, a.column}, b + n, b_row, c + m * c_row + n, c_row);
    for (; m < M; m++) one(K, Matrix{a.data + m * a.row, a.row, a.column}, b + n, b_row, c + m * c_row + n, c_row);
  };
  int64_t n = 0;
  for (; n + 64 <= N; n += 64) columns(n, multiply_tile<kRows, 4, add>, multiply_tile<1, 4, add>);
  for (; n < N; n += 16) columns(n, multiply_tile<kRows, 1, add>, multiply_tile<1, 1, add>);
}

// Which products a matrix of keys or values is in.
enum Ways { kScores = 1, kMix = 2, kBoth = 3 };

// Keys or values (B, T, K, E) of all heads. Products with them are of a block of tokens, for one head at a time: x, out
// (rows, E), `step` numbers apart; weights (rows, keys), rows as long as a padded text.
class MatrixF32 {
 public:
  using Number = float;
  struct Unit {};  // what a unit of work holds while it multiplies

  MatrixF32(const Call& call, const float* x, Ways ways, Scratch<float>& memory) : c_(call), x_(x) {
    if (!(ways & kScores)) return;
    crosswise_ = memory.room(c_.B * c_.K * c_.E * c_.padded());
    Pool::instance().parallel(int(c_.B * c_.K * c_.blocks()), [&](int i) {
      const int64_t head = i / c_.blocks(), first = i % c_.blocks() * kTokens;
      float* out = crosswise_ + head * c_.E * c_.padded() + first;
      for (int64_t t = 0; t < kTokens; t++) {
        const float* row = x_ + c_.row(head / c_.K, std::min(first + t, c_.T - 1), head % c_.K, c_.K);
        for (int64_t e = 0; e < c_.E; e++) out[e * c_.padded() + t] = first + t < c_.T ? row[e] : 0.0f;
      }
    });
  }

  // weights = x . matrix of head `head` of all texts' key heads.
  void scores(const Block& block, int64_t head, const float* x, int64_t step, float* weights) const {
    const float* from = crosswise_ + head * c_.E * c_.padded() + block.from;
    multiply(block.rows(), block.span(), c_.E, {x, step}, from, c_.padded(), weights + block.from, c_.padded());
  }

  // out = weights . matrix.
  void mix(const Block& block, int64_t head, const float* weights, float* out, int64_t step) const {
    const float* from = x_ + c_.row(head / c_.K, block.from, head % c_.K, c_.K);
    multiply(block.rows(), c_.E, block.last - block.from, {weights + block.from, c_.padded()}, from, c_.K * c_.E, out,
             step);
  }

  // sums (E, padded) += weights of x, for each key.
  static void gather(const Call& c, const Block& block, const float* weights, const float* x, int64_t step,
                     float* sums) {
    multiply<true>(c.E, block.span(), block.rows(), {x, 1, step}, weights + block.from, c.padded(), sums + block.from,
                   c.padded());
  }

 private:
  const Call& c_;
  const float* x_;
  float* crosswise_ = nullptr;  // (B, K, E, padded)
};

}  // namespace soberano::causal
