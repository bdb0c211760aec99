"""What the arithmetic and the tables that it works with agree on: limits, margins, and how a prior lies in memory. No numba."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)

LANES = 32
"""Numbers at once: the units of the hidden field of packaged models; what is not a multiple of it is filled up."""

HEADS = 16
"""Sums over the units of a field that are computed together: means and scales of 8 channels."""

LINE_BYTES = 64
"""A cache line, and the widest vector of today's processors: vectors that lie across two lines are slow."""

GRID = 8
"""Rows and columns of latents."""

PROBABILITY_BITS = 15
"""Frequencies of a table sum up to 2^15."""

CODE_BITS = 32
"""Bits of the window that is looked at."""

SPAN_FLOOR = 1 << (CODE_BITS - 8)
"""While the range is smaller, a byte is shifted out or in."""

OUTSIDE = 1 << 14
"""A symbol beyond all limits: what a damaged stream decodes to."""

SYMBOL_LIMIT = 1023
"""Greatest magnitude of a symbol."""

LATENT_LIMIT = 4095
"""Greatest magnitude of a dequantised latent."""

STEP_SHIFT = 4
STEP_UNITS = 1 << STEP_SHIFT
"""Steps are stored in sixteenths of a unit of dequantised latents."""

FIELD_SHIFT, ACTIVATION_LIMIT = 8, 8191
"""A field is divided by 2^8 and cut to 0..8191 before the heads weigh it."""

OFFSETS = 16
"""Tables of one scale: one for each sixteenth of a step that the mean may lie off an integer."""

MEAN_SHIFT, SCALE_SHIFT = 28, 18
"""What brings a mean to sixteenths of a step, and a logarithm of a scale to its table."""

ESCAPE_BITS = 4
"""Bits that tell how many bits an escaped symbol's magnitude has."""

CAUSAL_TAPS = 12
"""Latents of the same channel that a prediction looks at: two rows of five above, and two to the left."""

MAGNITUDES = 256
"""Entries of the table of magnitudes; a larger one counts as the last."""

INTERVALS_A_SYMBOL = 3
"""Most intervals that one symbol is coded as: an escape, its head, its bits."""

STREAM_BYTES_A_SYMBOL = 4
"""More than those take: 15 bits, 5, and 10."""

SPARE_BYTES = 8
"""Room for the last bytes of the last stream, before those that are 0 are taken off."""

ROW = GRID + 2
"""Cells of a row: two more than latents, which serve as margin on the right and, of the next row, on the left."""

ORIGIN = ROW + 1
"""Cell of the first latent; a row above it is margin."""

CELLS = ROW * (GRID + 4)
"""Cells of a field: margin below, too, which is added to but never read, as are all margins."""

CAUSAL_ROWS, CAUSAL_COLUMNS, CAUSAL_REACH = 3, 8, 2
"""What one latent says about later ones: of its own row and two below, from two columns to the left on, filled up to 8."""

CORRUPT = -1
"""What a walk returns instead of a count where a stream cannot be one."""


def room(size: int, dtype: type[T]) -> NDArray[T]:
    """A flat array that starts with a cache line; what is in it is undefined."""
    data = np.empty(size * np.dtype(dtype).itemsize + LINE_BYTES, np.uint8)
    start = -data.ctypes.data % LINE_BYTES
    return data[start : start + size * np.dtype(dtype).itemsize].view(dtype)


class PriorArrays(NamedTuple):
    """What a walk needs of a prior, laid out for speed by `tsae.entropy.prior.Prior`, which describes and checks it.

    All arrays are flat. Units of the field are filled up to U, a multiple of LANES; weights of latents and of magnitudes
    take turns. Channels from number O on go by slices, each in groups of HEADS / 2, the last of which is filled up.
    """

    owns: int
    channels: int
    units: int  # U
    slices: NDArray[np.int32]
    active: NDArray[np.uint8]  # [Q, C], as the next three
    gain: NDArray[np.int32]
    step: NDArray[np.int32]
    log_gain: NDArray[np.int32]
    field_start: NDArray[np.int32]  # [Q, CELLS, U], by quality and position
    field_weight: NDArray[np.int16]  # [C, 9, U, 2], cells from the upper left on
    own_weight: NDArray[np.int16]  # [O, 12, U, 2], later cells in their order
    mean_start: NDArray[np.int32]  # [C, 64]
    scale_start: NDArray[np.int32]  # [C, 64]
    head: NDArray[np.int16]  # [O, 2, U], of mean and scale
    group_head: NDArray[
        np.int16
    ]  # [groups, U / 2, HEADS, 2], the same of later channels: those of a mean and a scale take turns
    causal: NDArray[np.int32]  # [C, 2, CAUSAL_ROWS, CAUSAL_COLUMNS], of mean and scale
    magnitude: NDArray[np.int32]
    table_first: NDArray[np.int32]
    table_zero: NDArray[np.int32]  # where in `cumulative` the interval of no difference starts
    table_middle: NDArray[np.uint16]  # [T, 2], start and end of that interval: what most symbols are, in few cache lines
    cumulative: NDArray[np.uint16]
