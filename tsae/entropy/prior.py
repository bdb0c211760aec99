"""What a model stores for entropy coding: integer tables, checked so that no arithmetic with them can overflow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tsae.entropy.arrays import (
    ACTIVATION_LIMIT,
    CAUSAL_COLUMNS,
    CAUSAL_REACH,
    CAUSAL_ROWS,
    CAUSAL_TAPS,
    CELLS,
    FIELD_SHIFT,
    GRID,
    HEADS,
    LANES,
    LATENT_LIMIT,
    MAGNITUDES,
    OFFSETS,
    ORIGIN,
    PROBABILITY_BITS,
    ROW,
    SYMBOL_LIMIT,
    PriorArrays,
    room,
)

T = TypeVar("T", bound=np.generic)

POSITIONS = GRID * GRID

INT32_LIMIT = 2**31 - 1

QUALITIES_LIMIT = 32
"""Most qualities: as many codings are reserved for them."""

CHANNELS_LIMIT = 256
"""Most channels, and most units of the hidden field, that a model may have."""

SHAPES: dict[str, tuple[type[np.generic], tuple[str | int, ...]]] = {
    "slices": (np.int32, ("slices",)),
    "active": (np.uint8, ("qualities", "channels")),
    "gain": (np.int32, ("qualities", "channels")),
    "step": (np.int32, ("qualities", "channels")),
    "log_gain": (np.int32, ("qualities", "channels")),
    "field_start": (np.int32, ("qualities", "fields")),
    "field_position": (np.int32, (POSITIONS, "fields")),
    "field_weight": (np.int16, ("channels", 9, 2, "fields")),
    "own_weight": (np.int16, ("owns", CAUSAL_TAPS, 2, "fields")),
    "mean_start": (np.int32, ("channels", POSITIONS)),
    "mean_head": (np.int16, ("channels", "fields")),
    "mean_causal": (np.int32, ("channels", CAUSAL_TAPS)),
    "scale_start": (np.int32, ("channels", POSITIONS)),
    "scale_head": (np.int16, ("channels", "fields")),
    "scale_causal": (np.int32, ("channels", CAUSAL_TAPS)),
    "magnitude": (np.int32, (MAGNITUDES,)),
    "table_least": (np.int32, ("tables",)),
    "table_first": (np.int32, ("firsts",)),
    "cumulative": (np.uint16, ("entries",)),
}
"""Name, type and shape of each array as the model file has it below `tables.`; equal words are equal numbers."""


@dataclasses.dataclass(frozen=True, eq=False)
class Prior:
    """Probabilities of the symbols of one image, each from those that were coded before it.

    Symbols are coded channel by channel, each channel row by row. A hidden field of some units at each of the 64
    positions sums up what earlier slices of channels say (3x3 around each latent, its value and its magnitude); two
    linear heads turn the rectified field into a mean and a scale, to which latents of the same channel add directly.
    Mean and scale choose a table of cumulative frequencies. `docs/FORMAT.md` has the exact arithmetic.

    Attributes:
        slices: Channels of each slice, int32 `[S]`; channels of one slice do not see each other.
        active: Which channels are coded at all, by quality, uint8 `[Q, C]`.
        gain: Steps per unit of mean, in 1/4096, int32 `[Q, C]`.
        step: Dequantised size of a step, in 1/16, int32 `[Q, C]`.
        log_gain: Added to the scale, int32 `[Q, C]`.
        field_start: Where the field starts, by quality, int32 `[Q, H]`.
        field_position: And by position, int32 `[64, H]`.
        field_weight: What a latent's value and magnitude add to the field around it, int16 `[C, 9, 2, H]`.
        own_weight: What they add for the rest of the channel itself, in the first channels, int16 `[O, 12, 2, H]`.
        mean_start: int32 `[C, 64]`.
        mean_head: int16 `[C, H]`.
        mean_causal: int32 `[C, 12]`.
        scale_start: int32 `[C, 64]`.
        scale_head: int16 `[C, H]`.
        scale_causal: int32 `[C, 12]`.
        magnitude: What a symbol's magnitude counts as, int32 `[256]`.
        table_least: The least difference from the mean that each table has an interval for, int32 `[T]`.
        table_first: Where each table starts in `cumulative`, and where the last one ends, int32 `[T + 1]`.
        cumulative: Tables one after the other, each from 0 to 2^15, uint16; the last interval of each is the escape.
    """

    slices: NDArray[np.int32]
    active: NDArray[np.uint8]
    gain: NDArray[np.int32]
    step: NDArray[np.int32]
    log_gain: NDArray[np.int32]
    field_start: NDArray[np.int32]
    field_position: NDArray[np.int32]
    field_weight: NDArray[np.int16]
    own_weight: NDArray[np.int16]
    mean_start: NDArray[np.int32]
    mean_head: NDArray[np.int16]
    mean_causal: NDArray[np.int32]
    scale_start: NDArray[np.int32]
    scale_head: NDArray[np.int16]
    scale_causal: NDArray[np.int32]
    magnitude: NDArray[np.int32]
    table_least: NDArray[np.int32]
    table_first: NDArray[np.int32]
    cumulative: NDArray[np.uint16]

    def __post_init__(self) -> None:
        """Checks types, shapes and ranges.

        Raises:
            ValueError: if anything does not fit, or a sum could leave 32 bits.
        """
        self._check_shapes()
        self._check_numbers()
        self._check_tables()
        self._check_sums()

    @property
    def qualities(self) -> int:
        """How many operating points there are."""
        return len(self.active)

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return len(self.mean_head)

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, as a model file stores them."""
        return {name: getattr(self, name) for name in SHAPES}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Prior:
        """Reads `to_tensors`'s arrays; others are left alone.

        Raises:
            ValueError: if one is missing, or they do not fit.
        """
        missing = [name for name in SHAPES if name not in tensors]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        return cls(**{name: np.ascontiguousarray(tensors[name]) for name in SHAPES})

    def arrays(self) -> PriorArrays:
        """What the kernels take: copies, writable as they all must be, or numba would compile for each mixture anew."""
        position = np.arange(POSITIONS)
        field_start = np.zeros((self.qualities, CELLS, self.mean_head.shape[1]), np.int32)
        field_start[:, ORIGIN + position // GRID * ROW + position % GRID] = self.field_start[:, None] + self.field_position
        field_start = _filled_up(field_start)
        owns, heads = len(self.own_weight), _filled_up(np.stack([self.mean_head, self.scale_head], 1))
        zero = self.table_first[:-1] - self.table_least
        flat: dict[str, NDArray[Any]] = {
            "slices": self.slices,
            "active": self.active,
            "gain": self.gain,
            "step": self.step,
            "log_gain": self.log_gain,
            "field_start": field_start,
            "field_weight": _paired(self.field_weight[:, ::-1]),
            "own_weight": _paired(self.own_weight[:, ::-1]),
            "mean_start": self.mean_start,
            "scale_start": self.scale_start,
            "head": heads[:owns],
            "group_head": _grouped(heads[owns:], self.slices[owns:]),
            "causal": np.stack([_turned(self.mean_causal), _turned(self.scale_causal)], 1),
            "magnitude": self.magnitude,
            "table_first": self.table_first,
            "table_zero": zero,
            "table_middle": np.stack([self.cumulative[zero], self.cumulative[zero + 1]], 1),
            "cumulative": self.cumulative,
        }
        copies = {name: room(array.size, array.dtype.type) for name, array in flat.items()}
        for name, array in flat.items():
            copies[name][:] = array.ravel()
        return PriorArrays(owns=owns, channels=self.channels, units=field_start.shape[-1], **copies)

    def _check_shapes(self) -> None:
        sizes: dict[str, int] = {}
        for name, (dtype, shape) in SHAPES.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != len(shape):
                raise ValueError(f"{name} is {array.dtype} of {array.ndim} axes, not {np.dtype(dtype)} of {len(shape)}")
            for axis, size in zip(shape, array.shape, strict=True):
                if size != (sizes.setdefault(axis, size) if isinstance(axis, str) else axis):
                    raise ValueError(f"{name} has shape {array.shape}; {axis} does not fit")
        if max(sizes["channels"], sizes["fields"]) > CHANNELS_LIMIT or sizes["qualities"] > QUALITIES_LIMIT:
            counts = f"{sizes['channels']} channels, {sizes['fields']} fields, {sizes['qualities']} qualities"
            raise ValueError(f"{counts}: more than {CHANNELS_LIMIT}, {CHANNELS_LIMIT} and {QUALITIES_LIMIT}")
        if min(sizes["channels"], sizes["qualities"], sizes["fields"], sizes["tables"]) < 1:
            raise ValueError("a table without entries")
        if sizes["firsts"] != sizes["tables"] + 1 or sizes["tables"] % OFFSETS or sizes["owns"] > sizes["slices"]:
            raise ValueError(f"{sizes['tables']} tables with {sizes['firsts']} starts, {sizes['owns']} own weights")

    def _check_numbers(self) -> None:
        owns = len(self.own_weight)
        if (self.slices < 1).any() or self.slices.sum() != self.channels or (self.slices[:owns] != 1).any():
            raise ValueError("slices are not a division of the channels")
        if min(self.gain.min(), self.step.min()) < 1 or max(self.gain.max(), self.step.max()) >= 2**20:
            raise ValueError("a gain or a step outside 1 to 2^20 - 1")
        if self.active.max() > 1:
            raise ValueError("active is neither 0 nor 1")
        if self.magnitude.min() < 0 or self.magnitude.max() >= 2**15:
            raise ValueError("a magnitude outside 0 to 2^15 - 1")

    def _check_tables(self) -> None:
        ends = self.table_first[1:]
        lengths = np.diff(self.table_first.astype(np.int64))
        if self.table_first[0] != 0 or ends[-1] != len(self.cumulative) or (lengths < 3).any():
            raise ValueError("tables do not follow one another")
        rises = np.diff(self.cumulative.astype(np.int64))
        inside = np.ones(len(rises), np.bool_)
        inside[ends[:-1] - 1] = False
        if (rises[inside] <= 0).any() or (self.cumulative[self.table_first[:-1]] != 0).any():
            raise ValueError("a table that does not rise from 0")
        if (self.cumulative[ends - 1] != 1 << PROBABILITY_BITS).any():
            raise ValueError(f"a table that does not end at {1 << PROBABILITY_BITS}")
        # The interval of no difference must be there, and not be the escape.
        if (self.table_least > 0).any() or (self.table_least < -SYMBOL_LIMIT).any() or (lengths - 2 <= -self.table_least).any():
            raise ValueError("a table without an interval for its mean")

    def _check_sums(self) -> None:
        """No sum of the kernels leaves 32 bits, whatever the symbols are."""
        largest = np.array([LATENT_LIMIT, int(self.magnitude.max())], np.int64)
        field = np.abs(self.field_start.astype(np.int64)).max(0) + np.abs(self.field_position.astype(np.int64)).max(0)
        field += (np.abs(self.field_weight.astype(np.int64)).sum((0, 1)) * largest[:, None]).sum(0)
        own = (np.abs(self.own_weight.astype(np.int64)).sum(1) * largest[:, None]).sum(1)
        if (field + own.max(0, initial=0)).max() > INT32_LIMIT:
            raise ValueError("a hidden field that can leave 32 bits")
        activation = np.minimum(field + own.max(0, initial=0) >> FIELD_SHIFT, ACTIVATION_LIMIT)
        for name, limit in (("mean", LATENT_LIMIT), ("scale", int(self.magnitude.max()))):
            total = np.abs(getattr(self, f"{name}_start").astype(np.int64)).max(1)
            total = total + np.abs(getattr(self, f"{name}_head").astype(np.int64)) @ activation
            total = total + np.abs(getattr(self, f"{name}_causal").astype(np.int64)).sum(1) * limit
            if total.max() > INT32_LIMIT:
                raise ValueError(f"a {name} that can leave 32 bits")


def _filled_up(array: NDArray[T]) -> NDArray[T]:
    """The array with units of no effect at the end of its last axis, up to a multiple of LANES."""
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, -array.shape[-1] % LANES)])


