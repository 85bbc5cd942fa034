// The engine loop of one instance: penstock/engine/replica.py over penstock/pipeline/pipeline.py.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "async_scheduler.h"
#include "costs.h"
#include "each_scheduler.h"
#include "turn_log.h"

namespace penstock {

struct EngineOptions {
  int64_t index, idle_sleep_ns, schedule_ns, update_ns, to_first_stage_ns, from_last_stage_ns, watchdog_turns;
  bool blocking_sends, keeps_turns, naps;
};

// What the engine asks of Python.
class Host {
 public:
  virtual ~Host() = default;
  // Times of a step that no table has: those of every stage, or larger tables.
  virtual void stage_ns(const Load& load, int64_t* times) = 0;
  // So many turns are complete.
  virtual void turns_done() = 0;
  // Requests have left whose ends concern others at once.
  virtual void ended() = 0;
  // Until when nobody else acts, as it is by now: what the engine has done may have concerned others.
  virtual int64_t limit_ns() = 0;
};

enum class Stopped { AT_LIMIT, ON_END, WITHOUT_PROGRESS };

// A request that has left.
struct Ended {
  Request* state;
  int64_t at_ns;
};

class Replica {
 public:
  std::unique_ptr<Scheduler> scheduler;
  std::shared_ptr<Costs> costs;
  const EngineOptions options;
  TurnLog log;
  std::vector<Outside> outside;
  int64_t next_ns = NEVER, now_ns = 0;
  int64_t idle_sleeps = 0, turns = 0, outstanding_tokens = 0, last_arrival_ns = 0;
  bool stops_on_end = false;
  std::deque<Request*> inbox;
  std::vector<Ended> ended;
  std::vector<int64_t> stage_free_ns;

  Replica(std::unique_ptr<Scheduler> scheduler, std::shared_ptr<Costs> costs, const EngineOptions& options,
          Host& host)
      : scheduler(std::move(scheduler)),
        costs(std::move(costs)),
        options(options),
        log(this->costs->pp_size, options.keeps_turns),
        outside(this->costs->count_outside()),
        stage_free_ns(static_cast<size_t>(this->costs->pp_size), 0),
        host_(host),
        link_free_ns_(static_cast<size_t>(this->costs->pp_size), 0),
        compute_ns_(static_cast<size_t>(this->costs->pp_size), 0) {}

  virtual ~Replica() = default;

  bool is_idle() const { return is_napping_ || (next_ns == NEVER && !blocked_on_); }

  // A request comes; `by` is the instance that sends it on at this very instant, or -1.
  void deliver(Request* state, int64_t by = -1) {
    inbox.push_back(state);
    outstanding_tokens += state->final_tokens;
    if (is_idle()) rouse(state->arrived_ns, by);
  }

  // Something happens that concerns one that naps; `by` as above.
  void expect(int64_t at_ns, int64_t by) {
    if (is_napping_) rouse(at_ns, by);
  }

  // Take the turns before `now` that were left out, if it naps: penstock/engine/idle_turns.py.
  void catch_up(int64_t now) {
    if (!is_napping_) return;
    const size_t width = 3 * stage_free_ns.size();
    for (; now_ns < now; now_ns += turn_ns()) {
      Turn turn = idle_turn(now_ns);
      turn.in_flight = static_cast<int64_t>(queue_.size());
      turn.done_ns = now_ns;
      int64_t* times = log.begin(turn);
      std::fill(times, times + width, now_ns);
      Step* step = nullptr;
      if (!queue_.empty()) {
        step = queue_.front();
        queue_.pop_front();
        step->number = scheduler->scheduled + 1;
        step->done_ns = now_ns;
        queue_.push_back(step);
      }
      scheduler->pass_by();
      scheduler->connector->passed_by(now_ns);
      log.taken(now_ns + options.schedule_ns);
      ++turns;
      ++idle_sleeps;
      hand_on_turns();
    }
  }

  virtual void abort(Request* state, int64_t now) {
    aborts_.push_back(state);
    if (is_idle()) rouse(now);
  }

