// Causal attention through a page table, and the cache write before it. Meanings: soberano/ops/attention.py.
//
//   q (B, T, H, E) float32, k pages (L, P, K, E, page) float16, v pages (L, P, K, page, E) float16,
//   positions (B, T) int32 (below 0: padding), table (B, pages) int32, layer () int32 -> (B, T, H, E) float32
//
// Keys lie transposed, so 16 scores come from E multiply-adds without a horizontal sum. A query head sees its keys in runs of 256: within a
// run the largest score is subtracted, weights and values are summed in order, and runs are merged in order. So a row's bits depend on
// its own position only: not on the batch, nor on whether it was a prompt's or a generated token's.
//
// A unit of work is one key head and up to four (token, query head) rows that share its keys.
#include <algorithm>
#include <cmath>
#include <vector>

#include "soberano/backends/pool.h"
#include "soberano/backends/simd.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace soberano {
namespace {

constexpr int kRun = 256;    // keys between two merges
constexpr int kWidth = 512;  // the widest head

struct Shape {
  int64_t B, T, H, K, E, page, pages;
  int64_t rows() const { return T * (H / K); }
};

struct Row {
  const float* q;
  float* out;
  int64_t keys;  // how many keys this row may see
};

template <int R> void scores(const Row* row, const uint16_t* k, int64_t E, int64_t page, int keys, float (*s)[kRun], float scale) {
  for (int at = 0; at < keys; at += 16) {
    f32x16 sum[R];
    for (int r = 0; r < R; r++) sum[r] = set1(0.0f);
    for (int64_t e = 0; e < E; e++) {
      f32x16 key = load_f16(k + e * page + at);
      for (int r = 0; r < R; r++) sum[r] = fma(key, set1(row[r].q[e]), sum[r]);
    }
    for (int r = 0; r < R; r++) store(s[r] + at, sum[r] * set1(scale));
  }
}

// Turn `keys` scores into weights relative to their largest; what follows up to `padded` becomes 0. Returns (largest, sum).
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
template <int R> void values(const float (*s)[kRun], int from, int keys, const uint16_t* v, int64_t E, float (*acc)[kWidth]) {
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

template <int R> void attend(const Row* row, const uint16_t* k, const uint16_t* v, const int32_t* table, const Shape& n, int64_t head, float scale) {
  int64_t longest = 0;
  for (int r = 0; r < R; r++) longest = std::max(longest, row[r].keys);
  alignas(64) float s[R][kRun], acc[R][kWidth], total[R][kWidth];
  float peak[R], weight[R];
  for (int r = 0; r < R; r++) {
    peak[r] = -INFINITY, weight[r] = 0;
    std::fill(total[r], total[r] + n.E, 0.0f);
  }
  const int64_t stride = n.K * n.E * n.page, inside = head * n.E * n.page;
  for (int64_t start = 0; start < longest; start += kRun) {
    const int keys = int(std::min<int64_t>(kRun, longest - start));
    for (int at = 0; at < keys; at += int(n.page)) {
      float(*here)[kRun] = (float(*)[kRun])((float*)s + at);
      scores<R>(row, k + table[(start + at) / n.page] * stride + inside, n.E, n.page, std::min<int>(int(n.page), keys - at), here, scale);
    }
    float runs[R][2];
    for (int r = 0; r < R; r++) {
      const int mine = int(std::clamp<int64_t>(row[r].keys - start, 0, keys));
      std::fill(acc[r], acc[r] + n.E, 0.0f);
      if (mine) {
        auto [top, sum] = weigh(s[r], mine, (keys + 15) / 16 * 16);
        runs[r][0] = top, runs[r][1] = sum;
      } else {
        std::fill(s[r], s[r] + keys, 0.0f);
        runs[r][1] = -1;
      }
    }
    for (int at = 0; at < keys; at += int(n.page))
      values<R>(s, at, std::min<int>(int(n.page), keys - at), v + table[(start + at) / n.page] * stride + inside, n.E, acc);
    for (int r = 0; r < R; r++) {
      if (runs[r][1] < 0) continue;
      const float top = std::max(peak[r], runs[r][0]);
      const float old = start ? std::exp(peak[r] - top) : 0.0f, now = std::exp(runs[r][0] - top);
      weight[r] = __builtin_fmaf(weight[r], old, runs[r][1] * now), peak[r] = top;
      for (int64_t e = 0; e < n.E; e += 16) store(total[r] + e, fma(load(total[r] + e), set1(old), load(acc[r] + e) * set1(now)));
    }
  }
  for (int r = 0; r < R; r++)
    for (int64_t e = 0; e < n.E; e += 16) store(row[r].out + e, row[r].keys > 0 ? load(total[r] + e) / set1(weight[r]) : set1(0.0f));
}

void attention(const float* q, const uint16_t* k, const uint16_t* v, const int32_t* positions, const int32_t* table, float* out, const Shape& n, float scale) {
  const int64_t group = n.H / n.K, rows = n.rows(), per_head = (rows + 3) / 4;
  auto unit = [&](int i) {
    const int64_t b = i / (n.K * per_head), head = i / per_head % n.K, first = i % per_head * 4;
    const int count = int(std::min<int64_t>(4, rows - first));
    Row row[4];
    for (int r = 0; r < count; r++) {
      const int64_t t = (first + r) / group, h = head * group + (first + r) % group, at = ((b * n.T + t) * n.H + h) * n.E;
      row[r] = {q + at, out + at, int64_t(positions[b * n.T + t]) + 1};
    }
    const int32_t* mine = table + b * n.pages;
    switch (count) {
      case 1: return attend<1>(row, k, v, mine, n, head, scale);
      case 2: return attend<2>(row, k, v, mine, n, head, scale);
      case 3: return attend<3>(row, k, v, mine, n, head, scale);
      default: return attend<4>(row, k, v, mine, n, head, scale);
    }
  };
  const int units = int(n.B * n.K * per_head);
  int64_t keys = 0;
  for (int64_t i = 0; i < n.B * n.T; i++) keys += std::max(0, positions[i] + 1);
  // Waking a thread costs a few microseconds: short contexts are done by the caller alone.
  if (keys * n.H * n.E < 32768) {
    for (int i = 0; i < units; i++) unit(i);
  } else {
    Pool::instance().parallel(units, unit);
  }
}

void write(uint16_t* k_pages, uint16_t* v_pages, const float* k, const float* v, const int32_t* positions, const int32_t* table, const Shape& n) {
  for (int64_t b = 0; b < n.B; b++) {
    for (int64_t t = 0; t < n.T; t++) {
      const int32_t position = positions[b * n.T + t];
      if (position < 0) continue;
      const int64_t page = table[b * n.pages + position / n.page], slot = position % n.page, row = (b * n.T + t) * n.K * n.E;
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

const char* wrong(const Shape& n) {
  if (n.E % 16 || n.E > kWidth) return "the head width must be a multiple of 16 and at most 512";
  if (n.page % 16 || kRun % n.page) return "the page must be 16, 32, 64, 128 or 256 tokens";
  if (n.K == 0 || n.H % n.K) return "query heads must be a multiple of key heads";
  return nullptr;
}

}  // namespace
}  // namespace soberano

using F32 = ffi::Buffer<ffi::F32>;
using F16 = ffi::Buffer<ffi::F16>;
using S32 = ffi::Buffer<ffi::S32>;

static soberano::Shape shape_of(const ffi::Span<const int64_t>& q, const ffi::Span<const int64_t>& v, const S32& table) {
  return {q[0], q[1], q[2], v[2], q[3], v[3], table.dimensions()[1]};
}

static ffi::Error attention(F32 q, F16 k, F16 v, S32 positions, S32 table, S32 layer, ffi::ResultBuffer<ffi::F32> out, float scale) {
  soberano::Shape n = shape_of(q.dimensions(), v.dimensions(), table);
  if (const char* why = soberano::wrong(n)) return ffi::Error::InvalidArgument(why);
  const int64_t skip = layer.typed_data()[0] * v.dimensions()[1] * n.K * n.E * n.page;
  soberano::attention(q.typed_data(), (const uint16_t*)k.untyped_data() + skip, (const uint16_t*)v.untyped_data() + skip, positions.typed_data(), table.typed_data(), out->typed_data(), n, scale);
  return ffi::Error::Success();
}

static ffi::Error write_kv(F16 k_pages, F16 v_pages, F32 k, F32 v, S32 positions, S32 table, S32 layer, ffi::ResultBuffer<ffi::F16> k_out, ffi::ResultBuffer<ffi::F16> v_out) {
  auto pages = v_pages.dimensions();
  soberano::Shape n = shape_of(k.dimensions(), pages, table);
  if (const char* why = soberano::wrong(n)) return ffi::Error::InvalidArgument(why);
  if (k_out->untyped_data() != k_pages.untyped_data()) std::memcpy(k_out->untyped_data(), k_pages.untyped_data(), k_pages.size_bytes());
  if (v_out->untyped_data() != v_pages.untyped_data()) std::memcpy(v_out->untyped_data(), v_pages.untyped_data(), v_pages.size_bytes());
  const int64_t skip = layer.typed_data()[0] * pages[1] * n.K * n.E * n.page;
  soberano::write((uint16_t*)k_out->untyped_data() + skip, (uint16_t*)v_out->untyped_data() + skip, k.typed_data(), v.typed_data(), positions.typed_data(), table.typed_data(), n);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_attention_ffi, attention,
                              ffi::Ffi::Bind().Arg<F32>().Arg<F16>().Arg<F16>().Arg<S32>().Arg<S32>().Arg<S32>().Ret<F32>().Attr<float>("scale"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_write_kv_ffi, write_kv,
                              ffi::Ffi::Bind().Arg<F16>().Arg<F16>().Arg<F32>().Arg<F32>().Arg<S32>().Arg<S32>().Arg<S32>().Ret<F16>().Ret<F16>());
