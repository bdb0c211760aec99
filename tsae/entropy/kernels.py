"""The arithmetic of a stream: a range variant of asymmetric numeral systems (rANS) under a prior that adapts by integers.

One walk over the symbols serves both directions, so that encoder and decoder cannot disagree about a probability. It is
written for numba, which compiles it when it is first called, once for both. Sums are of 32 bits, which `Prior` makes sure
is enough; `i32` keeps them so, as numba would widen them to 64.

Source: J. Duda, Asymmetric numeral systems, https://arxiv.org/abs/1311.2540; the byte-wise renormalisation is that of
F. Giesen, Interleaved entropy coders, https://arxiv.org/abs/1402.3392.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from tsae.entropy.vectors import LANES, add_eight, add_pairs, dot, rectify

GRID = 8
"""Rows and columns of latents."""

PROBABILITY_BITS = 15
"""Frequencies of a table sum up to 2^15."""

STATE_BITS = 31
"""The state stays below 2^31."""

STATE_FLOOR = 1 << (STATE_BITS - 8)
"""Bytes are read while the state is below it."""

SYMBOL_LIMIT = 1023
"""Greatest magnitude of a symbol."""

LATENT_LIMIT = 4095
"""Greatest magnitude of a dequantised latent."""

STEP_SHIFT = 4
STEP_UNITS = 1 << STEP_SHIFT
"""Steps are stored in sixteenths of a unit of dequantised latents."""

FIELD_SHIFT, ACTIVATION_LIMIT = 8, 32767
"""A field is divided by 2^8 and cut to 0..32767 before the heads weigh it."""

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

ROW = GRID + 2
"""Cells of a row: two more than latents, which serve as margin on the right and, of the next row, on the left."""

ORIGIN = ROW + 1
"""Cell of the first latent; a row above it is margin."""

CELLS = ORIGIN + (GRID + 2) * ROW
"""Cells up to two rows below the last latent, which taps may reach but nothing reads."""

CAUSAL_ROWS, CAUSAL_COLUMNS, CAUSAL_REACH = 3, 8, 2
"""Taps of one latent's effect on later ones: its own row and two below, from two columns to the left on, filled up to 8."""

CORRUPT = -1
"""What a walk returns instead of a count where a stream cannot be one."""

i32 = np.int32

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function compiled by numba, kept on disk where a place for that can be found."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # nowhere to write: neither beside the package nor in the user's cache folder
        return numba.njit(nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]


def inlined(function: F) -> F:
    """A part of a compiled function, as a function for the reader only."""
    return numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)  # type: ignore[no-any-return]


class PriorArrays(NamedTuple):
    """What a walk needs of a prior, laid out for speed by `tsae.entropy.prior.Prior`, which describes and checks it.

    Units of the field are filled up to U, a multiple of LANES. Arrays of some axes for `vectors` are flat.
    """

    owns: int
    units: int  # U
    slices: NDArray[np.int32]
    active: NDArray[np.uint8]
    gain: NDArray[np.int64]
    step: NDArray[np.int32]
    log_gain: NDArray[np.int32]
    field_start: NDArray[np.int32]  # [Q, CELLS * U], start and position
    field_weight: NDArray[np.int16]  # [C * 9 * U / LANES * 2 * LANES], flat
    own_weight: NDArray[np.int16]  # [O * 12 * U / LANES * 2 * LANES], flat
    mean_start: NDArray[np.int32]
    scale_start: NDArray[np.int32]
    head: NDArray[np.int16]  # [C * 2 * U], flat; of mean and scale
    causal: NDArray[np.int32]  # [C * 2 * CAUSAL_ROWS * CAUSAL_COLUMNS], flat; of mean and scale
    magnitude: NDArray[np.int32]
    table_first: NDArray[np.int32]
    table_zero: NDArray[np.int32]  # where in `cumulative` the interval of no difference starts
    cumulative: NDArray[np.uint16]


@inlined
def cell_of(p: int) -> int:
    """The cell of a position."""
    return ORIGIN + p // GRID * ROW + p % GRID


