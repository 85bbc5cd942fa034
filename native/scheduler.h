// Continuous batching as vLLM V1 does it: penstock/scheduler/vllm.py, whose comments explain it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <tuple>
#include <vector>

#include "cohort.h"
#include "connector.h"
#include "kv_pool.h"
#include "policy.h"
#include "request.h"
#include "slabs.h"
#include "step.h"
#include "waiting.h"

namespace penstock {

// Why nothing (more) was schedulable: penstock/recording/records.py.
enum Cause : int64_t { IDLE = 0, DEPENDENCY = 1, MEMORY = 2, ENGINE = 3, SEQS = 4, KV_TRANSFER = 5 };

// What becomes of a request that is tried, beside its number of tokens.
constexpr int64_t STOP = -1, SKIP = -2, PARK = -3;

// A gap between two tokens, and of how many requests.
struct Gap {
  int64_t gap_ns, count;
};

struct SchedulerOptions {
  int64_t max_num_seqs, max_num_batched_tokens, max_model_len, block_size, threshold, max_in_flight;
  int64_t num_gpu_blocks, watermark_blocks, calls_between, eligible_after;
  bool chunked_prefill, prefix_caching, reserve_full_isl, by_priority, keep_token_times, exact_only;
};

class Scheduler {
 public:
  const SchedulerOptions options;
  KvPool kv;
  TokenTimes times;
  Policy policy;
  WaitingQueue waiting;
  RunningList running;
  Connector* const connector;
  LoadingList loading;
  std::vector<Request*> loaded;  // and not admitted yet, in the order in which they are tried
  Slabs<Gap, 1 << 13> token_gaps;
  int64_t preemptions = 0, cohort_turns = 0, exact_turns = 0;
  int64_t scheduled = 0, returned = 0;
  int64_t cause = IDLE;
  Request* stuck = nullptr;
  bool throttles_prefills = false;

  Scheduler(const SchedulerOptions& options, const Policy& policy, Connector* connector = nullptr)
      : options(options),
        kv(options.num_gpu_blocks, options.block_size, options.prefix_caching),
        times(options.keep_token_times),
        policy(policy),
        waiting(options.by_priority),
        connector(connector),
        drops_late_tokens_(connector && connector->must_deliver),
        parked_(static_cast<size_t>(policy.slots), nullptr),
        is_fenced_(connector && connector->writes_blocks && options.max_in_flight > 1),
        running_in_(static_cast<size_t>(policy.slots), 0) {}
  virtual ~Scheduler() = default;

  void add(Request* state) {
    waiting.add(state);
    is_settled_ = false;
    if (connector) connector->added(state);
  }
  bool has_work() const {
    if (!running.empty() || waiting.size() || finished_unreported_) return true;
    return connector && (!loading.empty() || !loaded.empty() || num_held_ || connector->has_work());
  }
  // Some KV is on its way, in or out.
  bool is_transferring() const {
    return connector && (!loading.empty() || num_held_ || connector->has_work());
  }
  int64_t count_waiting() const {
    return waiting.size() + loading.size() + static_cast<int64_t>(loaded.size());
  }
  // Whether nobody is here whose blocks, or whose place, somebody still counts on.
  bool is_empty() const {
    return running.empty() && !count_waiting() && !num_held_ && behind_fence_.empty();
  }
  // Whether the latest schedule() found nothing, and the next finds the same: nothing has changed since.
  bool repeats_itself() const {
    return is_settled_ && running.empty() && loaded.empty() && behind_fence_.empty() && !policy.limits_steps();
  }
  // A call of schedule(), and its result, that were left out as they find nothing.
  void pass_by() {
    ++scheduled;
    ++returned;
  }
  int64_t room_to_keep(int64_t tokens_each) const {
    const int64_t active = running.size() + loading.size() + static_cast<int64_t>(loaded.size());
    int64_t longest = 0;
    for (const Request* state = running.first(); state; state = RunningList::after(state)) {
      const Cohort* cohort = state->cohort;
      longest = std::max(longest, state->final_tokens - (cohort ? state->offset + cohort->turn : state->num_tokens));
    }
    return kv.blocks_for(std::max(tokens_each * active, longest));
  }
  Request* first_in_line() const {
    if (waiting.size()) return waiting.first();
    if (!loaded.empty()) return loaded.front();
    return loading.empty() ? running.first() : loading.first();
  }