  // Process all events before `limit_ns`, or up to the end of a request where it stops on that.
  Stopped run_until(int64_t limit_ns) {
    const size_t depth = static_cast<size_t>(scheduler->options.max_in_flight);
    const bool is_connected = scheduler->connector != nullptr;
    if (is_napping_) {
      if (next_ns >= limit_ns) return Stopped::AT_LIMIT;
      wake_up();
    }
    while (true) {
      if (is_connected) limit_ns = std::min(limit_ns, host_.limit_ns());
      if (Step* step = blocked_on_) {
        const int64_t at = std::max(step->done_ns, now_ns);
        if (at >= limit_ns) {
          next_ns = at;
          return Stopped::AT_LIMIT;
        }
        blocked_on_ = nullptr;
        const bool has_ended = take_tokens(step, at);
        now_ns = at + options.update_ns;
        if (scheduled_nothing_) {
          sleep();
          if (fruitless_turns_ > options.watchdog_turns) {
            fruitless_turns_ = 0;
            next_ns = NEVER;
            return Stopped::WITHOUT_PROGRESS;
          }
          if (is_connected && naps()) {
            if (next_ns >= limit_ns) return Stopped::AT_LIMIT;
            wake_up();
          }
        }
        if (stops_on_end && has_ended) {
          next_ns = now_ns;
          return Stopped::ON_END;
        }
        if (is_connected) limit_ns = std::min(limit_ns, host_.limit_ns());
      }
      const int64_t now = now_ns;
      if (now >= limit_ns) {
        next_ns = now;
        return Stopped::AT_LIMIT;
      }
      const int64_t first_arrival = inbox.empty() ? now : take_in(now);
      if (!aborts_.empty()) let_go(now);
      if (scheduler->has_work()) {
        scheduled_nothing_ = !turn(now, first_arrival);
        now_ns = now + options.schedule_ns;
        if (queue_.size() < depth && (!scheduled_nothing_ || scheduler->has_work())) {
          if (scheduled_nothing_) sleep();
          ++turns;
          continue;
        }
      } else if (queue_.empty()) {
        next_ns = NEVER;
        if (inbox.empty()) return Stopped::AT_LIMIT;
        rouse(inbox.front()->arrived_ns);  // it was told of requests that are still to come
        if (next_ns >= limit_ns) return Stopped::AT_LIMIT;
        continue;
      } else {
        scheduled_nothing_ = false;
      }
      ++turns;
      blocked_on_ = queue_.front();
      queue_.pop_front();
    }
  }

  // The request of that number, if it is here and has not ended.
  Request* find(int64_t index) const {
    for (Request* state : inbox) {
      if (state->index == index) return state;
    }
    Request* found = nullptr;
    requests_.each_piece([&](Request* requests, size_t used) {
      for (Request* state = requests; state < requests + used; ++state) {
        const bool is_here =
            state->is_running || state->is_waiting || state->is_loading || state->is_loaded;
        if (state->index == index && !state->has_ended && is_here) found = state;
      }
    });
    return found;
  }

  bool is_napping() const { return is_napping_; }

  // Before when nothing that samples is back, as far as the steps in flight tell: the oldest of those, or one that is
  // still to come.
  int64_t earliest_sample_ns() const {
    const int64_t until_ns = std::max(next_ns, stage_free_ns.back());
    if (blocked_on_ && blocked_on_->load.sampled) return std::min(until_ns, blocked_on_->done_ns);
    for (const Step* step : queue_) {
      if (step->load.sampled) return std::min(until_ns, step->done_ns);
    }
    return until_ns;
  }

  size_t queue_length() const { return queue_.size(); }

  // Requests that nobody will look at any more may be used again.
  Request* new_request() {
    while (!gone_.empty() && gone_.front().number <= scheduler->returned) {
      if (gone_.front().state->is_held || gone_.front().state->is_behind_fence) break;
      spare_requests_.push_back(gone_.front().state);
      gone_.pop_front();
    }
    if (spare_requests_.empty()) return requests_.add();
    Request* state = spare_requests_.back();
    spare_requests_.pop_back();
    *state = Request();
    return state;
  }

  // What became of a request has been written down.
  void let_go_of(Request* state) { gone_.push_back(Gone{scheduler->scheduled, state}); }

  // Where nobody is here any more, what requests took goes back.
  void rest() {
    if (requests_.pieces() < 4) return;
    if (!scheduler->is_empty() || !inbox.empty() || !queue_.empty()) return;
    if (blocked_on_ || !ended.empty() || !aborts_.empty() || num_coming_) return;
    requests_.clear();
    std::vector<Request*>().swap(spare_requests_);
    std::deque<Gone>().swap(gone_);
  }

