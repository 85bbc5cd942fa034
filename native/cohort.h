// Requests that decode in lock-step: penstock/scheduler/cohort.py and async_cohort.py, whose comments explain them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "request.h"
#include "step.h"

namespace penstock {

// When tokens came: a column of times for each cohort, and for each request that is not served in cohorts.
class TokenTimes {
 public:
  explicit TokenTimes(bool are_kept) : are_kept(are_kept) {}

  const bool are_kept;

  int64_t add() {
    columns_.emplace_back();
    return static_cast<int64_t>(columns_.size()) - 1;
  }
  std::vector<int64_t>& operator[](int64_t column) { return columns_[static_cast<size_t>(column)]; }
  int64_t size() const { return static_cast<int64_t>(columns_.size()); }

 private:
  std::deque<std::vector<int64_t>> columns_;
};

struct Cohort {
  const int64_t block_size;
  TokenTimes& times;
  int64_t times_column;
  int64_t turn = 0;
  int64_t last_ns = 0;
  Step* step = nullptr;
  int64_t size = 0;
  int slot = NO_SLOT;
  MemberList members;
  int64_t offset_sum = 0;
  std::vector<int64_t> offsets;
  std::vector<int64_t> block_needs;
  std::map<int64_t, FinishList> finish_at;
  std::vector<FillsList> block_fills;  // none until a member's blocks are cached
  IrregularList irregular;
  int64_t last_order = -1;

  // Under async scheduling.
  int64_t returned = 0;
  std::deque<Step*> steps;
  JoiningList* joining = new JoiningList;
  int64_t leaving = 0;
  bool is_resting = false;

  Cohort(int64_t block_size, TokenTimes& times)
      : block_size(block_size),
        times(times),
        times_column(times.are_kept ? times.add() : UNSET),
        block_needs(static_cast<size_t>(block_size), 0) {}
  Cohort(const Cohort&) = delete;
  Cohort& operator=(const Cohort&) = delete;
  ~Cohort() { delete joining; }

  // As new, for other members.
  void reset() {
    turn = last_ns = returned = 0;
    slot = NO_SLOT;
    last_order = -1;
    if (times.are_kept) times_column = times.add();
  }

  int64_t place(int64_t number) const {
    const int64_t rest = number % block_size;
    return rest < 0 ? rest + block_size : rest;
  }

  int64_t need() const { return block_needs[static_cast<size_t>(turn % block_size)]; }
  int64_t count_times() const {
    return times.are_kept ? static_cast<int64_t>(times[times_column].size()) : 0;
  }
  void note_time(int64_t now) {
    if (times.are_kept) times[times_column].push_back(now);
  }
  // The latest of the completion times is that of a request that is no member.
  void note_last_time(Request& state) {
    if (!times.are_kept) return;
    const int64_t stop = count_times();
    state.segments.push_back(Segment{times_column, stop - 1, stop});
  }

  void join(Request* state, bool caches, bool with_token) {
    state->segment_start = count_times() - (with_token ? 1 : 0);
    count_in(state, state->num_tokens - turn, caches);
  }

  void count_in(Request* state, int64_t offset, bool caches) {
    state->cohort = this;
    state->offset = offset;
    ++size;
    members.append(state);
    offset_sum += offset;
    offsets.insert(std::upper_bound(offsets.begin(), offsets.end(), offset), offset);
    ++block_needs[static_cast<size_t>(place(1 - offset))];
    finish_at[state->final_tokens - offset].append(state);
    if (caches) {
      if (block_fills.empty()) block_fills.resize(static_cast<size_t>(block_size));
      fills_of(offset).append(state);
      state->fills = true;
    }
    if (state->order > last_order) last_order = state->order;
  }

  void count_out(Request* state) {
    const int64_t offset = state->offset;
    members.remove(state);
    --size;
    offset_sum -= offset;
    offsets.erase(std::lower_bound(offsets.begin(), offsets.end(), offset));
    --block_needs[static_cast<size_t>(place(1 - offset))];
  }

  void leave(Request* state) {
    out_of_finish(state);
    drop(state);
  }

  void drop(Request* state) {
    const int64_t offset = state->offset;
    count_out(state);
    fill_no_more(state);
    if (!size) {
      last_order = -1;
      finish_at.clear();
    }
    state->num_tokens = offset + turn;
    end_segment(state);
    if (state->irregular_in != &irregular) state->last_token_ns = last_ns;
    state->cohort = nullptr;
  }

  void move(Request* state, Cohort& other) {
    const bool caches = state->fills;
    leave(state);
    regular_again(state);
    other.join(state, caches, false);
    other.irregular.append(state);
    state->irregular_in = &other.irregular;
  }

  void regular_again(Request* state) {
    if (state->irregular_in != &irregular) return;
    irregular.remove(state);
    state->irregular_in = nullptr;
  }

  // --- under async scheduling -------------------------------------------------------------------------------

