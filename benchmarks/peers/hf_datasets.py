"""HF datasets: `map(batched=True, num_proc=...)`, then `to_parquet`; back, a `map` that saves."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from peers.shared import (
    BATCH,
    SeedDecoder,
    SeedEncoder,
    list_images,
    make_folders,
    read_latents,
    run_program,
    save_images,
    to_levels,
    to_pixels,
)

encoder = functools.cache(SeedEncoder)
decoder = functools.cache(SeedDecoder)


def encode(batch: dict[str, list[Any]]) -> dict[str, list[bytes]]:
    """Images of a batch to latents."""
    levels = encoder()(np.stack([to_pixels(image) for image in batch["image"]]))
    return {"latent": [row.tobytes() for row in levels]}


def decode(batch: dict[str, list[Any]], target: Path) -> None:
    """Latents of a batch to PNG files."""
    save_images(target, batch["path"], decoder()(to_levels(batch["latent"])))


def compress(source: Path, target: Path, workers: int) -> None:
    """A column of paths, cast to images, mapped to latents."""
    names = list_images(source)
    data = datasets.Dataset.from_dict({"path": names, "image": [str(source / name) for name in names]})
    data = data.cast_column("image", datasets.Image())
    data = data.map(encode, batched=True, batch_size=BATCH, num_proc=workers, remove_columns=["image"])
    data.to_parquet(target / "latents.parquet")


def decompress(source: Path, target: Path, workers: int) -> None:
    """A data set of Parquet files, mapped to nothing but files."""
    make_folders(target, read_latents(source)[0])
    data = datasets.load_dataset("parquet", data_files=[str(file) for file in source.glob("*.parquet")], split="train")
    data.map(decode, batched=True, batch_size=BATCH, num_proc=workers, fn_kwargs={"target": target})


if __name__ == "__main__":
    run_program(compress, decompress)
