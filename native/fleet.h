// Instances behind a router, from one arrival to the next: penstock/engine/simulation.py with its agenda, where nothing
// depends on what becomes of a request and the router is one of ours.
#pragma once

#include <algorithm>
#include <cstdint>
#include <queue>
#include <utility>
#include <vector>

#include "replica.h"

namespace penstock {

// Which instance gets a request: penstock/engine/router.py.
enum class RouterKind : int64_t { GIVEN = 0, LOAD, LEAST_TOKENS, BETTER_OF_TWO };

class Fleet {
 public:
  std::vector<Replica*> replicas;
  RouterKind kind = RouterKind::GIVEN;
  int64_t last = -1;  // the latest choice

  // The agenda as it stands: every instance that acts, by time and number.
  void begin() {
    agenda_ = Agenda();
    scores_.assign(replicas.size(), 0.0);
    for (size_t place = 0; place < replicas.size(); ++place) moved(place);
  }

  // Let everybody act before `limit_ns`, each up to there; calls `after(replica)` whenever one has acted. The number of
  // an instance that makes no progress, or -1.
  template <class Function>
  int64_t act_before(int64_t limit_ns, Function after) {
    while (!agenda_.empty() && agenda_.top().first < limit_ns) {
      const auto [at_ns, place] = agenda_.top();
      agenda_.pop();
      Replica& one = *replicas[place];
      if (one.next_ns != at_ns) continue;  // it was left behind
      const Stopped stopped = one.run_until(limit_ns);
      after(one);
      if (stopped == Stopped::WITHOUT_PROGRESS) return static_cast<int64_t>(place);
      moved(place);
    }
    return -1;
  }

  // The instance for a request; `first` and `second` are those named beforehand.
  size_t choose(int64_t first, int64_t second) {
    const size_t one = static_cast<size_t>(first), other = static_cast<size_t>(second);
    if (kind == RouterKind::GIVEN) return one;
    if (kind == RouterKind::BETTER_OF_TWO) return scores_[other] < scores_[one] ? other : one;
    const size_t count = replicas.size(), start = static_cast<size_t>(last + 1) % count;
    size_t lowest = start;
    for (size_t place = start + 1; place < count; ++place) {
      if (scores_[place] < scores_[lowest]) lowest = place;
    }
    for (size_t place = 0; place < start; ++place) {
      if (scores_[place] < scores_[lowest]) lowest = place;
    }
    last = static_cast<int64_t>(lowest);
    return lowest;
  }

  // An instance has acted or got a request.
  void moved(size_t place) {
    const Replica& one = *replicas[place];
    if (one.next_ns != NEVER) agenda_.emplace(one.next_ns, place);
    if (kind == RouterKind::LEAST_TOKENS) {
      scores_[place] = static_cast<double>(one.outstanding_tokens);
    } else if (kind != RouterKind::GIVEN) {
      const Scheduler& scheduler = *one.scheduler;
      const int64_t waiting = scheduler.waiting.size() + static_cast<int64_t>(one.inbox.size());
      scores_[place] = static_cast<double>(4 * waiting + scheduler.running.size()) /
                       static_cast<double>(scheduler.options.max_num_seqs);
    }
  }

 private:
  using Entry = std::pair<int64_t, size_t>;
  using Agenda = std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>>;

  Agenda agenda_;
  std::vector<double> scores_;
};

}  // namespace penstock
