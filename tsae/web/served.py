"""The export of an archive made as it is asked for: what a server answers with, file by file, without writing any.

Each shard is a block, and each segment a file; a damaged record is one that does not match its checksum. Nothing but the
manifest and its lists is read before it is needed.
"""

from __future__ import annotations

import functools
import posixpath
import re

import numpy as np

from tsae.archive import concatenate
from tsae.reader import Archive
from tsae.web.export import DESCRIPTION_FILE
from tsae.web.layout import Block, describe, to_block, to_model_segment
from tsae.web.page_files import read_page

KEPT_BLOCKS = 16
"""Blocks that are kept whole, of some MB each at most."""

KEPT_INDEX_BLOCKS = 4096
"""Blocks whose facts and keys are kept, some 40 kB each."""

SEGMENT_FILE = re.compile(r"(facts|keys|streams)/([0-9]{6,})-([0-9a-f]{16})\.bin")


class ServedArchive:
    """One state of an archive as the files of its export. Safe to share between threads."""

    def __init__(self, archive: Archive, originals_route: str | None = None) -> None:
        """Reads nothing yet; the archive must stay open. The route is where the server gives originals by key, if it does."""
        self._archive, self._originals_route = archive, originals_route
        self._block = functools.lru_cache(KEPT_BLOCKS)(self._make_block)
        self._index = functools.lru_cache(KEPT_INDEX_BLOCKS)(self._make_index)

    def read(self, name: str) -> bytes:
        """A file of the export by its name: `index.html`, `archive.json`, or one that these name.

        Raises:
            KeyError: if there is no such file.
            TsaeError: if what is needed is damaged.
        """
        if name == DESCRIPTION_FILE:
            return self._description
        if name == self._model_name:
            return self._model
        if match := SEGMENT_FILE.fullmatch(name):
            return self._segment(match[1], int(match[2]), name)
        return read_page()[name]

    def _segment(self, kind: str, number: int, name: str) -> bytes:
        if number >= len(self._entries) or name != _file_name(kind, number, self._entries[number]):
            raise KeyError(name)
        if kind == "streams":
            return self._block(number).streams
        return self._index(number)[kind == "keys"]

    def _make_block(self, number: int) -> Block:
        shard = self._archive.files.shard(number)
        parts = [shard.read(row_group) for row_group in range(shard.row_groups)]
        intact = np.concatenate([are_intact for _, are_intact in parts])
        return to_block(concatenate([records for records, _ in parts]), None, intact.tolist())

    def _make_index(self, number: int) -> tuple[bytes, bytes]:
        block = self._block(number)
        return block.facts, block.keys

    @functools.cached_property
    def _entries(self) -> list[tuple[int, str, str, str]]:
        """Of each shard: records, first key, last key, digest."""
        return [(entry.rows, entry.first_key, entry.last_key, entry.sha256) for entry in self._archive.files.entries()]

    @functools.cached_property
    def _model(self) -> bytes:
        return to_model_segment(self._archive.files.model_file(), self._archive.path)

    @property
    def _model_name(self) -> str:
        return f"model/000000-{self._archive.manifest.model_sha256[:16]}.bin"

    @functools.cached_property
    def _description(self) -> bytes:
        rows, first, last, _ = map(list, zip(*self._entries, strict=True)) if self._entries else ([], [], [], [])
        places = {
            kind: [{"file": _file_name(kind, n, entry)} for n, entry in enumerate(self._entries)]
            for kind in ("facts", "keys", "streams")
        }
        blocks = {"rows": rows, "first": first, "last": last, **places, "originals": [None] * len(rows)}
        title = posixpath.basename(self._archive.path.rstrip("/")) or "archive"
        return describe(self._archive.manifest, title, {"file": self._model_name}, blocks, self._originals_route)


def _file_name(kind: str, number: int, entry: tuple[int, str, str, str]) -> str:
    """By the digest of the shard that it is made from."""
    return f"{kind}/{number:06d}-{entry[3][:16]}.bin"
