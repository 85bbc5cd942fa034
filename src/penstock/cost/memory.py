"""How many KV blocks fit beside the weights, stage by stage."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from penstock.cost.placement import LEAST_PREFETCH, PlacedStage, placed_stage
from penstock.cost.weights import Shard, activation_bytes, kv_bytes, shard_of, stage_weight_bytes
from penstock.errors import Problem, UserError
from penstock.spec.cluster import InstanceSpec
from penstock.spec.deployment import MemoryPlan, StageMemory
from penstock.spec.layers import DenseMlp, Mlp, StageLayers
from penstock.units import GIB, MIB

CUDA_CONTEXT_BYTES = 512 * MIB
"""CUDA context, cuBLAS workspaces and NCCL buffers that the memory profiler of vLLM counts as non-torch
memory: 0.3 to 0.7 GiB on data-centre GPUs, the middle here."""

CUDA_GRAPH_BYTES = 0
"""vLLM captures its graphs after the KV cache is sized, from what ``gpu_memory_utilization`` leaves free."""

_MOST_RANKS = 128
_LOGIT_COPIES = 2
_DEFAULT_PROFILED_SEQS = 256
_MOST_SEQUENCES = 256
"""For which windows and states are set aside where ``max_num_seqs`` is larger."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """A way to cut the model, for the search of one that fits."""

    tp_size: int
    stages: tuple[StageLayers, ...]


def plan_memory(instance: InstanceSpec, layers: tuple[StageLayers, ...]) -> MemoryPlan:
    """KV capacity of an instance whose stages hold ``layers``: the smallest stage decides.

    vLLM (``v1/worker/gpu_worker.py: determine_available_memory``, ``v1/core/kv_cache_utils.py``) gives the KV
    cache what utilisation x capacity leaves after weights, activation peak and non-torch memory, and all
    stages the smallest number of blocks.

    Raises:
        UserError: not a single usable block beside the null block; says by how much, and the smallest pp or tp
            that would do. Or fewer than one request of the context that was chosen takes.
    """
    shape = _Shape(instance.tp_size, layers)
    stages = [_stage(instance, shape, stage) for stage in range(len(layers))]
    blocks = instance.num_gpu_blocks
    if blocks is None:
        blocks = min([*(stage.kv_blocks for stage in stages), *_blocks_elsewhere(instance, shape)])
        if blocks < 2:
            raise UserError([Problem(instance.where, _does_not_fit(instance, stages))])
        _check_context(instance, blocks)
        basis = "derived from capacity, weights and reserves; the smallest stage decides"
    else:
        basis = "num_gpu_blocks as given"
        _check_given_blocks(instance, stages, blocks)
    return MemoryPlan(
        stages=tuple(_strand(stage, blocks) for stage in stages),
        block_size=instance.scheduler.block_size,
        num_gpu_blocks=blocks,
        basis=basis,
    )


def with_prefetch(instance: InstanceSpec, layers: tuple[StageLayers, ...]) -> InstanceSpec:
    """The instance with room for the loads of all placed layers, or, where that leaves none for KV, of the fewest."""
    placement = instance.placement
    if placement is None or placement.prefetch_layers is not None:
        return instance
    shape = _Shape(instance.tp_size, layers)
    if all(_stage(instance, shape, stage).kv_blocks >= 2 for stage in range(len(layers))):
        return instance
    return replace(instance, placement=replace(placement, prefetch_layers=LEAST_PREFETCH))


def _placed(instance: InstanceSpec, shape: _Shape, stage: int) -> PlacedStage | None:
    placement = instance.placement
    if placement is None:
        return None
    return placed_stage(instance, placement, shape.stages, stage, shape.tp_size)


def _blocks_elsewhere(instance: InstanceSpec, shape: _Shape) -> list[int]:
    """KV blocks that each device outside the NPUs has room for beside the instance's own weights there.

    Raises:
        UserError: the weights alone are more than a device holds.
    """
    placement = instance.placement
    if placement is None:
        return []
    weights: Counter[str] = Counter()
    per_block: Counter[str] = Counter()
    for stage in range(len(shape.stages)):
        placed = placed_stage(instance, placement, shape.stages, stage, shape.tp_size)
        for device, size, _ in (entry for layer in placed.layers for entry in layer):
            weights[device] += size * shape.tp_size
        for device, size in placed.kv:
            per_block[device] += size * shape.tp_size * instance.scheduler.block_size
    sizes = {one.name: one.size_bytes for one in placement.devices}
    problems = [
        Problem(
            f"{instance.where}.placement",
            f"weights of {size / GIB:.2f} GiB do not fit {device}, which has {sizes[device] / GIB:g} GiB",
        )
        for device, size in weights.items()
        if size > sizes[device]
    ]
    if problems:
        raise UserError(problems)
    return [(sizes[device] - weights[device]) // size for device, size in per_block.items()]


def _check_context(instance: InstanceSpec, blocks: int) -> None:
    """vLLM does not start where one request of ``max_model_len`` has no room (``v1/core/kv_cache_utils.py:
    _check_enough_kv_cache_memory``).

    Raises:
        UserError: it has none.
    """
    context, size = instance.must_hold or 0, instance.scheduler.block_size
    if -(-context // size) > blocks:
        where = f"{instance.where}.max_model_len" if instance.where else "max_model_len"
        message = (
            f"{context} tokens take {-(-context // size)} KV blocks, the memory leaves {blocks}: vLLM does not start; "
            f"{blocks * size} is the most that fits"
        )
        raise UserError([Problem(where, message)])


def _check_given_blocks(instance: InstanceSpec, stages: list[StageMemory], blocks: int) -> None:
    """Blocks that are given need not leave room for the reserves, but must exist.

    Raises:
        UserError: weights and blocks of a stage are more than its NPU holds.
    """
    for number, stage in enumerate(stages):
        kv_bytes = blocks * stage.kv_bytes_per_block
        if stage.weights_bytes + kv_bytes > stage.capacity_bytes:
            message = (
                f"does not fit: on stage {number} weights {stage.weights_bytes / GIB:.2f} GiB + {blocks} KV blocks "
                f"{kv_bytes / GIB:.2f} GiB > {stage.capacity_bytes / GIB:g} GiB"
            )
            where = f"{instance.where}.num_gpu_blocks" if instance.where else "num_gpu_blocks"
            raise UserError([Problem(where, message)])


def _stage(instance: InstanceSpec, shape: _Shape, stage: int) -> StageMemory:
    first, last = stage == 0, stage == len(shape.stages) - 1
    layers = shape.stages[stage]
    shard = shard_of(instance, shape.tp_size)
    weights = stage_weight_bytes(instance.model, shard, instance.dtype, layers=layers, first=first, last=last)
    placed = _placed(instance, shape, stage)
    buffer = 0
    if placed is not None and instance.placement is not None:
        weights -= placed.weights_bytes
        buffer = placed.buffer_bytes(instance.placement.prefetch_layers or len(placed.layers))
        layers = placed.kv_at_home
    reserves = (
        *((("loads", buffer),) if buffer else ()),
        ("activation peak", activation_peak_bytes(instance, shape.tp_size, last=last)),
        ("CUDA context", CUDA_CONTEXT_BYTES),
        ("CUDA graphs", CUDA_GRAPH_BYTES),
    )
    usable = int(instance.memory_bytes * instance.memory_utilization)
    free = usable - weights - sum(size for _, size in reserves)
    kv = _kv_need(instance, shape.tp_size, layers, free)
    return StageMemory(
        capacity_bytes=instance.memory_bytes,
        usable_bytes=usable,
        weights_bytes=weights,
        reserves=(*reserves, *kv.reserves),
        kv_bytes_per_block=kv.bytes_per_block,
        kv_blocks=kv.blocks(free),
        stranded_bytes=0,
    )


@dataclass(frozen=True, slots=True)
class _KvNeed:
    """``bytes_per_block`` grow with the tokens of all sequences; ``reserves`` do not."""

    bytes_per_block: int
    reserves: tuple[tuple[str, int], ...]

    def blocks(self, free_bytes: int) -> int:
        """How many blocks ``free_bytes`` hold beside the reserves."""
        return max((free_bytes - sum(size for _, size in self.reserves)) // self.bytes_per_block, 0)


def _kv_need(instance: InstanceSpec, tp_size: int, layers: StageLayers, free_bytes: int) -> _KvNeed:
    """KV cache of a stage, by what each of its layers keeps.

    A layer with a window keeps a sequence's last window and the tokens of a step (vLLM
    ``v1/core/single_type_kv_cache_manager.py: SlidingWindowManager``); a linear one a state per sequence. Both are
    set aside for all sequences that may run at once, and blocks are made of the other layers. Where that holds
    fewer blocks than windows taken for the whole context, it is the latter (vLLM without its hybrid manager).
    """
    options = instance.scheduler
    element = kv_bytes(instance.dtype, instance.kv_cache_dtype)
    sequences = min(options.max_num_seqs, options.max_num_batched_tokens, _MOST_SEQUENCES)
    whole = windowed = in_windows = state = 0
    for group in layers:
        attention = group.kind.attention
        size = group.count * attention.kv_elements_per_token(tp_size) * element
        state += group.count * attention.state_elements(tp_size) * activation_bytes(instance.dtype)
        if attention.window is None:
            whole += size
        else:
            windowed += size
            in_windows += size * (sequences * attention.window + options.max_num_batched_tokens)
    states = (("states of sequences", sequences * state),) if state else ()
    # A stage of linear layers alone still counts its blocks, of a byte a token.
    plain = _KvNeed(max(whole + windowed, 1) * options.block_size, states)
    if not windowed or not whole:
        return plain
    split = _KvNeed(whole * options.block_size, (*states, ("KV in windows", in_windows)))
    return max(plain, split, key=lambda need: need.blocks(free_bytes))


def activation_peak_bytes(instance: InstanceSpec, tp_size: int, *, last: bool) -> int:
    """Most that a forward pass holds beside weights and KV, at ``max_num_batched_tokens``.

    Two peaks that do not coincide: in an MLP the hidden state, the residual, the gate and up projections and
    their product, or with experts these for every pair of a token and an expert, and the pair's output; in the last
    stage the logits of a full batch in 32 bits, once more for the sampler.
    """
    model = instance.model
    size = activation_bytes(instance.dtype)
    tokens = instance.scheduler.max_num_batched_tokens
    shard = shard_of(instance, tp_size)
    mlp = tokens * size * max(_mlp_peak(model.hidden_size, kind.mlp, shard) for kind in model.kinds)
    if not last:
        return mlp
    sequences = min(instance.scheduler.max_num_seqs, tokens, _DEFAULT_PROFILED_SEQS)
    logits = sequences * model.vocab_size * (size + 4 * _LOGIT_COPIES)
    return max(mlp, logits + 2 * tokens * model.hidden_size * size)


def _mlp_peak(hidden: int, mlp: Mlp, shard: Shard) -> int:
    """Elements per token of a replica."""
    if isinstance(mlp, DenseMlp):
        return 3 * hidden + 3 * mlp.intermediate_size // shard.tp_size
    # With dp the tokens of all replicas meet; with ep each rank computes its share of their pairs.
    pairs = shard.dp_size * mlp.experts_per_token / shard.ep_size
    width = mlp.intermediate_size / shard.expert_split
    return round((2 + shard.dp_size) * hidden + pairs * (3 * width + hidden))


def _strand(stage: StageMemory, blocks: int) -> StageMemory:
    spare = max(stage.kv_blocks - blocks, 0) * stage.kv_bytes_per_block
    return StageMemory(
        capacity_bytes=stage.capacity_bytes,
        usable_bytes=stage.usable_bytes,
        weights_bytes=stage.weights_bytes,
        reserves=stage.reserves,
        kv_bytes_per_block=stage.kv_bytes_per_block,
        kv_blocks=stage.kv_blocks,
        stranded_bytes=spare,
    )


def _does_not_fit(instance: InstanceSpec, stages: list[StageMemory]) -> str:
    tightest = min(range(len(stages)), key=lambda stage: stages[stage].kv_blocks)
    stage = stages[tightest]
    reserved = sum(size for _, size in stage.reserves)
    where = f"stage {tightest} of {len(stages)}" if len(stages) > 1 else "the NPU"
    text = (
        f"{instance.model.name} in {instance.dtype} does not fit at tp {instance.tp_size} x pp {len(stages)}: "
        f"on {where} weights {stage.weights_bytes / GIB:.2f} GiB + reserves {reserved / GIB:.2f} GiB + two KV blocks "
        f"{2 * stage.kv_bytes_per_block / GIB:.3f} GiB > {stage.usable_bytes / GIB:.2f} GiB usable "
        f"({stage.capacity_bytes / GIB:g} GiB x {instance.memory_utilization:g})"
    )
    pp_size, tp_size = _smallest_pp(instance), _smallest_tp(instance, len(stages))
    ways = [] if pp_size is None else [f"pp {pp_size} at tp {instance.tp_size}"]
    if pp_size is not None and pp_size == len(stages):  # an uneven split was asked for
        ways = [f"{' + '.join(map(str, _even_counts(instance.model.num_layers, pp_size)))} layers"]
    ways += [f"tp {tp_size} at pp {len(stages)}"] if tp_size is not None else []
    return text + ("; would fit: " + " or ".join(ways) if ways else "; no pp or tp alone would make it fit")


def _smallest_pp(instance: InstanceSpec) -> int | None:
    for pp_size in range(1, instance.model.num_layers + 1):
        if _fits(instance, _even(instance, instance.tp_size, pp_size)):
            return pp_size
    return None


def _smallest_tp(instance: InstanceSpec, pp_size: int) -> int | None:
    whole = instance.experts.ep_size > 1
    for tp_size in range(1, _MOST_RANKS + 1):
        splits = instance.model.tensor_parallel_obstacle(tp_size, whole_experts=whole) is None
        if splits and _fits(instance, _even(instance, tp_size, pp_size)):
            return tp_size
    return None


def _fits(instance: InstanceSpec, shape: _Shape) -> bool:
    return all(_stage(instance, shape, stage).kv_blocks >= 2 for stage in range(len(shape.stages)))


def _even(instance: InstanceSpec, tp_size: int, pp_size: int) -> _Shape:
    model = instance.model
    return _Shape(tp_size, model.cut(_even_counts(model.num_layers, pp_size)))


def _even_counts(num_layers: int, pp_size: int) -> tuple[int, ...]:
    """vLLM's split, as ``pipeline.partition`` has it."""
    layers = [num_layers // pp_size] * pp_size
    for position in range(num_layers % pp_size):
        layers[-2 - position] += 1
    return tuple(layers)
