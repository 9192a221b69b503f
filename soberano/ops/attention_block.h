// What a call of attention is, which queries make a block, which keys make a run, and where their pages lie.
//
// A query sees its keys in runs of 128, counted from the beginning of its sequence, window or not. So a row's bits
// depend on its own position only: not on the batch, nor on how a prompt was cut.
#pragma once
#include <algorithm>
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
  int64_t window = 0;            // keys that a token sees, itself among them; 0 or less: all
  float cap = 0;                 // the bound of scores; 0: none
  const float* sinks = nullptr;  // (H), or null: none

  // Token t of sequence b sees the keys from since(keys) to keys(b, t); none, if it is padding.
  int64_t keys(int64_t b, int64_t t) const { return std::max<int64_t>(0, int64_t(positions[b * n.T + t]) + 1); }
  int64_t since(int64_t keys) const { return window > 0 ? std::max<int64_t>(0, keys - window) : 0; }
};

// Queries that share their keys: some rows (token, query head of the group) of one key head of one sequence.
struct Block {
  int64_t b, head, first;
  int rows;
  int64_t since = INT64_MAX, longest = 0;  // the keys that at least one of them sees

  int64_t token(const Shape& n, int r) const { return (first + r) / (n.H / n.K); }
  int64_t query_head(const Shape& n, int r) const { return head * (n.H / n.K) + (first + r) % (n.H / n.K); }
  int64_t offset(const Shape& n, int r) const {  // of the row in q and in out
    return ((b * n.T + token(n, r)) * n.H + query_head(n, r)) * n.E;
  }
  int first_run() const { return int(std::min(since, longest) / kRun); }
  int last_run() const { return int((longest + kRun - 1) / kRun); }  // behind the last, in fact
  int runs() const { return last_run() - first_run(); }
};

// Which keys of a run each row of a block sees, from `from` up to `to`, and which at least one of them sees. From 0 up
// to 0 where there are none.
struct Seen {
  int from[kBlock + 31], to[kBlock + 31];  // up to a multiple of 32
  int least, most;
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
      keys_[r] = c.keys(block.b, t), since_[r] = c.since(keys_[r]);
    }
  }
  const float* row(int r) const { return data_ + r * width_; }

  // What is seen of the run from `start` on.
  void see(int64_t start, Seen& seen) const {
    seen.least = kRun, seen.most = 0;
    for (int r = 0; r < rows_; r++) {
      int from = int(std::clamp<int64_t>(since_[r] - start, 0, kRun));
      int to = int(std::clamp<int64_t>(keys_[r] - start, 0, kRun));
      if (from >= to) from = to = 0;
      seen.from[r] = from, seen.to[r] = to;
      if (to) seen.least = std::min(seen.least, from), seen.most = std::max(seen.most, to);
    }
  }

 private:
  float* data_;
  int rows_;
  int64_t width_, keys_[kBlock], since_[kBlock];
};

// How many pages ahead of the one that is computed on memory is asked for.
constexpr int kAhead = 3;

// A page that will be wanted soon. Memory is asked for it line by line, in so many steps, between arithmetic: asked for
// all at once, the lines would fill the buffers that loads need as well.
class Soon {
 public:
  Soon(const uint8_t* page, int64_t bytes, int64_t steps)
      : line_(page), end_(page + bytes), lines_(int((bytes / 64 + steps - 1) / steps)) {}

  void ask() {
    if (line_ >= end_) return;
    for (int i = 0; i < lines_; i++, line_ += 64) __builtin_prefetch(line_, 0, 2);
  }

 private:
  const uint8_t *line_, *end_;
  int lines_;  // in a step
};

// Where the pages of a run lie, counted from its first.
template <class Page> class RunPages {
 public:
  RunPages(const Call& c, const Block& block, int64_t start)
      : size_(Page::bytes(c.n.E, c.n.page)),
        stride_(c.n.K * size_),
        per_run_(kRun / c.n.page),
        first_(std::max<int64_t>(0, block.since - start) / c.n.page),
        last_((block.longest - 1 - start) / c.n.page),
        k_(c.k + block.head * size_),
        v_(c.v + block.head * size_),
        table_(c.table + block.b * c.n.pages + start / c.n.page) {}
  const uint8_t* key(int64_t p) const { return k_ + table_[p] * stride_; }
  const uint8_t* value(int64_t p) const { return v_ + table_[p] * stride_; }

  // The page that comes kAhead pages after key page p, or after value page p: all keys of a run come before its values.
  Soon after_key(int64_t p, int64_t steps) const { return {in_order(p + kAhead), size_, steps}; }
  Soon after_value(int64_t p, int64_t steps) const { return {in_order(per_run_ + p + kAhead), size_, steps}; }

 private:
  const uint8_t* in_order(int64_t i) const {
    const int64_t p = std::clamp(i / (2 * per_run_) * per_run_ + i % per_run_, first_, last_);
    return i / per_run_ % 2 ? value(p) : key(p);
  }

  int64_t size_, stride_, per_run_, first_, last_;
  const uint8_t *k_, *v_;
  const int32_t* table_;
};

}  // namespace soberano
