// `penstock._core.Engine`: one instance, driven by penstock/engine/native_replica.py.
#pragma once

#include <functional>

#include "costs_type.h"
#include "python.h"
#include "python_connector.h"
#include "replica.h"

namespace penstock {

class PythonHost final : public Host, public Callee {
 public:
  std::unique_ptr<PythonConnector> connector;
  std::function<void()> before_flush;  // of a fleet: others have ended requests before

  void stage_ns(const Load& load, int64_t* times) override {
    const Ref answer(PyObject_CallMethod(
        host, "stage_ns", "LLLLLLL", static_cast<long long>(load.prefill_tokens),
        static_cast<long long>(load.prefill_context), static_cast<long long>(load.decodes),
        static_cast<long long>(load.decode_context), static_cast<long long>(load.min_context),
        static_cast<long long>(load.max_context), static_cast<long long>(load.sampled)));
    if (answer.get() == Py_None) return;  // the tables have grown instead
    size_t stage = 0;
    each_item(answer.get(), [&](PyObject* time) { times[stage++] = to_int(time); });
  }

  void turns_done() override {
    if (before_flush) before_flush();
    const Ref answer(PyObject_CallMethod(host, "flush", nullptr));
  }

  void ended() override {
    was_called = true;
    const Ref answer(PyObject_CallMethod(host, "hand_over", nullptr));
  }

