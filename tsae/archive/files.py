"""The files of an archive: how they are named and written. Owns names, not contents.

```
ARCHIVE/manifest.json                        the state of the archive; writing it is the commit
ARCHIVE/model.safetensors                    decodes the streams
ARCHIVE/lists/<number>-<sha256>.parquet      shards, by their names, digests, keys and footers
ARCHIVE/shards/<number>-<sha256>.parquet     records
ARCHIVE/provenance/<number>-<sha256>.parquet what the records were made from; only needed to bring the archive up to date
ARCHIVE/failures/<number>-<sha256>.parquet   what did not come through; absent where everything did
ARCHIVE/provenance/run-<state>-<sha256>.json how a run came to that state, for operators; see `tsae.jobs.run_report`
ARCHIVE/states/<state>.json                  manifests of old states that somebody still reads, see `tsae.archive.states`
ARCHIVE/job/                                 only while a job runs: its list of inputs and its model
```
"""

from __future__ import annotations

import dataclasses
import hashlib
import posixpath
import re

from tsae.errors import FormatError, InputError
from tsae.paths import TEMPORARY, Folder

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.safetensors"
JOB_FOLDER = "job"
PLAN_FILE = f"{JOB_FOLDER}/plan.json"
"""What makes a job one that can be resumed; see `tsae.jobs.plan`."""

PROVENANCE_FOLDER = "provenance"
STATES_FOLDER = "states"

MAX_FILE_BYTES = 2**31
"""No file of an archive is larger; claims beyond it, or a file with a hole, would only serve to exhaust memory."""

MAX_LIST_SHARDS = 1024
MAX_SHARD_RECORDS = 2**13
"""Most shards of a list, and most records of a shard: twice what tsae writes."""

DIGEST_DIGITS = 16
"""Hexadecimal digits of the SHA-256 in file names: 64 bits, no collision among the files of one archive."""

FILE_NAME = re.compile(rf"(lists|shards|failures|provenance)/[0-9]{{6,}}-[0-9a-f]{{{DIGEST_DIGITS}}}\.parquet")
"""What `write_digested` names files, and so what a manifest or a list may name."""

OTHER_MODEL_FILE = re.compile(rf"model-[0-9a-f]{{{DIGEST_DIGITS}}}\.safetensors")
"""Where a model lies whose archive replaced one of another model: both states are whole until the commit."""

RUN_FILE = re.compile(rf"{PROVENANCE_FOLDER}/run-[0-9a-f]{{{DIGEST_DIGITS}}}-[0-9a-f]{{{DIGEST_DIGITS}}}\.json")
"""The report of a run, by the digests of the manifest that it committed and of its own."""

STATE_FILE = re.compile(rf"{STATES_FOLDER}/[0-9a-f]{{{DIGEST_DIGITS}}}\.json")
"""An old manifest that somebody still reads by, named by its digest."""

JOB_FILE = re.compile(
    rf"{JOB_FOLDER}/(plan\.json|[0-9a-f]{{16}}/((base|committed)\.json|(failures|listing)\.parquet|(model|classifier)\.safetensors"
    r"|listing/[0-9]{6,}\.parquet|done/[0-9]{6,}\.json|batches/([0-9]{6,}\.(json|parquet)|look\.json)))"
)
"""What a job keeps in its folder while it runs; see `tsae.jobs.plan`."""


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file that the manifest vouches for.

    Attributes:
        file: Name relative to the archive.
        rows: Number of rows.
        bytes: Its size.
        sha256: Of its bytes, hexadecimal.
    """

    file: str
    rows: int
    bytes: int
    sha256: str


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digested_name(folder: str, number: int, sha256: str) -> str:
    """The name of a file by its content; `number` is its place in the order of its kind."""
    return f"{folder}/{number:06d}-{sha256[:DIGEST_DIGITS]}.parquet"


def run_name(manifest_sha256: str, sha256: str) -> str:
    """The name of the report of the run that committed a state."""
    return f"{PROVENANCE_FOLDER}/run-{manifest_sha256[:DIGEST_DIGITS]}-{sha256[:DIGEST_DIGITS]}.json"


def check_name(name: str, folder: str) -> None:
    """Refuses names that no archive gives.

    Raises:
        ValueError: if it is not one of that folder.
    """
    if not FILE_NAME.fullmatch(name) or not name.startswith(f"{folder}/"):
        raise ValueError(f"a file is named {name!r}")


def file_number(name: str) -> int:
    """The number in a name of `digested_name`."""
    return int(name.partition("/")[2].partition("-")[0])


def is_named_after(name: str, data: bytes) -> bool:
    """Whether a file's name is that of its content."""
    return has_digest(name, digest(data))


def has_digest(name: str, sha256: str) -> bool:
    """Whether a digest is the one in the name of a file."""
    return posixpath.splitext(name)[0].endswith(f"-{sha256[:DIGEST_DIGITS]}")


def write_digested(archive: Folder, folder: str, number: int, data: bytes, rows: int) -> FileEntry:
    """Writes a file whose name follows from its content, so that writing it again changes nothing.

    Args:
        archive: Where to.
        folder: Kind of file: a folder of the archive.
        number: Its place in the order of its kind.
        data: The whole file.
        rows: In it.

    Raises:
        InputError: if it cannot be written, such as on a full disk.
    """
    sha256 = digest(data)
    name = digested_name(folder, number, sha256)
    write(archive, name, data)
    return FileEntry(name, rows, len(data), sha256)


def write(archive: Folder, name: str, data: bytes) -> None:
    """Writes a file of the archive in one step, to last.

    Raises:
        InputError: if it cannot be written, such as on a full disk.
    """
    try:
        archive.write(name, data, durable=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{archive.path}/{name}: cannot be written ({reason}); make room or choose another place") from error


def read_digested(archive: Folder, name: str, sha256: str, size_bytes: int | None = None) -> bytes:
    """A whole file, known to be the one that was written.

    Args:
        archive: Where it is.
        name: Its name.
        sha256: Its digest.
        size_bytes: Its size, if that is known: of another file that may be there, no more is read than that.

    Raises:
        FormatError: if it is missing or another one.
    """
    source = f"{archive.path}/{name}"
    most_bytes = MAX_FILE_BYTES if size_bytes is None else min(size_bytes + 1, MAX_FILE_BYTES)
    try:
        data = archive.read(name, most_bytes)
    except OSError as error:
        raise FormatError(f"{source}: cannot be read ({error.strerror or error}); restore the file") from error
    if (found := digest(data)) != sha256:
        raise FormatError(f"{source}: SHA-256 {found}, the archive needs {sha256}; restore the file")
    return data


def is_leftover(name: str) -> bool:
    """Whether a file of this name, if no manifest names it, was left by a job of tsae's; nobody else's is called so."""
    patterns = (FILE_NAME, OTHER_MODEL_FILE, RUN_FILE, STATE_FILE, JOB_FILE)
    return any(pattern.fullmatch(name) for pattern in patterns) or bool(TEMPORARY.search(name))