 protected:
  Host& host_;
  std::vector<int64_t> link_free_ns_, compute_ns_, passes_;
  std::deque<Step*> queue_;
  Step* blocked_on_ = nullptr;
  std::vector<Request*> aborts_, finished_;
  bool scheduled_nothing_ = false, is_napping_ = false;
  int64_t fruitless_turns_ = 0;
  int64_t num_coming_ = 0;  // requests that are made and not delivered

  // Send a step off on the stages: it ends at `step->end_ns` and is back at `step->done_ns`, with `arrive, start, end`
  // of every stage in `times`. What is not known yet is NEVER, and completed in the log later.
  virtual void launch(Step* step, int64_t entry_ns, int64_t* times) {
    stage_ns(step);
    run_through(step, entry_ns, times);
  }

  // An empty step takes its turn behind those that were sent off.
  virtual void pass_empty(Step* step, int64_t now) { step->done_ns = std::max(stage_free_ns.back(), now); }

  virtual void end(const std::vector<Request*>& states, int64_t at) {
    for (Request* state : states) {
      outstanding_tokens -= state->final_tokens;
      ended.push_back(Ended{state, at});
    }
  }

  void end_all(const std::vector<Request*>& states, int64_t at) {
    end(states, at);
    if (scheduler->connector) host_.ended();
  }

  void hand_on_turns() {
    if (log.complete() >= CHUNK_TURNS) host_.turns_done();
  }

  void let_go(int64_t now) {
    std::vector<Request*> aborts;
    aborts.swap(aborts_);
    for (Request* state : aborts) {
      if (std::find(inbox.begin(), inbox.end(), state) != inbox.end()) aborts_.push_back(state);
      else if (scheduler->abort(state, now)) end_all({state}, now);
    }
  }

  // The oldest step is back; whether a request ended with it.
  bool take_tokens(Step* step, int64_t at) {
    if (!aborts_.empty()) let_go(at);
    finished_.clear();
    scheduler->update(step, at, finished_);
    log.taken(at);
    if (!finished_.empty()) end_all(finished_, at);
    hand_on_turns();
    return !finished_.empty();
  }

  // Schedule a step and send it off; false if it is empty.
  bool turn(int64_t now, int64_t first_arrival) {
    Scheduler& deciding = *scheduler;
    Step* step = deciding.schedule(now);
    Turn turn;
    turn.schedule_ns = now;
    turn.first_arrival_ns = first_arrival;
    turn.cause_after = deciding.cause;
    turn.tokens = step->tokens;
    turn.sampled = step->load.sampled;
    turn.decodes = step->load.decodes;
    turn.prefills = step->prefills;
    turn.prefill_tokens = step->load.prefill_tokens;
    turn.context_tokens = step->load.prefill_context + step->load.decode_context;
    turn.free_blocks = deciding.kv.free;
    turn.running = deciding.running.size();
    turn.waiting = deciding.count_waiting();
    turn.in_flight = static_cast<int64_t>(queue_.size());
    turn.update_ns = 0;
    turn.done_ns = 0;
    step->row = log.rows();
    if (step->tokens) {
      int64_t* times = log.begin(turn);
      launch(step, now + options.schedule_ns + options.to_first_stage_ns, times);
      times[-2] = step->done_ns;
      fruitless_turns_ = 0;
      if (deciding.connector) deciding.connector->sent(*step, now, times);
    } else {
      pass_empty(step, now);
      turn.done_ns = step->done_ns;
      int64_t* times = log.begin(turn);
      std::fill(times, times + 3 * stage_free_ns.size(), now);
      if (deciding.connector) {
        std::vector<int64_t>& passes = passes_;
        passes.clear();
        for (const int64_t free_ns : stage_free_ns) passes.insert(passes.end(), 3, std::max(free_ns, now));
        deciding.connector->sent(*step, now, passes.data());
      }
      const bool waits = turn.running || turn.waiting;
      if (waits && !deciding.is_transferring() && !has_tokens_in_flight()) ++fruitless_turns_;
      if (deciding.stuck) fruitless_turns_ = options.watchdog_turns + 1;
    }
    queue_.push_back(step);
    return step->tokens > 0;
  }

 private:
  struct Gone {
    int64_t number;
    Request* state;
  };

  Slabs<Request, 512> requests_;
  std::vector<Request*> spare_requests_;
  std::deque<Gone> gone_;

