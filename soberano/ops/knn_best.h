// The k best of what one thread has seen, for each query.
//
// A score and its id become one number, smaller for what comes first: by score downwards, then by id upwards. A list
// grows to twice k and is cut back to the best k; the last of these is from then on the score to beat. A thread sees
// ids in ascending order, so what merely equals that score comes after k others and need not enter. The best k of all
// threads' lists are thus the best k of everything, however the rows were shared out.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

namespace soberano {

inline uint64_t key_of(float score, int64_t id) {
  score += 0.0f;  // -0.0 and 0.0 are equal
  uint32_t bits;
  std::memcpy(&bits, &score, 4);
  bits = bits >> 31 ? bits : ~bits & 0x7fffffff;
  return uint64_t(bits) << 32 | uint32_t(id);
}

inline float score_of(uint64_t key) {
  uint32_t bits = uint32_t(key >> 32);
  bits = bits >> 31 ? bits : ~bits & 0x7fffffff;
  float score;
  std::memcpy(&score, &bits, 4);
  return score;
}

class Best {
 public:
  // Lists for `queries`, and scores to beat for `padded`: nothing beats those of queries that are not there.
  Best(int64_t queries, int64_t padded, int64_t k)
      : k_(k), room_(k + std::max<int64_t>(k, 64)), size_(queries, 0), keys_(new uint64_t[queries * room_]) {
    to_beat.assign(padded, std::numeric_limits<float>::infinity());
    std::fill(to_beat.begin(), to_beat.begin() + queries, -std::numeric_limits<float>::infinity());
  }

  void add(int64_t query, float score, int64_t id) {
    uint64_t* keys = keys_.get() + query * room_;
    keys[size_[query]++] = key_of(score, id);
    if (size_[query] < room_) return;
    std::nth_element(keys, keys + k_ - 1, keys + room_);
    size_[query] = k_;
    to_beat[query] = score_of(keys[k_ - 1]);
  }

  void append_to(int64_t query, std::vector<uint64_t>& keys) const {
    const uint64_t* from = keys_.get() + query * room_;
    keys.insert(keys.end(), from, from + size_[query]);
  }

  std::vector<float> to_beat;

 private:
  int64_t k_, room_;
  std::vector<int64_t> size_;
  std::unique_ptr<uint64_t[]> keys_;
};

}  // namespace soberano