def _paired(weight: NDArray[np.int16]) -> NDArray[np.int16]:
    """Weights `[..., 2, H]` as `[..., U, 2]`."""
    return np.swapaxes(_filled_up(weight), -2, -1)


def _grouped(heads: NDArray[np.int16], slices: NDArray[np.int32]) -> NDArray[np.int16]:
    """Heads `[C, 2, U]` of the channels of some slices as `[groups, U / 2, HEADS, 2]`, filled up with heads of 0."""
    parts = [np.empty((0, HEADS, heads.shape[2]), np.int16)]
    for part in np.split(heads, np.cumsum(slices)[:-1]):
        filled = np.pad(part.reshape(-1, part.shape[2]), [(0, -2 * len(part) % HEADS), (0, 0)])
        parts.append(filled.reshape(-1, HEADS, part.shape[2]))
    grouped = np.concatenate(parts)
    return np.asarray(grouped.reshape(len(grouped), HEADS, -1, 2).transpose(0, 2, 1, 3))


def _turned(causal: NDArray[np.int32]) -> NDArray[np.int32]:
    """What earlier latents say about one, `[C, 12]`, as what one says about later ones, `[C, CAUSAL_ROWS, CAUSAL_COLUMNS]`."""
    turned = np.zeros((len(causal), CAUSAL_ROWS, CAUSAL_COLUMNS), np.int32)
    for t in range(CAUSAL_TAPS):
        turned[:, 2 - t // 5, CAUSAL_REACH + 2 - t % 5] = causal[:, t]
    return turned
