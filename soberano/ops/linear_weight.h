// Weights as the kernels of linear.py are given them: tiles, of one kind for all layers or of several.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "soberano/quant/tiles.h"
#include "xla/ffi/api/ffi.h"

namespace soberano {

// How a product is computed: see linear_int.h, linear_bf16.h, linear_f32.h; plain weights never go through integers.
enum class Arithmetic : int32_t { integers = 0, bf16 = 1, f32 = 2 };

// A weight (outputs, inputs) of one layer; `kind` is a TileKind. `bias` (outputs,) is added to its outputs, if any.
struct Weight {
  const uint8_t* tiles;
  int64_t outputs, kind, bytes;
  const float* bias = nullptr;

  int64_t panels() const { return (outputs + 15) / 16; }
  int64_t panel_bytes() const { return bytes / panels(); }
  const uint8_t* panel(int64_t p) const { return tiles + p * panel_bytes(); }
  bool plain() const {
    bool is = false;
    with_tile(kind, [&](auto tile) { is = decltype(tile)::plain; });
    return is;
  }

  // The sixteen outputs of panel p from their sums.
  f32x16 biased(int64_t p, f32x16 sums) const {
    return bias ? sums + load_some(bias + 16 * p, outputs - 16 * p) : sums;
  }
};

inline bool all_plain(const std::vector<Weight>& weights) {
  return std::all_of(weights.begin(), weights.end(), [](const Weight& w) { return w.plain(); });
}

// Two panels that are multiplied together, of one weight or of two; the second may be missing.
struct PanelPair {
  const Weight* first;
  int64_t first_panel;
  const Weight* second;
  int64_t second_panel;
};

// The panels of a weight, two at a time.
inline void add_pairs(const Weight& w, std::vector<PanelPair>& pairs) {
  for (int64_t p = 0; p < w.panels(); p += 2) pairs.push_back({&w, p, p + 1 < w.panels() ? &w : nullptr, p + 1});
}

// Ask memory for part i, of `bytes`, of what comes after a tile: 8 kB ahead into the second cache, which can wait for
// many lines at once, and 512 bytes ahead into the first. Called between pieces of arithmetic: a whole tile asked for
// at once fills the few places where a core waits for memory, and arithmetic then waits too.
template <size_t bytes> inline void prefetch(const void* tile, int i) {
  constexpr int lines = (bytes + 63) / 64;
#pragma GCC unroll 9
  for (int line = i * lines; line < (i + 1) * lines; line++) {
    const char* at = (const char*)tile + 64 * line;
    __builtin_prefetch(at + 8192, 0, 2), __builtin_prefetch(at + 512, 0, 3);
  }
}

// Reads weights off the arguments of a call, in the order in which soberano/ops/linear_jax.py passes them:
//
//   a weight of one kind: tiles (O/16, bytes), or (S, O/16, bytes) of which the layer's is meant
//   a weight of several: for every layer a tag () and a slot () in tables (L,) int32, then a stack of tiles for each
//   tag
//
// `members` says for each weight how many stacks it has; 0 stands for one kind, without tables. Then comes a float32
// vector for each weight that is `biased`.
class WeightArgs {
 public:
  WeightArgs(xla::ffi::RemainingArgs args, xla::ffi::Span<const int32_t> members, xla::ffi::Span<const int32_t> kinds,
             xla::ffi::Span<const int64_t> outputs, xla::ffi::Span<const int32_t> biased, int32_t layer)
      : args_(args), members_(members), kinds_(kinds), outputs_(outputs), biased_(biased), layer_(layer) {}

  // Fill `weights`, which is empty. Returns what is wrong, or null.
  const char* read(std::vector<Weight>& weights) {
    for (size_t i = 0; i < members_.size(); i++) {
      int32_t tag = 0, slot = layer_;
      if (members_[i]) {
        if (!look_up(at_, tag) || !look_up(at_ + 1, slot)) return "linear: the layer is outside of its table";
        if (tag < 0 || tag >= members_[i]) return "linear: a table names a stack that is not there";
        at_ += 2;
      }
      auto tiles = args_.get<xla::ffi::Buffer<xla::ffi::U8>>(at_ + tag);
      if (tiles.has_error()) return "linear: tiles are uint8";
      auto shape = tiles->dimensions();
      const bool stack = shape.size() == 3;
      if (stack && (slot < 0 || slot >= shape[0])) return "linear: the layer is outside of the stack";
      const int64_t bytes = shape[shape.size() - 2] * shape.back();
      weights.push_back({tiles->typed_data() + (stack ? slot * bytes : 0), outputs_[i], kinds_[kind_ + tag], bytes});
      at_ += std::max(1, members_[i]), kind_ += std::max(1, members_[i]);
    }
    for (size_t i = 0; i < members_.size(); i++) {
      if (!biased_[i]) continue;
      auto bias = args_.get<xla::ffi::Buffer<xla::ffi::F32>>(at_++);
      if (bias.has_error() || int64_t(bias->element_count()) != outputs_[i])
        return "linear: a bias is float32, a number for each output";
      weights[i].bias = bias->typed_data();
    }
    return nullptr;
  }

  // The argument that follows the weights that were read.
  size_t end() const { return at_; }

 private:
  bool look_up(size_t argument, int32_t& value) {
    auto table = args_.get<xla::ffi::Buffer<xla::ffi::S32>>(argument);
    if (table.has_error() || layer_ < 0 || layer_ >= int64_t(table->element_count())) return false;
    value = table->typed_data()[layer_];
    return true;
  }

  xla::ffi::RemainingArgs args_;
  xla::ffi::Span<const int32_t> members_, kinds_;
  xla::ffi::Span<const int64_t> outputs_;
  xla::ffi::Span<const int32_t> biased_;
  int32_t layer_;
  size_t at_ = 0, kind_ = 0;
};

// The panels of share `i` of `n` of several weights, cut where their bytes say so: run(weight index, first, last).
template <class Run> void share_of(const std::vector<Weight>& weights, int64_t n, int64_t i, Run&& run) {
  int64_t total = 0, before = 0;
  for (const Weight& w : weights) total += w.bytes;
  const int64_t from = total * i / n, to = total * (i + 1) / n;
  for (size_t k = 0; k < weights.size(); k++) {
    const Weight& w = weights[k];
    const int64_t size = w.panel_bytes();
    auto cut = [&](int64_t at) { return std::clamp<int64_t>((at - before + size - 1) / size, 0, w.panels()); };
    const int64_t first = from <= before ? 0 : cut(from), last = to <= before ? 0 : cut(to);
    if (first < last) run(k, first, last);
    before += w.bytes;
  }
}

}  // namespace soberano
