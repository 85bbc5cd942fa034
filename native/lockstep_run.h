// What a group of ranks does together: the second half of lockstep.h.
#pragma once

#include "rank.h"

namespace penstock {

inline int64_t LockstepGroup::enter_sync(size_t rank, int64_t now, bool is_unfinished) {
  is_unfinished_ |= is_unfinished;
  if (--missing_in_sync_) return NEVER;
  const bool is_any_unfinished = is_unfinished_;
  is_unfinished_ = false;
  missing_in_sync_ = size_;
  const int64_t at_ns = now + options.sync_ns;
  for (size_t other = 0; other < size_; ++other) ranks[other]->synced(at_ns, is_any_unfinished, other == rank);
  return at_ns;
}

inline bool LockstepGroup::has_requests() const {
  return std::any_of(ranks.begin(), ranks.end(), [](const Rank* rank) { return rank->has_request(); });
}

inline void LockstepGroup::run(const Forward& forward) {
  const int64_t padded = costs_.forward_ns(forward.steps, compute_ns_.data());
  const size_t last = compute_ns_.size() - 1;
  arrive_ns_.clear();
  for (size_t rank = 0; rank < size_; ++rank) {
    arrive_ns_.push_back(Rank::ready_ns(forward.steps[rank], forward.entry_ns[rank]));
  }
  for (size_t stage = 0; stage <= last; ++stage) {
    int64_t start = 0, ready_sum = 0;
    size_t latest = 0;
    for (size_t rank = 0; rank < size_; ++rank) {
      const int64_t ready = std::max(ranks[rank]->stage_free_ns[stage], arrive_ns_[rank]);
      ready_sum += ready;
      if (ready > start) {
        start = ready;
        latest = rank;
      }
    }
    waited_for_ns[latest] += static_cast<int64_t>(size_) * start - ready_sum;
    const int64_t end = start + compute_ns_[stage];
    for (size_t rank = 0; rank < size_; ++rank) {
      const Step* step = forward.steps[rank];
      int64_t busy_until = end;
      if (step && stage == last && !options.tail_ns.empty()) {
        busy_until += options.tail_ns[static_cast<size_t>(step->members) + step->chunks.size()];
      }
      ranks[rank]->ran(stage, arrive_ns_[rank], start, busy_until);
      if (step && stage < last) {
        arrive_ns_[rank] = ranks[rank]->hop(stage, padded ? padded : step->tokens, end);
      }
    }
  }
  if (padded) {
    padding_tokens += padded * static_cast<int64_t>(size_);
    for (const Step* step : forward.steps) padding_tokens -= step ? step->tokens : 1;
  }
  for (size_t rank = 0; rank < size_; ++rank) {
    const Step* step = forward.steps[rank];
    ranks[rank]->resolved(step ? options.return_ns[static_cast<size_t>(step->load.sampled)] : 0);
  }
}

}  // namespace penstock
