// Causal attention through a page table, the cache write before it, and the rotation before that. Meanings:
// soberano/ops/attention.py.
//
//   q (B, T, H, E) float32, k and v (B, T, K, E) float32, cos and sin (B or 1, T, pairs) float32, positions (B, T)
//   int32 (below 0: padding), table (B, pages) int32, layer () int32, pages as in attention_pages.h, window () int32 (0
//   or less: none), sinks (H) float32 or (0) -> out (B, T, H, E) float32
//
// A unit of work is a block of queries that share their keys, with all of their runs; where there are few blocks, with
// one run, and what the runs give is merged when all are there.
#include <atomic>
#include <vector>

#include "soberano/backends/pool.h"
#include "soberano/ops/attention_bf16.h"
#include "soberano/ops/attention_f32.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace soberano {
namespace {

std::vector<Block> blocks_of(const Call& c, int threads) {
  const Shape& n = c.n;
  const int64_t rows = n.T * (n.H / n.K), fair = n.B * n.K * rows / (8 * threads);  // several blocks for each thread
  const int64_t size = std::clamp<int64_t>((fair + 31) / 32 * 32, 32, kBlock);
  std::vector<Block> blocks;
  for (int64_t b = 0; b < n.B; b++)
    for (int64_t head = 0; head < n.K; head++)
      for (int64_t first = 0; first < rows; first += size) {
        Block block = {b, head, first, int(std::min(size, rows - first))};
        for (int64_t t = block.token(n, 0); t <= block.token(n, block.rows - 1); t++) {
          const int64_t keys = c.keys(b, t);
          if (keys == 0) continue;
          block.since = std::min(block.since, c.since(keys)), block.longest = std::max(block.longest, keys);
        }
        blocks.push_back(block);
      }
  return blocks;
}

// Few blocks, as for a generated token: their runs, one block after the other, are shared out in equal stretches. Who
// comes last to a block merges it.
template <class Math> void run_few(const Call& c, const std::vector<Block>& blocks, int64_t part) {
  static thread_local Scratch<float> memory;
  Pool& pool = Pool::instance();
  std::vector<int64_t> begin = {0};                       // of the runs of each block
  std::vector<std::atomic<int64_t>> left(blocks.size());  // runs of each block that are not there yet
  for (size_t b = 0; b < blocks.size(); b++) {
    begin.push_back(begin[b] + blocks[b].runs()), left[b] = blocks[b].runs();
    if (blocks[b].runs() == 0) Merge(c, blocks[b]).finish();  // padding
  }
  const int64_t runs = begin.back(), stretches = std::min<int64_t>(runs, 2 * pool.threads());
  float* const parts = memory.room(runs * part);
  pool.parallel(int(stretches), [&](int i) {
    int64_t run = i * runs / stretches;
    const int64_t end = (i + 1) * runs / stretches;
    for (size_t b = std::upper_bound(begin.begin(), begin.end(), run) - begin.begin() - 1; run < end; b++) {
      const Block& block = blocks[b];
      const int64_t stop = std::min(end, begin[b + 1]), count = stop - run;
      const Math math(c, block);
      for (; run < stop; run++)
        math.run((block.first_run() + run - begin[b]) * kRun, Part::in(parts + run * part, block.rows));
      if (left[b].fetch_sub(count, std::memory_order_acq_rel) > count) continue;
      Merge merge(c, block);
      for (int64_t r = begin[b]; r < begin[b + 1]; r++) merge.add(Part::in(parts + r * part, block.rows));
      merge.finish();
    }
  });
}

template <class Math> void run(const Call& c) {
  Pool& pool = Pool::instance();
  const std::vector<Block> blocks = blocks_of(c, pool.threads());
  const int64_t part = Part::size(blocks[0].rows, c.n.E);
  int64_t runs = 0;
  for (const Block& block : blocks) runs += block.runs();
  if (int(blocks.size()) < 8 * pool.threads() && runs * part < 1 << 20) {
    run_few<Math>(c, blocks, part);
    return;
  }
  pool.parallel(int(blocks.size()), [&](int i) {
    static thread_local Scratch<float> memory;
    const Block& block = blocks[i];
    const Part one = Part::in(memory.room(part), block.rows);
    const Math math(c, block);
    Merge merge(c, block);
    for (int run = block.first_run(); run < block.last_run(); run++) math.run(int64_t(run) * kRun, one), merge.add(one);
    merge.finish();
  });
}

// The cache of a layer, to be written, and what is written.
struct Write {
  uint8_t *k_pages, *v_pages;
  const float *k, *v;
};

template <class Page> void write(const Call& c, const Write& w) {
  const Shape& n = c.n;
  const int64_t tokens = n.B * n.T, size = Page::bytes(n.E, n.page), share = n.page;
  Pool::instance().parallel(int((tokens + share - 1) / share), [&](int i) {
    for (int64_t at = i * share; at < std::min((i + 1) * share, tokens); at++) {
      const int64_t b = at / n.T, t = at % n.T, position = c.positions[at];
      if (position < 0) continue;
      for (int64_t head = 0; head < n.K; head++) {
        const int64_t from = (at * n.K + head) * n.E,
                      to = (c.table[b * n.pages + position / n.page] * n.K + head) * size;
        alignas(64) float turned[kWidth];
        c.rotation.turn(w.k + from, b, t, n.E, turned);
        Page::write_key(w.k_pages + to, n.E, n.page, position % n.page, turned);
        Page::write_value(w.v_pages + to, n.E, n.page, position % n.page, w.v + from);
      }
    }
  });
}

// What is wrong with these arguments, or null. Indices come from outside too: a page that is not there would be read.
const char* wrong(const Call& c, int64_t layers, int64_t count, int32_t layer) {
  const Shape& n = c.n;
  if (n.E % 16 || n.E > kWidth) return "attention: the head width must be a multiple of 16 and at most 512";
  if (n.page % 16 || n.page == 0 || kRun % n.page) return "attention: the page must be 16, 32, 64 or 128 tokens";
  if (n.K == 0 || n.H % n.K) return "attention: query heads must be a multiple of key heads";
  if (2 * c.rotation.pairs > n.E) return "attention: the rotation is wider than a head";
  if (layer < 0 || layer >= layers) return "attention: the layer is outside of the cache";
  for (int64_t i = 0; i < n.B * n.pages; i++)
    if (c.table[i] < 0 || c.table[i] >= count) return "attention: the table names a page that the cache does not have";
  for (int64_t i = 0; i < n.B * n.T; i++)
    if (c.positions[i] >= n.pages * n.page) return "attention: a position is beyond the pages of its table";
  return nullptr;
}

using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;
using Out = ffi::ResultBuffer<ffi::F32>;
using Pages = ffi::AnyBuffer;
using NewPages = ffi::Result<ffi::AnyBuffer>;

// Call use(Page()) for the pages of this element type.
template <class Use> ffi::Error with_pages(const Pages& pages, int64_t E, Use&& use) {
  switch (pages.element_type()) {
    case ffi::F16:
      return use(PlainPage<F16>());
    case ffi::U16:
      return use(PlainPage<BF16>());
    case ffi::U8:
      if (E % Q8Page::kGroup == 0) return use(Q8Page());
      return ffi::Error::InvalidArgument("attention: q8_0 pages need heads of a multiple of 32 numbers");
    default:
      return ffi::Error::InvalidArgument("attention: pages are float16, uint16 (bfloat16) or uint8 (q8_0)");
  }
}

template <class Page> ffi::Error run_pages(const Call& c, bool bf16) {
  if (c.n.B * c.n.T == 0) return ffi::Error::Success();
#if SOBERANO_AMX
  if (bf16 && amx_allowed()) return run<AttendBf16<Page>>(c), ffi::Error::Success();
#endif
  if (bf16)
    return ffi::Error(ffi::ErrorCode::kUnimplemented, "attention: this processor has no matrix unit for bfloat16");
  return run<AttendF32<Page>>(c), ffi::Error::Success();
}

// A layer of the cache, as the arguments give it; `k` and `v` are the arrays of all layers.
struct Layer {
  Call call;
  int64_t skip;     // bytes before the layer
  const char* why;  // it cannot be, or null

