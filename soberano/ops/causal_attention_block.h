// A call of causal_attention.cc, and a block of its tokens: what they see, and the softmax of their scores.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "soberano/backends/simd.h"

namespace soberano::causal {

constexpr int64_t kTokens = 32, kParts = 4;

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

// Tokens `first` to `last` of a text, and the weights of what they see.
class Block {
 public:
  Block(const Call& call, int64_t b, int64_t number)
      : first(number * kTokens), last(std::min(first + kTokens, call.T)), c_(call), b_(b) {
    int64_t least = last;
    for (int64_t t = first; t < last; t++) least = std::min(least, begin(t));
    from = least / kTokens * kTokens, to = first + kTokens;
  }

  // Turn the scores of head h, rows as long as a padded text, into their softmax; and where they are capped, keep the
  // tanh.
  void weigh(int64_t h, float* scores, float* bent) const {
    for (int64_t t = first; t < last; t++) {
      const int64_t at = (t - first) * c_.padded();
      weigh_row(t, c_.sinks[h], scores + at, bent ? bent + at : nullptr);
    }
  }

  int64_t rows() const { return last - first; }
  int64_t span() const { return to - from; }

  const int64_t first, last;
  int64_t from, to;  // of the keys that any of them sees: whole blocks

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
};

}  // namespace soberano::causal
