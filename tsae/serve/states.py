"""The state that is served: an opened archive with its index. New commits take its place while old requests end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import time
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np

from tsae import log, paths
from tsae.archive import MANIFEST_FILE, Folder, digest
from tsae.errors import FormatError, TsaeError
from tsae.reader import Archive, open_archive
from tsae.serve.columns import Index, Indexer
from tsae.serve.pages import Pages
from tsae.serve.summary import summarize
from tsae.web import ServedArchive

DIGITS = 16
"""Hexadecimal digits of digests in versions and entity tags."""


class State:
    """One committed state, open. For one event loop, but for what is said to be safe elsewhere."""

    def __init__(self, archive: Archive, index: Index, originals_route: str | None = None) -> None:
        """Lists the archive's files, so not in the event loop; `originals_route` is where the page finds originals by key."""
        self.archive, self.index = archive, index
        self.pages = Pages(index)
        self.digest = digest(archive.files.manifest_text)[:DIGITS]
        self.opened_s = time.time()
        self.info = archive.info()
        self.web = ServedArchive(archive, originals_route)
        self._model = archive.manifest.model_sha256[:DIGITS]
        self._users, self._is_retired = 0, False

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """Figures of all records; not before they are asked for, and not in the event loop, as they take a moment."""
        return summarize(self.index)

    def version(self, row: int) -> str:
        """Names the content of a record and what decodes it: digest of the model, checksum of the record."""
        return f"{self._model}-{int(self.index.columns.crc32s[row]):08x}"

    @contextlib.contextmanager
    def used(self) -> Iterator[State]:
        """Within the block it stays open."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            self._close_if_done()

    def retire(self) -> None:
        """Closes it, once nobody uses it."""
        self._is_retired = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._is_retired and not self._users:
            self.archive.close()


class Follower:
    """Has the newest state of an archive, and looks for commits."""

    def __init__(self, path: str, interval_s: float, originals_route: str | None = None) -> None:
        """Opens the archive; the rest is `follow`'s, and `State`'s.

        Raises:
            FormatError: if there is none.
        """
        self.path, self._interval_s, self._originals_route = path, interval_s, originals_route
        self.state: State | None = None
        self.fault: str | None = None
        """What is wrong with the archive as a whole; None if nothing is known to be."""
        self._first: Archive | None = open_archive(path)
        self._indexer = Indexer()
        self._seen: Any = None
        self._is_stopped = False

    async def follow(self) -> None:
        """Opens the state, and then each new one; until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                opened = await loop.run_in_executor(None, self._look)
                if opened is not None:
                    self._take(opened)
                self.fault = None
            except (TsaeError, OSError) as error:
                self._note(" ".join(str(error).split()))
            except Exception:  # a bug must not end the following of an archive that is served
                log.say("bug", traceback.format_exc(), "error")
                self._note("a bug; the server's log says more")
            await asyncio.sleep(self._interval_s)

    def _note(self, fault: str) -> None:
        if fault != self.fault:
            log.say("unavailable", fault, "warning")
        self.fault = fault

    def _take(self, opened: State) -> None:
        before, self.state = self.state, opened
        if before is not None:
            before.retire()
        else:
            spare_collector()
        images, damaged = len(opened.index), len(opened.index.damages)
        text = f"{self.path}: {images:,} images, state {opened.digest}"
        log.say("state", text, state=opened.digest, images=images, damaged_shards=damaged)

    def _look(self) -> State | None:
        """A new state, if there is one; in a thread."""
        first, self._first = self._first, None
        if first is not None:
            return self._open(first)
        seen = self._facts()
        if seen == self._seen and self.state is not None:
            return None
        archive = open_archive(self.path)
        if self.state is not None and archive.files.manifest_text == self.state.archive.files.manifest_text:
            archive.close()
            self._seen = seen
            return None
        opened = self._open(archive)
        self._seen = seen
        return opened

    def _facts(self) -> Any:
        try:
            return Folder(paths.absolute(self.path)).stat(MANIFEST_FILE)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FormatError(f"{self.path}/{MANIFEST_FILE}: is gone; restore the archive") from error

    def _open(self, archive: Archive) -> State:
        try:
            index = self._indexer.make(archive.files, lambda: not self._is_stopped)
            state = State(archive, index, self._originals_route)
            warm_up(archive, index)
        except BaseException:
            archive.close()
            raise
        return state

    def stop(self) -> None:
        """Ends what a thread does for it, soon, and closes the state once nobody uses it."""
        self._is_stopped = True
        if self.state is not None:
            self.state.retire()


def spare_collector() -> None:
    """Has the garbage collector pass over what is there for good: modules alone are some 300,000 objects, a pause each time."""
    gc.collect()
    gc.freeze()


def warm_up(archive: Archive, index: Index) -> None:
    """Decodes an image of each quality, so that no request has to wait for a network to be made, or the coder compiled."""
    for row in np.unique(index.columns.qualities, return_index=True)[1].tolist():
        with contextlib.suppress(TsaeError):  # the one who asks for it will be told
            archive.decode_records(archive.files.records_at([index.position(row)]))
