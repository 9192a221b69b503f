// The k nearest of N rows for each query, by a scan of all of them. Meaning: soberano/ops/knn.py.
//
//   score = x.q * scale[x] + reach[q] * error[x] - half[x], in this order; what is absent is 1, 0 or 0
//
// Threads claim runs of rows one after another. A run is read once for all queries: 16 rows meet 32 queries at a time,
// their scores stay in the first cache, and only those above the query's score to beat go on to its list.
#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "soberano/backends/pool.h"
#include "soberano/ops/knn_amx.h"
#include "soberano/ops/knn_best.h"
#include "soberano/ops/knn_products.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace soberano {
namespace {

enum Kind { kFloat32, kBfloat16, kInt8, kBit };  // in the order of KINDS in soberano/quant/vectors.py

struct Base {
  const void* data;
  const float *scale, *error, *half;  // (N,) or null
  int64_t N, D, kind;
};

struct Queries {
  const float *data, *reach;  // (Q, D), and (Q,) or null
  int64_t Q;
};

// Rows [first, last) as Products wants them: where they lie if they are whole there, else copied into `room`.
template <class Products>
const typename Products::Row* ready(const Base& base, const Products& products, int64_t first, int64_t last,
                                    typename Products::Row* room) {
  using Row = typename Products::Row;
  if (base.kind == kBit) {
    const int64_t bytes = (base.D + 7) / 8;
    for (int64_t r = first; r < last; r++) {
      const uint8_t* bits = (const uint8_t*)base.data + r * bytes;
      int8_t* to = (int8_t*)room + (r - first) * products.padded;
      int64_t i = 0;
      for (; i + 64 <= base.D; i += 64) expand_signs(bits + i / 8, to + i);
      if (i < base.D) {
        uint8_t last[8] = {};
        std::copy(bits + i / 8, bits + bytes, last);
        expand_signs(last, to + i);
      }
    }
    return room;
  }
  const Row* rows = (const Row*)base.data + first * base.D;
  if (!products.padded || (base.D == products.padded && (last - first) % kRows == 0)) return rows;
  for (int64_t r = 0; r < last - first; r++)
    std::copy(rows + r * base.D, rows + (r + 1) * base.D, room + r * products.padded);
  return room;
}

// Offer the scores of n rows from `first` with the queries of group g to their lists.
template <class Products>
void offer(const Products& products, const typename Products::Sums& sums, int64_t first, int64_t n, const Base& base,
           const float* reach, int64_t queries, int64_t g, Best& best) {
  for (int h = 0; h < 2 && g * kQueries + 16 * h < queries; h++) {
    const int64_t at = g * kQueries + 16 * h;
    const f32x16 far = reach ? load(reach + at) : set1(0.0f);
    const auto score = [&](int64_t r) {
      f32x16 found = products.product(sums, r, h, g);
      if (base.scale) found = found * set1(base.scale[first + r]);
      if (reach) found = fma(far, set1(base.error[first + r]), found);
      if (base.half) found = found - set1(base.half[first + r]);
      return found;
    };
    f32x16 highest = set1(-std::numeric_limits<float>::infinity());
    for (int64_t r = 0; r < n; r++) highest = max(highest, score(r));
    if (!greater(highest, load(best.to_beat.data() + at))) continue;
    for (int64_t r = 0; r < n; r++) {
      float found[16];
      store(found, score(r));
      for (uint32_t mask = greater(load(found), load(best.to_beat.data() + at)); mask; mask &= mask - 1) {
        const int q = __builtin_ctz(mask);
        best.add(at + q, found[q], first + r);
      }
    }
  }
}

template <class Products>
void scan(const Base& base, const Products& products, const float* reach, int64_t queries, int64_t run,
          std::atomic<int64_t>& next, Best& best) {
  using Row = typename Products::Row;
  const int64_t stride = products.padded ? products.padded : base.D, groups = up_to(queries, kQueries) / kQueries;
  const Scratch<Row> room(products.padded ? run * stride : 0);
  typename Products::Sums sums;
  for (int64_t first; (first = run * next.fetch_add(1, std::memory_order_relaxed)) < base.N;) {
    const int64_t last = std::min(first + run, base.N);
    const Row* rows = ready(base, products, first, last, room.data());
    for (int64_t g = 0; g < groups; g++)
      for (int64_t at = first; at < last; at += kRows) {
        const int64_t n = std::min<int64_t>(kRows, last - at);
        products.block(rows + (at - first) * stride, stride, n, g, sums);
        offer(products, sums, at, n, base, reach, queries, g, best);
      }
  }
}

// The k best of Q queries, few enough for their lists to be near.
template <class Products>
void pass(const Queries& queries, const Base& base, int64_t k, float* scores, int32_t* ids,
          [[maybe_unused]] bool tiles) {
  Pool& pool = Pool::instance();
  const int64_t padded = up_to(queries.Q, kQueries);
  const Products products(queries.data, queries.Q, base.D);
  std::vector<float> reach(queries.reach ? padded : 0);
  if (queries.reach) std::copy(queries.reach, queries.reach + queries.Q, reach.begin());
  // A run stays in the second cache from one group of queries to the next.
  const int64_t row_bytes = std::max(base.D, products.padded) * int64_t(sizeof(typename Products::Row));
  const int64_t run = std::max<int64_t>(1, (int64_t(256) << 10) / row_bytes / kRows) * kRows;
  std::atomic<int64_t> next{0};
  std::vector<Best> best;
  for (int t = 0; t < pool.threads(); t++) best.emplace_back(queries.Q, padded, k);
  pool.parallel(pool.threads(), [&](int t) {
#if SOBERANO_AMX
    if (tiles) configure_tiles();
#endif
    scan(base, products, queries.reach ? reach.data() : nullptr, queries.Q, run, next, best[t]);
#if SOBERANO_AMX
    if (tiles) _tile_release();
#endif
  });
  pool.parallel(int(queries.Q), [&](int q) {
    std::vector<uint64_t> keys;
    for (const Best& each : best) each.append_to(q, keys);
    std::partial_sort(keys.begin(), keys.begin() + k, keys.end());
    for (int64_t i = 0; i < k; i++) scores[q * k + i] = score_of(keys[i]), ids[q * k + i] = int32_t(uint32_t(keys[i]));
  });
}

void nearest(const Queries& all, const Base& base, int64_t k, float* scores, int32_t* ids) {
#if SOBERANO_AMX
  const bool amx = amx_allowed();
#else
  const bool amx = false;
#endif
  const int64_t at_once = std::clamp<int64_t>((int64_t(1) << 18) / k, kQueries, 1024);  // lists of a few megabytes
  for (int64_t first = 0; first < all.Q; first += at_once) {
    const Queries part = {all.data + first * base.D, all.reach ? all.reach + first : nullptr,
                          std::min(at_once, all.Q - first)};
    float* to = scores + first * k;
    int32_t* at = ids + first * k;
    if (base.kind == kFloat32) pass<FloatProducts<float>>(part, base, k, to, at, false);
#if SOBERANO_AMX
    if (amx && base.kind == kBfloat16) pass<TileProducts<Bfloat16s>>(part, base, k, to, at, true);
    if (amx && base.kind >= kInt8) pass<TileProducts<Bytes>>(part, base, k, to, at, true);
#endif
    if (!amx && base.kind == kBfloat16) pass<FloatProducts<uint16_t>>(part, base, k, to, at, false);
    if (!amx && base.kind >= kInt8) pass<CodeProducts>(part, base, k, to, at, false);
  }
}

// The scores of rows ids (Q, C), in the arithmetic of the float scan.
template <class Row>
void rescore(const Queries& queries, const Base& base, const int32_t* ids, int64_t C, float* scores) {
  const FloatProducts<Row> products(queries.data, queries.Q, base.D);
  constexpr int64_t share = 64;
  const int64_t shares = (C + share - 1) / share;
  Pool::instance().parallel(int(queries.Q * shares), [&](int i) {
    const int64_t q = i / shares, last = std::min(C, (i % shares + 1) * share);
    for (int64_t c = i % shares * share; c < last; c += 4) {
      const Row* rows[4];  // at the end, the last row again
      for (int64_t r = 0; r < 4; r++) rows[r] = (const Row*)base.data + ids[q * C + std::min(c + r, last - 1)] * base.D;
      for (int64_t r = c + 4; r < std::min(c + 8, last); r++)
        for (int64_t line = 0; line < base.D; line += 64 / sizeof(Row))
          __builtin_prefetch((const Row*)base.data + ids[q * C + r] * base.D + line);
      float raw[4][kQueries];
      products.four(rows, q, raw);
      for (int64_t r = 0; r < std::min<int64_t>(4, last - c); r++) {
        const int32_t id = ids[q * C + c + r];
        scores[q * C + c + r] =
            raw[r][0] - (base.half ? base.half[id] : 0.0f) + 0.0f;  // -0.0 becomes 0.0, as in a scan
      }
    }
  });
}

}  // namespace
}  // namespace soberano

