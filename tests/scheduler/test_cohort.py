from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.scheduler.cohort import Cohort
from penstock.scheduler.request_state import RequestState
from penstock.workload.request import Request


def decoding(order: int, prompt: int, output: int) -> RequestState:
    """A request that has just had its first token."""
    state = RequestState(Request(order, 0, prompt, output), 10_000)
    state.order = order
    state.num_tokens = prompt + 1
    return state


def advance(cohort: Cohort, now: int) -> list[RequestState]:
    """One turn: every member has one more token."""
    cohort.turn += 1
    cohort.last_ns = now
    cohort.times.append(now)
    done = cohort.finish_at.pop(cohort.turn, [])
    for state in done:
        cohort.drop(state)
    return done


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(2, 30)), min_size=1, max_size=12),
    st.integers(1, 20),
)
def test_what_the_cohort_counts_is_what_its_members_would_add_up_to(
    lengths: list[tuple[int, int]], block_size: int
) -> None:
    cohort = Cohort(block_size)
    tokens: dict[RequestState, int] = {}
    for turn in range(45):
        if turn % 3 == 0 and lengths:
            prompt, output = lengths.pop()
            state = decoding(turn, prompt, output)
            cohort.join(state, caches=False)
            tokens[state] = state.num_tokens
        contexts = [count - 1 for count in tokens.values()]
        assert cohort.size == len(contexts)
        assert cohort.offset_sum + cohort.size * (cohort.turn - 1) == sum(contexts)
        if contexts:
            assert cohort.offsets[0] + cohort.turn - 1 == min(contexts)
            assert cohort.offsets[-1] + cohort.turn - 1 == max(contexts)
        assert cohort.block_needs[cohort.turn % block_size] == sum(c % block_size == 0 for c in contexts)
        done = advance(cohort, turn)
        tokens = {state: count + 1 for state, count in tokens.items()}
        assert {s for s, count in tokens.items() if count == s.final_tokens} == set(done)
        for state in done:
            assert state.num_tokens == tokens.pop(state)


def test_token_times_are_a_slice_of_the_cohorts() -> None:
    cohort = Cohort(16)
    early, late = decoding(0, 10, 5), decoding(1, 10, 3)
    cohort.join(early, caches=False)
    advance(cohort, 100)
    cohort.join(late, caches=False)
    advance(cohort, 200)
    assert advance(cohort, 300) == [late]
    assert [list(times[start:stop]) for times, start, stop in late.segments] == [[200, 300]]
    assert advance(cohort, 400) == [early]
    assert [list(times[start:stop]) for times, start, stop in early.segments] == [[100, 200, 300, 400]]


def test_a_member_that_moves_keeps_its_length_its_times_and_its_end() -> None:
    here, there = Cohort(16), Cohort(16)
    state = decoding(0, 10, 5)
    here.join(state, caches=False)
    advance(here, 100)
    for now in (7, 8, 9):
        there.turn += 1
        there.times.append(now)
    here.move(state, there)
    assert (here.size, there.size, state.num_tokens) == (0, 1, 12)
    assert list(there.irregular) == [state]
    for now in (200, 300, 400):
        done = advance(there, now)
    assert done == [state]
    taken = [now for times, start, stop in state.segments for now in times[start:stop]]
    assert taken == [100, 200, 300, 400]


def test_leaving_twice_is_an_error() -> None:
    cohort = Cohort(16)
    state = decoding(0, 10, 5)
    cohort.join(state, caches=False)
    cohort.leave(state)
    with pytest.raises((KeyError, ValueError)):
        cohort.leave(state)
