// `penstock._core.Lockstep`: groups of ranks in lock-step, driven by penstock/engine/native_lockstep.py.
#pragma once

#include <memory>
#include <vector>

#include "deployment.h"
#include "engine_type.h"

namespace penstock {

inline GroupCosts read_group_costs(PyObject* dict) {
  GroupCosts costs;
  const auto read_tables = [&](const char* name, std::vector<std::vector<int64_t>>& to) {
    each_item(entry(dict, name), [&](PyObject* one) { to.push_back(View<int64_t>(one).values()); });
  };
  each_item(entry(dict, "attentions"), [&](PyObject* one) { costs.attentions.push_back(read_attention(one)); });
  read_tables("layers", costs.layers);
  read_tables("graph", costs.graph);
  read_tables("own", costs.own);
  read_tables("routed", costs.routed);
  costs.dummy_ns = values_entry<int64_t>(dict, "dummy_ns");
  costs.padded = values_entry<int64_t>(dict, "padded");
  costs.head = values_entry<int64_t>(dict, "head");
  costs.mixed_extra = double_entry(dict, "mixed_extra");
  costs.exchange_ns = int_entry(dict, "exchange_ns");
  costs.beside_tokens = int_entry(dict, "beside_tokens");
  each_item(entry(dict, "beside"), [&](PyObject* stage) {
    std::vector<SharedBeside> kinds;
    each_item(stage, [&](PyObject* kind) {
      const Ref layers(PySequence_GetItem(kind, 0)), routed(PySequence_GetItem(kind, 1)),
          shared(PySequence_GetItem(kind, 2));
      kinds.push_back(SharedBeside{to_int(layers.get()), View<int64_t>(routed.get()).values(),
                                   View<int64_t>(shared.get()).values()});
    });
    costs.beside.push_back(std::move(kinds));
  });
  return costs;
}

// The costs of one group's forwards: from tables where they are tables, else Python is asked.
class AskedGroupCosts final : public GroupCostSource {
 public:
  GroupCosts tables;
  std::vector<Outside> outside;

  explicit AskedGroupCosts(PyObject* host) : host_(host) {}

  void set_tables(PyObject* dict) {
    if (dict == Py_None) return;
    tables = read_group_costs(dict);
    outside.resize(4 * tables.attentions.size());
  }

  int64_t forward_ns(const std::vector<Step*>& steps, int64_t* times) override {
    loads_.clear();
    for (const Step* step : steps) {
      if (step) loads_.push_back(&step->load);
    }
    const auto is_covered = [&](const Load* load) { return tables.cover(*load); };
    if (tables.empty() || !std::all_of(loads_.begin(), loads_.end(), is_covered)) {
      const int64_t padded = ask(steps, times);
      if (tables.empty()) return padded;
    }
    return tables.forward_ns(loads_, static_cast<int64_t>(steps.size() - loads_.size()), outside, times);
  }

 private:
  PyObject* host_;
  std::vector<const Load*> loads_;
  std::vector<int64_t> cells_;

  // forward_ns(loads): rows of a flag (0: a dummy batch) and a load; times and padding, or None: the tables have grown.
  int64_t ask(const std::vector<Step*>& steps, int64_t* times) {
    cells_.clear();
    for (const Step* step : steps) {
      const Load load = step ? step->load : Load();
      cells_.insert(cells_.end(), {step != nullptr, load.prefill_tokens, load.prefill_context, load.decodes,
                                   load.decode_context, load.min_context, load.max_context, load.sampled});
    }
    const Ref answer(PyObject_CallMethod(host_, "forward_ns", "N", to_bytes(cells_.data(), cells_.size())));
    if (answer.get() == Py_None) return 0;
    size_t stage = 0;
    const Ref per_stage(PySequence_GetItem(answer.get(), 0)), padded(PySequence_GetItem(answer.get(), 1));
    each_item(per_stage.get(), [&](PyObject* time) { times[stage++] = to_int(time); });
    return to_int(padded.get());
  }
};

// All groups of a run, and who acts next.
struct Lockstep {
  struct Group {
    AskedGroupCosts costs;
    std::unique_ptr<Deployment> deployment;

    explicit Group(PyObject* host) : costs(host) {}
  };

  Agenda agenda;
  std::vector<std::unique_ptr<Group>> groups;
  std::vector<EngineObject*> engines;  // held by Python as long as this
  EndedRows ended;
  int64_t next_arrival_ns = NEVER;  // of a workload that is being served