  void admit(Request* state, bool caches) {
    state->segment_start = turn - 1;
    state->hashed_tokens = state->num_tokens;
    count_in(state, state->num_tokens + 1 - turn, caches);
    if (state->num_tokens + 1 == state->final_tokens) let_leave(state);
  }

  void take_over(Request* state, bool caches) {
    state->segment_start = turn;
    count_in(state, state->num_tokens + state->placeholders - turn, caches);
    joining->append(state);
    state->joining_in = joining;
  }

  void send(Step* step) {
    if (!steps.empty() && size > joining->size()) step->wait_for(steps.back());
    if (!joining->empty()) {
      for (Request* state = joining->first(); state; state = JoiningList::after(state)) {
        if (state->placeholders && state->latest_step) step->wait_for(state->latest_step);
        state->hashed_tokens = state->num_tokens;
      }
      std::swap(step->joining, joining);
    }
    step->turn = ++turn;
    step->known_turn = returned;
    steps.push_back(step);
    auto last = finish_at.find(turn);
    if (last == finish_at.end()) return;
    for (Request* state = last->second.first(); state; state = FinishList::after(state)) let_leave(state);
  }

  int64_t known_tokens(const Request* state) const {
    return returned <= state->segment_start ? state->num_tokens : state->offset + returned;
  }

  // The members whose last token came with `turn`, which is back.
  void end(int64_t turn, std::vector<Request*>& ended) {
    auto done = finish_at.find(turn);
    if (done == finish_at.end()) return;
    while (Request* state = done->second.first()) {
      done->second.remove(state);
      state->is_leaving = false;
      --leaving;
      fill_no_more(state);
      state->num_tokens = state->final_tokens;
      state->num_computed = state->final_tokens - 1;
      state->placeholders = 0;
      state->last_token_ns = last_ns;
      end_segment(state);
      state->cohort = nullptr;
      ended.push_back(state);
    }
    finish_at.erase(done);
  }

  // Let a member go, its fields brought up to date; returns whether its blocks are cached.
  bool detach(Request* state, bool delivers) {
    const int64_t first = state->segment_start + 1;
    const bool is_leaving = state->is_leaving;
    const int64_t last = is_leaving ? state->final_tokens - state->offset : turn;
    const int64_t known = known_tokens(state);
    if (returned >= first) {
      state->hashed_tokens = known - 1;
      state->last_token_ns = last_ns;
      if (first <= count_times()) {
        state->segments.push_back(Segment{times_column, first - 1, count_times()});
      }
    }
    state->num_tokens = known;
    state->placeholders = state->offset + last - known;
    state->num_computed = state->offset + last - 1;
    for (Step* step : steps) {
      if (step->turn < first || step->turn > last) continue;
      if (step->turn > first || state->joining_in == step->joining) {
        --step->members;
        if (state->joining_in == step->joining) join_no_more(state);
      } else {
        step->sample_no_more(state);
      }
      if (returned >= first) {
        state->hashed_tokens = std::max(state->hashed_tokens, state->offset + step->known_turn);
      } else if (step->turn > first) {
        state->hashed_tokens = known;
      }
      state->latest_step = step;
      state->latest_number = step->number;
      if (delivers) step->apart.push_back(state);
    }
    out_of_finish(state);
    const bool caches = state->fills;
    fill_no_more(state);
    if (state->joining_in == joining) join_no_more(state);
    if (is_leaving) {
      state->is_leaving = false;
      --leaving;
    } else {
      count_out(state);
      if (!size) last_order = -1;
    }
    state->cohort = nullptr;
    return caches;
  }

  FillsList& fills_of(int64_t offset) { return block_fills[static_cast<size_t>(place(-offset))]; }

 private:
  void out_of_finish(Request* state) {
    auto bucket = finish_at.find(state->final_tokens - state->offset);
    bucket->second.remove(state);
    if (bucket->second.empty()) finish_at.erase(bucket);
  }

  void fill_no_more(Request* state) {
    if (!state->fills) return;
    fills_of(state->offset).remove(state);
    state->fills = false;
  }

  static void join_no_more(Request* state) {
    state->joining_in->remove(state);
    state->joining_in = nullptr;
  }

  void let_leave(Request* state) {
    count_out(state);
    state->is_leaving = true;
    ++leaving;
    if (!size) last_order = -1;
  }

  void end_segment(Request* state) {
    const int64_t stop = count_times();
    if (times.are_kept && state->segment_start < stop) {
      state->segments.push_back(Segment{times_column, state->segment_start, stop});
    }
  }
};

inline void Step::add_members(Cohort& cohort) {
  const int64_t computed = cohort.turn - 1;
  this->cohort = &cohort;
  members = cohort.size;
  tokens += members;
  load.sampled += members;
  load.decodes = members;
  load.decode_context = cohort.offset_sum + members * computed;
  load.min_context = cohort.offsets.front() + computed;
  load.max_context = cohort.offsets.back() + computed;
}

}  // namespace penstock
