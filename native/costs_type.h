// `penstock._core.Costs`: tables of an instance, filled by penstock/engine/native_costs.py.
#pragma once

#include <memory>
#include <new>

#include "costs.h"
#include "python.h"

namespace penstock {

struct CostsObject {
  PyObject_HEAD
  std::shared_ptr<Costs>* costs;
};

inline Attention read_attention(PyObject* dict) {
  Attention attention;
  const std::vector<int64_t> limits = values_entry<int64_t>(dict, "limits");
  const std::vector<int64_t> strides = values_entry<int64_t>(dict, "strides");
  const std::vector<int64_t> shape = values_entry<int64_t>(dict, "alpha_shape");
  std::copy(limits.begin(), limits.end(), attention.limits);
  std::copy(strides.begin(), strides.end(), attention.strides);
  std::copy(shape.begin(), shape.end(), attention.alpha_shape);
  attention.intercepts = values_entry<double>(dict, "intercepts");
  attention.slopes = values_entry<double>(dict, "slopes");
  attention.segment = values_entry<uint8_t>(dict, "segment");
  attention.chunk_offsets = values_entry<int64_t>(dict, "chunk_offsets");
  attention.chunk_weights = values_entry<double>(dict, "chunk_weights");
  attention.decode_offsets = values_entry<int64_t>(dict, "decode_offsets");
  attention.decode_weights = values_entry<double>(dict, "decode_weights");
  attention.chunk_axis = values_entry<double>(dict, "chunk_axis");
  attention.decode_axis = values_entry<double>(dict, "decode_axis");
  attention.prefill_axis = values_entry<double>(dict, "prefill_axis");
  attention.has_skew = int_entry(dict, "has_skew") != 0;
  attention.alpha = values_entry<double>(dict, "alpha");
  attention.chunk_alpha = values_entry<int64_t>(dict, "chunk_alpha");
  attention.decode_edges = values_entry<double>(dict, "decode_edges");
  attention.rate_edges = values_entry<double>(dict, "rate_edges");
  attention.longest_edges = values_entry<double>(dict, "longest_edges");
  attention.prefill_edges = values_entry<double>(dict, "prefill_edges");
  attention.rows = int_entry(dict, "rows");
  attention.row_width = int_entry(dict, "row_width");
  attention.row_intercepts = values_entry<double>(dict, "row_intercepts");
  attention.row_slopes = values_entry<double>(dict, "row_slopes");
  attention.row_alphas = values_entry<int64_t>(dict, "row_alphas");
  attention.alpha_tables = values_entry<double>(dict, "alpha_tables");
  attention.alpha_table_size = int_entry(dict, "alpha_table_size");
  return attention;
}

inline Tabulated read_part(PyObject* dict) {
  Tabulated part;
  part.stages = values_entry<int64_t>(dict, "stages");
  part.roles = values_entry<int64_t>(dict, "roles");
  each_item(entry(dict, "dense"), [&](PyObject* one) { part.dense.push_back(View<int64_t>(one).values()); });
  each_item(entry(dict, "layers"), [&](PyObject* one) { part.layers.push_back(View<int64_t>(one).values()); });
  part.has_head = entry(dict, "head") != Py_None;
  part.head = values_entry<int64_t>(dict, "head");
  part.dense_limit = int_entry(dict, "dense_limit");
  part.head_limit = int_entry(dict, "head_limit");
  part.mixed_extra = double_entry(dict, "mixed_extra");
  each_item(entry(dict, "attentions"),
            [&](PyObject* one) { part.attentions.push_back(read_attention(one)); });
  return part;
}

// Costs(pp_size, hops, return_ns, lines, parts)
inline PyObject* new_costs(PyTypeObject* type, PyObject* arguments, PyObject*) {
  return guarded([&]() -> PyObject* {
    long long pp_size;
    PyObject *hops, *return_ns, *lines, *parts;
    if (!PyArg_ParseTuple(arguments, "LOOOO", &pp_size, &hops, &return_ns, &lines, &parts)) return nullptr;
    auto costs = std::make_shared<Costs>();
    costs->pp_size = pp_size;
    costs->return_ns = View<int64_t>(return_ns).values();
    each_item(hops, [&](PyObject* pair) {
      const Ref arrival(PySequence_GetItem(pair, 0)), occupancy(PySequence_GetItem(pair, 1));
      costs->hops.push_back(
          Hop{View<int64_t>(arrival.get()).values(), View<int64_t>(occupancy.get()).values()});
    });
    each_item(lines, [&](PyObject* one) {
      const Ref base(PySequence_GetItem(one, 0)), token(PySequence_GetItem(one, 1)),
          context(PySequence_GetItem(one, 2));
      costs->lines.push_back(Line{to_double(base.get()), to_double(token.get()), to_double(context.get())});
    });
    each_item(parts, [&](PyObject* one) { costs->parts.push_back(read_part(one)); });
    const auto allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
    Ref self(allocate(type, 0));
    reinterpret_cast<CostsObject*>(self.get())->costs = new std::shared_ptr<Costs>(std::move(costs));
    return self.release();
  });
}

inline void free_costs(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<CostsObject*>(self)->costs;
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

// replace(part, tables): a part's tables have grown.
inline PyObject* replace_part(PyObject* self, PyObject* arguments) {
  return guarded([&]() -> PyObject* {
    Py_ssize_t place;
    PyObject* tables;
    if (!PyArg_ParseTuple(arguments, "nO", &place, &tables)) return nullptr;
    std::vector<Tabulated>& parts = (*reinterpret_cast<CostsObject*>(self)->costs)->parts;
    parts[static_cast<size_t>(place)] = read_part(tables);
    Py_RETURN_NONE;
  });
}

inline PyMethodDef COSTS_METHODS[] = {
    {"replace", replace_part, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

inline const TypeParts COSTS_TYPE = {"penstock._core.Costs", sizeof(CostsObject), new_costs, free_costs, COSTS_METHODS};

}  // namespace penstock