  virtual Step* schedule(int64_t now);

  // Take the tokens of the oldest step: the requests that finish with it, in the order of the step.
  void update(Step* step, int64_t now, std::vector<Request*>& finished) {
    ++returned;
    if (!connector) return take_tokens(step, now, finished);
    lift_fence();
    report_.clear();
    const bool has_news = connector->came_back(now, report_);
    take_tokens(step, now, finished);
    if (has_news) take_report(report_, now, finished);
  }

  // A request's client has left; false if the request has ended.
  bool abort(Request* state, int64_t now);

 protected:
  const bool drops_late_tokens_;
  // A victim's blocks may still be written, so whoever needs them has to wait.
  bool is_blocked_ = false;
  Cohort* ready_ = nullptr;
  std::vector<Request*> partials_;
  std::vector<Cohort*> spare_cohorts_;
  std::vector<Cohort*> parked_;
  int64_t num_parked_ = 0;
  bool is_limited_ = false;
  StepLimits limits_;
  int64_t budget_back_ = 0;
  bool defers_prefills_ = false;
  std::vector<Request*> decodes_taken_;

  virtual void send(Step* step) {
    Cohort* cohort = step->cohort;
    if (!cohort) cohort = step->cohort = new_cohort();
    cohort->step = step;
    if (is_limited_) cohort->slot = limits_.slot;
  }
  virtual int64_t schedule_running(Step* step, int64_t budget, int64_t threshold);
  virtual void grant(Step* step, Request* state, int64_t tokens, int64_t need);
  virtual void register_decode(Request* state) { kv.note(*state, state->offset + state->cohort->turn); }
  virtual void register_filling(Cohort* cohort);
  virtual void move(Request* state, Cohort* cohort, Cohort* other) { cohort->move(state, *other); }
  virtual void retire(Cohort* cohort) { spare_cohorts_.push_back(cohort); }
  virtual void take_out(Step* step, Request* victim);
  virtual void preempt(Request* victim, Step* step);
  virtual int64_t withdraw(Request* state);
  virtual void take_tokens(Step* step, int64_t now, std::vector<Request*>& finished);
  // A token of a request comes at a time that no cohort has.
  virtual void note_time(Request* state, int64_t now);

  Cohort* new_cohort() {
    if (spare_cohorts_.empty()) {
      cohorts_.push_back(std::make_unique<Cohort>(options.block_size, times));
      return cohorts_.back().get();
    }
    Cohort* cohort = spare_cohorts_.back();
    spare_cohorts_.pop_back();
    return cohort;
  }
  void spare(Step* step) { spare_steps_.push_back(step); }

  bool make_room(Step* step, Request* state, int64_t need);
  void evict(Request* victim, int64_t computed, int64_t known, Step* step);
  void forget(Cohort* cohort);
  void deliver(Request* state, int64_t now, bool gap_is_logged);
  void finish(std::vector<Request*>& ended, int64_t now);
  void merge(Cohort* cohort);
  Cohort* joined(Cohort* one, Cohort* other);

