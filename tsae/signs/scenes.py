"""The photographs: scenes behind the signs, the placing of a face, and the faults of the camera.

A photograph is made in four steps: a face in sign coordinates, put by a random homography into a scene of
`_SUPERSAMPLING` times the final size, averaged down, and then worsened by optics and light.
"""

import csv
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tsae.signs.faces import EDGE, FACE_PX, LABELS, Point, Rng, paint_face

Pixels = NDArray[Any]

_SUPERSAMPLING = 2  # scene pixels a final pixel, each way
_SIDE_PX = (25, 130)  # smallest and largest side of a photograph
_MEDIAN_SIDE_PX = 45


@dataclass(frozen=True)
class DrawnSign:
    """One drawn photograph.

    Attributes:
        key: `<label>/<index:05d>.png`, its path below the root of a data set.
        label: what the sign says, a slug such as `speed-50`; one of `LABELS`.
        image: uint8 `[H, W, 3]`, RGB, each side 25 to 130 px.
    """

    key: str
    label: str
    image: Pixels


# Scenes: float32 [H, W, 3] in 0..1.


def _texture(rng: Rng, shape: tuple[int, int], cells: int, channels: int = 1) -> Pixels:
    """Smooth noise in 0..1, `cells` independent values across: float32 [H, W, channels]."""
    grid = rng.integers(0, 256, (cells, cells, channels), dtype=np.uint8)
    planes = [Image.fromarray(grid[..., c]).resize(shape[::-1], Image.Resampling.BICUBIC) for c in range(channels)]
    noise: Pixels = np.stack([np.asarray(plane, np.float32) for plane in planes], axis=-1) / np.float32(255)
    return noise


def _between(weight: Pixels, low: Sequence[float], high: Sequence[float]) -> Pixels:
    mixture: Pixels = np.asarray(low, np.float32) * (1 - weight) + np.asarray(high, np.float32) * weight
    return mixture


def _sky(rng: Rng, shape: tuple[int, int]) -> Pixels:
    height = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None, None]
    overcast = rng.uniform(0, 1)
    blue = _between(height, (0.3, 0.5, 0.8), (0.7, 0.82, 0.92))
    clouds = np.clip(_texture(rng, shape, 4) * 0.7 + _texture(rng, shape, 9) * 0.4 + overcast - 0.6, 0, 1)
    sky: Pixels = blue * (1 - clouds) + clouds * np.float32(rng.uniform(0.75, 0.98))
    return sky


def _foliage(rng: Rng, shape: tuple[int, int]) -> Pixels:
    leaves = 0.3 * _texture(rng, shape, 5) + 0.35 * _texture(rng, shape, 14) + 0.35 * _texture(rng, shape, 36)
    autumn = rng.uniform(0, 0.25)
    green = _between(np.clip(2 * leaves - 0.5, 0, 1), (0.04, 0.07, 0.03), (0.35 + autumn, 0.5, 0.2))
    gaps = (leaves > rng.uniform(0.6, 0.8)).astype(np.float32)
    leafage: Pixels = green * (1 - gaps) + gaps * np.float32(0.85)
    return leafage


def _bricks(rng: Rng, shape: tuple[int, int]) -> Pixels:
    rows, columns = int(rng.integers(6, 16)), int(rng.integers(3, 7))
    y = np.arange(shape[0])[:, None] * rows / shape[0]
    x = np.arange(shape[1])[None, :] * columns / shape[1] + 0.5 * (y.astype(int) % 2)
    shade = rng.uniform(0.75, 1.05, (rows, columns + 1, 1)).astype(np.float32)[y.astype(int), x.astype(int)]
    mortar = ((y % 1 < 0.12) | (x % 1 < 0.06))[..., None]
    wall = shade * np.asarray(rng.uniform((0.45, 0.25, 0.18), (0.75, 0.6, 0.5)), np.float32)
    bricks: Pixels = np.where(mortar, np.float32(0.66), wall)
    return bricks


def _road(rng: Rng, shape: tuple[int, int]) -> Pixels:
    grain = 0.6 + 0.25 * _texture(rng, shape, 60) + 0.3 * _texture(rng, shape, 4)
    road = grain * np.asarray(rng.uniform(0.3, 0.6) * np.array([1.0, 0.99, 0.97]), np.float32)
    horizon = int(shape[0] * rng.uniform(0.2, 0.6))
    return np.concatenate([_blobs(rng, shape)[:horizon], road[horizon:]])


def _blobs(rng: Rng, shape: tuple[int, int]) -> Pixels:
    """Something far out of focus."""
    blobs = _texture(rng, shape, int(rng.integers(3, 7)), channels=3)
    grey = blobs.mean(axis=-1, keepdims=True)
    dull: Pixels = (grey + 0.25 * (blobs - grey)) * np.float32(rng.uniform(0.5, 1.1))
    return dull


