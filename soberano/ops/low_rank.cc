// y[k] += scale[k] (x a[k]^T) b[k]^T and its gradient, in the matrix unit: bfloat16 with float32 sums, as
// linear_bf16.h. Meaning: soberano/ops/low_rank.py.
//
//   x (T, I), then a (R, I) and b (O, R) of each pair, then y (T, O) of each -> the same y, with the products added
//   x and pairs likewise, then the gradient of each y                        -> those of x, and of a and b of each pair
//
// All float32; I and every O are multiples of 32. Every sum is made inside the unit in one order, whatever the threads.
#include "soberano/ops/linear_bf16.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

#if SOBERANO_AMX
namespace soberano {
namespace {

struct Pair {
  const float *a, *b;
  int64_t R, O;
  float scale;
  int64_t panel;       // the first of its panels, of sixteen rows of `a`, in the stack of all of them
  int64_t group;       // the first of its groups, of 32 numbers of rank, likewise
  const float* grad;   // of the result, on the way back
  float *y, *da, *db;  // what is computed

  int64_t panels() const { return (R + 15) / 16; }
  int64_t groups() const { return (R + 31) / 32; }
};

struct Call {
  const float* x;
  int64_t T, I;
  std::vector<Pair> pairs;
  float* dx;
  int64_t panels = 0, groups = 0;  // of all pairs

  void add(Pair pair) {
    pair.panel = panels, pair.group = groups;
    panels += pair.panels(), groups += pair.groups();
    pairs.push_back(pair);
  }
  int64_t blocks() const { return (T + 31) / 32; }
  const Pair& of(int64_t panel) const {
    size_t k = 0;
    while (panel >= pairs[k].panel + pairs[k].panels()) k++;
    return pairs[k];
  }
  // Row `row` of the stack of all `a`, each filled up to whole panels; null where it is filling.
  const float* row(int64_t row) const {
    const Pair& pair = of(row / 16);
    const int64_t r = row - 16 * pair.panel;
    return r < pair.R ? pair.a + r * I : nullptr;
  }
};

// A matrix as the unit reads weights: panels of sixteen outputs, out[pair of inputs][output][2] bfloat16.
class Panels {
 public:
  // decode(panel, out) fills each.
  template <class Decode> void fill(int64_t panels, int64_t inputs, Decode&& decode) {
    count_ = panels, inputs_ = inputs, data_ = memory_.room(panels * inputs * 16);
    Pool::instance().parallel(int(panels), [&](int p) { decode(p, data_ + p * inputs_ * 16); });
  }

  // Multiply 32 tokens by every panel: finish(first panel) is called with the sums of it and of the next in tiles 0 to
  // 3, for every second one.
  template <class Finish> void multiply_all(const uint16_t* tokens, Finish&& finish) const {
    for (int64_t p = 0; p < count_; p += 2) {
      Bf16Sums::zero();
      multiply(tokens, data_ + p * inputs_ * 16, data_ + std::min(p + 1, count_ - 1) * inputs_ * 16, inputs_ / 32);
      finish(p);
    }
  }

