// x[t, i] = sum over o of y[t, o] w[o, i], added over weights in tiles. Meaning: soberano/ops/linear_transposed.py.
//
//   layer () int32, then the weights as in linear_weight.h, then y (T, O) float32 for each -> x (T, I) float32
//
// Sixteen columns of all weights are decoded, turned, and then are what a panel is to linear.cc: sixteen outputs, whose
// inputs are the rows of the weights one after another, each weight filled up with rows of zeros to a multiple of 32.
// So the products are those of linear_bf16.h and linear_f32.h, and so are their promises.
#include "soberano/ops/linear_bf16.h"
#include "soberano/ops/linear_int.h"

namespace ffi = xla::ffi;

namespace soberano {
namespace {

int64_t padded(const Weight& w) { return (w.outputs + 31) / 32 * 32; }

// The rows of several weights, one after another.
class Rows {
 public:
  explicit Rows(const std::vector<Weight>& weights) : weights_(weights) {
    for (const Weight& w : weights) count += padded(w);
  }

  // Call use(w, p) with the panel that holds the sixteen rows from `row`; false where there are only zeros.
  template <class Use> bool panel(int64_t row, Use&& use) const {
    for (const Weight& w : weights_) {
      if (row < padded(w)) return row / 16 < w.panels() ? (use(w, row / 16), true) : false;
      row -= padded(w);
    }
    return false;
  }

  int64_t count = 0;

 private:
  const std::vector<Weight>& weights_;
};

// Sixteen rows of a panel, columns 16 strip to 16 strip + 15: a vector of rows for each column.
void decode_strip(const Weight& w, int64_t p, int64_t strip, f32x16* columns) {
  with_tile(w.kind, [&](auto tile) {
    using Tile = decltype(tile);
    const Tile& from = ((const Tile*)w.panel(p))[strip * 16 / Tile::columns];
    decode_sixteen(from, int(strip * 16 % Tile::columns / 16), columns);
  });
}

// Rows [first, first + count) of a strip as a panel of float32: what is a row there is a column here.
void turn(const Rows& rows, int64_t strip, int64_t first, int64_t count, float* out) {
  for (int64_t r = 0; r < count; r += 16, out += 256) {
    float columns[16][16] = {};
    rows.panel(first + r, [&](const Weight& w, int64_t p) {
      f32x16 decoded[16];
      decode_strip(w, p, strip, decoded);
      for (int c = 0; c < 16; c++) store(columns[c], decoded[c]);
    });
    for (int i = 0; i < 16; i++)
      for (int c = 0; c < 16; c++) out[16 * i + c] = columns[c][i];
  }
}

// The strips of weights of I columns, two and two; each of them is of all weights.
std::vector<PanelPair> strips_of(const std::vector<Weight>& weights, int64_t I) {
  std::vector<PanelPair> strips;
  for (int64_t strip = 0; strip < I / 16; strip += 2) strips.push_back({&weights[0], strip, &weights[0], strip + 1});
  return strips;
}

void transposed_f32(const std::vector<Weight>& weights, const std::vector<const float*>& ys, int64_t T, int64_t I,
                    float* x) {
  static thread_local Scratch<float> memory;
  const Rows rows(weights);
  const int64_t stride = rows.count + 16;  // else rows of y would be a power of two apart, and share their cache lines
  float* y = memory.room(T * stride);
  int64_t at = 0;
  for (size_t k = 0; k < weights.size(); at += padded(weights[k]), k++)
    for (int64_t t = 0; t < T; t++) {
      float* to = std::copy_n(ys[k] + t * weights[k].outputs, weights[k].outputs, y + t * stride + at);
      std::fill_n(to, padded(weights[k]) - weights[k].outputs, 0.0f);
    }
  auto decode = [&](const Weight&, int64_t strip, int64_t first, int64_t count, float* out) {
    turn(rows, strip, first, count, out);
    return out;
  };
  multiply_f32(y, T, rows.count, stride, strips_of(weights, I), decode,
               [&](const PanelPair& pair, int64_t t, f32x16 a, f32x16 b) {
                 float* to = x + t * I + pair.first_panel * 16;
                 store(to, a), store(to + 16, b);
               });
}

#if SOBERANO_AMX
void transposed_bf16(const std::vector<Weight>& weights, const std::vector<const float*>& ys, int64_t T, int64_t I,
                     float* x) {
  static thread_local Bf16Tokens memory;
  Bf16Tokens& tokens = memory;
  const Rows rows(weights);
  tokens.resize(T, rows.count);
  int64_t at = 0;
  for (size_t k = 0; k < weights.size(); at += padded(weights[k]), k++) tokens.fill(ys[k], weights[k].outputs, at);
  auto decode = [&](const Weight&, int64_t strip, int64_t first, int64_t count, uint16_t* out) {
    for (int64_t r = 0; r < count; r += 16, out += 256) {
      f32x16 columns[16];
      if (rows.panel(first + r, [&](const Weight& w, int64_t p) { decode_strip(w, p, strip, columns); }))
        turn_pairs(columns, out);
      else
        std::fill_n(out, 256, uint16_t(0));
    }
  };
  multiply_pairs(tokens, strips_of(weights, I), decode, [&](const PanelPair& pair, int64_t t) {
    store_outputs(x + t * I + pair.first_panel * 16, std::min<int64_t>(32, T - t), 32, I);
  });
}
#endif

}  // namespace
}  // namespace soberano