def _street(rng: Rng, shape: tuple[int, int]) -> Pixels:
    """Sky above a line of trees or walls."""
    below = (_foliage, _bricks, _blobs)[rng.integers(3)](rng, shape)
    line = rng.uniform(0.2, 0.8) + 0.3 * (_texture(rng, (1, shape[1]), 7)[0] - 0.5)
    under = np.arange(shape[0])[:, None, None] > line * shape[0]
    return np.where(under, below, _sky(rng, shape))


_SCENES = (_sky, _foliage, _bricks, _road, _blobs, _street)


# The photograph: placing the face, then what optics and light do to it.


def _homography(rng: Rng, centre: Point, radius_px: float) -> Pixels:
    """Scene pixels to face pixels, float64 [3, 3], last element 1: how the camera sees a sign at `centre`.

    Built in this direction, the one that resampling needs, so that no system of equations is to be solved.
    """
    turn, aspect, half = math.radians(rng.normal(0, 5)), rng.normal(1, 0.05), FACE_PX / 2
    cos, sin, zoom = math.cos(turn), math.sin(turn), half * EDGE / radius_px
    tilt_x, tilt_y = np.clip(rng.normal(0, 0.09, 2), -0.2, 0.2) / radius_px
    to_centre = np.array([[1, 0, -centre[0]], [0, 1, -centre[1]], [0, 0, 1]])
    bend = np.array([[1, 0, 0], [0, 1, 0], [tilt_x, tilt_y, 1]])
    rotate = np.array([[zoom * cos * aspect, zoom * sin, 0], [-zoom * sin * aspect, zoom * cos, 0], [0, 0, 1]])
    to_face = np.array([[1, 0, half], [0, 1, half], [0, 0, 1]])
    matrix: Pixels = to_face @ rotate @ bend @ to_centre
    matrix /= matrix[2, 2]
    return matrix


def _mount(scene: Image.Image, rng: Rng, label: str, centre: Point, radius_px: float) -> None:
    """Pastes the sign `label` into the scene."""
    seen = _homography(rng, centre, radius_px).ravel()[:8].tolist()
    face = paint_face(rng, label).transform(scene.size, Image.Transform.PERSPECTIVE, seen, Image.Resampling.BICUBIC)
    scene.paste(face, (0, 0), face)


def _stage(rng: Rng, label: str, width: int, height: int) -> Image.Image:
    """The sign before its scene, often on a pole and at times with another sign above or below: RGB, width x height."""
    shape = (height * _SUPERSAMPLING, width * _SUPERSAMPLING)
    backdrop = np.clip(_SCENES[rng.integers(len(_SCENES))](rng, shape), 0, 1)
    scene = Image.fromarray((backdrop * 255).astype(np.uint8))
    radius = min(shape) * rng.uniform(0.36, 0.47)
    x, y = (side * rng.normal(0.5, 0.02) for side in shape[::-1])
    if rng.random() < 0.6:
        grey = int(rng.integers(60, 170))
        half = radius * rng.uniform(0.05, 0.12)
        ImageDraw.Draw(scene).rectangle((x - half, y, x + half, shape[0]), fill=(grey, grey, grey))
    if rng.random() < 0.2:
        _mount(scene, rng, LABELS[rng.integers(len(LABELS))], (x, y + radius * rng.choice((-2.1, 2.1))), radius)
    _mount(scene, rng, label, (x, y), radius)
    return scene.reduce(_SUPERSAMPLING)


# Faults of the camera: optics on a picture, light on an array in 0..1.


def _defocus(photo: Image.Image, rng: Rng) -> Image.Image:
    return photo.filter(ImageFilter.GaussianBlur(min(photo.size) * rng.uniform(0.005, 0.03)))


def _soften(photo: Image.Image, rng: Rng) -> Image.Image:
    """What a strong lossy compression leaves: fewer real pixels than the file has."""
    keep = rng.uniform(0.45, 0.8)
    small = photo.resize((round(photo.width * keep), round(photo.height * keep)), Image.Resampling.BOX)
    return small.resize(photo.size, Image.Resampling.BICUBIC)


def _motion(photo: Image.Image, rng: Rng) -> Image.Image:
    """The mean of the picture along a short path, mostly sideways as from a moving car."""
    x = np.asarray(photo, np.float32)
    angle, path_px = rng.normal(0, 0.5), min(photo.size) * rng.uniform(0.04, 0.13)
    rows, columns = np.arange(x.shape[0])[:, None], np.arange(x.shape[1])[None, :]
    blurred = np.zeros_like(x)
    steps = np.linspace(-0.5, 0.5, 7) * path_px
    for step in steps:
        down, right = round(step * math.sin(angle)), round(step * math.cos(angle))
        blurred += x[np.clip(rows + down, 0, len(x) - 1), np.clip(columns + right, 0, x.shape[1] - 1)]
    return Image.fromarray((blurred / len(steps)).astype(np.uint8))


