"""Numba against NumPy for the entropy decoder: the same streams, the same symbols, microseconds an image.

    python benchmarks/entropy.py DATA [--model NAME|FILE] [--out FILE.json]

DATA is what `tsae train` takes. Each symbol depends on those before it, so NumPy can only work across the images of a batch:
`NumpyDecoder` keeps one range decoder for each image and takes a symbol of all of them at a time, its sums as matrix products
in float64, which are exact. Both decode the same images in batches of 1, 64 and 1,024, in turn; the least time of some rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rd.run_facts import run_facts

from tsae.checkpoint import LearnedWeights, model_from_bytes
from tsae.coding.exact import FixedPointNetwork
from tsae.coding.learned import to_patches
from tsae.entropy import arrays as k
from tsae.entropy.coder import EntropyCoder
from tsae.entropy.prior import Prior
from tsae.training.images import load_images
from tsae.zoo import read_model_file

BATCHES = (1, 64, 1024)
QUALITIES = (1, 3, 5, 8)
ROUNDS = 3
MARGIN = 2
TABLE_KEY = 1 << 16

Symbols = NDArray[np.int64]


class NumpyDecoder:
    """Decodes a batch of streams of one quality with NumPy alone, as docs/FORMAT.md says."""

    def __init__(self, prior: Prior) -> None:
        """Lays out the tables for searching and for matrix products."""
        self.prior = prior
        self.owns, self.hidden = len(prior.own_weight), prior.mean_head.shape[1]
        entries = np.repeat(np.arange(len(prior.table_least)), np.diff(prior.table_first))
        self.keys = entries * TABLE_KEY + prior.cumulative.astype(np.int64)
        self.cumulative = prior.cumulative.astype(np.int64)
        self.heads = np.stack([prior.mean_head, prior.scale_head], 2).astype(np.float64)
        self.own = prior.own_weight.reshape(self.owns, 2 * k.CAUSAL_TAPS, self.hidden).astype(np.float64)
        self.around = prior.field_weight.reshape(prior.channels, 18, self.hidden).astype(np.float64)

    def decode(self, streams: Sequence[bytes], quality: int) -> NDArray[np.int16]:
        """Symbols int16 `[N, C, 8, 8]`; damaged streams are not noticed."""
        prior, row = self.prior, quality - 1
        self._start(streams)
        symbols = np.zeros((len(streams), prior.channels, 64), np.int64)
        gathered = np.tile((prior.field_start[row] + prior.field_position).astype(np.float64), (len(streams), 1, 1))
        first = 0
        for size in prior.slices.tolist():
            activation = None if first < self.owns else self._rectify(gathered)
            said = []
            for c in range(first, first + size):
                if prior.active[row, c]:
                    symbols[:, c], around = self._decode_channel(row, c, gathered, activation)
                    said.append(around @ self.around[c])
            gathered = gathered + sum(said)
            first += size
        return symbols.reshape(len(streams), prior.channels, 8, 8).astype(np.int16)

    def _start(self, streams: Sequence[bytes]) -> None:
        room = max(map(len, streams)) + k.SPARE_BYTES + 4 * 64
        self.bytes = np.zeros((len(streams), room), np.int64)
        for row, stream in enumerate(streams):
            self.bytes[row, : len(stream)] = np.frombuffer(stream, np.uint8)
        self.rows = np.arange(len(streams))
        self.code = self.bytes[:, :4] @ (1 << np.arange(24, -1, -8))
        self.span = np.full(len(streams), (1 << k.CODE_BITS) - 1)
        self.place = np.full(len(streams), 4)

    @staticmethod
    def _rectify(field: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(np.floor(field / (1 << k.FIELD_SHIFT)), 0, k.ACTIVATION_LIMIT)

    def _decode_channel(
        self, row: int, c: int, gathered: NDArray[np.float64], activation: NDArray[np.float64] | None
    ) -> tuple[Symbols, NDArray[np.float64]]:
        """A channel's symbols `[N, 64]`, and value and magnitude around each position `[N, 64, 18]`."""
        prior, count = self.prior, len(gathered)
        starts = np.stack([prior.mean_start[c], prior.scale_start[c]], 1)  # [64, 2]
        heads = activation @ self.heads[c] if activation is not None else np.zeros((count, 64, 2))
        causal = np.stack([prior.mean_causal[c], prior.scale_causal[c]], 1)
        known = np.zeros((count, 8 + 2 * MARGIN, 8 + 2 * MARGIN, 2))  # latents and magnitudes
        symbols = np.zeros((count, 64), np.int64)
        for p in range(64):
            y, x = divmod(p, 8)
            before = known[:, y : y + 3, x : x + 5].reshape(count, 15, 2)[:, : k.CAUSAL_TAPS]
            sums = starts[p] + heads[:, p] + (before * causal).sum(1)
            if activation is None:
                own = before.reshape(count, 2 * k.CAUSAL_TAPS) @ self.own[c]
                sums = sums + self._rectify(gathered[:, p] + own) @ self.heads[c]
            symbol = self._take(row, c, sums.astype(np.int64))
            latents = symbol * int(prior.step[row, c]) + k.STEP_UNITS // 2 >> k.STEP_SHIFT
            known[:, y + MARGIN, x + MARGIN, 0] = np.clip(latents, -k.LATENT_LIMIT, k.LATENT_LIMIT)
            magnitudes = prior.magnitude[np.minimum(np.abs(symbol), k.MAGNITUDES - 1)]
            known[:, y + MARGIN, x + MARGIN, 1] = np.where(symbol, magnitudes, 0)
            symbols[:, p] = symbol
        windows = np.lib.stride_tricks.sliding_window_view(known[:, 1:-1, 1:-1], (3, 3), (1, 2))  # [N, 8, 8, 2, 3, 3]
        return symbols, windows.transpose(0, 1, 2, 4, 5, 3).reshape(count, 64, 18)

    def _take(self, row: int, c: int, sums: Symbols) -> Symbols:
        """The next symbol of every image."""
        prior = self.prior
        half = 1 << (k.MEAN_SHIFT - 1)
        sixteenths = sums[:, 0] * int(prior.gain[row, c]) + half >> k.MEAN_SHIFT
        limit = k.OFFSETS * k.SYMBOL_LIMIT
        sixteenths = np.clip(sixteenths, -limit, limit) + k.OFFSETS // 2
        scales = len(prior.table_least) // k.OFFSETS
        scale = np.clip(sums[:, 1] + int(prior.log_gain[row, c]) >> k.SCALE_SHIFT, 0, scales - 1)
        table = scale * k.OFFSETS + (sixteenths & (k.OFFSETS - 1))
        unit = self.span >> k.PROBABILITY_BITS
        found = np.searchsorted(self.keys, table * TABLE_KEY + self.code // unit, "right") - 1
        self._narrow(unit, self.cumulative[found], self.cumulative[found + 1], self.rows)
        symbol = (sixteenths >> 4) + found - prior.table_first[table] + prior.table_least[table]
        escaped = np.flatnonzero(found == prior.table_first[table + 1] - 2)
        for image in escaped:
            symbol[image] = self._take_escaped(image)
        return symbol

    def _take_escaped(self, image: int) -> int:
        head = self._take_bits(image, k.ESCAPE_BITS + 1)
        magnitude = self._take_bits(image, head & ((1 << k.ESCAPE_BITS) - 1))
        return -magnitude if head >> k.ESCAPE_BITS else magnitude

    def _take_bits(self, image: int, bits: int) -> int:
        unit = int(self.span[image]) >> k.PROBABILITY_BITS << (k.PROBABILITY_BITS - bits)
        value = int(self.code[image]) // unit
        self._narrow(np.array([unit]), np.array([value]), np.array([value + 1]), np.array([image]))
        return value

    def _narrow(self, unit: Symbols, low: Symbols, high: Symbols, images: NDArray[np.intp]) -> None:
        self.code[images] -= low * unit
        self.span[images] = (high - low) * unit
        short = images[self.span[images] < k.SPAN_FLOOR]
        while len(short):
            self.code[short] = (self.code[short] << 8) | self.bytes[short, self.place[short]]
            self.span[short] <<= 8
            self.place[short] += 1
            short = short[self.span[short] < k.SPAN_FLOOR]


def encode(weights: LearnedWeights, coder: EntropyCoder, images: NDArray[np.uint8], quality: int) -> list[bytes]:
    """The streams of images at just that quality."""
    analysis = FixedPointNetwork(weights.analysis)
    y = analysis.run(to_patches(images).astype(np.float32).transpose(0, 3, 1, 2), quality)
    return coder.encode(coder.quantize(y.astype(np.int32), quality), quality)


def best_us(functions: Sequence[Callable[[], Any]], images: int) -> list[float]:
    """The least time of each function, us an image; they take turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS):
        for function, taken in zip(functions, times, strict=True):
            started_s = time.perf_counter()
            function()
            taken.append(time.perf_counter() - started_s)
    return [min(taken) * 1e6 / images for taken in times]


def measure(coder: EntropyCoder, numpy_decoder: NumpyDecoder, streams: list[bytes], quality: int) -> dict[str, Any]:
    """Times of one batch; refuses to compare what is not equal."""
    expected = coder.decode(streams, [quality] * len(streams))
    assert np.array_equal(numpy_decoder.decode(streams, quality), expected), "the decoders disagree"
    actions = [lambda: coder.decode(streams, [quality] * len(streams)), lambda: numpy_decoder.decode(streams, quality)]
    numba_us, numpy_us = best_us(actions, len(streams))
    return {"quality": quality, "batch": len(streams), "numba_us": numba_us, "numpy_us": numpy_us, "ratio": numpy_us / numba_us}


def main() -> None:
    """Measures, prints, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="tsae")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "entropy.json")
    args = parser.parse_args()
    weights = model_from_bytes(read_model_file(args.model), args.model).weights
    assert isinstance(weights, LearnedWeights), "a model with entropy coding is needed"
    images = load_images(args.data).images
    images = np.resize(images, (max(BATCHES), *images.shape[1:])) if len(images) < max(BATCHES) else images
    chosen = images[np.linspace(0, len(images) - 1, max(BATCHES)).round().astype(np.intp)]
    coder = EntropyCoder(weights.prior)
    numpy_decoder = NumpyDecoder(weights.prior)
    rows = []
    for quality in QUALITIES:
        streams = encode(weights, coder, chosen, quality)
        for batch in BATCHES:
            row = measure(coder, numpy_decoder, streams[:batch], quality)
            print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
            rows.append(row)
    args.out.write_text(json.dumps({**run_facts(["torch", "numba", "numpy"]), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
