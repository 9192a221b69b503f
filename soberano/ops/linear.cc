// y[t, o] = sum over i of w[o, i] x[t, i], plus a bias, for weights in tiles (soberano/quant/tiles.h) and float
// activations.
//
//   x (T, I) float32, layer () int32, then the weights as in linear_weight.h -> y (T, O) float32 for each
//
// Tokens that were generated go through the integers of linear_int.h, or, for plain weights, through the float32 of
// linear_plain.h and linear_f32.h; those of a prompt, where there is a matrix unit, through linear_bf16.h; and all
// through linear_f32.h where it is to be exact.
#include "soberano/ops/linear_bf16.h"
#include "soberano/ops/linear_int.h"

namespace ffi = xla::ffi;

namespace soberano {

#if SOBERANO_AMX
static void prompt_products(const float* x, const std::vector<Weight>& weights, int64_t T, int64_t I,
                            const std::vector<float*>& ys) {
  static thread_local Bf16Tokens memory;
  Bf16Tokens& tokens = memory;
  tokens.convert(x, T, I);
  products_bf16(weights, tokens, ys);
}
#endif

}  // namespace soberano

extern "C" void soberano_linear(const float* x, const uint8_t* tiles, float* y, int64_t T, int64_t I, int64_t O,
                                int64_t kind) {
  soberano::with_tile(kind, [&](auto tile) {
    const int64_t bytes = (O + 15) / 16 * (I / decltype(tile)::columns) * int64_t(sizeof(tile));
    soberano::products({{tiles, O, kind, bytes}}, x, T, I, {y});
  });
}

static ffi::Error linear(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::S32> layer, ffi::RemainingArgs args,
                         ffi::RemainingRets results, ffi::Span<const int32_t> members, ffi::Span<const int32_t> kinds,
                         ffi::Span<const int64_t> outputs, ffi::Span<const int32_t> biased, int32_t arithmetic) {
  using namespace soberano;
  const int64_t I = x.dimensions().back(), T = I ? int64_t(x.element_count()) / I : 0;
  std::vector<Weight> weights;
  if (const char* why = WeightArgs(args, members, kinds, outputs, biased, *layer.typed_data()).read(weights))
    return ffi::Error::InvalidArgument(why);
  std::vector<float*> ys;
  for (size_t i = 0; i < results.size(); i++) {
    auto y = results.get<ffi::Buffer<ffi::F32>>(i);
    if (y.has_error()) return ffi::Error::InvalidArgument("linear: results are float32");
    ys.push_back((*y)->typed_data());
  }
  if (!T) return ffi::Error::Success();
  if (Arithmetic(arithmetic) != Arithmetic::bf16) {
    const bool exact = Arithmetic(arithmetic) == Arithmetic::f32;
    (exact ? products_f32 : products)(weights, x.typed_data(), T, I, ys);
    return ffi::Error::Success();
  }
#if SOBERANO_AMX
  if (amx_allowed()) {
    prompt_products(x.typed_data(), weights, T, I, ys);
    return ffi::Error::Success();
  }
#endif
  return ffi::Error(ffi::ErrorCode::kUnimplemented, "linear: this processor has no matrix unit for bfloat16");
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_linear_ffi, linear,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<ffi::Span<const int32_t>>("members")
                                  .Attr<ffi::Span<const int32_t>>("kinds")
                                  .Attr<ffi::Span<const int64_t>>("outputs")
                                  .Attr<ffi::Span<const int32_t>>("biased")
                                  .Attr<int32_t>("arithmetic"));
