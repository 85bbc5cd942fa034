// The requests that wait for admission: penstock/scheduler/waiting.py.
#pragma once

#include <cstdint>
#include <set>
#include <tuple>
#include <vector>

#include "request.h"

namespace penstock {

class WaitingQueue {
 public:
  explicit WaitingQueue(bool by_priority) : by_priority_(by_priority) {}

  // All of them, and whether none of them can be tried.
  int64_t size() const { return count() + parked_.size(); }
  bool empty() const { return count() == 0; }
  // Prompt and answer so far of all of them.
  int64_t tokens() const { return tokens_; }
  void one_token_more() { ++tokens_; }

  void add(Request* state) {
    state->queue_place = ++last_place_;
    put(state, false);
  }
  void put_back(Request* state) {
    state->queue_place = --first_place_;
    put(state, true);
  }

  Request* first() const {
    if (empty()) return parked_.first();
    return by_priority_ ? std::get<3>(*sorted_.begin()) : line_.first();
  }

  // One that was taken out is not tried until it is called: penstock/scheduler/parking.py.
  void park(Request* state) {
    state->is_waiting = state->is_parked = true;
    tokens_ += state->num_tokens;
    parked_.append(state);
  }
  void call(Request* state) {
    if (!state->is_parked) return;
    discard(state);
    Request* before = by_priority_ ? nullptr : line_.first();
    while (before && before->queue_place < state->queue_place) before = WaitingList::after(before);
    state->is_waiting = true;
    tokens_ += state->num_tokens;
    if (by_priority_) sorted_.insert(entry(state));
    else line_.insert_before(before, state);
  }

  void discard(Request* state) {
    if (!state->is_waiting) return;
    state->is_waiting = false;
    tokens_ -= state->num_tokens;
    if (state->is_parked) parked_.remove(state);
    else if (by_priority_) sorted_.erase(entry(state));
    else line_.remove(state);
    state->is_parked = false;
  }

  // Put requests back that were taken out one after the other and passed over.
  void restore(const std::vector<Request*>& skipped) {
    for (size_t place = skipped.size(); place-- > 0;) put(skipped[place], true);
  }

 private:
  using Entry = std::tuple<int64_t, int64_t, int64_t, Request*>;

  const bool by_priority_;
  WaitingList line_, parked_;
  std::set<Entry> sorted_;
  int64_t tokens_ = 0, first_place_ = 0, last_place_ = 0;

  int64_t count() const { return by_priority_ ? static_cast<int64_t>(sorted_.size()) : line_.size(); }

  static Entry entry(Request* state) {
    return Entry(state->priority, state->arrived_ns, state->index, state);
  }

  void put(Request* state, bool at_head) {
    state->is_waiting = true;
    tokens_ += state->num_tokens;
    if (by_priority_) sorted_.insert(entry(state));
    else if (at_head) line_.prepend(state);
    else line_.append(state);
  }
};

}  // namespace penstock
