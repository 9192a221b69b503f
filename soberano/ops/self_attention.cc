// Attention of every token of a text to every other. Meaning: soberano/ops/self_attention.py.
//
//   q (B, T, H, E), k and v (B, T, K, E), angles (1 or B, T, pairs) twice, slopes (H), all float32; lengths (B,) and
//   window () int32 -> out (B, T, H, E) float32
//
// A unit of work is a head of a text: its keys are laid crosswise, so that a vector holds 16 of them, and four queries
// at a time see those of their windows. Each score is summed over the head in order, each output over the keys in
// order, and what a query does not see adds an exact 0: so a row's bits depend on its text alone, and on no padding.
#include <algorithm>
#include <limits>

#include "soberano/backends/pool.h"
#include "soberano/backends/scratch.h"
#include "soberano/backends/simd.h"
#include "soberano/ops/rope.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace soberano {
namespace {

struct Call {
  int64_t B, T, H, K, E;
  const float *q, *k, *v;
  Rotation rotation;
  const float* slopes;
  const int32_t* lengths;
  int64_t window;  // token t sees those from t - window to t + window
  float* out;
  float scale;
};

// Keys that a query sees: from first up to last.
struct Range {
  int64_t first, last;
};

// One head of one text of n tokens: keys (E, padded), values (n, E), the keys turned.
class Head {
 public:
  Head(const Call& call, int64_t b, int64_t h) : c_(call), b_(b), h_(h), slope_(call.slopes[h]) {
    static thread_local Scratch<float> key_room, value_room, score_room;
    n_ = std::clamp<int64_t>(c_.lengths[b], 0, c_.T), padded_ = (n_ + 31) / 32 * 32;
    keys_ = key_room.room(c_.E * padded_), values_ = value_room.room(n_ * c_.E), scores_ = score_room.room(4 * padded_);
    const int64_t shared = h * c_.K / c_.H;
    alignas(64) float turned[512];
    for (int64_t s = 0; s < n_; s++) {
      const int64_t from = ((b * c_.T + s) * c_.K + shared) * c_.E;
      std::copy_n(c_.v + from, c_.E, values_ + s * c_.E);
      c_.rotation.turn(c_.k + from, b, s, c_.E, turned);
      for (int64_t e = 0; e < c_.E; e++) keys_[e * padded_ + s] = turned[e];
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

  Range seen(int64_t t) const { return {std::max<int64_t>(0, t - c_.window), std::min(n_, t + c_.window + 1)}; }

  template <int N> void rows(int64_t t) const {
    alignas(64) float q[N][512], turned[512];
    for (int r = 0; r < N; r++) {
      c_.rotation.turn(c_.q + ((b_ * c_.T + t + r) * c_.H + h_) * c_.E, b_, t + r, c_.E, turned);
      for (int64_t e = 0; e < c_.E; e += 16) store(q[r] + e, load(turned + e) * set1(c_.scale));
    }
    const Range all = {seen(t).first, seen(t + N - 1).last};
    const Range whole = {all.first / 32 * 32, (all.last + 31) / 32 * 32};
    for (int64_t s = whole.first; s < whole.last; s += 32) {
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
        for (int i = 0; i < 2; i++) store(scores_ + r * padded_ + s + 16 * i, sloped(sums[r][i], t + r, s + 16 * i));
    }
    float inverse[N];
    for (int r = 0; r < N; r++) inverse[r] = weigh(scores_ + r * padded_, seen(t + r), whole);
    for (int64_t e = 0; e < c_.E; e += 32)
      e + 16 < c_.E ? mix<N, 2>(t, e, all, inverse) : mix<N, 1>(t, e, all, inverse);
  }

  // Scores of token t with 16 keys from s on, less for those that are further away.
  f32x16 sloped(f32x16 scores, int64_t t, int64_t s) const {
    alignas(64) static constexpr float kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    if (slope_ == 0) return scores;
    return fma(abs(load(kLanes) + set1(float(s - t))), set1(-slope_), scores);
  }

  // Turn scores into exp(score - largest), 0 where nothing is seen -> 1 / their sum.
  static float weigh(float* scores, Range seen, Range whole) {
    const auto hide = [&](float by) {
      std::fill(scores + whole.first, scores + seen.first, by), std::fill(scores + seen.last, scores + whole.last, by);
    };
    hide(-std::numeric_limits<float>::infinity());
    f32x16 top = load(scores + whole.first), total = set1(0.0f);
    for (int64_t s = whole.first + 16; s < whole.last; s += 16) top = max(top, load(scores + s));
    const f32x16 peak = set1(largest(top));
    for (int64_t s = whole.first; s < whole.last; s += 16) store(scores + s, exp(load(scores + s) - peak));
    hide(0.0f);  // exp stays above 0
    for (int64_t s = whole.first; s < whole.last; s += 16) total = total + load(scores + s);
    return 1.0f / sum(total);
  }

  // Numbers e to e + 16 V of N outputs.
  template <int N, int V> void mix(int64_t t, int64_t e, Range all, const float* inverse) const {
    f32x16 sums[N][V];
    for (int r = 0; r < N; r++)
      for (int i = 0; i < V; i++) sums[r][i] = set1(0.0f);
    for (int64_t s = all.first; s < all.last; s++) {
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
  const float slope_;
  int64_t n_, padded_;
  float *keys_, *values_, *scores_;
};

using F32 = ffi::Buffer<ffi::F32>;

using S32 = ffi::Buffer<ffi::S32>;

ffi::Error self_attention(F32 q, F32 k, F32 v, F32 cos, F32 sin, F32 slopes, S32 lengths, S32 window,
                          ffi::ResultBuffer<ffi::F32> out, float scale, bool halves) {
  const auto shape = q.dimensions(), angles = cos.dimensions();
  Call c = {shape[0], shape[1], shape[2], k.dimensions()[2], shape[3]};
  c.q = q.typed_data(), c.k = k.typed_data(), c.v = v.typed_data();
  c.rotation = {cos.typed_data(), sin.typed_data(), angles[0], c.T, angles[2], halves};
  c.slopes = slopes.typed_data(), c.lengths = lengths.typed_data(), c.out = out->typed_data();
  c.window = std::max<int64_t>(0, *window.typed_data()), c.scale = scale;
  if (c.E % 16 || c.E > 512 || c.K == 0 || c.H % c.K || 2 * angles[2] > c.E)
    return ffi::Error::InvalidArgument(
        "self_attention: heads must be 16 to 512 wide by 16, no narrower than the rotation, and share whole key heads");
  Pool::instance().parallel(int(c.B * c.H), [&](int i) { Head(c, i / c.H, i % c.H).run(); });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace soberano

using soberano::F32, soberano::S32;

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_self_attention_ffi, soberano::self_attention,
                              ffi::Ffi::Bind()
                                  .Arg<F32>()  // q
                                  .Arg<F32>()  // k
                                  .Arg<F32>()  // v
                                  .Arg<F32>()  // cos
                                  .Arg<F32>()  // sin
                                  .Arg<F32>()  // slopes
                                  .Arg<S32>()  // lengths
                                  .Arg<S32>()  // window
                                  .Ret<F32>()
                                  .Attr<float>("scale")
                                  .Attr<bool>("halves"));
