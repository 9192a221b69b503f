// The parts of attention that every arithmetic shares: what a call is, which queries make a block, which keys make a
// run, and how runs are merged.
//
// A query sees its keys in runs of 128: within a run the largest score is subtracted, and weights and values are summed
// in order; runs are merged in order. So a row's bits depend on its own position only: not on the batch, nor on how a
// prompt was cut.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "soberano/backends/scratch.h"
#include "soberano/ops/attention_pages.h"
#include "soberano/ops/rope.h"

namespace soberano {

constexpr int kRun = 128;    // keys between two merges
constexpr int kBlock = 256;  // the most queries that share the keys of a unit of work
constexpr int kWidth = 512;  // the widest head

struct Shape {
  int64_t B, T, H, K, E, page, pages;
};

struct Call {
  Shape n;
  Rotation rotation;
  const float* q;
  const uint8_t *k, *v;  // the pages of the layer
  const int32_t *positions, *table;
  float* out;
  float scale;

  // How many keys token t of sequence b sees.
  int64_t keys(int64_t b, int64_t t) const { return std::max<int64_t>(0, int64_t(positions[b * n.T + t]) + 1); }
};

// Queries that share their keys: some rows (token, query head of the group) of one key head of one sequence.
struct Block {
  int64_t b, head, first;
  int rows;
  int64_t longest;  // the most keys that one of them sees

  int64_t token(const Shape& n, int r) const { return (first + r) / (n.H / n.K); }
  int64_t offset(const Shape& n, int r) const {  // of the row in q and in out
    const int64_t group = n.H / n.K, t = (first + r) / group, h = head * group + (first + r) % group;
    return ((b * n.T + t) * n.H + h) * n.E;
  }
  int runs() const { return int((longest + kRun - 1) / kRun); }
};

// The queries of a block, turned, and how many keys each sees. One at a time in a thread.
class Queries {
 public:
  Queries(const Call& c, const Block& block) : rows_(block.rows), width_(c.n.E) {
    static thread_local Scratch<float> memory;
    data_ = memory.room(rows_ * width_);
    for (int r = 0; r < rows_; r++) {
      const int64_t t = block.token(c.n, r);
      c.rotation.turn(c.q + block.offset(c.n, r), block.b, t, width_, data_ + r * width_);
      keys_[r] = c.keys(block.b, t);
    }
  }
  const float* row(int r) const { return data_ + r * width_; }

  // mine[r] = how many keys of the run from `start` on row r sees; returns the most.
  int visible(int64_t start, int* mine) const {
    int most = 0;
    for (int r = 0; r < rows_; r++) {
      mine[r] = int(std::clamp<int64_t>(keys_[r] - start, 0, kRun));
      most = std::max(most, mine[r]);
    }
    return most;
  }

 private:
  float* data_;
  int rows_;
  int64_t width_, keys_[kBlock];
};

// How many pages ahead of the one that is computed on memory is asked for.
constexpr int kAhead = 3;

// A page that will be wanted soon. Memory is asked for it line by line, in `rows` steps, between arithmetic: asked for
// all at once, the lines would fill the buffers that loads need as well.
struct Soon {
  const uint8_t* page = nullptr;
  int64_t row = 0;  // bytes in a step; 0: there is nothing to ask for

  void ask(int64_t i) const {
    for (int64_t line = 0; line < row; line += 64) __builtin_prefetch(page + i * row + line, 0, 2);
  }
};

// Where the pages of a run lie, counted from its first.
template <class Page> class RunPages {
 public:
  RunPages(const Call& c, const Block& block, int64_t start)
      : size_(Page::bytes(c.n.E, c.n.page)),
        stride_(c.n.K * size_),
        per_run_(kRun / c.n.page),
        last_((block.longest - 1 - start) / c.n.page),
        k_(c.k + block.head * size_),
        v_(c.v + block.head * size_),
        table_(c.table + block.b * c.n.pages + start / c.n.page) {}
  const uint8_t* key(int64_t p) const { return k_ + table_[p] * stride_; }
  const uint8_t* value(int64_t p) const { return v_ + table_[p] * stride_; }

  // The page that comes kAhead pages after key page p, or after value page p: all keys of a run come before its values.
  Soon after_key(int64_t p, int64_t rows) const { return {in_order(p + kAhead), size_ / rows}; }
  Soon after_value(int64_t p, int64_t rows) const { return {in_order(per_run_ + p + kAhead), size_ / rows}; }

 private:
  const uint8_t* in_order(int64_t i) const {
    const int64_t p = std::min(i / (2 * per_run_) * per_run_ + i % per_run_, last_);
    return i / per_run_ % 2 ? value(p) : key(p);
  }

  int64_t size_, stride_, per_run_, last_;
  const uint8_t *k_, *v_;
  const int32_t* table_;
};

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

// Turn the first `keys` of kRun scores into weights relative to their largest; the others become 0.
inline void weigh(float* s, int keys, const Part& part, int r) {
  part.weight[r] = -1;
  const int whole = (keys + 15) / 16 * 16;
  if (keys) {
    std::fill(s + keys, s + whole, -INFINITY);
    f32x16 top = load(s);
    for (int i = 16; i < whole; i += 16) top = max(top, load(s + i));
    const float peak = largest(top);
    f32x16 total = set1(0.0f);
    for (int i = 0; i < whole; i += 16) {
      store(s + i, exp(load(s + i) - set1(peak)));
      if (i + 16 > keys) std::fill(s + keys, s + whole, 0.0f);
      total = total + load(s + i);
    }
    part.peak[r] = peak, part.weight[r] = sum(total);
  }
  std::fill(s + whole, s + kRun, 0.0f);
}

// Merges the runs of a block, in order, into the rows of the result.
class Merge {
 public:
  Merge(const Call& c, const Block& block) : rows_(block.rows), width_(c.n.E) {
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
      const float rise = part.peak[r] - peak_[r], less = exp1(-std::fabs(rise));
      const float old = rise > 0 ? less : 1.0f, now = rise > 0 ? 1.0f : less;
      peak_[r] = std::max(peak_[r], part.peak[r]);
      weight_[r] = __builtin_fmaf(weight_[r], old, part.weight[r] * now);
      for (int64_t e = 0; e < width_; e += 16)
        store(out_[r] + e, fma(load(out_[r] + e), set1(old), load(value + e) * set1(now)));
    }
  }

  void finish() {
    for (int r = 0; r < rows_; r++) {
      const float weight = weight_[r];
      if (weight == 0) std::fill(out_[r], out_[r] + width_, 0.0f);
      for (int64_t e = 0; e < width_ && weight > 0; e += 16) store(out_[r] + e, load(out_[r] + e) / set1(weight));
    }
  }

 private:
  static float exp1(float x) {
    float lanes[16];
    store(lanes, exp(set1(x)));
    return lanes[0];
  }

  int rows_;
  int64_t width_;
  float* out_[kBlock];
  float peak_[kBlock], weight_[kBlock];
};

}  // namespace soberano
