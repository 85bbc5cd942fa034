from __future__ import annotations

from array import array

from penstock.scheduler.kv_cache import KVCache
from penstock.scheduler.request_state import RequestState
from penstock.workload.request import Request


def request(ids: list[int], outputs: list[int] | None = None) -> RequestState:
    output_ids = array("i", outputs) if outputs is not None else None
    return RequestState(Request(0, 0, len(ids), 4, array("i", ids), output_ids), 1000)


def run(kv: KVCache, state: RequestState, tokens: int) -> None:
    """Admit a request and compute its first ``tokens`` tokens."""
    hits = kv.find_prefix(state)
    kv.use(state, hits)
    state.held_blocks = kv.blocks_for(tokens)
    kv.take(state.held_blocks - len(hits))
    kv.register(state, tokens)


def test_the_null_block_is_not_handed_out() -> None:
    assert KVCache(10, 4, prefix_caching=False).free == 9


def test_a_full_block_can_be_hit_once_it_is_registered() -> None:
    kv = KVCache(10, 2, prefix_caching=True)
    run(kv, request([1, 2, 3, 4, 5]), 5)
    assert len(kv.find_prefix(request([1, 2, 3, 4, 9]))) == 2
    assert len(kv.find_prefix(request([1, 2, 9, 4, 5]))) == 1
    assert kv.find_prefix(request([9, 2, 3, 4, 5])) == []


def test_at_least_one_token_is_always_computed() -> None:
    kv = KVCache(10, 2, prefix_caching=True)
    run(kv, request([1, 2, 3, 4]), 4)
    assert len(kv.find_prefix(request([1, 2, 3, 4]))) == 1


def test_released_content_stays_until_its_block_is_needed_the_tail_goes_first() -> None:
    kv = KVCache(5, 2, prefix_caching=True)
    state = request([1, 2, 3, 4])
    run(kv, state, 4)
    kv.release(state, 4, 4)
    assert kv.free == 4
    kv.take(2)
    assert len(kv.find_prefix(request([1, 2, 3, 4, 5]))) == 2
    kv.take(1)
    assert len(kv.find_prefix(request([1, 2, 3, 4, 5]))) == 1
    kv.take(1)
    assert kv.find_prefix(request([1, 2, 3, 4, 5])) == []


def test_a_hit_takes_an_unused_block_out_of_the_free_ones() -> None:
    kv = KVCache(5, 2, prefix_caching=True)
    state = request([1, 2, 3, 4])
    run(kv, state, 4)
    kv.release(state, 4, 4)
    other = request([1, 2, 3, 4, 5])
    hits = kv.find_prefix(other)
    assert kv.count_unused(hits) == 2
    kv.use(other, hits)
    assert kv.free == 2
    assert kv.count_unused(hits) == 0


def test_the_same_content_computed_twice_is_two_blocks_and_the_first_is_hit() -> None:
    kv = KVCache(9, 2, prefix_caching=True)
    first, second = request([1, 2, 3]), request([1, 2, 3])
    kv.take(4)
    kv.register(first, 3)
    kv.register(second, 3)
    assert kv.find_prefix(request([1, 2, 3])) == first.hashed_blocks
    kv.release(first, 3, 3)
    kv.release(second, 3, 3)
    kv.take(7)
    assert kv.find_prefix(request([1, 2, 3])) == second.hashed_blocks or kv.free == 1


def test_outputs_are_content_too_where_the_workload_names_them() -> None:
    kv = KVCache(9, 2, prefix_caching=True)
    run(kv, request([1, 2, 3], [7, 8, 9]), 6)
    assert len(kv.find_prefix(request([1, 2, 3, 7, 8, 9, 5]))) == 3
    kv = KVCache(9, 2, prefix_caching=True)
    run(kv, request([1, 2, 3]), 6)
    assert len(kv.find_prefix(request([1, 2, 3, 7, 8, 9, 5]))) == 1
