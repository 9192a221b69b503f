// What a page of the cache holds, by its element type: how keys (E, page) and values (page, E) are read as float32, and
// how one token is written. The layouts are documented, and defined in array code, in soberano/ops/pages.py.
//
// Keys come in groups: some numbers of sixteen keys, `key.number(i)` for i below kGroup. A value is sixteen numbers of
// one key. So few queries read a page as it lies; many have it turned into float32 once, by read_keys and read_values.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "soberano/backends/scratch.h"
#include "soberano/backends/simd.h"

namespace soberano {

struct Wide {
  static f32x16 get(const float* p) { return load(p); }
};

struct F16 {
  static f32x16 get(const uint16_t* p) { return load_f16(p); }
  static void put(uint16_t* p, f32x16 x) { store_f16(p, x); }
};

struct BF16 {
  static f32x16 get(const uint16_t* p) { return load_bf16(p); }
  static void put(uint16_t* p, f32x16 x) { store_bf16(p, x); }
};

// A page that holds `Stored` numbers one after the other, in rows, as `Number` reads them.
template <class Number, class Stored> struct PlainRows {
  static constexpr int kGroup = 16;
  struct Group {
    const Stored* from;
    int64_t row;
    f32x16 number(int i) const { return Number::get(from + i * row); }
  };

  const Stored* from;
  int64_t row;
  Group group(int64_t e, int64_t key) const { return {from + e * row + key, row}; }
  f32x16 value(int64_t key, int64_t e) const { return Number::get(from + key * row + e); }
};

// Pages of plain numbers. Keys and values are read alike.
template <class Number> struct PlainPage {
  using Rows = PlainRows<Number, uint16_t>;
  static int64_t bytes(int64_t E, int64_t page) { return 2 * E * page; }
  static Rows keys(const uint8_t* from, int64_t, int64_t page) { return {(const uint16_t*)from, page}; }
  static Rows values(const uint8_t* from, int64_t E, int64_t) { return {(const uint16_t*)from, E}; }

  static void read_keys(const uint8_t* from, int64_t E, int64_t page, float* to) {
    for (int64_t i = 0; i < E * page; i += 16) store(to + i, Number::get((const uint16_t*)from + i));
  }
  static void read_values(const uint8_t* from, int64_t E, int64_t page, float* to) { read_keys(from, E, page, to); }
  static void write_key(uint8_t* to, int64_t E, int64_t page, int64_t slot, const float* x) {
    for (int64_t e = 0; e < E; e += 16) {
      uint16_t number[16];
      Number::put(number, load(x + e));
      for (int64_t i = 0; i < 16; i++) ((uint16_t*)to)[(e + i) * page + slot] = number[i];
    }
  }
  static void write_value(uint8_t* to, int64_t E, int64_t page, int64_t slot, const float* x) {
    for (int64_t e = 0; e < E; e += 16) Number::put((uint16_t*)to + slot * E + e, load(x + e));
  }
};

// int8 codes, and behind them a float16 scale for every 32 numbers of a head.
struct Q8Page {
  static constexpr int kGroup = 32;

  static int64_t bytes(int64_t E, int64_t page) { return E * page + E / kGroup * page * 2; }

  struct Keys {
    static constexpr int kGroup = Q8Page::kGroup;
    struct Group {
      const int8_t* codes;
      int64_t page;
      f32x16 scale;
      f32x16 number(int i) const { return load_i8(codes + i * page) * scale; }
    };

    const uint8_t* from;
    int64_t E, page;
    Group group(int64_t e, int64_t key) const {
      const uint16_t* scales = (const uint16_t*)(from + E * page);  // (E / 32, page)
      return {(const int8_t*)from + e * page + key, page, load_f16(scales + e / kGroup * page + key)};
    }
  };
  static Keys keys(const uint8_t* from, int64_t E, int64_t page) { return {from, E, page}; }

  struct Values {
    const int8_t* codes;
    int64_t E;
    const float* scales;  // (page, E / 32)
    f32x16 value(int64_t key, int64_t e) const {
      return load_i8(codes + key * E + e) * set1(scales[key * (E / kGroup) + e / kGroup]);
    }
  };
  static Values values(const uint8_t* from, int64_t E, int64_t page) {
    static thread_local Scratch<float> memory;
    float* scales = memory.room(page * E / kGroup);
    for (int64_t i = 0; i < page * E / kGroup; i += 16)
      store(scales + i, load_f16((const uint16_t*)(from + E * page) + i));
    return {(const int8_t*)from, E, scales};
  }

  static void read_keys(const uint8_t* from, int64_t E, int64_t page, float* to) {
    const int8_t* codes = (const int8_t*)from;
    const uint16_t* scales = (const uint16_t*)(from + E * page);  // (E / 32, page)
    for (int64_t group = 0; group < E; group += kGroup, scales += page)
      for (int64_t s = 0; s < page; s += 16) {
        const f32x16 scale = load_f16(scales + s);
        for (int64_t at = group * page + s; at < (group + kGroup) * page; at += page)
          store(to + at, load_i8(codes + at) * scale);
      }
  }
  static void read_values(const uint8_t* from, int64_t E, int64_t page, float* to) {
    const int8_t* codes = (const int8_t*)from;
    const uint16_t* scales = (const uint16_t*)(from + E * page);  // (page, E / 32)
    for (int64_t i = 0; i < page * E; i += 16 * kGroup, scales += 16) {
      float scale[16];
      store(scale, load_f16(scales));
      for (int64_t group = 0; group < 16; group++)
        for (int64_t at = i + group * kGroup; at < i + (group + 1) * kGroup; at += 16)
          store(to + at, load_i8(codes + at) * set1(scale[group]));
    }
  }
  static void write_key(uint8_t* to, int64_t E, int64_t page, int64_t slot, const float* x) {
    uint16_t* scales = (uint16_t*)(to + E * page);
    for (int64_t e = 0; e < E; e += kGroup) {
      int8_t code[kGroup];
      scales[e / kGroup * page + slot] = quantise(x + e, code);
      for (int64_t i = 0; i < kGroup; i++) to[(e + i) * page + slot] = uint8_t(code[i]);
    }
  }
  static void write_value(uint8_t* to, int64_t E, int64_t page, int64_t slot, const float* x) {
    uint16_t* scales = (uint16_t*)(to + E * page);
    for (int64_t e = 0; e < E; e += kGroup)
      scales[slot * (E / kGroup) + e / kGroup] = quantise(x + e, (int8_t*)to + slot * E + e);
  }

 private:
  // The codes of 32 numbers, and their scale as stored: NaN if one of them is not finite.
  static uint16_t quantise(const float* x, int8_t* code) {
    const f32x16 a = load(x), b = load(x + 16);
    const uint16_t scale = f32_to_f16(std::min(largest(max(abs(a), abs(b))) / 127.0f, 65504.0f));
    const float d = f16_to_f32(scale);
    const f32x16 inverse = set1(d > 0 ? 1.0f / d : 0.0f), top = set1(127.0f), bottom = set1(-127.0f);
    const f32x16 first = round_even(a * inverse), second = round_even(b * inverse);
    if (!std::isfinite(sum(first) + sum(second))) {
      std::fill(code, code + kGroup, int8_t(0));
      return f32_to_f16(NAN);
    }
    store_i8(code, max(bottom, min(top, first)));
    store_i8(code + 16, max(bottom, min(top, second)));
    return scale;
  }
};

}  // namespace soberano
