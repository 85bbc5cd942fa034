// KV from elsewhere: that part of penstock/scheduler/vllm.py, whose comments explain it.
#pragma once

#include "scheduler.h"

namespace penstock {

inline int64_t Scheduler::load(Request* state, int64_t hit_blocks, int64_t claim, const Match& match) {
  const int64_t tokens = hit_blocks * kv.block_size + match.tokens;
  const int64_t blocks = kv.blocks_for(tokens) - hit_blocks;
  const int64_t whole = kv.blocks_for(state->num_tokens);
  if (options.watermark_blocks && !running.empty()) claim += options.watermark_blocks;
  if (blocks + claim + match.reserved_blocks > kv.free - lacking_blocks() ||
      (options.reserve_full_isl && whole - hit_blocks + claim > kv.free)) {
    out_of_capacity_ = true;
    return STOP;
  }
  if (found_.any()) kv.use(*state, found_);
  if (state->own_blocks) kv.resumed(*state);
  kv.take(blocks);
  state->held_blocks = hit_blocks + blocks;
  state->num_computed = tokens;
  state->load_order = loads_++;
  loads_lack_ += whole - state->held_blocks;
  loading.append(state);
  state->is_loading = true;
  connector->allocated(state, hit_blocks, match.tokens);
  return 0;
}

inline int64_t Scheduler::lacking_blocks() const {
  int64_t lacking = loads_lack_;
  for (const Request* state : partials_) lacking += kv.blocks_for(state->num_tokens) - state->held_blocks;
  return lacking;
}

inline int64_t Scheduler::admit_loaded(Step* step, int64_t budget, int64_t threshold, int64_t now) {
  while (!loaded.empty() && budget > 0) {
    if (!lets_one_in()) break;
    Request* state = loaded.front();
    if (state->is_unpromoted) promote(state);
    int64_t tokens;
    if (state->held_blocks) {
      tokens = admissible(state, state->num_computed, budget, threshold, state->held_blocks, 0);
      if (!tokens) break;
      run(step, state, tokens, now);
    } else {
      tokens = try_one(step, state, budget, threshold, now);
      if (tokens == STOP) break;
      if (tokens == SKIP || tokens == PARK) {
        waiting.put_back(state);
        tokens = 0;
      }
    }
    state->is_loaded = false;
    loaded.erase(loaded.begin());
    budget -= tokens;
  }
  return budget;
}

inline void Scheduler::promote(Request* state) {
  loads_lack_ -= kv.blocks_for(state->num_tokens) - state->held_blocks;
  state->is_unpromoted = false;
  if (state->is_discarded) {
    kv.release(*state, state->num_computed, 0, false);
    state->held_blocks = state->num_computed = 0;
  } else {
    kv.note(*state, state->num_computed);
    state->num_computed = std::min(state->num_computed, state->num_tokens - 1);
  }
}

inline void Scheduler::load_no_more(Request* state) {
  loading.remove(state);
  state->is_loading = false;
}

inline void Scheduler::take_report(const TransferReport& report, int64_t now, std::vector<Request*>& ended) {
  is_settled_ = false;
  std::vector<Request*> one(1);
  for (Request* state : report.unloadable) {
    load_no_more(state);
    state->is_unhashed = state->is_failed = true;
    loads_lack_ -= kv.blocks_for(state->num_tokens) - state->held_blocks;
    one[0] = state;
    finish(one, now);
    ended.push_back(state);
  }
  for (Request* state : report.discarded) state->is_discarded = true;
  for (Request* state : report.first_tokens) state->brings_token = true;
  for (Request* state : report.loaded) {
    if (!state->is_loading) continue;
    load_no_more(state);
    if (state->brings_token && take_first_token(state, now)) {
      ended.push_back(state);
      continue;
    }
    state->is_unpromoted = state->is_loaded = true;
    const auto before = [this](const Request* a, const Request* b) { return loads_before(a, b); };
    loaded.insert(std::upper_bound(loaded.begin(), loaded.end(), state, before), state);
  }
  for (Request* state : report.released) {
    state->is_held = false;
    --num_held_;
    free_blocks(state, state->held_computed, state->held_known);
  }
}

// Which of two loaded requests is tried first.
inline bool Scheduler::loads_before(const Request* a, const Request* b) const {
  if (!options.by_priority) return a->load_order < b->load_order;
  return std::tie(a->priority, a->arrived_ns, a->index) < std::tie(b->priority, b->arrived_ns, b->index);
}

inline bool Scheduler::take_first_token(Request* state, int64_t now) {
  const int64_t lacks_more = kv.blocks_for(state->num_tokens + 1) - kv.blocks_for(state->num_tokens);
  deliver(state, now, false);
  if (times.are_kept) note_time(state, now);
  if (state->num_tokens < state->final_tokens) {
    loads_lack_ += lacks_more;
    return false;
  }
  loads_lack_ -= kv.blocks_for(state->num_tokens - 1) - state->held_blocks;
  std::vector<Request*> ended{state};
  finish(ended, now);
  return true;
}

inline void Scheduler::note_time(Request* state, int64_t now) {
  const int64_t column = times.add();
  times[column].push_back(now);
  state->segments.push_back(Segment{column, 0, 1});
}

// Free the blocks of a request that has ended, once no step in flight may write them.
inline void Scheduler::free_blocks(Request* state, int64_t computed, int64_t known) {
  if (is_fenced_ && state->latest_number > returned) {
    state->is_behind_fence = true;
    behind_fence_.push_back(Fenced{latest_with_tokens_, state, computed, known});
  } else {
    kv.release(*state, computed, known, false);
  }
}

inline void Scheduler::lift_fence() {
  while (!behind_fence_.empty() && behind_fence_.front().number <= returned) {
    const Fenced& one = behind_fence_.front();
    one.state->is_behind_fence = false;
    kv.release(*one.state, one.computed, one.known, false);
    behind_fence_.pop_front();
  }
}

// A request that loads, or has loaded, leaves; how many tokens its blocks hold.
inline int64_t Scheduler::withdraw_load(Request* state) {
  int64_t computed = state->num_computed;
  const bool lacks = state->is_loading || state->is_unpromoted;
  if (lacks) {
    state->is_unhashed = true;
    loads_lack_ -= kv.blocks_for(state->num_tokens) - state->held_blocks;
  }
  if (state->is_loading) {
    load_no_more(state);
    return computed;
  }
  loaded.erase(std::find(loaded.begin(), loaded.end(), state));
  state->is_loaded = state->is_unpromoted = false;
  return std::max(computed, (state->held_blocks - 1) * kv.block_size + 1);
}

inline bool Scheduler::was_in_flight(const Request* state) const {
  if (is_remembered(state)) return state->before_number > returned;
  if (state->cohort) return state->cohort->step != nullptr;
  return state->latest_number > returned;
}

}  // namespace penstock