// scale, error, half and reach may be null. `kind` is a Kind.
extern "C" void soberano_nearest(const float* queries, const float* reach, const void* data, const float* scale,
                                 const float* error, const float* half, float* scores, int32_t* ids, int64_t Q,
                                 int64_t N, int64_t D, int64_t k, int64_t kind) {
  soberano::nearest({queries, reach, Q}, {data, scale, error, half, N, D, kind}, k, scores, ids);
}

// Returns 0, or 1 for an id that is no row: indices come from outside too.
extern "C" int soberano_rescore(const float* queries, const void* data, const float* half, const int32_t* ids,
                                float* scores, int64_t Q, int64_t N, int64_t D, int64_t C, int64_t kind) {
  if (std::any_of(ids, ids + Q * C, [&](int32_t id) { return id < 0 || id >= N; })) return 1;
  const soberano::Queries all = {queries, nullptr, Q};
  const soberano::Base base = {data, nullptr, nullptr, half, N, D, kind};
  if (kind == soberano::kFloat32) soberano::rescore<float>(all, base, ids, C, scores);
  if (kind == soberano::kBfloat16) soberano::rescore<uint16_t>(all, base, ids, C, scores);
  return 0;
}

static const float* or_null(ffi::Buffer<ffi::F32> part) { return part.element_count() ? part.typed_data() : nullptr; }

