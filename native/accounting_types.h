// `penstock._core.Splitter` and `penstock._core.spread`: for penstock/accounting/.
#pragma once

#include "python.h"
#include "splitter.h"

namespace penstock {

struct SplitterObject {
  PyObject_HEAD
  Splitter* splitter;
};

inline Splitter& splitter_of(PyObject* self) { return *reinterpret_cast<SplitterObject*>(self)->splitter; }

// Splitter(pp_size, blocking_sends)
inline PyObject* new_splitter(PyTypeObject* type, PyObject* arguments, PyObject*) {
  return guarded([&]() -> PyObject* {
    Py_ssize_t pp_size;
    int blocking_sends;
    if (!PyArg_ParseTuple(arguments, "np", &pp_size, &blocking_sends)) return nullptr;
    const auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    Ref self(allocate(type, 0));
    reinterpret_cast<SplitterObject*>(self.get())->splitter =
        new Splitter(static_cast<size_t>(pp_size), blocking_sends != 0);
    return self.release();
  });
}

inline void free_splitter(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<SplitterObject*>(self)->splitter;
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

// accept(rows): turns, of all columns.
inline PyObject* accept_turns(PyObject* self, PyObject* rows) {
  return guarded([&]() -> PyObject* {
    const View<int64_t> cells(rows);
    Splitter& splitter = splitter_of(self);
    splitter.accept(cells.data(), cells.size() / (static_cast<size_t>(TURN_COLUMNS) + 3 * splitter.pp_size));
    Py_RETURN_NONE;
  });
}

inline PyObject* ns_so_far(PyObject* self, PyObject*) {
  return guarded([&]() -> PyObject* {
    const std::vector<int64_t> ns = splitter_of(self).so_far();
    return to_bytes(ns.data(), ns.size());
  });
}

// finish(window_start_ns, window_end_ns): ns by stage and cause, or, where the window does not cover it, from when to
// when the instance was at work.
inline PyObject* finish_window(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    long long start, end;
    if (!PyArg_ParseTuple(arguments, "LL", &start, &end)) return nullptr;
    Splitter& splitter = splitter_of(self);
    if (!splitter.finish(start, end)) return to_tuple({splitter.begin_ns(), splitter.latest_schedule_ns()});
    return to_bytes(splitter.ns().data(), splitter.ns().size());
  });
}

inline PyMethodDef SPLITTER_METHODS[] = {
    {"accept", accept_turns, METH_O, nullptr},
    {"so_far", ns_so_far, METH_NOARGS, nullptr},
    {"finish", finish_window, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

inline const TypeParts SPLITTER_TYPE = {"penstock._core.Splitter", sizeof(SplitterObject), new_splitter, free_splitter,
                                        SPLITTER_METHODS};

// Count the ns of a span [begin, end) in the intervals in which they lie; both from the first one's beginning.
inline void count_span(int64_t* ns, int64_t begin, int64_t end, int64_t interval_ns) {
  for (int64_t interval = begin / interval_ns; begin < end; ++interval) {
    const int64_t edge = std::min(end, (interval + 1) * interval_ns);
    ns[interval] += edge - begin;
    begin = edge;
  }
}

// spread(ns, begin_ns, end_ns, origin_ns, interval_ns): count the ns of the spans in the intervals.
inline PyObject* spread(PyObject*, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    PyObject *counts, *begins, *ends;
    long long origin, interval_ns;
    if (!PyArg_ParseTuple(arguments, "OOOLL", &counts, &begins, &ends, &origin, &interval_ns)) return nullptr;
    const View<int64_t> to(counts), from(begins), until(ends);
    int64_t* ns = const_cast<int64_t*>(to.data());
    for (size_t span = 0; span < from.size(); ++span) {
      count_span(ns, from.data()[span] - origin, until.data()[span] - origin, interval_ns);
    }
    Py_RETURN_NONE;
  });
}

// measure(rows, pp_size, stage, ended_ns, standby_ns, active, standby, origin_ns, interval_ns): a stage's steps in the
// turns `rows`, and up to `standby_ns` after each, counted in the intervals; `ended_ns` is when the one before them ended,
// -1 if there was none. Returns ns of both, and when the last one ended.
inline PyObject* measure(PyObject*, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    PyObject *rows, *actives, *standbys;
    long long pp_size, stage, ended_ns, standby_ns, origin, interval_ns;
    if (!PyArg_ParseTuple(arguments, "OLLLLOOLL", &rows, &pp_size, &stage, &ended_ns, &standby_ns, &actives, &standbys,
                          &origin, &interval_ns)) {
      return nullptr;
    }
    const View<int64_t> cells(rows), active_view(actives), standby_view(standbys);
    int64_t* active = const_cast<int64_t*>(active_view.data());
    int64_t* standby = const_cast<int64_t*>(standby_view.data());
    const size_t width = static_cast<size_t>(TURN_COLUMNS + 3 * pp_size);
    const int64_t* end_of_rows = cells.data() + cells.size();
    int64_t active_ns = 0, waited_ns = 0, ended = ended_ns;
    for (const int64_t* row = cells.data(); row < end_of_rows; row += width) {
      const int64_t* first = row + TURN_COLUMNS;
      if (first[2] <= first[1]) continue;
      const int64_t begin = first[3 * stage + 1], end = first[3 * stage + 2];
      if (ended >= 0 && begin > ended) {
        const int64_t after = ended + std::min<int64_t>(begin - ended, standby_ns);
        waited_ns += after - ended;
        count_span(standby, ended - origin, after - origin, interval_ns);
      }
      active_ns += end - begin;
      count_span(active, begin - origin, end - origin, interval_ns);
      ended = end;
    }
    return to_tuple({active_ns, waited_ns, ended});
  });
}

}  // namespace penstock
