"""A cache with a budget of bytes: what was used last stays. Safe to share between threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRY_BYTES = 400
"""What an entry takes beside its value: the key's strings, the link and the slot, measured with tracemalloc."""


class ByteCache(Generic[K, V]):
    """The values that were used last, as many as a budget holds."""

    def __init__(self, budget_bytes: int) -> None:
        """With nothing in it; a budget of 0 keeps nothing."""
        self.budget_bytes = budget_bytes
        self.used_bytes = self.hits = self.misses = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of values."""
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value of a key, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keeps a value, and drops those that were not used for longest; one beyond the budget is not kept."""
        cost = size_bytes + ENTRY_BYTES
        with self._lock:
            if (old := self._entries.pop(key, None)) is not None:
                self.used_bytes -= old[1]
            if cost > self.budget_bytes:
                return
            self._entries[key] = (value, cost)
            self.used_bytes += cost
            while self.used_bytes > self.budget_bytes:
                self.used_bytes -= self._entries.popitem(last=False)[1][1]