 private:
  Scratch<uint16_t> memory_;
  uint16_t* data_ = nullptr;
  int64_t count_ = 0, inputs_ = 0;
};

// Sixteen outputs that are rows, of `inputs` numbers each; row(n) is null for one of zeros.
template <class Row> void decode_rows(int64_t inputs, float scale, uint16_t* out, Row&& row) {
  for (int64_t i = 0; i < (inputs + 31) / 32 * 32; i += 16, out += 256) {
    f32x16 values[16];
    for (int n = 0; n < 16; n++) {
      const float* from = row(n);
      values[n] = from && i < inputs ? load_some(from + i, inputs - i) * set1(scale) : set1(0.0f);
    }
    turn_pairs(values, out);
  }
}

// Sixteen outputs that are columns, of `inputs` rows, up to a multiple of 32: row(i) gives the sixteen of an input.
template <class Row> void decode_columns(int64_t inputs, uint16_t* out, Row&& row) {
  for (int64_t i = 0; i < (inputs + 31) / 32 * 32; i += 2, out += 32) {
    const f32x16 a = i < inputs ? row(i) : set1(0.0f), b = i + 1 < inputs ? row(i + 1) : set1(0.0f);
    _mm512_storeu_si512(out, to_bf16_pairs(a.v, b.v));
  }
}

// Call put(n, output, sixteen numbers) for the sums of up to 32 tokens and the panels p and p + 1, below `panels`.
template <class Put> void each_sum(int64_t p, int64_t panels, int64_t tokens, Put&& put) {
  Bf16Sums sums;
  sums.store();
  for (int64_t half = 0; half < 2 && p + half < panels; half++)
    for (int64_t n = 0; n < tokens; n++) put(n, p + half, load(sums.tile[2 * half + n / 16][n % 16]));
}

// Add the sums of up to 32 tokens and 32 outputs to y, whose rows are `stride` apart.
void add_outputs(float* y, int64_t tokens, int64_t stride) {
  each_sum(0, 2, tokens, [&](int64_t n, int64_t half, f32x16 v) {
    float* to = y + n * stride + 16 * half;
    store(to, load(to) + v);
  });
}

// x a^T of all pairs, for 32 tokens: put(token, panel, sixteen numbers of the stack of all `a`).
void decode_a(const Call& c, Panels& a) {
  a.fill(c.panels, c.I,
         [&](int64_t p, uint16_t* out) { decode_rows(c.I, 1.0f, out, [&](int n) { return c.row(16 * p + n); }); });
}

void forward(const Call& c) {
  static thread_local Panels a_memory;
  static thread_local std::vector<Panels> b_memory;
  Panels& a = a_memory;
  std::vector<Panels>& b = b_memory;
  if (b.size() < c.pairs.size()) b = std::vector<Panels>(c.pairs.size());
  decode_a(c, a);
  for (size_t k = 0; k < c.pairs.size(); k++) {
    const Pair& pair = c.pairs[k];
    b[k].fill(pair.O / 16, 32 * pair.groups(), [&](int64_t p, uint16_t* out) {
      decode_rows(pair.R, pair.scale, out, [&](int n) { return pair.b + (16 * p + n) * pair.R; });
    });
  }
  Pool::instance().parallel(int(c.blocks()), [&](int block) {
    static thread_local Scratch<uint16_t> x_memory, inner_memory;
    const int64_t there = std::min<int64_t>(32, c.T - 32 * block);
    uint16_t *x = x_memory.room(32 * c.I), *inner = inner_memory.room(1024 * c.groups);
    configure_tiles();
    convert_block(c.x + 32 * block * c.I, there, c.I, c.I, x);
    std::fill_n(inner, 1024 * c.groups, uint16_t(0));
    a.multiply_all(x, [&](int64_t p) {
      each_sum(p, c.panels, 32, [&](int64_t n, int64_t panel, f32x16 v) {
        const Pair& pair = c.of(panel);
        const int64_t at = panel - pair.panel;  // two panels are a group
        uint16_t* to = inner + 1024 * (pair.group + at / 2) + 32 * n + at % 2 * 16;
        _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(v.v));
      });
    });
    for (size_t k = 0; k < c.pairs.size(); k++) {
      const Pair& pair = c.pairs[k];
      b[k].multiply_all(inner + 1024 * pair.group,
                        [&](int64_t p) { add_outputs(pair.y + 32 * block * pair.O + 16 * p, there, pair.O); });
    }
    _tile_release();
  });
}

// What the way back keeps between its two passes: x a^T and the gradient of it, a row for each number of rank, its
// tokens as columns.
struct Turned {
  Bf16Tokens inner, outer;

