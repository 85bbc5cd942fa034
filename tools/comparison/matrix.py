"""The runs that two checkouts are compared by: small, deterministic, and one for each habit of the simulator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROUTERS = ("LOAD", "RR", "RAND", "P2C", "LOT", "PREFIX")
POLICIES = (
    "decode-cap",
    "decode-cap(cap=3)",
    "all-cap",
    "gllm",
    "sglang",
    "sglang(micro_batch=4)",
    "sglang-dynamic",
)

EXACT = """
import sys, penstock
result = penstock.simulate(sys.argv[1], sys.argv[2], exact_only=sys.argv[3] == "exact", max_num_seqs=12)
result.save("results")
result.requests.write_csv("requests.csv")
"""

STUDY = """\
model: meta-llama/Llama-3.1-8B
generate: {num_requests: 40, input_toks: "lognormal:400,0.6", output_toks: "uniform:4,20"}
slo: ttft_p90<150ms,tpot_p90<25ms
objectives: [goodput_per_gpu, cost_per_million_tokens, gpus]
tolerance: 0.2
search: {early_stop: null}
space: {hardware: [H100], gpus: [1, 2], tp: [1, 2], pp: [1, 2]}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """Command lines run one after the other in a directory of their own. The first word of each is
    ``penstock``, ``serving`` (``python -m serving``) or ``python`` (a script's text, then its arguments)."""

    name: str
    commands: tuple[tuple[str, ...], ...]


