// One micro-batch: penstock/scheduler/step.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "request.h"

namespace penstock {

struct Chunk {
  Request* state;
  int64_t new_tokens;
  int64_t computed;
};

// A step as the cost model sees it.
struct Load {
  int64_t prefill_tokens = 0;
  int64_t prefill_context = 0;
  int64_t decodes = 0;
  int64_t decode_context = 0;
  int64_t min_context = 0;
  int64_t max_context = 0;
  int64_t sampled = 0;
};

struct Step {
  Cohort* cohort = nullptr;
  int64_t members = 0;
  std::vector<Chunk> chunks;
  std::vector<Request*> sampling;
  std::vector<std::pair<Request*, bool>> preempted_in_flight;
  int64_t preempted = 0;
  Step* after = nullptr;
  int64_t turn = 0;
  int64_t known_turn = 0;
  JoiningList* joining = new JoiningList;
  std::vector<Request*> apart;
  int64_t tokens = 0;
  int64_t prefills = 0;
  Load load;
  int64_t done_ns = 0;
  int64_t end_ns = 0;
  int64_t number = 0;
  int64_t row = 0;  // of the turn log

  Step() = default;
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;
  ~Step() { delete joining; }

  void clear() {
    cohort = nullptr;
    members = tokens = prefills = preempted = 0;
    load = Load();
    chunks.clear();
    sampling.clear();
    preempted_in_flight.clear();
    after = nullptr;
  }

  void add_members(Cohort& cohort);

  void add_chunk(Request* state, int64_t new_tokens, int64_t computed) {
    chunks.push_back(Chunk{state, new_tokens, computed});
    tokens += new_tokens;
    if (new_tokens == 1) {
      if (!load.decodes || computed < load.min_context) load.min_context = computed;
      if (computed > load.max_context) load.max_context = computed;
      ++load.decodes;
      load.decode_context += computed;
    } else {
      ++prefills;
      load.prefill_tokens += new_tokens;
      load.prefill_context += computed;
    }
  }

  void wait_for(Step* step) {
    if (!after || step->number > after->number) after = step;
  }

  bool samples(const Request* state) const {
    return std::find(sampling.begin(), sampling.end(), state) != sampling.end();
  }

  void sample_no_more(Request* state) {
    sampling.erase(std::find(sampling.begin(), sampling.end(), state));
  }

  // Take a request's chunk out again; returns its new tokens. To be called before the members are added.
  int64_t take_out(Request* state) {
    int64_t given = 0;
    for (const Chunk& chunk : chunks) given += chunk.state == state ? chunk.new_tokens : 0;
    if (!given) return 0;
    const std::vector<Chunk> before = std::move(chunks);
    chunks.clear();
    const int64_t sampled = load.sampled;
    tokens = prefills = 0;
    load = Load();
    load.sampled = sampled;
    for (const Chunk& chunk : before) {
      if (chunk.state != state) add_chunk(chunk.state, chunk.new_tokens, chunk.computed);
    }
    if (samples(state)) {
      sample_no_more(state);
      --load.sampled;
    }
    return given;
  }
};

}  // namespace penstock
