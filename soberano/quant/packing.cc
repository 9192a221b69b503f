// Pack matrices of a mapped file one after another for soberano/quant/packing.py: one call for many, so that it
// goes on beside a Python thread that holds the interpreter.
#include <algorithm>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

extern "C" int soberano_pack_tiles(const uint8_t* raw, uint8_t* tiles, int64_t O, int64_t I, int64_t ggml);

namespace {

constexpr int64_t kPiece = 8 << 20;  // bytes of the file in memory at once

struct Job {
  int64_t raw, tiles, rows, row_bytes, columns, panel_bytes, ggml;
};

enum class Advice { kRead, kRelease };

// Bring a part of the map into memory at once (thousands of faults cost more than the reading), or give it back. The
// system is free not to listen; one older than Linux 5.14 does not know the first.
void advise(const uint8_t* start, int64_t bytes, Advice advice) {
#if defined(__linux__)
  constexpr int kPopulateRead = 22;
  const uintptr_t before = uintptr_t(start) % uintptr_t(sysconf(_SC_PAGESIZE));
  madvise((void*)(start - before), bytes + before, advice == Advice::kRead ? kPopulateRead : MADV_DONTNEED);
#endif
}

void pack(const Job& job) {
  const int64_t step = std::max<int64_t>(1, kPiece / (16 * job.row_bytes)) * 16;
  for (int64_t row = 0; row < job.rows; row += step) {
    const auto* raw = (const uint8_t*)job.raw + row * job.row_bytes;
    const int64_t rows = std::min(step, job.rows - row), bytes = rows * job.row_bytes;
    advise(raw, bytes, Advice::kRead);
    soberano_pack_tiles(raw, (uint8_t*)job.tiles + row / 16 * job.panel_bytes, rows, job.columns, job.ggml);
    advise(raw, bytes, Advice::kRelease);
  }
}

}  // namespace

extern "C" void soberano_pack_many(const int64_t* jobs, int64_t count) {
  for (int64_t i = 0; i < count; i++) pack(((const Job*)jobs)[i]);
}
