// A thread pool for kernels of a few microseconds, beside XLA's own threads.
//
// parallel(count, work) calls work(i) for every i below count. Indices are claimed one by one, so a thread that is late
// (its core is busy with somebody else) leaves its share to the caller, who waits only for indices already begun.
// Workers spin for a moment after a job, because the next kernel of a step is a few microseconds away, and then sleep,
// because a pool that keeps spinning on a busy machine takes the cores from the very threads it waits for. A second
// caller at the same time works alone.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
inline void soberano_pause() { _mm_pause(); }
#else
inline void soberano_pause() { std::this_thread::yield(); }
#endif

namespace soberano {

class Pool {
 public:
  static Pool& instance() {
    static Pool* pool = new Pool;  // never destroyed: workers may outlive static destructors
    return *pool;
  }

  int threads() const { return workers_ + 1; }

  void resize(int threads) {
    std::lock_guard<std::mutex> one(caller_);
    try {
      for (; workers_ < threads - 1; workers_++) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {  // the system has no more: those there are must do
    }
  }

  template <class Work> void parallel(int count, Work&& work) {
    if (count <= 1 || workers_ == 0 || !caller_.try_lock()) {
      for (int i = 0; i < count; i++) work(i);
      return;
    }
    run_ = [](void* self, int i) { (*static_cast<std::remove_reference_t<Work>*>(self))(i); };
    work_ = &work;
    done_.store(0, std::memory_order_relaxed);
    // One word holds the job's number and how many indices are left: who wakes late cannot claim from the next job.
    uint64_t job = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    ticket_.store(job << 32 | uint32_t(count), std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst) > 0) {
      {
        std::lock_guard<std::mutex> hold(sleep_);
      }
      wake_.notify_all();
    }
    int mine = claim_all(job);
    done_.fetch_add(mine, std::memory_order_acq_rel);
    for (int spins = 0; done_.load(std::memory_order_acquire) < count; spins++) {
      if (spins < 4096)
        soberano_pause();
      else
        std::this_thread::yield();
    }
    caller_.unlock();
  }

 private:
  static constexpr auto kSpin = std::chrono::microseconds(60);

  int claim_all(uint64_t job) {
    int did = 0;
    for (;;) {
      uint64_t ticket = ticket_.load(std::memory_order_acquire);
      if (ticket >> 32 != job || uint32_t(ticket) == 0) return did;
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
      run_(work_, int(uint32_t(ticket)) - 1);
      did++;
    }
  }

  void serve() {
    uint64_t seen = 0;
    for (;;) {
      uint64_t job = wait_for_job(seen);
      int did = claim_all(job);
      if (did) done_.fetch_add(did, std::memory_order_acq_rel);
      seen = job;
    }
  }

  uint64_t wait_for_job(uint64_t seen) {
    auto until = std::chrono::steady_clock::now() + kSpin;
    for (int spins = 0;; spins++) {
      uint64_t job = ticket_.load(std::memory_order_acquire) >> 32;
      if (job != seen) return job;
      soberano_pause();
      if (spins % 64 == 63 && std::chrono::steady_clock::now() > until) break;
    }
    std::unique_lock<std::mutex> hold(sleep_);
    sleeping_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(hold, [&] { return ticket_.load(std::memory_order_seq_cst) >> 32 != seen; });
    sleeping_.fetch_sub(1, std::memory_order_seq_cst);
    return ticket_.load(std::memory_order_acquire) >> 32;
  }

  std::mutex caller_, sleep_;
  std::condition_variable wake_;
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int> done_{0}, sleeping_{0};
  std::atomic<int> workers_{0};
  void (*run_)(void*, int) = nullptr;
  void* work_ = nullptr;
};

}  // namespace soberano
