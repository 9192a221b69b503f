// What a page of the cache holds, by its element type: how keys (E, page) and values (page, E) are read as float32, and
// how one token is written. The layouts are documented, and defined in array code, in soberano/ops/pages.py.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "soberano/backends/simd.h"

namespace soberano {

struct F16 {
  static f32x16 get(const uint16_t* p) { return load_f16(p); }
  static void put(uint16_t* p, f32x16 x) { store_f16(p, x); }
};

struct BF16 {  // the upper half of a float32
  static f32x16 get(const uint16_t* p) {
    uint32_t bits[16];
    float x[16];
    for (int i = 0; i < 16; i++) bits[i] = uint32_t(p[i]) << 16;
    std::memcpy(x, bits, 64);
    return load(x);
  }
  static void put(uint16_t* p, f32x16 a) {  // round to nearest, ties to even
    uint32_t bits[16];
    float x[16];
    store(x, a);
    std::memcpy(bits, x, 64);
    for (int i = 0; i < 16; i++) {
      const bool nan = (bits[i] & 0x7fffffff) > 0x7f800000;
      p[i] = uint16_t(nan ? bits[i] >> 16 | 64 : (bits[i] + 0x7fff + (bits[i] >> 16 & 1)) >> 16);
    }
  }
};

// Pages of plain numbers. Keys and values are read alike: one after the other.
template <class Number> struct PlainPage {
  static int64_t bytes(int64_t E, int64_t page) { return 2 * E * page; }

  // `next` is a page that will be read soon: memory is asked for it line by line meanwhile.
  static void read(const uint8_t* from, int64_t numbers, float* to, const uint8_t* next) {
    const uint16_t* p = (const uint16_t*)from;
    for (int64_t i = 0; i < numbers; i += 32) {
      __builtin_prefetch(next + 2 * i, 0, 2);
      store(to + i, Number::get(p + i));
      store(to + i + 16, Number::get(p + i + 16));
    }
  }
  static void read_keys(const uint8_t* from, int64_t E, int64_t page, float* to, const uint8_t* next) {
    read(from, E * page, to, next);
  }
  static void read_values(const uint8_t* from, int64_t E, int64_t page, float* to, const uint8_t* next) {
    read(from, E * page, to, next);
  }
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
  static constexpr int64_t kGroup = 32;

  static int64_t bytes(int64_t E, int64_t page) { return E * page + E / kGroup * page * 2; }

  static void read_keys(const uint8_t* from, int64_t E, int64_t page, float* to, const uint8_t* next) {
    const uint16_t* scales = (const uint16_t*)(from + E * page);  // (E / 32, page)
    for (int64_t e = 0; e < E; e++) {
      for (int64_t s = 0; s < page; s += 16) {
        const f32x16 scale = load_f16(scales + e / kGroup * page + s);
        store(to + e * page + s, load_i8((const int8_t*)from + e * page + s) * scale);
      }
      ask(next, e, E, page);
    }
  }
  static void read_values(const uint8_t* from, int64_t E, int64_t page, float* to, const uint8_t* next) {
    const uint16_t* scales = (const uint16_t*)(from + E * page);  // (page, E / 32)
    for (int64_t s = 0; s < page; s++) {
      for (int64_t e = 0; e < E; e += 16) {
        const f32x16 scale = set1(f16_to_f32(scales[s * (E / kGroup) + e / kGroup]));
        store(to + s * E + e, load_i8((const int8_t*)from + s * E + e) * scale);
      }
      ask(next, s, page, E);
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
  // Ask for row `row` of `rows` of the next page, and with it for its share of the scales.
  static void ask(const uint8_t* next, int64_t row, int64_t rows, int64_t width) {
    const int64_t size = width + width / 16;
    for (int64_t i = row * size; i < (row + 1) * size; i += 64) __builtin_prefetch(next + i, 0, 2);
  }

  // The codes of 32 numbers, and their scale as stored.
  static uint16_t quantise(const float* x, int8_t* code) {
    const f32x16 a = load(x), b = load(x + 16);
    const uint16_t scale = f32_to_f16(std::min(largest(max(abs(a), abs(b))) / 127.0f, 65504.0f));
    const float d = f16_to_f32(scale);
    const f32x16 inverse = set1(d > 0 ? 1.0f / d : 0.0f), top = set1(127.0f), bottom = set1(-127.0f);
    store_i8(code, max(bottom, min(top, round_even(a * inverse))));
    store_i8(code + 16, max(bottom, min(top, round_even(b * inverse))));
    return scale;
  }
};

}  // namespace soberano
