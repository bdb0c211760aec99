"""Files that hold many images, tar and Parquet: how they are told by name, and which state of one its members are of."""

from __future__ import annotations

import re

from tsae import paths
from tsae.errors import InputError

COMPRESSED = re.compile(r"\.(?:tar\.(?:gz|bz2?|xz|zst|lz4?|lzma|z)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
COMPRESSED_STARTS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class ChangedError(OSError):
    """A container is no longer what it was when it was listed."""


def is_tar(name: str) -> bool:
    """Whether a name marks a tar file."""
    return name.lower().endswith(".tar")


def is_container(name: str) -> bool:
    """Whether a name marks a file of many images; compressed ones are refused later on, so they count."""
    return is_tar(name) or name.lower().endswith(".parquet") or bool(COMPRESSED.search(name))


def refuse_compressed(path: str, start: bytes = b"") -> None:
    """Refuses a tar that is compressed: its members could only be reached through all that is before them.

    Args:
        path: Its path or URL.
        start: Its first bytes, where they are known.

    Raises:
        InputError: if its name or start says so.
    """
    how = next((name for magic, name in COMPRESSED_STARTS.items() if start.startswith(magic)), None)
    if how or COMPRESSED.search(path):
        kind = f"a tar compressed with {how}" if how else "a compressed tar"
        raise InputError(f"{path}: is {kind}, of which no member can be read alone; decompress it first")


def container_path(root: str, container: str) -> str:
    """Where a container is; "" stands for the root."""
    return paths.join(root, container) if container else root


def version_of(facts: paths.FileFacts) -> str:
    """The state of a container, as one text; "" where the store cannot tell it."""
    return f"{facts.version}+{facts.size_bytes}" if facts.version else ""


def check_unchanged(file: paths.OpenFile, version: str | None) -> None:
    """Refuses a container that is another one than was listed: its members may be elsewhere now.

    Raises:
        ChangedError: if so.
        OSError: if its state cannot be told.
    """
    if version_of(file.facts()) != version:
        raise ChangedError(f"{file.path} has changed since it was listed")
