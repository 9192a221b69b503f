// Turn a head's numbers by the angles of its token. Meaning: soberano/ops/rope.py.
#pragma once
#include <algorithm>
#include <cstdint>

namespace soberano {

// The angles of T tokens of each row, and which numbers of a head make a pair. No pairs: nothing is turned.
struct Rotation {
  const float *cos, *sin;  // (rows, T, pairs); one row serves all
  int64_t rows, T, pairs;
  bool halves;

  // x (E) of token t of row b -> to (E)
  void turn(const float* __restrict x, int64_t b, int64_t t, int64_t E, float* __restrict to) const {
    const int64_t at = ((rows == 1 ? 0 : b) * T + t) * pairs, step = halves ? 1 : 2, apart = halves ? pairs : 1;
    for (int64_t i = 0; i < pairs; i++) {
      const float first = x[i * step], second = x[i * step + apart], c = cos[at + i], s = sin[at + i];
      to[i * step] = first * c - second * s;
      to[i * step + apart] = first * s + second * c;
    }
    std::copy(x + 2 * pairs, x + E, to + 2 * pairs);
  }
};

}  // namespace soberano
