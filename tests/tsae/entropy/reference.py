"""The decoder once more, in integers of Python alone and from the description, not from the code: slow, and short."""

from __future__ import annotations

import dataclasses
from typing import Any

from tsae.entropy import Prior


class Corrupt(Exception):
    """The stream cannot be one."""


@dataclasses.dataclass
class Bits:
    """A range decoder; each interval that it decoded is kept."""

    data: bytes
    code: int = 0
    span: int = 2**32 - 1
    place: int = 0
    intervals: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    plain_bits: int = 0

    def __post_init__(self) -> None:
        for _ in range(4):
            self.shift()

    def shift(self) -> None:
        self.code = self.code * 256 + (self.data[self.place] if self.place < len(self.data) else 0)
        self.place += 1

    def take(self, cumulative: list[int]) -> int:
        """The number of the interval that the code lies in."""
        unit = self.span // 2**15
        if self.code >= unit * 2**15:
            raise Corrupt
        k = max(i for i in range(len(cumulative) - 1) if cumulative[i] * unit <= self.code)
        low, width = cumulative[k], cumulative[k + 1] - cumulative[k]
        self.code, self.span = self.code - low * unit, width * unit
        self.intervals.append((low, width))
        while self.span < 2**24:
            self.shift()
            self.span *= 256
        return k

    def take_uniform(self, bits: int) -> int:
        self.plain_bits += bits
        return self.take([k << (15 - bits) for k in range(2**bits + 1)])


def clamp(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


class Image:
    """Decodes one image; what stands for a channel's symbols elsewhere is kept as 8x8 lists by channel."""

    def __init__(self, prior: Prior, quality: int, stream: bytes) -> None:
        self.p: dict[str, Any] = {name: array.tolist() for name, array in prior.to_tensors().items()}
        self.q, self.bits, self.tables = quality - 1, Bits(stream), []
        zeros = [[[0] * 8 for _ in range(8)] for _ in self.p["mean_head"]]
        self.symbols, self.latents, self.magnitudes = (  # three separate copies
            [[list(row) for row in channel] for channel in zeros] for _ in range(3)
        )

    def decode(self) -> list[list[list[int]]]:
        start = 0
        for size in self.p["slices"]:
            for c in range(start, start + size):
                if self.p["active"][self.q][c]:
                    for k in range(64):
                        self._put(c, k // 8, k % 8, self._symbol(c, k // 8, k % 8, start))
            start += size
        return self.symbols

    def at_end(self) -> bool:
        return self.bits.place >= len(self.bits.data) and not self.bits.data.endswith(b"\0")

    def _put(self, c: int, y: int, x: int, symbol: int) -> None:
        if abs(symbol) > 1023:
            raise Corrupt
        self.symbols[c][y][x] = symbol
        self.latents[c][y][x] = clamp((symbol * self.p["step"][self.q][c] + 8) // 16, -4095, 4095)
        self.magnitudes[c][y][x] = self.p["magnitude"][min(abs(symbol), 255)] if symbol else 0

    def _near(self, c: int, y: int, x: int) -> tuple[int, int]:
        """Latent and magnitude, 0 outside the grid."""
        inside = 0 <= y < 8 and 0 <= x < 8
        return (self.latents[c][y][x], self.magnitudes[c][y][x]) if inside else (0, 0)

    def _field(self, c: int, y: int, x: int, start: int) -> list[int]:
        """The hidden field that a channel sees at one position: earlier slices, and itself if it is one of the first."""
        field = [a + b for a, b in zip(self.p["field_start"][self.q], self.p["field_position"][8 * y + x], strict=True)]
        for weights, channel, offsets in [
            *((self.p["field_weight"][b], b, [(t // 3 - 1, t % 3 - 1) for t in range(9)]) for b in range(start)),
            *((own, c, [(t // 5 - 2, t % 5 - 2) for t in range(12)]) for own in self.p["own_weight"][c : c + 1]),
        ]:
            for (one, two), (dy, dx) in zip(weights, offsets, strict=True):
                latent, magnitude = self._near(channel, y + dy, x + dx)
                field = [f + a * latent + b * magnitude for f, a, b in zip(field, one, two, strict=True)]
        return field

    def _symbol(self, c: int, y: int, x: int, start: int) -> int:
        p, k = self.p, 8 * y + x
        activation = [clamp(f // 256, 0, 8191) for f in self._field(c, y, x, start)]
        taps = [self._near(c, y + t // 5 - 2, x + t % 5 - 2) for t in range(12)]
        mean = p["mean_start"][c][k] + sum(a * w for a, w in zip(activation, p["mean_head"][c], strict=True))
        mean += sum(latent * w for (latent, _), w in zip(taps, p["mean_causal"][c], strict=True))
        scale = p["scale_start"][c][k] + sum(a * w for a, w in zip(activation, p["scale_head"][c], strict=True))
        scale += sum(magnitude * w for (_, magnitude), w in zip(taps, p["scale_causal"][c], strict=True))
        sixteenths = clamp((mean * p["gain"][self.q][c] + 2**27) // 2**28, -16 * 1023, 16 * 1023)
        nearest, offset = divmod(sixteenths + 8, 16)
        row = clamp((scale + p["log_gain"][self.q][c]) // 2**18, 0, len(p["table_least"]) // 16 - 1)
        table = 16 * row + offset
        cumulative = p["cumulative"][p["table_first"][table] : p["table_first"][table + 1]]
        self.tables.append(cumulative)
        interval = self.bits.take(cumulative)
        if interval < len(cumulative) - 2:
            return int(nearest + p["table_least"][table] + interval)
        negative, bits = divmod(self.bits.take_uniform(5), 16)
        magnitude = self.bits.take_uniform(bits)
        return -magnitude if negative else magnitude
