cimport cython

cdef class Cohort:
    cdef public long long size, offset_sum, turn, last_ns, done_ns
    cdef public list needs

cdef class Engine:
    cdef public list cohorts, stage_free, link_free, dense, hop, cells, gaps
    cdef public long long free

    @cython.locals(
        number=cython.longlong, now=cython.longlong, at=cython.longlong, size=cython.longlong,
        context=cython.longlong, attention=cython.longlong, stage=cython.Py_ssize_t, arrive=cython.longlong,
        start=cython.longlong, end=cython.longlong, depart=cython.longlong, cohort=Cohort, stage_free=list,
        link_free=list, hop=list, cells=list, gaps=list,
    )
    cpdef run(self, turns)
