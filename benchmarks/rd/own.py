"""Our models, through the job that everybody runs: image files to an archive, and from the archive back."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

import tsae
from rd.points import Coded, Images
from tsae import archive as ar
from tsae.cli import main as run_tsae
from tsae.zoo import ZOO

SPEC = re.compile(r"(?:(?P<label>[^=]+)=)?(?P<model>.+?)(?::(?P<first>\d+)(?:-(?P<last>\d+))?)?")


@dataclasses.dataclass(frozen=True)
class OwnModel:
    """A model at one quality.

    Attributes:
        curve: What to call it.
        model: Name or file, for `--model`.
        quality: For `--quality`; None where the model has only one.
    """

    curve: str
    model: str
    quality: int | None = None


def default_models() -> list[str]:
    """All packaged models: the seed's has one quality, others have eight."""
    return [name if name.startswith("seed-") else f"{name}:1-8" for name in ZOO]


def parse_model(spec: str) -> list[OwnModel]:
    """The operating points of `[LABEL=]MODEL[:QUALITY[-QUALITY]]`."""
    match = SPEC.fullmatch(spec)
    assert match, f"{spec!r}: write [LABEL=]MODEL[:QUALITY[-QUALITY]]"
    curve = match["label"] or PurePosixPath(match["model"]).name.removesuffix(".safetensors")
    if match["first"] is None:
        return [OwnModel(curve, match["model"])]
    last = int(match["last"] or match["first"])
    return [OwnModel(curve, match["model"], quality) for quality in range(int(match["first"]), last + 1)]


def write_pngs(folder: Path, keys: Sequence[str], images: Images) -> list[str]:
    """Writes the images as PNG files below a folder.

    Returns:
        The keys that they will have in an archive.
    """
    usable = len(set(keys)) == len(keys) and not any(map(ar.key_fault, keys))
    stems = [key.removesuffix(PurePosixPath(key).suffix) for key in keys] if usable else []
    names = [f"{stem}.png" for stem in stems] if len(set(stems)) == len(keys) else [f"{i:06d}.png" for i in range(len(keys))]
    for name, image in zip(names, images, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, compress_level=1)
    return names


class OwnCoder:
    """A model at one quality. `code` runs the compress job; `encode` and `decode` are its codec alone."""

    def __init__(self, model: OwnModel, pngs: Path, names: Sequence[str], timed: Sequence[str], archive: Path) -> None:
        """Runs nothing yet.

        Args:
            model: What to measure.
            pngs: The images as files, all of them.
            names: Their keys, in the order of the images.
            timed: Keys of the images that `encode` will get.
            archive: Where to put the archive.
        """
        self.curve = model.curve
        self.setting = "" if model.quality is None else f"quality {model.quality}"
        self._model, self._pngs, self._names, self._timed, self._path = model, pngs, names, timed, archive
        self._quality: dict[str, Any] = {} if model.quality is None else {"quality": model.quality}

    def code(self, images: Images) -> Coded:
        """Compresses the files and opens the archive."""
        flags = [f"--{name}={value}" for name, value in self._quality.items()]
        with contextlib.redirect_stdout(sys.stderr):
            status = run_tsae(
                ["compress", str(self._pngs), str(self._path), f"--model={self._model.model}", "--workers=1", *flags]
            )
        assert status == 0, f"{self.curve}: exit code {status}"
        self._archive = tsae.open_archive(str(self._path))
        info = self._archive.info()
        self._records = ar.ArchiveFiles(str(self._path)).records(self._timed)
        decoded = self._archive.decode(self._names)
        return Coded(info["bytes_per_image"], decoded, info["stream_bytes"] / info["images"], info["model_bytes"])

    def encode(self, images: Images) -> list[bytes]:
        """The codec's streams, which must be those of the archive."""
        streams: list[bytes] = self._archive.codec.encode(images, **self._quality).streams
        return streams

    def decode(self, streams: list[bytes]) -> Images:
        """The images of the archive's records with these streams."""
        assert streams == self._records.streams, f"{self.curve}: the codec's streams are not those of its archive"
        return self._archive.codec.decode(self._records)
