// Memory on a cache line, which a thread may keep from call to call: fresh pages can cost more than the arithmetic done
// in them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>

namespace soberano {

// Room for values of T. Bind a thread_local one to a reference before a lambda uses it: inside the lambda its name
// would mean the other thread's.
template <class T> class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(int64_t zeros) { std::fill_n(room(zeros), zeros, T()); }

  // Room for so many values. What was in it is lost when it grows, and what is new in it may be anything.
  T* room(int64_t count) {
    if (count > size_) {
      memory_.reset(new char[count * sizeof(T) + 64]), size_ = count;
      data_ = (T*)((uintptr_t(memory_.get()) + 63) & ~uintptr_t(63));
    }
    return data_;
  }
  T* data() const { return data_; }

 private:
  std::unique_ptr<char[]> memory_;
  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace soberano
