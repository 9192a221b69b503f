// Causal attention through a page table, and the cache write before it. Meanings: soberano/ops/attention.py.
//
//   q (B, T, H, E) float32, k pages (L, P, K, E, page) float16, v pages (L, P, K, page, E) float16,
//   positions (B, T) int32 (below 0: padding), table (B, pages) int32, layer () int32 -> (B, T, H, E) float32
//
// Keys lie transposed, so 16 scores come from E multiply-adds without a horizontal sum. A query head sees its keys in
// runs of 128: within a run the largest score is subtracted, weights and values are summed in order, and runs are
// merged in order. So a row's bits depend on its own position only: not on the batch, nor on whether it was a prompt's
// or a generated token's.
//
// A unit of work is one key head and up to four (token, query head) rows that share its keys; for few units, one run of
// it.
#include <algorithm>
#include <cmath>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "soberano/backends/pool.h"
#include "soberano/backends/simd.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace soberano {
namespace {

constexpr int kRun = 128;    // keys between two merges
constexpr int kWidth = 512;  // the widest head
constexpr int kRows = 4;     // queries that share the keys of a unit

struct Shape {
  int64_t B, T, H, K, E, page, pages;
  int64_t rows() const { return T * (H / K); }
};

struct Row {
  const float* q;
  float* out;
  int64_t keys;  // how many keys this row may see
};

// s[r][at + key] = q[r] . k[key] * scale, for G groups of 16 keys.
template <int R, int G>
inline void scores(const Row* row, const uint16_t* k, int64_t E, int64_t page, float* s, float scale) {
  f32x16 sum[R][G];
  for (int r = 0; r < R; r++)
    for (int g = 0; g < G; g++) sum[r][g] = set1(0.0f);
  for (int64_t e = 0; e < E; e++) {
    f32x16 key[G];
    for (int g = 0; g < G; g++) key[g] = load_f16(k + e * page + 16 * g);
    for (int r = 0; r < R; r++)
      for (int g = 0; g < G; g++) sum[r][g] = fma(key[g], set1(row[r].q[e]), sum[r][g]);
  }
  for (int r = 0; r < R; r++)
    for (int g = 0; g < G; g++) store(s + r * kRun + 16 * g, sum[r][g] * set1(scale));
}

// Turn `keys` scores into weights relative to their largest; what follows up to `padded` becomes 0. Returns (largest,
// sum).
inline std::pair<float, float> weigh(float* s, int keys, int padded) {
  const int whole = (keys + 15) / 16 * 16;
  for (int i = keys; i < whole; i++) s[i] = -INFINITY;
  f32x16 top = load(s);
  for (int i = 16; i < whole; i += 16) top = max(top, load(s + i));
  const float peak = largest(top);
  f32x16 total = set1(0.0f);
  for (int i = 0; i < whole; i += 16) {
    store(s + i, exp(load(s + i) - set1(peak)));
    for (int j = std::max(i, keys); j < i + 16; j++) s[j] = 0.0f;
    total = total + load(s + i);
  }
  for (int i = whole; i < padded; i++) s[i] = 0.0f;
  return {peak, sum(total)};
}

// acc[r][e] += sum over keys of weight[r][key] v[key][e], keys in order.
template <int R>
void values(const float (*s)[kRun], int from, int keys, const uint16_t* v, int64_t E, float (*acc)[kWidth]) {
  for (int64_t e = 0; e < E; e += 64) {
    const int lanes = int(std::min<int64_t>(4, (E - e) / 16));
    f32x16 sum[R][4];
    for (int r = 0; r < R; r++)
      for (int i = 0; i < 4; i++) sum[r][i] = i < lanes ? load(acc[r] + e + 16 * i) : set1(0.0f);
    for (int key = 0; key < keys; key++) {
      f32x16 value[4];
      for (int i = 0; i < 4; i++) value[i] = load_f16(v + key * E + e + (i < lanes ? 16 * i : 0));
      for (int r = 0; r < R; r++)
        for (int i = 0; i < 4; i++) sum[r][i] = fma(value[i], set1(s[r][from + key]), sum[r][i]);
    }
    for (int r = 0; r < R; r++)
      for (int i = 0; i < lanes; i++) store(acc[r] + e + 16 * i, sum[r][i]);
  }
}

// What R queries make of one run of keys: values weighted relative to the largest score, their weights' sum, and that
// score.
struct Part {
  float peak[kRows], weight[kRows];  // a weight below 0: the query sees no key of this run
  alignas(64) float value[kRows][kWidth];
};

// Where the keys and values of a unit lie: one key head of one sequence.
struct Pages {
  const uint16_t *k, *v;
  const int32_t* table;
  int64_t stride;  // from page to page
};

template <int R>
void attend_run(const Row* row, const Pages& pages, const Shape& n, int64_t start, float scale, Part& part) {
  int64_t longest = 0;
  for (int r = 0; r < R; r++) longest = std::max(longest, row[r].keys);
  const int keys = int(std::min<int64_t>(kRun, longest - start)), whole = (keys + 15) / 16 * 16;
  alignas(64) float s[R][kRun];
  for (int at = 0; at < whole;) {
    const uint16_t* k = pages.k + pages.table[(start + at) / n.page] * pages.stride + (start + at) % n.page;
    if (at + 32 <= whole && n.page % 32 == 0) {
      scores<R, 2>(row, k, n.E, n.page, s[0] + at, scale), at += 32;
    } else {
      scores<R, 1>(row, k, n.E, n.page, s[0] + at, scale), at += 16;
    }
  }
  for (int r = 0; r < R; r++) {
    const int mine = int(std::clamp<int64_t>(row[r].keys - start, 0, keys));
    std::fill(part.value[r], part.value[r] + n.E, 0.0f);
    if (mine) {
      std::tie(part.peak[r], part.weight[r]) = weigh(s[r], mine, whole);
    } else {
      std::fill(s[r], s[r] + whole, 0.0f);
      part.weight[r] = -1;
    }
  }
  for (int at = 0; at < keys;) {
    const int64_t inside = (start + at) % n.page;
    const int count = int(std::min<int64_t>(n.page - inside, keys - at));
    values<R>(s, at, count, pages.v + pages.table[(start + at) / n.page] * pages.stride + inside * n.E, n.E,
              part.value);
    at += count;
  }
}

// Merge the runs of R queries, in order, and write what they attend to.
template <int R> void merge(const Row* row, const Part* parts, int runs, const Shape& n) {
  for (int r = 0; r < R; r++) {
    float peak = -INFINITY, weight = 0;
    float* out = row[r].out;
    std::fill(out, out + n.E, 0.0f);
    for (const Part* part = parts; part < parts + runs && part->weight[r] >= 0; part++) {
      const float top = std::max(peak, part->peak[r]);
      const float old = part == parts ? 0.0f : std::exp(peak - top), now = std::exp(part->peak[r] - top);
      weight = __builtin_fmaf(weight, old, part->weight[r] * now), peak = top;
      for (int64_t e = 0; e < n.E; e += 16)
        store(out + e, fma(load(out + e), set1(old), load(part->value[r] + e) * set1(now)));
    }
    if (weight > 0)
      for (int64_t e = 0; e < n.E; e += 16) store(out + e, load(out + e) / set1(weight));
  }
}

// Call use(std::integral_constant<int, rows>) for 1 to 4 rows.
template <class Use> void with_rows(int rows, Use&& use) {
  switch (rows) {
    case 1:
      return use(std::integral_constant<int, 1>());
    case 2:
      return use(std::integral_constant<int, 2>());
    case 3:
      return use(std::integral_constant<int, 3>());
    default:
      return use(std::integral_constant<int, kRows>());
  }
}

void attention(const float* q, const uint16_t* k, const uint16_t* v, const int32_t* positions, const int32_t* table,
               float* out, const Shape& n, float scale) {
  const int64_t group = n.H / n.K, rows = n.rows(), per_head = (rows + kRows - 1) / kRows;
  struct Unit {
    Row row[kRows];
    int rows, runs, first_part;
    Pages pages;
  };
  std::vector<Unit> units(n.B * n.K * per_head);
  std::vector<std::pair<int, int>> jobs;  // (unit, run)
  for (size_t i = 0; i < units.size(); i++) {
    const int64_t b = i / (n.K * per_head), head = i / per_head % n.K, first = i % per_head * kRows;
    Unit& unit = units[i];
    unit.rows = int(std::min<int64_t>(kRows, rows - first)), unit.first_part = int(jobs.size());
    int64_t longest = 0;
    for (int r = 0; r < unit.rows; r++) {
      const int64_t t = (first + r) / group, h = head * group + (first + r) % group,
                    at = ((b * n.T + t) * n.H + h) * n.E;
      unit.row[r] = {q + at, out + at, std::max<int64_t>(0, int64_t(positions[b * n.T + t]) + 1)};
      longest = std::max(longest, unit.row[r].keys);
    }
    unit.runs = int((longest + kRun - 1) / kRun);
    unit.pages = {k + head * n.E * n.page, v + head * n.E * n.page, table + b * n.pages, n.K * n.E * n.page};
    for (int run = 0; run < unit.runs; run++) jobs.push_back({int(i), run});
  }
  Pool& pool = Pool::instance();
  const bool few = int64_t(units.size()) < 8 * pool.threads();
  if (jobs.size() * kRun * n.E * kRows < 65536 && few) {
    // Waking a thread costs microseconds: short contexts are done by the caller alone.
    Part parts[16];
    for (Unit& u : units)
      with_rows(u.rows, [&](auto R) {
        for (int run = 0; run < u.runs; run++) attend_run<R>(u.row, u.pages, n, int64_t(run) * kRun, scale, parts[run]);
        merge<R>(u.row, parts, u.runs, n);
      });
  } else if (few) {
    // A generated token: few units, so the runs of each are shared out, and merged when all are there.
    std::unique_ptr<Part[]> parts(new Part[jobs.size()]);
    pool.parallel(int(jobs.size()), [&](int i) {
      Unit& u = units[jobs[i].first];
      with_rows(u.rows,
                [&](auto R) { attend_run<R>(u.row, u.pages, n, int64_t(jobs[i].second) * kRun, scale, parts[i]); });
    });
    for (Unit& u : units) with_rows(u.rows, [&](auto R) { merge<R>(u.row, &parts[u.first_part], u.runs, n); });
  } else {
    // A prompt: many units, each done from the first key to the last.
    pool.parallel(int(units.size()), [&](int i) {
      Unit& u = units[i];
      std::unique_ptr<Part[]> parts(new Part[u.runs]);
      with_rows(u.rows, [&](auto R) {
        for (int run = 0; run < u.runs; run++) attend_run<R>(u.row, u.pages, n, int64_t(run) * kRun, scale, parts[run]);
        merge<R>(u.row, parts.get(), u.runs, n);
      });
    });
  }
}

void write(uint16_t* k_pages, uint16_t* v_pages, const float* k, const float* v, const int32_t* positions,
           const int32_t* table, const Shape& n) {
  for (int64_t b = 0; b < n.B; b++) {
    for (int64_t t = 0; t < n.T; t++) {
      const int32_t position = positions[b * n.T + t];
      if (position < 0) continue;
      const int64_t page = table[b * n.pages + position / n.page], slot = position % n.page,
                    row = (b * n.T + t) * n.K * n.E;
      for (int64_t head = 0; head < n.K; head++) {
        const int64_t at = (page * n.K + head) * n.E * n.page, from = row + head * n.E;
        for (int64_t e = 0; e < n.E; e += 16) {
          uint16_t half[16];
          store_f16(half, load(k + from + e));
          for (int i = 0; i < 16; i++) k_pages[at + (e + i) * n.page + slot] = half[i];
          store_f16(v_pages + at + slot * n.E + e, load(v + from + e));
        }
      }
    }
  }
}

// What is wrong with these arguments, or null. Indices come from outside too: a page that is not there would be read.
const char* wrong(const Shape& n, int64_t layers, int64_t count, int32_t layer, const int32_t* positions,
                  const int32_t* table) {
  if (n.E % 16 || n.E > kWidth) return "attention: the head width must be a multiple of 16 and at most 512";
  if (n.page % 16 || kRun % n.page) return "attention: the page must be 16, 32, 64 or 128 tokens";
  if (n.K == 0 || n.H % n.K) return "attention: query heads must be a multiple of key heads";
  if (layer < 0 || layer >= layers) return "attention: the layer is outside of the cache";
  for (int64_t i = 0; i < n.B * n.pages; i++)
    if (table[i] < 0 || table[i] >= count) return "attention: the table names a page that the cache does not have";
  for (int64_t i = 0; i < n.B * n.T; i++)
    if (positions[i] >= n.pages * n.page) return "attention: a position is beyond the pages of its table";
  return nullptr;
}

}  // namespace
}  // namespace soberano

