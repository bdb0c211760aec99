from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from tsae.serve.cache import ENTRY_BYTES, ByteCache


def test_what_was_used_last_stays() -> None:
    cache: ByteCache[str, str] = ByteCache(3 * ENTRY_BYTES + 30)
    for name in "abc":
        cache.put(name, name.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10)
    assert [cache.get(name) for name in "abcd"] == ["A", None, "C", "D"]
    assert (cache.hits, cache.misses) == (4, 1)


def test_without_a_budget_or_beyond_it_nothing_is_kept() -> None:
    for cache in (ByteCache[str, int](0), ByteCache[str, int](ENTRY_BYTES + 10)):
        cache.put("a", 1, 11)
        assert cache.get("a") is None
        assert cache.used_bytes == len(cache) == 0


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 500))))
def test_the_budget_holds(puts: list[tuple[int, int]]) -> None:
    cache: ByteCache[int, int] = ByteCache(5 * ENTRY_BYTES)
    for key, size in puts:
        cache.put(key, size, size)
        assert cache.used_bytes <= cache.budget_bytes
        assert cache.get(key) in (size, None)
    assert cache.used_bytes == sum(cost for _, cost in cache._entries.values())


def test_threads_may_share_it() -> None:
    cache: ByteCache[int, int] = ByteCache(50 * (ENTRY_BYTES + 8))

    def work(start: int) -> None:
        for i in range(2000):
            key = (start * 7 + i) % 100
            cache.put(key, key, 8)
            assert cache.get(key) in (key, None)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert cache.used_bytes == len(cache) * (ENTRY_BYTES + 8)
