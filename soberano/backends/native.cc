// What the library says of itself to soberano/backends/native.py.
#include "soberano/backends/amx.h"
#include "soberano/backends/pool.h"
#include "soberano/backends/simd.h"

extern "C" const char* soberano_isa() {
#if SOBERANO_AMX
  if (soberano::amx_allowed()) return "amx";
#endif
#if SOBERANO_AVX512
  return "avx512";
#elif SOBERANO_AVX2
  return "avx2";
#elif SOBERANO_NEON
  return "neon";
#else
  return "portable";
#endif
}

extern "C" void soberano_threads(int threads) { soberano::Pool::instance().resize(threads); }
