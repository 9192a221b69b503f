// y = down(act(gate x) * (up x)), the whole feed-forward layer; without a gate down(act(up x)). Each product may have a
// bias. Meaning: soberano/ops/feed_forward.py.
//
//   x (T, D) float32, layer () int32, then gate, if there is one, up and down as in linear_weight.h -> y (T, D) float32
//
// A thread that multiplies a panel of gate multiplies the same panel of up, so the gated values are made where both
// are in registers; `down` reads them in the form that its product wants. The arithmetic is that of linear.cc.
#include "soberano/ops/activation.h"
#include "soberano/ops/linear_bf16.h"
#include "soberano/ops/linear_int.h"

namespace ffi = xla::ffi;

namespace soberano {
namespace {

struct Call {
  const float* x;
  const Weight *gate, *up, *down;  // gate may be missing
  int64_t T, D, F;
  float* y;

  std::vector<Weight> first() const { return gate ? std::vector<Weight>{*gate, *up} : std::vector<Weight>{*up}; }

  std::vector<PanelPair> pairs() const {
    std::vector<PanelPair> pairs;
    if (gate)
      for (int64_t p = 0; p < gate->panels(); p++) pairs.push_back({gate, p, up, p});
    else
      add_pairs(*up, pairs);
    return pairs;
  }
};

// From the sums of a pair of panels to what `down` reads: put(first of sixteen columns, values), once with a gate,
// twice without. F is whole tiles of `down`, so both panels are there.
template <Activation act, class Put> void activate_pair(const PanelPair& pair, f32x16 a, f32x16 b, Put&& put) {
  a = pair.first->biased(pair.first_panel, a), b = pair.second->biased(pair.second_panel, b);
  if (pair.first != pair.second) return put(16 * pair.first_panel, activate<act>(a) * b);
  put(16 * pair.first_panel, activate<act>(a));
  put(16 * pair.second_panel, activate<act>(b));
}

// sums (N, 16) of panel p of a weight for N tokens from t.
template <int N> void panel_sums(const Weight& w, int64_t p, const Activations& x, int64_t t, float (*sums)[16]) {
  with_tile(w.kind, [&](auto tile) {
    f32x16 acc[N];
    panel<decltype(tile), N>(w.panel(p), x, t, acc);
    for (int n = 0; n < N; n++) store(sums[n], acc[n]);
  });
}

template <Activation act> void first_int(const Call& c, const std::vector<PanelPair>& pairs, float* hidden) {
  static thread_local Activations memory;
  Activations& x = memory;
  const std::vector<Weight> first = c.first();
  x.take(c.x, c.T, c.D, first);
  const int64_t n = shares_of(first[0].bytes + first.back().bytes, c.T), count = int64_t(pairs.size());
  Pool::instance().parallel(int(n), [&](int i) {
    for (int64_t at = i * count / n; at < (i + 1) * count / n; at++)
      each_tokens(c.T, [&](auto N, int64_t t) {
        const PanelPair& pair = pairs[at];
        alignas(64) float a[N][16], b[N][16];
        panel_sums<N>(*pair.first, pair.first_panel, x, t, a);
        panel_sums<N>(*pair.second, pair.second_panel, x, t, b);
        for (int m = 0; m < N; m++)
          activate_pair<act>(pair, load(a[m]), load(b[m]),
                             [&](int64_t column, f32x16 v) { store(hidden + (t + m) * c.F + column, v); });
      });
  });
}

template <Activation act> void feed_forward_f32(const Call& c, bool exact) {
  static thread_local Scratch<float> memory;
  float* hidden = memory.room(c.T * c.F);
  const std::vector<PanelPair> pairs = c.pairs();
  if (exact || (c.T >= kMany && all_plain(c.first())))
    multiply_f32(c.x, c.T, c.D, c.D, pairs, float_columns, [&](const PanelPair& pair, int64_t t, f32x16 a, f32x16 b) {
      activate_pair<act>(pair, a, b, [&](int64_t column, f32x16 v) { store(hidden + t * c.F + column, v); });
    });
  else
    first_int<act>(c, pairs, hidden);
  (exact ? products_f32 : products)({*c.down}, hidden, c.T, c.F, {c.y});
}

#if SOBERANO_AMX
template <Activation act> void feed_forward_bf16(const Call& c) {
  static thread_local Bf16Tokens outer_memory, inner_memory;
  Bf16Tokens &outer = outer_memory, &inner = inner_memory;
  outer.convert(c.x, c.T, c.D);
  inner.resize(c.T, c.F);
  multiply_pairs(outer, c.pairs(), decode_panel, [&](const PanelPair& pair, int64_t t) {
    Bf16Sums sums;
    sums.store();
    for (int64_t n = 0; n < 32; n++)
      activate_pair<act>(pair, load(sums.tile[n / 16][n % 16]), load(sums.tile[2 + n / 16][n % 16]),
                         [&](int64_t column, f32x16 v) {
                           uint16_t* to = inner.row(t + n, column / 32 * 32) + column % 32;
                           _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(v.v));
                         });
  });
  products_bf16({*c.down}, inner, {c.y});
}
#endif

template <Activation act> ffi::Error run(const Call& c, Arithmetic arithmetic) {
  if (arithmetic != Arithmetic::bf16) {
    feed_forward_f32<act>(c, arithmetic == Arithmetic::f32);
    return ffi::Error::Success();
  }
#if SOBERANO_AMX
  if (amx_allowed()) {
    feed_forward_bf16<act>(c);
    return ffi::Error::Success();
  }
#endif
  return ffi::Error(ffi::ErrorCode::kUnimplemented, "feed_forward: this processor has no matrix unit for bfloat16");
}

}  // namespace
}  // namespace soberano

static ffi::Error feed_forward(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::S32> layer, ffi::RemainingArgs args,
                               ffi::ResultBuffer<ffi::F32> y, ffi::Span<const int32_t> members,
                               ffi::Span<const int32_t> kinds, ffi::Span<const int64_t> outputs,
                               ffi::Span<const int32_t> biased, int32_t activation, int32_t arithmetic) {
  using namespace soberano;
  const int64_t D = x.dimensions().back(), T = D ? int64_t(x.element_count()) / D : 0;
  std::vector<Weight> weights;
  if (const char* why = WeightArgs(args, members, kinds, outputs, biased, *layer.typed_data()).read(weights))
    return ffi::Error::InvalidArgument(why);
  if (weights.size() != 2 && weights.size() != 3)
    return ffi::Error::InvalidArgument("feed_forward: takes gate, up and down, or up and down");
  if (!T) return ffi::Error::Success();
  const Weight *down = &weights.back(), *up = down - 1, *gate = weights.size() == 3 ? up - 1 : nullptr;
  const Call call = {x.typed_data(), gate, up, down, T, D, up->outputs, y->typed_data()};
  switch (Activation(activation)) {
    case Activation::silu:
      return run<Activation::silu>(call, Arithmetic(arithmetic));
    case Activation::gelu:
      return run<Activation::gelu>(call, Arithmetic(arithmetic));
    case Activation::gelu_erf:
      return run<Activation::gelu_erf>(call, Arithmetic(arithmetic));
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
                                  .Attr<ffi::Span<const int32_t>>("biased")
                                  .Attr<int32_t>("activation")
                                  .Attr<int32_t>("arithmetic"));
