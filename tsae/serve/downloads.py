"""`/batch`: the images of many keys as one stream of files."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from tsae.archive import key_fault, shown
from tsae.errors import TsaeError
from tsae.serve import http
from tsae.serve.pictures import LATENTS, MEDIA_TYPES, Form
from tsae.serve.problems import Problem
from tsae.serve.service import BATCH_IMAGES, Service, wanted_of
from tsae.serve.states import State
from tsae.serve.streams import FileStream, MultipartStream, ZipStream

PART_PIXELS = BATCH_IMAGES * 128 * 128
"""Of a part of a `/batch` whose images are scaled up."""

NAME_OF_ERRORS = ".tsae/errors.json"
"""Last file of a batch in which something could not be had; no image is named so, as their names end otherwise."""


async def batch(
    service: Service, state: State, rows: Sequence[tuple[str, int | None]], form: Form, stream: FileStream
) -> AsyncGenerator[bytes, None]:
    """The images of some keys as a stream of files, and at its end what could not be had.

    Args:
        service: That decodes them.
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
        results = await service.batcher.many([wanted_of(state, row, form) for _, row in part])
        pieces = []
        for (key, row), result in zip(part, results, strict=True):
            if isinstance(result, TsaeError):
                errors.append(_failed(key, service.problem(result)))
            elif isinstance(result, Exception):
                raise result
            else:
                pieces.append(stream.add(names[key], result, part_headers(state, key, row, form)))
        yield b"".join(pieces)
    if errors:
        body = json.dumps({"errors": errors}, ensure_ascii=False).encode("utf-8", "surrogatepass")
        yield stream.add(NAME_OF_ERRORS, body, {"content-type": "application/json"})
    yield stream.end()


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


def _failed(key: str, problem: Problem) -> dict[str, Any]:
    return {"key": key, **problem.to_json()}
