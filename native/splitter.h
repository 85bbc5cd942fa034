// Where the time of an instance's stages went: penstock/accounting/stage_spans.py, whose comments explain it, without
// the spans themselves.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

#include "turn_log.h"

namespace penstock {

// In the order of StageCause of stage_spans.py.
enum StageCause : int64_t {
  BUSY, TRANSFER, FILL, IMBALANCE, WAITS_FOR_TOKENS, LACKS_MEMORY, IN_ENGINE, BLOCKED, NO_WORK, DRAIN, SYNC, DUMMY,
  LACKS_SEQS, KV_ON_ITS_WAY, STAGE_CAUSES
};

constexpr std::array<int64_t, 6> STAGE_CAUSE_OF_TURN{NO_WORK,   WAITS_FOR_TOKENS, LACKS_MEMORY,
                                                     IN_ENGINE, LACKS_SEQS,       KV_ON_ITS_WAY};
constexpr std::array<int64_t, 8> INHERITED_LATEST_FIRST{TRANSFER,   BLOCKED,       IN_ENGINE,        LACKS_MEMORY,
                                                        LACKS_SEQS, KV_ON_ITS_WAY, WAITS_FOR_TOKENS, SYNC};

inline int64_t clipped(int64_t value, int64_t low, int64_t high) { return std::min(std::max(value, low), high); }

// Why the engine scheduled nothing (more): `causes[i]` holds in [edges[i], edges[i + 1]).
class TurnTimeline {
 public:
  bool is_empty() const { return edges_.empty(); }
  int64_t begin_ns() const { return edges_[first_]; }

  void extend(const Turn& turn) {
    if (edges_.empty()) {
      edges_ = {std::min(turn.first_arrival_ns, turn.schedule_ns), turn.schedule_ns};
      causes_ = {IN_ENGINE};
    } else {
      const int64_t begin = last_schedule_ns_, schedule = turn.schedule_ns;
      const int64_t before = STAGE_CAUSE_OF_TURN[static_cast<size_t>(last_cause_)];
      const bool waits = before == NO_WORK || before == WAITS_FOR_TOKENS || before == KV_ON_ITS_WAY;
      const int64_t arrived = waits ? clipped(turn.first_arrival_ns, begin, schedule) : schedule;
      while (!open_.empty() && open_.front().update_ns <= begin) open_.pop_front();
      const int64_t back = open_.empty() ? schedule : clipped(open_.front().done_ns, begin, schedule);
      const bool nothing_left = turn.cause_after == 0 && turn.tokens == 0 && back <= arrived;
      edges_.push_back(std::min(arrived, back));
      causes_.push_back(before);
      edges_.push_back(schedule);
      causes_.push_back(nothing_left ? NO_WORK : IN_ENGINE);
    }
    last_schedule_ns_ = turn.schedule_ns;
    last_cause_ = turn.cause_after;
    if (turn.sampled > 0) open_.push_back(Open{turn.update_ns, turn.done_ns});
  }

  void forget_before(int64_t time_ns) {
    first_ = std::max(first_, std::min(place_of(time_ns), causes_.size() - 1));
    if (first_ < 1024) return;
    edges_.erase(edges_.begin(), edges_.begin() + static_cast<int64_t>(first_));
    causes_.erase(causes_.begin(), causes_.begin() + static_cast<int64_t>(first_));
    first_ = 0;
  }

  int64_t cause_at(int64_t time_ns) const { return causes_[std::min(place_of(time_ns), causes_.size() - 1)]; }

  // Call `piece(begin, end, cause)` for every cause in an interval.
  template <class Piece>
  void cut(int64_t begin, int64_t end, Piece piece) const {
    if (end <= begin) return;
    for (size_t place = place_of(begin); place < causes_.size() && edges_[place] < end; ++place) {
      const int64_t from = std::max(edges_[place], begin), to = std::min(edges_[place + 1], end);
      if (to > from) piece(from, to, causes_[place]);
    }
  }

 private:
  struct Open {
    int64_t update_ns, done_ns;
  };

  std::vector<int64_t> edges_, causes_;
  size_t first_ = 0;
  int64_t last_schedule_ns_ = 0, last_cause_ = 0;
  std::deque<Open> open_;

