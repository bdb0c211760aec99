"""PyTorch DataLoader: workers read and scale, the main process encodes and writes with pyarrow; back, workers do all."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from peers.shared import (
    BATCH,
    SeedDecoder,
    SeedEncoder,
    list_images,
    make_folders,
    read_latents,
    read_pixels,
    run_program,
    save_images,
    write_latents,
)

decoder = functools.cache(SeedDecoder)


class Signs(Dataset[torch.Tensor]):
    """Image files as pixels uint8 `[32, 32, 3]`."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(read_pixels(self.root / self.names[index]).copy())


class Latents(Dataset[tuple[str, NDArray[np.int8]]]):
    """Rows of a Parquet table."""

    def __init__(self, names: list[str], levels: NDArray[np.int8]) -> None:
        self.names, self.levels = names, levels

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, NDArray[np.int8]]:
        return self.names[index], self.levels[index]


def save(rows: list[tuple[str, NDArray[np.int8]]], target: Path) -> int:
    """Decodes a batch and writes its files, in a worker."""
    names, levels = zip(*rows, strict=True)
    save_images(target, names, decoder()(np.stack(levels)))
    return len(names)


def compress(source: Path, target: Path, workers: int) -> None:
    """Batches of pixels from workers, encoded here."""
    names = list_images(source)
    loader = DataLoader(Signs(source, names), batch_size=BATCH, num_workers=workers)
    encoder = SeedEncoder()
    write_latents(target / "latents.parquet", names, (encoder(batch.numpy()) for batch in loader))


def decompress(source: Path, target: Path, workers: int) -> None:
    """Batches that workers decode and save as they collate them."""
    names, levels = read_latents(source)
    make_folders(target, names)
    collate = functools.partial(save, target=target)
    assert sum(DataLoader(Latents(names, levels), batch_size=BATCH, num_workers=workers, collate_fn=collate)) == len(names)


if __name__ == "__main__":
    run_program(compress, decompress)
