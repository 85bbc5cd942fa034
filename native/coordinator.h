// The process between ranks and front-ends: penstock/engine/coordinator.py, whose comments explain it.
#pragma once

#include <deque>
#include <memory>

#include "agenda.h"

namespace penstock {

// Of one rank: waiting and running requests, and the used part of its KV cache.
struct RankCounts {
  double waiting = 0, running = 0, usage = 0;
};
using CountsOfRanks = std::vector<RankCounts>;

// The options of a group, see penstock/spec/data_parallel.py.
struct ParallelOptions {
  int64_t size, sync_interval, sync_ns, prefill_schedule_interval, front_ends, nodes, stats_interval_ms;
  bool is_external, is_0_19;
  int64_t front_end_to_engine_ns, engine_to_front_end_ns, front_end_to_coordinator_ns, coordinator_to_front_end_ns,
      engine_to_coordinator_ns, coordinator_to_engine_ns;
};

constexpr int64_t NOBODY = -1;  // whom START_DP_WAVE leaves out

// What the coordinator speaks to.
class Spoken {
 public:
  virtual ~Spoken() = default;
  virtual void start_wave(int64_t now, int64_t wave, int64_t exclude) = 0;
  virtual void publish(int64_t now, int64_t sent_ns, std::shared_ptr<const CountsOfRanks> counts, int64_t wave,
                       bool running) = 0;
  virtual bool is_quiet() const = 0;
};

struct RankMessage {
  enum Kind { COUNTS, WAVE_COMPLETE, START_WAVE } kind;
  int64_t rank, wave, step;
  RankCounts counts;
};

class Coordinator final : public Actor {
 public:
  Coordinator(Agenda& agenda, const ParallelOptions& options, int64_t place, Spoken& deployment)
      : Actor(Phase::CONTROL, place),
        agenda_(agenda),
        interval_ms_(options.stats_interval_ms),
        sets_running_itself_(options.is_0_19),
        deployment_(deployment),
        counts_(static_cast<size_t>(options.size)) {
    wait(0);
  }

  int64_t acts_ns() const override { return next_ns_; }

  void hear_from_front_end(int64_t at_ns) {
    ++first_requests_;
    wake(at_ns);
  }

  void hear_from_rank(int64_t at_ns, const RankMessage& message) {
    from_ranks_.push_back(message);
    wake(at_ns);
  }

  // Somebody does something at `now`: publish what was passed over while nobody did, and be awake.
  void catch_up(int64_t now) {
    if (next_ns_ != NEVER) return;
    while (deadline_ns_ < now) {
      const int64_t at_ns = deadline_ns_;
      publish_counts(now, at_ns);
      wait(at_ns);
    }
    next_ns_ = deadline_ns_;
    agenda_.wake(*this, next_ns_);
  }

  // When it would publish counts if nobody acts before; NEVER if it has something to read, or does not wait.
  int64_t timer_ns() const { return has_mail() || deadline_ns_ == waits_since_ns_ ? NEVER : deadline_ns_; }

  void act(int64_t limit_ns) override {
    while (next_ns_ != NEVER && next_ns_ < std::min(limit_ns, agenda_.limit_ns)) {
      const int64_t now = next_ns_;
      if (has_mail()) {
        read(now);
      } else if (now > waits_since_ns_ && deployment_.is_quiet()) {
        next_ns_ = NEVER;
        return;
      } else {
        publish_counts(now, now);
      }
      wait(now);
      next_ns_ = has_mail() ? now : deadline_ns_;
    }
  }

 private:
  static constexpr int64_t QUIET_INTERVAL_MS = 5000, SETTLING_MS = 50, NS_PER_MS = 1'000'000;

  Agenda& agenda_;
  const int64_t interval_ms_;
  const bool sets_running_itself_;
  Spoken& deployment_;
  int64_t wave_ = 0, deadline_ns_ = 0, next_ns_ = NEVER, waits_since_ns_ = 0, published_ms_ = UNSET;
  bool running_ = false, changed_ = false;
  int64_t first_requests_ = 0;  // messages of front-ends that it has not read
  std::deque<RankMessage> from_ranks_;
  CountsOfRanks counts_;
  int64_t newest_wave_ = -1, newest_step_ = -1;
  std::shared_ptr<const CountsOfRanks> snapshot_;

  bool has_mail() const { return first_requests_ || !from_ranks_.empty(); }

  void wake(int64_t at_ns) {
    catch_up(at_ns);
    if (next_ns_ > at_ns) {
      next_ns_ = at_ns;
      agenda_.wake(*this, at_ns);
    }
  }

  void wait(int64_t now) {
    const int64_t at_least = snapshot_ ? 0 : SETTLING_MS;
    int64_t remaining = 0;
    if (published_ms_ != UNSET) {
      const int64_t interval = changed_ ? interval_ms_ : QUIET_INTERVAL_MS;
      remaining = interval - (now / NS_PER_MS - published_ms_);
    }
    waits_since_ns_ = now;
    deadline_ns_ = now + std::max(at_least, remaining) * NS_PER_MS;
  }

  void publish_counts(int64_t now, int64_t at_ns) {
    std::shared_ptr<const CountsOfRanks> counts = std::move(snapshot_);
    snapshot_ = nullptr;
    if (!counts) {
      counts = std::make_shared<const CountsOfRanks>(counts_);
      changed_ = false;
    }
    deployment_.publish(now, at_ns, counts, wave_, running_);
    published_ms_ = at_ns / NS_PER_MS;
  }

  // At most one message of each side.
  void read(int64_t now) {
    bool news = false;
    if (first_requests_) {
      --first_requests_;
      news = first_request(now);
    }
    if (!from_ranks_.empty()) {
      const RankMessage message = from_ranks_.front();
      from_ranks_.pop_front();
      if (message.kind == RankMessage::COUNTS) note_counts(message);
      else if (message.kind == RankMessage::WAVE_COMPLETE) news = wave_complete(message.wave) || news;
      else news = start_wave(now, message) || news;
    }
    if (news) deployment_.publish(now, now, nullptr, wave_, running_);
  }

  bool first_request(int64_t now) {
    if (running_) return false;
    // A front-end names its rank as two bytes, a rank compares that with its number: nobody is left out.
    deployment_.start_wave(now, wave_, NOBODY);
    if (sets_running_itself_) running_ = true;
    return sets_running_itself_;
  }

  void note_counts(const RankMessage& message) {
    if (std::tie(message.wave, message.step) > std::tie(newest_wave_, newest_step_)) {
      if (changed_) snapshot_ = std::make_shared<const CountsOfRanks>(counts_);
      newest_wave_ = message.wave;
      newest_step_ = message.step;
    }
    counts_[static_cast<size_t>(message.rank)] = message.counts;
    changed_ = true;
  }

  bool wave_complete(int64_t wave) {
    if (wave < wave_) return false;
    wave_ = wave + 1;
    running_ = false;
    return true;
  }

  bool start_wave(int64_t now, const RankMessage& message) {
    if (message.wave < wave_ || (message.wave == wave_ && running_)) return false;
    wave_ = message.wave;
    running_ = true;
    deployment_.start_wave(now, wave_, message.rank);
    return true;
  }
};

}  // namespace penstock
