// The turns of one instance: penstock/recording/turn_log.py.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

#include "request.h"

namespace penstock {

// In the order of TURN_COLUMNS of penstock/recording/records.py.
struct Turn {
  int64_t schedule_ns, first_arrival_ns, cause_after, tokens, sampled, decodes, prefills, prefill_tokens,
      context_tokens, free_blocks, running, waiting, in_flight, done_ns, update_ns;
};

constexpr int64_t TURN_COLUMNS = sizeof(Turn) / sizeof(int64_t);

class TurnLog {
 public:
  const int64_t pp_size, width;
  int64_t iterations = 0, empty_schedules = 0, prompt_tokens = 0, generated_tokens = 0;
  std::vector<int64_t> busy_ns;

  TurnLog(int64_t pp_size, bool is_kept)
      : pp_size(pp_size),
        width(TURN_COLUMNS + 3 * pp_size),
        busy_ns(static_cast<size_t>(pp_size), 0),
        is_kept_(is_kept) {}

  // Add a turn; `arrive, start, end` of every stage are to be written to what it returns.
  int64_t* begin(const Turn& turn) {
    const size_t place = cells_.size();
    ++rows_;
    cells_.resize(place + static_cast<size_t>(width));
    std::memcpy(&cells_[place], &turn, sizeof turn);
    return &cells_[place + TURN_COLUMNS];
  }

  // How many were begun, over the whole run.
  int64_t rows() const { return rows_; }

  // What was not known when a row was begun, whose result was not taken yet.
  void complete(int64_t row, int64_t done_ns, const int64_t* times) {
    int64_t* cells = &cells_[static_cast<size_t>((row - handed_on_) * width)];
    reinterpret_cast<Turn*>(cells)->done_ns = done_ns;
    std::memcpy(cells + TURN_COLUMNS, times, static_cast<size_t>(3 * pp_size) * sizeof(int64_t));
  }

  // The engine has taken the oldest result that it had not, leaving out those that have returned.
  void taken(int64_t at_ns) {
    close_oldest(at_ns);
    while (!returned_.empty() && returned_.begin()->first == handed_on_ + complete_) {
      close_oldest(returned_.begin()->second);
      returned_.erase(returned_.begin());
    }
    if (!is_kept_ && complete_ >= DROPPED_AT_ONCE) drop();
  }

  // A row that brings no tokens has come back, before older ones perhaps.
  void returned(int64_t row, int64_t at_ns) {
    if (row == handed_on_ + complete_) taken(at_ns);
    else returned_[row] = at_ns;
  }

  int64_t complete() const { return is_kept_ ? complete_ : 0; }
  const int64_t* cells() const { return cells_.data(); }
  int64_t handed_on() const { return handed_on_; }
  int64_t open_since_ns() const {
    const size_t place = static_cast<size_t>((is_kept_ ? 0 : complete_) * width);
    return cells_.size() > place ? cells_[place] : NEVER;
  }

  // Forget the complete turns.
  void drop() {
    cells_.erase(cells_.begin(), cells_.begin() + static_cast<int64_t>(complete_ * width));
    handed_on_ += complete_;
    complete_ = 0;
  }

 private:
  static constexpr int64_t DROPPED_AT_ONCE = 512;

  const bool is_kept_;
  std::vector<int64_t> cells_;
  int64_t complete_ = 0, handed_on_ = 0, rows_ = 0;
  std::map<int64_t, int64_t> returned_;  // when rows came back before older ones

  void close_oldest(int64_t at_ns) {
    int64_t* row = &cells_[static_cast<size_t>(complete_ * width)];
    const int64_t* times = row + TURN_COLUMNS;
    ++complete_;
    Turn* turn = reinterpret_cast<Turn*>(row);
    turn->update_ns = at_ns;
    if (turn->tokens) {
      ++iterations;
      for (size_t stage = 0; stage < busy_ns.size(); ++stage) {
        busy_ns[stage] += times[3 * stage + 2] - times[3 * stage + 1];
      }
    } else if (times[2] <= times[1]) {  // else it is a dummy batch
      ++empty_schedules;
    }
    prompt_tokens += turn->prefill_tokens;
    generated_tokens += turn->sampled;
  }
};

}  // namespace penstock
