"""Compaction: many small shards become few, and records that are to go are left out. Owns which, when and the commit.

New shards are written first, while other commands may go on; nothing names them yet. Only the commit takes a claim
(`tsae.jobs.claim`), and then the removal of what no state needs any more, a little at a time. If another command has
replaced a merged shard before the commit, or removed what was written and nothing names yet, work begins
anew, from the second time on with half as many shards, so that it comes to an end beside one that commits all the time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import tsae
from tsae import archive as ar
from tsae import paths
from tsae.errors import BusyError, FormatError, InputError, TsaeError
from tsae.jobs.choice import Choice, IsRemoved, choose
from tsae.jobs.claim import LostError, is_claim, take_claim, wait_for_gap
from tsae.jobs.job_folder import read_or_none
from tsae.jobs.merge import Merger
from tsae.jobs.removal import find_removed
from tsae.jobs.update import check_writable
from tsae.paths import ConflictError, Hold
from tsae.progress import Progress

REMOTE_GRACE_S = 300.0
"""How long old files stay on a store without locks, where nothing tells that somebody still reads them."""

JOB_FILE = re.compile(rf"{ar.JOB_FOLDER}/(plan\.json$|.*/)")
"""What may be another command's: all in the job folder but what a kill has left of a plan that was being written."""

REMOVED_AT_ONCE = 1000
"""How many files go while others wait: that takes some 20 ms on a disk, and one request to S3."""

MOST_CONFLICTS = 12
"""How often work begins anew; halved so often, that of 8 million images is done in a second."""


@dataclasses.dataclass(frozen=True)
class CompactOptions:
    """What `compact` is asked for.

    Attributes:
        archive: Path or URL.
        everything: Whether large shards are merged too.
        remove: Globs of keys; records that one of them matches go.
        remove_missing: Whether records go whose files the input no longer has.
        grace_s: How long old files stay after the commit; None is 0 on a local disk, and `REMOTE_GRACE_S` elsewhere.
    """

    archive: str
    everything: bool = False
    remove: Sequence[str] = ()
    remove_missing: bool = False
    grace_s: float | None = None


@dataclasses.dataclass(frozen=True)
class Compaction:
    """What came of it; the bytes are of all files that a state names but the model, 0 where nothing was done.

    Attributes:
        images: In the archive now.
        removed: Records that have gone.
        shards_before: Number of shards.
        shards_after: The same now.
        bytes_before: Of the archive.
        bytes_after: The same now.
    """

    images: int
    removed: int
    shards_before: int
    shards_after: int
    bytes_before: int = 0
    bytes_after: int = 0

    @property
    def is_changed(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.bytes_after)


def compact(options: CompactOptions) -> Compaction:
    """Merges small shards, and leaves out records that are to go.

    Raises:
        InputError: if an option or the archive cannot be used, or other commands leave no room for it.
        TsaeError: if the archive is damaged where it has to be read.
    """
    folder = ar.Folder(paths.absolute(options.archive))
    grace_s = _grace_s(options)
    try:
        manifest = ar.read_manifest(folder)
        wait_for_gap(folder)
        is_removed = find_removed(options.remove, options.remove_missing, manifest.settings, options.archive)
        result = _compact(folder, options.everything, is_removed)
        if result.is_changed:
            time.sleep(grace_s)
        _collect(folder)
        return result
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{options.archive}: cannot be used ({reason}); check place and permissions") from error


def _grace_s(options: CompactOptions) -> float:
    if options.grace_s is None:
        return REMOTE_GRACE_S if paths.is_url(options.archive) else 0.0
    if not 0 <= options.grace_s < math.inf:
        raise InputError(f"--grace {options.grace_s}: is a number of seconds, 0 or more; 300 is usual for a remote store")
    return options.grace_s