  // Let everybody act before then, or until a request has ended; a rank without progress, or nullptr.
  Rank* act_before(int64_t limit_ns, bool stops_on_end) {
    while (agenda.next_ns() < limit_ns) {
      Actor& actor = agenda.run_next(limit_ns);
      if (actor.phase != Phase::ENGINE) continue;
      Rank& rank = static_cast<Rank&>(actor);
      if (!rank.ended.empty()) ended.take(rank);
      if (rank.is_stuck) {
        rank.is_stuck = false;
        return &rank;
      }
      if (stops_on_end && !ended.empty()) break;
    }
    return nullptr;
  }

  void deliver_messages(int64_t now) {
    while (agenda.next_ns() <= now && agenda.next_is(Phase::MESSAGE)) agenda.run_next(now + 1);
  }

  int64_t place_of(const Rank* rank) const {
    for (size_t place = 0; rank && place < engines.size(); ++place) {
      if (engines[place]->replica == rank) return static_cast<int64_t>(place);
    }
    return -1;
  }
};

struct LockstepObject {
  PyObject_HEAD
  Lockstep* lockstep;
};

inline Lockstep& lockstep_of(PyObject* self) { return *reinterpret_cast<LockstepObject*>(self)->lockstep; }

// Lockstep()
inline PyObject* new_lockstep(PyTypeObject* type, PyObject*, PyObject*) {
  return guarded([&]() -> PyObject* {
    const auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    Ref self(allocate(type, 0));
    reinterpret_cast<LockstepObject*>(self.get())->lockstep = new Lockstep;
    return self.release();
  });
}

inline void free_lockstep(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<LockstepObject*>(self)->lockstep;
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

inline ParallelOptions read_parallel(PyObject* dict) {
  ParallelOptions options;
  options.size = int_entry(dict, "size");
  options.sync_interval = int_entry(dict, "sync_interval");
  options.sync_ns = int_entry(dict, "sync_ns");
  options.prefill_schedule_interval = int_entry(dict, "prefill_schedule_interval");
  options.front_ends = int_entry(dict, "front_ends");
  options.nodes = int_entry(dict, "nodes");
  options.stats_interval_ms = int_entry(dict, "stats_interval_ms");
  options.is_external = int_entry(dict, "is_external") != 0;
  options.is_0_19 = int_entry(dict, "is_0_19") != 0;
  options.front_end_to_engine_ns = int_entry(dict, "front_end_to_engine_ns");
  options.engine_to_front_end_ns = int_entry(dict, "engine_to_front_end_ns");
  options.front_end_to_coordinator_ns = int_entry(dict, "front_end_to_coordinator_ns");
  options.coordinator_to_front_end_ns = int_entry(dict, "coordinator_to_front_end_ns");
  options.engine_to_coordinator_ns = int_entry(dict, "engine_to_coordinator_ns");
  options.coordinator_to_engine_ns = int_entry(dict, "coordinator_to_engine_ns");
  return options;
}

// add_group(host, options, tables, costs, tail_ns): a group whose clocks are those of `costs` but for the stages, for
// which there are `tables`, or None: `host` is asked. The group's number.
inline PyObject* add_group(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    PyObject *host, *dict, *tables, *costs, *tails;
    if (!PyArg_ParseTuple(arguments, "OOOOO", &host, &dict, &tables, &costs, &tails)) return nullptr;
    Lockstep& all = lockstep_of(self);
    const Costs& clocks = **reinterpret_cast<CostsObject*>(costs)->costs;
    const ParallelOptions parallel = read_parallel(dict);
    const GroupOptions options{clocks.pp_size,
                               clocks.hops,
                               clocks.return_ns,
                               View<int64_t>(tails).values(),
                               int_entry(dict, "back_ns"),
                               parallel.sync_ns};
    const int64_t place = static_cast<int64_t>(all.groups.size());
    auto group = std::make_unique<Lockstep::Group>(host);
    group->costs.set_tables(tables);
    group->deployment = std::make_unique<Deployment>(all.agenda, parallel, options, group->costs, place);
    all.groups.push_back(std::move(group));
    return PyLong_FromLongLong(place);
  });
}

