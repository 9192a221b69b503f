// Memory that a thread keeps from call to call: fresh pages can cost more than the arithmetic done in them.
#pragma once
#include <cstdint>
#include <memory>

namespace soberano {

// Room for values of T, on a cache line. What was in it is lost when it grows. Bind a thread_local one to a reference
// before a lambda uses it: inside the lambda its name would mean the other thread's.
template <class T> class Scratch {
 public:
  T* room(int64_t count) {
    if (count > size_) memory_.reset(new char[count * sizeof(T) + 64]), size_ = count;
    return (T*)((uintptr_t(memory_.get()) + 63) & ~uintptr_t(63));
  }

 private:
  std::unique_ptr<char[]> memory_;
  int64_t size_ = 0;
};

}  // namespace soberano