def _slope(rng: Rng, shape: tuple[int, ...]) -> Pixels:
    """A plane of random direction, -1..1 or less, zero in the middle: float32 [H, W, 1]."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])[None, :]
    return ((x * math.cos(angle) + y * math.sin(angle)) / math.sqrt(2)).astype(np.float32)[..., None]


def _shade(x: Pixels, rng: Rng) -> Pixels:
    """Uneven light, at times with the edge of a shadow, and a colour cast."""
    x = x * (1 + rng.uniform(0, 0.5) * _slope(rng, x.shape))
    if rng.random() < 0.25:
        edge = np.clip(0.5 + (_slope(rng, x.shape) + rng.uniform(-0.4, 0.4)) * rng.uniform(4, 20), 0, 1)
        x = x * (1 - rng.uniform(0.4, 0.7) * edge)
    warmth = rng.normal(0.02, 0.09)
    return x * (1 + np.array([warmth, 0, -warmth]) + rng.normal(0, 0.02, 3))


def _expose(x: Pixels, rng: Rng) -> Pixels:
    """Dusk, haze, glare or a fair light; the shares are those of a hard data set, not of a kind one."""
    kind = rng.choice(("dusk", "haze", "glare", "fair"), p=(0.2, 0.1, 0.1, 0.6))
    if kind == "dusk":
        return 0.01 + x * rng.uniform(0.09, 0.27)
    if kind == "haze":
        return rng.uniform(0.15, 0.6) + (x - 0.4) * rng.uniform(0.15, 0.35)
    return x * rng.uniform(1.4, 2.0) if kind == "glare" else x * rng.uniform(0.5, 1.15)


def _expose_and_shade(photo: Image.Image, rng: Rng) -> Pixels:
    """Light, exposure and the sensor's noise: uint8 [H, W, 3]."""
    x = _expose(_shade(np.asarray(photo, np.float32) / 255, rng), rng)
    noise = rng.standard_normal(x.shape, np.float32) * rng.uniform(0.003, 0.025)
    image: Pixels = np.clip((x + noise) * 255, 0, 255).astype(np.uint8)
    return image


_OPTICS = ((0.5, _defocus), (0.2, _motion), (0.35, _soften))  # share of the photographs, fault


def _draw_size(rng: Rng) -> tuple[int, int]:
    """Width and height in px."""
    side = _MEDIAN_SIDE_PX * rng.lognormal(0, 0.4)
    sides = side * rng.lognormal(0, 0.06, 2)
    width, height = np.clip(np.rint(sides), *_SIDE_PX).astype(int).tolist()
    return width, height


def draw_sign(index: int, seed: int = 0) -> DrawnSign:
    """Draws one photograph of a sign; it depends on nothing but the arguments and the version of Pillow.

    Args:
        index: number of the photograph in its series, 0 or more.
        seed: number of the series, 0 or more.

    Returns:
        The photograph with its key and label.

    Raises:
        ValueError: if `index` or `seed` is negative.
    """
    if index < 0 or seed < 0:
        raise ValueError(f"index {index}, seed {seed}: neither may be negative; count from 0")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    label = LABELS[rng.integers(len(LABELS))]
    photo = _stage(rng, label, *_draw_size(rng))
    for share, fault in _OPTICS:
        if rng.random() < share:
            photo = fault(photo, rng)
    return DrawnSign(f"{label}/{index:05d}.png", label, _expose_and_shade(photo, rng))


def draw_signs(count: int, seed: int = 0) -> Iterator[DrawnSign]:
    """Draws the photographs 0 to `count` - 1 of a series, one at a time.

    Args:
        count: number of photographs, 0 or more.
        seed: number of the series, 0 or more.

    Returns:
        An iterator over what `draw_sign` gives for each index.

    Raises:
        ValueError: if `count` or `seed` is negative; at the call, not at the first image.
    """
    if count < 0 or seed < 0:
        raise ValueError(f"count {count}, seed {seed}: neither may be negative")
    return (draw_sign(index, seed) for index in range(count))


def write_signs(out_dir: str | os.PathLike[str], count: int, seed: int = 0) -> list[str]:
    """Writes photographs as a labelled tree: `<label>/<index:05d>.png` and a `labels.csv` of `path,label`.

    Args:
        out_dir: folder to write into; made if it is not there. Files of the same names are replaced.
        count: number of photographs, 0 or more.
        seed: number of the series, 0 or more.

    Returns:
        The keys, in the order of the photographs' indexes: paths below `out_dir`, with `/`.

    Raises:
        ValueError: if `count` or `seed` is negative.
        OSError: if a file cannot be written.
    """
    root = Path(out_dir)
    rows: list[tuple[str, str]] = []
    for sign in draw_signs(count, seed):
        path = root / sign.key
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sign.image).save(path)
        rows.append((sign.key, sign.label))
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "labels.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "label"), *rows])
    return [key for key, _ in rows]
