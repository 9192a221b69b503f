// Read memory and do next to nothing with it: the roof for a scan. See read.py.
#include "soberano/backends/pool.h"
#include "soberano/backends/simd.h"

// A sum of floats that nobody wants, so that the reads are not dropped. Each thread reads one long part.
extern "C" void soberano_read(const float* data, float* sums, int64_t n) {
  using namespace soberano;
  Pool& pool = Pool::instance();
  const int64_t parts = pool.threads();
  pool.parallel(int(parts), [&](int part) {
    f32x16 sum[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
    for (int64_t i = n / 64 * part / parts * 64; i < n / 64 * (part + 1) / parts * 64; i += 64)
      for (int lane = 0; lane < 4; lane++) {
        __builtin_prefetch(data + i + 16 * lane + 1024);
        sum[lane] = sum[lane] + load(data + i + 16 * lane);
      }
    store(sums + 16 * part, (sum[0] + sum[1]) + (sum[2] + sum[3]));
  });
}
