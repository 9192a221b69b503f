// Attention of a block of queries to one run of keys, in float32: every processor, prompts and generated tokens.
//
// Keys lie transposed, so 16 scores come from E multiply-adds without a horizontal sum. A few queries, as of a
// generated token, read a page as it lies; for many it becomes float32 once. Each query's sums run over its own keys in
// order, so its bits depend on nothing else.
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

// s[r][key] = q[r] . k[key] * scale, for G groups of 16 keys from `at` on.
template <int R, int G, class Keys>
inline void scores(const float* q, int64_t E, const Keys& k, int64_t at, float* s, float scale, Soon& next) {
  Soon soon = next;  // in registers
  f32x16 sum[R][G];
  for (int r = 0; r < R; r++)
    for (int g = 0; g < G; g++) sum[r][g] = set1(0.0f);
  for (int64_t e = 0; e < E; e += Keys::kGroup) {
    typename Keys::Group group[G];
    for (int g = 0; g < G; g++) group[g] = k.group(e, at + 16 * g);
    for (int i = 0; i < Keys::kGroup; i += 4) {
      soon.ask();
#pragma GCC unroll 4
      for (int j = i; j < i + 4; j++) {
        f32x16 key[G];
        for (int g = 0; g < G; g++) key[g] = group[g].number(j);
        for (int r = 0; r < R; r++)
          for (int g = 0; g < G; g++) sum[r][g] = fma(key[g], set1(q[r * E + e + j]), sum[r][g]);
      }
    }
  }
  for (int r = 0; r < R; r++)
    for (int g = 0; g < G; g++) store(s + r * kRun + 16 * g, sum[r][g] * set1(scale));
  next = soon;
}

// acc[r][e] += sum over keys of weight[r][key] v[key][e], keys `from` to `to` in order, for 16 V numbers from e on.
template <int R, int V, class Values>
inline void values(const float* weight, int from, int to, const Values& v, int64_t e, int64_t E, float* acc,
                   Soon& next) {
  Soon soon = next;
  f32x16 sum[R][V];
  for (int r = 0; r < R; r++)
    for (int i = 0; i < V; i++) sum[r][i] = load(acc + r * E + e + 16 * i);
  for (int key = from; key < to; key++) {
    soon.ask();
    f32x16 value[V];
    for (int i = 0; i < V; i++) value[i] = v.value(key, e + 16 * i);
    for (int r = 0; r < R; r++)
      for (int i = 0; i < V; i++) sum[r][i] = fma(value[i], set1(weight[r * kRun + key]), sum[r][i]);
  }
  for (int r = 0; r < R; r++)
    for (int i = 0; i < V; i++) store(acc + r * E + e + 16 * i, sum[r][i]);
  next = soon;
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
    const Run run = {seen, pages, int(seen.least / n_.page), int((seen.most + n_.page - 1) / n_.page), s};
    std::fill(part.value, part.value + block_.rows * n_.E, 0.0f);
    if (block_.rows > kRows) {
      many(run, numbers, part);
    } else {
      by_rows(block_.rows, [&](auto R, int) { few<R>(run, part); });
    }
  }

 private:
  struct Run {
    const Seen& seen;
    const RunPages<Page>& pages;
    int first, last;  // page that is seen, and that behind the last
    float* s;         // (rows, kRun)
  };

  // All R rows of the block, which read pages as they lie.
  template <int R> void few(const Run& run, const Part& part) const {
    for (int p = run.first; p < run.last; p++) {
      Soon soon = run.pages.after_key(p, n_.E / 4);
      score<R>(run, p, Page::keys(run.pages.key(p), n_.E, n_.page), 0, soon);
    }
    weigh_all(run, part);
    for (int p = run.first; p < run.last; p++) {
      Soon soon = run.pages.after_value(p, n_.page);
      add<R>(run, p, Page::values(run.pages.value(p), n_.E, n_.page), 0, part, soon);
    }
  }

  // Any rows, for which `numbers` holds a page at a time.
  void many(const Run& run, float* numbers, const Part& part) const {
    for (int p = run.first; p < run.last; p++) {
      Page::read_keys(run.pages.key(p), n_.E, n_.page, numbers);
      Soon soon = run.pages.after_key(p, n_.E / 4);
      each(run, p, [&](auto R, int r) { score<R>(run, p, PlainRows<Wide, float>{numbers, n_.page}, r, soon); });
    }
    weigh_all(run, part);
    for (int p = run.first; p < run.last; p++) {
      Page::read_values(run.pages.value(p), n_.E, n_.page, numbers);
      Soon soon = run.pages.after_value(p, n_.page);
      each(run, p, [&](auto R, int r) { add<R>(run, p, PlainRows<Wide, float>{numbers, n_.E}, r, part, soon); });
    }
  }

  // The scores of all keys of page p for R rows.
  template <int R, class Keys> void score(const Run& run, int p, const Keys& keys, int r, Soon& soon) const {
    const float* q = queries_.row(r);
    float* to = run.s + r * kRun + p * n_.page;
    int64_t at = 0;
    for (; at + 16 * kKeys <= n_.page; at += 16 * kKeys) scores<R, kKeys>(q, n_.E, keys, at, to + at, c_.scale, soon);
    for (; at < n_.page; at += 16) scores<R, 1>(q, n_.E, keys, at, to + at, c_.scale, soon);
  }

  void weigh_all(const Run& run, const Part& part) const {
    for (int r = 0; r < block_.rows; r++) {
      float* s = run.s + r * kRun;
      if (c_.cap > 0) bend(s, run.seen.from[r], run.seen.to[r], c_.cap);
      weigh(s, run.seen.from[r], run.seen.to[r], part, r);
    }
  }

  // Add the values of page p, weighted, to R rows. What nobody sees is left out: 0 times what lies there may be no 0.
  template <int R, class Values>
  void add(const Run& run, int p, const Values& v, int r, const Part& part, Soon& soon) const {
    const int from = int(std::max<int64_t>(0, run.seen.least - p * n_.page));
    const int to = int(std::min<int64_t>(n_.page, run.seen.most - p * n_.page));
    const float* weight = run.s + r * kRun + p * n_.page;
    float* sum = part.value + r * n_.E;
    int64_t e = 0;
    for (; e + 16 * kValues <= n_.E; e += 16 * kValues) values<R, kValues>(weight, from, to, v, e, n_.E, sum, soon);
    for (; e < n_.E; e += 16) values<R, 1>(weight, from, to, v, e, n_.E, sum, soon);
  }

  // Every few rows of the block of which one sees a key of page p, or of a later one.
  template <class Use> void each(const Run& run, int p, Use&& use) const {
    by_rows(block_.rows, [&](auto R, int r) {
      if (*std::max_element(run.seen.to + r, run.seen.to + r + R) > p * n_.page) use(R, r);
    });
  }

  const Call& c_;
  const Shape& n_;
  const Block& block_;
  const Queries queries_;
};

}  // namespace soberano
