"""The demo's own steps: drawing the images and the contact sheet. Compressing them is the command line's matter."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tsae.config import RAW_BYTES
from tsae.errors import InputError
from tsae.images import decode_image, resize
from tsae.metrics import psnr_db
from tsae.reader import Archive
from tsae.sheet import contact_sheet
from tsae.signs import write_signs

DEMO_IMAGES = 300
SHEET_IMAGES = 48
MARKER_TEXT = "A demo of tsae: run again, it writes over the files beside this one.\n"


@dataclasses.dataclass(frozen=True)
class DemoFolders:
    """Where a demo's files are."""

    base: Path

    @property
    def marker(self) -> Path:
        """The file that tells a demo's folder from all others."""
        return self.base / ".tsae-demo"

    @property
    def images(self) -> Path:
        """The drawn signs."""
        return self.base / "images"

    @property
    def archive(self) -> Path:
        """Their archive."""
        return self.base / "archive"

    @property
    def decompressed(self) -> Path:
        """What came back."""
        return self.base / "decompressed"

    @property
    def sheet(self) -> Path:
        """The picture of both."""
        return self.base / "contact-sheet.png"


def draw_images(folders: DemoFolders) -> None:
    """Draws the signs, over those of an earlier demo.

    Raises:
        InputError: if the folder holds anything but an earlier demo, or cannot be written.
    """
    try:
        _claim(folders)
        write_signs(folders.images, DEMO_IMAGES)
    except OSError as error:
        raise InputError(f"{folders.base}: cannot be written ({error.strerror}); name another folder with --out") from error


def _claim(folders: DemoFolders) -> None:
    """Marks a new or empty folder as a demo's, or finds the mark of an earlier one."""
    if folders.base.exists() and not folders.base.is_dir():
        raise InputError(f"{folders.base}: is a file; name a new or empty folder with --out")
    folders.base.mkdir(parents=True, exist_ok=True)
    found = min((path.name for path in folders.base.iterdir()), default=None)
    if found is not None and not folders.marker.is_file():
        raise InputError(f"{folders.base}: holds something else ({found}); name a new or empty folder with --out")
    folders.marker.write_text(MARKER_TEXT)


def show_result(folders: DemoFolders, archive: Archive) -> NDArray[np.float64]:
    """Compares originals and files that came back, and writes the contact sheet.

    Args:
        folders: Of the demo.
        archive: The demo's archive.

    Returns:
        PSNR of each image in dB, float64 `[N]`.
    """
    keys = list(archive.keys())
    originals = np.stack([_load(folders.images / key) for key in keys])
    decoded = np.stack([_load(folders.decompressed / key) for key in keys])
    psnrs = psnr_db(originals, decoded)
    info = archive.info()
    shown = np.random.default_rng(7).permutation(len(keys))[:SHEET_IMAGES]
    captions = [[f"{psnrs[i]:.1f} dB", f"{len(archive.record(keys[i]).streams[0])} B"] for i in shown]
    title = f"Traffic signs at 1/{info['ratio_to_raw']:.1f} of their raw size"
    subtitle = (
        f"{shown.size} of {len(keys)} drawn signs · model {info['model']} · {info['bytes_per_image']:.0f} bytes an image "
        f"instead of {RAW_BYTES:,} · mean {psnrs.mean():.1f} dB, worst {psnrs.min():.1f} dB"
    )
    contact_sheet(originals[shown], decoded[shown], captions, title=title, subtitle=subtitle).save(folders.sheet)
    return psnrs


def _load(path: Path) -> NDArray[np.uint8]:
    return resize(decode_image(path.read_bytes()))
