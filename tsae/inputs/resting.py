"""Files that were seen in a new state, and whether they are at rest: whether whoever writes them has come to an end."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable

from tsae.inputs.known import Facts


@dataclasses.dataclass
class _Seen:
    """A state of a file, and since when it is known, by a clock that only goes on."""

    facts: Facts
    since_s: float


class Resting:
    """Files that were seen, each until it is taken or has gone.

    A file is at rest when it has not changed for some seconds: by its time of change, or, as that may be anything, by the
    times at which it was seen.
    """

    def __init__(self, rest_s: float, clock: Callable[[], float]) -> None:
        """Has none.

        Args:
            rest_s: For how many seconds a file must not change; 0 takes each at once.
            clock: Seconds.
        """
        self._rest_s, self._clock = rest_s, clock
        self._files: dict[str, _Seen] = {}

    def see(self, key: str, facts: Facts) -> None:
        """Notes in which state a file is now."""
        before = self._files.get(key)
        if before is None or before.facts != facts:
            self._files[key] = _Seen(facts, self._clock())

    def keys(self) -> set[str]:
        """Of all files."""
        return set(self._files)

    def drop(self, keys: Iterable[str]) -> None:
        """Forgets files, as far as they are known."""
        for key in keys:
            self._files.pop(key, None)

    def ready(self) -> dict[str, Facts]:
        """The states of those that are at rest."""
        now_s, now_ns = self._clock(), time.time_ns()
        return {key: seen.facts for key, seen in self._files.items() if self._rested_s(seen, now_s, now_ns) >= self._rest_s}

    def wait_s(self) -> float | None:
        """Seconds until the next one may be; None if there is none."""
        now_s, now_ns = self._clock(), time.time_ns()
        waits_s = [self._rest_s - self._rested_s(seen, now_s, now_ns) for seen in self._files.values()]
        return max(0.0, min(waits_s)) if waits_s else None

    @staticmethod
    def _rested_s(seen: _Seen, now_s: float, now_ns: int) -> float:
        version = seen.facts[1]  # the time of change in ns, where it is a local file
        since_change_s = (now_ns - int(version)) / 1e9 if version and version.isdecimal() else 0.0
        return max(since_change_s, now_s - seen.since_s)
