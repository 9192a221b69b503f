// Attention of a block of queries to one run of keys, in float32: every processor, prompts and generated tokens.
//
// Keys lie transposed, so 16 scores come from E multiply-adds without a horizontal sum. A page is read as float32 once
// for all queries of the block. Each query's sums run over its own keys in order, so its bits depend on nothing else.
#pragma once
#include <type_traits>
#include <utility>

#include "soberano/ops/attention_softmax.h"

namespace soberano {

// What fits into the registers of the processor: queries at a time, vectors of keys, vectors of values.
#if SOBERANO_AVX512
constexpr int kRows = 6, kKeys = 2, kValues = 4;
#else
constexpr int kRows = 4, kKeys = 1, kValues = 1;
#endif

// Call use(std::integral_constant<int, R>, first row) for R rows at a time, and fewer at the end.
template <int R = kRows, class Use> void by_rows(int rows, Use&& use, int from = 0) {
  for (; from + R <= rows; from += R) use(std::integral_constant<int, R>(), from);
  if constexpr (R > 1) by_rows<R - 1>(rows, use, from);
}

// s[r][key] = q[r] . k[key] * scale, for G groups of 16 keys.
template <int R, int G>
inline void scores(const float* q, int64_t E, const float* k, int64_t page, float* s, float scale, Soon soon) {
  f32x16 sum[R][G];
  for (int r = 0; r < R; r++)
    for (int g = 0; g < G; g++) sum[r][g] = set1(0.0f);
  for (int64_t e = 0; e < E; e++) {
    soon.ask(e);
    f32x16 key[G];
    for (int g = 0; g < G; g++) key[g] = load(k + e * page + 16 * g);
    for (int r = 0; r < R; r++)
      for (int g = 0; g < G; g++) sum[r][g] = fma(key[g], set1(q[r * E + e]), sum[r][g]);
  }
  for (int r = 0; r < R; r++)
    for (int g = 0; g < G; g++) store(s + r * kRun + 16 * g, sum[r][g] * set1(scale));
}

// acc[r][e] += sum over keys of weight[r][key] v[key][e], keys in order, for 16 V numbers of a head.
template <int R, int V>
inline void values(const float* weight, int keys, const float* v, int64_t E, float* acc, Soon soon) {
  f32x16 sum[R][V];
  for (int r = 0; r < R; r++)
    for (int i = 0; i < V; i++) sum[r][i] = load(acc + r * E + 16 * i);
  for (int key = 0; key < keys; key++) {
    soon.ask(key);
    f32x16 value[V];
    for (int i = 0; i < V; i++) value[i] = load(v + key * E + 16 * i);
    for (int r = 0; r < R; r++)
      for (int i = 0; i < V; i++) sum[r][i] = fma(value[i], set1(weight[r * kRun + key]), sum[r][i]);
  }
  for (int r = 0; r < R; r++)
    for (int i = 0; i < V; i++) store(acc + r * E + 16 * i, sum[r][i]);
}

template <class Page> class AttendF32 {
 public:
  AttendF32(const Call& call, const Block& block) : c_(call), n_(call.n), block_(block), queries_(call, block) {}

  void run(int64_t start, const Part& part) const {
    static thread_local Scratch<float> score_memory, page_memory;
    float *s = score_memory.room(block_.rows * kRun), *numbers = page_memory.room(n_.E * n_.page);
    const RunPages<Page> pages(c_, block_, start);
    Seen seen;
    queries_.see(start, seen);
    const int first = int(seen.least / n_.page), count = int((seen.most + n_.page - 1) / n_.page);
    for (int p = first; p < count; p++) {
      Page::read_keys(pages.key(p), n_.E, n_.page, numbers);
      Soon soon = pages.after_key(p, n_.E);
      each(seen, p, [&](auto R, int r) {
        const float* q = queries_.row(r);
        float* to = s + r * kRun + p * n_.page;
        for (int64_t at = 0; at < n_.page; soon = Soon()) {
          if (at + 16 * kKeys <= n_.page) {
            scores<R, kKeys>(q, n_.E, numbers + at, n_.page, to + at, c_.scale, soon), at += 16 * kKeys;
          } else {
            scores<R, 1>(q, n_.E, numbers + at, n_.page, to + at, c_.scale, soon), at += 16;
          }
        }
      });
    }
    for (int r = 0; r < block_.rows; r++) {
      if (c_.cap > 0) bend(s + r * kRun, seen.from[r], seen.to[r], c_.cap);
      weigh(s + r * kRun, seen.from[r], seen.to[r], part, r);
    }
    std::fill(part.value, part.value + block_.rows * n_.E, 0.0f);
    for (int p = first; p < count; p++) {
      Page::read_values(pages.value(p), n_.E, n_.page, numbers);
      Soon soon = pages.after_value(p, n_.page);
      // What nobody sees is left out: 0 times what lies there may be no 0.
      const int from = int(std::max<int64_t>(0, seen.least - p * n_.page));
      const int there = int(std::min<int64_t>(n_.page, seen.most - p * n_.page)) - from;
      const float* here = numbers + from * n_.E;
      each(seen, p, [&](auto R, int r) {
        const float* weight = s + r * kRun + p * n_.page + from;
        float* to = part.value + r * n_.E;
        for (int64_t e = 0; e < n_.E; soon = Soon()) {
          if (e + 16 * kValues <= n_.E) {
            values<R, kValues>(weight, there, here + e, n_.E, to + e, soon), e += 16 * kValues;
          } else {
            values<R, 1>(weight, there, here + e, n_.E, to + e, soon), e += 16;
          }
        }
      });
    }
  }

 private:
  // Every few rows of the block of which one sees a key of page p, or of a later one.
  template <class Use> void each(const Seen& seen, int p, Use&& use) const {
    by_rows(block_.rows, [&](auto R, int r) {
      if (*std::max_element(seen.to + r, seen.to + r + R) > p * n_.page) use(R, r);
    });
  }

  const Call& c_;
  const Shape& n_;
  const Block& block_;
  const Queries queries_;
};

}  // namespace soberano
