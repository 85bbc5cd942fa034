"""Units of time and memory. Time is integer nanoseconds everywhere, memory integer bytes."""

import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
"""Nanoseconds, bytes and counts in columns."""

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
NEVER_NS = sys.maxsize
"""Later than anything that happens."""

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


def int64_array(values: Sequence[int]) -> Int64Array:
    """The same numbers as a column, shape (n,)."""
    return np.array(values, dtype=np.int64)


def ns_from_us(microseconds: float) -> int:
    """Round microseconds (the unit of profile bundles) to integer nanoseconds."""
    return round(microseconds * NS_PER_US)


def seconds(ns: int) -> float:
    """Nanoseconds as seconds, for display only."""
    return ns / NS_PER_S


def bytes_per_ns(gigabytes_per_s: float) -> float:
    """LLMServingSim's ``link_bw`` in bytes per nanosecond.

    ASTRA-Sim's analytical network reads GB/s as 2**30 bytes/s (``bw_GBps_to_Bpns``), so 16 GB/s is
    17.179869184 bytes/ns.
    """
    return gigabytes_per_s * GIB / NS_PER_S
