// The KV block pool: penstock/scheduler/kv_cache.py, whose comments explain it.
#pragma once

#include <cstddef>
#include <vector>

#include "block_table.h"
#include "lists.h"
#include "request.h"

namespace penstock {

struct OwnBlocks : Queued {
  int64_t blocks = 0;
  bool can_be_hit = false;
  bool has_owner = false;
};

// What was found for a request that asks for its prefix.
struct Found {
  OwnBlocks* own = nullptr;
  std::vector<CachedBlock*> blocks;
  bool any() const { return own || !blocks.empty(); }
};

class KvPool {
 public:
  int64_t usable;
  int64_t free;
  const int64_t block_size;
  const bool prefix_caching;

  KvPool(int64_t num_gpu_blocks, int64_t block_size, bool prefix_caching)
      : usable(num_gpu_blocks - 1), free(usable), block_size(block_size), prefix_caching(prefix_caching) {}

  ~KvPool() {
    while (Queued* one = queue_.first()) {
      queue_.remove(one);
      if (one->is_own) delete static_cast<OwnBlocks*>(one);
    }
    by_key_.each([](CachedBlock* block) { delete block; });
    for (CachedBlock* block : spare_blocks_) delete block;
  }

  int64_t blocks_for(int64_t tokens) const { return (tokens + block_size - 1) / block_size; }

  void take(int64_t blocks) {
    free -= blocks;
    if (queued_ > free) reuse();
  }

  bool caches(const Request& state) const { return prefix_caching && state.has_ids; }

  void release(Request& state, int64_t computed, int64_t known, bool resumes) {
    const int64_t held = blocks_for(computed);
    std::vector<CachedBlock*>& hashed = state.hashed_blocks;
    if (!hashed.empty() || state.unknown_blocks) {
      free += held - static_cast<int64_t>(hashed.size());
      if (resumes) {
        free -= state.unknown_blocks;
        for (; state.unknown_blocks; --state.unknown_blocks) add_block(state);
      } else if (state.unknown_blocks) {
        if (!queue_.empty()) enqueue(new_run(state.unknown_blocks), state.unknown_blocks);
        state.unknown_blocks = 0;
      }
      for (size_t place = hashed.size(); place-- > 0;) {
        CachedBlock* block = hashed[place];
        if (--block->users == 0) {
          enqueue(block, 1);
          ++free;
        }
      }
      hashed.clear();
      return;
    }
    free += held;
    if (!prefix_caching || !(resumes || !queue_.empty())) return;
    const int64_t full = (known < computed ? known : computed) / block_size;
    if (full <= 0) return;
    const bool can_be_hit = resumes && !caches(state);
    if (!can_be_hit && queue_.empty()) return;
    OwnBlocks* run = new_run(full);
    run->can_be_hit = can_be_hit;
    if (can_be_hit) {
      run->has_owner = true;
      state.own_blocks = run;
    }
    enqueue(run, full);
  }

  void find_prefix(Request& state, Found& found) {
    found.own = nullptr;
    found.blocks.clear();
    if (OwnBlocks* own = state.own_blocks) {
      if (own->blocks && state.num_tokens > block_size) found.own = own;
      return;
    }
    if (!caches(state)) return;
    const int64_t most = (state.num_tokens - 1) / block_size;
    for (int64_t position = 0; position < most; ++position) {
      CachedBlock* block = by_key_.find(key(state, position));
      if (!block) break;
      found.blocks.push_back(block);
    }
  }

  // How many blocks were found, and how many of them are free ones.
  void count_found(const Request& state, const Found& found, int64_t& hit, int64_t& claim) const {
    if (found.own) {
      const int64_t most = (state.num_tokens - 1) / block_size;
      hit = claim = found.own->blocks < most ? found.own->blocks : most;
      return;
    }
    hit = static_cast<int64_t>(found.blocks.size());
    claim = 0;
    for (const CachedBlock* block : found.blocks) claim += block->users == 0;
  }

  void use(Request& state, Found& found) {
    if (found.own) {
      int64_t blocks, claim;
      count_found(state, found, blocks, claim);
      found.own->blocks -= blocks;
      queued_ -= blocks;
      free -= blocks;
      return;
    }
    for (CachedBlock* block : found.blocks) {
      if (!block->users) {
        dequeue(block);
        --queued_;
        --free;
      }
      ++block->users;
    }
    state.hashed_blocks = found.blocks;
  }

  void resumed(Request& state) {
    OwnBlocks* own = state.own_blocks;
    if (!own) return;
    state.own_blocks = nullptr;
    own->can_be_hit = false;
    own->has_owner = false;
    if (own->blocks) return;
    if (own->is_queued) dequeue(own);
    delete own;
  }