  template <class Page>
  Layer(Page, const F32& q, const Rotation& rotation, const Pages& k, const void* k_data, const void* v_data,
        const S32& positions, const S32& table, const S32& layer) {
    auto shape = q.dimensions(), pages = k.dimensions();
    const int64_t E = shape[3], page = pages[4], K = pages[2];
    call = {{shape[0], shape[1], shape[2], K, E, page, table.dimensions()[1]}, rotation, q.typed_data()};
    call.positions = positions.typed_data(), call.table = table.typed_data();
    skip = *layer.typed_data() * pages[1] * K * Page::bytes(E, page);
    call.k = (const uint8_t*)k_data + skip, call.v = (const uint8_t*)v_data + skip;
    why = wrong(call, pages[0], pages[1], *layer.typed_data());
  }

  // Say what queries may see, and where the result goes.
  void ask(Out& out, float scale, const S32& window, float cap, const F32& sinks) {
    const int64_t count = sinks.element_count();
    if (count && count != call.n.H) why = "attention: there must be as many sinks as query heads";
    call.out = out->typed_data(), call.scale = scale, call.window = *window.typed_data(), call.cap = cap;
    call.sinks = count ? sinks.typed_data() : nullptr;
  }
};

void copy(const Pages& from, void* to) {  // XLA gives both the same memory where it can
  if (to != from.untyped_data()) std::memcpy(to, from.untyped_data(), from.size_bytes());
}

// Write k and v into new pages, those of the layer and copies of the rest.
template <class Page>
void renew(Page, const Layer& here, const F32& k, const F32& v, const Pages& k_pages, const Pages& v_pages,
           NewPages& new_k, NewPages& new_v) {
  copy(k_pages, new_k->untyped_data()), copy(v_pages, new_v->untyped_data());
  write<Page>(here.call, {(uint8_t*)here.call.k, (uint8_t*)here.call.v, k.typed_data(), v.typed_data()});
}

constexpr Rotation kUnturned = {nullptr, nullptr, 1, 0, 0, false};

ffi::Error attention(F32 q, Pages k_pages, Pages v_pages, S32 positions, S32 table, S32 layer, S32 window, F32 sinks,
                     Out out, float scale, float cap, bool bf16) {
  return with_pages(k_pages, q.dimensions()[3], [&](auto page) {
    Layer here(page, q, kUnturned, k_pages, k_pages.untyped_data(), v_pages.untyped_data(), positions, table, layer);
    here.ask(out, scale, window, cap, sinks);
    if (here.why) return ffi::Error::InvalidArgument(here.why);
    return run_pages<decltype(page)>(here.call, bf16);
  });
}

ffi::Error write_kv(Pages k_pages, Pages v_pages, F32 k, F32 v, S32 positions, S32 table, S32 layer, NewPages new_k,
                    NewPages new_v) {
  return with_pages(k_pages, k.dimensions()[3], [&](auto page) {
    Layer here(page, k, kUnturned, k_pages, new_k->untyped_data(), new_v->untyped_data(), positions, table, layer);
    if (here.why) return ffi::Error::InvalidArgument(here.why);
    renew(page, here, k, v, k_pages, v_pages, new_k, new_v);
    return ffi::Error::Success();
  });
}

ffi::Error attend(F32 q, F32 k, F32 v, F32 cos, F32 sin, Pages k_pages, Pages v_pages, S32 positions, S32 table,
                  S32 layer, S32 window, F32 sinks, Out out, NewPages new_k, NewPages new_v, float scale, float cap,
                  bool halves, bool bf16) {
  return with_pages(k_pages, q.dimensions()[3], [&](auto page) {
    auto angles = cos.dimensions();
    const Rotation rotation = {cos.typed_data(), sin.typed_data(), angles[0], angles[1], angles[2], halves};
    Layer here(page, q, rotation, k_pages, new_k->untyped_data(), new_v->untyped_data(), positions, table, layer);
    here.ask(out, scale, window, cap, sinks);
    if (here.why) return ffi::Error::InvalidArgument(here.why);
    renew(page, here, k, v, k_pages, v_pages, new_k, new_v);
    return run_pages<decltype(page)>(here.call, bf16);
  });
}

}  // namespace
}  // namespace soberano