def _compact(folder: ar.Folder, everything: bool, is_removed: IsRemoved | None) -> Compaction:
    """Does what is to be done, in parts if other commands leave no room for all of it at once."""
    steps, conflicts, most, part = list[_Step](), 0, None, Choice((), ())
    while True:
        with _held(folder) as (files, hold):
            before = files.manifest.counts
            try:
                choice = _choose(files, everything, is_removed)
                part = choice if most is None else choice.part(most)
                if not part:
                    break
                steps.append(_step(files, hold, part, is_removed))
                if part is choice:
                    break
            except LostError:
                conflicts += 1
                if conflicts > MOST_CONFLICTS:
                    raise BusyError(f"{folder.path}: other commands change it all the time; run this later") from None
                most = None if everything or conflicts == 1 else max(2, len(part.files) // 2)
    if not steps:
        return Compaction(before.images, 0, before.shards, before.shards)
    first, after = steps[0], steps[-1].counts
    removed = sum(step.removed for step in steps)
    return Compaction(after.images, removed, first.shards_before, after.shards, first.bytes_before, steps[-1].bytes_after)


@contextlib.contextmanager
def _held(folder: ar.Folder) -> Iterator[tuple[ar.ArchiveFiles, Hold | None]]:
    """The archive's state, whose files stay within the block where that can be had."""
    text, hold = ar.hold_manifest(folder)
    try:
        files = ar.ArchiveFiles(folder.path, text)
        check_writable(files)
        yield files, hold
    finally:
        if hold is not None:
            hold.release()


def _choose(files: ar.ArchiveFiles, everything: bool, is_removed: IsRemoved | None) -> Choice:
    with _lost_if_changed(files):
        choice = choose(files, is_removed, everything)
    if choice.removed and choice.removed == files.manifest.images:
        raise InputError(f"{files.folder.path}: all {choice.removed} records would go; remove the archive itself instead")
    return choice


@contextlib.contextmanager
def _lost_if_changed(files: ar.ArchiveFiles) -> Iterator[None]:
    """Turns errors in reading a state into `LostError` where it is no longer the archive's: its files may be gone."""
    try:
        yield
    except TsaeError as error:
        if ar.read_manifest_text(files.folder) != files.manifest_text:
            raise LostError from error
        raise


class _Step(NamedTuple):
    """A commit: its sums, shards before, the records that went with it, and bytes before and after."""

    counts: ar.Counts
    shards_before: int
    removed: int
    bytes_before: int
    bytes_after: int


def _step(files: ar.ArchiveFiles, hold: Hold | None, choice: Choice, is_removed: IsRemoved | None) -> _Step:
    """Writes new shards and commits them.

    Raises:
        LostError: if another command has come in between.
    """
    with _lost_if_changed(files):
        new = _write(files, choice, is_removed)
    claim = take_claim(files.folder, "compact")
    try:
        with claim.turn():
            now = ar.ArchiveFiles(files.folder.path)
            check_writable(now)
            manifest = _build(now, files, choice, new)
            if hold is not None:
                hold.release()
            sizes = _commit(now, manifest, new)
    finally:
        claim.release()
    return _Step(manifest.counts, now.manifest.counts.shards, choice.removed, *sizes)


class _New(NamedTuple):
    """New shards: those that take the place of others, by the names of these, and those that are merged of others."""

    rewritten: Mapping[str, ar.ShardEntry]
    merged: Sequence[ar.ShardEntry]

    @property
    def files(self) -> set[str]:
        """Their files."""
        entries = (*self.rewritten.values(), *self.merged)
        return {name for entry in entries for name in (entry.file, entry.provenance) if name is not None}


def _write(files: ar.ArchiveFiles, choice: Choice, is_removed: IsRemoved | None) -> _New:
    rewritten, merged = dict[str, ar.ShardEntry](), list[ar.ShardEntry]()
    with Progress(choice.stay, "compacting") as progress:
        for shard in choice.rewritten:
            merger = Merger(files, {shard.number}, is_removed)
            (entry,) = merger.write(shard.stay, ar.file_number(shard.file))
            rewritten[shard.file] = entry
            progress.update(entry.rows)
        first_number = files.shards - len(choice.merged)
        for group in choice.groups():
            merger = Merger(files, {shard.number for shard in group}, is_removed)
            for entry in merger.write(sum(shard.stay for shard in group), first_number + len(merged)):
                merged.append(entry)
                progress.update(entry.rows)
    return _New(rewritten, merged)


def _build(now: ar.ArchiveFiles, files: ar.ArchiveFiles, choice: Choice, new: _New) -> ar.Manifest:
    """Writes the lists of the new state, and describes it.

    Shards that were added since stay behind all others.

    Raises:
        LostError: if a shard that was read is no longer there.
    """
    merged, missing = {shard.file for shard in choice.merged}, choice.files
    kept: list[ar.ListEntry] = []
    replaced: dict[int, ar.ShardEntry] = {}
    rest: list[ar.ShardEntry] = []
    added: list[ar.ShardEntry] = []
    number = 0
    for index, entry in enumerate(now.manifest.lists):
        shards = list(now.entries_of(index))
        names = {shard.file for shard in shards}
        if len(kept) == index and not names & merged:  # the first lists, in which no shard goes, stay as they are
            kept.append(entry)
            replaced |= {number + i: new.rewritten[shard.file] for i, shard in enumerate(shards) if shard.file in new.rewritten}
        else:
            for i, shard in enumerate(shards):
                if shard.file not in merged:
                    place = rest if number + i < files.shards else added
                    place.append(new.rewritten.get(shard.file, shard))
        missing, number = missing - names, number + len(shards)
    if missing:
        raise LostError
    lists = ar.write_lists(now.folder, _only(now, kept), replaced, [*rest, *new.merged, *added])
    old = now.manifest
    counts = ar.count(now.folder, lists, old.counts.failures, old.counts.skipped)
    if counts.images != old.images - choice.removed:
        raise FormatError(f"{now.folder.path}: {counts.images} records of {old.images} would stay; check it with tsae verify")
    return dataclasses.replace(old, created_by=f"tsae {tsae.__version__}", counts=counts, lists=lists)


def _only(files: ar.ArchiveFiles, lists: Sequence[ar.ListEntry]) -> ar.ArchiveFiles:
    """A state of some of the lists of another, to start from."""
    counts = dataclasses.replace(files.manifest.counts, images=sum(entry.images for entry in lists))
    return ar.ArchiveFiles(files.folder.path, dataclasses.replace(files.manifest, lists=tuple(lists), counts=counts).to_json())


def _commit(now: ar.ArchiveFiles, manifest: ar.Manifest, new: _New) -> tuple[int, int]:
    """Commits a state if all of its new files are there; returns the bytes of the old state and of the new one.

    Raises:
        LostError: if another command has removed some, or changed the archive.
    """
    sizes, names = now.folder.sizes_bytes(), ar.named_files(now.folder, manifest)
    if not new.files | {entry.file for entry in manifest.lists} <= sizes.keys():
        raise LostError
    before, after = (sum(sizes.get(name, 0) for name in x - {manifest.model_file}) for x in (_named(now), names))
    try:
        ar.commit(now.folder, manifest, now.manifest_text)
    except InputError as error:
        if isinstance(error.__cause__, ConflictError):
            raise LostError from error
        raise
    return before, after


def _named(files: ar.ArchiveFiles) -> set[str]:
    return ar.named_files(files.folder, files.manifest)


def _collect(folder: ar.Folder) -> None:
    """Removes what no state needs: after a commit, and what killed commands have left.

    Not what lies below the job folder: another command may be about to plan a job there.
    """
    for _ in range(MOST_CONFLICTS):
        if not _find_waste(folder) and not is_claim(read_or_none(folder, ar.PLAN_FILE)):
            return
        try:
            claim = take_claim(folder, "compact")
        except BusyError:
            return  # a job, which cleans up after itself
        try:
            with claim.turn():
                names = _find_waste(folder)
            for start in range(0, len(names), REMOVED_AT_ONCE):
                with claim.turn():
                    folder.remove(names[start : start + REMOVED_AT_ONCE])
        except LostError:
            continue
        finally:
            claim.release()


def _find_waste(folder: ar.Folder) -> list[str]:
    leftovers = ar.find_leftovers(folder, ar.read_manifest(folder))
    return sorted(name for name in leftovers if not JOB_FILE.match(name))
