// y[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight, and the same of x[r] - mean(x[r]) with a bias: a row at a time, each
// row summed in one fixed order. Meanings: soberano/ops/norm.py.
//
//   x (R, D) float32, weight (D,) float32, bias (D,) float32 -> y (R, D) float32
#include <algorithm>

#include "soberano/backends/pool.h"
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

static void layer_norm_row(const float* x, const float* weight, const float* bias, float* y, int64_t D, float eps) {
  f32x16 sums = set1(0.0f);
  int64_t i = 0;
  for (; i + 16 <= D; i += 16) sums = sums + load(x + i);
  float total = sum(sums);
  for (; i < D; i++) total += x[i];
  const float mean = total / float(D);
  f32x16 squares = set1(0.0f);
  for (i = 0; i + 16 <= D; i += 16) {
    const f32x16 centred = load(x + i) - set1(mean);
    squares = fma(centred, centred, squares);
  }
  total = sum(squares);
  for (; i < D; i++) total = __builtin_fmaf(x[i] - mean, x[i] - mean, total);
  const float inverse = 1.0f / std::sqrt(total / float(D) + eps);
  for (i = 0; i + 16 <= D; i += 16)
    store(y + i, fma((load(x + i) - set1(mean)) * set1(inverse), load(weight + i), load(bias + i)));
  for (; i < D; i++) y[i] = __builtin_fmaf((x[i] - mean) * inverse, weight[i], bias[i]);
}

// `weights` rows of weight: one for every R / weights rows of x.
static void rms_norm_rows(const float* x, const float* weight, float* y, int64_t R, int64_t D, int64_t weights,
                          float eps) {
  constexpr int64_t kShare = 32;
  Pool::instance().parallel(int((R + kShare - 1) / kShare), [&](int i) {
    for (int64_t r = i * kShare; r < std::min(R, (i + 1) * kShare); r++)
      rms_norm_row(x + r * D, weight + r * weights / R * D, y + r * D, D, eps);
  });
}

extern "C" void soberano_rms_norm(const float* x, const float* weight, float* y, int64_t R, int64_t D, float eps) {
  rms_norm_rows(x, weight, y, R, D, 1, eps);
}

static ffi::Error rms_norm(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> weight, ffi::ResultBuffer<ffi::F32> y,
                           float eps) {
  const int64_t D = x.dimensions().back();  // under vmap there is a weight for every so many rows
  if (D == 0) return ffi::Error::Success();
  rms_norm_rows(x.typed_data(), weight.typed_data(), y->typed_data(), x.element_count() / D, D,
                weight.element_count() / D, eps);
  return ffi::Error::Success();
}

using F32 = ffi::Buffer<ffi::F32>;
using Out = ffi::ResultBuffer<ffi::F32>;

// work(r) for every row of x.
template <class Work> static void each_row(const F32& x, Work&& work) {
  const int64_t D = x.dimensions().back(), R = D ? x.element_count() / D : 0;
  constexpr int64_t kShare = 32;
  Pool::instance().parallel(int((R + kShare - 1) / kShare), [&](int i) {
    for (int64_t r = i * kShare; r < std::min(R, (i + 1) * kShare); r++) work(r);
  });
}

// The gradient of x: r (g - x r^2 mean(g x)), with g = grad * weight and r = 1 / sqrt(mean(x^2) + eps).
static void rms_norm_back_row(const float* grad, const float* x, const float* weight, float* dx, int64_t D, float eps) {
  f32x16 squares = set1(0.0f), along = set1(0.0f);
  int64_t i = 0;
  for (; i + 16 <= D; i += 16) {
    squares = fma(load(x + i), load(x + i), squares);
    along = fma(load(grad + i) * load(weight + i), load(x + i), along);
  }
  float total = sum(squares), shared = sum(along);
  for (; i < D; i++) {
    total = __builtin_fmaf(x[i], x[i], total);
    shared = __builtin_fmaf(grad[i] * weight[i], x[i], shared);
  }
  const float r = 1.0f / std::sqrt(total / float(D) + eps), back = -r * r * (shared / float(D));
  for (i = 0; i + 16 <= D; i += 16)
    store(dx + i, fma(load(x + i), set1(back), load(grad + i) * load(weight + i)) * set1(r));
  for (; i < D; i++) dx[i] = __builtin_fmaf(x[i], back, grad[i] * weight[i]) * r;
}

static ffi::Error rms_norm_back(F32 grad, F32 x, F32 weight, Out dx, float eps) {
  const int64_t D = x.dimensions().back();
  each_row(x, [&](int64_t r) {
    rms_norm_back_row(grad.typed_data() + r * D, x.typed_data() + r * D, weight.typed_data(), dx->typed_data() + r * D,
                      D, eps);
  });
  return ffi::Error::Success();
}

static ffi::Error layer_norm(F32 x, F32 weight, F32 bias, Out y, float eps) {
  const int64_t D = x.dimensions().back();
  each_row(x, [&](int64_t r) {
    layer_norm_row(x.typed_data() + r * D, weight.typed_data(), bias.typed_data(), y->typed_data() + r * D, D, eps);
  });
  return ffi::Error::Success();
}

static ffi::Error add_layer_norm(F32 x, F32 y, F32 weight, F32 bias, Out out, float eps) {
  const int64_t D = x.dimensions().back();
  each_row(x, [&](int64_t r) {
    const float *a = x.typed_data() + r * D, *b = y.typed_data() + r * D;
    float* to = out->typed_data() + r * D;
    int64_t i = 0;
    for (; i + 16 <= D; i += 16) store(to + i, load(a + i) + load(b + i));
    for (; i < D; i++) to[i] = a[i] + b[i];
    layer_norm_row(to, weight.typed_data(), bias.typed_data(), to, D, eps);
  });
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_rms_norm_back_ffi, rms_norm_back,
                              ffi::Ffi::Bind().Arg<F32>().Arg<F32>().Arg<F32>().Ret<F32>().Attr<float>("eps"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    soberano_add_layer_norm_ffi, add_layer_norm,
    ffi::Ffi::Bind().Arg<F32>().Arg<F32>().Arg<F32>().Arg<F32>().Ret<F32>().Attr<float>("eps"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_layer_norm_ffi, layer_norm,
                              ffi::Ffi::Bind().Arg<F32>().Arg<F32>().Arg<F32>().Ret<F32>().Attr<float>("eps"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    soberano_rms_norm_ffi, rms_norm,
    ffi::Ffi::Bind().Arg<ffi::Buffer<ffi::F32>>().Arg<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>().Attr<float>(
        "eps"));
