// Causal attention of texts that share rows, and the way back. Meanings: soberano/ops/causal_attention.py.
//
//   q, out and its gradient (B, T, H, E), k and v (B, T, K, E), sinks (H,) float32; segments (B, T), window () int32
//
// A block is 32 tokens. Forwards, a unit of work is a block of the heads that share a key head. Back, it is every
// fourth block of them, with sums for keys and values of its own, which are added up in the end: so no bit depends on
// the number of threads. Keys and values are laid crosswise once, so that a vector holds a number of sixteen of them.
#include <algorithm>
#include <limits>

#include "soberano/backends/pool.h"
#include "soberano/backends/scratch.h"
#include "soberano/backends/simd.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace soberano {
namespace {

constexpr int64_t kTokens = 32, kParts = 4, kRows = 4;

struct Call {
  int64_t B, T, H, K, E;
  const float *q, *k, *v, *sinks;
  const int32_t* segments;
  int64_t window;  // a token sees so many, itself among them
  float scale, cap;

  int64_t group() const { return H / K; }
  int64_t blocks() const { return (T + kTokens - 1) / kTokens; }
  int64_t padded() const { return blocks() * kTokens + 16; }  // rows a power of two apart would share few cache lines
  int64_t row(int64_t b, int64_t t, int64_t h, int64_t heads) const { return ((b * T + t) * heads + h) * E; }
};

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

// x (B, T, K, E) as (B, K, E, padded): room for both keys and values, say.
void lay_crosswise(const Call& c, const float* x, float* to) {
  Pool::instance().parallel(int(c.B * c.K * c.blocks()), [&](int i) {
    const int64_t block = i % c.blocks(), head = i / c.blocks(), first = block * kTokens;
    float* out = to + head * c.E * c.padded() + first;
    for (int64_t t = 0; t < kTokens; t++) {
      const float* row = x + c.row(head / c.K, std::min(first + t, c.T - 1), head % c.K, c.K);
      for (int64_t e = 0; e < c.E; e++) out[e * c.padded() + t] = first + t < c.T ? row[e] : 0.0f;
    }
  });
}

// The weights of one block of tokens for one head after another.
class Block {
 public:
  Block(const Call& call, int64_t b, int64_t block, float* weights)
      : c_(call), b_(b), first(block * kTokens), last(std::min(first + kTokens, call.T)), weights_(weights) {
    int64_t least = last;
    for (int64_t t = first; t < last; t++) least = std::min(least, begin(t));
    from = least / 16 * 16, to = (last + 15) / 16 * 16;
  }

  // Softmax of the scores of head h, in rows as long as a padded text, of the keys from `from` to `to`; and, where they
  // are capped, their tanh.
  void weigh(int64_t h, const float* keys, float* bent) const {
    const Matrix queries = {c_.q + c_.row(b_, first, h, c_.H), c_.H * c_.E};
    multiply(last - first, to - from, c_.E, queries, keys + from, c_.padded(), weights_ + from, c_.padded());
    for (int64_t t = first; t < last; t++) {
      const int64_t at = (t - first) * c_.padded();
      weigh_row(t, c_.sinks[h], weights_ + at, bent ? bent + at : nullptr);
    }
  }

  const int64_t first, last;
  int64_t from, to;

 private:
  const int32_t* segments() const { return c_.segments + b_ * c_.T; }

  // The first token that t may see.
  int64_t begin(int64_t t) const {
    const int32_t mine = segments()[t];
    if (mine < 0) return t;
    const int32_t* found = std::find(segments() + std::max<int64_t>(0, t + 1 - c_.window), segments() + t, mine);
    return found - segments();
  }

  // Replace by `hidden` what token t does not see.
  void hide(int64_t t, float* row, float hidden) const {
    const int32_t* theirs = segments();
    const int32_t mine = theirs[t];
    const int64_t oldest = mine < 0 ? t + 1 : std::max<int64_t>(from, t + 1 - c_.window);
    std::fill(row + from, row + std::min(oldest, to), hidden);
    for (int64_t s = oldest; s <= t; s++) row[s] = theirs[s] == mine ? row[s] : hidden;
    std::fill(row + t + 1, row + to, hidden);
  }

