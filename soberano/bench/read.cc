// Read memory and do next to nothing with it: the roof for a scan. See read.py.
#include "soberano/backends/pool.h"
#include "soberano/backends/simd.h"

// A sum of floats that nobody wants, so that the reads are not dropped. Each thread reads four runs side by side: of
// one, two or four, with and without asking ahead, that was the fastest.
extern "C" void soberano_read(const float* data, float* sums, int64_t n) {
  using namespace soberano;
  Pool& pool = Pool::instance();
  const int64_t parts = pool.threads(), run = n / parts / 4 / 16 * 16;
  pool.parallel(int(parts), [&](int part) {
    f32x16 sum[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};
    const float* from = data + 4 * run * part;
    for (int64_t i = 0; i < run; i += 16)
      for (int each = 0; each < 4; each++) sum[each] = sum[each] + load(from + each * run + i);
    store(sums + 16 * part, (sum[0] + sum[1]) + (sum[2] + sum[3]));
  });
}
