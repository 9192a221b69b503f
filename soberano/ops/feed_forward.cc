// y = down(act(gate x) * (up x)), the whole gated feed-forward layer. Meaning: soberano/ops/feed_forward.py.
//
//   x (T, D) float32, layer () int32, then gate, up and down as in linear_weight.h -> y (T, D) float32
//
// A thread that multiplies a panel of gate multiplies the same panel of up, so the gated values are made where both
// are in registers; `down` reads them in the form that its product wants. The arithmetic is that of linear.cc.
#include "soberano/ops/activation.h"
#include "soberano/ops/linear_bf16.h"
#include "soberano/ops/linear_int.h"

namespace ffi = xla::ffi;

namespace soberano {
namespace {

// sums (N, 16) of panel p of a weight for N tokens from t.
template <int N> void panel_sums(const Weight& w, int64_t p, const Activations& x, int64_t t, float (*sums)[16]) {
  with_tile(w.kind, [&](auto tile) {
    f32x16 acc[N];
    panel<decltype(tile), N>(w.panel(p), x, t, acc);
    for (int n = 0; n < N; n++) store(sums[n], acc[n]);
  });
}

template <Activation act>
void feed_forward_int(const float* x, const std::vector<Weight>& w, int64_t T, int64_t D, float* y) {
  static thread_local Activations outer_memory, inner_memory;
  static thread_local Scratch<float> hidden_memory;
  const Weight &gate = w[0], &up = w[1], &down = w[2];
  Activations &outer = outer_memory, &inner = inner_memory;
  float* hidden = hidden_memory.room(T * gate.outputs);
  outer.take(x, T, D, {gate, up});
  const int64_t n = shares_of(gate.bytes + up.bytes, T), panels = gate.panels();
  Pool::instance().parallel(int(n), [&](int i) {
    for (int64_t p = i * panels / n; p < (i + 1) * panels / n; p++)
      each_tokens(T, [&](auto N, int64_t t) {
        alignas(64) float g[N][16], u[N][16];
        panel_sums<N>(gate, p, outer, t, g);
        panel_sums<N>(up, p, outer, t, u);
        for (int m = 0; m < N; m++)
          store_some(hidden + (t + m) * gate.outputs + p * 16, activate<act>(load(g[m])) * load(u[m]),
                     gate.outputs - p * 16);
      });
  });
  inner.take(hidden, T, gate.outputs, {down});
  products_int({down}, inner, T, {y});
}

#if SOBERANO_AMX
template <Activation act>
void feed_forward_bf16(const float* x, const std::vector<Weight>& w, int64_t T, int64_t D, float* y) {
  static thread_local Bf16Tokens outer_memory, inner_memory;
  const Weight &gate = w[0], &up = w[1];
  Bf16Tokens &outer = outer_memory, &inner = inner_memory;
  outer.convert(x, T, D);
  inner.resize(T, gate.outputs);
  std::vector<PanelPair> pairs;
  for (int64_t p = 0; p < gate.panels(); p++) pairs.push_back({&gate, p, &up, p});
  multiply_pairs(outer, pairs, decode_panel, [&](const PanelPair& pair, int64_t t) {
    Bf16Sums sums;
    sums.store();
    const int64_t first = pair.first_panel * 16;
    for (int64_t n = 0; n < 32; n++) {
      const f32x16 g = load(sums.tile[n / 16][n % 16]), u = load(sums.tile[2 + n / 16][n % 16]);
      const __m256bh half = _mm512_cvtneps_pbh((activate<act>(g) * u).v);
      _mm256_storeu_si256((__m256i*)(inner.row(t + n, first / 32 * 32) + first % 32), (__m256i)half);
    }
  });
  products_bf16({w[2]}, inner, {y});
}
#endif

template <Activation act>
ffi::Error run(const float* x, const std::vector<Weight>& weights, int64_t T, int64_t D, float* y, bool bf16) {
  if (!bf16) {
    feed_forward_int<act>(x, weights, T, D, y);
    return ffi::Error::Success();
  }
#if SOBERANO_AMX
  if (amx_allowed()) {
    feed_forward_bf16<act>(x, weights, T, D, y);
    return ffi::Error::Success();
  }
#endif
  return ffi::Error(ffi::ErrorCode::kUnimplemented, "feed_forward: this processor has no matrix unit for bfloat16");
}

}  // namespace
}  // namespace soberano

static ffi::Error feed_forward(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::S32> layer, ffi::RemainingArgs args,
                               ffi::ResultBuffer<ffi::F32> y, ffi::Span<const int32_t> members,
                               ffi::Span<const int32_t> kinds, ffi::Span<const int64_t> outputs, int32_t activation,
                               bool bf16) {
  using namespace soberano;
  const int64_t D = x.dimensions().back(), T = D ? int64_t(x.element_count()) / D : 0;
  std::vector<Weight> weights;
  if (const char* why = WeightArgs(args, members, kinds, outputs, *layer.typed_data()).read(weights))
    return ffi::Error::InvalidArgument(why);
  if (weights.size() != 3) return ffi::Error::InvalidArgument("feed_forward: takes gate, up and down");
  if (!T) return ffi::Error::Success();
  switch (Activation(activation)) {
    case Activation::silu:
      return run<Activation::silu>(x.typed_data(), weights, T, D, y->typed_data(), bf16);
    case Activation::gelu:
      return run<Activation::gelu>(x.typed_data(), weights, T, D, y->typed_data(), bf16);
    case Activation::gelu_erf:
      return run<Activation::gelu_erf>(x.typed_data(), weights, T, D, y->typed_data(), bf16);
  }
  return ffi::Error::InvalidArgument("feed_forward: the activation is not known");
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_feed_forward_ffi, feed_forward,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<ffi::Span<const int32_t>>("members")
                                  .Attr<ffi::Span<const int32_t>>("kinds")
                                  .Attr<ffi::Span<const int64_t>>("outputs")
                                  .Attr<int32_t>("activation")
                                  .Attr<bool>("bf16"));
