from __future__ import annotations

import json
import re

from fake_records import fake_deployment, fake_record, fake_turns

from penstock.accounting.bubbles import BubbleLedger
from penstock.recording.records import Rejection
from penstock.rendering.summary import build_summary, render_deployment, render_summary
from penstock.units import GIB

MS = 1_000_000


def test_counts_window_and_shares():
    record = fake_record([[50, 60, 75, 110], [40]], [10, 20])
    summary = build_summary(record, notices=["a notice"])
    assert (summary.requests.total, summary.requests.finished, summary.requests.rejected) == (2, 2, 0)
    assert (summary.first_arrival_ns, summary.last_completion_ns, summary.simulated_ns) == (10, 110, 100)
    stage = summary.instances[0].stages[0]
    assert (stage.busy_ns, stage.busy, stage.bubble, stage.idle) == (55, 0.55, 0.45, None)
    assert stage.kv_tokens == (79 * 1024 - 1) * 16
    assert summary.instances[0].kv_tokens == (78 * 1024 - 1) * 16
    assert json.loads(json.dumps(summary.to_json()))["instances"][0]["stages"][1]["weights_bytes"] == 9 * GIB


def test_with_a_ledger_busy_bubble_and_idle_make_the_window():
    chunk = fake_turns([{"tokens": 5}, {"tokens": 5}], [[(10, 30), (30, 70)], [(30, 50), (70, 110)]])
    ledger = BubbleLedger([2])
    ledger.accept(chunk)
    record = fake_record([[70, 110]], [0])
    summary = build_summary(record, bubbles=ledger.finish(0, 110))
    for stage in summary.instances[0].stages:
        assert stage.causes_ns is not None
        assert "busy" not in stage.causes_ns
        assert stage.idle is not None
        assert stage.idle == stage.causes_ns["idle"] / 110
    assert "while it had requests: busy" in render_summary(summary)


def test_no_finished_request_has_no_window_and_still_renders():
    refused = tuple(Rejection(i, 0, 5, 10**6, 1, f"prompt of {10**6} tokens") for i in range(25))
    summary = build_summary(fake_record([], [], rejections=refused))
    assert summary.last_completion_ns is None
    assert summary.latency.ttft is None
    assert summary.instances[0].stages[0].busy is None
    text = render_summary(summary)
    assert "25: 0 finished, 25 rejected" in text
    assert text.count("rejected: request ") == 20
    assert text.endswith("rejected: 5 more")
    assert "TTFT" not in text


def test_the_text_says_it_all_in_aligned_columns():
    record = fake_record(
        [[50 * MS, 60 * MS, 75 * MS], [40 * MS]],
        [10 * MS, 20 * MS],
        notes=("attention beyond the measured contexts: 3 steps",),
    )
    text = render_summary(build_summary(record, notices=["--run-id has no effect"]), wall_s=0.25)
    lines = text.splitlines()
    assert "wall time   0.250 s" in lines
    (ttft,) = (line for line in lines if line.startswith("TTFT"))
    assert re.split(r" {2,}", ttft) == ["TTFT", "ms", "30.00", "30.00", "38.00", "39.80", "40.00"]
    assert (
        "instance 0: meta-llama/Llama-3.1-8B, tp 1 x pp 2; 2 requests, KV capacity 1,277,936 tokens" in text
    )
    assert lines.count("rests on") == 1
    assert lines[lines.index("rests on") + 1].startswith("  attention: measured profile")
    assert "note: instance 0: attention beyond the measured contexts: 3 steps" in lines
    assert "--run-id" not in text  # said on stderr, and kept in summary.json
    head = next(i for i, line in enumerate(lines) if "stranded" in line)
    assert len({len(line) for line in lines[head + 1 : head + 3]}) == 1
    assert all(line == line.rstrip() for line in lines)
    assert "wall" not in render_summary(build_summary(record))


def test_many_instances_share_a_table_by_kind():
    deployments = tuple(fake_deployment(i, (16, 16) if i < 6 else (32,)) for i in range(8))
    record = fake_record([[50, 60]] * 8, [10] * 8, instances=list(range(8)), deployments=deployments)
    text = render_summary(build_summary(record))
    assert "6 instances, 0 to 5: meta-llama/Llama-3.1-8B, tp 1 x pp 2; shares are means; 6 requests" in text
    assert "2 instances, 6 to 7: meta-llama/Llama-3.1-8B, tp 1 x pp 1; shares are means; 2 requests" in text
    assert text.count("stranded") == 2


def test_a_deployment_shows_every_stages_memory():
    text = render_deployment(fake_deployment(3))
    lines = text.splitlines()
    assert lines[0] == "instance 3: meta-llama/Llama-3.1-8B, tp 1 x pp 2"
    assert "activations" in lines[1]
    assert re.split(r" {2,}", lines[2].strip()) == [
        "0", "RTXPRO6000", "16", "90.00 of 96.00", "8.00", "2.00", "1.00", "1,294,320", "1.00",
    ]  # fmt: skip
    assert "KV capacity 1,277,936 tokens in 79,871 blocks of 16" in text
