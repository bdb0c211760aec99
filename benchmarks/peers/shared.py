"""What all programs share: the seed's networks, signs as files, latents as a Parquet table, and how a program is started.

A program is called with a direction, a source, a target and a number of workers. `compress` turns a folder of PNG files
into a folder of Parquet files with columns `path` and `latent` (512 levels of 8 bits); `decompress` turns that into PNG files.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tsae.model import SeedAutoencoder
from tsae.model_file import below, read_model_file
from tsae.quantize import LatentQuantizer

MODEL = "seed-8x8x8"

BATCH = 64
"""Images a call of the network, for every tool."""

SIDE = (32, 32)

LATENT_BYTES = 512

SCHEMA = pa.schema([("path", pa.string()), ("latent", pa.binary(LATENT_BYTES))])

Job = Callable[[Path, Path, int], "dict[str, float] | None"]


class SeedWeights(NamedTuple):
    """What the packaged model file holds."""

    network: SeedAutoencoder
    quantizer: LatentQuantizer


def load_weights() -> SeedWeights:
    """The packaged model, folded and laid out for a CPU as `tsae` has it: no tool is slower because of its network.

    It is read without `tsae.zoo`, which takes a quarter of a second to import what only the other model needs.
    """
    torch.set_num_threads(1)
    file = resources.files("tsae") / "weights" / f"{MODEL}.safetensors"
    _, tensors = read_model_file(file.read_bytes(), MODEL)
    network = SeedAutoencoder().eval()
    network.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in below(tensors, "network.").items()})
    folded = fold_batch_norm(network).to(memory_format=torch.channels_last)
    return SeedWeights(folded, LatentQuantizer(tensors["quantizer.scale"], tensors["quantizer.offset"]))


def fold_batch_norm(network: SeedAutoencoder) -> SeedAutoencoder:
    """A copy for inference in which each batch normalisation is folded into the convolution before it.

    `bn(conv(x)) = s (W x + b - mean) / sd + t` is again a convolution, with weights `W s / sd`; it saves two passes
    over the activations per layer.

    Args:
        network: A network in evaluation mode; it is not changed.

    Returns:
        The folded copy, in evaluation mode, with no gradients.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    folded.g_a = _fold(folded.g_a)
    folded.g_s = _fold(folded.g_s)
    return folded


def _fold(layers: nn.Sequential) -> nn.Sequential:
    folded: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            convolution = cast(nn.Conv2d, folded.pop())
            folded.append(fuse_conv_bn_eval(convolution, layer, isinstance(convolution, nn.ConvTranspose2d)))
        else:
            folded.append(layer)
    return nn.Sequential(*folded).eval()


class SeedEncoder:
    """Images uint8 `[N, 32, 32, 3]` to levels int8 `[N, 512]`."""

    def __init__(self) -> None:
        self.weights = load_weights()

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.int8]:
        """Encodes a batch."""
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)  # channels last, as the pixels are
        y = self.weights.network.analysis(x).numpy()
        return self.weights.quantizer.quantize(y).reshape(len(images), LATENT_BYTES)


class SeedDecoder:
    """Levels int8 `[N, 512]` to images uint8 `[N, 32, 32, 3]`."""

    def __init__(self) -> None:
        self.weights = load_weights()

    @torch.inference_mode()
    def __call__(self, levels: NDArray[np.int8]) -> NDArray[np.uint8]:
        """Decodes a batch."""
        y_hat = self.weights.quantizer.dequantize(levels.reshape(-1, *self.weights.network.latent_shape))
        x_hat = self.weights.network.synthesis(torch.from_numpy(y_hat).contiguous(memory_format=torch.channels_last))
        return x_hat.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def list_images(root: Path) -> list[str]:
    """Paths of the PNG files of a folder and those below, relative to it and sorted."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))


def to_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """An image scaled to 32x32."""
    return np.asarray(image.convert("RGB").resize(SIDE, Image.Resampling.BILINEAR))


def read_pixels(path: str | Path) -> NDArray[np.uint8]:
    """An image file scaled to 32x32."""
    with Image.open(path) as image:
        return to_pixels(image)


def write_latents(file: Path, names: Sequence[str], batches: Iterable[NDArray[np.int8]]) -> None:
    """A Parquet file of names and of levels int8 `[N, 512]` in batches."""
    latents = [row.tobytes() for batch in batches for row in batch]
    pq.write_table(pa.table([list(names), latents], schema=SCHEMA), file)


def read_latents(folder: Path) -> tuple[list[str], NDArray[np.int8]]:
    """Names, and levels int8 `[N, 512]`."""
    table = pq.read_table(folder)
    return table["path"].to_pylist(), to_levels(table["latent"].to_pylist())


def to_levels(latents: Sequence[bytes]) -> NDArray[np.int8]:
    """Latents as they are stored to levels int8 `[N, 512]`."""
    return np.frombuffer(b"".join(latents), np.int8).reshape(-1, LATENT_BYTES)


def make_folders(root: Path, names: Iterable[str]) -> None:
    """The folders that files of such names need."""
    for folder in {str(Path(name).parent) for name in names}:
        (root / folder).mkdir(parents=True, exist_ok=True)


def save_images(root: Path, names: Sequence[str], images: NDArray[np.uint8]) -> None:
    """Writes PNG files."""
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(root / name)


def batches(length: int) -> list[slice]:
    """Slices of `BATCH`."""
    return [slice(start, start + BATCH) for start in range(0, length, BATCH)]


def run_program(compress: Job, decompress: Job | None = None) -> None:
    """Runs the job that the command line names, and prints its figures, if it has any, as a line of JSON."""
    direction, source, target, workers = sys.argv[1:]
    job = {"compress": compress, "decompress": decompress}[direction]
    assert job is not None, f"there is no {direction} here"
    Path(target).mkdir(parents=True, exist_ok=True)
    print(json.dumps(job(Path(source), Path(target), int(workers)) or {}))
