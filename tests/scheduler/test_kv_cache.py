from __future__ import annotations

from array import array

from penstock.scheduler.kv_cache import KVCache
from penstock.scheduler.request_state import RequestState
from penstock.workload.request import Request


def request(ids: list[int], outputs: list[int] | None = None) -> RequestState:
    output_ids = array("i", outputs) if outputs is not None else None
    return RequestState(Request(0, 0, len(ids), 4, array("i", ids), output_ids), 1000)


def without_ids(tokens: int) -> RequestState:
    return RequestState(Request(0, 0, tokens, 4), 1000)


def hits(kv: KVCache, state: RequestState) -> int:
    """Blocks that the request would find."""
    found = kv.find_prefix(state)
    return 0 if found is None else kv.count_found(state, found)[0]


def run(kv: KVCache, state: RequestState, tokens: int) -> int:
    """Admit a request and compute its first ``tokens`` tokens; returns how many blocks it found."""
    found = kv.find_prefix(state)
    blocks = 0
    if found is not None:
        blocks, _ = kv.count_found(state, found)
        kv.use(state, found)
    kv.resumed(state)
    state.held_blocks = kv.blocks_for(tokens)
    kv.take(state.held_blocks - blocks)
    kv.register(state, tokens)
    return blocks


def test_the_null_block_is_not_handed_out() -> None:
    assert KVCache(10, 4, prefix_caching=False).free == 9


def test_a_full_block_can_be_hit_once_it_is_registered() -> None:
    kv = KVCache(10, 2, prefix_caching=True)
    run(kv, request([1, 2, 3, 4, 5]), 5)
    assert hits(kv, request([1, 2, 3, 4, 9])) == 2
    assert hits(kv, request([1, 2, 9, 4, 5])) == 1
    assert kv.find_prefix(request([9, 2, 3, 4, 5])) is None


def test_at_least_one_token_is_always_computed() -> None:
    kv = KVCache(10, 2, prefix_caching=True)
    run(kv, request([1, 2, 3, 4]), 4)
    assert hits(kv, request([1, 2, 3, 4])) == 1


def test_released_content_stays_until_its_block_is_needed_the_tail_goes_first() -> None:
    kv = KVCache(5, 2, prefix_caching=True)
    state = request([1, 2, 3, 4])
    run(kv, state, 4)
    kv.release(state, 4, 4, resumes=False)
    assert kv.free == 4
    kv.take(2)
    assert hits(kv, request([1, 2, 3, 4, 5])) == 2
    kv.take(1)
    assert hits(kv, request([1, 2, 3, 4, 5])) == 1
    kv.take(1)
    assert kv.find_prefix(request([1, 2, 3, 4, 5])) is None


def test_a_hit_takes_an_unused_block_out_of_the_free_ones() -> None:
    kv = KVCache(5, 2, prefix_caching=True)
    state = request([1, 2, 3, 4])
    run(kv, state, 4)
    kv.release(state, 4, 4, resumes=False)
    other = request([1, 2, 3, 4, 5])
    found = kv.find_prefix(other)
    assert found is not None
    assert kv.count_found(other, found) == (2, 2)
    kv.use(other, found)
    assert kv.free == 2
    assert kv.count_found(other, found) == (2, 0)


def test_the_same_content_computed_twice_is_two_blocks_and_the_first_is_hit() -> None:
    kv = KVCache(9, 2, prefix_caching=True)
    first, second = request([1, 2, 3]), request([1, 2, 3])
    kv.take(4)
    kv.register(first, 3)
    kv.register(second, 3)
    assert kv.find_prefix(request([1, 2, 3])) == first.hashed_blocks
    kv.release(first, 3, 3, resumes=False)
    kv.release(second, 3, 3, resumes=False)
    kv.take(6)  # the blocks without a hash, and then the first one's, which was released first
    assert hits(kv, request([1, 2, 3])) == 1
    kv.take(2)
    assert kv.find_prefix(request([1, 2, 3])) is None


def test_outputs_are_content_too_where_the_workload_names_them() -> None:
    kv = KVCache(9, 2, prefix_caching=True)
    run(kv, request([1, 2, 3], [7, 8, 9]), 6)
    assert hits(kv, request([1, 2, 3, 7, 8, 9, 5])) == 3
    kv = KVCache(9, 2, prefix_caching=True)
    run(kv, request([1, 2, 3]), 6)
    assert hits(kv, request([1, 2, 3, 7, 8, 9, 5])) == 1


def test_a_preempted_request_without_ids_finds_its_own_blocks_that_survive() -> None:
    kv = KVCache(9, 2, prefix_caching=True)
    state = without_ids(7)
    run(kv, state, 7)
    kv.release(state, 7, 7, resumes=True)
    assert hits(kv, without_ids(7)) == 0
    kv.take(6)  # five blocks without a hash, and the last of the three that are full
    for _ in range(2):  # two of them come back, without a hash
        kv.release(without_ids(1), 1, 1, resumes=False)
    assert run(kv, state, 7) == 2
    assert kv.free == 0


def test_blocks_that_nobody_can_find_are_reused_before_later_ones_that_somebody_can() -> None:
    kv = KVCache(7, 2, prefix_caching=True)
    ended, waiting = without_ids(4), without_ids(4)
    run(kv, ended, 4)
    run(kv, waiting, 4)
    kv.release(ended, 4, 4, resumes=False)
    kv.release(waiting, 4, 4, resumes=True)
    kv.take(4)
    waiting.num_tokens = 5
    assert hits(kv, waiting) == 2
    kv.take(1)
    assert hits(kv, waiting) == 1