// replace(group, tables): they have grown.
inline PyObject* replace_group_costs(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    Py_ssize_t group;
    PyObject* tables;
    if (!PyArg_ParseTuple(arguments, "nO", &group, &tables)) return nullptr;
    lockstep_of(self).groups[static_cast<size_t>(group)]->costs.set_tables(tables);
    Py_RETURN_NONE;
  });
}

// seat(group, engine, host): an engine that has done nothing becomes the next rank of a group.
inline PyObject* seat(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    Py_ssize_t group;
    PyObject *engine, *host;
    if (!PyArg_ParseTuple(arguments, "nOO", &group, &engine, &host)) return nullptr;
    Lockstep& all = lockstep_of(self);
    Deployment& deployment = *all.groups[static_cast<size_t>(group)]->deployment;
    EngineObject* object = reinterpret_cast<EngineObject*>(engine);
    const std::unique_ptr<Replica> model(object->replica);
    object->replica = nullptr;
    object->replica =
        new Rank(*model, *object->host, all.agenda, deployment.group, deployment.options, deployment);
    object->host->host = host;
    object->host->before_flush = [&all, object]() { all.ended.take(*object->replica); };
    all.engines.push_back(object);
    Py_RETURN_NONE;
  });
}

// route(group, front_end, rank, now_ns, index, arrival_ns, input_tokens, output_tokens, priority, input_ids,
// output_ids): a request comes to a front-end (-1: the next) and names a rank (-1: none); the rank that it is sent to.
inline PyObject* route(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    long long group, front_end, rank, now, index, arrival_ns, input_tokens, output_tokens, priority;
    PyObject *input_ids, *output_ids;
    if (!PyArg_ParseTuple(arguments, "LLLLLLLLLOO", &group, &front_end, &rank, &now, &index, &arrival_ns,
                          &input_tokens, &output_tokens, &priority, &input_ids, &output_ids)) {
      return nullptr;
    }
    const View<int32_t> input(input_ids), output(output_ids);
    Deployment& deployment = *lockstep_of(self).groups[static_cast<size_t>(group)]->deployment;
    const size_t chooser = front_end < 0 ? deployment.choose_front_end(rank) : static_cast<size_t>(front_end);
    const size_t chosen = deployment.choose_rank(now, chooser, rank);
    Replica& replica = *deployment.group.ranks[chosen];
    Request* state = make_request(replica, index, arrival_ns, now, input_tokens, output_tokens, priority);
    if (input_ids != Py_None) {
      replica.scheduler->kv.make_keys(*state, input.data(), output.data(), static_cast<int64_t>(output.size()));
    }
    deployment.send(now, chooser, chosen, state);
    return PyLong_FromSize_t(chosen);
  });
}

// run_until(limit_ns, stops_on_end): let everybody act before then, or until a request has ended. The place, in the
// order of seats, of a rank without progress, or -1.
inline PyObject* run_lockstep(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    long long limit_ns;
    int stops_on_end;
    if (!PyArg_ParseTuple(arguments, "Lp", &limit_ns, &stops_on_end)) return nullptr;
    Lockstep& all = lockstep_of(self);
    for (EngineObject* object : all.engines) object->replica->stops_on_end = stops_on_end != 0;
    return PyLong_FromLongLong(all.place_of(all.act_before(limit_ns, stops_on_end != 0)));
  });
}

// serve(indices, arrival_ns, input_tokens, output_tokens): requests without ids and priorities come to the front-ends
// of the first group, and all are let act up to the last arrival. Returns as run_until.
inline PyObject* serve_group(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    PyObject *indices, *arrivals, *inputs, *outputs;
    if (!PyArg_ParseTuple(arguments, "OOOO", &indices, &arrivals, &inputs, &outputs)) return nullptr;
    const View<int64_t> index(indices), arrival(arrivals), input(inputs), output(outputs);
    Lockstep& all = lockstep_of(self);
    Deployment& deployment = *all.groups.front()->deployment;
    Rank* stuck = nullptr;
    for (size_t place = 0; place < index.size(); ++place) {
      const int64_t now = all.next_arrival_ns = arrival.data()[place];
      stuck = all.act_before(now, false);
      if (stuck) break;
      all.deliver_messages(now);
      const size_t front_end = deployment.choose_front_end(NOBODY);
      const size_t rank = deployment.choose_rank(now, front_end, NOBODY);
      deployment.send(now, front_end, rank,
                      make_request(*deployment.group.ranks[rank], index.data()[place], now, now, input.data()[place],
                                   output.data()[place], 0));
      all.deliver_messages(now);
    }
    all.next_arrival_ns = NEVER;
    return PyLong_FromLongLong(all.place_of(stuck));
  });
}

