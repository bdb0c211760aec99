"""Choosing which shards compaction writes anew: small ones, and those of which records go."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae.jobs import plan

GROUP_RECORDS = 2**19
"""Most records of small shards that are merged with one another. A million shards of ten records, all of which overlap, would
otherwise have to be read again for each part of the keys; so they are read once, and a key lies in one shard of each group."""

IsRemoved = Callable[[Sequence[str]], NDArray[np.bool_]]
"""Which of some keys are those of records that are to go, bool `[N]`."""


@dataclasses.dataclass(frozen=True)
class OldShard:
    """A shard that is there.

    Attributes:
        number: In the order of positions.
        file: Its name.
        first_key: Least key.
        last_key: Greatest key.
        rows: Number of records.
        stay: How many of them do not go.
    """

    number: int
    file: str
    first_key: str
    last_key: str
    rows: int
    stay: int

    @property
    def is_touched(self) -> bool:
        """Whether a record of it goes."""
        return self.stay < self.rows


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which shards are written anew.

    Attributes:
        merged: Those whose records are merged, or all go.
        rewritten: Large ones of which some records go; each keeps its place.
        everything: Whether all are merged, so that all keys are in order, whatever the number of records is.
    """

    merged: Sequence[OldShard]
    rewritten: Sequence[OldShard]
    everything: bool = False

    @property
    def shards(self) -> list[OldShard]:
        """All of them."""
        return [*self.merged, *self.rewritten]

    @property
    def files(self) -> set[str]:
        """Their names."""
        return {shard.file for shard in self.shards}

    @property
    def stay(self) -> int:
        """Number of records that are written anew."""
        return sum(shard.stay for shard in self.shards)

    @property
    def removed(self) -> int:
        """Number of records that go."""
        return sum(shard.rows for shard in self.shards) - self.stay

    def groups(self) -> Iterator[Sequence[OldShard]]:
        """The shards to be merged with one another: neighbours, with `GROUP_RECORDS` at most unless all are merged."""
        group, records = list[OldShard](), 0
        for shard in self.merged:
            if records + shard.stay > GROUP_RECORDS and not self.everything:
                yield group
                group, records = [], 0
            group.append(shard)
            records += shard.stay
        yield group

    def part(self, shards: int) -> Choice:
        """Some of the shards; of those that are merged, the ones with the least keys."""
        merged = sorted(self.merged, key=lambda shard: shard.first_key)[:shards]
        return Choice(merged, self.rewritten[: shards - len(merged)], self.everything)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.shards)


def choose(files: ar.ArchiveFiles, is_removed: IsRemoved | None, everything: bool) -> Choice:
    """Chooses what to write anew; where nothing would be gained by it, nothing.

    Shards are small with less than half of the records that a new one has at most; a first compression makes none such
    but where it makes only one.

    Args:
        files: The state.
        is_removed: Which records go; None if none do.
        everything: Whether large shards are merged too.

    Raises:
        TsaeError: if keys have to be read and cannot be.
    """
    shards = [_describe(number, entry, files, is_removed) for number, entry in enumerate(files.entries())]
    touched = [shard for shard in shards if shard.is_touched]
    if everything:
        return Choice(shards, [], everything) if touched or not _are_as_new(shards) else Choice([], [])
    # Another writer may have made one that is too large for a new one; if it is untouched, it stays.
    merged = [s for s in shards if 2 * s.stay < plan.SHARD_IMAGES or (s.is_touched and s.stay > plan.SHARD_IMAGES)]
    left = [shard for shard in merged if shard.stay]
    if len(left) == 1 and left[0].stay <= plan.SHARD_IMAGES:
        merged = [shard for shard in merged if not shard.stay]
    numbers = {shard.number for shard in merged}
    return Choice(merged, [shard for shard in touched if shard.number not in numbers])


def _describe(number: int, entry: ar.ShardEntry, files: ar.ArchiveFiles, is_removed: IsRemoved | None) -> OldShard:
    go = 0 if is_removed is None else int(is_removed(files.open_entry(entry).keys()).sum())
    return OldShard(number, entry.file, entry.first_key, entry.last_key, entry.rows, entry.rows - go)


def _are_as_new(shards: Sequence[OldShard]) -> bool:
    """Whether shards are what merging them would give."""
    sizes = [len(task.rows) for task in plan.cut(range(sum(shard.rows for shard in shards)))]
    are_apart = all(a.last_key < b.first_key for a, b in itertools.pairwise(shards))
    return are_apart and sizes == [shard.rows for shard in shards]
