"""The manifest: the one file that makes an archive of shards, and whose writing is the commit. Owns names and JSON.

```
ARCHIVE/manifest.json                      written last; what it does not name is not part of the archive
ARCHIVE/model.safetensors                  decodes the streams; bound by its SHA-256
ARCHIVE/shards/<number>-<sha256>.parquet   records
ARCHIVE/failures/<number>-<sha256>.parquet what did not come through; absent where everything did
ARCHIVE/job/                               only while a job runs: its list of inputs and its model
```
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import Any

from tsae.errors import FormatError, InputError
from tsae.paths import TEMPORARY, Folder

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.safetensors"
JOB_FOLDER = "job"
DIGEST_DIGITS = 16
"""Hexadecimal digits of the SHA-256 in file names: 64 bits, no collision among the files of one archive."""

FILE_NAME = re.compile(rf"(shards|failures)/[0-9]{{6,}}-[0-9a-f]{{{DIGEST_DIGITS}}}\.parquet")
"""What `write_digested` names files, and so what a manifest may name."""

JOB_FILE = re.compile(rf"{JOB_FOLDER}/(plan\.json|listing\.parquet|model\.safetensors|done/[0-9]{{6,}}\.json)")
"""What a job keeps in its folder while it runs; see `tsae.jobs.plan`."""

JSON_TYPES = {"str": str, "int": int, "dict[str, Any]": dict}
"""Annotations of the fields below to what `json` must have made of them."""


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file that the manifest vouches for.

    Attributes:
        file: Name relative to the archive.
        rows: Number of records, or of failures.
        bytes: Its size.
        sha256: Of its bytes, hexadecimal.
    """

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class ShardEntry(FileEntry):
    """A shard, with what lets a key be found without opening all of them.

    Attributes:
        first_key: Smallest key.
        last_key: Largest key.
        stream_bytes: Sum of its streams' lengths.
    """

    first_key: str
    last_key: str
    stream_bytes: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What an archive is.

    Attributes:
        model: Its name.
        model_sha256: Digest of the model file.
        preprocessing: See `tsae.config.Preprocessing`.
        created_by: Program and version.
        skipped: Input files passed over because of their endings.
        source_bytes: Size of the image files that came through.
        shards: In order of their keys.
        failures: Files of the failures table.
    """

    model: str
    model_sha256: str
    preprocessing: dict[str, Any]
    created_by: str
    skipped: int
    source_bytes: int
    shards: tuple[ShardEntry, ...]
    failures: tuple[FileEntry, ...]

    @property
    def images(self) -> int:
        """Number of records."""
        return sum(shard.rows for shard in self.shards)

    @property
    def sha256(self) -> str:
        """Tells this state of an archive from any other."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def format_version(self) -> int:
        """Of the archive: the only version there is."""
        return FORMAT_VERSION

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps({"format": "tsae", "format_version": FORMAT_VERSION, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> Manifest:
        """Reads `to_json`'s text.

        Args:
            text: The whole file.
            source: Its path, for messages.

        Raises:
            FormatError: if it is no manifest, or one of another version.
        """
        try:
            fields = json.loads(text)
            version = fields.pop("format_version") if fields.pop("format") == "tsae" else None
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise FormatError(f"{source}: damaged, or not a manifest of tsae's; restore the file") from error
        if version != FORMAT_VERSION:
            raise FormatError(f"{source}: archive format {version}, this tsae reads {FORMAT_VERSION}; update tsae")
        try:
            shards = tuple(ShardEntry(**entry) for entry in fields.pop("shards"))
            failures = tuple(FileEntry(**entry) for entry in fields.pop("failures"))
            manifest = cls(**fields, shards=shards, failures=failures)
            _check_manifest(manifest)
            return manifest
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{source}: damaged ({error}); restore the file") from error


def _check_manifest(manifest: Manifest) -> None:
    """Raises ValueError unless all is of its type, names stay inside the archive, and keys ascend over the shards."""
    parts: list[Manifest | FileEntry] = [manifest, *manifest.shards, *manifest.failures]
    for part in parts:
        for field in dataclasses.fields(part):
            value, kind = getattr(part, field.name), JSON_TYPES.get(str(field.type))
            if kind is not None and type(value) is not kind:
                raise ValueError(f"{field.name} is {value!r}, not of type {field.type}")
    for entry in (*manifest.shards, *manifest.failures):
        if not FILE_NAME.fullmatch(entry.file):
            raise ValueError(f"a file is named {entry.file!r}")
    if any(entry.rows < 0 or entry.bytes < 0 for entry in (*manifest.shards, *manifest.failures)):
        raise ValueError("a number of rows or bytes is negative")
    keys = [key for shard in manifest.shards for key in (shard.first_key, shard.last_key)]
    if keys != sorted(keys):
        raise ValueError("keys do not ascend over the shards")


def write_digested(archive: Folder, kind: str, number: int, data: bytes) -> tuple[str, str]:
    """Writes a file whose name follows from its content, so that writing it again changes nothing.

    Args:
        archive: Where to.
        kind: Folder in the archive: "shards" or "failures".
        number: Its place in the order of shards.
        data: The whole file.

    Returns:
        Its name relative to the archive, and its SHA-256.

    Raises:
        InputError: if it cannot be written, such as on a full disk.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"{kind}/{number:06d}-{sha256[:DIGEST_DIGITS]}.parquet"
    write(archive, name, data)
    return name, sha256


def write(archive: Folder, name: str, data: bytes) -> None:
    """Writes a file of the archive in one step.

    Raises:
        InputError: if it cannot be written, such as on a full disk.
    """
    try:
        archive.write(name, data)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{archive.path}/{name}: cannot be written ({reason}); make room or choose another place") from error


def read_manifest(archive: Folder) -> Manifest:
    """Reads the manifest of an archive.

    Raises:
        FormatError: if there is none, or an unreadable one.
    """
    source = f"{archive.path}/{MANIFEST_FILE}"
    try:
        text = archive.read(MANIFEST_FILE)
    except (FileNotFoundError, NotADirectoryError) as error:
        remedy = "its job did not end; finish it with --resume" if archive.exists(JOB_FOLDER) else "name another folder"
        raise FormatError(f"{archive.path}: not an archive (no {MANIFEST_FILE}); {remedy}") from error
    except OSError as error:
        raise FormatError(
            f"{source}: cannot be read ({error.strerror or error}); check the file and its permissions"
        ) from error
    return Manifest.from_json(text, source)


def commit(archive: Folder, manifest: Manifest, model_file: bytes) -> None:
    """Makes `manifest` the state of the archive, then removes what of an archive's own files it does not name.

    Files that no job of tsae's wrote, such as a note beside the manifest, stay.

    Raises:
        InputError: if a file cannot be written, or one that is no longer needed not removed.
    """
    if not _holds(archive, MODEL_FILE, model_file):
        write(archive, MODEL_FILE, model_file)
    write(archive, MANIFEST_FILE, manifest.to_json().encode())
    try:
        _remove_unnamed(archive, {entry.file for entry in (*manifest.shards, *manifest.failures)})
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{archive.path}: complete, but leftovers cannot be removed ({reason}); remove them") from error


def _holds(archive: Folder, name: str, data: bytes) -> bool:
    try:
        return archive.read(name) == data
    except OSError:
        return False


def _remove_unnamed(archive: Folder, named: set[str]) -> None:
    archive.remove(name for name in archive.sizes_bytes().keys() - named if is_leftover(name))


def is_leftover(name: str) -> bool:
    """Whether a file of this name, if no manifest names it, was left by a job of tsae's; nobody else's is called so."""
    return bool(FILE_NAME.fullmatch(name) or JOB_FILE.fullmatch(name) or TEMPORARY.search(name))


def remove_job(archive: Folder) -> None:
    """Removes the job folder of an archive, as far as tsae wrote it.

    Raises:
        OSError: if a file cannot be removed.
    """
    archive.remove(name for name in archive.sizes_bytes() if JOB_FILE.fullmatch(name))
