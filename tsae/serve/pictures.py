"""Rows of an index to the bytes that go out: read, decoded in one batch, encoded. Runs in the decoder's threads."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsae import png
from tsae.archive import Records, concatenate
from tsae.config import IMAGE_SIZE_PX
from tsae.errors import CorruptDataError, TsaeError
from tsae.images import encode_image
from tsae.reader import Archive
from tsae.serve.groups import GroupReader

MEDIA_TYPES = {"png": "image/png", "webp": "image/webp", "npy": "application/octet-stream"}
"""Formats of images, and what HTTP calls them."""

LATENTS = "latents"
"""The form of stored integers, as an npy file."""

PIXELS = "pixels"
"""The form of images as arrays, for whoever draws them."""


@dataclasses.dataclass(frozen=True)
class Form:
    """How an image goes out.

    Attributes:
        format: One of `MEDIA_TYPES`, or `LATENTS` or `PIXELS`.
        size_px: Side to scale to; None leaves it as it is.
    """

    format: str
    size_px: int | None = None

    @property
    def tag(self) -> str:
        """As a part of an entity tag."""
        return self.format if self.size_px is None else f"{self.format}-{self.size_px}"


def image_form(file_format: str, size_px: int | None) -> Form:
    """The form that a client asks for: only pictures are scaled, and not to the size that they have."""
    is_scaled = file_format in ("png", "webp") and size_px != IMAGE_SIZE_PX
    return Form(file_format, size_px if is_scaled else None)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One image in one form.

    Attributes:
        archive: The state.
        position: In it.
        crc32: Of its record, as the index has it.
        form: How it goes out.
    """

    archive: Archive
    position: int
    crc32: int
    form: Form


Result = Any
"""Bytes of a file, or for `PIXELS` uint8 `[32, 32, 3]`."""


class Renderer:
    """Does batches of `Wanted`, as `tsae.serve.batching` wants it."""

    def __init__(self, groups: GroupReader) -> None:
        """With a reader, whose cache is shared."""
        self._groups = groups

    def __call__(self, batch: Sequence[Wanted]) -> Sequence[Result | Exception]:
        """A result or an error for each."""
        results: list[Result | Exception] = [CorruptDataError("not done")] * len(batch)
        parts: dict[tuple[int, bool], list[int]] = {}
        for place, wanted in enumerate(batch):
            parts.setdefault((id(wanted.archive), wanted.form.format == LATENTS), []).append(place)
        for (_, is_latents), places in parts.items():
            some = [batch[place] for place in places]
            for place, result in zip(places, self._render(some, is_latents), strict=True):
                results[place] = result
        return results

    def _render(self, batch: Sequence[Wanted], is_latents: bool) -> list[Result | Exception]:
        """The same for one state, pixels or latents."""
        archive = batch[0].archive
        records = self._groups.read(archive.files, [wanted.position for wanted in batch])
        results: list[Result | Exception] = [_check(record, wanted) for record, wanted in zip(records, batch, strict=True)]
        intact = {place: result for place, result in enumerate(results) if isinstance(result, Records)}
        decode = archive.codec.latents if is_latents else archive.decode_records
        arrays = decode_each(decode, list(intact.values()))
        for place, file in zip(intact, _encode([batch[place].form for place in intact], arrays), strict=True):
            results[place] = file
        return results


def _check(record: Records | TsaeError, wanted: Wanted) -> Records | TsaeError:
    """Refuses a record that is not the one of the index, whose entity tag would be wrong."""
    if isinstance(record, Records) and int(record.checksums()[0]) != wanted.crc32:
        return CorruptDataError(f"{record.keys[0]}: has changed under the server; restore the file")
    return record


def decode_each(decode: Callable[[Records], NDArray[Any]], records: Sequence[Records]) -> list[NDArray[Any] | Exception]:
    """Decodes records together, or where one of them cannot be, one by one."""
    if not records:
        return []
    try:
        return list(decode(concatenate(records)))
    except CorruptDataError as error:
        if len(records) == 1:
            return [error]
        return [array for record in records for array in decode_each(decode, [record])]


def _encode(forms: Sequence[Form], arrays: Sequence[NDArray[Any] | Exception]) -> list[Result | Exception]:
    """Files of arrays; PNG files of the usual size are written together."""
    plain = {i: array for i, array in enumerate(arrays) if forms[i] == Form("png") and not isinstance(array, Exception)}
    encoded = png.encode(np.stack(list(plain.values())), [None] * len(plain)) if plain else ()
    files = dict(zip(plain, encoded, strict=True))
    return [files[i] if i in files else _encode_one(form, arrays[i]) for i, form in enumerate(forms)]


def _encode_one(form: Form, array: NDArray[Any] | Exception) -> Result | Exception:
    if isinstance(array, Exception) or form.format == PIXELS:
        return array
    if form.format in ("npy", LATENTS):
        return to_npy(array)
    return encode_image(array, form.format, None if form.size_px is None else (form.size_px, form.size_px))


def to_npy(array: NDArray[Any]) -> bytes:
    """An array as an npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