  void put(Bf16Tokens& rows, int64_t panel, int64_t token, f32x16 values) {
    alignas(64) float each[16];
    store(each, values);
    for (int r = 0; r < 16; r++) rows.row(16 * panel + r, token / 32 * 32)[token % 32] = f32_to_bf16(each[r]);
  }
};

// The first pass: the gradient of x, and what the second needs.
void back_to_x(const Call& c, Turned& turned) {
  static thread_local Panels a_memory, across_memory;
  static thread_local std::vector<Panels> b_memory;
  Panels &a = a_memory, &across = across_memory;
  std::vector<Panels>& b = b_memory;
  if (b.size() < c.pairs.size()) b = std::vector<Panels>(c.pairs.size());
  decode_a(c, a);
  const int64_t stack = (c.panels + 1) / 2 * 32;
  across.fill(c.I / 16, stack, [&](int64_t p, uint16_t* out) {
    decode_columns(16 * c.panels, out, [&](int64_t row) {
      const float* from = c.row(row);
      return from ? load(from + 16 * p) : set1(0.0f);
    });
    std::fill_n(out + 256 * c.panels, 16 * stack - 256 * c.panels, uint16_t(0));
  });
  for (size_t k = 0; k < c.pairs.size(); k++) {
    const Pair& pair = c.pairs[k];
    b[k].fill(pair.panels(), pair.O, [&](int64_t p, uint16_t* out) {
      decode_columns(pair.O, out, [&](int64_t o) {
        return load_some(pair.b + o * pair.R + 16 * p, pair.R - 16 * p) * set1(pair.scale);
      });
    });
  }
  turned.inner.resize(32 * ((c.panels + 1) / 2), c.blocks() * 32),
      turned.outer.resize(32 * ((c.panels + 1) / 2), c.blocks() * 32);
  Pool::instance().parallel(int(c.blocks()), [&](int block) {
    static thread_local Scratch<uint16_t> memory, outer_memory;
    const int64_t there = std::min<int64_t>(32, c.T - 32 * block);
    int64_t widest = c.I;
    for (const Pair& pair : c.pairs) widest = std::max(widest, pair.O);
    uint16_t *tokens = memory.room(32 * widest), *outer = outer_memory.room(32 * stack);
    configure_tiles();
    convert_block(c.x + 32 * block * c.I, there, c.I, c.I, tokens);
    a.multiply_all(tokens, [&](int64_t p) {
      each_sum(p, c.panels, 32,
               [&](int64_t n, int64_t panel, f32x16 v) { turned.put(turned.inner, panel, 32 * block + n, v); });
    });
    std::fill_n(outer, 32 * stack, uint16_t(0));
    for (size_t k = 0; k < c.pairs.size(); k++) {
      const Pair& pair = c.pairs[k];
      convert_block(pair.grad + 32 * block * pair.O, there, pair.O, pair.O, tokens);
      b[k].multiply_all(tokens, [&](int64_t p) {
        each_sum(p, pair.panels(), 32, [&](int64_t n, int64_t mine, f32x16 v) {
          const int64_t panel = pair.panel + mine;
          turned.put(turned.outer, panel, 32 * block + n, v);
          uint16_t* to = outer + 1024 * (panel / 2) + 32 * n + panel % 2 * 16;
          _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(v.v));
        });
      });
    }
    across.multiply_all(outer, [&](int64_t p) { store_outputs(c.dx + 32 * block * c.I + 16 * p, there, 32, c.I); });
    _tile_release();
  });
}

// Sums over tokens: two panels of sixteen columns of y (T, width), from column 32 at on, times every 32 rows of rank in
// [first, last). put(row, panel of y, sixteen numbers).
template <class Put>
void over_tokens(const Call& c, const float* y, int64_t width, int64_t at, const Bf16Tokens& rows, int64_t first,
                 int64_t last, Put&& put) {
  static thread_local Scratch<uint16_t> memory;
  const int64_t groups = c.blocks();
  uint16_t* panels = memory.room(2 * 512 * groups);
  for (int half = 0; half < 2; half++)
    decode_columns(c.T, panels + half * 512 * groups,
                   [&](int64_t t) { return load(y + t * width + 32 * at + 16 * half); });
  for (int64_t block = first / 32; 32 * block < last; block++) {
    Bf16Sums::zero();
    multiply(rows.tiles(block, 0), panels, panels + 512 * groups, groups);
    each_sum(2 * at, 2 * at + 2, 32, [&](int64_t n, int64_t panel, f32x16 v) {
      const int64_t row = 32 * block + n;
      if (row >= first && row < last) put(row, panel, v);
    });
  }
}