  size_t place_of(int64_t time_ns) const {
    const auto begin = edges_.begin() + static_cast<int64_t>(first_);
    const auto after = std::upper_bound(begin, edges_.end(), time_ns);
    return after == begin ? first_ : static_cast<size_t>(after - edges_.begin()) - 1;
  }
};

class Splitter {
 public:
  const size_t pp_size;

  Splitter(size_t pp_size, bool blocking_sends)
      : pp_size(pp_size),
        blocking_sends_(blocking_sends),
        width_(static_cast<size_t>(TURN_COLUMNS) + 3 * pp_size),
        ns_(pp_size * STAGE_CAUSES, 0) {}

  // Account for turns, whose rows stand one after the other.
  void accept(const int64_t* rows, size_t count) {
    for (size_t row = 0; row < count; ++row) {
      const int64_t* cells = rows + row * width_;
      Turn turn;
      std::memcpy(&turn, cells, sizeof turn);
      timeline_.extend(turn);
      if (!has_begun_) {
        has_begun_ = true;
        begin_ns_ = timeline_.begin_ns();
        latest_.assign(width_, begin_ns_);
      }
      if (turn.tokens > 0) {
        step(turn, cells);
        ran_empty_ = false;
      } else {
        ran_empty_ |= turn.cause_after == 0;
      }
    }
  }

  // ns by stage and cause of what is over for sure.
  std::vector<int64_t> so_far() const {
    std::vector<int64_t> ns = ns_;
    const int64_t settled = has_steps_ ? latest_schedule_ns_ : 0;
    for (const Piece& piece : recent_) {
      if (piece.end > settled) ns[piece.place] -= piece.end - piece.begin;
    }
    return ns;
  }

  // Whether the window covers all steps; then it is closed, and `ns` covers it.
  bool finish(int64_t window_start, int64_t window_end) {
    if (!has_steps_) {
      for (size_t stage = 0; stage < pp_size; ++stage) {
        ns_[stage * STAGE_CAUSES + NO_WORK] += std::max<int64_t>(window_end - window_start, 0);
      }
      return true;
    }
    if (begin_ns_ < window_start || latest_schedule_ns_ > window_end) return false;
    for (const Piece& piece : recent_) {
      if (piece.end > window_end) ns_[piece.place] -= piece.end - std::max(piece.begin, window_end);
    }
    recent_.clear();
    Turn turn;
    std::memcpy(&turn, latest_.data(), sizeof turn);
    const int64_t updated = std::min(turn.update_ns, window_end);
    for (size_t stage = 0; stage < pp_size; ++stage) {
      const int64_t end = std::min(end_of(latest_.data(), stage), window_end);
      int64_t sent = end;
      if (blocking_sends_ && stage + 1 < pp_size) {
        sent = std::min(std::max(arrive_of(latest_.data(), stage + 1), end), window_end);
      }
      const int64_t drained = std::max(updated, sent);
      count(stage, window_start, begin_ns_, NO_WORK);
      count(stage, end, sent, BLOCKED);
      count(stage, sent, drained, DRAIN);
      count(stage, drained, window_end, NO_WORK);
    }
    return true;
  }

  const std::vector<int64_t>& ns() const { return ns_; }
  int64_t begin_ns() const { return begin_ns_; }
  int64_t latest_schedule_ns() const { return latest_schedule_ns_; }

 private:
  struct Piece {
    int64_t begin, end;
    size_t place;
  };

  const bool blocking_sends_;
  const size_t width_;
  TurnTimeline timeline_;
  std::vector<int64_t> ns_;
  bool has_begun_ = false, has_steps_ = false, ran_empty_ = true;
  int64_t begin_ns_ = 0, latest_schedule_ns_ = 0;
  std::vector<int64_t> latest_;  // the row of the latest step with tokens
  // Counted pieces that the window's end may cut: all that end after the latest step was scheduled, and some more.
  std::deque<Piece> recent_;

  static int64_t arrive_of(const int64_t* row, size_t stage) { return row[TURN_COLUMNS + 3 * stage]; }
  static int64_t start_of(const int64_t* row, size_t stage) { return row[TURN_COLUMNS + 3 * stage + 1]; }
  static int64_t end_of(const int64_t* row, size_t stage) { return row[TURN_COLUMNS + 3 * stage + 2]; }

