"""Tar files of images, as WebDataset lays them out: `00001.png` and beside it `00001.cls` or `00001.json` with its label."""

from __future__ import annotations

import dataclasses
import json
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tsae import paths
from tsae.archive.records import key_fault
from tsae.errors import InputError
from tsae.inputs.containers import refuse_compressed, version_of
from tsae.inputs.labels import sort_labels
from tsae.inputs.listing import TEXTS, Batches, Finding, has_image_ending, printable
from tsae.inputs.tables import one_line

MAX_HEADER_BYTES = 2**20
"""Of what a header or a file with a label may take; honest ones take a few hundred."""

LOCAL_BLOCK_BYTES, REMOTE_BLOCK_BYTES = 2**17, 2**22
"""Read at once: images are small, so that of a remote tar, few requests beat few bytes."""

HEADER_BYTES = 512

OCTAL = re.compile(rb" *([0-7]+) *(?:\0.*)?", re.DOTALL)
"""A number in a header, as nearly all are written."""

LABEL_ENDINGS = (".cls", ".json")
"""Members that hold labels; the first counts more."""

LAST_ENDING, ALL_ENDINGS = r"\.[^./]*$", r"\.[^/]*$"
"""`1.left.png` takes the label of `1.left.cls`, or else that of `1.cls`."""

ENDS_EARLY = "it ends without the mark that ends a tar, so the rest may be missing; fetch it again"


class _Damaged(Exception):
    """The tar cannot be followed further."""


class _Window:
    """A file with a position, of which a block is kept; gives no more at once than an honest header takes."""

    def __init__(self, file: paths.OpenFile) -> None:
        self._file, self._block_bytes = file, REMOTE_BLOCK_BYTES if paths.is_url(file.path) else LOCAL_BLOCK_BYTES
        self._start, self._block, self._position = 0, b"", 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        self._position = position

    def read(self, length: int) -> bytes:
        if not 0 <= length <= MAX_HEADER_BYTES:  # made up
            raise _Damaged(f"a header of {length} bytes")
        skip = self._position - self._start
        if skip < 0 or skip + length > len(self._block):
            self._start, skip = self._position, 0
            self._block = self._file.read(self._start, max(length, self._block_bytes))
        data = self._block[skip : skip + length]
        self._position += len(data)
        return data


@dataclasses.dataclass(frozen=True)
class _Member:
    """What counts of a member."""

    name: str
    position: int
    size_bytes: int
    is_folder: bool = False
    is_regular: bool = True


