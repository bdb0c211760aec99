"""Ray Data: `read_images`, `map_batches` with an actor a worker, `write_parquet`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from peers.shared import BATCH, SIDE, SeedEncoder, run_program


class Encode:
    """What each actor does."""

    def __init__(self) -> None:
        self.encoder = SeedEncoder()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Images of a batch to latents."""
        return {"path": batch["path"], "latent": self.encoder(batch["image"])}


def compress(source: Path, target: Path, workers: int) -> None:
    """Images of one size as a tensor column, mapped to latents."""
    # An actor holds a CPU for good: without as many again, reading would wait for ever.
    ray.init(num_cpus=2 * workers, include_dashboard=False, log_to_driver=False)
    images = ray.data.read_images(str(source), size=SIDE, mode="RGB", include_paths=True)
    latents = images.map_batches(Encode, batch_size=BATCH, compute=ray.data.ActorPoolStrategy(size=workers))
    latents.write_parquet(str(target))


if __name__ == "__main__":
    run_program(compress)