// next_arrival_ns(): of a workload that is being served, or None.
inline PyObject* next_arrival_of_lockstep(PyObject* self, PyObject*) {
  const int64_t at = lockstep_of(self).next_arrival_ns;
  if (at == NEVER) Py_RETURN_NONE;
  return PyLong_FromLongLong(at);
}

// deliver_messages(now_ns): what arrives at one instant arrives before what happens then.
inline PyObject* deliver_messages(PyObject* self, PyObject* at) {
  return guarded([&]() -> PyObject* {
    lockstep_of(self).deliver_messages(to_int(at));
    Py_RETURN_NONE;
  });
}

// next_ns(): when somebody acts next, or None.
inline PyObject* next_of_lockstep(PyObject* self, PyObject*) {
  const int64_t at = lockstep_of(self).agenda.next_ns();
  if (at == NEVER) Py_RETURN_NONE;
  return PyLong_FromLongLong(at);
}

// take_ended(): who has finished since the last call, of all ranks in the order in which they acted: rows and slices of
// token times, as an engine's; None if nobody has.
inline PyObject* take_ended_of_ranks(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    Lockstep& all = lockstep_of(self);
    if (all.ended.empty()) Py_RETURN_NONE;
    EndedRows found;
    std::swap(found, all.ended);
    return Py_BuildValue("NN", to_bytes(found.rows.data(), found.rows.size()),
                         to_bytes(found.segments.data(), found.segments.size()));
  });
}

// group_totals(group): forwards, tokens of padding, and how long others waited for each rank.
inline PyObject* group_totals(PyObject* self, PyObject* group) {
  return guarded([&]() -> PyObject* {
    const LockstepGroup& of = lockstep_of(self).groups[static_cast<size_t>(to_int(group))]->deployment->group;
    std::vector<int64_t> values{of.forwards, of.padding_tokens};
    values.insert(values.end(), of.waited_for_ns.begin(), of.waited_for_ns.end());
    return to_tuple(values);
  });
}

// dummies(group): how many dummy batches each rank ran.
inline PyObject* dummies_of_group(PyObject* self, PyObject* group) {
  return guarded([&]() -> PyObject* {
    std::vector<int64_t> values;
    const Lockstep& all = lockstep_of(self);
    for (const Rank* rank : all.groups[static_cast<size_t>(to_int(group))]->deployment->group.ranks) {
      values.push_back(rank->dummies);
    }
    return to_tuple(values);
  });
}

// take_outside(group): lookups beyond the tables since the last call, count and furthest of each attention's axes.
inline PyObject* take_outside_of_group(PyObject* self, PyObject* group) {
  return guarded([&]() -> PyObject* {
    std::vector<int64_t> found;
    for (Outside& axis : lockstep_of(self).groups[static_cast<size_t>(to_int(group))]->costs.outside) {
      found.push_back(axis.count);
      found.push_back(axis.furthest);
      axis = Outside();
    }
    return to_tuple(found);
  });
}

inline PyMethodDef LOCKSTEP_METHODS[] = {
    {"add_group", add_group, METH_VARARGS, nullptr},
    {"replace", replace_group_costs, METH_VARARGS, nullptr},
    {"seat", seat, METH_VARARGS, nullptr},
    {"route", route, METH_VARARGS, nullptr},
    {"run_until", run_lockstep, METH_VARARGS, nullptr},
    {"serve", serve_group, METH_VARARGS, nullptr},
    {"next_arrival_ns", next_arrival_of_lockstep, METH_NOARGS, nullptr},
    {"deliver_messages", deliver_messages, METH_O, nullptr},
    {"next_ns", next_of_lockstep, METH_NOARGS, nullptr},
    {"take_ended", take_ended_of_ranks, METH_NOARGS, nullptr},
    {"group_totals", group_totals, METH_O, nullptr},
    {"dummies", dummies_of_group, METH_O, nullptr},
    {"take_outside", take_outside_of_group, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

inline const TypeParts LOCKSTEP_TYPE = {"penstock._core.Lockstep", sizeof(LockstepObject), new_lockstep, free_lockstep,
                                        LOCKSTEP_METHODS};

}  // namespace penstock