// The second pass: the gradients of a and b.
void back_to_pairs(const Call& c, const Turned& turned) {
  int64_t strips = c.I / 32;
  for (const Pair& pair : c.pairs) strips += pair.O / 32;
  Pool::instance().parallel(int(strips), [&](int strip) {
    int64_t at = strip;
    configure_tiles();
    if (at < c.I / 32)
      over_tokens(c, c.x, c.I, at, turned.outer, 0, 16 * c.panels, [&](int64_t row, int64_t panel, f32x16 v) {
        const Pair& pair = c.of(row / 16);
        const int64_t r = row - 16 * pair.panel;
        if (r < pair.R) store(pair.da + r * c.I + 16 * panel, v);
      });
    at -= c.I / 32;
    for (const Pair& pair : c.pairs) {
      if (at >= 0 && at < pair.O / 32)
        over_tokens(c, pair.grad, pair.O, at, turned.inner, 16 * pair.panel, 16 * pair.panel + pair.R,
                    [&](int64_t row, int64_t panel, f32x16 v) {
                      alignas(64) float each[16];
                      store(each, v * set1(pair.scale));
                      float* to = pair.db + 16 * panel * pair.R + row - 16 * pair.panel;
                      for (int o = 0; o < 16; o++) to[o * pair.R] = each[o];
                    });
      at -= pair.O / 32;
    }
    _tile_release();
  });
}

void backward(const Call& c) {
  static thread_local Turned memory;
  back_to_x(c, memory);
  back_to_pairs(c, memory);
}

}  // namespace
}  // namespace soberano
#endif

using Floats = ffi::Buffer<ffi::F32>;

// Reads the arguments and results of a call, and runs it.
static ffi::Error low_ranks(Floats x, ffi::RemainingArgs args, ffi::RemainingRets results,
                            ffi::Span<const float> scales, bool back) {
#if SOBERANO_AMX
  using namespace soberano;
  if (amx_allowed()) {
    const int64_t I = x.dimensions().back(), T = I ? int64_t(x.element_count()) / I : 0;
    const size_t count = scales.size();
    Call call = {x.typed_data(), T, I, {}, nullptr};
    auto made = [&](size_t i) { return (*results.get<Floats>(i))->typed_data(); };
    for (size_t k = 0; k < count; k++) {
      const auto a = *args.get<Floats>(2 * k), b = *args.get<Floats>(2 * k + 1);
      Pair pair = {a.typed_data(), b.typed_data(), b.dimensions()[1], b.dimensions()[0], scales[k]};
      const auto y = *args.get<Floats>(2 * count + k);
      if (back) {
        pair.grad = y.typed_data(), pair.da = made(1 + 2 * k), pair.db = made(2 + 2 * k);
      } else {
        pair.y = made(k);  // where y is already, unless it had to stay
        if (pair.y != y.typed_data()) std::copy_n(y.typed_data(), T * pair.O, pair.y);
      }
      call.add(pair);
    }
    if (back) call.dx = made(0);
    back ? backward(call) : forward(call);
    return ffi::Error::Success();
  }
#endif
  return ffi::Error(ffi::ErrorCode::kUnimplemented, "low_rank: this processor has no matrix unit for bfloat16");
}

static ffi::Error low_ranks_there(Floats x, ffi::RemainingArgs args, ffi::RemainingRets rets,
                                  ffi::Span<const float> s) {
  return low_ranks(x, args, rets, s, false);
}

static ffi::Error low_ranks_back(Floats x, ffi::RemainingArgs args, ffi::RemainingRets rets, ffi::Span<const float> s) {
  return low_ranks(x, args, rets, s, true);
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    soberano_low_ranks_ffi, low_ranks_there,
    ffi::Ffi::Bind().Arg<Floats>().RemainingArgs().RemainingRets().Attr<ffi::Span<const float>>("scales"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    soberano_low_ranks_back_ffi, low_ranks_back,
    ffi::Ffi::Bind().Arg<Floats>().RemainingArgs().RemainingRets().Attr<ffi::Span<const float>>("scales"));
