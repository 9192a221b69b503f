// y[t, o] = sum over i of w[o, i] x[t, i], for a weight in tiles (soberano/quant/tiles.h) and float activations.
//
// The activations of a call are quantised once, per 32 columns, to 15 bits with a float scale: two signed bytes, 128
// high + low. A decode step waits for memory, so the second byte is nearly free, and it takes the product from the
// error of 8-bit activations (a mean KL divergence of 4e-3 on SmolLM2, as in other engines) to that of float32. Codes
// against bytes are summed in exact integers within a group of 32 (or 16) columns, and groups are added in one fixed
// order by fused multiply-adds. So an output has the same bits alone or in a batch, on one thread or many, on every
// instruction set.
//
//   x (T, I) float32, index () int32, tiles (S, O/16, bytes) uint8 of each weight -> y (T, O) float32 for each
//
// A thread takes panels of 16 rows; for each it walks the tokens 8 at a time, so that codes are unpacked once for 8
// tokens and stay in the first-level cache for all of them.
#include <algorithm>
#include <memory>
#include <vector>

#include "soberano/backends/pool.h"
#include "soberano/ops/linear_bf16.h"
#include "soberano/quant/tiles.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace soberano {
namespace {

constexpr float kTop = 127 * 128;  // the largest activation of a group, in units of its scale

// Rows of activations as the kernel eats them: bytes (T, I / 32, high and low, 32), and per group of 32 its scale, its
// scale times its sum, and the sums of its halves.
struct Activations {
  Activations(int64_t tokens, int64_t inputs)
      : inputs(inputs),
        groups(inputs / 32),
        bytes(new int8_t[tokens * inputs * 2]),
        d(new float[tokens * groups]),
        dsum(new float[tokens * groups]),
        half(new int32_t[tokens * groups * 2]) {}

  void quantise(const float* x, int64_t t) {
    for (int64_t g = 0; g < groups; g++) {
      const float* from = x + t * inputs + g * 32;
      const int64_t at = t * groups + g;
      int8_t* to = bytes.get() + at * 64;
      const f32x16 a = load(from), b = load(from + 16);
      const float top = largest(max(abs(a), abs(b)));
      const f32x16 inverse = set1(top > 0 ? kTop / top : 0.0f);
      half[2 * at] = split(round_even(a * inverse), to), half[2 * at + 1] = split(round_even(b * inverse), to + 16);
      d[at] = top * (1.0f / kTop);
      dsum[at] = d[at] * float(half[2 * at] + half[2 * at + 1]);
    }
  }

  // Store sixteen whole numbers v as high and low bytes, v = 128 high + low, and return their sum.
  static int32_t split(f32x16 v, int8_t* to) {
    const f32x16 high = round_even(v * set1(1.0f / 128));
    store_i8(to, high);
    store_i8(to + 32, v - high * set1(128.0f));
    return int32_t(sum(v));  // exact: whole numbers below 2^24
  }

  int64_t inputs, groups;
  std::unique_ptr<int8_t[]> bytes;
  std::unique_ptr<float[]> d, dsum;
  std::unique_ptr<int32_t[]> half;
};

// start + codes (16 rows x 16 columns) against sixteen activations, in units of the scale.
template <int bits> inline i32x16 dot16(i32x16 start, const u8x64* v, const int8_t* a) {
  i32x16 high = set1(0), low = start;
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) high = dot4<bits>(high, v[j], a + 4 * j), low = dot4<bits>(low, v[j], a + 32 + 4 * j);
  return add(times128(high), low);
}

// How far ahead of the multiplication memory is asked for weights: 13 % faster decode than the processor's own guess.
constexpr int kAhead = 2048;

