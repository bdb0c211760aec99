"""Bringing an archive up to date: what the input has that the archive has not. Owns the comparison, not the work.

An input counts as unchanged if its size and version (the time of change of a local file, an ETag or a time of a remote
one) are those recorded when it was compressed, or else if its bytes still have the recorded digest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

from tsae import archive as ar
from tsae.errors import FormatError, ImageError, InputError
from tsae.inputs import Listing, map_inputs, read_input, stat_input
from tsae.jobs.plan import Task, cut

T = TypeVar("T")


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
    listed, failed = set(listing.keys), {f.path: f for f in files.failures() if f.stage != "list"}
    again = _to_try_again([key for key in failed if key in listed], failed, listing, retry_failed)
    stay = [failure for path, failure in failed.items() if path in listed and path not in again]
    waiting = {failure.path for failure in stay}
    in_archive: set[str] = set()
    replacing, changed = [], 0
    for shard in range(files.shards):
        labels = {row["key"]: row["label"] for row in files.shard(shard).columns(["key", "label"])}
        in_archive |= labels.keys()
        there = [key for key in labels if key in listed and key not in waiting]
        keys = sorted(_changed_keys(there, labels, files.origins(shard), listing) | (again & labels.keys()))
        if keys and (added := files.shard(shard).added_columns()):
            raise FormatError(f"{files.entry(shard).file}: a newer tsae has written columns {added} there; update tsae")
        if keys:
            replacing.append(Task(keys, shard))
            changed += len(keys)
    new = [key for key in listing.keys if key not in in_archive and key not in waiting]
    failures = [*listing.failures, *stay]
    is_needed = bool(new or replacing) or _differ(failures, files.failures())
    return Changes([*cut(new), *replacing], len(new), changed, len(in_archive - listed), failures, is_needed)


def _to_try_again(keys: list[str], failed: Mapping[str, ar.Failure], listing: Listing, retry_failed: bool) -> set[str]:
    """Those of the inputs that failed before that are to be tried again: all, or those whose files have changed."""
    if retry_failed:
        return set(keys)
    facts = map_inputs(lambda key: stat_input(listing.root, key, listing.facts.get(key)), keys, listing.root)
    return {key for key, fact in zip(keys, facts, strict=True) if fact != (failed[key].size_bytes, failed[key].version)}


def _changed_keys(
    keys: Sequence[str], labels: Mapping[str, str | None], origins: Mapping[str, ar.Origin], listing: Listing
) -> set[str]:
    changed = {key for key in keys if key not in origins or labels[key] != listing.labels.get(key)}
    rest = [key for key in keys if key not in changed]
    is_same = map_inputs(lambda key: _is_unchanged(listing, key, origins[key]), rest, listing.root)
    return changed | {key for key, same in zip(rest, is_same, strict=True) if not same}


def _is_unchanged(listing: Listing, key: str, origin: ar.Origin) -> bool:
    size_bytes, version = stat_input(listing.root, key, listing.facts.get(key))
    if size_bytes != origin.size_bytes:
        return False
    if version == origin.version and version:
        return True
    try:
        return ar.Origin.of(read_input(listing.root, key)[0], origin.version) == origin
    except ImageError:
        return False


def _differ(failures: Sequence[ar.Failure], before: Sequence[ar.Failure]) -> bool:
    """Whether two failures tables are different as they are stored."""
    if not failures or not before:
        return bool(failures) != bool(before)
    return ar.failures_to_bytes(failures) != ar.failures_to_bytes(before)