// For arrays without XLA: k and v are the pages of one layer, and indices are not checked.
extern "C" void soberano_attention(const float* q, const uint16_t* k, const uint16_t* v, const int32_t* positions,
                                   const int32_t* table, float* out, int64_t B, int64_t T, int64_t H, int64_t K,
                                   int64_t E, int64_t page, int64_t pages, float scale) {
  soberano::attention(q, k, v, positions, table, out, {B, T, H, K, E, page, pages}, scale);
}

extern "C" void soberano_write_kv(uint16_t* k_pages, uint16_t* v_pages, const float* k, const float* v,
                                  const int32_t* positions, const int32_t* table, int64_t B, int64_t T, int64_t K,
                                  int64_t E, int64_t page, int64_t pages) {
  soberano::write(k_pages, v_pages, k, v, positions, table, {B, T, K, K, E, page, pages});
}

using F32 = ffi::Buffer<ffi::F32>;
using F16 = ffi::Buffer<ffi::F16>;
using S32 = ffi::Buffer<ffi::S32>;

static soberano::Shape shape_of(const ffi::Span<const int64_t>& q, const ffi::Span<const int64_t>& v,
                                const S32& table) {
  return {q[0], q[1], q[2], v[2], q[3], v[3], table.dimensions()[1]};
}