  // Whether one request more may run; what keeps it out is noted.
  bool lets_one_in() {
    if (running.size() >= options.max_num_seqs) out_of_capacity_ = true;
    else if (is_limited_ && !limits_.admissions) out_of_budget_ = true;
    else return true;
    return false;
  }
  void partial_no_more(Request* state) {
    state->is_partial = false;
    partials_.erase(std::find(partials_.begin(), partials_.end(), state));
  }
  void leave_waiting(Request* state) {
    waiting.discard(state);
    put_aside(state, false);
  }
  // Whether a request was passed over when it was tried last.
  void put_aside(Request* state, bool is_passed_over) {
    num_put_aside_ += is_passed_over - state->is_put_aside;
    state->is_put_aside = is_passed_over;
  }
  void run_no_more(Request* state) {
    if (!state->is_running) return;
    state->is_running = false;
    running.remove(state);
  }
  void leave_slot(Request* state) {
    if (state->slot == NO_SLOT) return;
    --running_in_[static_cast<size_t>(state->slot)];
    state->slot = NO_SLOT;
  }
  // A chunk of a prompt goes into a step of `slot`.
  void join_slot(Request* state, int slot) {
    if (state->slot == slot) return;
    leave_slot(state);
    state->slot = slot;
    if (slot != NO_SLOT) ++running_in_[static_cast<size_t>(slot)];
  }
  void remember(Request* state) {
    if (!options.by_priority) return;
    state->before_epoch = scheduled;
    state->before_step = state->latest_step;
    state->before_number = state->latest_number;
  }
  bool is_remembered(const Request* state) const { return state->before_epoch == scheduled; }
  // Whether the request was taken into the step; it is not any more.
  bool untake(Request* state) {
    if (!state->is_taken) return false;
    state->is_taken = false;
    decodes_taken_.erase(std::find(decodes_taken_.begin(), decodes_taken_.end(), state));
    return true;
  }
  void log_gap(int64_t gap, int64_t count) {
    *token_gaps.add() = Gap{gap, count};
  }
  static void sort_by_order(std::vector<Request*>& states) {
    std::sort(states.begin(), states.end(), [](Request* a, Request* b) { return a->order < b->order; });
  }

 private:
  struct Fenced {
    int64_t number;
    Request* state;
    int64_t computed, known;
  };

  const bool is_fenced_;
  bool is_settled_ = false;
  int64_t latest_with_tokens_ = 0, loads_ = 0, loads_lack_ = 0, num_held_ = 0;
  std::deque<Fenced> behind_fence_;
  TransferReport report_;
  std::vector<Request*> called_;
  bool finished_unreported_ = false, out_of_budget_ = false, out_of_capacity_ = false;
  bool prefill_capacity_bound_ = false;
  int64_t num_put_aside_ = 0;
  std::vector<int64_t> running_in_;
  std::vector<std::unique_ptr<Cohort>> cohorts_;
  std::vector<std::unique_ptr<Step>> steps_;
  std::vector<Step*> spare_steps_;
  int64_t next_order_ = 0;
  Found found_;
  std::vector<Request*> line_, skipped_;

  Step* new_step() {
    if (spare_steps_.empty()) {
      steps_.push_back(std::make_unique<Step>());
      return steps_.back().get();
    }
    Step* step = spare_steps_.back();
    spare_steps_.pop_back();
    step->clear();
    return step;
  }

  void ask_policy();
  void bring_up(int slot);
  void park(Cohort* cohort);
  void part(Cohort* cohort, int64_t count, Cohort*& taken, Cohort*& rest);
  int64_t schedule_each(Step* step, int64_t budget, int64_t threshold);
  void split(Step* step, Cohort* cohort);
  int64_t schedule_chunk(Step* step, Request* state, int64_t budget, int64_t threshold);
  int64_t admit(Step* step, int64_t budget, int64_t threshold, int64_t now);
  int64_t try_one(Step* step, Request* state, int64_t budget, int64_t threshold, int64_t now);
  int64_t admissible(Request* state, int64_t computed, int64_t budget, int64_t threshold, int64_t held,
                     int64_t claim);
  void run(Step* step, Request* state, int64_t tokens, int64_t now);
  int64_t log_irregular_gaps(Cohort* cohort, int64_t now);
  Request* worst_running() const;
  int64_t load(Request* state, int64_t hit_blocks, int64_t claim, const Match& match);
  int64_t lacking_blocks() const;
  int64_t admit_loaded(Step* step, int64_t budget, int64_t threshold, int64_t now);
  void promote(Request* state);
  void load_no_more(Request* state);
  int64_t withdraw_load(Request* state);
  void take_report(const TransferReport& report, int64_t now, std::vector<Request*>& ended);
  bool take_first_token(Request* state, int64_t now);
  bool loads_before(const Request* a, const Request* b) const;
  void free_blocks(Request* state, int64_t computed, int64_t known);
  void lift_fence();
  bool was_in_flight(const Request* state) const;
};

}  // namespace penstock