  int64_t limit_ns() override {
    if (!was_called) return NEVER;
    was_called = false;
    const Ref agenda(PyObject_GetAttrString(host, "agenda"));
    const Ref limit(PyObject_GetAttrString(agenda.get(), "limit_ns"));
    return to_int(limit.get());
  }
};

struct EngineObject {
  PyObject_HEAD
  PythonHost* host;
  Replica* replica;
};

inline Replica& replica_of(PyObject* self) { return *reinterpret_cast<EngineObject*>(self)->replica; }

inline SchedulerOptions read_options(PyObject* dict) {
  SchedulerOptions options;
  options.max_num_seqs = int_entry(dict, "max_num_seqs");
  options.max_num_batched_tokens = int_entry(dict, "max_num_batched_tokens");
  options.max_model_len = int_entry(dict, "max_model_len");
  options.block_size = int_entry(dict, "block_size");
  options.threshold = int_entry(dict, "long_prefill_token_threshold");
  options.max_in_flight = int_entry(dict, "max_in_flight");
  options.num_gpu_blocks = int_entry(dict, "num_gpu_blocks");
  options.watermark_blocks = int_entry(dict, "watermark_blocks");
  options.calls_between = int_entry(dict, "calls_between");
  options.eligible_after = int_entry(dict, "eligible_after");
  options.chunked_prefill = int_entry(dict, "enable_chunked_prefill") != 0;
  options.prefix_caching = int_entry(dict, "enable_prefix_caching") != 0;
  options.reserve_full_isl = int_entry(dict, "reserve_full_isl") != 0;
  options.by_priority = int_entry(dict, "by_priority") != 0;
  options.keep_token_times = int_entry(dict, "keep_token_times") != 0;
  options.exact_only = int_entry(dict, "exact_only") != 0;
  return options;
}

inline Policy read_policy(PyObject* dict) {
  Policy policy;
  policy.kind = static_cast<PolicyKind>(int_entry(dict, "policy"));
  policy.pp_size = int_entry(dict, "pp_size");
  policy.cap = int_entry(dict, "cap");
  policy.iterations = int_entry(dict, "iterations");
  policy.min_prefill = int_entry(dict, "min_prefill");
  policy.max_prefill = int_entry(dict, "max_prefill");
  policy.slots = int_entry(dict, "slots");
  policy.micro_batch = int_entry(dict, "micro_batch");
  policy.chunks.linear_ns = double_entry(dict, "linear_ns");
  policy.chunks.quadratic_ns = double_entry(dict, "quadratic_ns");
  policy.chunks.smoothing = double_entry(dict, "smoothing");
  policy.chunks.smallest_share = double_entry(dict, "smallest_share");
  policy.chunks.first = int_entry(dict, "first_chunk");
  return policy;
}

inline EngineOptions read_engine(PyObject* dict) {
  EngineOptions options;
  options.index = int_entry(dict, "index");
  options.idle_sleep_ns = int_entry(dict, "engine_idle_sleep_ns");
  options.schedule_ns = int_entry(dict, "schedule_ns");
  options.update_ns = int_entry(dict, "update_ns");
  options.to_first_stage_ns = int_entry(dict, "to_first_stage_ns");
  options.from_last_stage_ns = int_entry(dict, "from_last_stage_ns");
  options.watchdog_turns = int_entry(dict, "watchdog_turns");
  options.blocking_sends = int_entry(dict, "blocking_sends") != 0;
  options.keeps_turns = int_entry(dict, "keeps_turns") != 0;
  options.naps = int_entry(dict, "naps") != 0;
  return options;
}

// The connector, if there is one.
inline std::unique_ptr<PythonConnector> read_connector(Callee& callee, PyObject* dict) {
  if (!int_entry(dict, "connected")) return nullptr;
  ConnectorOptions options;
  options.writes_blocks = int_entry(dict, "writes_blocks") != 0;
  options.must_deliver = int_entry(dict, "must_deliver") != 0;
  options.calls_back = int_entry(dict, "calls_back") != 0;
  options.watches_prefills = int_entry(dict, "watches_prefills") != 0;
  return std::make_unique<PythonConnector>(callee, options, int_entry(dict, "pp_size"));
}

// Engine(costs, options)
inline PyObject* new_engine(PyTypeObject* type, PyObject* arguments, PyObject*) {
  return guarded([&]() -> PyObject* {
    PyObject *costs, *dict;
    if (!PyArg_ParseTuple(arguments, "OO", &costs, &dict)) return nullptr;
    const SchedulerOptions options = read_options(dict);
    const Policy policy = read_policy(dict);
    const EngineOptions engine = read_engine(dict);
    const int64_t way = int_entry(dict, "scheduler");
    auto host = std::make_unique<PythonHost>();
    host->connector = read_connector(*host, dict);
    Connector* const connector = host->connector.get();
    std::unique_ptr<Scheduler> scheduler;
    if (way == 0) scheduler = std::make_unique<Scheduler>(options, policy, connector);
    else if (way == 1) scheduler = std::make_unique<AsyncScheduler>(options, policy);
    else scheduler = std::make_unique<EachScheduler>(options, policy, connector);
    const auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    Ref self(allocate(type, 0));
    EngineObject* object = reinterpret_cast<EngineObject*>(self.get());
    object->host = host.release();
    object->replica = new Replica(std::move(scheduler), *reinterpret_cast<CostsObject*>(costs)->costs, engine,
                                  *object->host);
    return self.release();
  });
}

inline void free_engine(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  EngineObject* object = reinterpret_cast<EngineObject*>(self);
  delete object->replica;
  delete object->host;
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

inline Request* make_request(Replica& replica, int64_t index, int64_t arrival_ns, int64_t arrived_ns,
                             int64_t input_tokens, int64_t output_tokens, int64_t priority) {
  Request* state = replica.new_request();
  state->index = index;
  state->arrival_ns = arrival_ns;
  state->arrived_ns = arrived_ns;
  state->input_tokens = state->num_tokens = input_tokens;
  state->output_tokens = output_tokens;
  state->priority = priority;
  state->final_tokens =
      std::min(input_tokens + output_tokens, replica.scheduler->options.max_model_len);
  return state;
}

// deliver(index, arrival_ns, arrived_ns, input_tokens, output_tokens, priority, input_ids, output_ids, by)
inline PyObject* deliver(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    long long index, arrival_ns, arrived_ns, input_tokens, output_tokens, priority, by = -1;
    PyObject *input_ids, *output_ids;
    if (!PyArg_ParseTuple(arguments, "LLLLLLOO|L", &index, &arrival_ns, &arrived_ns, &input_tokens,
                          &output_tokens, &priority, &input_ids, &output_ids, &by)) {
      return nullptr;
    }
    const View<int32_t> input(input_ids), output(output_ids);
    Replica& replica = replica_of(self);
    Request* state =
        make_request(replica, index, arrival_ns, arrived_ns, input_tokens, output_tokens, priority);
    if (input_ids != Py_None) {
      replica.scheduler->kv.make_keys(*state, input.data(), output.data(),
                                      static_cast<int64_t>(output.size()));
    }
    replica.deliver(state, by);
    Py_RETURN_NONE;
  });
}

