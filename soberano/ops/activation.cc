// gelu(x + bias), sixteen at a time. Meaning: soberano/ops/activation.py.
//
//   x (..., F) float32, bias (F,) float32 -> y (..., F) float32
#include "soberano/ops/activation.h"

#include <algorithm>

#include "soberano/backends/pool.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using namespace soberano;

template <Activation act> static void rows(const float* x, const float* bias, float* y, int64_t R, int64_t F) {
  const int64_t share = std::max<int64_t>(1, 16384 / F);  // rows that stay in the first cache
  Pool::instance().parallel(int((R + share - 1) / share), [&](int i) {
    for (int64_t r = i * share; r < std::min(R, (i + 1) * share); r++) {
      const float* from = x + r * F;
      float* to = y + r * F;
      int64_t f = 0;
      for (; f + 16 <= F; f += 16) store(to + f, activate<act>(load(from + f) + load(bias + f)));
      if (f == F) continue;
      alignas(64) float rest[16] = {};
      for (int64_t k = f; k < F; k++) rest[k - f] = from[k] + bias[k];
      store(rest, activate<act>(load(rest)));
      std::copy(rest, rest + (F - f), to + f);
    }
  });
}

static ffi::Error gelu(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> bias, ffi::ResultBuffer<ffi::F32> y, bool erf) {
  const int64_t F = bias.element_count();
  if (x.element_count() == 0) return ffi::Error::Success();
  (erf ? rows<Activation::gelu_erf> : rows<Activation::gelu>)(x.typed_data(), bias.typed_data(), y->typed_data(),
                                                              x.element_count() / F, F);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_gelu_ffi, gelu,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()  // x
                                  .Arg<ffi::Buffer<ffi::F32>>()  // bias
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<bool>("erf"));
