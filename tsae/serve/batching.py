"""Requests that arrive together become one batch of work in a thread. Knows neither HTTP nor images.

Nothing waits for company: an idle thread takes what there is as soon as the event loop has read all that has arrived.
While all threads are busy, requests gather; so a batch is as large as the load, and the wait is bounded by the one batch
before. Equal requests are done once. Bulk work, which is there in parts, takes turns with the others.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Work = Callable[[Sequence[K]], Sequence["V | Exception"]]
"""Gives a result, or what went wrong, for each item; runs in a thread."""


class Batcher(Generic[K, V]):
    """Gathers items for a function that does many at once. For one event loop."""

    def __init__(self, work: Work[K, V], threads: int, most: int) -> None:
        """With its own threads, which start when they are needed.

        Args:
            work: Does a batch.
            threads: Batches at a time.
            most: Items of a batch.
        """
        self.batches = self.items = 0
        self._work, self._most, self._free = work, most, threads
        self._executor = ThreadPoolExecutor(threads, "tsae-decode")
        self._waiting: dict[K, asyncio.Future[V]] = {}
        self._futures: dict[K, asyncio.Future[V]] = {}
        self._askers: dict[K, int] = {}
        self._bulk: deque[tuple[Sequence[K], asyncio.Future[list[V | Exception]]]] = deque()
        self._was_bulk = self._is_scheduled = False

    @property
    def queued(self) -> int:
        """Items that wait for a thread."""
        return len(self._waiting) + sum(len(items) for items, _ in self._bulk)

    async def get(self, item: K) -> V:
        """The result of one item.

        Raises:
            Exception: what the work gave or raised for it.
        """
        future = self._futures.get(item)
        if future is None:
            future = self._futures[item] = self._waiting[item] = asyncio.get_running_loop().create_future()
            self._schedule()
        self._askers[item] = self._askers.get(item, 0) + 1
        try:
            return await asyncio.shield(future)
        finally:
            self._leave(item, future)

    def _leave(self, item: K, future: asyncio.Future[V]) -> None:
        """One asker less; what nobody asks for any more, and no thread has taken, is dropped."""
        if self._futures.get(item) is not future:
            return
        self._askers[item] -= 1
        if not self._askers[item] and self._waiting.get(item) is future:
            self._forget(item)
            del self._waiting[item]

    def _forget(self, item: K) -> None:
        self._futures.pop(item, None)
        self._askers.pop(item, None)

    async def many(self, items: Sequence[K]) -> list[V | Exception]:
        """The results of one part of bulk work, of at most some dozens of items: others wait for it."""
        future: asyncio.Future[list[V | Exception]] = asyncio.get_running_loop().create_future()
        self._bulk.append((items, future))
        self._schedule()
        return await future

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._start_all)

    def _start_all(self) -> None:
        self._is_scheduled = False
        while self._free and (self._waiting or self._bulk):
            self._was_bulk = bool(self._bulk) and (not self._waiting or not self._was_bulk)
            if self._was_bulk:
                items, bulk = self._bulk.popleft()
                if not bulk.cancelled():
                    self._start(items, functools.partial(_settle_bulk, bulk))
            else:
                some = list(self._waiting)[: self._most]
                futures = [self._waiting.pop(item) for item in some]
                self._start(some, functools.partial(self._settle, some, futures))

    def _start(self, items: Sequence[K], settle: Callable[[Sequence[V | Exception]], None]) -> None:
        self._free -= 1
        self.batches += 1
        self.items += len(items)
        running = asyncio.get_running_loop().run_in_executor(self._executor, self._run, items)

        def done(finished: asyncio.Future[Sequence[V | Exception]]) -> None:
            self._free += 1
            settle(finished.result())
            self._start_all()

        running.add_done_callback(done)

    def _run(self, items: Sequence[K]) -> Sequence[V | Exception]:
        try:
            results = self._work(items)
        except Exception as error:  # whoever asked shall know
            return [error] * len(items)
        return results

    def _settle(self, items: Sequence[K], futures: Sequence[asyncio.Future[V]], results: Sequence[V | Exception]) -> None:
        for item, future, result in zip(items, futures, results, strict=True):
            self._forget(item)
            if isinstance(result, Exception):
                future.set_exception(result)
                future.exception()  # nobody may have waited to hear of it
            else:
                future.set_result(result)

    def close(self) -> None:
        """Lets threads end with what they do; nothing more is taken."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _settle_bulk(future: asyncio.Future[list[V | Exception]], results: Sequence[V | Exception]) -> None:
    if not future.done():  # whoever asked may have gone
        future.set_result(list(results))
