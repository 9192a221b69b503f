// Attention of every token of a text to every other. Meaning: soberano/ops/self_attention.py.
//
//   q (B, T, H, E), k and v (B, T, K, E) float32, lengths (B,) int32 -> out (B, T, H, E) float32
//
// A unit of work is a head of a text: its keys are turned, so that a vector holds 16 of them, and four queries at a
// time see them all. Each score is summed over the head in order, each output over the keys in order: so a row's bits
// depend on its text alone, and on no padding.
#include <algorithm>
#include <limits>

#include "soberano/backends/pool.h"
#include "soberano/backends/scratch.h"
#include "soberano/backends/simd.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace soberano {
namespace {

struct Call {
  int64_t B, T, H, K, E;
  const float *q, *k, *v;
  const int32_t* lengths;
  float* out;
  float scale;
};

// One head of one text of n tokens: keys (E, padded), values (n, E).
class Head {
 public:
  Head(const Call& call, int64_t b, int64_t h) : c_(call), b_(b), h_(h) {
    static thread_local Scratch<float> key_room, value_room, score_room;
    n_ = std::clamp<int64_t>(c_.lengths[b], 0, c_.T), padded_ = (n_ + 31) / 32 * 32;
    keys_ = key_room.room(c_.E * padded_), values_ = value_room.room(n_ * c_.E), scores_ = score_room.room(4 * padded_);
    const int64_t shared = h * c_.K / c_.H;
    for (int64_t s = 0; s < n_; s++) {
      const int64_t from = ((b * c_.T + s) * c_.K + shared) * c_.E;
      std::copy_n(c_.v + from, c_.E, values_ + s * c_.E);
      for (int64_t e = 0; e < c_.E; e++) keys_[e * padded_ + s] = c_.k[from + e];
    }
    for (int64_t e = 0; e < c_.E; e++) std::fill(keys_ + e * padded_ + n_, keys_ + (e + 1) * padded_, 0.0f);
  }

  void run() const {
    int64_t t = 0;
    for (; t + 4 <= n_; t += 4) rows<4>(t);
    for (; t < n_; t++) rows<1>(t);
    for (; t < c_.T; t++) std::fill(out(t), out(t) + c_.E, 0.0f);
  }

 private:
  float* out(int64_t t) const { return c_.out + ((b_ * c_.T + t) * c_.H + h_) * c_.E; }

  template <int N> void rows(int64_t t) const {
    alignas(64) float q[N][512];
    for (int r = 0; r < N; r++) {
      const float* from = c_.q + ((b_ * c_.T + t + r) * c_.H + h_) * c_.E;
      for (int64_t e = 0; e < c_.E; e += 16) store(q[r] + e, load(from + e) * set1(c_.scale));
    }
    for (int64_t s = 0; s < padded_; s += 32) {
      f32x16 sums[N][2];
      for (int r = 0; r < N; r++) sums[r][0] = sums[r][1] = set1(0.0f);
      for (int64_t e = 0; e < c_.E; e++) {
        const f32x16 first = load(keys_ + e * padded_ + s), second = load(keys_ + e * padded_ + s + 16);
        for (int r = 0; r < N; r++) {
          const f32x16 one = set1(q[r][e]);
          sums[r][0] = fma(one, first, sums[r][0]), sums[r][1] = fma(one, second, sums[r][1]);
        }
      }
      for (int r = 0; r < N; r++)
        store(scores_ + r * padded_ + s, sums[r][0]), store(scores_ + r * padded_ + s + 16, sums[r][1]);
    }
    float inverse[N];
    for (int r = 0; r < N; r++) inverse[r] = weigh(scores_ + r * padded_);
    for (int64_t e = 0; e < c_.E; e += 32) e + 16 < c_.E ? mix<N, 2>(t, e, inverse) : mix<N, 1>(t, e, inverse);
  }

  // Turn scores into exp(score - largest), 0 behind the end -> 1 / their sum.
  float weigh(float* scores) const {
    std::fill(scores + n_, scores + padded_, -std::numeric_limits<float>::infinity());
    f32x16 top = load(scores), total = set1(0.0f);
    for (int64_t s = 16; s < padded_; s += 16) top = max(top, load(scores + s));
    const f32x16 peak = set1(largest(top));
    for (int64_t s = 0; s < padded_; s += 16) store(scores + s, exp(load(scores + s) - peak));
    std::fill(scores + n_, scores + padded_, 0.0f);  // exp stays above 0
    for (int64_t s = 0; s < padded_; s += 16) total = total + load(scores + s);
    return 1.0f / sum(total);
  }

  // Numbers e to e + 16 V of N outputs.
  template <int N, int V> void mix(int64_t t, int64_t e, const float* inverse) const {
    f32x16 sums[N][V];
    for (int r = 0; r < N; r++)
      for (int i = 0; i < V; i++) sums[r][i] = set1(0.0f);
    for (int64_t s = 0; s < n_; s++) {
      f32x16 value[V];
      for (int i = 0; i < V; i++) value[i] = load(values_ + s * c_.E + e + 16 * i);
      for (int r = 0; r < N; r++) {
        const f32x16 weight = set1(scores_[r * padded_ + s]);
        for (int i = 0; i < V; i++) sums[r][i] = fma(weight, value[i], sums[r][i]);
      }
    }
    for (int r = 0; r < N; r++)
      for (int i = 0; i < V; i++) store(out(t + r) + e + 16 * i, sums[r][i] * set1(inverse[r]));
  }

  const Call& c_;
  const int64_t b_, h_;
  int64_t n_, padded_;
  float *keys_, *values_, *scores_;
};

using F32 = ffi::Buffer<ffi::F32>;

ffi::Error self_attention(F32 q, F32 k, F32 v, ffi::Buffer<ffi::S32> lengths, ffi::ResultBuffer<ffi::F32> out,
                          float scale) {
  const auto shape = q.dimensions();
  const Call c = {shape[0],       shape[1],       shape[2],       k.dimensions()[2],    shape[3],
                  q.typed_data(), k.typed_data(), v.typed_data(), lengths.typed_data(), out->typed_data(),
                  scale};
  if (c.E % 16 || c.E > 512 || c.K == 0 || c.H % c.K)
    return ffi::Error::InvalidArgument("self_attention: heads must be 16 to 512 wide by 16, and share whole key heads");
  Pool::instance().parallel(int(c.B * c.H), [&](int i) { Head(c, i / c.H, i % c.H).run(); });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace soberano

using soberano::F32;

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_self_attention_ffi, soberano::self_attention,
                              ffi::Ffi::Bind()
                                  .Arg<F32>()                    // q
                                  .Arg<F32>()                    // k
                                  .Arg<F32>()                    // v
                                  .Arg<ffi::Buffer<ffi::S32>>()  // lengths
                                  .Ret<F32>()
                                  .Attr<float>("scale"));
