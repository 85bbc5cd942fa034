"""Cluster configs to :class:`ClusterSpec`: every mistake of a file at once, each with its place.

The shapes are in ``raw.py``; here are the rules between members, and which of field, flag and default holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from penstock.errors import Problem, UserError, nearest
from penstock.files.json_text import read_json
from penstock.files.place import Place
from penstock.spec.autoscaling_rules import autoscaling_spec
from penstock.spec.calibration import calibrated, obstacles
from penstock.spec.check import Checked, Raw, check, check_members, shown
from penstock.spec.cluster import Calibration, ClusterSpec, InstanceSpec, LinkSpec
from penstock.spec.data_parallel_rules import data_parallel_problems
from penstock.spec.disaggregation_rules import check_roles, kv_transfer_spec
from penstock.spec.engines import engine_names
from penstock.spec.expert_rules import group_problems, number_ranks, ranks_of
from penstock.spec.hardware import find_hardware, hardware_labels
from penstock.spec.instance_rules import InstanceRules, unknown_engine
from penstock.spec.link_classes import link_class_names
from penstock.spec.model import ModelSpec
from penstock.spec.model_files import ModelLibrary, load_model
from penstock.spec.option_table import RawFlags
from penstock.spec.pim import PimSpec, find_pim
from penstock.spec.placement_rules import HostDevices
from penstock.spec.power import NodePower
from penstock.spec.power_rules import node_power
from penstock.spec.raw import REQUIRED, RawCluster, RawCxlMemory, RawInstance, RawMemory, RawNode
from penstock.spec.refusals import cluster_notices, node_remarks
from penstock.spec.tier_rules import placed_kv_problems, sharing_problems

ClusterSource = str | os.PathLike[str] | Mapping[str, Any]
RawT = TypeVar("RawT", bound=Raw)
ItemT = TypeVar("ItemT")


def load_cluster(
    source: ClusterSource,
    flags: Mapping[str, Any] | None = None,
    *,
    profile_root: str | os.PathLike[str] | None = None,
    calibration: Calibration | None = None,
    any_hardware: bool = False,
    flag_name: Callable[[str], str] = str,
) -> ClusterSpec:
    """Read and check a cluster config: a JSON file of LLMServingSim's shape, or the same as a dict.

    ``flags`` are what holds for all instances that do not say otherwise, named as
    :class:`penstock.spec.option_table.RawFlags`; a value of None means not given. ``flag_name`` turns such a name into
    how the user wrote it. Hardware is known if the catalogue or ``profile_root`` has it, or if ``calibration`` (which
    goes into every instance) was measured on it; with ``any_hardware`` it need not be.

    Raises:
        UserError: with every mistake found.
    """
    problems: list[Problem] = []
    file = "cluster" if isinstance(source, Mapping) else os.fspath(source)
    if not file:
        problems.append(Problem("", "the path of the cluster config must not be empty"))
        raise UserError(problems)
    directory = None if isinstance(source, Mapping) else Path(source).parent
    checked_flags = check_members(
        RawFlags, flags or {}, lambda loc: flag_name(str(loc[0])) if loc else "", problems
    )
    engine = checked_flags.value.engine
    if checked_flags.value.enable_prefix_sharing and checked_flags.value.prefix_storage in (None, "None"):
        message = f"needs {flag_name('prefix_storage')} CPU or CXL: that is what is shared"
        problems.append(Problem(flag_name("enable_prefix_sharing"), message))
    if engine is not None and engine not in engine_names():
        problems.append(Problem(flag_name("engine"), unknown_engine(engine)))
    data = source if isinstance(source, Mapping) else read_json(Path(source), problems)
    reader = _ClusterReader(Place(file), directory, checked_flags.value, profile_root, problems)
    reader.any_hardware = any_hardware
    reader.calibrated_hardware = None if calibration is None else calibration.hardware
    spec = None if data is None else reader.read(data)
    if spec is not None and calibration is not None:
        problems += [Problem(one.where, why) for one in spec.instances for why in obstacles(one, calibration)]
    if problems or spec is None:
        raise UserError(problems)
    return spec if calibration is None else calibrated(spec, calibration)


def _other_kind(data: Mapping[str, Any]) -> str:
    """What a file is that has no member of a cluster config."""
    required = ", ".join(REQUIRED[RawCluster])
    text = f"is not a cluster config: it has none of {required}"
    if "hidden_size" in data or "architectures" in data:
        return f"{text}. It looks like a model's config.json: name it as model_name, or as --model"
    if "input_toks" in data or "sub_requests" in data:
        return f"{text}. It looks like a workload: give it as --dataset"
    return text


class _ClusterReader:
    """One pass over one config. Mistakes go to ``problems``; after one nothing read is used."""

    def __init__(
        self,
        place: Place,
        directory: Path | None,
        flags: RawFlags,
        profile_root: str | os.PathLike[str] | None,
        problems: list[Problem],
    ) -> None:
        self.any_hardware = False
        self.calibrated_hardware: str | None = None
        self._place = place
        self._directory = directory
        self._flags = flags
        self._profile_root = None if profile_root is None else Path(profile_root)
        self._problems = problems
        self._notices: list[str] = []
        self._remarks: list[str] = []
        self._library = ModelLibrary.near(directory)
        self._cxl: RawCxlMemory | None = None
        self._models: dict[str, ModelSpec | None] = {}
        self._powers: list[NodePower | None] = []
        self._pim: PimSpec | None = None

    def read(self, data: Any) -> ClusterSpec | None:
        """The cluster, complete only if nothing was added to the problems."""
        if isinstance(data, Mapping) and data and data.keys().isdisjoint(RawCluster.model_fields):
            self._blame(self._place, _other_kind(data))
            return None
        checked = self._check(RawCluster, data, self._place)
        if checked is None:
            return None
        raw = checked.value
        self._cxl = raw.cxl_mem
        nodes = raw.nodes or []
        if checked.sound("nodes", "num_nodes") and raw.nodes is not None:
            self._match("num_nodes", raw.num_nodes, len(nodes), self._place)
        instances: list[InstanceSpec] = []
        entries = 0
        for node, entry in enumerate(nodes):
            entries += self._read_node(node, entry, len(nodes), instances)
        if raw.nodes is not None and not entries and not self._problems:
            self._blame(self._place, "the cluster has no instances")
        instances = number_ranks(instances)
        if not self._problems:
            self._problems += group_problems(instances)
            self._problems += data_parallel_problems(instances, shared_links=bool(raw.shared_node_links))
            self._problems += check_roles(instances, raw.kv_transfer, self._place)
            self._problems += sharing_problems(instances)
            self._problems += placed_kv_problems(instances)
        autoscaling = None
        if not self._problems:
            autoscaling = autoscaling_spec(raw.autoscaling, instances, self._place, self._problems)
        used = {device.name for one in instances if one.placement for device in one.placement.devices}
        uses_cxl = any(one.tier is not None and one.tier.store_bytes_per_s is not None for one in instances)
        uses_cxl |= any(name.startswith("cxl") for name in used)
        self._notices += cluster_notices(raw, self._place, is_used=uses_cxl)
        return ClusterSpec(
            source=self._place.file,
            link=self._link(checked),
            instances=tuple(instances),
            shared_node_links=bool(raw.shared_node_links),
            kv_transfer=kv_transfer_spec(raw.kv_transfer),
            node_powers=tuple(self._powers),
            autoscaling=autoscaling,
            notices=tuple(dict.fromkeys(self._notices)),
            remarks=tuple(dict.fromkeys(self._remarks)),
        )

    def _read_node(self, node: int, data: Any, num_nodes: int, instances: list[InstanceSpec]) -> int:
        """Read a node's instances into ``instances``; returns how many entries it has, valid or not."""
        place = self._place.key("nodes").item(node)
        checked = self._check(RawNode, data, place)
        if checked is None:
            return 0
        raw = checked.value
        entries = raw.instances or []
        if checked.sound("instances", "num_instances") and raw.instances is not None:
            self._match("num_instances", raw.num_instances, len(entries), place)
        read: list[InstanceSpec] = []
        self._read_power(raw, place)
        for index, entry in enumerate(entries):
            spot = place.key("instances").item(index)
            instance = self._read_instance(len(instances) + len(read), (node, raw), num_nodes, entry, spot)
            if instance is not None:
                read += ranks_of(instance)
        instances += read
        is_used = any(one.tier or one.placement or one.pim for one in read)
        self._remarks += node_remarks(raw, place, is_used=is_used)
        return len(entries)

    def _read_power(self, raw: RawNode, place: Place) -> None:
        """What the node draws, with PIM in the place of its DIMMs."""
        host = raw.cpu_mem
        pim: PimSpec | None = None
        if host is not None and host.pim_config is not None:
            spot = place.key("cpu_mem").key("pim_config")
            pim = find_pim(host.pim_config, host.mem_size, self._directory, spot, self._problems)
        labels = [
            label
            for entry in raw.instances or []
            if isinstance(entry, Mapping)
            for label in _labels(entry)
            if isinstance(label, str)
        ]
        self._pim = pim
        self._powers.append(node_power(raw, labels, pim, place, self._problems))

    def _read_instance(
        self, index: int, where: tuple[int, RawNode], num_nodes: int, data: Any, place: Place
    ) -> InstanceSpec | None:
        node, raw_node = where
        checked = self._check(RawInstance, data, place)
        if checked is None:
            return None
        raw = checked.value
        memory = None
        if raw.npu_mem is not None:
            memory = self._check(RawMemory, raw.npu_mem, place.key("npu_mem"))
            self._remarks.append(
                f"{place.file}: npu_mem's mem_bw and mem_latency have no effect: kernel times include them"
            )
        model = None
        if raw.model_name is not None:
            model = self._model(raw.model_name, place.key("model_name"))
        if raw.hardware is not None:
            self._check_hardware(raw.hardware, place.key("hardware"))
        for stage, label in enumerate(raw.stage_hardware or []):
            self._check_hardware(label, place.key("stage_hardware").item(stage))
        rules = InstanceRules(
            checked, memory, model, self._flags, place, profiled=self._profile_root is not None
        )
        rules.check(num_nodes)
        rules.check_memory(HostDevices(node, raw_node.cpu_mem, self._cxl), self._pim)
        rules.check_tier(raw_node.cpu_mem, self._cxl, len(raw_node.instances or ()))
        self._problems += rules.problems
        self._notices += rules.notices
        if self._problems:
            return None
        instance = rules.spec(index, node)
        self._problems += rules.start_problems(instance)
        return instance

    def _link(self, checked: Checked[RawCluster]) -> LinkSpec:
        """Broadcast a scalar over the dimensions of the other member's list."""
        bandwidths = checked.value.link_bw or [1.0]
        latencies = checked.value.link_latency or [0.0]
        dimensions = max(len(bandwidths), len(latencies))
        if len(bandwidths) == 1:
            bandwidths = bandwidths * dimensions
        if len(latencies) == 1:
            latencies = latencies * dimensions
        if len(bandwidths) != len(latencies):
            self._blame(
                self._place.key("link_latency"),
                f"has {len(latencies)} network dimensions where link_bw has {len(bandwidths)}",
            )
        classes = self._link_classes(checked.value, dimensions)
        raw = checked.value
        topologies = self._per_dimension("topology", raw.topology, dimensions)
        collectives = self._per_dimension("collective_algorithm", raw.collective_algorithm, dimensions)
        sizes = self._per_dimension("npus_per_dimension", raw.npus_per_dimension, dimensions)
        return LinkSpec(
            bandwidth_gb_per_s=tuple(bandwidths),
            latency_ns=tuple(latencies),
            classes=classes,
            topologies=topologies,
            collectives=collectives,
            sizes=sizes,
            endpoint_delay_ns=raw.endpoint_delay_ns or 0,
            local_mem_bytes_per_ns=int(raw.local_mem_bw or 0),
        )

    def _per_dimension(
        self, name: str, given: ItemT | list[ItemT] | None, dimensions: int
    ) -> tuple[ItemT, ...] | None:
        """A member that has one value for all network dimensions, or one for each."""
        if given is None:
            return None
        values = given if isinstance(given, list) else [given] * dimensions
        if len(values) != dimensions:
            self._blame(
                self._place.key(name), f"has {len(values)} network dimensions where link_bw has {dimensions}"
            )
        return tuple(values)

    def _link_classes(self, raw: RawCluster, dimensions: int) -> tuple[str | None, ...] | None:
        """``link_class``: one name for all dimensions, or one name or null for each."""
        if raw.link_class is None:
            return None
        given = [raw.link_class] * dimensions if isinstance(raw.link_class, str) else raw.link_class
        place = self._place.key("link_class")
        if len(given) != dimensions:
            self._blame(place, f"has {len(given)} network dimensions where link_bw has {dimensions}")
        for name in given:
            if name is not None and name not in link_class_names():
                known = ", ".join(link_class_names())
                self._blame(
                    place, f"unknown link class '{name}'{nearest(name, link_class_names())} ({known})"
                )
        return tuple(given)

    def _check(self, shape: type[RawT], data: Any, place: Place) -> Checked[RawT] | None:
        """:func:`check`, and the members without which there is nothing to simulate."""
        checked = check(shape, data, place, self._problems)
        if checked is not None:
            for name in REQUIRED.get(shape, ()):
                if getattr(checked.value, name) is None and name not in checked.broken:
                    self._blame(place, f"missing key '{name}'")
        return checked

    def _match(self, name: str, said: int | None, found: int, place: Place) -> None:
        if said is not None and said != found:
            what = name.removeprefix("num_")
            self._blame(place.key(name), f"says {said}, but {what} has {found}")

    def _model(self, name: str, place: Place) -> ModelSpec | None:
        """Each model is read once; only its first use reports the file's own mistakes."""
        if name not in self._models or self._models[name] is None:
            found: list[Problem] = []
            model = load_model(name, self._library, self._directory, place, found)
            self._problems += [one for one in found if one not in self._problems]
            self._models[name] = model
        return self._models[name]

    def _check_hardware(self, label: str, place: Place) -> None:
        """Known: in the catalogue, with a folder of measured profiles, or calibrated."""
        if self.any_hardware or label == self.calibrated_hardware or find_hardware(label) is not None:
            return
        profiled: list[str] = []
        if self._profile_root is not None and self._profile_root.is_dir():
            profiled = sorted(path.name for path in self._profile_root.iterdir() if path.is_dir())
        if label not in profiled:
            known = [*hardware_labels(), *profiled]
            hint = nearest(label, known)
            choices = "" if hint else f": {', '.join(dict.fromkeys(known))}"
            folder = "" if self._profile_root is None else f" and no folder in {self._profile_root}"
            self._blame(
                place, f"unknown hardware {shown(label)}{hint} (not in the catalogue{folder}{choices})"
            )

    def _blame(self, place: Place, message: str) -> None:
        self._problems.append(Problem(str(place), message))


def _labels(entry: Mapping[str, Any]) -> Sequence[Any]:
    """The hardware of an instance that has not been checked."""
    of_stages: Any = entry.get("stage_hardware")
    return of_stages if isinstance(of_stages, list) and of_stages else [entry.get("hardware")]
