"""Where the bytes and the microseconds of the learned codec go.

    python benchmarks/codec.py DATA [--model NAME|FILE] [--limit N] [--out FILE.json]

DATA is what `tsae train` takes. For each quality, all images at just that quality: bytes of the streams, what the model's own
probabilities say they should be, PSNR, and what exactness costs: the same weights in floating point, nothing rounded but the
latents. Then the bytes by channel and by position, and microseconds an image of each part on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rd.run_facts import run_facts

from tsae.checkpoint import LearnedWeights, model_from_bytes
from tsae.coding.exact import FixedPointNetwork
from tsae.coding.learned import BATCH, from_patches, to_patches
from tsae.entropy.coder import EntropyCoder
from tsae.metrics import psnr_db
from tsae.training import variable_rate
from tsae.training.export import trainable
from tsae.training.images import load_images
from tsae.zoo import read_model_file

ROUNDS = 7
TIMED_IMAGES = 256


def run_network(network: FixedPointNetwork, values: NDArray[np.int16], quality: int) -> NDArray[np.float32]:
    """Integers `[N, 8, 8, C]` through a network, a batch at a time."""
    parts = [values[i : i + BATCH["cpu"]].astype(np.float32) for i in range(0, len(values), BATCH["cpu"])]
    return np.concatenate([network.run(part.transpose(0, 3, 1, 2), quality) for part in parts])


@torch.no_grad()
def in_floating_point(weights: LearnedWeights, images: NDArray[np.uint8], quality: int) -> dict[str, Any]:
    """Bytes by the learned probabilities, by channel and by position, and mean PSNR, where only latents are rounded."""
    network = trainable(weights)
    bits, psnrs = [], []
    for part in np.array_split(images, max(1, len(images) // 64)):
        x = variable_rate.to_patches(torch.from_numpy(part))
        x_hat, part_bits, _ = network(x, torch.full((len(x),), quality - 1), hard=True)
        bits.append(part_bits.flatten(2).double().sum(0).numpy() / 8)
        psnrs.append(psnr_db(part, from_patches(x_hat.round().numpy() - 128)))
    total = np.sum(bits, axis=0) / len(images)
    by_position = total.sum(0).reshape(8, 8).round(3).tolist()
    return {
        "bytes": total.sum(),
        "psnr_db": np.concatenate(psnrs).mean(),
        "by_channel": total.sum(1).round(3).tolist(),
        "by_position": by_position,
    }


def microseconds(function: Callable[[], object], images: int) -> float:
    """Least time of some repetitions, an image."""
    function()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times) / images * 1e6


def measure(weights: LearnedWeights, images: NDArray[np.uint8], quality: int) -> dict[str, Any]:
    """All figures of one quality."""
    coder = EntropyCoder(weights.prior)
    analysis, synthesis = FixedPointNetwork(weights.analysis), FixedPointNetwork(weights.synthesis)
    symbols = coder.quantize(run_network(analysis, to_patches(images), quality).astype(np.int32), quality)
    streams = coder.encode(symbols, quality)
    qualities = [quality] * len(images)
    latents = coder.decode_latents(streams, qualities).transpose(0, 2, 3, 1)
    x_hat = from_patches(run_network(synthesis, latents, quality))
    psnrs_db, sizes = psnr_db(images, x_hat), np.array([len(stream) for stream in streams])
    few = slice(0, TIMED_IMAGES)
    timed = len(images[few])
    return {
        "quality": quality,
        "stream_bytes": sizes.mean(),
        "stream_bytes_max": int(sizes.max()),
        "psnr_db": psnrs_db.mean(),
        "nonzero_symbols": (symbols != 0).sum() / len(images),
        "active_channels": int(weights.prior.active[quality - 1].sum()),
        "floating_point": in_floating_point(weights, images, quality),
        "us": {
            "analysis": microseconds(lambda: run_network(analysis, to_patches(images[few]), quality), timed),
            "entropy encoding": microseconds(lambda: coder.encode(symbols[few], quality), timed),
            "entropy decoding": microseconds(lambda: coder.decode_latents(streams[few], qualities[few]), timed),
            "synthesis": microseconds(lambda: from_patches(run_network(synthesis, latents[few], quality)), timed),
        },
    }


def show(row: dict[str, Any]) -> None:
    """Prints a line."""
    floating, us = row["floating_point"], row["us"]
    print(
        f"{row['quality']}  {row['stream_bytes']:7.2f} bytes ({floating['bytes']:7.2f} by the model)  {row['psnr_db']:6.3f} dB "
        f"({floating['psnr_db']:6.3f} in floating point)  {row['nonzero_symbols']:5.0f} symbols  "
        + ", ".join(f"{name} {value:.0f}" for name, value in us.items())
    )


def main() -> None:
    """Measures, prints, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="tsae")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "codec.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    weights = model_from_bytes(read_model_file(args.model), args.model).weights
    assert isinstance(weights, LearnedWeights), "a model with qualities is needed"
    images = load_images(args.data).images
    images = images[:: max(1, len(images) // args.limit)] if args.limit else images
    rows = []
    for quality in range(1, weights.qualities + 1):
        rows.append(measure(weights, images, quality))
        show(rows[-1])
    args.out.write_text(
        json.dumps({**run_facts(["torch", "numba", "numpy"]), "images": len(images), "qualities": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
