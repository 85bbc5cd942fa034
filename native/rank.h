// One data-parallel rank: penstock/engine/lockstep_replica.py, whose comments explain it, over its RankPipeline.
#pragma once

#include "coordinator.h"
#include "lockstep.h"
#include "replica.h"

namespace penstock {

// What a rank says to others.
class RankListener {
 public:
  virtual ~RankListener() = default;
  virtual void tell(int64_t now, const RankMessage& message) = 0;
  virtual void tell_ended(int64_t rank, int64_t now, const std::vector<Request*>& ended) = 0;
};

class Rank final : public Replica, public Actor {
 public:
  int64_t dummies = 0;
  bool is_stuck = false;

  Rank(Replica& model, Host& host, Agenda& agenda, LockstepGroup& group, const ParallelOptions& parallel,
       RankListener& listener)
      : Replica(std::move(model.scheduler), model.costs, model.options, host),
        Actor(Phase::ENGINE, model.options.index),
        agenda_(agenda),
        group_(group),
        parallel_(parallel),
        listener_(listener),
        rank_(group.ranks.size()),
        times_(3 * stage_free_ns.size(), 0) {
    group.ranks.push_back(this);
    go_on();  // to where it awaits its first message
  }

  int64_t acts_ns() const override { return next_ns; }

  void act(int64_t limit_ns) override {
    has_ended_some_ = false;
    while (next_ns != NEVER && next_ns < std::min(limit_ns, agenda_.limit_ns)) {
      now_ns = std::max(now_ns, next_ns);
      next_ns = NEVER;
      next_ns = go_on();
      if (is_stuck || (has_ended_some_ && stops_on_end)) return;
    }
  }

  // --- what comes from outside ---------------------------------------------------------------------------------

  bool awaits_message() const { return awaits_input_ && next_ns == NEVER; }
  bool has_request() const {
    return !scheduler->running.empty() || !scheduler->waiting.empty() || !inbox.empty();
  }

  // A request is made that will be received.
  void expect() { ++num_coming_; }

  void receive(int64_t at_ns, Request* state, int64_t wave) {
    --num_coming_;
    inbox.push_back(state);
    outstanding_tokens += state->final_tokens;
    mail_.push_back(Mail{state, wave, NOBODY});
    if (awaits_message()) go_on_at(at_ns);
  }

  void start_wave(int64_t at_ns, int64_t wave, int64_t exclude) {
    mail_.push_back(Mail{nullptr, wave, exclude});
    if (awaits_message()) go_on_at(at_ns);
  }

  void abort(Request* state, int64_t now) override {
    aborts_.push_back(state);
    if (awaits_message()) go_on_at(now);
  }

  // --- for the group -------------------------------------------------------------------------------------------

  // When it is ready for its share on the first stage.
  static int64_t ready_ns(const Step* step, int64_t entry_ns) {
    const Step* after = step ? step->after : nullptr;
    return after && after->end_ns != NEVER ? std::max(entry_ns, after->end_ns) : entry_ns;
  }

  // When the activations, sent off at `end`, are at the stage behind `stage`.
  int64_t hop(size_t stage, int64_t tokens, int64_t end) {
    const Hop& hop = group_.options.hops[stage];
    const size_t place = std::min(static_cast<size_t>(tokens), hop.arrival_ns.size() - 1);
    const int64_t depart = std::max(link_free_ns_[stage], end);
    link_free_ns_[stage] = depart + hop.occupancy_ns[place];
    return depart + hop.arrival_ns[place];
  }

  // On a stage; `busy_until` is when it can begin the next.
  void ran(size_t stage, int64_t arrive, int64_t start, int64_t busy_until) {
    int64_t* times = &times_[3 * stage];
    times[0] = arrive;
    times[1] = start;
    times[2] = busy_until;
    stage_free_ns[stage] = busy_until;
  }

  // The times of its oldest open forward are known.
  void resolved(int64_t return_ns) {
    Step* step = open_.front().step;
    open_.pop_front();
    step->end_ns = stage_free_ns.back();
    step->done_ns = latest_done_ns_ = step->end_ns + return_ns + group_.options.back_ns;
    arrived(step, times_.data());
    while (!open_.empty() && open_.front().is_empty) {
      const Open empty = open_.front();
      open_.pop_front();
      empty.step->done_ns = std::max(empty.now, latest_done_ns_);
      empty_times_.assign(times_.size(), empty.now);
      arrived(empty.step, empty_times_.data());
    }
  }

  // An all-reduce that it waits for ends at `at_ns`.
  void synced(int64_t at_ns, bool is_unfinished, bool is_last) {
    is_unfinished_somewhere_ = is_unfinished;
    if (!is_last) go_on_at(at_ns);
  }

 protected:
  void launch(Step* step, int64_t entry_ns, int64_t*) override { send_off(step, step, entry_ns); }