// For arrays without XLA: k and v are the float16 pages of one layer, and indices are not checked.
extern "C" void soberano_attention(const float* q, const uint16_t* k, const uint16_t* v, const int32_t* positions,
                                   const int32_t* table, const float* sinks, float* out, int64_t B, int64_t T,
                                   int64_t H, int64_t K, int64_t E, int64_t page, int64_t pages, int64_t window,
                                   float scale, float cap) {
  soberano::Call c = {{B, T, H, K, E, page, pages}, soberano::kUnturned, q};
  c.k = (const uint8_t*)k, c.v = (const uint8_t*)v, c.positions = positions, c.table = table;
  c.out = out, c.scale = scale, c.window = window, c.cap = cap, c.sinks = sinks;
  soberano::run<soberano::AttendF32<soberano::PlainPage<soberano::F16>>>(c);
}

extern "C" void soberano_write_kv(uint16_t* k_pages, uint16_t* v_pages, const float* k, const float* v,
                                  const int32_t* positions, const int32_t* table, int64_t B, int64_t T, int64_t K,
                                  int64_t E, int64_t page, int64_t pages) {
  soberano::Call c = {{B, T, K, K, E, page, pages}, soberano::kUnturned, nullptr};
  c.positions = positions, c.table = table;
  soberano::write<soberano::PlainPage<soberano::F16>>(c, {(uint8_t*)k_pages, (uint8_t*)v_pages, k, v});
}

