// A KV connector and its workers in Python, called when something happens to a request and not for every turn:
// penstock/engine/native_connected.py.
#pragma once

#include <deque>
#include <unordered_map>

#include "connector.h"
#include "python.h"
#include "step.h"

namespace penstock {

// Python's side of a run, known only while it runs, and whether it was called since somebody asked.
struct Callee {
  PyObject* host = nullptr;
  bool was_called = false;
};

// How a request left: 0 finished, 1 aborted, 2 failed.
inline int outcome_of(const Request& state) { return state.is_failed ? 2 : state.is_aborted ? 1 : 0; }

struct ConnectorOptions {
  bool writes_blocks, must_deliver, calls_back, watches_prefills;
};

class PythonConnector final : public Connector {
 public:
  PythonConnector(Callee& callee, const ConnectorOptions& options, int64_t pp_size)
      : Connector(options.writes_blocks, options.must_deliver),
        callee_(callee),
        calls_back_(options.calls_back),
        watches_prefills_(options.watches_prefills),
        width_(3 * pp_size) {}

  // Others have changed what is to be done.
  void touch() { is_stale_ = true; }

  void added(Request* state) override {
    known_[state->index] = state;
    call("added", "L", static_cast<long long>(state->index));
  }

  void called(int64_t now, std::vector<Request*>& called) override {
    if (!calls_back_ || now < quiet_until_ns()) return;
    const Ref answer(call_for("called", "L", static_cast<long long>(now)));
    find_all(answer.get(), called);
  }

  Match matched_tokens(Request* state, int64_t computed) override {
    callee_.was_called = true;
    const Ref answer(PyObject_CallMethod(callee_.host, "matched_tokens", "LL", static_cast<long long>(state->index),
                                         static_cast<long long>(computed)));
    Match match;
    match.is_known = answer.get() != Py_None;
    if (!match.is_known) return match;
    int64_t values[3] = {0, 0, 0};
    size_t place = 0;
    each_item(answer.get(), [&](PyObject* value) { values[place++] = to_int(value); });
    match.tokens = values[0];
    match.loads = values[1] != 0;
    match.reserved_blocks = values[2];
    return match;
  }

  void allocated(Request* state, int64_t hit_blocks, int64_t external_tokens) override {
    call("allocated", "LLLL", static_cast<long long>(state->index), static_cast<long long>(state->held_blocks),
         static_cast<long long>(hit_blocks), static_cast<long long>(external_tokens));
  }

  bool finished(Request* state, int64_t now) override {
    const Ref answer(call_for("finished", "LiL", static_cast<long long>(state->index), outcome_of(*state),
                              static_cast<long long>(now)));
    if (answer.get() == Py_True) return true;
    known_.erase(state->index);
    return false;
  }

  bool has_work() override {
    stand();
    return has_work_;
  }

  int64_t quiet_until_ns() override {
    stand();
    return quiet_until_;
  }

  void sent(const Step& step, int64_t now, const int64_t* times) override {
    stand();
    const bool is_quiet = now < tells_nothing_until_ && (step.chunks.empty() || !watches_prefills_);
    times_.insert(times_.end(), times, times + width_);
    if (is_quiet) return;
    Ref chunks(watches_prefills_ ? PyList_New(0) : none());
    if (watches_prefills_) {
      for (const Chunk& chunk : step.chunks) {
        const Ref entry(to_tuple({chunk.state->index, chunk.new_tokens, chunk.computed}));
        if (PyList_Append(chunks.get(), entry.get()) < 0) throw PythonError();
      }
    }
    const Ref at(to_tuple(std::vector<int64_t>(times, times + width_)));
    call("sent", "LLiOO", static_cast<long long>(step.number), static_cast<long long>(now),
         static_cast<int>(step.tokens > 0), at.get(), chunks.get());
  }

  bool came_back(int64_t at, TransferReport& report) override {
    if (at < quiet_until_ns()) {
      forget_oldest();
      return false;
    }
    const Ref times(to_tuple(std::vector<int64_t>(times_.begin(), times_.begin() + width_)));
    forget_oldest();
    const Ref answer(call_for("came_back", "LO", static_cast<long long>(at), times.get()));
    if (answer.get() == Py_None) return false;
    size_t place = 0;
    std::vector<Request*>* const lists[] = {&report.loaded, &report.discarded, &report.first_tokens,
                                            &report.unloadable, &report.released};
    each_item(answer.get(), [&](PyObject* list) { find_all(list, *lists[place++]); });
    for (Request* state : report.released) known_.erase(state->index);
    return true;
  }

  void passed_by(int64_t now) override {
    times_.insert(times_.end(), static_cast<size_t>(width_), now);
    forget_oldest();
  }

 private:
  Callee& callee_;
  const bool calls_back_, watches_prefills_;
  const int64_t width_;
  std::unordered_map<int64_t, Request*> known_;
  // What the connector and the workers said last, unless they were called since.
  bool is_stale_ = true, has_work_ = false;
  int64_t tells_nothing_until_ = 0, quiet_until_ = 0;
  // Of the steps in flight, oldest first.
  std::deque<int64_t> times_;

  template <class... Arguments>
  PyObject* call_for(const char* method, const char* format, Arguments... arguments) {
    is_stale_ = callee_.was_called = true;
    return PyObject_CallMethod(callee_.host, method, format, arguments...);
  }
  template <class... Arguments>
  void call(const char* method, const char* format, Arguments... arguments) {
    const Ref answer(call_for(method, format, arguments...));
  }

  static PyObject* none() {
    Py_INCREF(Py_None);
    return Py_None;
  }

  void stand() {
    if (!is_stale_) return;
    const Ref answer(PyObject_CallMethod(callee_.host, "stands_for_kv", nullptr));
    int64_t values[3] = {0, 0, 0};
    size_t place = 0;
    each_item(answer.get(), [&](PyObject* value) { values[place++] = to_int(value); });
    tells_nothing_until_ = values[0];
    quiet_until_ = values[1];
    has_work_ = values[2] != 0;
    is_stale_ = false;
  }

  void find_all(PyObject* indices, std::vector<Request*>& found) const {
    each_item(indices, [&](PyObject* index) { found.push_back(known_.at(to_int(index))); });
  }

  // The oldest step is back.
  void forget_oldest() { times_.erase(times_.begin(), times_.begin() + width_); }
};

}  // namespace penstock