  void pass_empty(Step* step, int64_t now) override {
    if (open_.empty()) {
      step->done_ns = std::max(now, latest_done_ns_);
    } else {
      step->done_ns = NEVER;
      open_.push_back(Open{step, now, true});
    }
  }

  void end(const std::vector<Request*>& states, int64_t at) override {
    Replica::end(states, at);
    has_ended_some_ = true;
    listener_.tell_ended(static_cast<int64_t>(rank_), at, states);
  }

 private:
  struct Mail {
    Request* state;
    int64_t wave, exclude;
  };
  struct Open {
    Step* step;
    int64_t now;
    bool is_empty;
  };
  // Where the loop goes on.
  enum class Part { BEGIN, INPUT, WOKEN, TURN, RESULT, TAKEN, SLEPT, DUMMY, FORWARD, SYNCED, WAVE };

  Agenda& agenda_;
  LockstepGroup& group_;
  const ParallelOptions& parallel_;
  RankListener& listener_;
  const size_t rank_;
  Step dummy_;
  Part part_ = Part::BEGIN;
  std::vector<int64_t> times_, empty_times_;
  std::deque<Open> open_;
  std::deque<Mail> mail_;
  int64_t submitted_ = 0, latest_done_ns_ = 0;
  int64_t wave_ = 0, step_counter_ = 0, first_arrival_ns_ = 0, told_running_ = 0, told_waiting_ = 0;
  bool engines_running_ = false, was_running_ = false, awaits_input_ = false, has_ended_some_ = false;
  bool has_read_ = false, executed_ = false, is_unfinished_ = false, is_unfinished_somewhere_ = false;
  Step* result_ = nullptr;

  void go_on_at(int64_t at_ns) {
    next_ns = at_ns;
    agenda_.wake(*this, at_ns);
  }

  void arrived(Step* step, const int64_t* times) {
    if (step->row >= 0) log.complete(step->row, step->done_ns, times);
    if (step == blocked_on_) go_on_at(std::max(step->done_ns, now_ns));
  }

  // `share` is what the group sees of it: nothing of a dummy batch.
  void send_off(Step* step, Step* share, int64_t entry_ns) {
    step->done_ns = step->end_ns = NEVER;
    open_.push_back(Open{step, 0, false});
    group_.submit(rank_, submitted_++, share, entry_ns);
  }

  // Wait for a step: NEVER where others decide when it is back, UNSET if it is.
  int64_t await(Step* step) {
    if (step->done_ns == NEVER) {
      blocked_on_ = step;
      return NEVER;
    }
    return step->done_ns > now_ns ? step->done_ns : UNSET;
  }

  // The loop, up to where it waits: when it can go on, NEVER where others decide that.
  int64_t go_on() {
    while (true) {
      int64_t waits = UNSET;
      switch (part_) {
        case Part::BEGIN:
          was_running_ = engines_running_;
          first_arrival_ns_ = now_ns;
          has_read_ = !mail_.empty() || !aborts_.empty();
          part_ = Part::INPUT;
          break;
        case Part::INPUT:
          waits = take_input();
          break;
        case Part::WOKEN:
          awaits_input_ = false;
          first_arrival_ns_ = now_ns;
          has_read_ = true;
          if (!aborts_.empty()) let_go(now_ns);
          if (!mail_.empty()) read();
          part_ = Part::INPUT;
          break;
        case Part::TURN:
          waits = take_turn();
          break;
        case Part::RESULT:
          blocked_on_ = nullptr;
          take_tokens(result_, now_ns);
          now_ns += options.update_ns;
          part_ = Part::TAKEN;
          break;
        case Part::TAKEN:
          waits = rest_after_nothing();
          break;
        case Part::SLEPT:
          waits = keep_up();
          break;
        case Part::DUMMY:
          blocked_on_ = nullptr;
          if (dummy_.row >= 0) {
            log.returned(dummy_.row, now_ns);
            hand_on_turns();
          }
          part_ = Part::FORWARD;
          break;
        case Part::FORWARD:
          waits = count_forward();
          break;
        case Part::SYNCED:
          engines_running_ = is_unfinished_somewhere_;
          part_ = Part::WAVE;
          break;
        case Part::WAVE:
          note_wave();
          part_ = Part::BEGIN;
          break;
      }
      if (is_stuck) return NEVER;
      if (waits != UNSET) return waits;
    }
  }

  int64_t take_input() {
    if (!(engines_running_ || scheduler->has_work() || !queue_.empty())) {
      if (mail_.empty()) {
        awaits_input_ = true;
        part_ = Part::WOKEN;
        return NEVER;
      }
      read();
      return UNSET;
    }
    while (!mail_.empty()) read();
    if (!aborts_.empty()) let_go(now_ns);
    if (has_read_ && !parallel_.is_0_19) publish_counts();
    part_ = Part::TURN;
    return UNSET;
  }