static ffi::Error attention(F32 q, F16 k, F16 v, S32 positions, S32 table, S32 layer, ffi::ResultBuffer<ffi::F32> out,
                            float scale) {
  auto pages = v.dimensions();
  soberano::Shape n = shape_of(q.dimensions(), pages, table);
  if (const char* why =
          soberano::wrong(n, pages[0], pages[1], *layer.typed_data(), positions.typed_data(), table.typed_data()))
    return ffi::Error::InvalidArgument(why);
  const int64_t skip = layer.typed_data()[0] * pages[1] * n.K * n.E * n.page;
  soberano::attention(q.typed_data(), (const uint16_t*)k.untyped_data() + skip,
                      (const uint16_t*)v.untyped_data() + skip, positions.typed_data(), table.typed_data(),
                      out->typed_data(), n, scale);
  return ffi::Error::Success();
}

static ffi::Error write_kv(F16 k_pages, F16 v_pages, F32 k, F32 v, S32 positions, S32 table, S32 layer,
                           ffi::ResultBuffer<ffi::F16> k_out, ffi::ResultBuffer<ffi::F16> v_out) {
  auto pages = v_pages.dimensions();
  soberano::Shape n = shape_of(k.dimensions(), pages, table);
  if (const char* why =
          soberano::wrong(n, pages[0], pages[1], *layer.typed_data(), positions.typed_data(), table.typed_data()))
    return ffi::Error::InvalidArgument(why);
  if (k_out->untyped_data() != k_pages.untyped_data())
    std::memcpy(k_out->untyped_data(), k_pages.untyped_data(), k_pages.size_bytes());
  if (v_out->untyped_data() != v_pages.untyped_data())
    std::memcpy(v_out->untyped_data(), v_pages.untyped_data(), v_pages.size_bytes());
  const int64_t skip = layer.typed_data()[0] * pages[1] * n.K * n.E * n.page;
  soberano::write((uint16_t*)k_out->untyped_data() + skip, (uint16_t*)v_out->untyped_data() + skip, k.typed_data(),
                  v.typed_data(), positions.typed_data(), table.typed_data(), n);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    soberano_attention_ffi, attention,
    ffi::Ffi::Bind().Arg<F32>().Arg<F16>().Arg<F16>().Arg<S32>().Arg<S32>().Arg<S32>().Ret<F32>().Attr<float>("scale"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_write_kv_ffi, write_kv,
                              ffi::Ffi::Bind()
                                  .Arg<F16>()
                                  .Arg<F16>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<S32>()
                                  .Arg<S32>()
                                  .Arg<S32>()
                                  .Ret<F16>()
                                  .Ret<F16>());
