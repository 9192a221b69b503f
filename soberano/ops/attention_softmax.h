// The softmax of attention, run by run: scores become weights relative to the largest of their run, and runs are
// merged.
//
// Within a run weights and values are summed in order, and runs are merged in order.
#pragma once
#include <algorithm>
#include <cmath>

#include "soberano/ops/attention_block.h"

namespace soberano {

// What the rows of a block make of one run: values weighted relative to the largest score, the weights' sum, that
// score. A weight below 0: the row sees no key of this run.
struct Part {
  float *peak, *weight, *value;  // (rows), (rows), (rows rounded up to 32, E)
  static int64_t size(int rows, int64_t E) { return (rows + 31) / 32 * 32 * (E + 2); }
  static Part in(float* room, int rows) {
    const int64_t padded = (rows + 31) / 32 * 32;
    return {room, room + padded, room + 2 * padded};
  }
};

// Bend scores below a cap: cap tanh(score / cap).
inline void bend(float* s, int from, int to, float cap) {
  const f32x16 top = set1(cap), inverse = set1(1.0f / cap);
  for (int i = from / 16 * 16; i < to; i += 16) store(s + i, top * tanh(load(s + i) * inverse));
}

// Turn the scores `from` to `to` of kRun into weights relative to their largest; the others become 0.
inline void weigh(float* s, int from, int to, const Part& part, int r) {
  part.weight[r] = -1;
  const int first = from / 16 * 16, whole = (to + 15) / 16 * 16;
  std::fill(s, s + first, 0.0f);
  if (to) {
    std::fill(s + first, s + from, -INFINITY);
    std::fill(s + to, s + whole, -INFINITY);
    f32x16 top = load(s + first);
    for (int i = first + 16; i < whole; i += 16) top = max(top, load(s + i));
    const float peak = largest(top);
    f32x16 total = set1(0.0f);
    for (int i = first; i < whole; i += 16) {
      store(s + i, exp(load(s + i) - set1(peak)));
      if (i < from) std::fill(s + first, s + from, 0.0f);  // exp stays above 0
      if (i + 16 > to) std::fill(s + to, s + whole, 0.0f);
      total = total + load(s + i);
    }
    part.peak[r] = peak, part.weight[r] = sum(total);
  }
  std::fill(s + whole, s + kRun, 0.0f);
}

// Merges the runs of a block, in order, into the rows of the result.
class Merge {
 public:
  Merge(const Call& c, const Block& block) : c_(c), block_(block), rows_(block.rows), width_(c.n.E) {
    for (int r = 0; r < rows_; r++) out_[r] = c.out + block.offset(c.n, r), weight_[r] = 0;
  }

  void add(const Part& part) {
    for (int r = 0; r < rows_; r++) {
      if (part.weight[r] < 0) continue;
      const float* value = part.value + r * width_;
      if (weight_[r] == 0) {
        for (int64_t e = 0; e < width_; e += 16) store(out_[r] + e, load(value + e));
        peak_[r] = part.peak[r], weight_[r] = part.weight[r];
        continue;
      }
      const auto [old, now] = join(r, part.peak[r], part.weight[r]);
      for (int64_t e = 0; e < width_; e += 16)
        store(out_[r] + e, fma(load(out_[r] + e), set1(old), load(value + e) * set1(now)));
    }
  }

  // Divide by the weights, with that of a sink, which has no value. A row that saw nothing is 0.
  void finish() {
    for (int r = 0; r < rows_; r++) {
      if (weight_[r] == 0) {
        std::fill(out_[r], out_[r] + width_, 0.0f);
        continue;
      }
      const float old = c_.sinks ? join(r, c_.sinks[block_.query_head(c_.n, r)], 1.0f).old : 1.0f;
      for (int64_t e = 0; e < width_; e += 16) store(out_[r] + e, load(out_[r] + e) * set1(old) / set1(weight_[r]));
    }
  }

 private:
  struct Factors {
    float old, now;
  };

  // Add a weight relative to a peak to those of row r -> what brings old and new values to the larger peak.
  Factors join(int r, float peak, float weight) {
    const float rise = peak - peak_[r], less = exp1(-std::fabs(rise));
    const Factors by = {rise > 0 ? less : 1.0f, rise > 0 ? 1.0f : less};
    peak_[r] = std::max(peak_[r], peak);
    weight_[r] = __builtin_fmaf(weight_[r], by.old, weight * by.now);
    return by;
  }

  static float exp1(float x) {
    float lanes[16];
    store(lanes, exp(set1(x)));
    return lanes[0];
  }

  const Call& c_;
  const Block& block_;
  int rows_;
  int64_t width_;
  float* out_[kBlock];
  float peak_[kBlock], weight_[kBlock];
};

}  // namespace soberano
