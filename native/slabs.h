// Memory in pieces that stay where they are: nothing is copied as it grows, and all of it goes back at once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace penstock {

template <class T, size_t most>
class Slabs {
 public:
  // One more, as new.
  T* add() {
    if (used_ == room_) {
      room_ = pieces_.empty() ? std::min<size_t>(64, most) : most;
      pieces_.emplace_back(std::unique_ptr<T[]>(new T[room_]()), room_);
      used_ = 0;
    }
    return &pieces_.back().first[used_++];
  }

  // All of them, in the order in which they were added.
  template <class Function>
  void each_piece(Function function) const {
    for (const auto& [values, room] : pieces_) {
      function(values.get(), &values == &pieces_.back().first ? used_ : room);
    }
  }

  size_t pieces() const { return pieces_.size(); }

  void clear() {
    std::vector<std::pair<std::unique_ptr<T[]>, size_t>>().swap(pieces_);
    used_ = room_ = 0;
  }

 private:
  std::vector<std::pair<std::unique_ptr<T[]>, size_t>> pieces_;
  size_t used_ = 0, room_ = 0;
};

}  // namespace penstock
