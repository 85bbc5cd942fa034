// `penstock._core.serve_fleet`: a workload through instances behind a router, for penstock/engine/native_fleet.py.
#pragma once

#include <memory>
#include <vector>

#include "engine_type.h"
#include "fleet.h"

namespace penstock {

// The engines of a fleet while it is served: who has left is handed over in the order in which instances acted.
class ServedFleet {
 public:
  Fleet fleet;

  ServedFleet(PyObject* engines, PyObject* hosts, PyObject* hand_over) : hand_over_(hand_over) {
    each_item(engines, [&](PyObject* engine) {
      EngineObject* object = reinterpret_cast<EngineObject*>(engine);
      object->replica->stops_on_end = false;
      objects_.push_back(object);
      fleet.replicas.push_back(object->replica);
    });
    size_t place = 0;
    each_item(hosts, [&](PyObject* host) { bind(*objects_[place++], host); });
  }
  ServedFleet(const ServedFleet&) = delete;
  ServedFleet& operator=(const ServedFleet&) = delete;
  ~ServedFleet() {
    for (EngineObject* object : objects_) {
      object->host->host = nullptr;
      object->host->before_flush = nullptr;
    }
  }

  // Everybody acts up to there; the number of an instance without progress, or -1.
  int64_t act_before(int64_t limit_ns) {
    limit_ns_ = limit_ns;
    return fleet.act_before(limit_ns, [&](Replica& one) { ended_.take(one); });
  }

  void hand_over() {
    EndedRows rows;
    std::swap(rows, ended_);
    const Ref done(PyObject_CallFunction(hand_over_, "NNL", to_bytes(rows.rows.data(), rows.rows.size()),
                                         to_bytes(rows.segments.data(), rows.segments.size()),
                                         static_cast<long long>(limit_ns_)));
  }

 private:
  PyObject* hand_over_;
  std::vector<EngineObject*> objects_;
  EndedRows ended_;
  int64_t limit_ns_ = 0;

  void bind(EngineObject& object, PyObject* host) {
    object.host->host = host;
    object.host->before_flush = [this, &object]() {
      ended_.take(*object.replica);
      hand_over();
    };
  }
};

// serve_fleet(engines, hosts, hand_over, kind, indices, arrival_ns, way_in_ns, input_tokens, output_tokens, first, second,
// deliver): serve requests up to the last arrival. `hand_over(rows, segments, limit_ns)` takes who has left, and before
// when nobody further comes. `deliver(instance, place)`, if not None, sends a request that has more than its lengths.
// The number of an instance that makes no progress, or -1.
inline PyObject* serve_fleet(PyObject*, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    PyObject *engines, *hosts, *hand_over, *indices, *arrivals, *ways_in, *inputs, *outputs, *firsts, *seconds,
        *deliver;
    long long kind;
    if (!PyArg_ParseTuple(arguments, "OOOLOOOOOOOO", &engines, &hosts, &hand_over, &kind, &indices, &arrivals, &ways_in,
                          &inputs, &outputs, &firsts, &seconds, &deliver)) {
      return nullptr;
    }
    const View<int64_t> index(indices), arrival(arrivals), way_in(ways_in), input(inputs), output(outputs),
        first(firsts), second(seconds);
    ServedFleet served(engines, hosts, hand_over);
    Fleet& fleet = served.fleet;
    fleet.kind = static_cast<RouterKind>(kind);
    fleet.begin();
    int64_t stuck = -1;
    for (size_t place = 0; place < index.size() && stuck < 0; ++place) {
      const int64_t arrival_ns = arrival.data()[place];
      stuck = served.act_before(arrival_ns);
      if (stuck >= 0) break;
      const size_t chosen = fleet.choose(first.size() ? first.data()[place] : 0,
                                         second.size() ? second.data()[place] : 0);
      if (deliver != Py_None) {
        const Ref done(PyObject_CallFunction(deliver, "nn", static_cast<Py_ssize_t>(chosen),
                                             static_cast<Py_ssize_t>(place)));
      } else {
        Replica& one = *fleet.replicas[chosen];
        one.deliver(make_request(one, index.data()[place], arrival_ns, arrival_ns + way_in.data()[chosen],
                                 input.data()[place], output.data()[place], 0));
      }
      fleet.moved(chosen);
    }
    served.hand_over();
    return PyLong_FromLongLong(stuck);
  });
}

}  // namespace penstock