class _Tar:
    """A tar, member by member. It is what `tarfile.TarInfo.fromtarfile` needs; the class of that module would keep each."""

    def __init__(self, window: _Window) -> None:
        self.fileobj, self.offset = window, 0
        self.encoding, self.errors, self.tarinfo = "utf-8", "surrogateescape", tarfile.TarInfo
        self.pax_headers: dict[str, str] = {}

    def members(self, size_bytes: int) -> Iterator[_Member]:
        """All members, one at a time."""
        while True:
            start = self.offset
            self.fileobj.seek(start)
            member = self._plain() or self._any(start)
            if member is None:
                return
            end = max(member.position + member.size_bytes, self.offset - HEADER_BYTES + 1)  # the padding may be missing
            if self.offset <= start or member.size_bytes < 0 or end > size_bytes:
                raise _Damaged(f"its member at byte {start} ends beyond its end, at {size_bytes}")
            yield member

    def _plain(self) -> _Member | None:
        """The next member if it is as nearly all are, a tenth of the time; None leaves it to `tarfile`."""
        header, start = self.fileobj.read(HEADER_BYTES), self.offset
        name, kind, prefix = header[:100].partition(b"\0")[0], header[156:157], header[345:500].partition(b"\0")[0]
        is_plain = kind in (b"0", b"\0") and header.isascii() and not prefix and not name.endswith(b"/")
        if not is_plain or len(header) < HEADER_BYTES or self.pax_headers:
            return None
        size, checksum = OCTAL.fullmatch(header[124:136]), OCTAL.fullmatch(header[148:156])
        if not size or not checksum or sum(header) - sum(header[148:156]) + 8 * ord(" ") != int(checksum[1], 8):
            return None
        size_bytes, position = int(size[1], 8), start + HEADER_BYTES
        self.offset = position + -(-size_bytes // HEADER_BYTES) * HEADER_BYTES
        return _Member(name.decode(), position, size_bytes)

    def _any(self, start: int) -> _Member | None:
        """The next member; None at the end."""
        self.fileobj.seek(start)
        try:
            info = tarfile.TarInfo.fromtarfile(self)  # type: ignore[arg-type]
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            return None
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise _Damaged(ENDS_EARLY) from error
        except (tarfile.TarError, ValueError, LookupError, RecursionError, OverflowError) as error:
            raise _Damaged(f"from byte {start} on it is no tar ({' '.join(str(error).split())[:200]})") from error
        is_regular = info.isreg() and not info.issparse()
        return _Member(info.name, info.offset_data, info.size, info.isdir(), is_regular)


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
        window = _Window(file)
        refuse_compressed(path, window.read(8))
        prefix = container and container + "/"
        try:
            for member in _Tar(window).members(facts.size_bytes):
                _add_member(finding, scan, member, window, prefix)
        except _Damaged as error:
            if not scan.members:
                raise InputError(f"{path}: no intact tar file ({error}); fetch it again") from error
            finding.fail(container or path, "InputError", f"after {scan.members} members: {error}")
    for table in _labelled(finding, scan, printable(container or path)):
        finding.add_table(table, container, version_of(facts))


class _Scan:
    """What a tar has: its images, and by names without ending the labels of either kind."""

    def __init__(self) -> None:
        self.members = 0
        self.images = Batches("key", "position", "size_bytes")
        self.labels = {ending: Batches("key", "label") for ending in LABEL_ENDINGS}


def _add_member(finding: Finding, scan: _Scan, member: _Member, window: _Window, prefix: str) -> None:
    name = _normal(member.name)
    scan.members += 1
    if member.is_folder:
        return
    if not has_image_ending(name):
        finding.skipped += 1
        if member.is_regular and name.endswith(LABEL_ENDINGS):
            _add_label(finding, scan, name, member, window, prefix)
    elif not member.is_regular:
        finding.fail(prefix + name, "InputError", "the member is a link, a device or sparse; store the image itself")
    elif fault := key_fault(prefix + name):
        finding.fail(prefix + name, "InputError", fault)
    else:
        scan.images.add(name, member.position, member.size_bytes)


def _normal(name: str) -> str:
    """`./a.png`, as `tar` itself writes it, is `a.png`."""
    while name.startswith("./"):
        name = name[2:].lstrip("/") or "."
    return name


def _add_label(finding: Finding, scan: _Scan, name: str, member: _Member, window: _Window, prefix: str) -> None:
    ending = next(ending for ending in LABEL_ENDINGS if name.endswith(ending))
    stem = name.removesuffix(ending)
    try:
        if member.size_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"{member.size_bytes} bytes")
        stem.encode()
        window.seek(member.position)
        text = window.read(member.size_bytes).decode("utf-8-sig")
        label = text.strip() if ending == ".cls" else _json_label(text)
        (label or "").encode()
    except (ValueError, RecursionError) as error:
        finding.fail(prefix + name, "InputError", f"its label cannot be read ({one_line(error)}); correct the member")
        return
    if label:
        scan.labels[ending].add(stem, label)


def _json_label(text: str) -> str | None:
    fields: Any = json.loads(text)
    label = fields.get("label") if isinstance(fields, dict) else None
    return str(label) if isinstance(label, (str, int)) and not isinstance(label, bool) else None


def _labelled(finding: Finding, scan: _Scan, source: str) -> Iterator[pa.Table]:
    """The images with their labels, the last ones first: of those of one name, the first is taken."""
    lookups = [sort_labels(finding, scan.labels[ending].tables(), source) for ending in LABEL_ENDINGS]
    for table in reversed(scan.images.tables()):
        table = table.take(pa.array(np.arange(len(table))[::-1]))
        names = table.column("key").combine_chunks()
        stems = [pc.replace_substring_regex(names, ending, "") for ending in (LAST_ENDING, ALL_ENDINGS)]
        labels = pc.coalesce(*(lookup.labels_of(stem).cast(pa.string()) for stem in stems for lookup in lookups))
        yield table.append_column("label", labels.dictionary_encode().cast(TEXTS))


def read_tar_member(file: paths.OpenFile, position: int, size_bytes: int) -> bytes:
    """The bytes of a member.

    Raises:
        OSError: if they cannot be read, or are not all there.
    """
    data = file.read(position, size_bytes)
    if len(data) != size_bytes:
        raise OSError(f"{file.path} ends within the member at byte {position}")
    return data
