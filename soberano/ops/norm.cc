// y[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight, a row at a time, each row summed in one fixed order. Meaning:
// soberano/ops/norm.py.
//
//   x (R, D) float32, weight (D,) float32 -> y (R, D) float32
#include "soberano/backends/simd.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using namespace soberano;

static void rms_norm_row(const float* x, const float* weight, float* y, int64_t D, float eps) {
  f32x16 squares = set1(0.0f);
  int64_t i = 0;
  for (; i + 16 <= D; i += 16) squares = fma(load(x + i), load(x + i), squares);
  float total = sum(squares);
  for (; i < D; i++) total = __builtin_fmaf(x[i], x[i], total);
  const float inverse = 1.0f / std::sqrt(total / float(D) + eps);
  for (i = 0; i + 16 <= D; i += 16) store(y + i, load(x + i) * set1(inverse) * load(weight + i));
  for (; i < D; i++) y[i] = x[i] * inverse * weight[i];
}

extern "C" void soberano_rms_norm(const float* x, const float* weight, float* y, int64_t R, int64_t D, float eps) {
  for (int64_t r = 0; r < R; r++) rms_norm_row(x + r * D, weight, y + r * D, D, eps);
}

static ffi::Error rms_norm(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> weight, ffi::ResultBuffer<ffi::F32> y,
                           float eps) {
  const int64_t D = x.dimensions().back(), rows = D ? int64_t(x.element_count()) / D : 0;
  const int64_t weights = D ? int64_t(weight.element_count()) / D : 0;  // 1; under vmap one for every so many rows
  for (int64_t r = 0; r < rows; r++)
    rms_norm_row(x.typed_data() + r * D, weight.typed_data() + r * weights / rows * D, y->typed_data() + r * D, D, eps);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    soberano_rms_norm_ffi, rms_norm,
    ffi::Ffi::Bind().Arg<ffi::Buffer<ffi::F32>>().Arg<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>().Attr<float>(
        "eps"));
