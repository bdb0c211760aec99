"""The floor: what each unavoidable step takes on a core while the others do the same, microseconds an image, on warm data.

The network counts as its multiply-adds at the speed of one large matrix product. Steps are measured on some of the images,
each three times, of which the fastest counts. Tools are the usual ones, Pillow and torch; `own_floor.py` takes those of `tsae`.
"""

from __future__ import annotations

import io
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from peers.shared import (
    LATENT_BYTES,
    SIDE,
    Job,
    SeedDecoder,
    batches,
    list_images,
    load_weights,
    read_latents,
    run_program,
    write_latents,
)

SAMPLE = 1000
PASSES = 3
MATRIX = 1536
"""Rows and columns of the matrices of the product."""


class Tools(NamedTuple):
    """What does the steps.

    Attributes:
        decode: A PNG file to an image.
        encode: Pixels uint8 `[N, H, W, 3]` to PNG files.
        make_product: Gives what multiplies two matrices of float32.
    """

    decode: Callable[[bytes], Image.Image]
    encode: Callable[[NDArray[np.uint8]], list[bytes]]
    make_product: Callable[[], Callable[[NDArray[np.float32], NDArray[np.float32]], object]]


def least_us(action: Callable[[], object], count: int) -> float:
    """Microseconds for one of `count`, the least of some passes."""
    times = []
    for _ in range(PASSES):
        started_s = time.perf_counter()
        action()
        times.append(time.perf_counter() - started_s)
    return min(times) * 1e6 / count


def each_us(function: Callable[[Any], object], items: Iterable[Any]) -> float:
    """Microseconds of a function for one of the items."""
    items = list(items)

    def all_of_them() -> None:
        for item in items:
            function(item)

    return least_us(all_of_them, len(items))


def multiply_adds(part: nn.Module, inputs: Tensor) -> int:
    """Those of the convolutions of a network for one image."""
    total = 0

    def count(layer: nn.Module, arguments: tuple[Tensor, ...], outputs: Tensor) -> None:
        nonlocal total
        at = arguments[0] if isinstance(layer, nn.ConvTranspose2d) else outputs  # where the kernel is laid
        total += layer.weight.numel() * at.shape[2] * at.shape[3]  # type: ignore[operator]

    hooks = [layer.register_forward_hook(count) for layer in part if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]  # type: ignore[attr-defined]
    part(inputs)
    for hook in hooks:
        hook.remove()
    return total


def product_us(tools: Tools, count: int) -> float:
    """That many multiply-adds at the speed of a matrix product."""
    a, b = (np.ones((MATRIX, MATRIX), np.float32) for _ in range(2))
    multiply = tools.make_product()
    return least_us(lambda: multiply(a, b), MATRIX**3) * count


def on_all_cores(steps: Callable[[Tools, Path, Path], dict[str, float]], tools: Tools) -> Job:
    """The means of the steps as several processes time them at once: cores that share memory are slower than one alone."""

    def measure(source: Path, target: Path, workers: int) -> dict[str, float]:
        folders = [target / str(number) for number in range(workers)]
        for folder in folders:
            folder.mkdir()
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            found = pool.starmap(steps, [(tools, source, folder) for folder in folders], chunksize=1)
        return {step: statistics.fmean(figures[step] for figures in found) for step in found[0]}

    return measure


def compress(tools: Tools, source: Path, target: Path) -> dict[str, float]:
    """Steps from a file to a row."""
    network = load_weights().network
    names = list_images(source)
    names = names[:: max(1, len(names) // SAMPLE)]
    paths = [source / name for name in names]
    files = [path.read_bytes() for path in paths]
    images = [tools.decode(file) for file in files]
    levels = np.random.default_rng(0).integers(-128, 128, (len(names), LATENT_BYTES), np.int8)
    return {
        "read": each_us(_read, map(str, paths)),
        "decode": each_us(tools.decode, files),
        "resize": each_us(lambda image: image.resize(SIDE, Image.Resampling.BILINEAR), images),
        "network": product_us(tools, multiply_adds(network.g_a, torch.zeros(1, 3, 32, 32))),
        "write": least_us(lambda: write_latents(target / "latents.parquet", names, [levels]), len(names)),
    }


def decompress(tools: Tools, source: Path, target: Path) -> dict[str, float]:
    """Steps from a row to a file."""
    names, levels = read_latents(source)
    decoder, levels = SeedDecoder(), levels[:SAMPLE]
    images = np.concatenate([decoder(levels[batch]) for batch in batches(len(levels))])
    number = itertools.count()  # a new file each time, as a job writes them
    return {
        "read": least_us(lambda: read_latents(source), len(names)),
        "network": product_us(tools, multiply_adds(decoder.weights.network.g_s, torch.zeros(1, 8, 8, 8))),
        "encode": least_us(lambda: tools.encode(images), len(images)),
        "write": each_us(lambda data: _write(f"{target}/{next(number)}.png", data), tools.encode(images)),
    }


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _decode(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _encode(images: NDArray[np.uint8]) -> list[bytes]:
    return list(map(_encode_one, map(Image.fromarray, images)))


def _encode_one(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _make_product() -> Callable[[NDArray[np.float32], NDArray[np.float32]], object]:
    torch.set_num_threads(1)
    out = torch.empty(MATRIX, MATRIX)
    return lambda a, b: torch.mm(torch.from_numpy(a), torch.from_numpy(b), out=out)


USUAL = Tools(_decode, _encode, _make_product)

if __name__ == "__main__":
    from peers import floor  # by its name, which processes can import

    run_program(on_all_cores(floor.compress, floor.USUAL), on_all_cores(floor.decompress, floor.USUAL))
