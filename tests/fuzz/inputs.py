"""A small valid input of every kind that a command reads, and the command that reads it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from fuzz import clusters
from fuzz.benchmarks import (
    AIPERF,
    CALIBRATION,
    GUIDELLM,
    MEASURED,
    SERVING_CSV,
    SIMULATED_CSV,
    SIMULATED_LOG,
    TIME_SERIES,
    server_log,
    vllm_bench,
)
from fuzz.clusters import CLUSTER, MODEL
from fuzz.kind import Kind, document, lines
from fuzz.made import TOKENIZER, TOKENIZER_CONFIG, made
from fuzz.profiles import BUNDLE, EXPERTS, OLD_ATTENTION, OLD_LAYERS, VIDUR, bundle, network, real_turns
from fuzz.recordings import APART, GROUP, META, REAL_RUN, REAL_SUMMARY, RECORDING, TIER
from fuzz.studies import CHAT_STUDY, STUDY
from fuzz.workloads import AZURE, CONVERSATIONS, FLAT, MOONCAKE, SESSION

RUN = "run --cluster-config c.json --dataset w.jsonl --log-interval 0 --output o.csv"


@cache
def kinds() -> tuple[Kind, ...]:
    """All of them."""
    import yaml

    base = {"c.json": document(CLUSTER), "w.jsonl": lines(FLAT)}
    run = RUN
    found: list[Kind] = []

    def add(name: str, line: str, files: Mapping[str, bytes], mutated: Sequence[str], **more: Any) -> None:
        found.append(Kind(name, line, {**base, **files}, tuple(mutated), **more))

    add("cluster", run, {}, ["c.json"])
    add("workload", "workload info w.jsonl", {"w.jsonl": lines([*FLAT, SESSION, MOONCAKE])}, ["w.jsonl"])
    add("packed workload", "workload convert w.gz -o o.jsonl", {"w.gz": gzip.compress(lines(FLAT))}, ["w.gz"])
    add("azure", "workload info a.csv", {"a.csv": AZURE.encode()}, ["a.csv"])
    add("study", "explore s.yaml -o r --workers 1", {"s.yaml": yaml.safe_dump(STUDY).encode()}, ["s.yaml"])
    for name, recording in (("recording", RECORDING), ("group", GROUP), ("apart", APART), ("tier", TIER)):
        line = "validate schedule r.json --dump o.jsonl"
        add(name, line, {"r.json": document(recording)}, ["r.json"], differs=True)
    packed = {"r/a.jsonl.gz": gzip.compress(lines([RECORDING])), "r/b.json": document(TIER)}
    add("recordings", "validate schedule r --dump o.jsonl", packed, sorted(packed), differs=True)
    own = json.loads(document(CLUSTER).replace(b"meta-llama/Llama-3.1-8B", b"m.json"))
    own["nodes"][0]["instances"][0]["pp_layer_partition"] = [2, 2]
    add("model", run, {"m.json": document(MODEL), "c.json": document(own)}, ["m.json"])
    bench = "validate bench c.json --bench b.json --json o.json"
    add("vllm bench", bench, {"b.json": document(vllm_bench(3))}, ["b.json"])
    add("guidellm", bench, {"b.json": document(GUIDELLM)}, ["b.json"])
    add("serving csv", bench, {"b.json": SERVING_CSV.encode()}, ["b.json"])
    add("request times", bench, {"b.json": lines(MEASURED)}, ["b.json"])
    add(
        "server log",
        f"{bench} --log l.log",
        {"b.json": document(vllm_bench(3)), "l.log": server_log(3).encode()},
        ["l.log"],
    )
    add(
        "measured run",
        "validate measured m --dataset w.jsonl --plot o.html",
        {
            "m/cluster.json": document(CLUSTER),
            "m/meta.json": document(META),
            "m/requests.jsonl": lines(MEASURED),
        },
        ["m/meta.json", "m/requests.jsonl"],
    )
    real = {f"real/{name}.jsonl.gz": gzip.compress(lines(rows)) for name, rows in REAL_RUN.items()}
    real["real/summary.json"] = document(REAL_SUMMARY)
    add("real run", "validate pipeline real", real, sorted(real), differs=True)
    add("bundle", f"{run} --profile-root p", bundle(), sorted(bundle()))
    add("bundle to fit", f"profile fit {BUNDLE} -o o.json", bundle(), sorted(bundle()))
    for further in (_clusters, _other_profiles, _made, _commands, _upstream):
        further(add)
    return tuple(found)


def _clusters(add: Any) -> None:
    """Every member of a cluster config, each in its way."""
    models = {
        "mixture.json": document(clusters.MIXTURE),
        "latent.json": document(clusters.LATENT),
        clusters.PIM_FILE: clusters.PIM.encode(),
    }
    for name, config in (
        ("two nodes", clusters.two_nodes()),
        ("apart cluster", clusters.apart()),
        ("tiers", clusters.tiers()),
        ("placed", clusters.placed()),
        ("in memory", clusters.in_memory()),
        ("ranks", clusters.ranks()),
        ("grouped", clusters.grouped()),
    ):
        add(name, f"{RUN} --report o.html", {**models, "c.json": document(config)}, ["c.json"])
    latent = {**models, "c.json": document(clusters.ranks("latent.json"))}
    add("latent model", RUN, latent, ["latent.json"])
    add("mixture", RUN, {**models, "c.json": document(clusters.grouped())}, ["mixture.json"])
    experts = {
        **models,
        **bundle(),
        "p/H100/moe_perf.csv": EXPERTS.encode(),
        "c.json": document(clusters.grouped()),
    }
    add("experts", f"{RUN} --profile-root p", experts, ["p/H100/moe_perf.csv"])
    in_memory = {**models, "c.json": document(clusters.in_memory())}
    add("pim file", RUN, in_memory, [clusters.PIM_FILE])


def _other_profiles(add: Any) -> None:
    """Layouts that ``penstock profile`` reads."""
    old = {"old/tp1/layers.csv": OLD_LAYERS.encode(), "old/tp1/attention.csv": OLD_ATTENTION.encode()}
    add("old profile", "profile import old -o q --hardware H100 --model a/b", old, sorted(old))
    vidur = {"mlp.csv": VIDUR.encode()}
    add("vidur profile", "profile import mlp.csv -o q --hardware H100 --model a/b", vidur, sorted(vidur))
    add("links", "profile network net -o o.json", network(), sorted(network()))
    add("real turns", "validate schedule t", real_turns(), sorted(real_turns()), differs=True)
    one = {**bundle(), **{name.replace("p/", "perf/perf/", 1): data for name, data in bundle().items()}}
    add("profiles to calibrate", "profile calibrate perf -o o.json", one, sorted(one)[-4:])


def _made(add: Any) -> None:
    """What Penstock writes, read again."""
    base = {"c.json": document(CLUSTER), "w.jsonl": lines(FLAT)}
    results = made(base, "run --cluster-config c.json --dataset w.jsonl --log-interval 0 --results A", "A/")
    results |= {name.replace("A/", "B/", 1): data for name, data in results.items()}
    add(
        "results",
        "compare A B --report o.html",
        results,
        [name for name in sorted(results) if name[0] == "A"],
    )
    study = {"s.yaml": json.dumps(STUDY).encode()}
    journal = made({**base, **study}, "explore s.yaml -o r --workers 1", "r/results.jsonl")
    explore = "explore s.yaml -o r --workers 1"
    add("journal", explore, {**study, **journal}, sorted(journal), goes_on_in="r/results.jsonl")
    calibration = {"cal.json": document(CALIBRATION)}
    add("calibration", f"{RUN} --calibration cal.json", calibration, ["cal.json"])
    searched = {**study, **calibration}
    add("study calibration", f"{explore} --calibration cal.json", searched, ["cal.json", "s.yaml"])


def _commands(add: Any) -> None:
    """The commands that read a cluster, a workload or a search in ways of their own."""
    mixture = {"mixture.json": document(clusters.MIXTURE)}
    add(
        "aiperf",
        "validate bench c.json --bench b.json --json o.json",
        {"b.json": lines([AIPERF] * 3)},
        ["b.json"],
    )
    bench = {"b.json": document(vllm_bench(24)), "l.log": server_log(24).encode()}
    add("calibrate", "calibrate c.json --bench b.json --log l.log -o o.json", bench, ["b.json", "l.log"])
    sent = {"b.json": document(vllm_bench(3)), "cal.json": document(CALIBRATION)}
    sent["w.jsonl"] = lines([{**row, "input_tok_ids": list(range(row["input_toks"]))} for row in FLAT[:3]])
    line = "validate bench c.json --bench b.json --dataset w.jsonl --calibration cal.json --report o.html"
    add("what was sent", line, sent, ["w.jsonl", "cal.json", "c.json"])
    chat = {"s.yaml": json.dumps(CHAT_STUDY).encode(), **mixture}
    add("chat study", "explore s.yaml -o r --workers 1", chat, ["s.yaml"])
    question = "size --model mixture.json --rate 5 --slo ttft_p99<9s --hardware H100:1 --workload w.jsonl"
    rest = "--max-requests 100 --workers 1 --report o.html -o r"
    add("size", f"{question} {rest}", mixture, ["mixture.json", "w.jsonl"])
    both = {**mixture, "c.json": document(clusters.two_models()), "w.jsonl": lines(clusters.NAMED)}
    add("two models", RUN, both, ["c.json", "w.jsonl"])
    slo = "--slo ttft_p99<9s --max-requests 100"
    add("capacity", f"capacity c.json --dataset w.jsonl {slo} --output o.json", {}, ["c.json", "w.jsonl"])
    add("advise", "advise c.json --dataset w.jsonl --report o.html", {}, ["c.json", "w.jsonl"])
    add("chakra", "export chakra c.json --dataset w.jsonl --output et", {}, ["c.json", "w.jsonl"])
    add(
        "mix",
        "workload mix --part w.jsonl:1 --part a.csv:2:1 -n 5 -o o.jsonl",
        {"a.csv": AZURE.encode()},
        ["w.jsonl", "a.csv"],
    )
    sampled = "workload generate -n 5 --lengths-from w.jsonl -o o.jsonl"
    add("lengths", sampled, {"w.jsonl": lines([*FLAT, SESSION, MOONCAKE])}, ["w.jsonl"])
    tokenizer = {
        "tok/tokenizer.json": TOKENIZER.encode(),
        "tok/tokenizer_config.json": TOKENIZER_CONFIG.encode(),
    }
    served = "serve c.json --port 0 --tokenizer tok --record rec"
    add("served", served, tokenizer, ["c.json", *sorted(tokenizer)])


def _upstream(add: Any) -> None:
    """What LLMServingSim's bench and generators read."""
    run = {
        "m/meta.json": document(META),
        "m/requests.jsonl": lines(MEASURED),
        "m/timeseries.csv": TIME_SERIES.encode(),
        "s.csv": SIMULATED_CSV.encode(),
        "s.log": SIMULATED_LOG.encode(),
    }
    line = "llmservingsim bench validate --bench-dir m --sim-csv s.csv --sim-log s.log"
    add("simulated run", line, run, sorted(run))
    chats = {"chats.json": document(CONVERSATIONS), "tok/tokenizer.json": TOKENIZER.encode()}
    line = "llmservingsim generators sharegpt --num-reqs 3 --sps 1 --output o.jsonl --source chats.json --model tok"
    add("conversations", line, chats, ["chats.json"])


OPTIONS = (
    "workload generate -n 5 --input-toks fixed:3 --output-toks uniform:1,4 --rate 2 --seed 3 -o o.jsonl",
    "workload generate -n 5 --preset sharegpt --arrivals mmpp --bursts 4,0.1,30 --rate-curve day:60 -o o.jsonl",
    "workload generate -n 5 --preset sharegpt --turns 2 --tool-duration-ms 3 --prefix-groups 2 --prefix-tokens 9",
    "workload generate -n 5 --preset sharegpt --priorities 0:20,5:80 --max-input 100 --max-output 9 --burstiness 2",
    "run --cluster-config c.json --dataset w.jsonl --log-interval 0 --router LOAD --max-num-seqs 4 --seed 1 --output o",
    "run --cluster-config c.json --dataset w.jsonl --log-interval 1 --request-rate 3 --trace o --trace-window 0s:1s",
    "advise c.json --dataset w.jsonl --option x=3",
    "size --model meta-llama/Llama-3.1-8B --rate 1 --slo ttft_p99<2s --hardware H1:1 --workload w.jsonl -o r",
)
"""Command lines whose words are mutated."""
