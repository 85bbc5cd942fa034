"""The tier on its own: what is written, found and given up."""

from __future__ import annotations

from penstock.kv_transfer.cpu_tier import CPUTier, Found, Stored
from penstock.spec.kv_tier import TierOptions


def tier(chunks: int, policy: str = "lru", threshold: int = 0) -> CPUTier:
    return CPUTier(
        TierOptions(
            cpu_chunks=chunks,
            kv_bytes_per_token=1,
            d2h_latency_ns=0,
            d2h_bytes_per_s=1,
            h2d_latency_ns=0,
            h2d_bytes_per_s=1,
            eviction_policy=policy,
            store_threshold=threshold,
        )
    )


def write(store: CPUTier, request: int, *keys: int) -> None:
    stored = store.begin_store(request, keys, 0)
    assert stored is not None
    store.end_store(stored.keys)
    store.finished(request)


def test_a_chunk_is_found_once_it_has_been_written():
    store = tier(4)
    assert store.find(7) is Found.MISS
    assert store.begin_store(0, (7, 8), 0) == Stored((7, 8), (0, 1))
    assert store.find(7) is Found.PENDING
    store.end_store((7, 8))
    assert store.find(7) is Found.HIT


def test_what_is_there_is_not_written_again():
    store = tier(4)
    write(store, 0, 7, 8)
    assert store.begin_store(1, (7, 8, 9), 0) == Stored((9,), (2,))


def test_an_offer_that_does_not_fit_is_refused_whole():
    store = tier(2)
    assert store.begin_store(0, (1, 2, 3), 0) is None
    assert store.find(1) is Found.MISS


def test_the_tail_of_the_longest_unused_prefix_goes_first():
    store = tier(4)
    write(store, 0, 1, 2)
    write(store, 1, 3, 4)
    write(store, 2, 5)
    assert [store.find(key) for key in (1, 2, 3, 4, 5)] == [
        Found.HIT,
        Found.MISS,
        Found.HIT,
        Found.HIT,
        Found.HIT,
    ]


def test_what_is_read_is_not_given_up():
    store = tier(2)
    write(store, 0, 1, 2)
    store.begin_load(1, (1, 2), 0)
    assert store.begin_store(2, (3,), 0) is None
    store.end_load((1, 2))
    assert store.begin_store(2, (3,), 0) is not None


def test_arc_keeps_what_several_requests_used():
    store = tier(3, "arc")
    write(store, 0, 1)
    write(store, 1, 1, 2)
    write(store, 2, 3)
    write(store, 3, 4)
    assert store.find(1) is Found.HIT
    assert store.find(2) is Found.MISS


def test_a_threshold_waits_for_the_second_offer():
    store = tier(4, threshold=2)
    assert store.begin_store(0, (1,), 0) == Stored()
    assert store.begin_store(1, (1,), 0) == Stored((1,), (0,))