static ffi::Error nearest(ffi::Buffer<ffi::F32> queries, ffi::Buffer<ffi::F32> reach, ffi::AnyBuffer data,
                          ffi::Buffer<ffi::F32> scale, ffi::Buffer<ffi::F32> error, ffi::Buffer<ffi::F32> half,
                          ffi::ResultBuffer<ffi::F32> scores, ffi::ResultBuffer<ffi::S32> ids, int32_t kind) {
  const auto shape = queries.dimensions();
  soberano_nearest(queries.typed_data(), or_null(reach), data.untyped_data(), or_null(scale), or_null(error),
                   or_null(half), scores->typed_data(), ids->typed_data(), shape[0], data.dimensions()[0], shape[1],
                   ids->dimensions()[1], kind);
  return ffi::Error::Success();
}

static ffi::Error rescore(ffi::Buffer<ffi::F32> queries, ffi::AnyBuffer data, ffi::Buffer<ffi::F32> half,
                          ffi::Buffer<ffi::S32> ids, ffi::ResultBuffer<ffi::F32> scores, int32_t kind) {
  const auto shape = ids.dimensions();
  if (soberano_rescore(queries.typed_data(), data.untyped_data(), or_null(half), ids.typed_data(), scores->typed_data(),
                       shape[0], data.dimensions()[0], queries.dimensions()[1], shape[1], kind))
    return ffi::Error::InvalidArgument("rescore: an id is outside of the base");
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_nearest_ffi, nearest,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Attr<int32_t>("kind"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_rescore_ffi, rescore,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int32_t>("kind"));
