"""What routes share: the state that is served, the cache, the decoder; answers without the words of a framework."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from typing import Any

from isal import igzip

from tsae.archive import key_fault, shown
from tsae.errors import TsaeError
from tsae.originals import Originals, open_originals
from tsae.selection import Selection
from tsae.serve import http, web
from tsae.serve.batching import Batcher
from tsae.serve.cache import ByteCache
from tsae.serve.groups import GroupReader
from tsae.serve.http import Answer, Asked
from tsae.serve.options import ServeOptions
from tsae.serve.pages import describe
from tsae.serve.pictures import MEDIA_TYPES, Form, Renderer, Result, Wanted
from tsae.serve.problems import Problem, problem_of
from tsae.serve.states import Follower, State
from tsae.web import read_page

BATCH_IMAGES = 32
"""Images that are decoded at a time, so that nobody waits longer than some 15 ms for others."""

GZIP_BYTES = 1000
"""Shorter answers are not worth compressing."""

ORIGINALS_ROUTE = "originals/"
"""Of originals, as the page knows it."""


class Service:
    """One archive, served. For one event loop."""

    def __init__(self, options: ServeOptions) -> None:
        """Opens the archive, and lists the originals if there are to be any.

        Raises:
            FormatError: if there is no archive.
            InputError: if there are no originals.
        """
        self.options = options
        self.follower = Follower(options.archive, options.interval_s, ORIGINALS_ROUTE if options.originals else None)
        self.originals = open_originals(options.originals, options.originals_root)
        self.cache: ByteCache[tuple[str, str], bytes] = ByteCache(options.cache_bytes)
        self.groups = GroupReader(options.group_bytes)
        self.batcher: Batcher[Wanted, Result] = Batcher(Renderer(self.groups), options.threads, BATCH_IMAGES)
        self._keeping = http.IMMUTABLE if options.token is None else http.IMMUTABLE_PRIVATE
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to follow the archive."""
        self._following = asyncio.get_running_loop().create_task(self.follower.follow())

    async def stop(self) -> None:
        """Ends following and decoding."""
        self.follower.stop()
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        self.batcher.close()

    def state(self) -> State:
        """The newest state.

        Raises:
            Problem: if there is none yet.
        """
        if self.follower.state is None:
            if self.follower.fault is not None:
                raise Problem("unavailable", self.follower.fault)
            raise Problem("not-ready", "the archive is being opened; ask again in a moment")
        return self.follower.state

    async def file(self, key: str | None, form: Form, media_type: str, version: str | None, asked: Asked) -> Answer:
        """An image or its latents.

        Args:
            key: None if what was asked for cannot be one.
            form: How it goes out.
            media_type: What HTTP calls that.
            version: That the client's URL names; None is the one there is.
            asked: Of the request.

        Raises:
            Problem: if there is no such image, or it cannot be had.
        """
        with self.state().used() as state:
            row = find(state, key)
            found, name = state.version(row), str(key)
            if version is not None and version != found:
                raise Problem("no-such-version", f"{shown(name)}: is of version {found}", version=found)
            etag = f'"{found}-{form.tag}"'
            headers = {"etag": etag, "cache-control": self._keeping if version else http.REVALIDATED}
            headers |= {"vary": "Accept"} if asked.is_negotiated else {}
            if http.is_known(asked.if_none_match, etag):
                return Answer(304, headers)
            body = self.cache.get((name, etag))
            if body is None:
                body = await self._render(state, row, form)
                self.cache.put((name, etag), body, len(body))
        return Answer(200, {**headers, "content-type": media_type, "x-content-type-options": "nosniff"}, body)

    async def web_file(self, name: str, wanted: str | None, asked: Asked) -> Answer:
        """A file of the page, or of what it reads; a part of it if that is wanted (`Range`).

        Raises:
            Problem: if there is no such file, or it cannot be had.
        """
        try:
            if web.is_of_page(f"/{name}"):
                return web.answer(read_page().__getitem__, name, wanted, asked, http.IMMUTABLE)
            with self.state().used() as state:
                return await asyncio.to_thread(web.answer, state.web.read, name, wanted, asked, self._keeping)
        except KeyError as error:
            raise Problem("no-such-route", "Not Found") from error
        except TsaeError as error:
            raise self.problem(error) from error

    async def _render(self, state: State, row: int, form: Form) -> bytes:
        try:
            return bytes(await self.batcher.get(wanted_of(state, row, form)))
        except TsaeError as error:
            raise self.problem(error) from error

    def problem(self, error: TsaeError) -> Problem:
        """What to tell of data that could not be had."""
        is_gone = self.follower.fault is not None or isinstance(error.__cause__, OSError)
        return problem_of(error, is_gone=is_gone)

    def choose_format(self, name: str | None, accept: str | None) -> str:
        """The format of images that a request asks for by name, or else by its header.

        Raises:
            Problem: if it takes none of them.
        """
        if name is not None:
            return name
        offered = {MEDIA_TYPES[each]: each for each in ("png", "webp")}
        chosen = http.choose_media_type(accept, list(offered))
        if chosen is None:
            raise Problem("not-acceptable", f"Accept: {str(accept)[:100]}; offered are {', '.join(offered)}")
        return offered[chosen]

    async def page(self, selection: Selection, asked: Asked) -> Answer:
        """A page of records.

        Raises:
            Problem: if there is no record of the key that it goes on after.
        """
        with self.state().used() as state:
            etag = f"{state.digest}-{short_digest(repr(selection))}"
            if (known := self._if_known(etag, asked)) is not None:
                return known
            return await asyncio.to_thread(self._page, state, selection, etag, asked)

    def _page(self, state: State, selection: Selection, etag: str, asked: Asked) -> Answer:
        """In a thread: of 10^7 records it takes a moment."""
        try:
            page = state.pages.page(selection)
        except KeyError as error:
            after = shown(str(selection.after))
            raise Problem("no-such-key", f"after={after}: is no key; begin again without") from error
        images = [self._described(state, row) for row in page.rows]
        following = images[-1]["key"] if page.has_more and images else None
        return self.json({"state": state.digest, "total": page.total, "next": following, "images": images}, etag, asked)

    def _described(self, state: State, row: int) -> dict[str, Any]:
        facts, version = describe(state.index, row), state.version(row)
        return {**facts, "version": version, "url": f"{http.path_of('/images/', facts['key'])}?v={version}"}

    async def stats(self, asked: Asked) -> Answer:
        """Figures of the whole state."""
        with self.state().used() as state:
            if (known := self._if_known(state.digest, asked)) is not None:
                return known
            return await asyncio.to_thread(self._stats, state, asked)

    def _stats(self, state: State, asked: Asked) -> Answer:
        """In a thread, as `_page`."""
        archive = {name: value for name, value in state.info.items() if name != "path"}
        archive["name"] = os.path.basename(state.archive.path.rstrip("/"))
        return self.json({"state": state.digest, "archive": archive, **state.summary}, state.digest, asked)

    def _if_known(self, etag: str, asked: Asked) -> Answer | None:
        for tag in (f'"{etag}"', f'"{etag}-gzip"'):
            if http.is_known(asked.if_none_match, tag):
                return Answer(304, {"etag": tag, "cache-control": http.REVALIDATED, "vary": "Accept-Encoding"})
        return None

    def json(self, payload: Any, etag: str, asked: Asked) -> Answer:
        """An object, compressed where that is welcome."""
        body = json.dumps(payload, ensure_ascii=False).encode("utf-8", "surrogatepass")
        headers = {"content-type": "application/json", "cache-control": http.REVALIDATED, "vary": "Accept-Encoding"}
        if len(body) >= GZIP_BYTES and http.accepts_gzip(asked.accept_encoding):
            body = igzip.compress(body, 1, mtime=0)
            return Answer(200, {**headers, "etag": f'"{etag}-gzip"', "content-encoding": "gzip"}, body)
        return Answer(200, {**headers, "etag": f'"{etag}"'}, body)

    def known_originals(self) -> Originals:
        """Where originals are.

        Raises:
            Problem: if this server has none.
        """
        if self.originals is None:
            raise Problem("no-original", "this server has none; --originals says where they are")
        return self.originals


def find(state: State, key: str | None) -> int:
    """The row of a key.

    Raises:
        Problem: if there is none.
    """
    row = None if key is None or key_fault(key) else state.index.find(key)
    if row is None:
        raise Problem("no-such-key", "what the path names is no key" if key is None else f"{shown(key)}: is no key")
    return row


def wanted_of(state: State, row: int, form: Form) -> Wanted:
    """What to ask the batcher for."""
    return Wanted(state.archive, state.index.position(row), int(state.index.columns.crc32s[row]), form)


def short_digest(text: str) -> str:
    """Tells answers apart, as part of an entity tag."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
