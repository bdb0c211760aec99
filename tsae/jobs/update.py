"""Bringing an archive up to date: what the input has that the archive has not. Owns the comparison, not the work.

An input counts as unchanged if its size and version (the time of change of a local file, an ETag or a time of a remote
one) are those recorded when it was compressed, or else if its bytes still have the recorded digest.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence, Set

import numpy as np
from numpy.typing import NDArray

from tsae import archive as ar
from tsae import paths
from tsae.errors import FormatError, ImageError, InputError
from tsae.inputs import Item, Listing, Read, State, is_same, map_inputs, map_states
from tsae.jobs.plan import Task, cut

READ_THREADS = 8
"""Shards of a remote archive that are looked into at once: each takes several requests, one after the other."""


@dataclasses.dataclass(frozen=True)
class Changes:
    """What has to be done to bring an archive up to date.

    Attributes:
        tasks: New shards, then old ones of which some records are replaced.
        new: Number of images that the archive does not have.
        changed: Number of images whose files are no longer those that were compressed, or that have another label.
        missing: Number of images of the archive whose files the input no longer has; they are kept.
        failures: Those of the listing, and older ones that are not tried again.
        is_needed: Whether the archive is not up to date.
    """

    tasks: list[Task]
    new: int
    changed: int
    missing: int
    failures: list[ar.Failure]
    is_needed: bool


def check_settings(old: ar.Manifest, new: ar.Settings, model_sha256: str) -> None:
    """Refuses to add to an archive that was made otherwise.

    Raises:
        InputError: naming what differs.
    """
    names = {"source": "INPUT", "root": "--root", "verify": "verification (--no-verify)", "min_psnr_db": "--min-psnr"}
    names |= {"target": "--target-bytes or --target-psnr", "quality": "--quality"}
    names |= {"keep_readable": "--keep-readable (SHA-256 of --classifier)"}
    names |= {"doubt": "--target-bytes (SHA-256 of --classifier)"}
    pairs = [("--model (SHA-256)", old.model_sha256, model_sha256)]
    pairs += [(name, getattr(old.settings, field), getattr(new, field)) for field, name in names.items()]
    for name, before, now in pairs:
        if before != now:
            was = f"but the archive was made with {before}"
            raise InputError(f"{name}: {now}, {was}; give the same, or start anew with --overwrite")


def check_writable(files: ar.ArchiveFiles) -> None:
    """Refuses to add to an archive that holds what this version would drop.

    Raises:
        FormatError: naming it.
    """
    if unknown := ar.unknown_keys(files.manifest_text):
        raise FormatError(f"{files.folder.path}: a newer tsae has written {', '.join(unknown)[:200]} there; update tsae")


def find_changes(listing: Listing, files: ar.ArchiveFiles, retry_failed: bool) -> Changes:
    """Compares an input with the archive that was made of it.

    Args:
        listing: What the input names now.
        files: The archive.
        retry_failed: Whether inputs that failed before are tried again though they are unchanged.

    Raises:
        TsaeError: if the archive is damaged where it has to be read.
    """
    failed = {failure.path: failure for failure in files.failures() if failure.stage != "list"}
    again, waiting = _sort_out(failed, listing, retry_failed)
    is_listed, is_waiting = np.zeros((2, len(listing.keys)), bool)
    is_waiting[listing.find(sorted(waiting))] = True
    replacing, missing = [], 0
    workers = READ_THREADS if paths.is_url(files.folder.path) else 1
    known = ar.map_in_threads(functools.partial(_read_known, files), range(files.shards), workers)
    for shard, (labels, origins) in enumerate(known):
        found = listing.find(list(labels))
        rows = np.sort(found[found >= 0])
        missing += len(found) - len(rows)
        is_listed[rows] = True
        changed = _changed_rows(files, shard, labels, origins, rows[~is_waiting[rows]], listing, again)
        if len(changed):
            replacing.append(Task(changed, shard))
    new = np.flatnonzero(~is_listed & ~is_waiting)
    failures = [*listing.failures, *(failed[path] for path in failed if path in waiting)]
    is_needed = bool(len(new) or replacing) or _differ(failures, files.failures())
    images = sum(len(task.rows) for task in replacing)
    return Changes([*cut(new), *replacing], len(new), images, missing, failures, is_needed)


def find_additions(part: Listing, shards: Sequence[int | None], files: ar.ArchiveFiles) -> Changes:
    """The same for a part of an input, while all that is not listed stays as it is.

    Args:
        part: Some of what the input names, and what it has that was not known and cannot be an input.
        shards: By row, the number of the shard that has the key; None if none has.
        files: The archive.

    Raises:
        TsaeError: if the archive is damaged where it has to be read.
    """
    failed = {failure.path: failure for failure in files.failures()}
    replacing = []
    for shard in sorted({shard for shard in shards if shard is not None}):
        rows = np.array([row for row, found in enumerate(shards) if found == shard])
        changed = _changed_rows(files, shard, *_read_known(files, shard), rows, part, failed.keys())
        if len(changed):
            replacing.append(Task(changed, shard))
    new = np.array([row for row, shard in enumerate(shards) if shard is None], np.int64)
    listed = {*part.keys, *(failure.path for failure in part.failures)}
    failures = [*part.failures, *(failure for path, failure in failed.items() if path not in listed)]
    images = sum(len(task.rows) for task in replacing)
    is_needed = bool(len(new) or replacing) or _differ(failures, files.failures())
    return Changes([*cut(new), *replacing], len(new), images, 0, failures, is_needed)


def _read_known(files: ar.ArchiveFiles, shard: int) -> tuple[dict[str, str | None], dict[str, ar.Origin]]:
    """Of all records of a shard, by key: labels, and what they were made from."""
    labels = {row["key"]: row["label"] for row in files.shard(shard).columns(["key", "label"])}
    return labels, files.origins(shard)


def _changed_rows(
    files: ar.ArchiveFiles,
    shard: int,
    labels: Mapping[str, str | None],
    origins: Mapping[str, ar.Origin],
    rows: NDArray[np.int64],
    listing: Listing,
    again: Set[str],
) -> NDArray[np.int64]:
    """Those of some rows whose records, in a shard with these labels and origins, are to be replaced."""
    changed = rows[_are_changed(listing.items(rows), again, labels, origins, listing.root)]
    if len(changed) and (added := files.shard(shard).added_columns()):
        raise FormatError(f"{files.entry(shard).file}: a newer tsae has written columns {added} there; update tsae")
    return changed


def _sort_out(failed: Mapping[str, ar.Failure], listing: Listing, retry_failed: bool) -> tuple[set[str], set[str]]:
    """Those of the inputs that failed before that are to be tried again: all, or those that have changed; and the others."""
    rows = listing.find(list(failed))
    items = listing.items(np.sort(rows[rows >= 0]))
    if retry_failed:
        return {item.key for item in items}, set()
    pairs = list(zip(items, map_states(items, listing.root), strict=True))
    before = {key: (failure.size_bytes, failure.version) for key, failure in failed.items()}
    stay = {item.key for item, state in pairs if is_same(state, before[item.key])}
    return {item.key for item in items} - stay, stay


def _are_changed(
    items: Sequence[Item],
    again: Set[str],
    labels: Mapping[str, str | None],
    origins: Mapping[str, ar.Origin],
    root: str,
) -> NDArray[np.bool_]:
    """Which of some images of a shard are to be replaced, bool `[N]`."""
    changed = np.array([item.key in again or item.key not in origins or labels[item.key] != item.label for item in items], bool)
    rest = np.flatnonzero(~changed).tolist()
    changed[rest] = _have_other_bytes([items[row] for row in rest], origins, root)
    return changed


def _have_other_bytes(items: Sequence[Item], origins: Mapping[str, ar.Origin], root: str) -> list[bool]:
    """Which of some images are not those that their records were made from; only those whose state is another are read."""
    verdicts = [_verdict(state, origins[item.key]) for item, state in zip(items, map_states(items, root), strict=True)]
    unsure = [row for row, verdict in enumerate(verdicts) if verdict is None]
    read = map_inputs(lambda item, read: _is_other(read, origins[item.key]), [items[row] for row in unsure], root)
    by_row = dict(zip(unsure, read, strict=True))
    return [by_row.get(row, bool(verdict)) for row, verdict in enumerate(verdicts)]


def _verdict(state: State, origin: ar.Origin) -> bool | None:
    """Whether an image has changed, as far as its state tells."""
    size_bytes, version = state
    if version is None or size_bytes not in (None, origin.size_bytes):
        return True
    return False if version and version == origin.version else None


def _is_other(read: Read, origin: ar.Origin) -> bool:
    try:
        return ar.Origin.of(read()[0], origin.version) != origin
    except ImageError:
        return True


def _differ(failures: Sequence[ar.Failure], before: Sequence[ar.Failure]) -> bool:
    """Whether two failures tables are different as they are stored."""
    if not failures or not before:
        return bool(failures) != bool(before)
    return ar.failures_to_bytes(failures) != ar.failures_to_bytes(before)