  void weigh_row(int64_t t, float sink, float* row, float* bent) const {
    for (int64_t s = from; s < to; s += 16) {
      f32x16 score = load(row + s) * set1(c_.scale);
      if (c_.cap > 0) {
        score = tanh(score * set1(1.0f / c_.cap));
        if (bent) store(bent + s, score);
        score = score * set1(c_.cap);
      }
      store(row + s, score);
    }
    hide(t, row, -std::numeric_limits<float>::infinity());
    f32x16 top = load(row + from), total = set1(0.0f);
    for (int64_t s = from + 16; s < to; s += 16) top = max(top, load(row + s));
    float peak = std::max(sink, largest(top));
    if (peak == -std::numeric_limits<float>::infinity()) peak = 0.0f;
    for (int64_t s = from; s < to; s += 16) store(row + s, exp(load(row + s) - set1(peak)));
    hide(t, row, 0.0f);  // exp stays above 0
    for (int64_t s = from; s < to; s += 16) total = total + load(row + s);
    float all = sum(total);
    if (sink > -std::numeric_limits<float>::infinity()) all += std::exp(sink - peak);
    const float inverse = all == 0.0f ? 1.0f : 1.0f / all;
    for (int64_t s = from; s < to; s += 16) store(row + s, load(row + s) * set1(inverse));
  }

  const Call& c_;
  const int64_t b_;
  float* const weights_;
};

void attend(const Call& c, float* out) {
  static thread_local Scratch<float> memory;
  float* const keys = memory.room(c.B * c.K * c.E * c.padded());
  lay_crosswise(c, c.k, keys);
  const int64_t blocks = c.blocks();
  Pool::instance().parallel(int(c.B * c.K * blocks), [&](int i) {
    static thread_local Scratch<float> room;
    float* const weights = room.room(kTokens * c.padded());
    const int64_t shared = i / blocks % c.K, b = i / blocks / c.K;
    const Block block(c, b, blocks - 1 - i % blocks, weights);  // the longest first
    const float* values = c.v + c.row(b, block.from, shared, c.K);
    for (int64_t h = shared * c.group(); h < (shared + 1) * c.group(); h++) {
      block.weigh(h, keys + (b * c.K + shared) * c.E * c.padded(), nullptr);
      multiply(block.last - block.first, c.E, block.last - block.from, {weights + block.from, c.padded()}, values,
               c.K * c.E, out + c.row(b, block.first, h, c.H), c.H * c.E);
    }
  });
}

// The gradients of a head of a part of the tokens: dq as it is, dk and dv beside those of other parts.
struct Back {
  const Call& c;
  const float *keys, *values;  // crosswise
  const float *out, *grad;
  float* dq;

  void block(int64_t b, int64_t shared, int64_t number, float* dk, float* dv) const {
    static thread_local Scratch<float> room;
    const int64_t padded = c.padded(), size = kTokens * padded, across = (b * c.K + shared) * c.E * padded;
    float *const weights = room.room(3 * size), *const slopes = weights + size;
    float* const bent = c.cap > 0 ? slopes + size : nullptr;
    const Block block(c, b, number, weights);
    const int64_t rows = block.last - block.first, seen = block.last - block.from, from = block.from;
    for (int64_t h = shared * c.group(); h < (shared + 1) * c.group(); h++) {
      const int64_t at = c.row(b, block.first, h, c.H), step = c.H * c.E;
      block.weigh(h, keys + across, bent);
      multiply(rows, block.to - from, c.E, {grad + at, step}, values + across + from, padded, slopes + from, padded);
      for (int64_t r = 0; r < rows; r++) {
        float* const row = slopes + r * padded;
        const f32x16 along = set1(dot(out + at + r * step, grad + at + r * step)), scale = set1(c.scale);
        for (int64_t s = from; s < block.to; s += 16) {
          f32x16 slope = load(weights + r * padded + s) * (load(row + s) - along) * scale;
          if (bent) {
            const f32x16 bend = load(bent + r * padded + s);
            slope = slope * fnma(bend, bend, set1(1.0f));
          }
          store(row + s, slope);
        }
      }
      multiply(rows, c.E, seen, {slopes + from, padded}, c.k + c.row(b, from, shared, c.K), c.K * c.E, dq + at, step);
      multiply<true>(seen, c.E, rows, {slopes + from, 1, padded}, c.q + at, step, dk + from * c.E, c.E);
      multiply<true>(seen, c.E, rows, {weights + from, 1, padded}, grad + at, step, dv + from * c.E, c.E);
    }
  }

