// The engine of one instance in machine code: the same turns, to the byte, as the Python beside it takes.
#include "accounting_types.h"
#include "engine_type.h"
#include "fleet_type.h"
#include "lockstep_type.h"

#ifndef PENSTOCK_SOURCES
#define PENSTOCK_SOURCES ""
#endif

namespace {

int add_types(PyObject* module) {
  for (const penstock::TypeParts* parts : {&penstock::COSTS_TYPE, &penstock::ENGINE_TYPE, &penstock::SPLITTER_TYPE,
                                           &penstock::LOCKSTEP_TYPE}) {
    if (penstock::add_type(module, *parts) < 0) return -1;
  }
  return PyModule_AddStringConstant(module, "sources", PENSTOCK_SOURCES);
}

PyMethodDef FUNCTIONS[] = {
    {"spread", penstock::spread, METH_VARARGS, nullptr},
    {"measure", penstock::measure, METH_VARARGS, nullptr},
    {"serve_fleet", penstock::serve_fleet, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef_Slot SLOTS[] = {
    {Py_mod_exec, reinterpret_cast<void*>(add_types)},
    {0, nullptr},
};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "penstock._core", nullptr, 0, FUNCTIONS, SLOTS, nullptr, nullptr,
                      nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&MODULE); }
