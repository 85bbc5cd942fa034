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

  int64_t size() const { return by_priority_ ? static_cast<int64_t>(sorted_.size()) : line_.size(); }
  bool empty() const { return size() == 0; }
  // Prompt and answer so far of all of them.
  int64_t tokens() const { return tokens_; }
  void one_token_more() { ++tokens_; }

  void add(Request* state) { put(state, false); }
  void put_back(Request* state) { put(state, true); }

  Request* first() const { return by_priority_ ? std::get<3>(*sorted_.begin()) : line_.first(); }

  void discard(Request* state) {
    if (!state->is_waiting) return;
    state->is_waiting = false;
    tokens_ -= state->num_tokens;
    if (by_priority_) sorted_.erase(entry(state)); else line_.remove(state);
  }

  // Put requests back that were taken out one after the other and passed over.
  void restore(const std::vector<Request*>& skipped) {
    for (size_t place = skipped.size(); place-- > 0;) put(skipped[place], true);
  }

 private:
  using Entry = std::tuple<int64_t, int64_t, int64_t, Request*>;

  const bool by_priority_;
  WaitingList line_;
  std::set<Entry> sorted_;
  int64_t tokens_ = 0;

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
