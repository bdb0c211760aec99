"""The arithmetic of a stream: a range coder under a prior that adapts by integers.

One walk over the symbols serves both directions, so that encoder and decoder cannot disagree about a probability. It is
written for numba, which compiles it when it is first called, once for both. Sums are of 32 bits, which `Prior` makes sure
is enough; `i32` keeps them so, as numba would widen them to 64.

A range coder and not asymmetric numeral systems, because images are small: these need some 13 bits before a state that starts
at nothing costs what it should, measured at 2.0 bytes an image; the range coder costs 0.5, and no more time.

Source: G. N. N. Martin, Range encoding: an algorithm for removing redundancy from a digitised message, 1979.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from tsae.entropy.arrays import (
    ACTIVATION_LIMIT,
    CAUSAL_COLUMNS,
    CAUSAL_REACH,
    CAUSAL_ROWS,
    CAUSAL_TAPS,
    CELLS,
    CODE_BITS,
    CORRUPT,
    ESCAPE_BITS,
    FIELD_SHIFT,
    GRID,
    HEADS,
    INTERVALS_A_SYMBOL,
    LANES,
    LATENT_LIMIT,
    MAGNITUDES,
    MEAN_SHIFT,
    OFFSETS,
    ORIGIN,
    OUTSIDE,
    PROBABILITY_BITS,
    ROW,
    SCALE_SHIFT,
    SPAN_FLOOR,
    STEP_SHIFT,
    STEP_UNITS,
    SYMBOL_LIMIT,
    PriorArrays,
    room,
)
from tsae.entropy.vectors import add_eight, add_pairs, at, copy_lanes, dot, rectify, weigh_pairs

i32 = np.int32

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """The function compiled by numba, kept on disk where a place for that can be found.

    Without `_nrt`, numba's counting of references, which is most of the work of short functions. In turn they allocate nothing.
    """
    try:
        return numba.njit(nogil=True, error_model="numpy", _nrt=False, cache=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # nowhere to write: neither beside the package nor in the user's cache folder
        return numba.njit(nogil=True, error_model="numpy", _nrt=False)(function)  # type: ignore[no-any-return]


def inlined(function: F) -> F:
    """A part of a compiled function, as a function for the reader only."""
    return numba.njit(nogil=True, error_model="numpy", _nrt=False, forceinline=True)(function)  # type: ignore[no-any-return]


class Workspace(NamedTuple):
    """What walks write to, for one thread at a time."""

    gathered: NDArray[np.int32]  # [CELLS, U], what earlier channels say
    field: NDArray[np.int32]  # [CELLS, U], and the channel itself
    activation: NDArray[np.int16]  # [64, U]
    weighed: NDArray[np.int32]  # [groups of a slice, 64, HEADS], what earlier channels say by the heads
    means: NDArray[np.int32]  # [CELLS]
    scales: NDArray[np.int32]  # [CELLS]
    lows: NDArray[np.int32]  # starts of coded intervals, when encoding
    widths: NDArray[np.int32]  # their widths

    @classmethod
    def of(cls, prior: PriorArrays) -> Workspace:
        """Room for one image."""
        groups = -(-2 * int(prior.slices.max()) // HEADS)
        intervals = prior.channels * GRID * GRID * INTERVALS_A_SYMBOL
        return cls(
            gathered=room(CELLS * prior.units, np.int32),
            field=room(CELLS * prior.units, np.int32),
            activation=room(GRID * GRID * prior.units, np.int16),
            weighed=room(groups * GRID * GRID * HEADS, np.int32),
            means=room(CELLS, np.int32),
            scales=room(CELLS, np.int32),
            lows=room(intervals, np.int32),
            widths=room(intervals, np.int32),
        )


@inlined
def cell_of(p: int) -> int:
    """The cell of a position."""
    return ORIGIN + p // GRID * ROW + p % GRID


@inlined
def copy_field(source: NDArray[np.int32], start: int, target: NDArray[np.int32]) -> None:
    """Fills a whole field."""
    for h in range(0, len(target), LANES):
        copy_lanes(target, h, source, start + h)


@inlined
def rectify_cell(work: Workspace, p: int, units: int) -> None:
    """Rectifies what earlier channels say about a position."""
    for h in range(0, units, LANES):
        rectify(work.activation, p * units + h, work.gathered, cell_of(p) * units + h, FIELD_SHIFT, ACTIVATION_LIMIT)


@inlined
def weigh(work: Workspace, p: int, prior: PriorArrays, which: int) -> int:
    """What the rectified field of a position adds, by head number `which`: channel times 2, plus 1 for the scale."""
    total: int = i32(0)
    for h in range(0, prior.units, LANES):
        field = cell_of(p) * prior.units + h
        total = i32(total + dot(work.field, field, prior.head, which * prior.units + h, FIELD_SHIFT, ACTIVATION_LIMIT))
    return total


@inlined
def weigh_slice(work: Workspace, prior: PriorArrays, first_group: int, groups: int) -> None:
    """What the rectified fields say about the channels of a slice that add nothing to them, by `groups` of HEADS heads."""
    for group in range(groups):
        for p in range(GRID * GRID):
            place = (group * GRID * GRID + p) * HEADS
            for h in range(HEADS):
                work.weighed[place + h] = 0
            for h in range(0, prior.units, LANES):
                weights = ((first_group + group) * prior.units + h) * HEADS
                weigh_pairs(work.weighed, place, work.activation, p * prior.units + h, prior.group_head, weights)


@inlined
def predict_channel(prior: PriorArrays, work: Workspace, c: int, number: int) -> None:
    """Means and scales of a channel's positions, but for what its own symbols say; it is so many into its slice."""
    for p in range(GRID * GRID):
        mean, scale = i32(at(prior.mean_start, c * GRID * GRID + p)), i32(at(prior.scale_start, c * GRID * GRID + p))
        if c >= prior.owns:
            place = (2 * number // HEADS * GRID * GRID + p) * HEADS + 2 * number % HEADS
            mean = i32(mean + at(work.weighed, place))
            scale = i32(scale + at(work.weighed, place + 1))
        work.means[cell_of(p)], work.scales[cell_of(p)] = mean, scale


@inlined
def predict(prior: PriorArrays, work: Workspace, c: int, p: int) -> tuple[int, int]:
    """Mean and scale of a symbol, after all that were coded before it."""
    mean, scale = i32(at(work.means, cell_of(p))), i32(at(work.scales, cell_of(p)))
    if c < prior.owns:
        mean = i32(mean + weigh(work, p, prior, 2 * c))
        scale = i32(scale + weigh(work, p, prior, 2 * c + 1))
    return mean, scale


@inlined
def choose_table(mean: int, gain: int, scale: int, log_gain: int, tables: int) -> tuple[int, int]:
    """The table of a symbol, and the integer nearest to its mean."""
    sixteenths = (np.int64(mean) * gain + (1 << (MEAN_SHIFT - 1))) >> MEAN_SHIFT
    sixteenths = min(max(sixteenths, -OFFSETS * SYMBOL_LIMIT), OFFSETS * SYMBOL_LIMIT) + OFFSETS // 2
    row = min(max((np.int64(scale) + log_gain) >> SCALE_SHIFT, 0), tables // OFFSETS - 1)
    return row * OFFSETS + (sixteenths & (OFFSETS - 1)), sixteenths >> 4


@inlined
def add_causal(sums: NDArray[np.int32], cell: int, causal: NDArray[np.int32], which: int, value: int) -> None:
    """What a symbol adds to the means or the scales of later ones of its channel; numbered as heads are."""
    for row in range(CAUSAL_ROWS):
        add_eight(sums, cell + row * ROW - CAUSAL_REACH, causal, (which * CAUSAL_ROWS + row) * CAUSAL_COLUMNS, value)


@inlined
def add_cells(
    field: NDArray[np.int32], cell: int, cells: int, weight: NDArray[np.int16], t: int, units: int, latent: int, magnitude: int
) -> None:
    """What a symbol adds to the field of cells side by side, by weights from number `t` on."""
    for h in range(0, cells * units, LANES):
        add_pairs(field, cell * units + h, weight, 2 * (t * units + h), latent, magnitude)


@inlined
def spread(prior: PriorArrays, work: Workspace, c: int, p: int, latent: int, magnitude: int) -> None:
    """What a symbol other than 0 says about later ones."""
    cell, units = cell_of(p), prior.units
    add_causal(work.means, cell, prior.causal, 2 * c, latent)
    add_causal(work.scales, cell, prior.causal, 2 * c + 1, magnitude)
    if c < prior.owns:
        t = c * CAUSAL_TAPS
        add_cells(work.field, cell + 1, 2, prior.own_weight, t, units, latent, magnitude)
        add_cells(work.field, cell + ROW - 2, 5, prior.own_weight, t + 2, units, latent, magnitude)
        add_cells(work.field, cell + 2 * ROW - 2, 5, prior.own_weight, t + 7, units, latent, magnitude)
    for row in range(3):
        t = c * 9 + 3 * row
        add_cells(work.gathered, cell + (row - 1) * ROW - 1, 3, prior.field_weight, t, units, latent, magnitude)


@inlined
def next_byte(streams: NDArray[np.uint8], place: int, end: int) -> int:
    """The byte at a place, or 0 beyond the end."""
    return at(streams, place) if place < end else 0


@inlined
def narrow(code: int, unit: int, low: int, high: int, streams: NDArray[np.uint8], place: int, end: int) -> tuple[int, int, int]:
    """Goes on within an interval of the range, of so many units; returns code, range and place."""
    code, span = code - low * unit, (high - low) * unit
    while span < SPAN_FLOOR:
        code, span = (code << 8) | next_byte(streams, place, end), span << 8
        place += 1
    return code, span, place


@inlined
def take_bits(bits: int, code: int, span: int, streams: NDArray[np.uint8], place: int, end: int) -> tuple[int, int, int, int]:
    """Decodes a number of so many bits, each as likely as any other; returns it, code, range and place."""
    unit = span >> PROBABILITY_BITS << (PROBABILITY_BITS - bits)
    value = min(code // unit, (1 << bits) - 1)  # a greater one leaves a code beyond the range, which is noticed
    code, span, place = narrow(code, unit, value, value + 1, streams, place, end)
    return value, code, span, place


@inlined
def put_bits(value: int, bits: int, work: Workspace, count: int) -> int:
    """The interval of such a number; returns the number of intervals."""
    work.lows[count] = value << (PROBABILITY_BITS - bits)
    work.widths[count] = 1 << (PROBABILITY_BITS - bits)
    return count + 1


@inlined
def take_symbol(
    prior: PriorArrays, table: int, nearest: int, code: int, span: int, streams: NDArray[np.uint8], place: int, end: int
) -> tuple[int, int, int, int]:
    """Decodes a symbol; returns it, code, range and place."""
    unit = span >> PROBABILITY_BITS
    if code >= unit << PROBABILITY_BITS:
        return OUTSIDE, code, span, place
    low, high = at(prior.table_middle, 2 * table), at(prior.table_middle, 2 * table + 1)
    if low * unit <= code < high * unit:
        code, span, place = narrow(code, unit, low, high, streams, place, end)
        return nearest, code, span, place
    found = zero = at(prior.table_zero, table)
    while high * unit <= code:
        found += 1
        low, high = high, at(prior.cumulative, found + 1)
    while low * unit > code:
        found -= 1
        low, high = at(prior.cumulative, found), low
    code, span, place = narrow(code, unit, low, high, streams, place, end)
    symbol = nearest + found - zero
    if found != zero and found == at(prior.table_first, table + 1) - 2:
        head, code, span, place = take_bits(ESCAPE_BITS + 1, code, span, streams, place, end)
        symbol, code, span, place = take_bits(head & ((1 << ESCAPE_BITS) - 1), code, span, streams, place, end)
        if head >> ESCAPE_BITS:
            symbol = -symbol
    return symbol, code, span, place


@inlined
def put_symbol(prior: PriorArrays, table: int, nearest: int, symbol: int, work: Workspace, count: int) -> int:
    """The intervals of a symbol; returns the number of intervals."""
    found = at(prior.table_zero, table) + symbol - nearest
    escape = at(prior.table_first, table + 1) - 2  # the last interval, which stands for all others
    if found < at(prior.table_first, table) or found >= escape:
        found = escape
    work.lows[count] = at(prior.cumulative, found)
    work.widths[count] = at(prior.cumulative, found + 1) - at(prior.cumulative, found)
    count += 1
    if found == escape:
        magnitude, bits = abs(symbol), 0
        while magnitude >> bits:
            bits += 1
        count = put_bits((np.int64(symbol < 0) << ESCAPE_BITS) | bits, ESCAPE_BITS + 1, work, count)
        count = put_bits(magnitude, bits, work, count)
    return count


@inlined
def skip_channel(encodes: bool, symbols: NDArray[np.int16], start: int) -> bool:
    """What is done for a channel that is not coded; tells whether it could be left out."""
    empty = True
    for p in range(start, start + GRID * GRID):
        if not encodes:
            symbols[p] = 0
        elif symbols[p] != 0:
            empty = False
    return empty


@inlined
def walk(
    prior: PriorArrays,
    work: Workspace,
    quality: int,
    encodes: bool,
    dequantizes: bool,
    symbols: NDArray[np.int16],
    start: int,
    streams: NDArray[np.uint8],
    place: int,
    end: int,
    channels: int,
) -> int:
    """Goes through the symbols of one image in the order of coding.

    Args:
        prior: The probabilities.
        work: Its intervals are filled when encoding.
        quality: Row of the tables by quality.
        encodes: Or else decodes.
        dequantizes: When decoding, whether to write the latents that symbols stand for in place of them.
        symbols: int16, flat. Read when encoding, written when decoding.
        start: Where the image starts in it, as `[C, 64]`.
        streams: What to decode, uint8; not looked at when encoding.
        place: Where the image's stream starts in it.
        end: Where it ends.
        channels: After how many to end: a sum of slices.

    Returns:
        Number of coded intervals when encoding, 0 when decoding; CORRUPT for a damaged stream or symbols not to be coded. Where
        a stream is not decoded to its end, damage may go unnoticed.
    """
    tables = len(prior.table_zero)
    count, code, span, start_place = 0, np.int64(0), np.int64((1 << CODE_BITS) - 1), place
    if not encodes:
        for _ in range(CODE_BITS // 8):
            code = (code << 8) | next_byte(streams, place, end)
            place += 1
    copy_field(prior.field_start, quality * len(work.gathered), work.gathered)
    first, first_group = 0, 0
    for size in prior.slices:
        if first == channels:
            return count
        if first < prior.owns:
            copy_field(work.gathered, 0, work.field)
        else:
            for p in range(GRID * GRID):
                rectify_cell(work, p, prior.units)
            groups = (2 * size + HEADS - 1) // HEADS
            weigh_slice(work, prior, first_group, groups)
            first_group += groups
        for c in range(first, first + size):
            setting = quality * prior.channels + c
            if at(prior.active, setting) == 0:
                if not skip_channel(encodes, symbols, start + c * GRID * GRID):
                    return CORRUPT
                continue
            gain, log_gain = at(prior.gain, setting), at(prior.log_gain, setting)
            predict_channel(prior, work, c, c - first)
            for p in range(GRID * GRID):
                mean, scale = predict(prior, work, c, p)
                table, nearest = choose_table(mean, gain, scale, log_gain, tables)
                if encodes:
                    symbol = at(symbols, start + c * GRID * GRID + p)
                    count = put_symbol(prior, table, nearest, symbol, work, count)
                else:
                    symbol, code, span, place = take_symbol(prior, table, nearest, code, span, streams, place, end)
                    symbols[start + c * GRID * GRID + p] = symbol
                if symbol == 0:
                    continue
                if abs(symbol) > SYMBOL_LIMIT:
                    return CORRUPT
                latent = (symbol * at(prior.step, setting) + STEP_UNITS // 2) >> STEP_SHIFT
                latent = min(max(latent, -LATENT_LIMIT), LATENT_LIMIT)
                if dequantizes:
                    symbols[start + c * GRID * GRID + p] = latent
                spread(prior, work, c, p, latent, at(prior.magnitude, min(abs(symbol), MAGNITUDES - 1)))
        first += size
    if encodes:
        return count
    is_short = end == start_place or at(streams, end - 1) != 0
    return 0 if code < span and place >= end and is_short else CORRUPT


@inlined
def carry(streams: NDArray[np.uint8], place: int) -> None:
    """Adds 1 to the number that the bytes before a place are."""
    place -= 1
    while streams[place] == 255:
        streams[place] = 0
        place -= 1
    streams[place] += 1


@inlined
def write_stream(work: Workspace, count: int, streams: NDArray[np.uint8], start: int) -> int:
    """Codes intervals into a buffer from a place on.

    Of all numbers in the last range, the stream is the one with the fewest bytes: a decoder takes those that are not there
    for 0.

    Args:
        work: The intervals.
        count: How many of them there are.
        streams: Where the stream goes, uint8; long enough.
        start: Where in it the stream starts.

    Returns:
        Where it ends.
    """
    place, low, span = start, np.int64(0), np.int64((1 << CODE_BITS) - 1)
    for i in range(count):
        unit = span >> PROBABILITY_BITS
        low, span = low + at(work.lows, i) * unit, at(work.widths, i) * unit
        if low >> CODE_BITS:
            carry(streams, place)
            low &= (1 << CODE_BITS) - 1
        while span < SPAN_FLOOR:
            streams[place] = low >> (CODE_BITS - 8)
            place += 1
            low, span = (low << 8) & ((1 << CODE_BITS) - 1), span << 8
    rest = np.int64((1 << CODE_BITS) - 1)  # bits that may be left out
    while ((low + rest) & ~rest) - low >= span:
        rest >>= 8
    low = (low + rest) & ~rest
    if low >> CODE_BITS:
        carry(streams, place)
    for _ in range(CODE_BITS // 8):
        streams[place] = (low >> (CODE_BITS - 8)) & 255
        place += 1
        low <<= 8
    while place > start and at(streams, place - 1) == 0:
        place -= 1
    return place


@compiled
def code_images(
    prior: PriorArrays,
    work: Workspace,
    qualities: NDArray[np.int64],
    encodes: bool,
    dequantizes: bool,
    symbols: NDArray[np.int16],
    streams: NDArray[np.uint8],
    ends: NDArray[np.int64],
    channels: int,
) -> int:
    """Encodes or decodes images one after another.

    Args:
        prior: The probabilities.
        work: Written to.
        qualities: Row of the tables by quality for each image, int64 `[N]`.
        encodes: Or else decodes.
        dequantizes: When decoding, whether to write the latents that symbols stand for in place of them.
        symbols: int16 `[N, channels, 64]`, flat. Read when encoding, written when decoding.
        streams: The streams one after another, uint8; room for them when encoding.
        ends: Where each stream ends in `streams`, after where the first one starts, int64 `[N + 1]`. Filled when encoding.
        channels: All, or the first ones only: the sizes of some slices together.

    Returns:
        N, or the number of an image of which the stream is damaged or the symbols are not to be coded.
    """
    images = len(qualities)
    for k in range(images):
        start = k * channels * GRID * GRID
        count = walk(prior, work, qualities[k], encodes, dequantizes, symbols, start, streams, ends[k], ends[k + 1], channels)
        if count == CORRUPT:
            return k
        if encodes:
            ends[k + 1] = write_stream(work, count, streams, ends[k])
    return images