  void rouse(int64_t now, int64_t by = -1) {
    if (is_napping_) {
      const int64_t at_ns = std::max(now_ns, by < options.index ? now : now + 1);
      next_ns = std::min(next_ns, at_ns);
      return;
    }
    now_ns = std::max(now_ns, now);
    next_ns = now_ns;
  }

  void wake_up() {
    catch_up(next_ns);
    is_napping_ = false;
    next_ns = now_ns;
  }

  int64_t turn_ns() const { return options.schedule_ns + options.update_ns + options.idle_sleep_ns; }

  // Whether nothing is to be found until somebody comes, or until `next_ns`.
  bool naps() {
    Scheduler& deciding = *scheduler;
    if (!options.naps || !inbox.empty() || !aborts_.empty()) return false;
    if (static_cast<int64_t>(queue_.size()) != deciding.options.max_in_flight - 1) return false;
    if (!deciding.repeats_itself()) return false;
    for (const Step* step : queue_) {
      if (step->tokens || step->done_ns > now_ns) return false;
    }
    if (*std::max_element(stage_free_ns.begin(), stage_free_ns.end()) > now_ns || !deciding.has_work()) return false;
    if (deciding.count_waiting() && !deciding.is_transferring()) return false;
    const int64_t until_ns = deciding.connector->quiet_until_ns();
    if (until_ns <= now_ns + WORTH_TURNS * turn_ns()) return false;
    next_ns = until_ns;
    is_napping_ = true;
    return true;
  }

  // A turn that finds nothing, as the one before it.
  Turn idle_turn(int64_t now) const {
    const Scheduler& deciding = *scheduler;
    Turn turn{};
    turn.schedule_ns = turn.first_arrival_ns = now;
    turn.cause_after = deciding.cause;
    turn.free_blocks = deciding.kv.free;
    turn.running = deciding.running.size();
    turn.waiting = deciding.count_waiting();
    return turn;
  }

  void sleep() {
    if (!scheduler->has_work()) return;
    now_ns += options.idle_sleep_ns;
    ++idle_sleeps;
  }

  int64_t take_in(int64_t now) {
    int64_t first = now;
    while (!inbox.empty() && inbox.front()->arrived_ns <= now) {
      Request* state = inbox.front();
      inbox.pop_front();
      first = std::min(first, state->arrived_ns);
      scheduler->add(state);
    }
    return first;
  }

  static constexpr int64_t CHUNK_TURNS = 2048;
  // To fall asleep and to wake up costs as much as so many turns.
  static constexpr int64_t WORTH_TURNS = 3;

  bool has_tokens_in_flight() const {
    for (const Step* step : queue_) {
      if (step->tokens) return true;
    }
    return false;
  }

  void stage_ns(Step* step) {
    const Costs& tables = *costs;
    const bool has_tables = !tables.parts.empty() || !tables.lines.empty();
    if (!has_tables || !tables.cover(step->load, step->tokens)) {
      host_.stage_ns(step->load, compute_ns_.data());
      if (!has_tables) return;
    }
    tables.stage_ns(step->load, step->tokens, outside, compute_ns_.data());
  }

  void run_through(Step* step, int64_t entry_ns, int64_t* times) {
    if (step->after && step->after->end_ns > entry_ns) entry_ns = step->after->end_ns;
    const Costs& tables = *costs;
    const size_t tokens = static_cast<size_t>(step->tokens), last = stage_free_ns.size() - 1;
    int64_t arrive = entry_ns, end = 0;
    for (size_t stage = 0;; ++stage) {
      const int64_t start = std::max(arrive, stage_free_ns[stage]);
      end = start + compute_ns_[stage];
      stage_free_ns[stage] = end;
      *times++ = arrive;
      *times++ = start;
      *times++ = end;
      if (stage == last) break;
      const int64_t depart = std::max(end, link_free_ns_[stage]);
      link_free_ns_[stage] = depart + tables.hops[stage].occupancy_ns[tokens];
      arrive = depart + tables.hops[stage].arrival_ns[tokens];
      if (options.blocking_sends) stage_free_ns[stage] = arrive;
    }
    step->end_ns = end;
    step->done_ns =
        end + tables.return_ns[static_cast<size_t>(step->load.sampled)] + options.from_last_stage_ns;
  }
};

}  // namespace penstock
