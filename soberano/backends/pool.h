// A thread pool for kernels of a few microseconds, beside XLA's own threads.
//
// parallel(count, work) calls work(i) for every i below count. Each thread begins with a share of its own, the same
// part of every count, so that it finds in its core's cache what it left there in the kernel before. Indices are
// claimed one by one, and who is done helps the others: a thread that is late (its core is busy with somebody else)
// leaves its share to the caller, who waits only for indices already begun.
//
// Workers spin for a moment after a job, because the next kernel of a step is a few microseconds away, and then sleep,
// because a pool that keeps spinning on a busy machine takes the cores from the very threads it waits for. A second
// caller at the same time works alone.
#pragma once
#include <algorithm>
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
      for (; workers_ < std::min(threads, kMost) - 1; workers_++)
        std::thread([this, self = workers_ + 1] { serve(self); }).detach();
    } catch (const std::system_error&) {  // the system has no more: those there are must do
    }
  }

  template <class Work> void parallel(int count, Work&& work) {
    if (count <= 1 || workers_ == 0 || !caller_.try_lock()) {
      for (int i = 0; i < count; i++) work(i);
      return;
    }
    run_ = [](void* self, int i) { (*static_cast<std::remove_reference_t<Work>*>(self))(i); };
    work_ = &work, count_ = count;
    done_.store(0, std::memory_order_relaxed);
    const uint64_t job = job_.load(std::memory_order_relaxed) + 1;
    for (int i = 0; i < threads(); i++) shares_[i].open(job, begin(i + 1) - begin(i));
    job_.store(job, std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst) > 0) {
      {
        std::lock_guard<std::mutex> hold(sleep_);
      }
      wake_.notify_all();
    }
    int mine = claim_all(job, 0);
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
  static constexpr int kMost = 1024;  // threads
  static constexpr auto kSpin = std::chrono::microseconds(60);

  // One word holds a job's number and how many indices are left: who wakes late cannot claim from the next job.
  struct alignas(64) Share {
    std::atomic<uint64_t> ticket{0};

    void open(uint64_t job, int count) { ticket.store(job << 32 | uint32_t(count), std::memory_order_release); }

    // How many indices were left, of which one is now the caller's; 0 if there was none.
    int claim(uint64_t job) {
      for (uint64_t seen = ticket.load(std::memory_order_acquire); seen >> 32 == uint32_t(job) && uint32_t(seen);)
        if (ticket.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) return int(uint32_t(seen));
      return 0;
    }
  };

  // Where share i begins. Only for who has claimed an index, so that the job cannot end meanwhile.
  int begin(int i) const { return int(int64_t(count_) * i / threads()); }

  int claim_all(uint64_t job, int self) {
    int did = 0;
    for (int i = 0, n = threads(); i < n; i++) {
      const int from = (self + i) % n;
      while (const int left = shares_[from].claim(job)) run_(work_, begin(from + 1) - left), did++;
    }
    return did;
  }

  void serve(int self) {
    uint64_t seen = 0;
    for (;;) {
      uint64_t job = wait_for_job(seen);
      int did = claim_all(job, self);
      if (did) done_.fetch_add(did, std::memory_order_acq_rel);
      seen = job;
    }
  }

  uint64_t wait_for_job(uint64_t seen) {
    auto until = std::chrono::steady_clock::now() + kSpin;
    for (int spins = 0;; spins++) {
      uint64_t job = job_.load(std::memory_order_acquire);
      if (job != seen) return job;
      soberano_pause();
      if (spins % 64 == 63 && std::chrono::steady_clock::now() > until) break;
    }
    std::unique_lock<std::mutex> hold(sleep_);
    sleeping_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(hold, [&] { return job_.load(std::memory_order_seq_cst) != seen; });
    sleeping_.fetch_sub(1, std::memory_order_seq_cst);
    return job_.load(std::memory_order_acquire);
  }

  std::mutex caller_, sleep_;
  std::condition_variable wake_;
  std::atomic<uint64_t> job_{0};
  Share shares_[kMost];
  std::atomic<int> done_{0}, sleeping_{0};
  std::atomic<int> workers_{0};
  void (*run_)(void*, int) = nullptr;
  void* work_ = nullptr;
  int count_ = 0;
};

}  // namespace soberano
