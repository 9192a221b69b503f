// Arrays of zeros for soberano/backends/jax_.py that take memory only as they are written to.
//
// The pages of a cache are large, and are filled little by little or never. Writing zeros to them asks the system for
// each of its pages at once, by a fault each: 20 ms for SmolLM2.
#include <cstdint>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

// On Linux private memory that was given back reads as zeros, and comes again when it is touched.
static void zero(char* start, int64_t bytes) {
  char *inner = start, *end = start + bytes;
#if defined(__linux__)
  const int64_t page = sysconf(_SC_PAGESIZE), before = -int64_t(uintptr_t(start)) & (page - 1);
  const int64_t whole = (bytes - before) / page * page;
  if (whole > 0 && madvise(start + before, whole, MADV_DONTNEED) == 0) {
    std::memset(start, 0, before);
    inner = start + before + whole;
  }
#endif
  std::memset(inner, 0, end - inner);
}

static ffi::Error zeros(ffi::RemainingRets results) {
  for (size_t i = 0; i < results.size(); i++) {
    auto result = results.get<ffi::AnyBuffer>(i);
    if (result.has_error()) return result.error();
    zero(static_cast<char*>((*result)->untyped_data()), (*result)->size_bytes());
  }
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(soberano_zeros_ffi, zeros, ffi::Ffi::Bind().RemainingRets());
