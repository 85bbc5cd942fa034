"""The balancing of vLLM's front-ends, worked out by hand."""

from __future__ import annotations

from penstock.spec.data_parallel import DataParallelOptions
from reference.front_ends import FrontEnd


def front_end(generation: str, *, front_ends: int = 1, index: int = 0) -> FrontEnd:
    options = DataParallelOptions(size=4, front_ends=front_ends, generation=generation)  # pyright: ignore[reportArgumentType]
    return FrontEnd(options, range(4), index)


def choose(front_end: FrontEnd) -> int:
    rank = front_end.choose()
    front_end.sent_to(rank)
    return rank


def test_a_burst_goes_round_the_ranks_in_0_32():
    balancer = front_end("0.32")
    assert [choose(balancer) for _ in range(6)] == [0, 1, 2, 3, 0, 1]


def test_the_second_of_two_front_ends_starts_in_the_middle_and_counts_for_two():
    balancer = front_end("0.32", front_ends=2, index=1)
    assert choose(balancer) == 2
    assert balancer.counts[2] == [2, 0, 0.0]
    assert balancer.start_index == 3


def test_own_requests_in_flight_outweigh_an_old_publication():
    balancer = front_end("0.32")
    first = [choose(balancer) for _ in range(4)]
    balancer.hear([[0, 0, 0.0]] * 4, 0, running=True)
    balancer.finished_on(2, 1)
    assert first == [0, 1, 2, 3]
    assert choose(balancer) == 2


def test_waiting_requests_weigh_more_from_half_a_full_pool_on():
    balancer = front_end("0.32")
    # 2 + 2 * 6 * (0.75 - 0.5) = 5 against 4; a pool that is half full adds nothing.
    balancer.hear([[2, 0, 0.75], [0, 4, 0.9], [0, 5, 0.0], [4, 1, 0.5]], 0, running=True)
    assert choose(balancer) == 1


def test_0_19_weighs_a_waiting_request_as_four_running_ones_and_always_starts_at_the_same_rank():
    balancer = front_end("0.19")
    balancer.hear([[1, 0, 0.0], [0, 3, 0.0], [0, 4, 0.0], [0, 5, 0.0]], 0, running=True)
    assert choose(balancer) == 1
    assert balancer.counts[1] == [1, 3, 0.0]
    assert balancer.start_index == 0
