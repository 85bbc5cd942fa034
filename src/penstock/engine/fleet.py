"""What routers see of the instances: read-only, and kept up to date as instances act."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol, overload

import numpy as np

from penstock.recording.records import Int64Array


class Watched(Protocol):
    """What is read of an instance."""

    @property
    def num_running(self) -> int:
        """Requests admitted and not finished."""
        ...

    @property
    def num_waiting(self) -> int:
        """Requests sent there and not admitted."""
        ...

    @property
    def max_num_seqs(self) -> int:
        """How many requests it runs at once."""
        ...

    @property
    def outstanding_tokens(self) -> int:
        """Input and output tokens of all requests sent there and not finished."""
        ...


class InstanceView:
    """One instance at the time of an arrival. Nothing can be set."""

    __slots__ = ("_fleet", "_index")

    def __init__(self, fleet: Fleet, index: int) -> None:
        object.__setattr__(self, "_fleet", fleet)
        object.__setattr__(self, "_index", index)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a router cannot change '{name}' of an instance")

    _fleet: Fleet
    _index: int

    @property
    def index(self) -> int:
        """The instance's number."""
        return self._index

    @property
    def num_running(self) -> int:
        """Requests admitted and not finished."""
        return int(self._fleet.num_running[self._index])

    @property
    def num_waiting(self) -> int:
        """Requests sent there and not admitted."""
        return int(self._fleet.num_waiting[self._index])

    @property
    def max_num_seqs(self) -> int:
        """How many requests it runs at once."""
        return int(self._fleet.max_num_seqs[self._index])

    @property
    def outstanding_tokens(self) -> int:
        """Input and output tokens of all requests sent there and not finished."""
        return int(self._fleet.outstanding_tokens[self._index])


class Fleet(Sequence[InstanceView]):
    """Instances in order, all or the first so many: a sequence of :class:`InstanceView`, and the same by column.

    The columns are read-only int64 arrays of shape (instances,) that always hold the present: a router that
    looks at every instance should use them. They cannot be made writable.
    """

    def __init__(self, max_num_seqs: Sequence[int], columns: FleetColumns) -> None:
        limits = array("q", max_num_seqs)
        count = len(limits)
        self.max_num_seqs = _read_only(limits)
        self.num_running = _read_only(columns.running)[:count]
        self.num_waiting = _read_only(columns.waiting)[:count]
        self.outstanding_tokens = _read_only(columns.outstanding)[:count]
        self._views = tuple(InstanceView(self, index) for index in range(len(limits)))

    def __len__(self) -> int:
        return len(self._views)

    @overload
    def __getitem__(self, index: int) -> InstanceView: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[InstanceView]: ...

    def __getitem__(self, index: int | slice) -> InstanceView | Sequence[InstanceView]:
        return self._views[index]


class FleetColumns:
    """The numbers behind a :class:`Fleet`, which the simulation alone writes: an instance's whenever it has
    acted or been given a request, so that an arrival costs nothing for the instances that did not move."""

    def __init__(self, instances: Sequence[Watched]) -> None:
        self.running = array("q", [0]) * len(instances)
        self.waiting = array("q", [0]) * len(instances)
        self.outstanding = array("q", [0]) * len(instances)
        for index, instance in enumerate(instances):
            self.refresh(index, instance)

    def refresh(self, index: int, instance: Watched) -> None:
        """Take over the present state of an instance."""
        self.running[index] = instance.num_running
        self.waiting[index] = instance.num_waiting
        self.outstanding[index] = instance.outstanding_tokens


def watch(instances: Sequence[Watched]) -> tuple[Fleet, FleetColumns]:
    """What routers get, and what keeps it up to date."""
    columns = FleetColumns(instances)
    return Fleet([instance.max_num_seqs for instance in instances], columns), columns


def _read_only(column: array[int]) -> Int64Array:
    """An array over the column's own memory that numpy cannot be told to make writable."""
    return np.frombuffer(memoryview(column).toreadonly(), dtype=np.int64)