@inlined
def weigh(activation: NDArray[np.int16], p: int, head: NDArray[np.int16], which: int, units: int) -> int:
    """What the rectified field of a position adds, by head number `which`: channel times 2, plus 1 for the scale."""
    total = i32(0)
    for h in range(0, units, LANES):
        total = i32(total + dot(activation, p * units + h, head, which * units + h))
    return total


@inlined
def add_causal(sums: NDArray[np.int32], cell: int, causal: NDArray[np.int32], which: int, value: int) -> None:
    """What a symbol adds to the means or the scales of later ones of its channel; numbered as heads are."""
    for row in range(CAUSAL_ROWS):
        add_eight(sums, cell + row * ROW - CAUSAL_REACH, causal, (which * CAUSAL_ROWS + row) * CAUSAL_COLUMNS, value)


@inlined
def add_units(field: NDArray[np.int32], near: int, weight: NDArray[np.int16], t: int, units: int, latent: int, magnitude: int) -> None:
    """What a symbol adds to the field of a cell near it, by row `t` of the weights."""
    for h in range(0, units, LANES):
        add_pairs(field, near * units + h, weight, 2 * (t * units + h), latent, magnitude)


@inlined
def choose_table(mean: int, gain: int, scale: int, log_gain: int, tables: int) -> tuple[int, int]:
    """The table of a symbol, and the integer nearest to its mean."""
    sixteenths = (np.int64(mean) * gain + (1 << (MEAN_SHIFT - 1))) >> MEAN_SHIFT
    sixteenths = min(max(sixteenths, -OFFSETS * SYMBOL_LIMIT), OFFSETS * SYMBOL_LIMIT) + OFFSETS // 2
    row = (np.int64(scale) + log_gain) >> SCALE_SHIFT
    row = min(max(row, 0), tables // OFFSETS - 1)
    return row * OFFSETS + (sixteenths & (OFFSETS - 1)), sixteenths >> 4


@inlined
def refill(state: int, stream: NDArray[np.uint8], place: int) -> tuple[int, int]:
    """Takes bytes until the state is large enough, or there are no more."""
    while state < STATE_FLOOR and place < len(stream):
        state = (state << 8) | np.int64(stream[place])
        place += 1
    return state, place


@inlined
def take_bits(bits: int, state: int, stream: NDArray[np.uint8], place: int) -> tuple[int, int, int]:
    """Decodes a number of so many bits, each as likely as any other."""
    shift = PROBABILITY_BITS - bits
    slot = state & ((1 << PROBABILITY_BITS) - 1)
    state = (state >> PROBABILITY_BITS << shift) | (slot & ((1 << shift) - 1))
    state, place = refill(state, stream, place)
    return slot >> shift, state, place


@inlined
def put_bits(value: int, bits: int, lows: NDArray[np.int32], widths: NDArray[np.int32], count: int) -> int:
    """The interval of such a number; returns the number of intervals."""
    lows[count] = value << (PROBABILITY_BITS - bits)
    widths[count] = 1 << (PROBABILITY_BITS - bits)
    return count + 1


@inlined
def take_symbol(
    prior: PriorArrays, table: int, nearest: int, state: int, stream: NDArray[np.uint8], place: int
) -> tuple[int, int, int]:
    """Decodes a symbol; returns it, the state, and the place in the stream."""
    zero = np.int64(prior.table_zero[table])
    slot = state & ((1 << PROBABILITY_BITS) - 1)
    at = zero
    while prior.cumulative[at + 1] <= slot:
        at += 1
    while prior.cumulative[at] > slot:
        at -= 1
    low = np.int64(prior.cumulative[at])
    state = (np.int64(prior.cumulative[at + 1]) - low) * (state >> PROBABILITY_BITS) + slot - low
    state, place = refill(state, stream, place)
    symbol = nearest + at - zero
    if at == prior.table_first[table + 1] - 2:
        head, state, place = take_bits(ESCAPE_BITS + 1, state, stream, place)
        symbol, state, place = take_bits(head & ((1 << ESCAPE_BITS) - 1), state, stream, place)
        if head >> ESCAPE_BITS:
            symbol = -symbol
    return symbol, state, place


@inlined
def put_symbol(
    prior: PriorArrays, table: int, nearest: int, symbol: int, lows: NDArray[np.int32], widths: NDArray[np.int32], count: int
) -> int:
    """The intervals of a symbol; returns the number of intervals."""
    at = np.int64(prior.table_zero[table]) + symbol - nearest
    escape = np.int64(prior.table_first[table + 1]) - 2  # the last interval, which stands for all others
    if at < prior.table_first[table] or at >= escape:
        at = escape
    lows[count] = prior.cumulative[at]
    widths[count] = i32(prior.cumulative[at + 1]) - i32(prior.cumulative[at])
    count += 1
    if at == escape:
        magnitude, bits = abs(symbol), 0
        while magnitude >> bits:
            bits += 1
        count = put_bits((np.int64(symbol < 0) << ESCAPE_BITS) | bits, ESCAPE_BITS + 1, lows, widths, count)
        count = put_bits(magnitude, bits, lows, widths, count)
    return count


@inlined
def walk(
    prior: PriorArrays,
    quality: int,
    encodes: bool,
    symbols: NDArray[np.int16],
    stream: NDArray[np.uint8],
    lows: NDArray[np.int32],
    widths: NDArray[np.int32],
) -> int:
    """Goes through the symbols of one image in the order of coding.

    Args:
        prior: The probabilities.
        quality: Row of the tables by quality.
        encodes: Or else decodes.
        symbols: int16 `[C, 64]`. Read when encoding, written when decoding.
        stream: What to decode, uint8 `[n]`; not looked at when encoding.
        lows: When encoding, filled with the start of each coded interval, int32.
        widths: The same for its width.

    Returns:
        Number of coded intervals when encoding, 0 when decoding; CORRUPT for a damaged stream or symbols not to be coded.
    """
    owns, units, tables = prior.owns, prior.units, len(prior.table_zero)
    gathered = prior.field_start[quality].copy()  # what earlier channels say
    field = np.empty_like(gathered)  # and the channel itself
    activation = np.empty(GRID * GRID * units, np.int16)
    means, scales = np.empty(CELLS, np.int32), np.empty(CELLS, np.int32)
    count, place, state = 0, 0, np.int64(0)
    if not encodes:
        state, place = refill(state, stream, place)
    first = 0
    for size in prior.slices:
        if first < owns:
            field[:] = gathered
        else:
            for p in range(GRID * GRID):
                for h in range(0, units, LANES):
                    rectify(activation, p * units + h, gathered, cell_of(p) * units + h, FIELD_SHIFT, ACTIVATION_LIMIT)
        for c in range(first, first + size):
            if prior.active[quality, c] == 0:
                if not encodes:
                    symbols[c] = 0
                continue
            gain, log_gain, step = prior.gain[quality, c], np.int64(prior.log_gain[quality, c]), np.int64(prior.step[quality, c])
            for p in range(GRID * GRID):
                mean, scale = prior.mean_start[c, p], prior.scale_start[c, p]
                if c >= owns:
                    mean = i32(mean + weigh(activation, p, prior.head, 2 * c, units))
                    scale = i32(scale + weigh(activation, p, prior.head, 2 * c + 1, units))
                means[cell_of(p)], scales[cell_of(p)] = mean, scale
            for p in range(GRID * GRID):
                cell = cell_of(p)
                mean, scale = means[cell], scales[cell]
                if c < owns:
                    for h in range(0, units, LANES):
                        rectify(activation, h, field, cell * units + h, FIELD_SHIFT, ACTIVATION_LIMIT)
                    mean = i32(mean + weigh(activation, 0, prior.head, 2 * c, units))
                    scale = i32(scale + weigh(activation, 0, prior.head, 2 * c + 1, units))
                table, nearest = choose_table(mean, gain, scale, log_gain, tables)
                if encodes:
                    symbol = np.int64(symbols[c, p])
                    count = put_symbol(prior, table, nearest, symbol, lows, widths, count)
                else:
                    symbol, state, place = take_symbol(prior, table, nearest, state, stream, place)
                    symbols[c, p] = symbol
                if symbol == 0:
                    continue
                if abs(symbol) > SYMBOL_LIMIT:
                    return CORRUPT
                latent = (symbol * step + STEP_UNITS // 2) >> STEP_SHIFT
                latent = min(max(latent, -LATENT_LIMIT), LATENT_LIMIT)
                magnitude = prior.magnitude[min(abs(symbol), MAGNITUDES - 1)]
                add_causal(means, cell, prior.causal, 2 * c, latent)
                add_causal(scales, cell, prior.causal, 2 * c + 1, magnitude)
                if c < owns:
                    for t in range(CAUSAL_TAPS):
                        near = cell + (2 - t // 5) * ROW + 2 - t % 5
                        add_units(field, near, prior.own_weight, c * CAUSAL_TAPS + t, units, latent, magnitude)
                for t in range(9):
                    near = cell + (1 - t // 3) * ROW + 1 - t % 3
                    add_units(gathered, near, prior.field_weight, c * 9 + t, units, latent, magnitude)
        first += size
    if encodes:
        return count
    return 0 if state == 0 and place == len(stream) else CORRUPT


@inlined
def write_stream(lows: NDArray[np.int32], widths: NDArray[np.int32], count: int, out: NDArray[np.uint8], place: int) -> int:
    """Codes intervals, the last one first, into a buffer before a place.

    The state starts at 0, so that what it holds in the end is information to the last bit: a stream has no trailer.

    Args:
        lows: Starts of the intervals, int32.
        widths: Their widths, int32.
        count: How many of them there are.
        out: Where the stream goes, uint8; long enough.
        place: Where in `out` the stream ends.

    Returns:
        Where in `out` the stream starts.
    """
    state = np.int64(0)
    for i in range(count - 1, -1, -1):
        low, width = np.int64(lows[i]), np.int64(widths[i])
        while state >= width << (STATE_BITS - PROBABILITY_BITS):
            place -= 1
            out[place] = state & 255
            state >>= 8
        state = (state // width << PROBABILITY_BITS) + state % width + low
    while state > 0:
        place -= 1
        out[place] = state & 255
        state >>= 8
    return place


@compiled
def code_images(
    prior: PriorArrays,
    qualities: NDArray[np.int64],
    encodes: bool,
    symbols: NDArray[np.int16],
    streams: NDArray[np.uint8],
    ends: NDArray[np.int64],
) -> int:
    """Encodes or decodes images one after another.

    Args:
        prior: The probabilities.
        qualities: Row of the tables by quality for each image, int64 `[N]`.
        encodes: Or else decodes.
        symbols: int16 `[N, C, 64]`. Read when encoding, written when decoding.
        streams: The streams. When decoding, one after another, uint8; when encoding room for them, which is filled from
            its end, the last image first.
        ends: Where each stream ends in `streams`, after where the first one starts, int64 `[N + 1]`. Filled when encoding,
            but for the last one, which is given.

    Returns:
        N, or the first image of which the stream is damaged or a symbol is too large.
    """
    size = symbols.shape[1] * GRID * GRID * INTERVALS_A_SYMBOL if encodes else 0
    lows, widths = np.empty(size, np.int32), np.empty(size, np.int32)
    for i in range(len(symbols)):
        k = len(symbols) - 1 - i if encodes else i
        stream = streams[ends[k] : ends[k + 1]] if not encodes else streams[:0]
        count = walk(prior, qualities[k], encodes, symbols[k], stream, lows, widths)
        if count == CORRUPT:
            return k
        if encodes:
            ends[k] = write_stream(lows, widths, count, streams, ends[k + 1])
    return len(symbols)