// One panel of 16 outputs for N tokens, the first of them token t.
template <class Tile, int N> inline void panel(const Tile* tiles, const Activations& x, int64_t t, f32x16* acc) {
  for (int n = 0; n < N; n++) acc[n] = set1(0.0f);
  const int64_t blocks = x.inputs / Tile::columns;
  for (int64_t b = 0; b < blocks; b++) {
    const Tile& w = tiles[b];
    for (size_t line = 0; line < sizeof(Tile); line += 64) __builtin_prefetch((const char*)&w + kAhead + line);
    const f32x16 d = load_f16(w.d);
    f32x16 m = set1(0.0f);
    if constexpr (Tile::minimum) m = load_f16(w.m);
    for (int g = 0; g < Tile::columns / 32; g++) {
      u8x64 v[8];
      w.codes[g].unpack(v);
      const Scales<Tile> s(w, d, m, g);
      const int64_t group = b * (Tile::columns / 32) + g;
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) {
        const int64_t at = (t + n) * x.groups + group;
        const int8_t* a = x.bytes.get() + at * 64;
        const int32_t* half = x.half.get() + 2 * at;
        const f32x16 unit = set1(x.d[at]);
        i32x16 first = dot16<Tile::bits>(set1(-Tile::zero * half[0]), v, a);
        i32x16 second = dot16<Tile::bits>(
            Tile::group == 16 ? set1(-Tile::zero * half[1]) : add(first, set1(-Tile::zero * half[1])), v + 4, a + 16);
        if constexpr (Tile::group == 16) acc[n] = fma(to_f32(first), s.scale[0] * unit, acc[n]);
        acc[n] = fma(to_f32(second), s.scale[1] * unit, acc[n]);
        if constexpr (Tile::minimum) acc[n] = fnma(s.minimum, set1(x.dsum[at]), acc[n]);
      }
    }
  }
}

template <class Tile, int N>
void tokens(const Tile* tiles, const Activations& x, int64_t t, float* y, int64_t outputs, int64_t first) {
  f32x16 acc[N];
  panel<Tile, N>(tiles, x, t, acc);
  for (int n = 0; n < N; n++) {
    float* to = y + (t + n) * outputs + first;
    if (first + 16 <= outputs) {
      store(to, acc[n]);
    } else {
      float last[16];
      store(last, acc[n]);
      std::copy(last, last + (outputs - first), to);
    }
  }
}

// A weight and where its product goes; `kind` is a TileKind.
struct Weight {
  const uint8_t* tiles;
  float* y;  // (T, outputs)
  int64_t outputs, kind, bytes;
};

// Panels [first, last) of one weight, for every token.
template <class Tile> void panels(const Weight& w, const Activations& x, int64_t T, int64_t first, int64_t last) {
  const int64_t blocks = x.inputs / Tile::columns;
  for (int64_t p = first; p < last; p++) {
    const Tile* tiles = (const Tile*)w.tiles + p * blocks;
    int64_t t = 0;
    for (; t + 8 <= T; t += 8) tokens<Tile, 8>(tiles, x, t, w.y, w.outputs, p * 16);
    for (; t + 2 <= T; t += 2) tokens<Tile, 2>(tiles, x, t, w.y, w.outputs, p * 16);
    for (; t < T; t++) tokens<Tile, 1>(tiles, x, t, w.y, w.outputs, p * 16);
  }
}

#if SOBERANO_AMX
// The same by the matrix unit. A share is two panels, so that each is decoded once.
void products_bf16(const float* x, const std::vector<Weight>& weights, int64_t T, int64_t I) {
  const Bf16Tokens tokens(x, T, I);
  std::vector<std::pair<const Weight*, int64_t>> shares;  // (weight, first output)
  for (const Weight& w : weights)
    for (int64_t first = 0; first < w.outputs; first += 32) shares.push_back({&w, first});
  Pool::instance().parallel(int(shares.size()), [&](int i) {
    static thread_local std::vector<uint16_t> room;
    room.resize(32 * I + 32);
    uint16_t* aligned = (uint16_t*)((uintptr_t(room.data()) + 63) & ~uintptr_t(63));
    const auto [w, first] = shares[i];
    configure_tiles();
    with_tile(w->kind, [&, w = w, first = first](auto tile) {
      using Tile = decltype(tile);
      const int64_t blocks = I / Tile::columns;
      panels_bf16((const Tile*)w->tiles + first / 16 * blocks, blocks, tokens, I, w->y, T, w->outputs, first, aligned);
    });
    _tile_release();
  });
}
#endif

