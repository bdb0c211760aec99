"""Which files were seen, and in which states, of very many: 20 bytes for each. Owns no listing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RECENT = 2**14
"""Files that are kept in a dictionary before they are sorted in among the others."""

Facts = tuple[int | None, str | None]
"""Size in bytes and version of a file."""


NOWHERE = -1
"""The place of a key that has none."""


class Known:
    """The last known states of files by their keys, and for each a number that its user may give: its place.

    Keys and states are kept as 64-bit hashes: among 10^7 files, a new one is taken for a known one with a probability of
    10^-12, and then no look finds it, but the next run does.
    """

    def __init__(self) -> None:
        self._keys = self._states = np.empty(0, np.int64)
        self._places = np.empty(0, np.int32)
        self._recent: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        """Number of keys, up to as many more as were given twice of late."""
        return len(self._keys) + len(self._recent)

    def __contains__(self, key: str) -> bool:
        """Whether a key was given."""
        return bool(self.are_known([key])[0])

    def are_known(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Which of some keys were given, bool `[N]`."""
        return self._find(keys)[0]

    def are_in_states(self, keys: Sequence[str], facts: Sequence[Facts]) -> NDArray[np.bool_]:
        """Which of some keys were given, last with these states, bool `[N]`."""
        are_there, states, _ = self._find(keys)
        return np.asarray(are_there & (states == np.fromiter(map(hash, facts), np.int64, len(facts))))

    def is_in_state(self, key: str, facts: Facts) -> bool:
        """Whether a key was given, last with this state."""
        return bool(self.are_in_states([key], [facts])[0])

    def places(self, keys: Sequence[str]) -> NDArray[np.int32]:
        """The places of some keys, int32 `[N]`; `NOWHERE` for one that was not given, or without a place."""
        return self._find(keys)[2]

    def add(self, key: str, facts: Facts, place: int | None = None) -> None:
        """Notes the state of a key.

        Args:
            key: The key.
            facts: Its file's state.
            place: At least 0 and below 2^31; None leaves the one that it has.
        """
        number = hash(key)
        if place is None:
            place = int(self.places([key])[0])
        self._recent[number] = hash(facts), place
        if len(self._recent) >= RECENT:
            self._sort_in()

    def know(self, keys: Sequence[str], place: int | None) -> None:
        """Notes keys in no state, where they are not known, and a place of all of them unless that is None."""
        are_known, states, places = self._find(keys)
        none = hash((None, None))
        for key, is_known, state, old in zip(keys, are_known.tolist(), states.tolist(), places.tolist(), strict=True):
            self._recent[hash(key)] = (state if is_known else none), (old if place is None else place)
        if len(self._recent) >= RECENT:
            self._sort_in()

    def _find(self, keys: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int32]]:
        """Which keys were given, and their states and places where they were."""
        numbers = list(map(hash, keys))
        hashes = np.array(numbers, np.int64)
        rows = np.searchsorted(self._keys, hashes)
        found, states = np.zeros(len(keys), bool), np.zeros(len(keys), np.int64)
        places = np.full(len(keys), NOWHERE, np.int32)
        inside = np.flatnonzero(rows < len(self._keys))
        inside = inside[self._keys[rows[inside]] == hashes[inside]]
        found[inside], states[inside], places[inside] = True, self._states[rows[inside]], self._places[rows[inside]]
        for row, number in enumerate(numbers) if self._recent else ():
            if number in self._recent:
                found[row] = True
                states[row], places[row] = self._recent[number]
        return found, states, places

    def _sort_in(self) -> None:
        recent = np.array(list(self._recent.values()), np.int64).reshape(-1, 2)
        keys = np.concatenate([np.fromiter(self._recent.keys(), np.int64), self._keys])
        self._keys, first = np.unique(keys, return_index=True)  # the first of equal ones, which is the recent one
        self._states = np.concatenate([recent[:, 0], self._states])[first]
        self._places = np.concatenate([recent[:, 1].astype(np.int32), self._places])[first]
        self._recent = {}
