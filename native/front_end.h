// An API server of a data-parallel deployment: penstock/engine/front_end.py.
#pragma once

#include <limits>

#include "coordinator.h"

namespace penstock {

class FrontEnd {
 public:
  int64_t wave = 0;
  bool engines_running = false;

  // It sees `size` ranks from `first` on and is the `index`-th of its node.
  FrontEnd(const ParallelOptions& options, int64_t first, int64_t size, int64_t index)
      : first_(first),
        counts_(static_cast<size_t>(size)),
        in_flight_(static_cast<size_t>(size), 0),
        start_index_(static_cast<size_t>(size * index / options.front_ends)),
        weight_(static_cast<double>(options.front_ends)),
        is_0_19_(options.is_0_19) {}

  // The rank with the lowest score.
  int64_t choose() {
    const size_t size = counts_.size();
    size_t best = 0;
    double lowest = std::numeric_limits<double>::infinity();
    for (size_t step = 0; step < size; ++step) {
      const size_t place = (start_index_ + step) % size;
      const double its = score(place);
      if (its < lowest) {
        best = place;
        lowest = its;
      }
    }
    counts_[best].waiting += weight_;
    if (!is_0_19_) start_index_ = (start_index_ + 1) % size;
    return first_ + static_cast<int64_t>(best);
  }

  void sent(int64_t rank) { ++in_flight_[static_cast<size_t>(rank - first_)]; }
  void hear_of_ended(int64_t rank, int64_t how_many) { in_flight_[static_cast<size_t>(rank - first_)] -= how_many; }

  void hear(const CountsOfRanks* counts, int64_t new_wave, bool running) {
    wave = new_wave;
    engines_running = running;
    if (counts) std::copy_n(counts->begin() + first_, counts_.size(), counts_.begin());
  }

 private:
  const int64_t first_;
  CountsOfRanks counts_;
  std::vector<int64_t> in_flight_;
  size_t start_index_;
  const double weight_;
  const bool is_0_19_;

  double score(size_t place) const {
    const auto& [waiting, running, usage] = counts_[place];
    if (is_0_19_) return 4 * waiting + running;
    const double load = std::max(weight_ * static_cast<double>(in_flight_[place]), waiting + running);
    return waiting != 0.0 ? load + waiting * 6.0 * std::max(0.0, usage - 0.5) : load;
  }
};

}  // namespace penstock
