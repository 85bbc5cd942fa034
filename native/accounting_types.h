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

inline PyType_Slot SPLITTER_SLOTS[] = {
    {Py_tp_new, reinterpret_cast<void*>(new_splitter)},
    {Py_tp_dealloc, reinterpret_cast<void*>(free_splitter)},
    {Py_tp_methods, SPLITTER_METHODS},
    {0, nullptr},
};

inline PyType_Spec SPLITTER_SPEC = {"penstock._core.Splitter", sizeof(SplitterObject), 0, Py_TPFLAGS_DEFAULT,
                                    SPLITTER_SLOTS};

// spread(sums, begin_ns, end_ns, per_ns, origin_ns, interval_ns): add `per_ns` for every ns of the spans to the sums of
// the intervals in which it lies, span by span.
inline PyObject* spread(PyObject*, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    PyObject *sums, *begins, *ends;
    double per_ns;
    long long origin, interval_ns;
    if (!PyArg_ParseTuple(arguments, "OOOdLL", &sums, &begins, &ends, &per_ns, &origin, &interval_ns)) {
      return nullptr;
    }
    const View<double> to(sums);
    const View<int64_t> from(begins), until(ends);
    double* amounts = const_cast<double*>(to.data());
    for (size_t span = 0; span < from.size(); ++span) {
      const int64_t end = until.data()[span] - origin;
      int64_t begin = from.data()[span] - origin;
      for (int64_t interval = begin / interval_ns; begin < end; ++interval) {
        const int64_t edge = std::min<int64_t>(end, (interval + 1) * interval_ns);
        amounts[interval] += static_cast<double>(edge - begin) * per_ns;
        begin = edge;
      }
    }
    Py_RETURN_NONE;
  });
}

}  // namespace penstock