// deliver_all(indices, arrival_ns, way_in_ns, input_tokens, output_tokens): requests without ids and priorities.
inline PyObject* deliver_all(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    PyObject *indices, *arrivals, *inputs, *outputs;
    long long way_in_ns;
    if (!PyArg_ParseTuple(arguments, "OOLOO", &indices, &arrivals, &way_in_ns, &inputs, &outputs)) {
      return nullptr;
    }
    const View<int64_t> index(indices), arrival(arrivals), input(inputs), output(outputs);
    Replica& replica = replica_of(self);
    for (size_t place = 0; place < index.size(); ++place) {
      const int64_t arrival_ns = arrival.data()[place];
      replica.deliver(make_request(replica, index.data()[place], arrival_ns, arrival_ns + way_in_ns,
                                   input.data()[place], output.data()[place], 0));
    }
    Py_RETURN_NONE;
  });
}

// run_until(host, limit_ns, stops_on_end): when it acts next, -1 if it does not, -2 if there is no progress.
inline PyObject* run_until(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    PyObject* host;
    long long limit_ns;
    int stops_on_end;
    if (!PyArg_ParseTuple(arguments, "OLp", &host, &limit_ns, &stops_on_end)) return nullptr;
    EngineObject* object = reinterpret_cast<EngineObject*>(self);
    object->host->host = host;
    object->host->was_called = false;
    object->replica->stops_on_end = stops_on_end != 0;
    const Stopped stopped = object->replica->run_until(limit_ns);
    object->host->host = nullptr;
    if (stopped == Stopped::WITHOUT_PROGRESS) return PyLong_FromLong(-2);
    const int64_t next_ns = object->replica->next_ns;
    return PyLong_FromLongLong(next_ns == NEVER ? -1 : next_ns);
  });
}

// Columns of take_ended(): REQUEST_COLUMNS of penstock/recording/records.py; of the slices of token times (row, column,
// from, to); and of those aborted (request, generated tokens, when).
constexpr size_t ENDED_COLUMNS = 10, SEGMENT_COLUMNS = 4, ABORTED_COLUMNS = 3;

template <size_t columns>
void add_row(std::vector<int64_t>& rows, const int64_t (&values)[columns]) {
  rows.insert(rows.end(), values, values + columns);
}

// Requests that have left, as Python gets them.
struct EndedRows {
  std::vector<int64_t> rows, segments, aborted;

  bool empty() const { return rows.empty() && aborted.empty(); }

  void take(Replica& replica) {
    for (const Ended& one : replica.ended) {
      Request* state = one.state;
      const int64_t generated = state->num_tokens - state->input_tokens;
      if (state->is_aborted) {
        const int64_t values[ABORTED_COLUMNS] = {state->index, generated, one.at_ns};
        add_row(aborted, values);
      } else {
        const int64_t row = static_cast<int64_t>(rows.size() / ENDED_COLUMNS);
        for (const Segment& segment : state->segments) {
          const int64_t slice[SEGMENT_COLUMNS] = {row, segment.times, segment.start, segment.stop};
          add_row(segments, slice);
        }
        const int64_t values[ENDED_COLUMNS] = {state->index,        replica.options.index,
                                               state->input_tokens, generated,
                                               state->arrival_ns,   state->first_scheduled_ns,
                                               state->first_token_ns, one.at_ns,
                                               state->preemptions,  state->cached_tokens};
        add_row(rows, values);
      }
      replica.let_go_of(state);
    }
    replica.ended.clear();
    replica.rest();
  }
};

// take_ended(): the requests that left since the last call, in rows; None if there are none.
inline PyObject* take_ended(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    Replica& replica = replica_of(self);
    if (replica.ended.empty()) Py_RETURN_NONE;
    EndedRows found;
    found.take(replica);
    return Py_BuildValue("NNN", to_bytes(found.rows.data(), found.rows.size()),
                         to_bytes(found.segments.data(), found.segments.size()),
                         to_bytes(found.aborted.data(), found.aborted.size()));
  });
}

// take_left(): the same, each a tuple: its number, generated tokens, when it left, how (see outcome_of()), when it was
// first scheduled and had its first token (-1: never), preemptions, cached tokens, and the slices of its token times,
// three numbers each.
inline PyObject* take_left(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    Replica& replica = replica_of(self);
    Ref list(PyList_New(0));
    std::vector<int64_t> values;
    for (const Ended& one : replica.ended) {
      Request* state = one.state;
      values = {state->index,           state->num_tokens - state->input_tokens,
                one.at_ns,              outcome_of(*state),
                state->first_scheduled_ns, state->first_token_ns,
                state->preemptions,     state->cached_tokens};
      for (const Segment& segment : state->segments) {
        values.insert(values.end(), {segment.times, segment.start, segment.stop});
      }
      const Ref left(to_tuple(values));
      if (PyList_Append(list.get(), left.get()) < 0) throw PythonError();
      replica.let_go_of(state);
    }
    replica.ended.clear();
    replica.rest();
    return list.release();
  });
}