  // note() comes soon, of one more block.
  void expect_note(const Request& state) const {
    const size_t next = state.hashed_blocks.size();
    if (next >= state.keys.size()) return;
    by_key_.expect(state.keys[next]);
    if (!spare_blocks_.empty()) prefetch(spare_blocks_.back());
  }

  // The request's first `tokens` tokens are scheduled: its full blocks can be hit from now on.
  void note(Request& state, int64_t tokens) {
    if (!caches(state)) return;
    const int64_t full = tokens / block_size;
    while (hashed_blocks(state) < full) {
      if (state.hashed_blocks.size() < state.keys.size()) add_block(state);
      else ++state.unknown_blocks;
    }
  }

  // The keys of a request's blocks: of its prompt and, where they are known, of its answer.
  void make_keys(Request& state, const int32_t* input, const int32_t* output, int64_t outputs);

 private:
  List<Queued, &Queued::link> queue_;
  int64_t queued_ = 0;
  BlockTable by_key_;
  uint64_t unknown_ = 0;
  std::vector<CachedBlock*> spare_blocks_;

  static int64_t hashed_blocks(const Request& state) {
    return static_cast<int64_t>(state.hashed_blocks.size()) + state.unknown_blocks;
  }

  static OwnBlocks* new_run(int64_t blocks) {
    OwnBlocks* run = new OwnBlocks;
    run->is_own = true;
    run->blocks = blocks;
    return run;
  }

  // The next of a request's blocks is full and can be hit.
  void add_block(Request& state) {
    CachedBlock* block;
    if (spare_blocks_.empty()) {
      block = new CachedBlock;
    } else {
      block = spare_blocks_.back();
      spare_blocks_.pop_back();
      *block = CachedBlock();
    }
    block->key = key(state, static_cast<int64_t>(state.hashed_blocks.size()));
    by_key_.add(block);
    state.hashed_blocks.push_back(block);
  }

  void enqueue(Queued* one, int64_t blocks) {
    queue_.append(one);
    one->is_queued = true;
    queued_ += blocks;
  }

  void dequeue(Queued* one) {
    queue_.remove(one);
    one->is_queued = false;
  }

  void reuse() {
    while (queued_ > free) {
      Queued* first = queue_.first();
      if (!first->is_own) {
        CachedBlock* block = static_cast<CachedBlock*>(first);
        dequeue(block);
        --queued_;
        by_key_.remove(block);
        spare_blocks_.push_back(block);
        continue;
      }
      OwnBlocks* run = static_cast<OwnBlocks*>(first);
      int64_t given = run->blocks;
      if (run->can_be_hit && queued_ - free < given) given = queued_ - free;
      run->blocks -= given;
      queued_ -= given;
      if (run->blocks) continue;
      dequeue(run);
      if (!run->has_owner) delete run;
    }
  }

  const Key& key(Request& state, int64_t position) {
    while (static_cast<int64_t>(state.keys.size()) <= position) state.keys.push_back(unknown_key());
    return state.keys[static_cast<size_t>(position)];
  }

  // The key of a block of which nobody knows what it holds: equal to no other.
  Key unknown_key() { return Key{mixed(++unknown_), ~uint64_t{0}}; }

  static uint64_t mixed(uint64_t value) {
    value += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
  }
};

inline void KvPool::make_keys(Request& state, const int32_t* input, const int32_t* output, int64_t outputs) {
  state.has_ids = true;
  if (!prefix_caching) return;
  const int64_t known = state.input_tokens;
  Key chained{0, 0};
  for (int64_t position = 0; position < state.final_tokens / block_size; ++position) {
    const int64_t start = position * block_size, stop = start + block_size;
    if (stop > known && !output) return;  // unknown from here on, see key()
    uint64_t low = chained.low, high = chained.high;
    int64_t count = 0;
    uint64_t pair = 0;
    for (int64_t token = start; token < stop; ++token) {
      uint32_t id;
      if (token < known) id = static_cast<uint32_t>(input[token]);
      else if (token - known < outputs) id = static_cast<uint32_t>(output[token - known]);
      else break;
      pair = pair << 32 | id;
      if (++count % 2) continue;
      low = mixed(low ^ pair);
      high = mixed(high + pair * 0x5851f42d4c957f2du);
    }
    if (count % 2) {
      low = mixed(low ^ (pair & 0xffffffffu));
      high = mixed(high + (pair & 0xffffffffu) * 0x5851f42d4c957f2du);
    }
    if (!count) return;
    low = mixed(low + static_cast<uint64_t>(count));
    chained = Key{low, mixed(high ^ low) >> 1};  // its top bit is that of unknown keys alone
    state.keys.push_back(chained);
  }
}

}  // namespace penstock
