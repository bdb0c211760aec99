"""Verification as a job: checks an archive in parallel, decodes it if asked for, repairs it if asked for. Owns no check."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

from tsae import archive as ar
from tsae import paths
from tsae.errors import CorruptDataError, FormatError, InputError
from tsae.jobs.repair import Salvage, check_place, repair
from tsae.progress import Progress
from tsae.reader import Archive

REMOTE_WORKERS = 16
"""Threads for a remote store, where they wait more than they hash."""


@dataclasses.dataclass(frozen=True)
class Verification:
    """What came of it.

    Attributes:
        files: Number of files that were looked at.
        bytes: Of these files.
        images: In the archive; None where its manifest is damaged.
        intact: Records that are intact, as far as that is known.
        damages: What is not as it was written.
        notes: What a user should know, though nothing is lost.
        salvage: The repaired archive, where one was written.
    """

    files: int
    bytes: int
    images: int | None
    intact: int
    damages: list[ar.Damage]
    notes: list[str]
    salvage: Salvage | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        damages = [dataclasses.asdict(damage) for damage in self.damages]
        return {**fields, "damages": damages, "salvage": self.salvage and self.salvage.to_json()}

    def describe(self, archive: str, shown: int) -> str:
        """The result for people, with at most so many damages."""
        counts = "" if self.images is None else f", {self.intact:,} of {self.images:,} images intact"
        lines = [f"{archive}: {self.files:,} files, {self.bytes / 1e6:,.1f} MB{counts}"]
        lines += [f"damaged: {damage.file}: {_where(damage)}{damage.message}" for damage in self.damages[:shown]]
        if len(self.damages) > shown:
            lines.append(f"damaged: {len(self.damages) - shown:,} more; --json shows all")
        lines += [f"note: {note}" for note in self.notes]
        if self.salvage is not None:
            lines += self.salvage.describe()
        elif self.damages:
            lines.append("remedy: restore what is damaged from a copy, or save what is intact with --repair OUT")
        return "\n".join(lines)


def _where(damage: ar.Damage) -> str:
    return f"{damage.key!r}: " if damage.key is not None else ""


def verify(archive: str, output: str | None = None, decode: bool = False, workers: int | None = None) -> Verification:
    """Checks every file of an archive.

    Args:
        archive: Path or URL.
        output: Where to write a new archive of all intact records; None is not to.
        decode: Whether to decode every image as well.
        workers: Threads; None is one for each core, or `REMOTE_WORKERS`.

    Raises:
        InputError: if an argument cannot be used.
        FormatError: if there is no archive of this version, or it was changed meanwhile.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: at least 1 is needed; leave it out to use all cores")
    workers = workers or (REMOTE_WORKERS if paths.is_url(archive) else os.cpu_count()) or 1
    folder = ar.Folder(paths.absolute(archive))
    try:
        place = None if output is None else check_place(folder, output)
        result = _verify(folder, decode, workers)
        return result if place is None else dataclasses.replace(result, salvage=repair(folder, place, workers))
    except OSError as error:  # of the folder itself: what is wrong with a file is in its report
        reason = error.strerror or error
        raise InputError(f"{error.filename or archive}: cannot be read ({reason}); check place and permissions") from error


def _verify(folder: ar.Folder, decode: bool, workers: int) -> Verification:
    """Checks all files. A damaged manifest is a damage like others: files tell by their names what they must be."""
    try:
        files = ar.ArchiveFiles(folder.path)
    except CorruptDataError as error:
        fault = str(error).removeprefix(f"{folder.path}/{ar.MANIFEST_FILE}: ").rpartition("; ")[0]
    except FormatError:
        if not ar.has_lost_manifest(folder):
            raise
        fault = "is missing"
    else:
        return _check(files, decode, workers)
    damage = ar.Damage(ar.MANIFEST_FILE, None, f"{fault}: nothing can be read without it")
    reports = [ar.FileReport(ar.MANIFEST_FILE, damages=(damage,))]
    return _sum([*reports, *_watch(folder, ar.verify_without_manifest(folder, workers))], None)


def _check(files: ar.ArchiveFiles, decode: bool, workers: int) -> Verification:
    reports = _watch(files.folder, ar.verify(files, workers, _decoder(files) if decode else None))
    result = _sum(reports, files.manifest.images)
    if result.damages and ar.read_manifest_text(files.folder) != files.manifest_text:
        raise FormatError(f"{files.folder.path}: was changed by another command meanwhile; run this again")
    return result


def _decoder(files: ar.ArchiveFiles) -> ar.Decode | None:
    """What decodes records of an archive; None where its model is damaged, which is a damage of its own."""
    archive = Archive(files.folder.path, files.manifest_text)
    try:
        archive.codec  # noqa: B018 - loaded here, once
    except FormatError:
        return None
    return archive.decode_records


def _watch(folder: ar.Folder, reports: Iterable[ar.FileReport]) -> list[ar.FileReport]:
    """The reports, with a progress bar over the bytes of the archive."""
    kept = []
    with Progress(sum(folder.sizes_bytes().values()), "verifying", "bytes") as progress:
        for report in reports:
            progress.update(report.bytes)
            kept.append(report)
    return kept


def _sum(reports: Iterable[ar.FileReport], images: int | None) -> Verification:
    reports = list(reports)
    return Verification(
        files=len({report.file for report in reports if report.file}),
        bytes=sum(report.bytes for report in reports),
        images=images,
        intact=sum(report.records for report in reports),
        damages=[damage for report in reports for damage in report.damages],
        notes=list(dict.fromkeys(note for report in reports for note in report.notes)),
    )