// token_times(column, start, stop)
inline PyObject* token_times(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    long long column, start, stop;
    if (!PyArg_ParseTuple(arguments, "LLL", &column, &start, &stop)) return nullptr;
    const std::vector<int64_t>& times = replica_of(self).scheduler->times[column];
    return to_bytes(times.data() + start, static_cast<size_t>(stop - start));
  });
}

// take_turns(): the first of the complete turns' number, and their cells; None where there are none.
inline PyObject* take_turns(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    TurnLog& log = replica_of(self).log;
    if (!log.complete()) Py_RETURN_NONE;
    const int64_t first = log.handed_on();
    Ref cells(PyByteArray_FromStringAndSize(
        reinterpret_cast<const char*>(log.cells()),
        static_cast<Py_ssize_t>(log.complete() * log.width * static_cast<int64_t>(sizeof(int64_t)))));
    log.drop();
    return Py_BuildValue("LN", static_cast<long long>(first), cells.release());
  });
}

// stands(): next_ns (-1: never), now_ns, running, waiting, not taken in yet, outstanding tokens, steps in the queue.
inline PyObject* stands(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    const Replica& replica = replica_of(self);
    const Scheduler& scheduler = *replica.scheduler;
    return to_tuple({replica.next_ns == NEVER ? -1 : replica.next_ns, replica.now_ns, scheduler.running.size(),
                     scheduler.count_waiting(), static_cast<int64_t>(replica.inbox.size()),
                     replica.outstanding_tokens, static_cast<int64_t>(replica.queue_length())});
  });
}

// open_since_ns(): when the oldest turn was scheduled that take_turns() has not given.
inline PyObject* open_since_ns(PyObject* self, PyObject*) {
  return PyLong_FromLongLong(replica_of(self).log.open_since_ns());
}

// next_ns(): when it acts next, or None.
inline PyObject* next_ns(PyObject* self, PyObject*) {
  const int64_t at = replica_of(self).next_ns;
  if (at == NEVER) Py_RETURN_NONE;
  return PyLong_FromLongLong(at);
}

// totals(): the counters in the order in which penstock/engine/native_replica.py names them.
inline PyObject* totals(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    const Replica& replica = replica_of(self);
    const Scheduler& scheduler = *replica.scheduler;
    return to_tuple({replica.log.iterations, replica.log.empty_schedules, replica.log.prompt_tokens,
                     replica.log.generated_tokens, replica.idle_sleeps, replica.turns, scheduler.preemptions,
                     scheduler.cohort_turns, scheduler.exact_turns, scheduler.kv.free});
  });
}

inline PyObject* busy_ns(PyObject* self, PyObject*) {
  return guarded([&]() { return to_tuple(replica_of(self).log.busy_ns); });
}

inline PyObject* stage_free_ns(PyObject* self, PyObject*) {
  return guarded([&]() { return to_tuple(replica_of(self).stage_free_ns); });
}

// token_gaps(): pairs (gap_ns, how many).
inline PyObject* token_gaps(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    const auto& gaps = replica_of(self).scheduler->token_gaps;
    size_t count = 0;
    gaps.each_piece([&](const Gap*, size_t used) { count += used; });
    Ref pairs(PyByteArray_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(count * sizeof(Gap))));
    char* to = PyByteArray_AsString(pairs.get());
    gaps.each_piece([&](const Gap* from, size_t used) {
      if (used) std::memcpy(to, from, used * sizeof(Gap));
      to += used * sizeof(Gap);
    });
    return pairs.release();
  });
}

inline PyObject* forget_gaps(PyObject* self, PyObject*) {
  replica_of(self).scheduler->token_gaps.clear();
  Py_RETURN_NONE;
}

// take_outside(): lookups beyond the tables since the last call, count and furthest of each axis.
inline PyObject* take_outside(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    std::vector<int64_t> found;
    for (Outside& axis : replica_of(self).outside) {
      found.push_back(axis.count);
      found.push_back(axis.furthest);
      axis = Outside();
    }
    return to_tuple(found);
  });
}