  void count(size_t stage, int64_t begin, int64_t end, int64_t cause) {
    if (end > begin) ns_[stage * STAGE_CAUSES + static_cast<size_t>(cause)] += end - begin;
  }

  void add(size_t stage, int64_t begin, int64_t end, int64_t cause) {
    if (end <= begin) return;
    const size_t place = stage * STAGE_CAUSES + static_cast<size_t>(cause);
    ns_[place] += end - begin;
    if (end > latest_schedule_ns_) recent_.push_back(Piece{begin, end, place});
  }

  void step(const Turn& turn, const int64_t* row) {
    const int64_t* earlier = latest_.data();
    Turn before;
    std::memcpy(&before, earlier, sizeof before);
    has_steps_ = true;
    latest_schedule_ns_ = turn.schedule_ns;
    while (!recent_.empty() && recent_.front().end <= latest_schedule_ns_) recent_.pop_front();
    const int64_t left_ns = end_of(earlier, pp_size - 1);
    const bool was_empty = left_ns <= turn.schedule_ns;
    int64_t refill = FILL;
    if (was_empty && !ran_empty_) refill = timeline_.cause_at(std::max(left_ns - 1, before.schedule_ns));
    std::array<int64_t, STAGE_CAUSES> own, passed_down{};
    for (size_t stage = 0; stage < pp_size; ++stage) {
      const int64_t start = start_of(row, stage), end = end_of(row, stage);
      own.fill(0);
      add(stage, start, end, BUSY);
      const int64_t free = end_of(earlier, stage);
      int64_t at = free;
      if (blocking_sends_ && stage + 1 < pp_size) at = clipped(arrive_of(earlier, stage + 1), free, start);
      add(stage, free, at, BLOCKED);
      own[BLOCKED] = at - free;
      const int64_t drained = ran_empty_ ? clipped(before.update_ns, at, start) : at;
      add(stage, at, drained, DRAIN);
      const int64_t scheduled = clipped(turn.schedule_ns, drained, start);
      timeline_.cut(drained, scheduled, [&](int64_t from, int64_t to, int64_t cause) {
        add(stage, from, to, cause);
        own[static_cast<size_t>(cause)] += to - from;
      });
      const int64_t entered = clipped(arrive_of(row, 0), scheduled, start);
      add(stage, scheduled, entered, IN_ENGINE);
      own[IN_ENGINE] += entered - scheduled;
      at = entered;
      if (stage) {
        const int64_t upstream_end = clipped(end_of(row, stage - 1), at, start);
        if (was_empty) {
          add(stage, at, upstream_end, refill);
          own[static_cast<size_t>(refill)] += upstream_end - at;
        } else {
          wait_for_upstream(stage, at, upstream_end, own, passed_down);
        }
        at = clipped(arrive_of(row, stage), upstream_end, start);
        add(stage, upstream_end, at, TRANSFER);
        own[TRANSFER] += at - upstream_end;
      }
      add(stage, at, start, WAITS_FOR_TOKENS);
      own[WAITS_FOR_TOKENS] += start - at;
      passed_down = own;
    }
    latest_.assign(row, row + width_);
    timeline_.forget_before(turn.schedule_ns);
  }

  // Split a wait by what the stage before passes down; in time, the imbalance comes first and the latest cause last.
  void wait_for_upstream(size_t stage, int64_t begin, int64_t end, std::array<int64_t, STAGE_CAUSES>& own,
                         const std::array<int64_t, STAGE_CAUSES>& passed_down) {
    int64_t until = end;
    std::array<int64_t, 8> shares;
    for (size_t place = 0; place < shares.size(); ++place) {
      const size_t cause = static_cast<size_t>(INHERITED_LATEST_FIRST[place]);
      shares[place] = std::min(until - begin, std::max<int64_t>(passed_down[cause] - own[cause], 0));
      add(stage, until - shares[place], until, INHERITED_LATEST_FIRST[place]);
      until -= shares[place];
    }
    add(stage, begin, until, IMBALANCE);
    for (size_t place = 0; place < shares.size(); ++place) {
      own[static_cast<size_t>(INHERITED_LATEST_FIRST[place])] += shares[place];
    }
    own[IMBALANCE] += until - begin;
  }
};

}  // namespace penstock
