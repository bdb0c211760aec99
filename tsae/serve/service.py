"""What routes share: the state that is served, the cache, the decoder; answers without the words of a framework."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import numpy as np
from isal import igzip
from PIL import Image

from tsae.archive import digest, key_fault, shown
from tsae.config import IMAGE_SIZE_PX
from tsae.errors import ImageError, TsaeError
from tsae.images import encode_image, resize
from tsae.originals import Originals, open_originals
from tsae.overview import Shown, draw_sheet
from tsae.reader import Archive
from tsae.selection import Selection
from tsae.serve import http, web
from tsae.serve.batching import Batcher
from tsae.serve.cache import ByteCache
from tsae.serve.groups import GroupReader
from tsae.serve.http import Answer, Asked
from tsae.serve.options import ServeOptions
from tsae.serve.pages import describe
from tsae.serve.pictures import LATENTS, MEDIA_TYPES, PIXELS, Form, Renderer, Result, Wanted
from tsae.serve.problems import Problem, problem_of
from tsae.serve.states import Follower, State
from tsae.serve.streams import FileStream, MultipartStream, ZipStream
from tsae.web import read_page

BATCH_IMAGES = 32
"""Images that are decoded at a time, so that nobody waits longer than some 15 ms for others."""

PART_PIXELS = BATCH_IMAGES * 128 * 128
"""Of a part of a `/batch` whose images are scaled up."""

GZIP_BYTES = 1000
"""Shorter answers are not worth compressing."""

ORIGINALS_ROUTE = "originals/"
"""Of originals, as the page knows it."""

MAX_ORIGINAL_PX = 1024
"""Longest side of an original that is asked for as it was."""

NAME_OF_ERRORS = ".tsae/errors.json"
"""Last file of a batch in which something could not be had; no image is named so, as their names end otherwise."""


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
            return bytes(await self.batcher.get(_wanted(state, row, form)))
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
            etag = f"{state.digest}-{_short_digest(repr(selection))}"
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

    async def sheet(self, selection: Selection, has_originals: bool, columns: int, scale: int, asked: Asked) -> Answer:
        """A contact sheet of what a selection finds, above it the originals if they are wanted.

        Raises:
            Problem: if it finds nothing, or an image or original cannot be had.
        """
        originals = self._known_originals() if has_originals else None
        with self.state().used() as state:
            page = await asyncio.to_thread(state.pages.page, selection)
            if not page.rows:
                raise Problem("no-such-key", "no image is like that")
            etag = f'"{_short_digest(repr([state.digest, selection, columns, scale]))}-sheet"'
            headers = {"content-type": "image/png", "cache-control": http.REVALIDATED, "etag": etag}
            if originals is not None:  # they may change at any time
                headers = {"content-type": "image/png", "cache-control": "no-store"}
            elif http.is_known(asked.if_none_match, etag):
                return Answer(304, headers)
            body = self.cache.get(("", etag)) if originals is None else None
            if body is None:
                body = await self._draw(state, page.rows, originals, columns, scale)
                if originals is None:
                    self.cache.put(("", etag), body, len(body))
        return Answer(200, headers, body)

    async def _draw(self, state: State, rows: list[int], originals: Originals | None, columns: int, scale: int) -> bytes:
        images = await self._shown(state, rows)
        try:
            return await asyncio.to_thread(_to_png, state.archive, images, originals, columns, scale)
        except ImageError as error:
            raise Problem("no-original", " ".join(str(error).split())) from error

    async def _shown(self, state: State, rows: list[int]) -> Shown:
        """The images of some rows, decoded."""
        images: list[Any] = []
        for start in range(0, len(rows), BATCH_IMAGES):
            wanted = [_wanted(state, row, Form(PIXELS)) for row in rows[start : start + BATCH_IMAGES]]
            images += await self.batcher.many(wanted)
        for image in images:
            if isinstance(image, Exception):
                raise self.problem(image) if isinstance(image, TsaeError) else image
        columns = state.index.columns
        return Shown(
            [state.index.key(row) for row in rows],
            np.stack(images),
            columns.psnrs_db[rows].astype(np.float64),
            columns.sizes_bytes[rows].tolist(),
            columns.lossless[rows].tolist(),
        )

    def _known_originals(self) -> Originals:
        if self.originals is None:
            raise Problem("no-original", "this server has none; --originals says where they are")
        return self.originals

    async def original(self, key: str | None, file_format: str, size: int | None, asked: Asked) -> Answer:
        """What was compressed.

        Args:
            key: None if what was asked for cannot be one.
            file_format: `png` or `webp`.
            size: Side to scale what was encoded to, in px; 0 is the image as it was before, at most `MAX_ORIGINAL_PX` a side.
            asked: Of the request.

        Raises:
            Problem: if there is no image of that key in the archive, or its original cannot be had.
        """
        originals = self._known_originals()
        with self.state().used() as state:
            find(state, key)  # nothing else is ever looked for on the disk
        name, scaled = str(key), IMAGE_SIZE_PX if size is None else size
        [body] = await asyncio.to_thread(originals.map, lambda image: _original_file(image, file_format, scaled), [name])
        if isinstance(body, ImageError):
            raise Problem("no-original", f"{shown(name)}: {' '.join(str(body).split())}")
        etag = f'"{digest(body)[:16]}"'
        headers = {"etag": etag, "cache-control": http.REVALIDATED} | ({"vary": "Accept"} if asked.is_negotiated else {})
        if http.is_known(asked.if_none_match, etag):
            return Answer(304, headers)
        return Answer(200, {**headers, "content-type": MEDIA_TYPES[file_format], "x-content-type-options": "nosniff"}, body)

    async def batch(
        self, state: State, rows: Sequence[tuple[str, int | None]], form: Form, stream: FileStream
    ) -> AsyncGenerator[bytes, None]:
        """The images of some keys as a stream of files, and at its end what could not be had.

        Args:
            state: That they are of; in use until the stream ends.
            rows: Keys and their rows; None where there is none.
            form: How images go out.
            stream: What makes bytes of files.
        """
        errors = [_failed(key, Problem("no-such-key", f"{shown(key)}: is no key")) for key, row in rows if row is None]
        there = [(key, row) for key, row in rows if row is not None]
        names = names_of([key for key, _ in there], form.format)
        step = max(1, min(BATCH_IMAGES, PART_PIXELS // (form.size_px or 1) ** 2))
        for start in range(0, len(there), step):
            part = there[start : start + step]
            results = await self.batcher.many([_wanted(state, row, form) for _, row in part])
            pieces = []
            for (key, row), result in zip(part, results, strict=True):
                if isinstance(result, TsaeError):
                    errors.append(_failed(key, self.problem(result)))
                elif isinstance(result, Exception):
                    raise result
                else:
                    pieces.append(stream.add(names[key], result, part_headers(state, key, row, form)))
            yield b"".join(pieces)
        if errors:
            body = json.dumps({"errors": errors}, ensure_ascii=False).encode("utf-8", "surrogatepass")
            yield stream.add(NAME_OF_ERRORS, body, {"content-type": "application/json"})
        yield stream.end()


def find(state: State, key: str | None) -> int:
    """The row of a key.

    Raises:
        Problem: if there is none.
    """
    row = None if key is None or key_fault(key) else state.index.find(key)
    if row is None:
        raise Problem("no-such-key", "what the path names is no key" if key is None else f"{shown(key)}: is no key")
    return row


def find_all(state: State, keys: Sequence[str]) -> list[tuple[str, int | None]]:
    """Each key once, with its row; None where there is none."""
    return [(key, None if key_fault(key) else state.index.find(key)) for key in dict.fromkeys(keys)]


def new_stream(media_type: str) -> FileStream:
    """A stream of one of `tsae.serve.streams.MEDIA_TYPES`."""
    return ZipStream() if media_type == "application/zip" else MultipartStream()


def part_headers(state: State, key: str, row: int, form: Form) -> dict[str, str]:
    """What a part of a multipart stream says of its image."""
    version, is_image = state.version(row), form.format != LATENTS
    place = f"{http.path_of('/images/' if is_image else '/latents/', key)}?v={version}"
    place += f"&format={form.format}" if is_image else ""
    place += f"&size={form.size_px}" if form.size_px is not None else ""
    return {
        "content-type": MEDIA_TYPES.get(form.format, MEDIA_TYPES["npy"]),
        "content-location": place,
        "etag": f'"{version}-{form.tag}"',
    }


def names_of(keys: Sequence[str], file_format: str) -> dict[str, str]:
    """Names of files as `tsae decompress` gives them: the ending replaced, or added where two would meet."""
    from tsae.jobs.output_names import find_whole_names

    ending = "npy" if file_format == LATENTS else file_format
    whole = find_whole_names(list(keys))
    return {key: f"{key if key in whole else os.path.splitext(key)[0]}.{ending}" for key in keys}


def _wanted(state: State, row: int, form: Form) -> Wanted:
    return Wanted(state.archive, state.index.position(row), int(state.index.columns.crc32s[row]), form)


def _failed(key: str, problem: Problem) -> dict[str, Any]:
    return {"key": key, **problem.to_json()}


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _to_png(archive: Archive, images: Shown, originals: Originals | None, columns: int, scale: int) -> bytes:
    file = io.BytesIO()
    draw_sheet(archive, images, originals, columns=columns, scale=scale).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _original_file(image: Image.Image, file_format: str, size_px: int) -> bytes:
    """An original as it was encoded, scaled from that as decoded images are, or for 0 as it was before."""
    if size_px:
        return encode_image(resize(image), file_format, None if size_px == IMAGE_SIZE_PX else (size_px, size_px))
    image.thumbnail((MAX_ORIGINAL_PX, MAX_ORIGINAL_PX))
    return encode_image(np.asarray(image), file_format)
