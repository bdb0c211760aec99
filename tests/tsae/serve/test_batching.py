from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tsae.serve.batching import Batcher


class Bench:
    """Work that waits until it may end, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        assert self.gate.wait(30)
        return [ValueError(f"{item}") if item < 0 else item * 2 for item in items]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0.001)


def test_what_arrives_together_is_one_batch() -> None:
    async def go() -> None:
        bench = Bench()
        batcher: Batcher[int, int] = Batcher(bench, 1, 100)
        assert await asyncio.gather(*(batcher.get(i) for i in range(50))) == [2 * i for i in range(50)]
        assert bench.batches == [list(range(50))]
        assert await batcher.get(7) == 14
        assert bench.batches[1:] == [[7]]
        batcher.close()

    asyncio.run(go())


def test_while_it_works_requests_gather_up_to_the_most() -> None:
    async def go() -> None:
        bench = Bench()
        bench.gate.clear()
        batcher: Batcher[int, int] = Batcher(bench, 1, 4)
        first = asyncio.create_task(batcher.get(100))
        await settle()
        others = [asyncio.create_task(batcher.get(i)) for i in range(6)]
        await settle()
        assert batcher.queued == 6
        bench.gate.set()
        assert await asyncio.gather(first, *others) == [200, 0, 2, 4, 6, 8, 10]
        assert bench.batches == [[100], [0, 1, 2, 3], [4, 5]]
        batcher.close()

    asyncio.run(go())


def test_equal_requests_are_done_once() -> None:
    async def go() -> None:
        bench = Bench()
        batcher: Batcher[int, int] = Batcher(bench, 1, 10)
        assert await asyncio.gather(*(batcher.get(3) for _ in range(20))) == [6] * 20
        assert bench.batches == [[3]]
        assert not batcher._futures
        assert not batcher._askers
        batcher.close()

    asyncio.run(go())


def test_an_error_is_that_of_its_item_alone() -> None:
    async def go() -> None:
        batcher: Batcher[int, int] = Batcher(Bench(), 1, 10)
        results = await asyncio.gather(*(batcher.get(i) for i in (1, -2, 3)), return_exceptions=True)
        assert results[0] == 2
        assert isinstance(results[1], ValueError)
        assert results[2] == 6
        batcher.close()

    asyncio.run(go())


def test_a_bug_of_the_work_reaches_who_asked_and_the_next_batch_is_done() -> None:
    def work(items: Sequence[int]) -> list[int | Exception]:
        if 0 in items:
            raise ZeroDivisionError
        return list(items)

    async def go() -> None:
        batcher: Batcher[int, int] = Batcher(work, 1, 10)
        with pytest.raises(ZeroDivisionError):
            await batcher.get(0)
        assert await batcher.get(1) == 1
        batcher.close()

    asyncio.run(go())


def test_what_nobody_waits_for_any_more_is_not_done() -> None:
    async def go() -> None:
        bench = Bench()
        bench.gate.clear()
        batcher: Batcher[int, int] = Batcher(bench, 1, 10)
        first = asyncio.create_task(batcher.get(1))
        await settle()
        dropped, kept, shared = (asyncio.create_task(batcher.get(i)) for i in (2, 3, 3))
        await settle()
        dropped.cancel()
        shared.cancel()
        await settle()
        first.cancel()  # too late: it is at work
        bench.gate.set()
        assert await kept == 6
        assert bench.batches == [[1], [3]]
        assert not batcher._futures
        assert not batcher._askers
        batcher.close()

    asyncio.run(go())


def test_bulk_work_takes_turns_with_single_requests() -> None:
    async def go() -> None:
        bench = Bench()
        bench.gate.clear()
        batcher: Batcher[int, int] = Batcher(bench, 1, 1)
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(batcher.get(0))]
        await settle()
        tasks += [asyncio.create_task(batcher.many([10 * i, 10 * i + 1])) for i in (1, 2, 3)]
        tasks += [asyncio.create_task(batcher.get(i)) for i in (1, 2, 3)]
        await settle()
        bench.gate.set()
        results = await asyncio.gather(*tasks)
        assert results[1] == [20, 22]
        assert bench.batches == [[0], [10, 11], [1], [20, 21], [2], [30, 31], [3]]
        batcher.close()

    asyncio.run(go())
