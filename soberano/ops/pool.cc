// The mean of the first tokens of each text, added in order. Meaning: soberano/ops/pool.py.
//
//   x (B, T, D) float32, lengths (B,) int32 -> y (B, D) float32
#include <algorithm>

#include "soberano/backends/pool.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

static ffi::Error mean(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::S32> lengths, ffi::ResultBuffer<ffi::F32> y) {
  const int64_t B = x.dimensions()[0], T = x.dimensions()[1], D = x.dimensions()[2];
  soberano::Pool::instance().parallel(int(B), [&](int b) {
    const int64_t n = std::clamp<int64_t>(lengths.typed_data()[b], 0, T);
    const float* from = x.typed_data() + b * T * D;
    float* to = y->typed_data() + b * D;
    std::fill(to, to + D, 0.0f);
    for (int64_t t = 0; t < n; t++, from += D)
      for (int64_t d = 0; d < D; d++) to[d] += from[d];
    for (int64_t d = 0; d < D; d++) to[d] /= float(lengths.typed_data()[b]);
  });
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_mean_ffi, mean,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()  // x
                                  .Arg<ffi::Buffer<ffi::S32>>()  // lengths
                                  .Ret<ffi::Buffer<ffi::F32>>());