class Matrix:
    """Writes cluster configs into ``inputs`` and lists the cases that use them."""

    def __init__(self, inputs: Path, workloads: dict[str, Path], shared: Path | None) -> None:
        self._inputs = inputs
        self._workloads = workloads
        self._shared = shared
        inputs.mkdir(parents=True, exist_ok=True)

    def cases(self) -> list[Case]:
        """All of them, each name once."""
        found = [
            *self._shapes(),
            *self._scheduling(),
            *self._memory(),
            *self._policies(),
            *self._several(),
            *self._networks(),
            *self._costs(),
            *self._formats(),
            *self._commands(),
        ]
        assert len({case.name for case in found}) == len(found)
        return found

    # --- what the cases are made of

    def _cluster(self, name: str, *instances: dict[str, Any], nodes: int = 1, **top: Any) -> str:
        """Write a config; instances stand in node 0 unless they name another under ``node``."""
        entries: list[list[dict[str, Any]]] = [[] for _ in range(nodes)]
        for one in instances:
            entries[one.get("node", 0)].append({key: value for key, value in one.items() if key != "node"})
        config = {
            "num_nodes": nodes,
            "link_bw": [16, 3],
            "link_latency": [20000, 50000],
            "nodes": [{"num_instances": len(entry), "instances": entry} for entry in entries],
            **top,
        }
        path = self._inputs / f"{name}.json"
        path.write_text(json.dumps(config, indent=1), encoding="utf-8")
        return str(path)

    def _run(
        self,
        name: str,
        workload: str,
        *instances: dict[str, Any],
        flags: str = "",
        program: str = "penstock",
        nodes: int = 1,
        **top: Any,
    ) -> Case:
        """A run that writes everything there is to write."""
        cluster = self._cluster(name, *(instances or (instance(),)), nodes=nodes, **top)
        return Case(name, (self._command(cluster, str(self._workloads[workload]), flags, program),))

    def _command(self, cluster: str, dataset: str, flags: str, program: str = "penstock") -> tuple[str, ...]:
        outputs = "--output run.csv --results results --trace trace.json --report report.html"
        interval = "" if "--log-interval" in flags else "--log-interval 0.5"
        given = f"{outputs} {interval} {flags}".split()
        head = (program, "run") if program == "penstock" else (program,)
        return (*head, "--cluster-config", cluster, "--dataset", dataset, *given)

    # --- the cases

    def _shapes(self) -> Iterator[Case]:
        for pp_size in (1, 2, 4, 8):
            yield self._run(f"pp{pp_size}", "steady", instance(pp=pp_size))
        yield self._run("pp4-dense", "dense", instance(pp=4))
        yield self._run("pp4-burst", "burst", instance(pp=4))
        yield self._run("pp2-short", "short", instance(pp=2))
        yield self._run("tp2", "steady", instance(tp=2))
        yield self._run("tp4", "dense", instance(tp=4))
        yield self._run("tp2-pp2", "steady", instance(tp=2, pp=2))
        yield self._run("tp2-pp4-burst", "burst", instance(tp=2, pp=4))
        yield self._run("uneven-partition", "dense", instance(pp=4, pp_layer_partition=[10, 8, 8, 6]))
        yield self._run("auto-partition", "dense", instance(pp=4, pp_layer_partition="auto"))
        yield self._run("qwen3-pp4", "steady", instance(pp=4, tp=2, model_name="Qwen/Qwen3-32B"))

    def _scheduling(self) -> Iterator[Case]:
        small = {"max_num_seqs": 12, "max_num_batched_tokens": 512}
        yield self._run("max-num-seqs", "dense", instance(pp=2, max_num_seqs=10))
        yield self._run("unlimited", "burst", instance(pp=2, max_num_seqs=0, max_num_batched_tokens=0))
        yield self._run("long-prompts-chunked", "long", instance(pp=4, max_num_batched_tokens=1024))
        yield self._run("small-budget", "long", instance(pp=2, **small))
        whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": 16384, "max_model_len": 16384}
        yield self._run("chunking-off", "long", instance(pp=2, **whole))
        yield self._run("prefill-threshold", "long", instance(pp=2, long_prefill_token_threshold=300))
        yield self._run("in-flight-1", "dense", instance(pp=4, max_in_flight=1))
        yield self._run("in-flight-6", "dense", instance(pp=4, max_in_flight=6))
        yield self._run("no-idle-sleep", "steady", instance(pp=2, engine_idle_sleep_ns=0))
        overhead = {
            "schedule_ns": 300_000,
            "update_ns": 150_000,
            "ipc_to_first_stage_ns": 90_000,
            "ipc_from_last_stage_ns": 70_000,
            "prefill_step_ns": 400_000,
        }
        yield self._run("engine-overhead", "dense", instance(pp=4, engine_overhead=overhead))
        for pp_size in (1, 2, 4):
            asynchronous = instance(pp=pp_size, async_scheduling=True)
            yield self._run(f"async-pp{pp_size}", "dense", asynchronous)
        yield self._run("async-small", "long", instance(pp=2, async_scheduling=True, **small))
        yield self._run(
            "async-overhead", "steady", instance(pp=2, async_scheduling=True, engine_overhead=overhead)
        )

    def _memory(self) -> Iterator[Case]:
        for pp_size in (1, 2, 4):
            tight = instance(pp=pp_size, num_gpu_blocks=160)
            yield self._run(f"preemption-pp{pp_size}", "growing", tight)
        tight = {"num_gpu_blocks": 200, "pp": 2}
        yield self._run("preemption-watermark", "growing", instance(**tight, watermark=0.1))
        yield self._run("preemption-not-reserved", "growing", instance(**tight, reserve_full_isl=False))
        yield self._run("preemption-uncached", "growing", instance(**tight, enable_prefix_caching=False))
        yield self._run("preemption-async", "growing", instance(**tight, async_scheduling=True))
        yield self._run("preemption-prefixes", "prefixes", instance(pp=2, num_gpu_blocks=300))
        yield self._run("rejected", "oversized", instance(pp=2, num_gpu_blocks=200))
        yield self._run("max-model-len", "oversized", instance(pp=2, max_model_len=2048))
        yield self._run("block-size", "growing", instance(pp=2, block_size=32, num_gpu_blocks=120))
        yield self._run("fp8", "steady", instance(pp=2, dtype="fp8", kv_cache_dtype="fp8", hardware="H100"))
        yield self._run("utilization", "steady", instance(pp=2), flags="--npu-memory-utilization 0.5")
        yield self._run("prefixes", "prefixes", instance(pp=2))
        yield self._run("prefixes-async", "prefixes", instance(pp=2, async_scheduling=True))
        yield self._run("prefixes-off", "prefixes", instance(pp=2, enable_prefix_caching=False))
        yield self._run("conversations", "conversations", instance(pp=4))

    def _policies(self) -> Iterator[Case]:
        for number, policy in enumerate(POLICIES):
            workload = "burst" if number % 2 else "long"
            yield self._run(f"policy-{policy}", workload, instance(pp=4, policy=policy, max_num_seqs=24))
        yield self._run("policy-preemption", "growing", instance(pp=2, policy="gllm", num_gpu_blocks=200))

    def _several(self) -> Iterator[Case]:
        for router in ROUTERS:
            trio = [instance(pp=2), instance(pp=2), instance(pp=1, max_num_seqs=32)]
            yield self._run(f"router-{router}", "dense", *trio, flags=f"--router {router} --seed 7")
        pair = [instance(pp=2), instance(pp=2)]
        yield self._run("router-prefixes", "prefixes", *pair, flags="--router PREFIX")
        yield self._run("sessions", "sessions", instance(pp=2))
        yield self._run("sessions-two", "sessions", *pair, flags="--router LOT")
        yield self._run("conversations-two", "conversations", *pair, flags="--router PREFIX")
        yield self._run("replicas-8", "dense", *[instance() for _ in range(8)])

    def _networks(self) -> Iterator[Case]:
        apart = instance(pp=4, tp=2, placement_nodes=[0, 0, 1, 1])
        yield self._run("two-nodes", "dense", apart, nodes=2)
        yield self._run("blocking-sends", "dense", instance(pp=4, blocking_sends=True), link_latency=900000)
        yield self._run("one-tensor", "dense", instance(pp=4, activation_tensors=1))
        spread = [
            instance(pp=2, placement_nodes=[0, 1]),
            instance(pp=4, placement_nodes=[0, 1, 0, 1]),
            instance(pp=2, placement_nodes=[1, 0], node=1),
        ]
        yield self._run("shared-links", "dense", *spread, nodes=2, shared_node_links=True)
        yield self._run("shared-links-burst", "burst", *spread[:2], nodes=2, shared_node_links=True)
        slow = {"link_bw": [0.05, 0.01], "link_latency": [200_000, 800_000]}
        yield self._run("slow-links", "steady", apart, nodes=2, **slow)
        yield self._run("link-class", "steady", instance(pp=2, tp=2, hardware="H100"), link_class="nvlink4")

    def _costs(self) -> Iterator[Case]:
        mixed = instance(pp=2, stage_hardware=["H100", "L40S"], hardware="H100")
        yield self._run("mixed-stages", "dense", mixed)
        measured = instance(pp=2, stage_hardware=["RTXPRO6000", "RTX4090"])
        yield self._run("mixed-measured", "steady", measured)
        yield self._run("roofline", "dense", instance(pp=2, hardware="H200"))
        yield self._run("fit-a6000", "steady", instance(pp=2, hardware="A6000"))
        if self._shared is not None:
            root = self._shared / "data" / "llmservingsim" / "perf"
            if root.is_dir():
                flags = f"--profile-root {root}"
                yield self._run("bundle", "dense", instance(pp=2), flags=flags)
                yield self._run("bundle-rtx4090", "steady", instance(pp=2, hardware="RTX4090"), flags=flags)

    def _formats(self) -> Iterator[Case]:
        yield self._run("azure", "azure", instance(pp=2))
        yield self._run("mooncake", "mooncake", instance(pp=2))
        yield self._run("mooncake-gz", "mooncake-gz", instance(pp=2), flags="--num-reqs 15")
        yield self._run("mixed-lines", "mixed", instance(pp=4))
        yield self._run("unordered", "unordered", instance(pp=2))
        serving = "--dtype float16 --block-size 16 --network-backend analytical --run-id x"
        yield self._run("serving", "steady", instance(pp=2), flags=serving, program="serving")
        yield self._run("serving-no-itl", "steady", instance(), flags="--no-itl", program="serving")
        yield self._run("record-requests", "steady", instance(pp=2), flags="--record requests")
        yield self._run("record-steps", "steady", instance(pp=2), flags="--record steps --log-interval 0")
        yield self._run("trace-window", "steady", instance(pp=2), flags="--trace-window 1s:2s")
        yield self._run("fine-log", "steady", instance(pp=2), flags="--log-interval 0.01")
        yield self._run("coarse-log", "sessions", instance(pp=2), flags="--log-interval 1000000")
        cluster = self._cluster("generated", instance(pp=2))
        for name, recipe in {
            "poisson": "--rate 12 --preset sharegpt --max-output 90",
            "gamma": "--rate 12 --arrivals gamma --burstiness 0.3 --input-toks uniform:5,800 --output-toks zipf:2,80",
            "turns": "--rate 3 --turns uniform:1,4 --input-toks fixed:90 --output-toks fixed:30 --tool-duration-ms 40",
            "prefixes": "--arrivals burst --input-toks lognormal:200,0.8 --output-toks fixed:20 "
            "--prefix-groups 3 --prefix-tokens 600",
        }.items():
            make = ("penstock", "workload", "generate", "--num-requests", "40", *recipe.split())
            run = self._command(cluster, "made.jsonl", "")
            yield Case(f"generated-{name}", ((*make, "--seed", "5", "--output", "made.jsonl"), run))

    def _commands(self) -> Iterator[Case]:
        cluster = self._cluster("commands", instance(pp=2, max_num_seqs=32))
        steady = str(self._workloads["steady"])
        for mode in ("exact", "cohorts"):
            for workload in ("dense", "growing"):
                arguments = (EXACT, cluster, str(self._workloads[workload]), mode)
                yield Case(f"python-{mode}-{workload}", (("python", *arguments),))
        yield Case("advise", (("penstock", "advise", cluster, "--dataset", steady, "--json"),))
        slo = ("--slo", "ttft_p90<300ms,tpot_p90<40ms", "--seeds", "2", "--tolerance", "0.1")
        files = ("--curve", "curve.csv", "--output", "capacity.json")
        yield Case("capacity", (("penstock", "capacity", cluster, "--dataset", steady, *slo, *files),))
        study = self._inputs / "study.yaml"
        study.write_text(STUDY, encoding="utf-8")
        yield Case("explore", (("penstock", "explore", str(study), "--output", "found", "--workers", "1"),))
        info = ("penstock", "workload", "info", str(self._workloads["sessions"]), "--json")
        convert = ("penstock", "workload", "convert", str(self._workloads["mooncake"]), "-o", "out.jsonl")
        yield Case("workload-files", (info, convert))
        wrong = self._cluster("wrong", instance(pp=3, tp=5, max_num_seqs=-1, polcy="gllm"))
        mistakes = ("--dataset", "absent.jsonl", "--dtype", "fp61", "--max-num-seqs", "x", "--router", "LODA")
        yield Case("mistakes", (("penstock", "run", "--cluster-config", wrong, *mistakes),))


def instance(*, pp: int = 1, tp: int = 1, **members: Any) -> dict[str, Any]:
    """An entry of ``instances``; 96 GB per device unless the hardware is one with less."""
    sizes = {"A6000": 48, "RTX4090": 24, "H100": 80}
    size = sizes.get(members.get("hardware", ""), 96)
    return {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "RTXPRO6000",
        "npu_mem": {"mem_size": size, "mem_bw": 1597, "mem_latency": 0},
        "num_npus": tp * pp,
        "tp_size": tp,
        "pp_size": pp,
        "pd_type": None,
        **members,
    }
