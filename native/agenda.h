// Who acts next: penstock/engine/kernel.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <queue>
#include <tuple>
#include <vector>

#include "request.h"

namespace penstock {

// Who comes first of those that act at one instant.
enum class Phase : int64_t { MESSAGE = 0, CONTROL = 2, ENGINE = 4 };

class Actor {
 public:
  const Phase phase;
  const int64_t key;

  Actor(Phase phase, int64_t rank) : phase(phase), key((static_cast<int64_t>(phase) << 32) + rank) {}
  virtual ~Actor() = default;

  // When it acts next; NEVER while it waits to be woken.
  virtual int64_t acts_ns() const = 0;
  // Do everything that is to be done before `limit_ns`, or less.
  virtual void act(int64_t limit_ns) = 0;
};

class Agenda {
 public:
  // The actor that runs must not act at or after that time, as somebody before it in the order will.
  int64_t limit_ns = NEVER;

  // Let `actor` act at `at_ns`, which is when it acts. The running actor need not be told.
  void wake(Actor& actor, int64_t at_ns) {
    if (&actor == running_) return;
    entries_.emplace(at_ns, actor.key, &actor);
    limit_ns = std::min(limit_ns, actor.key > running_key_ ? at_ns + 1 : at_ns);
  }

  int64_t next_ns() {
    while (!entries_.empty()) {
      const auto& [at_ns, key, actor] = entries_.top();
      if (actor->acts_ns() == at_ns && actor != running_) return at_ns;
      entries_.pop();
    }
    return NEVER;
  }

  // Whether whoever acts next is of `phase`; somebody must.
  bool next_is(Phase phase) const { return std::get<2>(entries_.top())->phase == phase; }

  // Let the next actor act until somebody else's turn comes, or `before_ns`; there must be one that acts before that.
  Actor& run_next(int64_t before_ns) {
    Actor& actor = *std::get<2>(entries_.top());
    entries_.pop();
    running_ = &actor;
    running_key_ = actor.key;
    limit_ns = before_ns;
    const int64_t following_ns = next_ns();
    if (following_ns < before_ns) {
      const bool is_behind = std::get<1>(entries_.top()) > actor.key;
      limit_ns = std::min(before_ns, is_behind ? following_ns + 1 : following_ns);
    }
    actor.act(limit_ns);
    running_ = nullptr;
    running_key_ = -1;
    limit_ns = NEVER;
    if (actor.acts_ns() != NEVER) entries_.emplace(actor.acts_ns(), actor.key, &actor);
    return actor;
  }

 private:
  using Entry = std::tuple<int64_t, int64_t, Actor*>;

  std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> entries_;
  Actor* running_ = nullptr;
  int64_t running_key_ = -1;
};

}  // namespace penstock
