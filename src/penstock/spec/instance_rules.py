"""The rules between an instance's members, and what each comes to: field, else flag, else default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from penstock.errors import Problem, nearest
from penstock.files.place import Place
from penstock.spec.check import Checked
from penstock.spec.cluster import InstanceSpec, TierSpec
from penstock.spec.data_parallel_rules import data_parallel_options
from penstock.spec.engines import Preset, engine_names, engine_preset
from penstock.spec.expert_rules import expert_options, expert_problems
from penstock.spec.layers import GroupedAttention
from penstock.spec.model import ModelSpec
from penstock.spec.option_table import RawFlags
from penstock.spec.options import EngineOverhead, SchedulerOptions
from penstock.spec.overheads import default_overhead
from penstock.spec.pim import PimSpec
from penstock.spec.placement import PlacementSpec
from penstock.spec.placement_rules import HostDevices, placement_spec
from penstock.spec.raw import RawCxlMemory, RawHostMemory, RawInstance, RawMemory
from penstock.spec.refusals import instance_notices
from penstock.spec.start_rules import start_refusals
from penstock.spec.tier_rules import FLAG_NOTICE, asked_by_flags, tier_spec
from penstock.units import GIB

UNLIMITED_SEQS = 1 << 30
"""What ``max_num_seqs`` 0 comes to: more than any KV pool holds, each running request having a block."""

_DEFAULTS = SchedulerOptions()
_DEFAULT_MEMORY_UTILIZATION = 0.9


def unknown_engine(name: str) -> str:
    """The message for an engine that has no preset."""
    known = engine_names()
    return f"no preset for '{name}'{nearest(name, known)} ({', '.join(known)})"


class InstanceRules:
    """One instance with its model; :meth:`check` first, :meth:`spec` only if nothing was wrong."""

    def __init__(
        self,
        checked: Checked[RawInstance],
        memory: Checked[RawMemory] | None,
        model: ModelSpec | None,
        flags: RawFlags,
        place: Place,
        *,
        profiled: bool = False,
    ) -> None:
        self._profiled = profiled
        self._checked = checked
        self._raw = checked.value
        self._memory = memory
        self._model = model
        self._flags = flags
        self._place = place
        self._preset: Preset | None = None
        self.problems: list[Problem] = []
        self.notices: list[str] = []
        self._tier: TierSpec | None = None
        self._placement: PlacementSpec | None = None
        self._pim: PimSpec | None = None

    def check_tier(self, host: RawHostMemory | None, cxl: RawCxlMemory | None, sharers: int) -> None:
        """The tier of KV that the instance asks for, or the options for all that do not."""
        raw = self._raw.kv_offloading
        if raw is None:
            raw = asked_by_flags(self._flags, self._chosen("block_size", _DEFAULTS.block_size))
            if raw is not None:
                self.notices.append(FLAG_NOTICE)
        self._tier = tier_spec(raw, host, cxl, sharers, self._place, self.problems)

    def check_memory(self, hosts: HostDevices, pim: PimSpec | None) -> None:
        """What lies or is computed outside the NPUs."""
        if self._model is None:
            return
        layers = self._model.num_layers
        self._placement, notices = placement_spec(
            self._raw.placement, layers, hosts, self._place, self.problems
        )
        self.notices += notices
        if not self._chosen("enable_attn_offloading", False):
            if self._chosen("enable_sub_batch_interleaving", False):
                self._blame("enable_sub_batch_interleaving", "needs enable_attn_offloading")
            return
        self._pim = pim
        if hosts.host is None or hosts.host.pim_config is None:
            self._blame("enable_attn_offloading", "needs the node's cpu_mem.pim_config")
        if self._placement is not None:
            self._blame("placement", "is not simulated beside enable_attn_offloading")
        if any(not isinstance(kind.attention, GroupedAttention) for kind in self._model.kinds) or (
            len({kind.attention for kind in self._model.kinds}) > 1
        ):
            self._blame("enable_attn_offloading", f"the PIM has no times for attention of {self._model.name}")

    def check(self, num_nodes: int) -> None:
        """All rules whose members could be read."""
        name = self._raw.engine
        if name is not None and name not in engine_names():
            self._blame("engine", unknown_engine(name))
        memory = None if self._memory is None else self._memory.value
        self.notices += instance_notices(self._raw, memory, self._place)
        self._check_parallelism()
        self._check_stages(num_nodes)
        self._check_model()

    def spec(self, index: int, node: int) -> InstanceSpec:
        """The instance; only after :meth:`check` found nothing wrong."""
        raw, model, memory = self._raw, self._model, self._memory
        assert model is not None
        assert memory is not None
        assert memory.value.mem_size is not None
        assert memory.value.mem_bw is not None
        tp_size, pp_size = self._degrees() or (1, 1)
        partition = raw.pp_layer_partition
        memory_bytes = round(memory.value.mem_size * GIB)
        self._preset = self._find_preset(memory_bytes, pp_size)
        utilization = (
            memory.value.mem_util
            or self._flags.npu_memory_utilization
            or self._preset_options.get("npu_memory_utilization", _DEFAULT_MEMORY_UTILIZATION)
        )
        scheduler = self._scheduler(model, pp_size)
        return InstanceSpec(
            index=index,
            node=node,
            model=model,
            hardware=raw.hardware or "",
            tp_size=tp_size,
            pp_size=pp_size,
            memory_bytes=memory_bytes,
            memory_bandwidth_gb_per_s=memory.value.mem_bw,
            memory_utilization=utilization,
            dtype=self._chosen("dtype", model.dtype),
            kv_cache_dtype=self._chosen("kv_cache_dtype", "auto"),
            scheduler=scheduler,
            overhead=self._overhead(model),
            layer_partition=partition,
            num_gpu_blocks=raw.num_gpu_blocks,
            stage_hardware=None if raw.stage_hardware is None else tuple(raw.stage_hardware),
            placement_nodes=None if raw.placement_nodes is None else tuple(raw.placement_nodes),
            activation_tensors=raw.activation_tensors or 2,
            token_return=raw.token_return is not False,
            profile_lookup=raw.profile_lookup or "linear",
            blocking_sends=bool(raw.blocking_sends),
            experts=expert_options(raw, model),
            dp_group=raw.dp_group,
            dp_size=raw.data_parallel_size or 1,
            data_parallel=data_parallel_options(raw),
            pd_type=raw.pd_type,
            tier=self._tier,
            placement=self._placement,
            pim=self._pim,
            interleaves=bool(self._chosen("enable_sub_batch_interleaving", False)),
            where=str(self._place),
            engine=""
            if self._preset is None
            else self._preset.basis({**asdict(scheduler), "npu_memory_utilization": utilization}),
            must_hold=raw.max_model_len if self._is_vllm else None,
        )

    def _overhead(self, model: ModelSpec) -> EngineOverhead:
        """What the instance says, else the option, else the default; none beside profiles of the user's own, which
        LLMServingSim takes without any."""
        raw = self._raw
        given = raw.engine_overhead
        if given is not None and given.name is None:
            return EngineOverhead(**given.model_dump(exclude={"name"}))
        name = self._flags.engine_overhead if given is None else given.name
        name = name or self._preset_options.get("engine_overhead")
        if name == "none" or (name is None and self._profiled):
            return EngineOverhead()
        return default_overhead(raw.engine or self._flags.engine, raw.hardware or "", model.num_layers)

    def start_problems(self, instance: InstanceSpec) -> list[Problem]:
        """What the engine refuses when it starts; other engines than vLLM are not known to refuse anything."""
        if not self._is_vllm:
            return []
        tokens = self._raw.max_num_batched_tokens
        tokens = self._flags.max_num_batched_tokens if tokens is None else tokens
        seqs = self._chosen("max_num_seqs", _DEFAULTS.max_num_seqs)
        limit = instance.model.max_position_embeddings
        refusals = start_refusals(instance.scheduler, limit if tokens == 0 else tokens, seqs)
        return [Problem(str(self._place.key(member)), why) for member, why in refusals.items()]

    @property
    def _is_vllm(self) -> bool:
        return (self._raw.engine or self._flags.engine or "vllm").startswith("vllm")

    def _find_preset(self, memory_bytes: int, pp_size: int) -> Preset | None:
        name = self._raw.engine or self._flags.engine
        if name is None:
            return None
        hardware = self._raw.hardware or ""
        return engine_preset(name, hardware=hardware, memory_bytes=memory_bytes, pp_size=pp_size)

    @property
    def _preset_options(self) -> Mapping[str, Any]:
        return {} if self._preset is None else self._preset.options

    def _scheduler(self, model: ModelSpec, pp_size: int) -> SchedulerOptions:
        limit = model.max_position_embeddings
        asynchronous = self._chosen("async_scheduling", _DEFAULTS.async_scheduling)
        # vLLM VllmConfig.max_concurrent_batches: one batch per stage, one more to hide scheduling behind, which the
        # first model runner has with one stage only.
        v2_model_runner = self._chosen("v2_model_runner", True)
        depth = pp_size + 1 if asynchronous and (v2_model_runner or pp_size == 1) else pp_size
        return SchedulerOptions(
            max_num_seqs=self._chosen("max_num_seqs", _DEFAULTS.max_num_seqs) or UNLIMITED_SEQS,
            max_num_batched_tokens=min(
                self._chosen("max_num_batched_tokens", _DEFAULTS.max_num_batched_tokens) or limit, limit
            ),
            max_model_len=self._raw.max_model_len or limit,
            block_size=self._chosen("block_size", _DEFAULTS.block_size),
            long_prefill_token_threshold=self._chosen(
                "long_prefill_token_threshold", _DEFAULTS.long_prefill_token_threshold
            ),
            enable_chunked_prefill=self._chosen("enable_chunked_prefill", _DEFAULTS.enable_chunked_prefill),
            enable_prefix_caching=self._chosen("enable_prefix_caching", _DEFAULTS.enable_prefix_caching),
            reserve_full_isl=self._chosen("reserve_full_isl", _DEFAULTS.reserve_full_isl),
            watermark=_DEFAULTS.watermark if self._raw.watermark is None else self._raw.watermark,
            max_in_flight=self._raw.max_in_flight or depth,
            async_scheduling=asynchronous,
            v2_model_runner=asynchronous and pp_size > 1 and v2_model_runner,
            engine_idle_sleep_ns=self._chosen("engine_idle_sleep_ns", _DEFAULTS.engine_idle_sleep_ns),
            scheduling_policy=self._chosen("scheduling_policy", _DEFAULTS.scheduling_policy),
            policy=self._chosen("policy", _DEFAULTS.policy),
        )

    def _chosen(self, name: str, default: Any) -> Any:
        """What the instance says, else the options, else the engine, else ``default``."""
        field, flag = getattr(self._raw, name), getattr(self._flags, name)
        given = field if field is not None else flag
        return self._preset_options.get(name, default) if given is None else given

    def _degrees(self) -> tuple[int, int] | None:
        """(tp, pp), the missing one inferred; None if they cannot be known."""
        raw = self._raw
        if not self._checked.sound("num_npus", "tp_size", "pp_size"):
            return None
        pp_size = raw.pp_size or 1
        if raw.tp_size is not None:
            return raw.tp_size, pp_size
        if raw.num_npus is None or raw.num_npus % pp_size:
            return None
        return raw.num_npus // pp_size, pp_size

    def _check_parallelism(self) -> None:
        raw = self._raw
        degrees = self._degrees()
        if degrees is None:
            if raw.num_npus is None and raw.tp_size is None and self._checked.sound("num_npus", "tp_size"):
                self._blame("", "missing key 'num_npus' or 'tp_size': at least one must say how many NPUs")
            elif raw.num_npus is not None and self._checked.sound("num_npus", "tp_size", "pp_size"):
                self._blame("num_npus", f"must be a multiple of pp_size = {raw.pp_size}, not {raw.num_npus}")
            return
        tp_size, pp_size = degrees
        if raw.num_npus is not None and raw.num_npus != tp_size * pp_size:
            product = f"{tp_size} x {pp_size} = {tp_size * pp_size}"
            self._blame("num_npus", f"must be tp_size x pp_size = {product}, not {raw.num_npus}")

    def _check_stages(self, num_nodes: int) -> None:
        """Lists with one entry per stage."""
        raw = self._raw
        if not self._checked.sound("pp_size"):
            return
        pp_size = raw.pp_size or 1
        for name in ("pp_layer_partition", "stage_hardware", "placement_nodes"):
            value = getattr(raw, name)
            if isinstance(value, list | tuple) and len(value) != pp_size:
                self._blame(name, f"must have one entry per stage, pp_size = {pp_size}, not {len(value)}")
        for stage, node in enumerate(raw.placement_nodes or []):
            if node >= num_nodes:
                self._blame(f"placement_nodes[{stage}]", f"there is no node {node}: nodes has {num_nodes}")

    def _check_model(self) -> None:
        """What the model's dimensions allow."""
        model, raw = self._model, self._raw
        if model is None:
            return
        layers = model.num_layers
        pp_size = raw.pp_size or 1
        if pp_size > layers:
            self._blame("pp_size", f"{pp_size} stages are more than the {layers} layers of {model.name}")
        partition = raw.pp_layer_partition
        if isinstance(partition, tuple) and len(partition) == pp_size and sum(partition) != layers:
            found = f"{' + '.join(map(str, partition))} = {sum(partition)}"
            self._blame("pp_layer_partition", f"must sum to the {layers} layers of {model.name}, not {found}")
        limit = model.max_position_embeddings
        if raw.max_model_len is not None and raw.max_model_len > limit:
            self._blame(
                "max_model_len", f"must be <= max_position_embeddings = {limit}, not {raw.max_model_len}"
            )
        degrees = self._degrees()
        if degrees is None:
            return
        # Whether ranks can split experts depends on the group: ``expert_rules.group_problems``.
        obstacle = model.tensor_parallel_obstacle(degrees[0], whole_experts=True)
        if obstacle is not None:
            self._blame("num_npus" if raw.tp_size is None else "tp_size", obstacle)
        for name, why in expert_problems(raw, model, degrees[0]).items():
            self._blame(name, why)

    def _blame(self, name: str, message: str) -> None:
        place = self._place.key(name) if name else self._place
        self.problems.append(Problem(str(place), message))
