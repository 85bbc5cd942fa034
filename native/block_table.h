// Cached blocks by what they hold: open addressing, since a run looks up, adds and removes millions of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "lists.h"
#include "request.h"

namespace penstock {

// An entry of the queue of free blocks: a cached block, or the blocks of a preempted request.
struct Queued {
  bool is_own = false;
  bool is_queued = false;
  Link<Queued> link;
};

// `same` are its neighbours among the blocks of one content, in the order in which they came; the first one's `prev` is
// the last.
struct CachedBlock : Queued {
  Key key{0, 0};
  int64_t users = 1;
  Link<CachedBlock> same;
};

class BlockTable {
 public:
  BlockTable() : slots_(1024) {}

  // The block that has held this content the longest, or null.
  CachedBlock* find(const Key& key) const {
    const Slot& slot = slots_[place_of(key)];
    return slot.first;
  }

  // Somebody looks there soon.
  void expect(const Key& key) const { prefetch(&slots_[static_cast<size_t>(key.low) & (slots_.size() - 1)]); }

  void add(CachedBlock* block) {
    if (2 * (count_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[place_of(block->key)];
    block->same = Link<CachedBlock>{block, nullptr};
    if (slot.first) {
      CachedBlock* last = slot.first->same.prev;
      last->same.next = block;
      block->same.prev = last;
      slot.first->same.prev = block;
      return;
    }
    slot = Slot{block->key.low, block};
    ++count_;
  }

  void remove(CachedBlock* block) {
    const size_t place = place_of(block->key);
    CachedBlock*& first = slots_[place].first;
    CachedBlock* next = block->same.next;
    if (block != first) {
      block->same.prev->same.next = next;
      (next ? next : first)->same.prev = block->same.prev;
    } else if (next) {
      next->same.prev = block->same.prev;
      first = next;
    } else {
      close(place);
    }
  }

  template <class Function>
  void each(Function function) const {
    for (const Slot& slot : slots_) {
      for (CachedBlock *block = slot.first, *next; block; block = next) {
        next = block->same.next;
        function(block);
      }
    }
  }

 private:
  struct Slot {
    uint64_t low = 0;
    CachedBlock* first = nullptr;
  };

  std::vector<Slot> slots_;  // a power of two of them
  size_t count_ = 0;

  size_t place_of(const Key& key) const {
    const size_t mask = slots_.size() - 1;
    size_t place = static_cast<size_t>(key.low) & mask;
    while (slots_[place].first && !(slots_[place].low == key.low && slots_[place].first->key == key)) {
      place = (place + 1) & mask;
    }
    return place;
  }

  void grow() {
    std::vector<Slot> before(2 * slots_.size());
    before.swap(slots_);
    for (const Slot& slot : before) {
      if (slot.first) slots_[place_of(slot.first->key)] = slot;
    }
  }

  // Empty a slot; those behind it that would not be found any more move up.
  void close(size_t place) {
    const size_t mask = slots_.size() - 1;
    --count_;
    for (size_t next = (place + 1) & mask; slots_[next].first; next = (next + 1) & mask) {
      const size_t home = static_cast<size_t>(slots_[next].low) & mask;
      if (((next - home) & mask) < ((next - place) & mask)) continue;
      slots_[place] = slots_[next];
      place = next;
    }
    slots_[place] = Slot();
  }
};

}  // namespace penstock
