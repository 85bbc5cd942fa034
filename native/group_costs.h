// How long a forward of all ranks of a group takes: penstock/cost/lockstep.py over tables that Python has compiled.
#pragma once

#include "costs.h"

namespace penstock {

// One kind of layer with shared experts; see _shared_beside in lockstep.py.
struct SharedBeside {
  int64_t layers;
  std::vector<int64_t> routed, shared;
};

class GroupCosts {
 public:
  std::vector<Attention> attentions;
  std::vector<std::vector<int64_t>> layers;  // by attention, by stage
  std::vector<int64_t> dummy_ns;             // by attention
  double mixed_extra = 0;
  int64_t exchange_ns = 0, beside_tokens = 0;
  std::vector<int64_t> padded;                              // by tokens of the largest rank
  std::vector<std::vector<int64_t>> graph, own, routed;     // by stage, by tokens
  std::vector<std::vector<SharedBeside>> beside;            // by stage
  std::vector<int64_t> head;                                // by sequences

  bool empty() const { return attentions.empty(); }

  // Whether the tables go as far as such a share of a rank.
  bool cover(const Load& load) const {
    if (load.prefill_tokens) return true;
    for (const Attention& one : attentions) {
      if (load.decodes >= one.rows) return false;
    }
    return true;
  }

  // Tokens that every rank runs where the largest has so many, or 0 without graphs.
  int64_t padded_tokens(int64_t most) const {
    return most < static_cast<int64_t>(padded.size()) ? padded[static_cast<size_t>(most)] : 0;
  }

  // `loads` without dummies, of which there are so many; `outside`: four of each attention. Returns the padded tokens.
  int64_t forward_ns(const std::vector<const Load*>& loads, int64_t dummies, std::vector<Outside>& outside,
                     int64_t* times) const {
    int64_t most = 1, total = dummies, sampled = 0;
    bool is_mixed = false;
    for (const Load* load : loads) {
      const int64_t tokens = load->decodes + load->prefill_tokens;
      is_mixed |= load->prefill_tokens > 0;
      total += tokens;
      most = std::max(most, tokens);
      sampled = std::max(sampled, load->sampled);
    }
    const int64_t size = padded_tokens(most);
    const bool has_graph = most < static_cast<int64_t>(padded.size());
    const double extra = is_mixed ? mixed_extra : 0.5;
    const size_t stages = graph.size();
    for (size_t stage = 0; stage < stages; ++stage) {
      times[stage] = has_graph ? graph[stage][static_cast<size_t>(size)] : eager_ns(stage, most, total);
      times[stage] += exchange_ns;
    }
    for (size_t kind = 0; kind < attentions.size(); ++kind) {
      double slowest = static_cast<double>(dummy_ns[kind]);
      for (const Load* load : loads) {
        Outside* beyond = &outside[4 * kind];
        slowest = std::max(slowest, load->prefill_tokens ? attentions[kind].mixed_ns(*load, beyond)
                                                         : attentions[kind].decode_ns(*load, beyond));
      }
      const int64_t attention = static_cast<int64_t>(slowest + extra);
      for (size_t stage = 0; stage < stages; ++stage) times[stage] += layers[kind][stage] * attention;
    }
    times[stages - 1] += head[std::min(static_cast<size_t>(sampled), head.size() - 1)];
    return size;
  }

 private:
  int64_t eager_ns(size_t stage, int64_t most, int64_t total) const {
    const size_t all = static_cast<size_t>(total), largest = static_cast<size_t>(most);
    int64_t time = own[stage][largest] + routed[stage][all];
    if (most > beside_tokens) return time;
    for (const SharedBeside& one : beside[stage]) {
      time += one.layers * std::max(one.shared[largest] - one.routed[all], int64_t{0});
    }
    return time;
  }
};

}  // namespace penstock
