// Causal attention of texts that share rows, and the way back. Meanings: soberano/ops/causal_attention.py.
//
//   q, out and its gradient (B, T, H, E), k and v (B, T, K, E), sinks (H,) float32; segments (B, T), window () int32
//
// A block is 32 tokens. Forwards, a unit of work is a block of the heads that share a key head. Back, it is every
// fourth block of them, with sums for keys and values of its own, which are added up in the end: so no bit depends on
// the number of threads. Products are those of MatrixF32, or of MatrixBf16 where the plan says so.
#include "soberano/ops/causal_attention_bf16.h"
#include "soberano/ops/causal_attention_f32.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace soberano::causal {
namespace {

template <class Matrix> void attend(const Call& c, float* out) {
  static thread_local Scratch<typename Matrix::Number> key_memory, value_memory;
  const Matrix keys(c, c.k, kScores, key_memory), values(c, c.v, kMix, value_memory);
  const int64_t blocks = c.blocks();
  Pool::instance().parallel(int(c.B * c.K * blocks), [&](int i) {
    static thread_local Scratch<float> memory;
    float* const weights = memory.room(kTokens * c.padded());
    const typename Matrix::Unit unit;
    const int64_t head = i / blocks, b = head / c.K, step = c.H * c.E;
    const Block block(c, b, blocks - 1 - i % blocks);  // the longest first
    for (int64_t h = head % c.K * c.group(); h < (head % c.K + 1) * c.group(); h++) {
      const int64_t at = c.row(b, block.first, h, c.H);
      keys.scores(block, head, c.q + at, step, weights);
      block.weigh(h, weights, nullptr);
      values.mix(block, head, weights, out + at, step);
    }
  });
}

// What a block adds to the gradients: dq as it is, dk and dv (E, padded) beside those of other blocks.
template <class Matrix> struct Back {
  const Call& c;
  const Matrix &keys, &values;
  const float *out, *grad;
  float* dq;

  void block(int64_t head, int64_t number, float* dk, float* dv) const {
    static thread_local Scratch<float> memory;
    const int64_t b = head / c.K, step = c.H * c.E, size = kTokens * c.padded();
    float *const weights = memory.room(3 * size), *const slopes = weights + size;
    float* const bent = c.cap > 0 ? slopes + size : nullptr;
    const Block block(c, b, number);
    for (int64_t h = head % c.K * c.group(); h < (head % c.K + 1) * c.group(); h++) {
      const int64_t at = c.row(b, block.first, h, c.H);
      keys.scores(block, head, c.q + at, step, weights);
      block.weigh(h, weights, bent);
      values.scores(block, head, grad + at, step, slopes);
      for (int64_t r = 0; r < block.rows(); r++) {
        const f32x16 along = set1(dot(out + at + r * step, grad + at + r * step)), scale = set1(c.scale);
        for (int64_t i = r * c.padded() + block.from; i < r * c.padded() + block.to; i += 16) {
          f32x16 slope = load(weights + i) * (load(slopes + i) - along) * scale;
          if (bent) slope = slope * fnma(load(bent + i), load(bent + i), set1(1.0f));
          store(slopes + i, slope);
        }
      }
      keys.mix(block, head, slopes, dq + at, step);
      Matrix::gather(c, block, slopes, c.q + at, step, dk);
      Matrix::gather(c, block, weights, grad + at, step, dv);
    }
  }

  float dot(const float* x, const float* y) const {
    f32x16 sums = set1(0.0f);
    for (int64_t e = 0; e < c.E; e += 16) sums = fma(load(x + e), load(y + e), sums);
    return sum(sums);
  }
};

template <class Matrix>
void go_back(const Call& c, const float* out, const float* grad, float* dq, float* dk, float* dv) {
  static thread_local Scratch<typename Matrix::Number> key_memory, value_memory;
  static thread_local Scratch<float> sum_memory;
  const Matrix keys(c, c.k, kBoth, key_memory), values(c, c.v, kScores, value_memory);
  const int64_t heads = c.B * c.K, whole = c.E * c.padded();
  float* const sums = sum_memory.room(heads * kParts * 2 * whole);
  const Back<Matrix> back = {c, keys, values, out, grad, dq};
  Pool::instance().parallel(int(heads * kParts), [&](int i) {
    const typename Matrix::Unit unit;
    float* const mine = sums + i * 2 * whole;
    std::fill(mine, mine + 2 * whole, 0.0f);
    for (int64_t number = i % kParts; number < c.blocks(); number += kParts)
      back.block(i / kParts, number, mine, mine + whole);
  });
  Pool::instance().parallel(int(heads * c.blocks()), [&](int i) {
    const int64_t head = i / c.blocks(), first = i % c.blocks() * kTokens, last = std::min(first + kTokens, c.T);
    for (int64_t which = 0; which < 2; which++)
      for (int64_t e = 0; e < c.E; e++) {
        const float* from = sums + (head * kParts * 2 + which) * whole + e * c.padded();
        float* to = (which ? dv : dk) + c.row(head / c.K, 0, head % c.K, c.K) + e;
        for (int64_t t = first; t < last; t++) {
          float all = from[t];
          for (int64_t part = 1; part < kParts; part++) all += from[part * 2 * whole + t];
          to[t * c.K * c.E] = all;
        }
      }
  });
}

using F32 = ffi::Buffer<ffi::F32>;
using S32 = ffi::Buffer<ffi::S32>;
using Out = ffi::ResultBuffer<ffi::F32>;

Call call_of(F32 q, F32 k, F32 v, F32 sinks, S32 segments, S32 window, float scale, float cap) {
  const auto shape = q.dimensions();
  Call c = {shape[0], shape[1], shape[2], k.dimensions()[2], shape[3]};
  c.q = q.typed_data(), c.k = k.typed_data(), c.v = v.typed_data(), c.sinks = sinks.typed_data();
  c.segments = segments.typed_data(), c.scale = scale, c.cap = cap;
  c.window = *window.typed_data() > 0 ? *window.typed_data() : c.T;
  return c;
}

ffi::Error wrong(const Call& c, bool bf16) {
#if SOBERANO_AMX
  if (bf16 && !amx_allowed())
#else
  if (bf16)
#endif
    return ffi::Error(ffi::ErrorCode::kUnimplemented,
                      "causal_attention: this processor has no matrix unit for bfloat16");
  if (c.E % (bf16 ? 32 : 16) || c.E == 0 || c.E > 512 || c.K == 0 || c.H % c.K)
    return ffi::Error::InvalidArgument(
        "causal_attention: heads must be 16 to 512 wide by 16, by 32 in bfloat16, and share whole key heads");
  return ffi::Error::Success();
}

ffi::Error causal_attention(F32 q, F32 k, F32 v, F32 sinks, S32 segments, S32 window, Out out, float scale, float cap,
                            bool bf16) {
  const Call c = call_of(q, k, v, sinks, segments, window, scale, cap);
  if (auto error = wrong(c, bf16); error.failure()) return error;
  if (c.B * c.T == 0) return ffi::Error::Success();
#if SOBERANO_AMX
  if (bf16) return attend<MatrixBf16>(c, out->typed_data()), ffi::Error::Success();
#endif
  attend<MatrixF32>(c, out->typed_data());
  return ffi::Error::Success();
}

ffi::Error causal_attention_back(F32 grad, F32 result, F32 q, F32 k, F32 v, F32 sinks, S32 segments, S32 window, Out dq,
                                 Out dk, Out dv, float scale, float cap, bool bf16) {
  const Call c = call_of(q, k, v, sinks, segments, window, scale, cap);
  if (auto error = wrong(c, bf16); error.failure()) return error;
  if (c.B * c.T == 0) return ffi::Error::Success();
  const auto run = [&](auto go) {
    go(c, result.typed_data(), grad.typed_data(), dq->typed_data(), dk->typed_data(), dv->typed_data());
  };
#if SOBERANO_AMX
  if (bf16) return run(go_back<MatrixBf16>), ffi::Error::Success();
#endif
  run(go_back<MatrixF32>);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace soberano::causal

using soberano::causal::F32, soberano::causal::S32;

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_causal_attention_ffi, soberano::causal::causal_attention,
                              ffi::Ffi::Bind()
                                  .Arg<F32>()  // q
                                  .Arg<F32>()  // k
                                  .Arg<F32>()  // v
                                  .Arg<F32>()  // sinks
                                  .Arg<S32>()  // segments
                                  .Arg<S32>()  // window
                                  .Ret<F32>()
                                  .Attr<float>("scale")
                                  .Attr<float>("cap")
                                  .Attr<bool>("bf16"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_causal_attention_back_ffi, soberano::causal::causal_attention_back,
                              ffi::Ffi::Bind()
                                  .Arg<F32>()  // the gradient of the result
                                  .Arg<F32>()  // the result
                                  .Arg<F32>()  // q
                                  .Arg<F32>()  // k
                                  .Arg<F32>()  // v
                                  .Arg<F32>()  // sinks
                                  .Arg<S32>()  // segments
                                  .Arg<S32>()  // window
                                  .Ret<F32>()  // that of q
                                  .Ret<F32>()  // that of k
                                  .Ret<F32>()  // that of v
                                  .Attr<float>("scale")
                                  .Attr<float>("cap")
                                  .Attr<bool>("bf16"));
