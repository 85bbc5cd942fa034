// Where data-parallel ranks meet: penstock/engine/lockstep.py, whose comments explain it.
#pragma once

#include <deque>
#include <vector>

#include "group_costs.h"

namespace penstock {

class Rank;

// How long a forward takes. A share is nullptr where the rank runs a dummy batch.
class GroupCostSource {
 public:
  virtual ~GroupCostSource() = default;
  // Compute time of every stage; returns the tokens that all ranks pad to, 0 where they do not.
  virtual int64_t forward_ns(const std::vector<Step*>& steps, int64_t* times) = 0;
};

// What the ranks of a group have in common.
struct GroupOptions {
  int64_t pp_size;
  std::vector<Hop> hops;
  std::vector<int64_t> return_ns, tail_ns;  // by sampled tokens, by requests; no tails: empty
  int64_t back_ns, sync_ns;
};

// Ranks whose forwards run together, and the all-reduces that end a wave.
class LockstepGroup {
 public:
  const GroupOptions options;
  std::vector<Rank*> ranks;
  int64_t forwards = 0, padding_tokens = 0;
  std::vector<int64_t> waited_for_ns;

  LockstepGroup(const GroupOptions& options, size_t size, GroupCostSource& costs)
      : options(options),
        waited_for_ns(size, 0),
        size_(size),
        costs_(costs),
        missing_in_sync_(size),
        compute_ns_(static_cast<size_t>(options.pp_size), 0) {}

  // The share of `rank` in forward `index`, a dummy batch without a step.
  void submit(size_t rank, int64_t index, Step* step, int64_t entry_ns) {
    const size_t place = static_cast<size_t>(index - forwards);
    if (place == open_.size()) open_.emplace_back(size_);
    Forward& forward = open_[place];
    forward.steps[rank] = step;
    forward.entry_ns[rank] = entry_ns;
    if (--forward.missing) return;
    const Forward complete = std::move(forward);
    open_.pop_front();
    ++forwards;
    run(complete);
  }

  // `rank` comes to the all-reduce; when it ends, or NEVER while others are missing.
  int64_t enter_sync(size_t rank, int64_t now, bool is_unfinished);

  // Whether any rank has a request that it has not finished.
  bool has_requests() const;

 private:
  struct Forward {
    std::vector<Step*> steps;
    std::vector<int64_t> entry_ns;
    size_t missing;

    explicit Forward(size_t size) : steps(size, nullptr), entry_ns(size, NEVER), missing(size) {}
  };

  const size_t size_;
  GroupCostSource& costs_;
  std::deque<Forward> open_;
  size_t missing_in_sync_;
  bool is_unfinished_ = false;
  std::vector<int64_t> compute_ns_, arrive_ns_;

  void run(const Forward& forward);
};

}  // namespace penstock
