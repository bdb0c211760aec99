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
        return self._states_of(keys)[0]

    def are_in_states(self, keys: Sequence[str], facts: Sequence[Facts]) -> NDArray[np.bool_]:
        """Which of some keys were given, last with these states, bool `[N]`."""
        are_there, states = self._states_of(keys)
        return np.asarray(are_there & (states == np.fromiter(map(hash, facts), np.int64, len(facts))))

    def _states_of(self, keys: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which keys were given, and their states where they were."""
        numbers = list(map(hash, keys))
        hashes = np.array(numbers, np.int64)
        places = np.searchsorted(self._keys, hashes)
        inside = np.flatnonzero(places < len(self._keys))
        found, states = np.zeros(len(keys), bool), np.zeros(len(keys), np.int64)
        found[inside] = self._keys[places[inside]] == hashes[inside]
        states[inside] = self._states[places[inside]]
        for row, number in enumerate(numbers) if self._recent else ():
            if number in self._recent:
                found[row], states[row] = True, self._recent[number]
        return found, states

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
