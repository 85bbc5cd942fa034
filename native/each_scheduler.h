// Async scheduling request by request: penstock/scheduler/vllm_async_each.py, whose comments explain it.
#pragma once

#include "schedule.h"
#include "update.h"

namespace penstock {

class EachScheduler final : public Scheduler {
 public:
  using Scheduler::Scheduler;

  Step* schedule(int64_t now) override {
    ++calls_;
    exact_turns += !running.empty();
    Step* step = Scheduler::schedule(now);
    for (Request* state : decodes_taken_) state->is_taken = false;
    decodes_taken_.clear();
    return step;
  }

 protected:
  void send(Step*) override {}  // its tokens are taken request by request

  int64_t schedule_running(Step* step, int64_t budget, int64_t threshold) override {
    states_.clear();
    for (Request* state = running.first(); state; state = RunningList::after(state)) states_.push_back(state);
    for (Request* state : states_) {
      if (budget <= 0) break;
      if (!state->is_running) continue;  // preempted by one before it
      if (has_all_in_flight(state) || calls_ < state->eligible_at) continue;
      if (defers_prefills_ && state->is_partial) continue;
      const int64_t computed = state->num_computed;
      int64_t tokens = state->num_tokens + state->placeholders - computed;
      if (threshold && tokens > threshold) tokens = threshold;
      tokens = std::min({tokens, budget, options.max_model_len - 1 - computed});
      const bool decodes = is_limited_ && !state->is_partial;
      if (is_limited_) {
        if (!decodes) tokens = std::min(tokens, limits_.allowed_chunk(computed));
        else if (!limits_.allows_decode(*state)) continue;
      }
      if (tokens <= 0) continue;
      const int64_t need = kv.blocks_for(computed + tokens) - state->held_blocks;
      if (!make_room(step, state, need)) {
        budget_back_ = 0;
        return is_blocked_ ? budget : -1;
      }
      const bool was_partial = computed < state->num_tokens && !state->placeholders;
      grant(step, state, tokens, need);
      if (was_partial && state->placeholders && state->is_partial) partial_no_more(state);
      if (is_limited_) {
        if (decodes) {
          limits_.spend_decodes(1);
          state->is_taken = true;
          decodes_taken_.push_back(state);
        } else {
          limits_.spend_chunk(tokens);
          join_slot(state, limits_.slot);
        }
      }
      budget += budget_back_ - tokens;
      budget_back_ = 0;
    }
    return budget;
  }

  void grant(Step* step, Request* state, int64_t tokens, int64_t need) override {
    const int64_t computed = state->num_computed;
    kv.take(need);
    state->held_blocks += need;
    state->num_computed = computed + tokens;
    Step* previous = state->latest_step;
    const bool is_dropped = returned < state->latest_number && state->latest_number <= state->dropped_through;
    // Its token does not count, but it is on its way all the same.
    if (is_dropped && previous && previous->samples(state)) step->wait_for(previous);
    remember(state);
    state->latest_step = step;
    state->latest_number = step->number;
    state->hashed_tokens = std::min(computed + tokens, state->num_tokens);
    kv.note(*state, state->hashed_tokens);
    step->add_chunk(state, tokens, computed);
    if (state->num_computed < state->num_tokens + state->placeholders) return;
    if (state->placeholders && previous) step->wait_for(previous);
    ++state->placeholders;
    state->eligible_at = calls_ + options.eligible_after;
    step->sampling.push_back(state);
    ++step->load.sampled;
  }

  void take_out(Step* step, Request* victim) override {
    if (!is_remembered(victim)) return;
    victim->before_epoch = 0;
    if (step->samples(victim)) --victim->placeholders;
    const int64_t tokens = step->take_out(victim);
    victim->latest_step = victim->before_step;
    victim->latest_number = victim->before_number;
    step->after = nullptr;
    for (Request* state : step->sampling) {
      if (state->placeholders > 1 && state->before_step) step->wait_for(state->before_step);
    }
    if (is_limited_) {
      if (victim->is_taken) limits_.give_back_decode();
      else limits_.give_back_chunk(tokens);
    }
    budget_back_ += tokens;
  }

  void preempt(Request* victim, Step* step) override {
    run_no_more(victim);
    if (victim->is_partial) partial_no_more(victim);
    evict(victim, victim->num_computed, victim->hashed_tokens, step);
  }

  int64_t withdraw(Request* state) override {
    if (state->is_partial) partial_no_more(state);
    return state->num_computed;
  }

  void take_tokens(Step* step, int64_t now, std::vector<Request*>& finished) override {
    spare(step);
    for (Request* state : step->sampling) {
      // It has ended with an earlier step; what was scheduled beyond is dropped.
      if (state->num_tokens == state->final_tokens || state->is_aborted) continue;
      if (step->number <= state->dropped_through) continue;
      deliver(state, now, false);
      --state->placeholders;
      if (times.are_kept) note_time(state, now);
      if (state->is_running) {
        state->hashed_tokens = std::max(state->hashed_tokens, state->num_computed - state->placeholders);
        kv.note(*state, state->hashed_tokens);
      }
      if (state->num_tokens == state->final_tokens) {
        leave_waiting(state);
        finished.push_back(state);
      }
    }
    finish(finished, now);
  }

  void note_time(Request* state, int64_t now) override {
    if (state->own_times == UNSET) state->own_times = times.add();
    std::vector<int64_t>& own = times[state->own_times];
    own.push_back(now);
    state->segments.assign(1, Segment{state->own_times, 0, static_cast<int64_t>(own.size())});
  }

 private:
  int64_t calls_ = 0;
  std::vector<Request*> states_;

  // The tokens in flight are the last ones that were asked for.
  static bool has_all_in_flight(const Request* state) {
    return state->placeholders > 0 &&
           state->num_computed + 2 - state->placeholders >= state->input_tokens + state->output_tokens;
  }
};

}  // namespace penstock
