// A request while it is being served: penstock/scheduler/request_state.py.
#pragma once

#include <cstdint>
#include <vector>

#include "lists.h"

namespace penstock {

struct Cohort;
struct Step;
struct Request;
struct CachedBlock;
struct OwnBlocks;

constexpr int64_t NEVER = INT64_MAX;
constexpr int64_t UNSET = -1;
constexpr int NO_SLOT = -1;

// What a block holds, and all that precedes it: equal content, equal key.
struct Key {
  uint64_t low;
  uint64_t high;
  bool operator==(const Key& other) const { return low == other.low && high == other.high; }
};

// Token times as a slice of those that a cohort, or a request, has: which, from, to.
struct Segment {
  int64_t times;
  int64_t start;
  int64_t stop;
};

struct Request {
  int64_t index = 0;
  int64_t arrival_ns = 0;
  int64_t arrived_ns = 0;
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  int64_t priority = 0;

  int64_t num_tokens = 0;
  int64_t num_computed = 0;
  int64_t final_tokens = 0;
  int64_t held_blocks = 0;
  int64_t order = -1;
  int64_t preemptions = 0;
  int64_t cached_tokens = 0;
  int64_t first_scheduled_ns = UNSET;
  int64_t first_token_ns = UNSET;
  int64_t last_token_ns = 0;

  Cohort* cohort = nullptr;
  int64_t offset = 0;
  int64_t segment_start = 0;
  std::vector<Segment> segments;
  Step* latest_step = nullptr;
  int64_t latest_number = 0;
  int slot = NO_SLOT;

  // Whether its token ids are known, so that its blocks can be hit by others; the keys of its blocks so far.
  bool has_ids = false;
  std::vector<Key> keys;
  std::vector<CachedBlock*> hashed_blocks;
  // Full blocks behind those of which nobody knows what they hold: nobody else can hit them.
  int64_t unknown_blocks = 0;
  OwnBlocks* own_blocks = nullptr;

  int64_t placeholders = 0;
  int64_t hashed_tokens = 0;
  int64_t eligible_at = 0;
  int64_t own_times = UNSET;

  // With a KV connector: see penstock/scheduler/request_state.py. What it held when it ended, if that is still held.
  int64_t load_order = -1;
  int64_t dropped_through = 0;
  int64_t held_computed = 0, held_known = 0;
  int64_t queue_place = 0;  // its place among the waiting ones, where these come first who came first

  bool is_running = false;
  bool is_partial = false;
  bool is_waiting = false;
  bool is_aborted = false;
  bool is_taken = false;  // a decode that is in the step being decided
  bool fills = false;     // its cohort watches which of its blocks fill up
  bool is_leaving = false;
  bool has_ended = false;
  bool is_put_aside = false;
  bool is_failed = false;
  bool is_parked = false;  // waits, and is not tried until it is called
  bool is_loading = false, is_loaded = false, is_unpromoted = false, is_discarded = false, is_unhashed = false;
  bool brings_token = false;
  bool is_held = false, is_behind_fence = false;

  // How it was before the step being decided, which is number `before_epoch`.
  int64_t before_epoch = 0;
  Step* before_step = nullptr;
  int64_t before_number = 0;

  Link<Request> loading_link;
  Link<Request> running_link, waiting_link, member_link, finish_link, fills_link, joining_link, irregular_link;
  List<Request, &Request::joining_link>* joining_in = nullptr;
  List<Request, &Request::irregular_link>* irregular_in = nullptr;
};

using RunningList = List<Request, &Request::running_link>;
using LoadingList = List<Request, &Request::loading_link>;
using WaitingList = List<Request, &Request::waiting_link>;
using MemberList = List<Request, &Request::member_link>;
using FinishList = List<Request, &Request::finish_link>;
using FillsList = List<Request, &Request::fills_link>;
using JoiningList = List<Request, &Request::joining_link>;
using IrregularList = List<Request, &Request::irregular_link>;

}  // namespace penstock
