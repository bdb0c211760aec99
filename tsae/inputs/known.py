"""Which files were seen, and in which states, of very many: 16 bytes for each. Owns no listing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RECENT = 2**14
"""Files that are kept in a dictionary before they are sorted in among the others."""

Facts = tuple[int | None, str | None]
"""Size in bytes and version of a file."""


class Known:
    """The last known states of files, by their keys.

    Keys and states are kept as 64-bit hashes: among 10^7 files, a new one is taken for a known one with a probability of
    10^-12, and then no look finds it, but the next run does.
    """

    def __init__(self) -> None:
        self._keys = self._states = np.empty(0, np.int64)
        self._recent: dict[int, int] = {}

    def __len__(self) -> int:
        """Number of keys, up to as many more as were given twice of late."""
        return len(self._keys) + len(self._recent)

    def __contains__(self, key: str) -> bool:
        """Whether a key was given."""
        return self._find(hash(key)) is not None

    def are_known(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Which of some keys were given, bool `[N]`."""
        hashes = np.fromiter(map(hash, keys), np.int64, len(keys))
        places = np.searchsorted(self._keys, hashes)
        found = np.zeros(len(keys), bool)
        inside = places < len(self._keys)
        found[inside] = self._keys[places[inside]] == hashes[inside]
        if self._recent:
            found |= np.fromiter((number in self._recent for number in hashes.tolist()), bool, len(keys))
        return found

    def is_in_state(self, key: str, facts: Facts) -> bool:
        """Whether a key was given, last with this state."""
        return self._find(hash(key)) == hash(facts)

    def add(self, key: str, facts: Facts) -> None:
        """Notes the state of a key."""
        self._recent[hash(key)] = hash(facts)
        if len(self._recent) >= RECENT:
            self._sort_in()

    def _find(self, number: int) -> int | None:
        if number in self._recent:
            return self._recent[number]
        place = int(np.searchsorted(self._keys, number))
        is_there = place < len(self._keys) and self._keys[place] == number
        return int(self._states[place]) if is_there else None

    def _sort_in(self) -> None:
        keys = np.concatenate([np.fromiter(self._recent.keys(), np.int64), self._keys])
        states = np.concatenate([np.fromiter(self._recent.values(), np.int64), self._states])
        self._keys, first = np.unique(keys, return_index=True)  # the first of equal ones, which is the recent one
        self._states, self._recent = states[first], {}