// The products of the same activations with several weights.
void products(const float* x, const std::vector<Weight>& weights, int64_t T, int64_t I) {
  Pool& pool = Pool::instance();
  Activations activations(T, I);
  const int64_t parts = T < 8 ? 1 : T / 4;
  pool.parallel(int(parts), [&](int i) {
    for (int64_t t = i * T / parts; t < (i + 1) * T / parts; t++) activations.quantise(x, t);
  });
  // Long runs of memory read best, but a thread that is late should leave something to the other: a few shares a
  // thread, and products of less than 64 kB of weights stay with the caller.
  int64_t bytes = 0;
  for (const Weight& w : weights) bytes += w.bytes;
  const int64_t work = bytes * std::max<int64_t>(1, T / 2);
  const int64_t wanted = work < 65536 ? 1 : pool.threads() * std::clamp<int64_t>(work >> 18, 1, 4);
  struct Share {
    const Weight* weight;
    int64_t first, last;
  };
  std::vector<Share> shares;
  for (const Weight& w : weights) {
    const int64_t all = (w.outputs + 15) / 16, n = std::clamp<int64_t>((w.bytes * wanted + bytes / 2) / bytes, 1, all);
    for (int64_t i = 0; i < n; i++) shares.push_back({&w, i * all / n, (i + 1) * all / n});
  }
  pool.parallel(int(shares.size()), [&](int i) {
    const Share& s = shares[i];
    with_tile(s.weight->kind, [&](auto tile) { panels<decltype(tile)>(*s.weight, activations, T, s.first, s.last); });
  });
}

}  // namespace
}  // namespace soberano

extern "C" void soberano_linear(const float* x, const uint8_t* tiles, float* y, int64_t T, int64_t I, int64_t O,
                                int64_t kind) {
  soberano::with_tile(kind, [&](auto tile) {
    const int64_t bytes = (O + 15) / 16 * (I / decltype(tile)::columns) * int64_t(sizeof(tile));
    soberano::products(x, {{tiles, y, O, kind, bytes}}, T, I);
  });
}

// Arguments: x, index, then a tiles buffer per weight; results: a y per weight; kinds: a TileKind per weight.
static ffi::Error linear(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::S32> index, ffi::RemainingArgs tiles,
                         ffi::RemainingRets ys, ffi::Span<const int32_t> kinds, bool bf16) {
  const int64_t I = x.dimensions().back(), T = I ? int64_t(x.element_count()) / I : 0;
  std::vector<soberano::Weight> weights;
  for (size_t i = 0; i < tiles.size(); i++) {
    auto data = tiles.get<ffi::Buffer<ffi::U8>>(i);
    auto y = ys.get<ffi::Buffer<ffi::F32>>(i);
    if (data.has_error() || y.has_error())
      return ffi::Error::InvalidArgument("linear: tiles are uint8 and results float32");
    auto shape = data->dimensions();
    const int64_t slot = shape.size() == 3 ? index.typed_data()[0] : 0, slots = shape.size() == 3 ? shape[0] : 1;
    if (slot < 0 || slot >= slots)
      return ffi::Error::InvalidArgument("linear: the layer index is outside of the stack");
    const int64_t bytes = shape[shape.size() - 2] * shape.back();
    weights.push_back(
        {data->typed_data() + slot * bytes, (*y)->typed_data(), (*y)->dimensions().back(), kinds[i], bytes});
  }
#if SOBERANO_AMX
  if (bf16 && T && soberano::amx_allowed()) {
    soberano::products_bf16(x.typed_data(), weights, T, I);
    return ffi::Error::Success();
  }
#endif
  if (bf16) return ffi::Error(ffi::ErrorCode::kUnimplemented, "linear: this processor has no matrix unit for bfloat16");
  if (T) soberano::products(x.typed_data(), weights, T, I);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_linear_ffi, linear,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<ffi::Span<const int32_t>>("kinds")
                                  .Attr<bool>("bf16"));