  void read() {
    const Mail mail = mail_.front();
    mail_.pop_front();
    if (!mail.state) {
      if (mail.exclude != static_cast<int64_t>(rank_) && mail.wave >= wave_) {
        wave_ = mail.wave;
        engines_running_ = true;
      }
      return;
    }
    inbox.pop_front();
    scheduler->add(mail.state);
    if (mail.wave > wave_) {
      wave_ = mail.wave;
    } else if (mail.wave < wave_ && !engines_running_) {
      engines_running_ = true;
      tell(RankMessage::START_WAVE);
    }
    first_arrival_ns_ = std::min(first_arrival_ns_, mail.state->arrived_ns);
  }

  int64_t take_turn() {
    executed_ = false;
    bool blocks = true;
    if (scheduler->has_work()) {
      scheduler->throttles_prefills = step_counter_ % parallel_.prefill_schedule_interval != 0;
      executed_ = turn(now_ns, first_arrival_ns_);
      now_ns += options.schedule_ns;
      blocks = static_cast<int64_t>(queue_.size()) >= scheduler->options.max_in_flight ||
               !(executed_ || scheduler->has_work());
    }
    part_ = Part::TAKEN;
    if (!blocks || queue_.empty()) return UNSET;
    result_ = queue_.front();
    queue_.pop_front();
    part_ = Part::RESULT;
    return await(result_);
  }

  int64_t rest_after_nothing() {
    ++turns;
    part_ = Part::SLEPT;
    if (executed_ || !scheduler->has_work()) return UNSET;
    ++idle_sleeps;
    if (fruitless_turns_ > options.watchdog_turns) {
      fruitless_turns_ = 0;
      is_stuck = true;
      return NEVER;
    }
    return options.idle_sleep_ns ? now_ns + options.idle_sleep_ns : UNSET;
  }

  // A turn that sent nothing off sends a dummy batch off while others may have requests.
  int64_t keep_up() {
    publish_counts();
    is_unfinished_ = !scheduler->running.empty() || !scheduler->waiting.empty();
    part_ = Part::FORWARD;
    if (executed_) return UNSET;
    if (!is_unfinished_ && !engines_running_) {
      part_ = Part::BEGIN;
      return UNSET;
    }
    ++dummies;
    dummy_.row = group_.has_requests() ? begin_dummy() : -1;
    send_off(&dummy_, nullptr, now_ns);
    part_ = Part::DUMMY;
    return await(&dummy_);
  }

  int64_t begin_dummy() {
    const int64_t row = log.rows();
    Turn turn{};
    turn.schedule_ns = turn.first_arrival_ns = now_ns;
    turn.cause_after = is_unfinished_ ? scheduler->cause : IDLE;
    turn.free_blocks = scheduler->kv.free;
    turn.running = scheduler->running.size();
    turn.waiting = scheduler->waiting.size();
    turn.in_flight = static_cast<int64_t>(queue_.size());
    log.begin(turn);
    return row;
  }

  int64_t count_forward() {
    ++step_counter_;
    if ((step_counter_ == 1 && !parallel_.is_0_19) || step_counter_ % parallel_.sync_interval == 0) {
      part_ = Part::SYNCED;
      const int64_t at_ns = group_.enter_sync(rank_, now_ns, is_unfinished_);
      return at_ns > now_ns ? at_ns : UNSET;
    }
    engines_running_ = true;
    part_ = Part::WAVE;
    return UNSET;
  }

  void note_wave() {
    if (!engines_running_) {
      if (!rank_) tell(RankMessage::WAVE_COMPLETE);
      ++wave_;
      step_counter_ = 0;
    } else if (!was_running_ && !rank_ && !parallel_.is_0_19) {
      tell(RankMessage::START_WAVE);
    }
  }

  void publish_counts() {
    const int64_t running = scheduler->running.size(), waiting = scheduler->waiting.size();
    if (running == told_running_ && waiting == told_waiting_) return;
    told_running_ = running;
    told_waiting_ = waiting;
    if (!parallel_.is_external) tell(RankMessage::COUNTS);
  }

  void tell(RankMessage::Kind kind) {
    RankMessage message{kind, static_cast<int64_t>(rank_), wave_, step_counter_, RankCounts()};
    if (kind == RankMessage::COUNTS) {
      const KvPool& kv = scheduler->kv;
      const double usage =
          kv.usable ? 1.0 - static_cast<double>(kv.free) / static_cast<double>(kv.usable) : 0.0;
      message.counts =
          RankCounts{static_cast<double>(told_waiting_), static_cast<double>(told_running_), usage};
    }
    listener_.tell(now_ns, message);
  }
};

}  // namespace penstock
