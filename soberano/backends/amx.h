// The matrix unit of newer Intel processors (AMX): permission to use it, and the shape of its tiles.
#pragma once
#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512BF16__) && defined(__linux__)
#define SOBERANO_AMX 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace soberano {

// Ask the kernel for the tile registers, once. False where it does not give them.
inline bool amx_allowed() {
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool allowed = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  return allowed;
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Tiles 0 to 3: sums of 2 x 2 blocks of 16 tokens x 16 outputs; 4 and 5: tokens; 6 and 7: weights.
inline void configure_tiles() {
  TileConfig config;
  asm volatile("" : : "m"(config));  // gcc 12 does not see that the next line reads it, and would drop the stores
  _tile_loadconfig(&config);
}

// Halves of thirty-two 16-bit numbers, taking turns: a[0], a[16], a[1], ...
inline __m512i interleave_halves(__m512i a) {
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                              6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(interleave, a);
}

// Two registers of sixteen floats to bfloat16, taking turns: first[0], second[0], first[1], ...
inline __m512i to_bf16_pairs(__m512 first, __m512 second) {
  return interleave_halves((__m512i)_mm512_cvtne2ps_pbh(second, first));
}

}  // namespace soberano
#endif
