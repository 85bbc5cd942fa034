"""Execution traces of MLCommons Chakra, which ASTRA-Sim reads: a file per NPU, of chosen steps.

Each file is a :class:`GlobalMetadata` and then nodes, each a varint length and a protobuf message
(``chakra.schema.protobuf.et_def_pb2`` of the package ``mlc-chakra``). A node depends on the one before it.
NPU s x tp + r is rank r of stage s. Kernels are COMP_NODEs; all-reduces and the receiver's all-gathers are
COMM_COLL_NODEs over the first of two dimensions (ranks, stages); hops are COMM_SEND_NODEs and COMM_RECV_NODEs that
agree in tag, source, target and size.

``duration_micros`` is in microseconds, as the schema says, rounded so that sums stay within one; or, for
LLMServingSim's fork of ASTRA-Sim, in nanoseconds. The attribute ``duration_ns`` has these in any case.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from penstock.cost.step_cost import StepShape
from penstock.cost.step_rows import StepRows
from penstock.errors import UserError
from penstock.files.writing import all_or_nothing, atomic_write_bytes
from penstock.units import NS_PER_US

SCHEMA = "1.0.2-chakra.0.0.4"
DurationUnit = Literal["us", "ns"]


@dataclass(frozen=True, slots=True)
class TracedStep:
    """A step and when each stage started it, from the run."""

    number: int
    load: StepShape
    start_ns: tuple[int, ...]


@dataclass(slots=True)
class _Npu:
    """A file in the making."""

    nodes: list[Any] = field(default_factory=list[Any])
    total_ns: int = 0


def chakra_schema() -> Any:
    """The package's messages.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("chakra.schema.protobuf.et_def_pb2")
    except ImportError as error:
        raise UserError(
            "Chakra's schema is not installed: pip install 'penstock[chakra]' (mlc-chakra)"
        ) from error


class ChakraExport:
    """Builds the traces of one instance, with ``tp_size`` ranks on each of ``pp_size`` stages."""

    def __init__(self, rows: StepRows, tp_size: int, pp_size: int, unit: DurationUnit) -> None:
        self._schema = chakra_schema()
        self._rows = rows
        self._tp = tp_size
        self._pp = pp_size
        self._unit = unit
        self._npus = [_Npu() for _ in range(tp_size * pp_size)]

    def add(self, step: TracedStep) -> None:
        """Append a step to all NPUs."""
        hop = self._rows.hop_bytes(step.load)
        for stage in range(self._pp):
            rows = self._rows.rows(stage, step.load)
            for rank in range(self._tp):
                npu = stage * self._tp + rank
                at = step.start_ns[stage]
                if stage:
                    self._message(npu, step, (npu - self._tp, npu), hop)
                    if self._tp > 1:
                        gather = self._schema.ALL_GATHER
                        self._collective(npu, f"step{step.number}_gather", gather, hop, at)
                for row in rows:
                    name = f"step{step.number}_{row.name}"
                    if row.all_reduce_bytes:
                        self._collective(npu, name, self._schema.ALL_REDUCE, row.all_reduce_bytes, at)
                    else:
                        node = self._node(npu, name, self._schema.COMP_NODE, at)
                        self._lasts(npu, node, row.duration_ns)
                    at += row.duration_ns
                if stage < self._pp - 1:
                    self._message(npu, step, (npu, npu + self._tp), hop)

    def write(self, directory: Path, stem: str, source: str) -> list[Path]:
        """Write a file per NPU, ``<stem>.<npu>.et``; returns the paths.

        Raises:
            UserError: one cannot be written.
        """
        paths: list[Path] = []
        with all_or_nothing():
            for number, npu in enumerate(self._npus):
                path = directory / f"{stem}.{number}.et"
                with atomic_write_bytes(path) as file:
                    head = self._schema.GlobalMetadata(version=SCHEMA)
                    head.attr.add(name="schema", string_val=SCHEMA)
                    head.attr.add(name="input_file", string_val=source)
                    for message in (head, *npu.nodes):
                        data = message.SerializeToString()
                        file.write(_varint(len(data)) + data)
                paths.append(path)
        return paths

    def _node(self, npu: int, name: str, kind: int, at_ns: int) -> Any:
        nodes = self._npus[npu].nodes
        node = self._schema.Node(id=len(nodes), name=name, type=kind)
        node.start_time_micros = at_ns if self._unit == "ns" else at_ns // NS_PER_US
        if nodes:
            node.data_deps.append(len(nodes) - 1)
        node.attr.add(name="is_cpu_op", bool_val=False)
        nodes.append(node)
        return node

    def _lasts(self, npu: int, node: Any, duration_ns: int) -> None:
        before = self._npus[npu].total_ns
        self._npus[npu].total_ns = after = before + duration_ns
        micros = round(after / NS_PER_US) - round(before / NS_PER_US)
        node.duration_micros = duration_ns if self._unit == "ns" else micros
        node.attr.add(name="duration_ns", int64_val=duration_ns)

    def _collective(self, npu: int, name: str, kind: int, size_bytes: int, at_ns: int) -> None:
        node = self._node(npu, name, self._schema.COMM_COLL_NODE, at_ns)
        node.attr.add(name="comm_type", int64_val=kind)
        node.attr.add(name="comm_size", int64_val=size_bytes)
        involved = node.attr.add(name="involved_dim")
        involved.bool_list.values.extend([True, False])

    def _message(self, npu: int, step: TracedStep, ends: tuple[int, int], size_bytes: int) -> None:
        source, target = ends
        sends = npu == source
        kind = self._schema.COMM_SEND_NODE if sends else self._schema.COMM_RECV_NODE
        name = f"step{step.number}_{'send' if sends else 'receive'}_{source}_{target}"
        node = self._node(npu, name, kind, step.start_ns[npu // self._tp])
        for key, value in (("comm_src", source), ("comm_dst", target), ("comm_tag", step.number)):
            node.attr.add(name=key, int32_val=value)
        node.attr.add(name="comm_size", int64_val=size_bytes)


def _varint(value: int) -> bytes:
    parts: list[int] = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
