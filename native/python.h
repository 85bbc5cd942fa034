// Between Python's objects and ours, by the part of its interface that does not change between versions.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <string>
#include <vector>

namespace penstock {

// A Python error is set.
struct PythonError {};

// A reference of ours.
class Ref {
 public:
  explicit Ref(PyObject* object) : object_(object) {
    if (!object) throw PythonError();
  }
  Ref(const Ref&) = delete;
  Ref& operator=(const Ref&) = delete;
  ~Ref() { Py_XDECREF(object_); }
  PyObject* get() const { return object_; }
  PyObject* release() {
    PyObject* object = object_;
    object_ = nullptr;
    return object;
  }

 private:
  PyObject* object_;
};

// The memory of an object while we look at it; None is no memory.
template <class T>
class View {
 public:
  explicit View(PyObject* object) {
    if (object == Py_None) return;
    if (PyObject_GetBuffer(object, &buffer_, PyBUF_C_CONTIGUOUS) < 0) throw PythonError();
    has_buffer_ = true;
  }
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  ~View() {
    if (has_buffer_) PyBuffer_Release(&buffer_);
  }
  const T* data() const { return has_buffer_ ? static_cast<const T*>(buffer_.buf) : nullptr; }
  size_t size() const { return has_buffer_ ? static_cast<size_t>(buffer_.len) / sizeof(T) : 0; }
  std::vector<T> values() const { return std::vector<T>(data(), data() + size()); }

 private:
  Py_buffer buffer_;
  bool has_buffer_ = false;
};

inline PyObject* entry(PyObject* dict, const char* name) {
  PyObject* value = PyDict_GetItemString(dict, name);
  if (!value) {
    PyErr_SetString(PyExc_KeyError, name);
    throw PythonError();
  }
  return value;
}

inline int64_t to_int(PyObject* object) {
  const long long value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred()) throw PythonError();
  return value;
}

inline double to_double(PyObject* object) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred()) throw PythonError();
  return value;
}

inline int64_t int_entry(PyObject* dict, const char* name) { return to_int(entry(dict, name)); }
inline double double_entry(PyObject* dict, const char* name) { return to_double(entry(dict, name)); }

template <class T>
std::vector<T> values_entry(PyObject* dict, const char* name) {
  return View<T>(entry(dict, name)).values();
}

// The items of a list or tuple, one after the other, as borrowed references.
template <class Function>
void each_item(PyObject* sequence, Function function) {
  const Py_ssize_t count = PySequence_Size(sequence);
  if (count < 0) throw PythonError();
  for (Py_ssize_t place = 0; place < count; ++place) {
    const Ref item(PySequence_GetItem(sequence, place));
    function(item.get());
  }
}

inline PyObject* to_bytes(const int64_t* values, size_t count) {
  return PyBytes_FromStringAndSize(reinterpret_cast<const char*>(values),
                                   static_cast<Py_ssize_t>(count * sizeof(int64_t)));
}

inline PyObject* to_tuple(const std::vector<int64_t>& values) {
  Ref tuple(PyTuple_New(static_cast<Py_ssize_t>(values.size())));
  for (size_t place = 0; place < values.size(); ++place) {
    PyObject* number = PyLong_FromLongLong(values[place]);
    if (!number) throw PythonError();
    PyTuple_SetItem(tuple.get(), static_cast<Py_ssize_t>(place), number);
  }
  return tuple.release();
}

// A class of the module: what makes an instance, what lets it go, and its methods.
struct TypeParts {
  const char* name;
  size_t size;
  newfunc make;
  destructor let_go;
  PyMethodDef* methods;
};

// 0, or -1 with a Python error set.
inline int add_type(PyObject* module, const TypeParts& parts) {
  PyType_Slot slots[] = {
      {Py_tp_new, reinterpret_cast<void*>(parts.make)},
      {Py_tp_dealloc, reinterpret_cast<void*>(parts.let_go)},
      {Py_tp_methods, parts.methods},
      {0, nullptr},
  };
  PyType_Spec spec = {parts.name, static_cast<int>(parts.size), 0, Py_TPFLAGS_DEFAULT, slots};
  PyObject* type = PyType_FromSpec(&spec);
  if (!type) return -1;
  const int result = PyModule_AddType(module, reinterpret_cast<PyTypeObject*>(type));
  Py_DECREF(type);
  return result;
}

// Run what may fail: a Python error, or none of memory, ends the call.
template <class Function>
PyObject* guarded(Function function) {
  try {
    return function();
  } catch (const PythonError&) {
    return nullptr;
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

}  // namespace penstock
