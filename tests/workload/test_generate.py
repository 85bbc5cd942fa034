"""Generated workloads: the right means, the same bytes, prefixes and sessions that hang together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import UserError
from penstock.workload.formats import load_workload
from penstock.workload.generate import PRESETS, Recipe, generate
from penstock.workload.lengths import Lengths, parse_lengths
from penstock.workload.priorities import parse_priorities
from penstock.workload.workload import Workload
from penstock.workload.writer import lines


def lengths(text: str) -> Lengths:
    return parse_lengths(text, "--input-toks")


def recipe(**changes: object) -> Recipe:
    settings: dict[str, object] = {
        "num_requests": 20_000,
        "input_tokens": lengths("fixed:8"),
        "output_tokens": lengths("fixed:4"),
        **changes,
    }
    return Recipe(**settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "mean", "cv"),
    [
        ("fixed:77", 77, 0),
        ("uniform:1,199", 100, 199 / np.sqrt(12) / 100),
        ("lognormal:860,0.62", 860, 0.62),
        ("lognormal:cv=0.15,mean=650", 650, 0.15),
        ("zipf:1,4096,mean=500", 500, None),
        ("zipf:10,20,0", 15, np.sqrt(10) / 15),
    ],
)
def test_lengths_have_the_mean_and_variation_asked_for(text: str, mean: float, cv: float | None) -> None:
    drawn = lengths(text).sample(np.random.default_rng(7), 100_000)
    assert drawn.mean() == pytest.approx(mean, rel=0.03)
    if cv is not None:
        assert drawn.std() / drawn.mean() == pytest.approx(cv, rel=0.03)
    assert drawn.min() >= 1


def test_zipf_weights_fall_as_the_power_theta() -> None:
    drawn = lengths("zipf:1,4,1").sample(np.random.default_rng(7), 120_000)
    counts = np.bincount(drawn)[1:] / 120_000
    assert counts == pytest.approx(np.array([12, 6, 4, 3]) / 25, rel=0.03)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lognorm:5", "unknown kind 'lognorm'; did you mean 'lognormal'?"),
        ("lognormal", "lognormal needs mean"),
        ("lognormal:x", "mean must be a number, got 'x'"),
        ("lognormal:nan", "mean must be finite"),
        ("lognormal:5,-1", "cv must be from 0 to 1000"),
        ("lognormal:5,1,1", "lognormal takes at most 2 parameters"),
        ("lognormal:5,cw=1", "no parameter 'cw'; did you mean 'cv'?"),
        ("fixed:1.5", "tokens must be a whole number"),
        ("uniform:9,3", "low 9 is above high 3"),
        ("zipf:1,9,mean=10", "mean 10 must lie between"),
        ("zipf:1,9,theta=1,mean=5", "theta or mean, not both"),
    ],
)
def test_bad_lengths_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UserError, match="--input-toks: ") as caught:
        lengths(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arrivals", "burstiness", "cv"), [("poisson", 1, 1), ("gamma", 0.25, 2), ("gamma", 4, 0.5)]
)
def test_gaps_have_the_rate_and_variation_asked_for(arrivals: str, burstiness: float, cv: float) -> None:
    times = generate(recipe(arrivals=arrivals, rate_per_s=50.0, burstiness=burstiness)).arrival_ns
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(2e7, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)
    assert gaps.min() >= 0


def test_constant_and_burst_arrivals_are_exact() -> None:
    assert generate(recipe(num_requests=4, arrivals="constant", rate_per_s=8.0)).arrival_ns.tolist() == [
        0,
        125_000_000,
        250_000_000,
        375_000_000,
    ]
    assert not generate(recipe(num_requests=4, arrivals="burst")).arrival_ns.any()


def test_one_seed_gives_one_file_and_parts_draw_apart() -> None:
    base = recipe(num_requests=50, input_tokens=lengths("lognormal:50"), seed=3)
    assert list(lines(generate(base))) == list(lines(generate(base)))
    other = recipe(num_requests=50, input_tokens=lengths("lognormal:50"), seed=4)
    assert list(lines(generate(base))) != list(lines(generate(other)))
    longer = recipe(
        num_requests=50, input_tokens=lengths("lognormal:50"), output_tokens=lengths("uniform:1,9"), seed=3
    )
    assert generate(base).arrival_ns.tolist() == generate(longer).arrival_ns.tolist()
    assert generate(base).input_tokens.tolist() == generate(longer).input_tokens.tolist()


def test_lengths_from_a_trace_stay_pairs_and_are_clamped() -> None:
    trace = Workload.from_columns([0, 0, 0], [10, 20, 300], [1, 2, 3], "test")
    drawn = generate(
        Recipe(num_requests=200, sample_from=trace, max_input=100),
    )
    pairs = set(zip(drawn.input_tokens.tolist(), drawn.output_tokens.tolist(), strict=True))
    assert pairs == {(10, 1), (20, 2), (100, 3)}
    fixed = generate(
        Recipe(num_requests=20, sample_from=trace, output_tokens=lengths("fixed:9"), max_output=5)
    )
    assert set(fixed.output_tokens.tolist()) == {5}


def test_requests_of_a_group_share_their_prefix_and_nothing_else() -> None:
    workload = generate(recipe(num_requests=40, prefix_groups=3, prefix_tokens=16))
    assert set(workload.input_tokens.tolist()) == {24}
    prompts = [tuple(r.input_ids or ()) for r in workload.requests()]
    assert len({prompt[:16] for prompt in prompts}) == 3
    assert len({prompt[16:] for prompt in prompts}) == 40


def test_a_call_of_a_session_continues_the_conversation() -> None:
    workload = generate(
        recipe(num_requests=5, turns=lengths("fixed:3"), token_ids=True, tool_duration_ns=11, max_input=30)
    )
    assert (len(workload), workload.num_sessions) == (10, 5)  # a third call would need 32 tokens
    for first in workload.requests():
        second = workload.next_call(first.index, 100)
        assert second is not None
        assert second.arrival_ns == 111
        assert first.input_ids is not None
        assert first.output_ids is not None
        assert second.input_ids is not None
        assert second.input_tokens == 8 + 4 + 8
        assert second.input_ids[:12] == first.input_ids + first.output_ids


def test_sessions_without_ids_have_the_same_lengths_as_with() -> None:
    plain = generate(recipe(num_requests=5, turns=lengths("uniform:1,4")))
    with_ids = generate(recipe(num_requests=5, turns=lengths("uniform:1,4"), token_ids=True))
    assert plain.input_tokens.tolist() == with_ids.input_tokens.tolist()
    assert not plain.has_token_ids


def test_priorities_have_the_shares_asked_for_and_change_nothing_else() -> None:
    made = generate(recipe(priorities=parse_priorities("-1:1,4:3", "--priorities")))
    values, counts = np.unique(made.priority, return_counts=True)
    assert values.tolist() == [-1, 4]
    assert counts[0] / len(made) == pytest.approx(0.25, rel=0.05)
    assert made.arrival_ns.tolist() == generate(recipe()).arrival_ns.tolist()


def test_all_calls_of_a_session_have_one_priority() -> None:
    made = generate(recipe(num_requests=30, turns=lengths("fixed:3"), priorities={0: 1, 1: 1}))
    by_session = made.priority.reshape(30, 3)
    assert (by_session == by_session[:, :1]).all()
    assert set(by_session[:, 0].tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("high", ["must be priority:share,... as in '0:20,5:80', got 'high'"]),
        ("0:1,0:2,x:1", ["priority 0 stands twice", "a whole number, a colon and a number, got 'x:1'"]),
        ("0:-1", ["share of priority 0 must be a number >= 0, got '-1'"]),
        ("0:nan", ["share of priority 0 must be a number >= 0, got 'nan'"]),
        ("2147483648:1", ["priority must be from -2147483647 to 2147483647, got 2147483648"]),
        ("0:0,1:0", ["the shares must not all be 0"]),
    ],
)
def test_bad_shares_say_what_is_wrong(text: str, messages: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_priorities(text, "--priorities")
    assert [(p.where, p.message) for p in caught.value.problems] == [("--priorities", m) for m in messages]


def test_all_wrong_settings_are_reported_at_once() -> None:
    wrong = Recipe(
        num_requests=0,
        arrivals="poison",
        rate_per_s=float("nan"),
        prefix_groups=2,
        max_input=0,
        priorities={0: 0, 1: -1},
    )
    with pytest.raises(UserError) as caught:
        generate(wrong)
    options = [problem.where for problem in caught.value.problems]
    assert options == [
        "--num-requests",
        "--arrivals",
        "--rate",
        "--priorities",
        "--prefix-tokens",
        "--max-input",
        "--input-toks",
        "--output-toks",
    ]
    assert "did you mean 'poisson'" in str(caught.value)


def test_the_sharegpt_preset_has_the_measured_means(shared_dir: Path) -> None:
    measured = load_workload(
        shared_dir / "data/llmservingsim/workloads/sharegpt-llama-3.1-8b-300-sps10.jsonl"
    )
    preset = PRESETS["sharegpt"]
    for drawn, real in (
        (preset.input_tokens, measured.input_tokens),
        (preset.output_tokens, measured.output_tokens),
    ):
        assert drawn.parameters["mean"] == pytest.approx(real.mean(), rel=0.01)
        assert drawn.parameters["cv"] == pytest.approx(real.std() / real.mean(), rel=0.01)


@given(
    seed=st.integers(0, 2**32),
    turns=st.sampled_from([None, "fixed:2", "uniform:1,3"]),
    groups=st.integers(0, 2),
    token_ids=st.booleans(),
    priorities=st.sampled_from([None, {0: 1, 3: 1}]),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    turns: str | None,
    groups: int,
    token_ids: bool,
    priorities: dict[int, float] | None,
) -> None:
    made = generate(
        recipe(
            num_requests=6,
            input_tokens=lengths("uniform:1,9"),
            turns=lengths(turns) if turns else None,
            prefix_groups=groups,
            prefix_tokens=4 * (groups > 0),
            token_ids=token_ids,
            priorities=priorities,
            seed=seed,
        )
    )
    path = tmp_path_factory.mktemp("round") / "trip.jsonl"
    path.write_text("".join(lines(made)))
    read = load_workload(path)
    assert [read.request(i) for i in range(len(read))] == [made.request(i) for i in range(len(made))]
    assert [read.next_call(i, 7) for i in range(len(read))] == [
        made.next_call(i, 7) for i in range(len(made))
    ]