// first_in_line(): index and tokens of who is tried first at the next schedule().
inline PyObject* first_in_line(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    const Request* first = replica_of(self).scheduler->first_in_line();
    return to_tuple({first->index, first->num_tokens});
  });
}

// expect(at_ns, by): something happens then that concerns an engine that naps; whether it does.
inline PyObject* expect(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    long long at_ns, by;
    if (!PyArg_ParseTuple(arguments, "LL", &at_ns, &by)) return nullptr;
    EngineObject* object = reinterpret_cast<EngineObject*>(self);
    Replica& replica = *object->replica;
    if (object->host->connector) object->host->connector->touch();
    replica.expect(at_ns, by);
    return PyBool_FromLong(replica.is_napping());
  });
}

// catch_up(host, now_ns): take the turns before that which were left out.
inline PyObject* catch_up(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    PyObject* host;
    long long now_ns;
    if (!PyArg_ParseTuple(arguments, "OL", &host, &now_ns)) return nullptr;
    EngineObject* object = reinterpret_cast<EngineObject*>(self);
    PyObject* const before = object->host->host;
    object->host->host = host;
    object->replica->catch_up(now_ns);
    object->host->host = before;
    Py_RETURN_NONE;
  });
}

// room_to_keep(tokens_each): in blocks.
inline PyObject* room_to_keep(PyObject* self, PyObject* tokens_each) {
  return guarded([&]() -> PyObject* {
    return PyLong_FromLongLong(replica_of(self).scheduler->room_to_keep(to_int(tokens_each)));
  });
}

// returned(): how many steps have come back.
inline PyObject* returned(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* { return PyLong_FromLongLong(replica_of(self).scheduler->returned); });
}

// prompts(): whether there are requests, the engine has nothing to do by itself, whether one of them can be tried, what
// time it is, and before when no step that samples is back.
inline PyObject* prompts(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    const Replica& replica = replica_of(self);
    const Scheduler& scheduler = *replica.scheduler;
    const bool has_any = !scheduler.running.empty() || scheduler.count_waiting() || !replica.inbox.empty();
    return to_tuple({has_any, replica.is_idle(), !scheduler.waiting.empty(), replica.now_ns,
                     replica.earliest_sample_ns()});
  });
}

// abort(index, now_ns): the client of a request leaves; False if it is not here.
inline PyObject* abort_request(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    long long index, now;
    if (!PyArg_ParseTuple(arguments, "LL", &index, &now)) return nullptr;
    Replica& replica = replica_of(self);
    Request* state = replica.find(index);
    if (!state) Py_RETURN_FALSE;
    replica.abort(state, now);
    Py_RETURN_TRUE;
  });
}

inline PyMethodDef ENGINE_METHODS[] = {
    {"deliver", deliver, METH_VARARGS, nullptr},
    {"deliver_all", deliver_all, METH_VARARGS, nullptr},
    {"run_until", run_until, METH_VARARGS, nullptr},
    {"take_ended", take_ended, METH_NOARGS, nullptr},
    {"take_left", take_left, METH_NOARGS, nullptr},
    {"token_times", token_times, METH_VARARGS, nullptr},
    {"take_turns", take_turns, METH_NOARGS, nullptr},
    {"stands", stands, METH_NOARGS, nullptr},
    {"next_ns", next_ns, METH_NOARGS, nullptr},
    {"open_since_ns", open_since_ns, METH_NOARGS, nullptr},
    {"totals", totals, METH_NOARGS, nullptr},
    {"busy_ns", busy_ns, METH_NOARGS, nullptr},
    {"stage_free_ns", stage_free_ns, METH_NOARGS, nullptr},
    {"token_gaps", token_gaps, METH_NOARGS, nullptr},
    {"forget_gaps", forget_gaps, METH_NOARGS, nullptr},
    {"take_outside", take_outside, METH_NOARGS, nullptr},
    {"first_in_line", first_in_line, METH_NOARGS, nullptr},
    {"abort", abort_request, METH_VARARGS, nullptr},
    {"expect", expect, METH_VARARGS, nullptr},
    {"catch_up", catch_up, METH_VARARGS, nullptr},
    {"room_to_keep", room_to_keep, METH_O, nullptr},
    {"returned", returned, METH_NOARGS, nullptr},
    {"prompts", prompts, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

inline const TypeParts ENGINE_TYPE = {"penstock._core.Engine", sizeof(EngineObject), new_engine, free_engine,
                                      ENGINE_METHODS};

}  // namespace penstock
