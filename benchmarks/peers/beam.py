"""Apache Beam as its documentation would have it: MatchFiles, ReadMatches, ParDo, RunInference, WriteToParquet.

The runner is the default one with its default options, so `workers` is not heeded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import torch
from apache_beam.io import fileio
from apache_beam.io.parquetio import WriteToParquet
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.ml.inference.pytorch_inference import PytorchModelHandlerTensor, make_tensor_model_fn
from PIL import Image

from peers.shared import BATCH, SCHEMA, fold_batch_norm, load_weights, run_program, to_pixels
from tsae.model import SeedAutoencoder
from tsae.quantize import LatentQuantizer


def make_network() -> SeedAutoencoder:
    """A network that the saved state fits."""
    return fold_batch_norm(SeedAutoencoder().eval()).to(memory_format=torch.channels_last)


class Decode(beam.DoFn):
    """Image files to tensors float32 `[3, 32, 32]`, keyed by path."""

    def process(self, file: fileio.ReadableFile) -> Iterator[tuple[str, torch.Tensor]]:
        """Reads, decodes and scales one file."""
        with file.open() as stream, Image.open(stream) as image:
            pixels = torch.from_numpy(to_pixels(image).copy())
        yield file.metadata.path, pixels.permute(2, 0, 1).float().div(255)


class Quantize(beam.DoFn):
    """Predictions to rows of the table."""

    def __init__(self, quantizer: LatentQuantizer) -> None:
        self.quantizer = quantizer

    def process(self, element: tuple[str, PredictionResult]) -> Iterator[dict[str, Any]]:
        """Rounds the latents of one image."""
        path, prediction = element
        yield {"path": path, "latent": self.quantizer.quantize(prediction.inference.numpy()[None]).tobytes()}


def compress(source: Path, target: Path, workers: int) -> None:
    """The pipeline; a state of the folded network is what its model handler loads."""
    weights = load_weights()
    with tempfile.TemporaryDirectory() as folder:
        state = f"{folder}/state.pt"
        torch.save(weights.network.state_dict(), state)
        inference = make_tensor_model_fn("analysis")
        handler = PytorchModelHandlerTensor(state, make_network, {}, inference_fn=inference, max_batch_size=BATCH)
        with beam.Pipeline() as pipeline:
            (
                pipeline
                | fileio.MatchFiles(f"{source}/**.png")
                | fileio.ReadMatches()
                | beam.ParDo(Decode())
                | RunInference(KeyedModelHandler(handler))
                | beam.ParDo(Quantize(weights.quantizer))
                | WriteToParquet(f"{target}/latents", SCHEMA, file_name_suffix=".parquet")
            )


if __name__ == "__main__":
    run_program(compress)