extern "C" void soberano_linear_transposed(const float* y, const uint8_t* tiles, float* x, int64_t T, int64_t I,
                                           int64_t O, int64_t kind) {
  soberano::with_tile(kind, [&](auto tile) {
    const int64_t bytes = (O + 15) / 16 * (I / decltype(tile)::columns) * int64_t(sizeof(tile));
    soberano::transposed_f32({{tiles, O, kind, bytes}}, {y}, T, I, x);
  });
}

static ffi::Error transposed(ffi::Buffer<ffi::S32> layer, ffi::RemainingArgs args, ffi::ResultBuffer<ffi::F32> x,
                             ffi::Span<const int32_t> members, ffi::Span<const int32_t> kinds,
                             ffi::Span<const int64_t> outputs, ffi::Span<const int32_t> biased, int32_t arithmetic) {
  using namespace soberano;
  const int64_t I = x->dimensions().back(), T = I ? int64_t(x->element_count()) / I : 0;
  std::vector<Weight> weights;
  WeightArgs reader(args, members, kinds, outputs, biased, *layer.typed_data());
  if (const char* why = reader.read(weights)) return ffi::Error::InvalidArgument(why);
  std::vector<const float*> ys;
  for (size_t i = 0; i < weights.size(); i++) {
    auto y = args.get<ffi::Buffer<ffi::F32>>(reader.end() + i);
    if (y.has_error()) return ffi::Error::InvalidArgument("linear_transposed: takes a float32 array for each weight");
    ys.push_back(y->typed_data());
  }
  if (!T) return ffi::Error::Success();
  if (Arithmetic(arithmetic) != Arithmetic::bf16) {
    transposed_f32(weights, ys, T, I, x->typed_data());
    return ffi::Error::Success();
  }
#if SOBERANO_AMX
  if (amx_allowed()) {
    transposed_bf16(weights, ys, T, I, x->typed_data());
    return ffi::Error::Success();
  }
#endif
  return ffi::Error(ffi::ErrorCode::kUnimplemented,
                    "linear_transposed: this processor has no matrix unit for bfloat16");
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_linear_transposed_ffi, transposed,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<ffi::Span<const int32_t>>("members")
                                  .Attr<ffi::Span<const int32_t>>("kinds")
                                  .Attr<ffi::Span<const int64_t>>("outputs")
                                  .Attr<ffi::Span<const int32_t>>("biased")
                                  .Attr<int32_t>("arithmetic"));