using soberano::F32, soberano::S32;

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_attention_ffi, soberano::attention,
                              ffi::Ffi::Bind()
                                  .Arg<F32>()             // q
                                  .Arg<ffi::AnyBuffer>()  // k_pages
                                  .Arg<ffi::AnyBuffer>()  // v_pages
                                  .Arg<S32>()             // positions
                                  .Arg<S32>()             // table
                                  .Arg<S32>()             // layer
                                  .Arg<S32>()             // window
                                  .Arg<F32>()             // sinks
                                  .Ret<F32>()
                                  .Attr<float>("scale")
                                  .Attr<float>("cap")
                                  .Attr<bool>("bf16"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_write_kv_ffi, soberano::write_kv,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()  // k_pages
                                  .Arg<ffi::AnyBuffer>()  // v_pages
                                  .Arg<F32>()             // k
                                  .Arg<F32>()             // v
                                  .Arg<S32>()             // positions
                                  .Arg<S32>()             // table
                                  .Arg<S32>()             // layer
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_attend_ffi, soberano::attend,
                              ffi::Ffi::Bind()
                                  .Arg<F32>()             // q
                                  .Arg<F32>()             // k
                                  .Arg<F32>()             // v
                                  .Arg<F32>()             // cos
                                  .Arg<F32>()             // sin
                                  .Arg<ffi::AnyBuffer>()  // k_pages
                                  .Arg<ffi::AnyBuffer>()  // v_pages
                                  .Arg<S32>()             // positions
                                  .Arg<S32>()             // table
                                  .Arg<S32>()             // layer
                                  .Arg<S32>()             // window
                                  .Arg<F32>()             // sinks
                                  .Ret<F32>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<float>("scale")
                                  .Attr<float>("cap")
                                  .Attr<bool>("halves")
                                  .Attr<bool>("bf16"));
