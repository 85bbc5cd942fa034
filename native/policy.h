// The policies that come with Penstock: penstock/scheduler/policies/.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "request.h"

namespace penstock {

constexpr int64_t UNLIMITED = INT64_MAX;

enum class PolicyKind : int64_t { VLLM = 0, DECODE_CAP, REQUEST_CAP, THROTTLING, SLOTS, DYNAMIC_CHUNKS };

// Chunks of equal time: DynamicChunks in sglang.py.
struct ChunkSizes {
  double linear_ns = 0;
  double quadratic_ns = 0;
  double smoothing = 0;
  double smallest_share = 4;
  int64_t first = 0;

  int64_t after(int64_t context) const {
    const double a = quadratic_ns, whole = static_cast<double>(first);
    const double slope = linear_ns + 2 * a * static_cast<double>(context);
    const double target = linear_ns * whole + a * whole * whole;
    volatile double half = 0.5;  // Python's power is the library's, which a compiler would replace
    const double equal_time =
        a == 0 ? target / slope : (std::pow(slope * slope + 4 * a * target, half) - slope) / (2 * a);
    const double smoothed = whole + smoothing * (equal_time - whole);
    return static_cast<int64_t>(std::min(std::max(smoothed, whole / smallest_share), whole));
  }
};

struct StepLimits {
  int64_t decodes = UNLIMITED;
  int64_t requests = UNLIMITED;
  int64_t prefill_tokens = UNLIMITED;
  int64_t admissions = UNLIMITED;
  int slot = NO_SLOT;
  const ChunkSizes* chunks = nullptr;

  bool allows_decode(const Request& state) const {
    return decodes > 0 && requests > 0 && (slot == NO_SLOT || state.slot == slot);
  }

  // -1 where it depends on each of them.
  int64_t allowed_decodes(int64_t wanted, int of_slot) const {
    if (slot != NO_SLOT && of_slot != slot) return -1;
    return std::max<int64_t>(std::min({wanted, decodes, requests}), 0);
  }

  int64_t allowed_chunk(int64_t computed) const {
    if (requests <= 0) return 0;
    if (!chunks) return prefill_tokens;
    return std::min(prefill_tokens, std::max<int64_t>(chunks->after(computed), 1));
  }

  void spend_decodes(int64_t count) {
    decodes -= count;
    requests -= count;
  }

  void spend_chunk(int64_t tokens) {
    prefill_tokens -= tokens;
    --requests;
  }

  void give_back_decode() {
    ++decodes;
    ++requests;
  }

  void give_back_chunk(int64_t tokens) {
    prefill_tokens += tokens;
    ++requests;
  }
};

// What a policy is told: how its scheduler stands.
struct PolicyView {
  int64_t num_decoding;
  int64_t free_blocks;
  int64_t usable_blocks;
  int64_t prompt_tokens_left;
  const int64_t* running_in;
};

class Policy {
 public:
  PolicyKind kind = PolicyKind::VLLM;
  int64_t pp_size = 1;
  int64_t cap = 0;  // decode-cap, all-cap
  int64_t iterations = 1, min_prefill = 0, max_prefill = 0;
  int64_t slots = 0, micro_batch = 0;
  ChunkSizes chunks;

  bool limits_steps() const { return kind != PolicyKind::VLLM; }

  // The slot whose turn comes next.
  int next_slot() {
    if (kind != PolicyKind::SLOTS && kind != PolicyKind::DYNAMIC_CHUNKS) return NO_SLOT;
    turn_ = static_cast<int>((turn_ + 1) % slots);
    return turn_;
  }

  StepLimits limits(int slot, const PolicyView& view) const {
    StepLimits given;
    switch (kind) {
      case PolicyKind::VLLM:
        break;
      case PolicyKind::DECODE_CAP:
        given.decodes = cap;
        break;
      case PolicyKind::REQUEST_CAP:
        given.requests = cap;
        break;
      case PolicyKind::THROTTLING: {
        const int64_t most = max_prefill;
        const int64_t waiting = std::min(view.prompt_tokens_left, most * iterations);
        const double ratio = static_cast<double>(view.free_blocks) / static_cast<double>(view.usable_blocks);
        const int64_t share = std::min((waiting + iterations - 1) / iterations,
                                       static_cast<int64_t>(static_cast<double>(most) * ratio));
        given.decodes = std::max<int64_t>((view.num_decoding + pp_size - 1) / pp_size, 1);
        given.prefill_tokens = std::max(share, min_prefill);
        break;
      }
      case PolicyKind::DYNAMIC_CHUNKS:
        given.chunks = &chunks;
        [[fallthrough]];
      case PolicyKind::SLOTS:
        given.slot = slot;
        given.admissions = std::max<int64_t>(micro_batch - view.running_in[slot], 0);
        break;
    }
    return given;
  }

 private:
  int turn_ = -1;
};

}  // namespace penstock
