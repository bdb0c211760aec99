"""Tar files of images, as WebDataset lays them out: `00001.png` and beside it `00001.cls` or `00001.json` with its label."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from tsae import paths
from tsae.archive.records import MAX_LABEL_BYTES
from tsae.errors import InputError
from tsae.inputs.containers import refuse_compressed, version_of
from tsae.inputs.listing import Finding, has_image_ending, printable

MAX_HEADER_BYTES = 2**20
"""Of what a header or a file with a label may take; honest ones take a few hundred."""

LOCAL_BLOCK_BYTES, REMOTE_BLOCK_BYTES = 2**17, 2**22
"""Read at once: images are small, so that of a remote tar, few requests beat few bytes."""

ENDS_EARLY = "it ends without the mark that ends a tar, so the rest may be missing; fetch it again"


class _Damaged(Exception):
    """The tar cannot be followed further."""


class _Limited:
    """A stream that gives no more at once than an honest header takes: a length may be made up."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.tell, self.seek = stream, stream.tell, stream.seek

    def read(self, length: int) -> bytes:
        if not 0 <= length <= MAX_HEADER_BYTES:
            raise _Damaged(f"a header of {length} bytes")
        return self._stream.read(length)


class _Tar:
    """What `tarfile.TarInfo.fromtarfile` needs of a tar; the module's own class would keep each member."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.fileobj = _Limited(stream)
        self.encoding, self.errors, self.tarinfo = "utf-8", "surrogateescape", tarfile.TarInfo
        self.pax_headers: dict[str, str] = {}
        self.offset = 0

    def members(self, size_bytes: int) -> Iterator[tarfile.TarInfo]:
        """All members, one at a time."""
        while True:
            start = self.offset
            self.fileobj.seek(start)
            try:
                member = tarfile.TarInfo.fromtarfile(self)  # type: ignore[arg-type]
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                return
            except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
                raise _Damaged(ENDS_EARLY) from error
            except (tarfile.TarError, ValueError, LookupError, RecursionError, OverflowError) as error:
                raise _Damaged(f"from byte {start} on it is no tar ({' '.join(str(error).split())[:200]})") from error
            if self.offset <= start or member.size < 0 or member.offset_data + member.size > size_bytes:
                raise _Damaged(f"its member at byte {start} ends beyond its end, at {size_bytes}")
            yield member


def find_in_tar(finding: Finding, path: str, container: str) -> None:
    """Adds the images of a tar, with their labels; where it cannot be followed further, the rest becomes one failure.

    Args:
        finding: To add to.
        path: Of the tar, local or URL.
        container: Its name below the root, "" if it is the root.

    Raises:
        InputError: if it is compressed, or no tar at all.
        OSError: if it cannot be read.
    """
    with paths.open_file(path) as file:
        facts, scan = file.facts(), _Scan()
        refuse_compressed(path, file.read(0, 8))
        prefix = container and container + "/"
        stream = file.as_stream(REMOTE_BLOCK_BYTES if paths.is_url(path) else LOCAL_BLOCK_BYTES)
        try:
            for member in _Tar(stream).members(facts.size_bytes):
                _add_member(finding, scan, member, stream, prefix)
        except _Damaged as error:
            if not scan.members:
                raise InputError(f"{path}: no intact tar file ({error}); fetch it again") from error
            finding.fail(container or path, "InputError", f"after {scan.members} members: {error}")
        _add_images(finding, scan, container, version_of(facts))


class _Scan:
    """What a tar has: places of images by name, of which the last of a name counts, and labels by name without ending."""

    def __init__(self) -> None:
        self.members = 0
        self.repeated = 0
        self.images: dict[str, tuple[int, int]] = {}
        self.labels: dict[str, str] = {}


def _add_member(finding: Finding, scan: _Scan, member: tarfile.TarInfo, stream: IO[bytes], prefix: str) -> None:
    name = _normal(member.name)
    scan.members += 1
    if member.isdir():
        return
    if not has_image_ending(name):
        finding.skipped += 1
        if member.isreg() and name.endswith((".cls", ".json")):
            _add_label(finding, scan, name, member, stream, prefix)
    elif not member.isreg() or member.issparse():
        finding.fail(prefix + name, "InputError", "the member is a link, a device or sparse; store the image itself")
    else:
        scan.repeated += name in scan.images
        scan.images[name] = member.offset_data, member.size


def _normal(name: str) -> str:
    """`./a.png`, as `tar` itself writes it, is `a.png`."""
    while name.startswith("./"):
        name = name[2:].lstrip("/") or "."
    return name


def _add_label(finding: Finding, scan: _Scan, name: str, member: tarfile.TarInfo, stream: IO[bytes], prefix: str) -> None:
    stem, ending = os.path.splitext(name)
    try:
        if member.size > MAX_HEADER_BYTES:
            raise ValueError(f"{member.size} bytes")
        stream.seek(member.offset_data)
        text = stream.read(member.size).decode("utf-8-sig")
        label = text.strip() if ending == ".cls" else _json_label(text)
    except (ValueError, RecursionError) as error:
        finding.fail(prefix + name, "InputError", f"its label cannot be read ({error}); correct the member")
        return
    if label and (ending == ".cls" or stem not in scan.labels):
        scan.labels[stem] = label


def _json_label(text: str) -> str | None:
    fields: Any = json.loads(text)
    label = fields.get("label") if isinstance(fields, dict) else None
    return str(label) if isinstance(label, (str, int)) else None


def _add_images(finding: Finding, scan: _Scan, container: str, version: str) -> None:
    too_long = 0
    prefix = container and container + "/"
    for name, (position, size_bytes) in scan.images.items():
        label = _label(scan, name)
        if label is not None and len(label.encode("utf-8", "replace")) > MAX_LABEL_BYTES:
            label, too_long = None, too_long + 1
        place = {"container": container, "position": position, "size_bytes": size_bytes, "version": version}
        finding.add(prefix + name, label=label, **place)
    source = printable(container or finding.root)
    if too_long:
        finding.notes.append(f"{source}: {too_long} labels of more than {MAX_LABEL_BYTES} bytes are left out")
    if scan.repeated:
        finding.notes.append(f"{source}: has {scan.repeated} names more than once; the last of each counts, as for tar")


def _label(scan: _Scan, name: str) -> str | None:
    """Of the file of the same name, or else of the same name up to its first dot: `1.left.png` takes that of `1.cls`."""
    stem = os.path.splitext(name)[0]
    folder, slash, last = name.rpartition("/")
    return scan.labels.get(stem) or scan.labels.get(folder + slash + last.partition(".")[0])


def read_tar_member(file: paths.OpenFile, position: int, size_bytes: int) -> bytes:
    """The bytes of a member.

    Raises:
        OSError: if they cannot be read, or are not all there.
    """
    data = file.read(position, size_bytes)
    if len(data) != size_bytes:
        raise OSError(f"{file.path} ends within the member at byte {position}")
    return data
