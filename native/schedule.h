// Deciding a step: the first half of penstock/scheduler/vllm.py.
#pragma once

#include "loads.h"
#include "scheduler.h"

namespace penstock {

inline Step* Scheduler::schedule(int64_t now) {
  Step* step = new_step();
  step->number = ++scheduled;
  int64_t budget = options.max_num_batched_tokens;
  int64_t threshold = options.threshold;
  if (threshold && running.size() + count_waiting() == 1) threshold = 0;
  finished_unreported_ = out_of_budget_ = out_of_capacity_ = false;
  if (connector) {
    called_.clear();
    connector->called(now, called_);
    for (Request* state : called_) waiting.call(state);
  }
  is_blocked_ = false;
  is_limited_ = policy.limits_steps();
  if (is_limited_) ask_policy();
  defers_prefills_ = throttles_prefills && !prefill_capacity_bound_ &&
                     running.size() > static_cast<int64_t>(partials_.size());
  budget = schedule_running(step, budget, threshold);
  if (step->preempted) {
    out_of_capacity_ = true;
  } else if ((!waiting.empty() || !loaded.empty()) && budget > 0) {
    if (running.size() < options.max_num_seqs) budget = admit(step, budget, threshold, now);
    else out_of_capacity_ = true;
  }
  if (!step->preempted && !defers_prefills_) prefill_capacity_bound_ = waiting.size() > num_put_aside_;
  if (budget == 0) out_of_budget_ = true;
  is_settled_ = !(step->tokens || step->preempted);
  if (step->tokens) latest_with_tokens_ = step->number;
  if (step->load.sampled) send(step);
  const bool waits = count_waiting() > 0;
  if (out_of_capacity_) {
    cause = running.size() >= options.max_num_seqs && !step->preempted ? SEQS : MEMORY;
  } else if (ready_ || !partials_.empty() || num_parked_ || (waits && out_of_budget_)) {
    cause = ENGINE;
  } else if (!loading.empty() && running.empty()) {
    cause = KV_TRANSFER;
  } else {
    cause = !running.empty() || waits ? DEPENDENCY : IDLE;
  }
  return step;
}

inline void Scheduler::ask_policy() {
  PolicyView view;
  view.num_decoding = running.size() - static_cast<int64_t>(partials_.size());
  view.free_blocks = kv.free;
  view.usable_blocks = kv.usable;
  view.running_in = running_in_.data();
  view.prompt_tokens_left = waiting.tokens();
  if (policy.kind == PolicyKind::THROTTLING) {
    for (const Request* state : partials_) view.prompt_tokens_left += state->num_tokens - state->num_computed;
  }
  limits_ = policy.limits(policy.next_slot(), view);
  if (limits_.slot != NO_SLOT) bring_up(limits_.slot);
}

inline int64_t Scheduler::schedule_running(Step* step, int64_t budget, int64_t threshold) {
  Cohort* cohort = ready_;
  const bool has_partials = !partials_.empty() && !defers_prefills_;
  if (cohort) {
    int64_t need = cohort->need();
    const int64_t takes = is_limited_ ? limits_.allowed_decodes(cohort->size, cohort->slot) : cohort->size;
    if (takes > budget || takes < 0 || need > kv.free ||
        (has_partials && partials_.front()->order < cohort->last_order) || options.exact_only ||
        (options.by_priority && has_partials &&
         kv.free - need < budget / kv.block_size + static_cast<int64_t>(partials_.size()))) {
      ++exact_turns;
      return schedule_each(step, budget, threshold);
    }
    ready_ = nullptr;
    if (is_limited_) {
      limits_.spend_decodes(takes);
      if (takes < cohort->size) {
        part(cohort, takes, cohort, ready_);
        need = cohort->need();
      }
    }
    if (takes) {
      if (need) kv.take(need);
      if (!cohort->block_fills.empty()) register_filling(cohort);
      step->add_members(*cohort);
      budget -= takes;
    }
  } else if (!has_partials) {
    return budget;
  } else if (options.exact_only) {
    ++exact_turns;
    return schedule_each(step, budget, threshold);
  }
  ++cohort_turns;
  if (has_partials) {
    const std::vector<Request*> partials = partials_;
    for (Request* state : partials) {
      if (budget <= 0 || is_blocked_) break;
      budget = schedule_chunk(step, state, budget, threshold);
    }
  }
  return budget;
}

inline void Scheduler::register_filling(Cohort* cohort) {
  FillsList& fills = cohort->block_fills[static_cast<size_t>(cohort->turn % cohort->block_size)];
  if (fills.empty()) return;
  line_.clear();
  for (Request* state = fills.first(); state; state = FillsList::after(state)) line_.push_back(state);
  sort_by_order(line_);
  for (const Request* state : line_) kv.expect_note(*state);
  for (Request* state : line_) kv.note(*state, state->offset + cohort->turn);
}

// The first `count` members in order of admission, fewer than all, and the others. The fewer move.
inline void Scheduler::part(Cohort* cohort, int64_t count, Cohort*& taken, Cohort*& rest) {
  const int64_t left = cohort->size - count;
  Cohort* other = new_cohort();
  other->slot = cohort->slot;
  std::vector<Request*> movers;
  movers.reserve(static_cast<size_t>(cohort->size));
  for (Request* state = cohort->members.first(); state; state = MemberList::after(state)) {
    movers.push_back(state);
  }
  const auto earlier = [](Request* a, Request* b) { return a->order < b->order; };
  const auto later = [](Request* a, Request* b) { return a->order > b->order; };
  if (left <= count) {
    std::partial_sort(movers.begin(), movers.begin() + left, movers.end(), later);
    for (int64_t place = 0; place < left; ++place) move(movers[static_cast<size_t>(place)], cohort, other);
    taken = cohort;
    rest = other;
    return;
  }
  std::partial_sort(movers.begin(), movers.begin() + count, movers.end(), earlier);
  for (int64_t place = 0; place < count; ++place) move(movers[static_cast<size_t>(place)], cohort, other);
  taken = other;
  rest = cohort;
}

inline void Scheduler::bring_up(int slot) {
  Cohort* ready = ready_;
  if (ready && ready->slot != NO_SLOT && ready->slot != slot) {
    ready_ = nullptr;
    park(ready);
  }
  Cohort* of_slot = parked_[static_cast<size_t>(slot)];
  if (!of_slot) return;
  parked_[static_cast<size_t>(slot)] = nullptr;
  --num_parked_;
  ready_ = ready_ ? joined(ready_, of_slot) : of_slot;
}

inline void Scheduler::park(Cohort* cohort) {
  const size_t slot = static_cast<size_t>(cohort->slot);
  Cohort* other = parked_[slot];
  if (!other) ++num_parked_;
  parked_[slot] = other ? joined(other, cohort) : cohort;
}

inline int64_t Scheduler::schedule_each(Step* step, int64_t budget, int64_t threshold) {
  Cohort* cohort = ready_;
  std::vector<Request*> states;
  if (!defers_prefills_) states = partials_;
  if (cohort) {
    for (Request* state = cohort->members.first(); state; state = MemberList::after(state)) {
      states.push_back(state);
    }
  }
  sort_by_order(states);
  for (Request* state : states) {
    if (budget <= 0 || is_blocked_) break;
    if (!state->is_running) continue;  // preempted by one before it
    if (!state->cohort) {
      budget = schedule_chunk(step, state, budget, threshold);
      continue;
    }
    if (is_limited_ && !limits_.allows_decode(*state)) continue;
    const int64_t tokens = state->offset + state->cohort->turn;
    const int64_t need = kv.blocks_for(tokens) - kv.blocks_for(tokens - 1);
    if (need && !make_room(step, state, need)) {
      budget = is_blocked_ ? budget : -1;
      break;
    }
    kv.take(need);
    register_decode(state);
    state->is_taken = true;
    decodes_taken_.push_back(state);
    --budget;
    if (is_limited_) limits_.spend_decodes(1);
    budget += budget_back_;
    budget_back_ = 0;
  }
  if (cohort) split(step, cohort);
  for (Request* state : decodes_taken_) state->is_taken = false;
  decodes_taken_.clear();
  budget_back_ = 0;
  return budget;
}

// Those taken go into the step; whoever is left stays ready, in another cohort. The fewer move.
inline void Scheduler::split(Step* step, Cohort* cohort) {
  std::vector<Request*> left;
  for (Request* state = cohort->members.first(); state; state = MemberList::after(state)) {
    if (!state->is_taken) left.push_back(state);
  }
  if (decodes_taken_.empty()) {
    ready_ = left.empty() ? nullptr : cohort;
    return;
  }
  ready_ = nullptr;
  // Chunks of one token have been counted as decodes already; add_members() starts from nothing.
  const Load before = step->load;
  if (!left.empty()) {
    Cohort* other = new_cohort();
    other->slot = cohort->slot;
    const bool the_left_move = left.size() <= decodes_taken_.size();
    for (Request* state : the_left_move ? left : decodes_taken_) move(state, cohort, other);
    if (the_left_move) {
      ready_ = other;
    } else {
      ready_ = cohort;
      cohort = other;
    }
  }
  step->add_members(*cohort);
  if (before.decodes) {
    step->load.decodes += before.decodes;
    step->load.decode_context += before.decode_context;
    step->load.min_context = std::min(step->load.min_context, before.min_context);
    step->load.max_context = std::max(step->load.max_context, before.max_context);
  }
}

inline int64_t Scheduler::schedule_chunk(Step* step, Request* state, int64_t budget, int64_t threshold) {
  if (!state->is_running) return budget;
  const int64_t computed = state->num_computed;
  int64_t tokens = state->num_tokens - computed;
  if (threshold && tokens > threshold) tokens = threshold;
  tokens = std::min({tokens, budget, options.max_model_len - 1 - computed});
  if (is_limited_) tokens = std::min(tokens, limits_.allowed_chunk(computed));
  if (tokens <= 0) return budget;
  const int64_t need = kv.blocks_for(computed + tokens) - state->held_blocks;
  if (!make_room(step, state, need)) return is_blocked_ ? budget : -1;
  grant(step, state, tokens, need);
  if (is_limited_) {
    limits_.spend_chunk(tokens);
    join_slot(state, limits_.slot);
  }
  if (state->num_computed == state->num_tokens) partial_no_more(state);
  budget += budget_back_ - tokens;
  budget_back_ = 0;
  return budget;
}

inline void Scheduler::grant(Step* step, Request* state, int64_t tokens, int64_t need) {
  const int64_t computed = state->num_computed;
  kv.take(need);
  state->held_blocks += need;
  state->num_computed = computed + tokens;
  remember(state);
  state->latest_step = step;
  state->latest_number = step->number;
  kv.note(*state, computed + tokens);
  step->add_chunk(state, tokens, computed);
  if (state->num_computed == state->num_tokens) {
    step->sampling.push_back(state);
    ++step->load.sampled;
  }
}

inline int64_t Scheduler::admit(Step* step, int64_t budget, int64_t threshold, int64_t now) {
  if (!loaded.empty()) {
    budget = admit_loaded(step, budget, threshold, now);
    if (!loaded.empty()) return budget;
  }
  skipped_.clear();
  while (!waiting.empty() && budget > 0) {
    if (!lets_one_in()) break;
    Request* state = waiting.first();
    const int64_t tokens = try_one(step, state, budget, threshold, now);
    if (tokens == STOP) break;
    waiting.discard(state);
    put_aside(state, tokens == SKIP);
    if (tokens == PARK) {
      waiting.park(state);
      continue;
    }
    if (tokens == SKIP) {
      skipped_.push_back(state);
      continue;
    }
    budget -= tokens;
  }
  waiting.restore(skipped_);
  return budget;
}

inline int64_t Scheduler::try_one(Step* step, Request* state, int64_t budget, int64_t threshold,
                                  int64_t now) {
  if (state->latest_number > returned && !drops_late_tokens_) return SKIP;  // preempted while a step computes it
  kv.find_prefix(*state, found_);
  int64_t hit = 0, claim = 0;
  if (found_.any()) kv.count_found(*state, found_, hit, claim);
  int64_t computed = hit * kv.block_size;
  Match external;
  if (connector) {
    external = connector->matched_tokens(state, computed);
    if (!external.is_known) return PARK;
    if (external.loads) return load(state, hit, claim, external);
    computed += external.tokens;
  }
  if (defers_prefills_ && computed < state->num_tokens - 1) {
    out_of_budget_ = true;
    return STOP;
  }
  const int64_t tokens = admissible(state, computed, budget, threshold, hit, claim);
  if (!tokens) return STOP;
  if (found_.any()) kv.use(*state, found_);
  if (state->own_blocks) kv.resumed(*state);
  state->held_blocks = hit;
  state->num_computed = computed;
  run(step, state, tokens, now);
  if (connector) connector->allocated(state, hit, external.tokens);
  return tokens;
}

inline int64_t Scheduler::admissible(Request* state, int64_t computed, int64_t budget, int64_t threshold,
                                     int64_t held, int64_t claim) {
  int64_t tokens = state->num_tokens - computed;
  if (threshold && tokens > threshold) tokens = threshold;
  const int64_t room =
      is_limited_ ? std::min(budget, limits_.allowed_chunk(computed)) : budget;
  if (!room || (tokens > room && !options.chunked_prefill)) {
    out_of_budget_ = true;
    return 0;
  }
  tokens = std::min(tokens, room);
  claim += kv.blocks_for(options.reserve_full_isl ? state->num_tokens : computed + tokens) - held;
  if (options.watermark_blocks && !running.empty()) claim += options.watermark_blocks;
  if (claim > kv.free) {
    out_of_capacity_ = true;
    return 0;
  }
  return tokens;
}

inline void Scheduler::run(Step* step, Request* state, int64_t tokens, int64_t now) {
  if (state->first_scheduled_ns == UNSET) {
    state->first_scheduled_ns = now;
    state->cached_tokens = state->num_computed;
  }
  state->order = next_order_++;
  state->is_running = true;
  running.append(state);
  if (is_limited_) {
    limits_.spend_chunk(tokens);
    --limits_.admissions;
    join_slot(state, limits_.slot);
  }
  grant(step, state, tokens, kv.blocks_for(state->num_computed + tokens) - state->held_blocks);
  if (state->num_computed < state->num_tokens) {
    state->is_partial = true;
    partials_.push_back(state);
  }
}

}  // namespace penstock
