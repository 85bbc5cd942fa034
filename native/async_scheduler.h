// Async scheduling with cohorts: penstock/scheduler/vllm_async.py, whose comments explain it.
#pragma once

#include <deque>
#include <utility>

#include "schedule.h"
#include "update.h"

namespace penstock {

class AsyncScheduler final : public Scheduler {
 public:
  using Scheduler::Scheduler;

  Step* schedule(int64_t now) override {
    while (!resting_.empty() && resting_.front().first <= scheduled) {
      Cohort* cohort = resting_.front().second;
      resting_.pop_front();
      cohort->is_resting = false;
      if (!cohort->size) {
        recycle(cohort);
      } else if (!ready_) {
        ready_ = cohort;
      } else {
        merge(cohort);
      }
    }
    return Scheduler::schedule(now);
  }

 protected:
  void send(Step* step) override {
    Cohort* cohort = step->cohort;
    if (!cohort) cohort = step->cohort = new_cohort();
    cohort->send(step);
    if (is_limited_) cohort->slot = limits_.slot;
    for (Request* state : step->sampling) {
      cohort->admit(state, kv.caches(*state));
      if (state->slot != cohort->slot) cohort->slot = NO_SLOT;
    }
    if (!cohort->size) return;
    cohort->is_resting = true;
    resting_.emplace_back(step->number + options.calls_between - 1, cohort);
  }

  // Its steps in flight know it still.
  void retire(Cohort* cohort) override { recycle(cohort); }

  void register_decode(Request* state) override { kv.note(*state, state->cohort->known_tokens(state)); }

  void register_filling(Cohort* cohort) override {
    filled_.clear();
    const int64_t known = cohort->returned;
    FillsList& fills = cohort->block_fills[static_cast<size_t>(known % cohort->block_size)];
    for (Request* state = fills.first(); state; state = FillsList::after(state)) {
      if (!state->is_leaving && state->joining_in != cohort->joining) {
        filled_.emplace_back(state, state->offset + known);
      }
    }
    for (Request* state = cohort->joining->first(); state; state = JoiningList::after(state)) {
      filled_.emplace_back(state, state->num_tokens);
    }
    note_filled();
  }

  void move(Request* state, Cohort* cohort, Cohort* other) override {
    const bool caches = cohort->detach(state, true);
    other->take_over(state, caches);
  }

  void preempt(Request* victim, Step* step) override {
    run_no_more(victim);
    if (Cohort* cohort = victim->cohort) {
      const bool is_taken = untake(victim);
      cohort->detach(victim, true);
      if (!cohort->size && num_parked_) forget(cohort);
      if (is_taken) {
        ++victim->num_computed;
        victim->hashed_tokens = victim->num_tokens;
      }
    } else {
      victim->hashed_tokens = victim->num_computed;
      partial_no_more(victim);
    }
    evict(victim, victim->num_computed, victim->hashed_tokens, step);
  }

  int64_t withdraw(Request* state) override {
    Cohort* cohort = state->cohort;
    if (!cohort) {
      partial_no_more(state);
      return state->num_computed;
    }
    cohort->detach(state, false);
    if (!cohort->size) forget(cohort);
    return state->num_computed;
  }

  void take_tokens(Step* step, int64_t now, std::vector<Request*>& finished) override {
    spare(step);
    Cohort* cohort = step->cohort;
    if (!cohort) return;
    const int64_t turn = step->turn;
    cohort->steps.pop_front();
    cohort->returned = turn;
    step->after = nullptr;
    JoiningList* joining = step->joining;
    const int64_t regular = step->members - joining->size();
    if (regular) log_gap(now - cohort->last_ns, regular);
    cohort->last_ns = now;
    cohort->note_time(now);
    for (Request* state : step->sampling) deliver(state, now, false);
    while (Request* state = joining->first()) {
      deliver(state, now, false);
      joining->remove(state);
      state->joining_in = nullptr;
    }
    filled_.clear();
    if (!cohort->block_fills.empty()) {
      FillsList& fills = cohort->block_fills[static_cast<size_t>((turn - 1) % cohort->block_size)];
      for (Request* state = fills.first(); state; state = FillsList::after(state)) {
        if (state->segment_start < turn) filled_.emplace_back(state, state->offset + turn - 1);
      }
    }
    for (Request* state : step->apart) {
      if (state->is_aborted) continue;
      deliver(state, now, false);
      --state->placeholders;
      cohort->note_last_time(*state);
      if (state->is_running) {
        filled_.emplace_back(state, state->num_tokens - 1);
        state->hashed_tokens = std::max(state->hashed_tokens, state->num_tokens - 1);
      } else if (state->num_tokens == state->final_tokens) {
        leave_waiting(state);
        finished.push_back(state);
      }
    }
    step->apart.clear();
    note_filled();
    cohort->end(turn, finished);
    recycle(cohort);
    finish(finished, now);
  }

 private:
  std::deque<std::pair<int64_t, Cohort*>> resting_;
  std::vector<std::pair<Request*, int64_t>> filled_;

  // Blocks that have become full, in the order of admission.
  void note_filled() {
    if (filled_.empty()) return;
    std::stable_sort(filled_.begin(), filled_.end(),
                     [](const auto& a, const auto& b) { return a.first->order < b.first->order; });
    for (const auto& [state, tokens] : filled_) kv.note(*state, tokens);
  }

  // A cohort that nobody knows any more serves others.
  void recycle(Cohort* cohort) {
    if (cohort->size || cohort->leaving || !cohort->steps.empty() || cohort->is_resting) return;
    if (cohort == ready_) return;
    cohort->reset();
    spare_cohorts_.push_back(cohort);
  }
};

}  // namespace penstock
