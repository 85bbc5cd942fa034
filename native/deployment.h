// The processes of one group: penstock/engine/data_parallel.py.
#pragma once

#include <memory>
#include <unordered_map>

#include "front_end.h"
#include "messages.h"
#include "lockstep_run.h"

namespace penstock {

class Deployment final : public Spoken, public RankListener {
 public:
  const ParallelOptions options;
  LockstepGroup group;

  Deployment(Agenda& agenda, const ParallelOptions& options, const GroupOptions& group, GroupCostSource& costs,
             int64_t place)
      : options(options),
        group(group, static_cast<size_t>(options.size), costs),
        messages_(agenda, place),
        coordinator_(agenda, options, place, *this) {
    if (options.is_external) {
      for (int64_t rank = 0; rank < options.size; ++rank) front_ends_.emplace_back(options, rank, 1, 0);
      return;
    }
    const int64_t per_node = options.size / options.nodes;
    for (int64_t node = 0; node < options.nodes; ++node) {
      for (int64_t index = 0; index < options.front_ends; ++index) {
        front_ends_.emplace_back(options, node * per_node, per_node, index);
      }
    }
  }

  // Whom the next request comes to: that of its rank where each rank has its own, else one after the other.
  size_t choose_front_end(int64_t rank) {
    if (options.is_external && rank != NOBODY) return static_cast<size_t>(rank);
    const size_t chosen = next_front_end_;
    next_front_end_ = (chosen + 1) % front_ends_.size();
    return chosen;
  }

  // A request comes to a front-end: the rank that it names, or the one with the least load.
  size_t choose_rank(int64_t now, size_t front_end, int64_t rank) {
    coordinator_.catch_up(now);
    FrontEnd& chooser = front_ends_[front_end];
    wave_ = chooser.wave;
    believed_running_ = chooser.engines_running;
    if (rank == NOBODY) rank = chooser.choose();
    chooser.sent(rank);
    return static_cast<size_t>(rank);
  }

  // The same request goes there.
  void send(int64_t now, size_t front_end, size_t rank, Request* state) {
    sent_by_[state->index] = front_end;
    state->arrived_ns = now + options.front_end_to_engine_ns;
    ++on_the_way_to_ranks_;
    Rank* one = group.ranks[rank];
    one->expect();
    messages_.send(state->arrived_ns, [this, one, state, wave = wave_](int64_t at_ns) {
      --on_the_way_to_ranks_;
      one->receive(at_ns, state, wave);
    });
    if (believed_running_) return;
    front_ends_[front_end].engines_running = true;
    messages_.send(now + options.front_end_to_coordinator_ns,
                   [this](int64_t at_ns) { coordinator_.hear_from_front_end(at_ns); });
  }

  int64_t coordinator_timer_ns() const { return coordinator_.timer_ns(); }

  // --- what ranks say ------------------------------------------------------------------------------------------

  void tell(int64_t now, const RankMessage& message) override {
    messages_.send(now + options.engine_to_coordinator_ns,
                   [this, message](int64_t at_ns) { coordinator_.hear_from_rank(at_ns, message); });
  }

  void tell_ended(int64_t rank, int64_t now, const std::vector<Request*>& ended) override {
    std::vector<std::pair<size_t, int64_t>> how_many;
    for (const Request* state : ended) {
      const auto found = sent_by_.find(state->index);
      const size_t front_end = found->second;
      sent_by_.erase(found);
      const auto same = std::find_if(how_many.begin(), how_many.end(),
                                     [&](const auto& one) { return one.first == front_end; });
      if (same == how_many.end()) how_many.emplace_back(front_end, 1);
      else ++same->second;
    }
    if (options.is_external) return;
    for (const auto& [front_end, number] : how_many) {
      FrontEnd* one = &front_ends_[front_end];
      messages_.send(now + options.engine_to_front_end_ns,
                     [one, rank, number = number](int64_t) { one->hear_of_ended(rank, number); });
    }
  }

  // --- what the coordinator says -------------------------------------------------------------------------------

  void start_wave(int64_t now, int64_t wave, int64_t exclude) override {
    on_the_way_to_ranks_ += options.size;
    for (Rank* one : group.ranks) {
      messages_.send(now + options.coordinator_to_engine_ns, [this, one, wave, exclude](int64_t at_ns) {
        --on_the_way_to_ranks_;
        one->start_wave(at_ns, wave, exclude);
      });
    }
  }

  void publish(int64_t now, int64_t sent_ns, std::shared_ptr<const CountsOfRanks> counts, int64_t wave,
               bool running) override {
    const int64_t arrives_ns = sent_ns + options.coordinator_to_front_end_ns;
    for (FrontEnd& each : front_ends_) {
      if (sent_ns < now && arrives_ns <= now) {
        each.hear(counts.get(), wave, running);
      } else {
        FrontEnd* one = &each;
        messages_.send(arrives_ns, [one, counts, wave, running](int64_t) { one->hear(counts.get(), wave, running); });
      }
    }
  }

  bool is_quiet() const override {
    return !on_the_way_to_ranks_ && std::all_of(group.ranks.begin(), group.ranks.end(),
                                                [](const Rank* rank) { return rank->awaits_message(); });
  }

 private:
  Messages messages_;
  Coordinator coordinator_;
  std::vector<FrontEnd> front_ends_;
  size_t next_front_end_ = 0;
  int64_t on_the_way_to_ranks_ = 0;
  int64_t wave_ = 0;               // what the front-end knew that has chosen last
  bool believed_running_ = false;  // the same
  std::unordered_map<int64_t, size_t> sent_by_;
};

}  // namespace penstock