  float dot(const float* x, const float* y) const {
    f32x16 sums = set1(0.0f);
    for (int64_t e = 0; e < c.E; e += 16) sums = fma(load(x + e), load(y + e), sums);
    return sum(sums);
  }
};

void go_back(const Call& c, const float* out, const float* grad, float* dq, float* dk, float* dv) {
  static thread_local Scratch<float> memory;
  const int64_t heads = c.B * c.K, crosswise = heads * c.E * c.padded(), whole = c.T * c.E;
  float *const keys = memory.room(2 * crosswise + heads * kParts * 2 * whole), *const values = keys + crosswise;
  float* const sums = values + crosswise;
  lay_crosswise(c, c.k, keys), lay_crosswise(c, c.v, values);
  const Back back = {c, keys, values, out, grad, dq};
  Pool::instance().parallel(int(heads * kParts), [&](int i) {
    float* const mine = sums + i * 2 * whole;
    std::fill(mine, mine + 2 * whole, 0.0f);
    const int64_t head = i / kParts;
    for (int64_t number = i % kParts; number < c.blocks(); number += kParts)
      back.block(head / c.K, head % c.K, number, mine, mine + whole);
  });
  Pool::instance().parallel(int(heads * c.blocks()), [&](int i) {
    const int64_t head = i / c.blocks(), first = i % c.blocks() * kTokens;
    for (int64_t t = first; t < std::min(first + kTokens, c.T); t++)
      for (int64_t which = 0; which < 2; which++) {
        const float* from = sums + (head * kParts * 2 + which) * whole + t * c.E;
        float* to = (which ? dv : dk) + c.row(head / c.K, t, head % c.K, c.K);
        for (int64_t e = 0; e < c.E; e += 16) {
          f32x16 all = load(from + e);
          for (int64_t p = 1; p < kParts; p++) all = all + load(from + p * 2 * whole + e);
          store(to + e, all);
        }
      }
  });
}

using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;
using Out = ffi::ResultBuffer<ffi::F32>;

Call call_of(F32 q, F32 k, F32 v, F32 sinks, S32 segments, S32 window, float scale, float cap) {
  const auto shape = q.dimensions();
  Call c = {shape[0], shape[1], shape[2], k.dimensions()[2], shape[3]};
  c.q = q.typed_data(), c.k = k.typed_data(), c.v = v.typed_data(), c.sinks = sinks.typed_data();
  c.segments = segments.typed_data(), c.scale = scale, c.cap = cap;
  c.window = *window.typed_data() > 0 ? *window.typed_data() : c.T;
  return c;
}

ffi::Error wrong(const Call& c) {
  if (c.E % 16 || c.E == 0 || c.K == 0 || c.H % c.K)
    return ffi::Error::InvalidArgument(
        "causal_attention: heads must be a multiple of 16 wide, and share whole key heads");
  return ffi::Error::Success();
}

ffi::Error causal_attention(F32 q, F32 k, F32 v, F32 sinks, S32 segments, S32 window, Out out, float scale, float cap) {
  const Call c = call_of(q, k, v, sinks, segments, window, scale, cap);
  if (auto error = wrong(c); error.failure()) return error;
  if (c.B * c.T) attend(c, out->typed_data());
  return ffi::Error::Success();
}

ffi::Error causal_attention_back(F32 grad, F32 result, F32 q, F32 k, F32 v, F32 sinks, S32 segments, S32 window, Out dq,
                                 Out dk, Out dv, float scale, float cap) {
  const Call c = call_of(q, k, v, sinks, segments, window, scale, cap);
  if (auto error = wrong(c); error.failure()) return error;
  if (c.B * c.T)
    go_back(c, result.typed_data(), grad.typed_data(), dq->typed_data(), dk->typed_data(), dv->typed_data());
  return ffi::Error::Success();
}

}  // namespace
}  // namespace soberano

using soberano::F32, soberano::S32;

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_causal_attention_ffi, soberano::causal_attention,
                              ffi::Ffi::Bind()
                                  .Arg<F32>()  // q
                                  .Arg<F32>()  // k
                                  .Arg<F32>()  // v
                                  .Arg<F32>()  // sinks
                                  .Arg<S32>()  // segments
                                  .Arg<S32>()  // window
                                  .Ret<F32>()
                                  .Attr<float>("scale")
                                  .Attr<float>("cap"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_causal_attention_back_ffi, soberano::causal_attention_back,
                              ffi::Ffi::Bind()
                                  .Arg<F32>()  // the gradient of the result
                                  .Arg<F32>()  // the result
                                  .Arg<F32>()  // q
                                  .Arg<F32>()  // k
                                  .Arg<F32>()  // v
                                  .Arg<F32>()  // sinks
                                  .Arg<S32>()  // segments
                                  .Arg<S32>()  // window
                                  .Ret<F32>()  // that of q
                                  .Ret<F32>()  // that of k
                                  .Ret<F32>()  // that of v
                                  .Attr<float>("scale")
                                  .Attr<float>("cap"));
