// silu(gate) * up and its gradient, sixteen numbers at a time. Meanings: soberano/ops/activation.py.
//
//   gate and up, and the gradient, of one shape, float32 -> the same, once or for both
#include "soberano/ops/activation.h"

#include <algorithm>

#include "soberano/backends/pool.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using namespace soberano;

using F32 = ffi::Buffer<ffi::F32>;
using Out = ffi::ResultBuffer<ffi::F32>;

// work(first, lanes) for every sixteen numbers of `count`, the last of which may be fewer.
template <class Work> static void each_sixteen(int64_t count, Work&& work) {
  constexpr int64_t kShare = 16384;
  Pool::instance().parallel(int((count + kShare - 1) / kShare), [&](int i) {
    for (int64_t at = i * kShare; at < std::min(count, (i + 1) * kShare); at += 16) work(at, count - at);
  });
}

static ffi::Error swiglu(F32 gate, F32 up, Out y) {
  const float *g = gate.typed_data(), *u = up.typed_data();
  each_sixteen(int64_t(gate.element_count()), [&, to = y->typed_data()](int64_t at, int64_t lanes) {
    store_some(to + at, activate<Activation::silu>(load_some(g + at, lanes)) * load_some(u + at, lanes), lanes);
  });
  return ffi::Error::Success();
}

static ffi::Error swiglu_back(F32 grad, F32 gate, F32 up, Out of_gate, Out of_up) {
  const float *d = grad.typed_data(), *g = gate.typed_data(), *u = up.typed_data();
  float *dg = of_gate->typed_data(), *du = of_up->typed_data();
  each_sixteen(int64_t(gate.element_count()), [&](int64_t at, int64_t lanes) {
    const f32x16 x = load_some(g + at, lanes), back = load_some(d + at, lanes), s = sigmoid(x), value = x * s;
    const f32x16 slope = fma(value, set1(1.0f) - s, s);
    store_some(dg + at, back * load_some(u + at, lanes) * slope, lanes);
    store_some(du + at, back * value, lanes);
  });
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_swiglu_ffi, swiglu, ffi::Ffi::Bind().Arg<F32>().Arg<F32>().Ret<F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_swiglu_back_ffi, swiglu_back,
                              ffi::Ffi::Bind().Arg<F32>().Arg<F32>().Arg<F32>().Ret<F32>().Ret<F32>());
