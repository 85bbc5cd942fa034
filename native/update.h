// Preemption, and taking the tokens of a step: the second half of penstock/scheduler/vllm.py.
#pragma once

#include "scheduler.h"

namespace penstock {

// Preempt running requests until `need` blocks are free; false if `state` itself had to go.
inline bool Scheduler::make_room(Step* step, Request* state, int64_t need) {
  while (need > kv.free) {
    Request* victim = worst_running();
    if (is_fenced_ && was_in_flight(victim)) {
      is_blocked_ = true;
      return false;
    }
    if (options.by_priority) take_out(step, victim);
    preempt(victim, step);
    if (victim == state) {
      if (running.empty() && loading.empty() && loaded.empty() && !num_held_) stuck = state;  // it had the whole pool
      return false;
    }
  }
  return true;
}

inline Request* Scheduler::worst_running() const {
  if (!options.by_priority) return running.last();
  Request* worst = running.first();
  for (Request* state = worst; state; state = RunningList::after(state)) {
    if (state->priority > worst->priority ||
        (state->priority == worst->priority && state->arrived_ns > worst->arrived_ns)) {
      worst = state;
    }
  }
  return worst;
}

inline void Scheduler::take_out(Step* step, Request* victim) {
  int64_t tokens = 0;
  if (victim->is_taken) {
    tokens = 1;
    if (is_limited_) limits_.give_back_decode();
  } else if (is_remembered(victim)) {
    tokens = step->take_out(victim);
    victim->latest_step = victim->before_step;
    victim->latest_number = victim->before_number;
    victim->before_epoch = 0;
    if (!victim->is_partial) {
      victim->is_partial = true;
      partials_.push_back(victim);
    }
    if (is_limited_) limits_.give_back_chunk(tokens);
  }
  budget_back_ += tokens;
}

inline void Scheduler::preempt(Request* victim, Step* step) {
  run_no_more(victim);
  int64_t computed = victim->num_computed;
  if (Cohort* cohort = victim->cohort) {
    Step* in_flight = cohort->step;
    const int64_t tokens = victim->offset + cohort->turn;
    const bool is_taken = untake(victim);
    computed = in_flight || is_taken ? tokens : tokens - 1;
    cohort->leave(victim);
    if (!cohort->size && num_parked_) forget(cohort);
    if (in_flight && drops_late_tokens_) {
      cohort->regular_again(victim);
      --in_flight->members;
    } else if (in_flight) {
      victim->latest_number = in_flight->number;
      in_flight->preempted_in_flight.emplace_back(victim, true);
    } else {
      cohort->regular_again(victim);
    }
  } else if (victim->is_partial) {
    partial_no_more(victim);
  } else if (victim->latest_step) {
    victim->latest_step->sample_no_more(victim);
    if (!drops_late_tokens_) victim->latest_step->preempted_in_flight.emplace_back(victim, false);
  }
  evict(victim, computed, victim->num_tokens, step);
}

inline void Scheduler::evict(Request* victim, int64_t computed, int64_t known, Step* step) {
  kv.release(*victim, computed, known, true);
  victim->held_blocks = 0;
  if (drops_late_tokens_) {
    victim->dropped_through = scheduled;
    victim->placeholders = 0;
  }
  leave_slot(victim);
  victim->num_computed = 0;
  ++victim->preemptions;
  ++preemptions;
  waiting.put_back(victim);
  ++step->preempted;
}

inline bool Scheduler::abort(Request* state, int64_t now) {
  if (state->has_ended) return false;
  is_settled_ = false;
  if (state->is_running) {
    run_no_more(state);
    state->num_computed = withdraw(state);
  } else if (state->is_loading || state->is_loaded) {
    state->num_computed = withdraw_load(state);
  } else if (state->is_waiting) {
    leave_waiting(state);
  } else {
    return false;
  }
  state->is_aborted = true;
  std::vector<Request*> ended{state};
  finish(ended, now);
  return true;
}

inline void Scheduler::forget(Cohort* cohort) {
  if (ready_ == cohort) {
    ready_ = nullptr;
  } else if (cohort->slot != NO_SLOT && parked_[static_cast<size_t>(cohort->slot)] == cohort) {
    parked_[static_cast<size_t>(cohort->slot)] = nullptr;
    --num_parked_;
  }
}

inline int64_t Scheduler::withdraw(Request* state) {
  if (Cohort* cohort = state->cohort) {
    const int64_t tokens = state->offset + cohort->turn;
    cohort->leave(state);
    cohort->regular_again(state);
    if (!cohort->step) {
      if (!cohort->size) forget(cohort);
      return tokens - 1;
    }
    --cohort->step->members;
    return tokens;
  }
  if (state->is_partial) partial_no_more(state);
  else if (state->latest_step) state->latest_step->sample_no_more(state);
  return state->num_computed;
}

inline void Scheduler::take_tokens(Step* step, int64_t now, std::vector<Request*>& finished) {
  spare(step);
  Cohort* cohort = step->cohort;
  if (!cohort) return;
  const int64_t turn = ++cohort->turn;
  int64_t members = step->members;
  for (const auto& [state, was_member] : step->preempted_in_flight) {
    members -= was_member && state->is_aborted && state->irregular_in != &cohort->irregular;
  }
  if (members) {
    if (!cohort->irregular.empty()) members -= log_irregular_gaps(cohort, now);
    log_gap(now - cohort->last_ns, members);
  }
  cohort->last_ns = now;
  cohort->note_time(now);
  auto done = cohort->finish_at.empty() ? cohort->finish_at.end() : cohort->finish_at.begin();
  if (done != cohort->finish_at.end() && done->first == turn) {
    while (Request* state = done->second.first()) {
      done->second.remove(state);
      finished.push_back(state);
    }
    cohort->finish_at.erase(done);
    for (Request* state : finished) {
      cohort->drop(state);
      state->num_computed = state->num_tokens - 1;
    }
  }
  for (Request* state : step->sampling) {
    deliver(state, now, false);
    if (state->num_tokens < state->final_tokens) {
      cohort->join(state, kv.caches(*state), times.are_kept);
      if (state->slot != cohort->slot) cohort->slot = NO_SLOT;
    } else {
      cohort->note_last_time(*state);
      finished.push_back(state);
    }
  }
  for (const auto& [state, was_member] : step->preempted_in_flight) {
    if (state->is_aborted) continue;
    deliver(state, now, was_member);
    cohort->note_last_time(*state);
    if (state->num_tokens == state->final_tokens) {
      leave_waiting(state);
      finished.push_back(state);
    }
  }
  cohort->step = nullptr;
  if (!ready_ && cohort->size) ready_ = cohort;
  else merge(cohort);
  finish(finished, now);
}

inline void Scheduler::deliver(Request* state, int64_t now, bool gap_is_logged) {
  ++state->num_tokens;
  if (state->is_waiting) waiting.one_token_more();
  if (state->first_token_ns == UNSET) state->first_token_ns = now;
  else if (!gap_is_logged) log_gap(now - state->last_token_ns, 1);
  state->last_token_ns = now;
}

inline int64_t Scheduler::log_irregular_gaps(Cohort* cohort, int64_t now) {
  const int64_t count = cohort->irregular.size();
  while (Request* state = cohort->irregular.first()) {
    if (!state->is_aborted) log_gap(now - state->last_token_ns, 1);
    cohort->regular_again(state);
  }
  return count;
}

inline void Scheduler::merge(Cohort* cohort) {
  Cohort* ready = ready_;
  if (!cohort->size || !ready) spare_cohorts_.push_back(cohort);
  else if (ready->slot != cohort->slot && ready->slot != NO_SLOT && cohort->slot != NO_SLOT) park(cohort);
  else ready_ = joined(ready, cohort);
}

inline Cohort* Scheduler::joined(Cohort* one, Cohort* other) {
  Cohort* small = other->size < one->size ? other : one;
  Cohort* large = other->size < one->size ? one : other;
  while (Request* state = small->members.first()) move(state, small, large);
  if (small->slot != large->slot) large->slot = NO_SLOT;
  retire(small);
  return large;
}

inline void Scheduler::finish(std::vector<Request*>& ended, int64_t now) {
  if (ended.empty()) return;
  is_settled_ = false;
  sort_by_order(ended);
  for (Request* state : ended) {
    run_no_more(state);
    const int64_t computed = state->num_computed, known = state->is_unhashed ? 0 : state->num_tokens - 1;
    if (!connector) {
      kv.release(*state, computed, known, false);
    } else if (connector->finished(state, now)) {
      state->is_held = true;
      ++num_held_;
      state->held_computed = computed;
      state->held_known = known;
    } else {
      free_blocks(state, computed, known);
    }
    kv.resumed(*state);
    state->held_blocks = 0;
    state->latest_step = nullptr;
    state->has_ended = true;
    leave_slot(state);
  }
  finished_unreported_ = true;
}

}  // namespace penstock
