from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.tsae.entropy.priors import numbers, tensors
from tsae.entropy import Prior
from tsae.entropy.coder import EntropyCoder
from tsae.entropy.prior import SHAPES

Tensors = dict[str, Any]


def test_tensors_there_and_back() -> None:
    given = tensors()
    prior = Prior.from_tensors({**given, "other": np.zeros(3)})
    assert (prior.qualities, prior.channels) == (3, 4)
    assert prior.to_tensors().keys() == given.keys() == SHAPES.keys()
    for name, array in prior.to_tensors().items():
        np.testing.assert_array_equal(array, given[name])
        assert array.dtype == given[name].dtype


def test_arrays_need_not_be_writable_or_contiguous() -> None:
    given = {name: np.asfortranarray(array) for name, array in tensors().items()}
    for array in given.values():
        array.flags.writeable = False
    symbols = numbers("symbols", 2, 1, 4, 8, 8).astype(np.int16)
    assert EntropyCoder(Prior(**given)).encode(symbols, 3) == EntropyCoder(Prior(**tensors())).encode(symbols, 3)


@pytest.mark.parametrize("name", SHAPES)
def test_missing_arrays_are_named(name: str) -> None:
    given = tensors()
    del given[name]
    with pytest.raises(ValueError, match=f"no {name}"):
        Prior.from_tensors(given)


@pytest.mark.parametrize("name", SHAPES)
def test_wrong_types_and_shapes_are_refused(name: str) -> None:
    given = tensors()
    for wrong in (given[name].astype(np.float32), given[name].astype(np.int64), given[name][None], given[name].ravel()[0]):
        with pytest.raises(ValueError, match=name):
            Prior(**{**given, name: wrong})


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in ("own_weight", "cumulative")])
def test_an_entry_less_is_refused(name: str) -> None:
    given = tensors()
    for axis in range(given[name].ndim):
        if SHAPES[name][1][axis] not in ("qualities", "slices"):
            with pytest.raises(ValueError):  # noqa: PT011 - which of two arrays is named is open
                Prior(**{**given, name: np.delete(given[name], 0, axis)})
    if SHAPES[name][1][0] in ("qualities", "slices"):
        with pytest.raises(ValueError):  # noqa: PT011
            Prior(**{**given, name: given[name][1:]})


def changed(name: str, where: Any, value: int) -> Callable[[Tensors], None]:
    def change(given: Tensors) -> None:
        given[name][where] = value

    return change


FIRST, LAST = 0, -1
BROKEN = {
    "a slice of no channels": ("slices", changed("slices", 0, 0)),
    "a slice below 0": ("slices", changed("slices", 0, -1)),
    "too many channels in slices": ("slices", changed("slices", 2, 3)),
    "no gain": ("gain", changed("gain", (0, 0), 0)),
    "a gain too large": ("gain", changed("gain", (0, 0), 2**20)),
    "no step": ("step", changed("step", (0, 0), 0)),
    "a step too large": ("step", changed("step", (0, 0), 2**20)),
    "an active channel that is more than active": ("active", changed("active", (0, 0), 2)),
    "the most active": ("active", changed("active", (LAST, LAST), 255)),
    "a magnitude below 0": ("magnitude", changed("magnitude", 3, -1)),
    "a magnitude too large": ("magnitude", changed("magnitude", 3, 2**15)),
    "a first table not at 0": ("tables", changed("table_first", 0, 1)),
    "tables that end elsewhere": ("tables", changed("table_first", LAST, 5)),
    "tables out of order": ("tables", changed("table_first", 1, 2**31 - 1)),
    "tables before the start": ("tables", changed("table_first", 1, -(2**31))),
    "a table that does not start at 0": ("rise", changed("cumulative", 0, 1)),
    "a table that stands still": ("rise", lambda given: given["cumulative"].__setitem__(2, given["cumulative"][1])),
    "a table that falls": ("rise", changed("cumulative", 2, 1)),
    "a table that ends too low": ("end", lambda given: given["cumulative"].__setitem__(LAST, 32767)),
    "no interval for the mean": ("mean", changed("table_least", 0, 1)),
    "the escape as the interval of the mean": ("mean", changed("table_least", 0, -3)),
    "a table that starts too low": ("mean", changed("table_least", LAST, -1024)),
    "a field start": ("field", changed("field_start", (0, 0), 2**31 - 1)),
    "the least field start": ("field", changed("field_start", (0, 0), -(2**31))),
    "a field position": ("field", changed("field_position", (0, 0), 2**31 - 1)),
    "a mean start": ("mean", changed("mean_start", (0, 0), 2**31 - 1)),
    "a scale start": ("scale", changed("scale_start", (0, 0), -(2**31))),
    "a mean tap": ("mean", changed("mean_causal", (0, 0), 2**20)),
    "a scale tap": ("scale", changed("scale_causal", (0, 0), 2**26)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_could_go_wrong_later_is_refused(what: str) -> None:
    match, change = BROKEN[what]
    given = tensors()
    change(given)
    with pytest.raises(ValueError, match=match):
        Prior(**given)


def grown(name: str, factor: int, units: int = 3) -> Tensors:
    given = tensors(units=units)
    given[name] = np.full_like(given[name], factor)
    return given


@pytest.mark.parametrize(("name", "fits", "too_large"), [("field_weight", 7_000, 20_000), ("own_weight", 20_000, 32_767)])
def test_field_weights_at_the_limit(name: str, fits: int, too_large: int) -> None:
    """What still fits must decode what it encodes, at the largest symbols; what does not is refused."""
    given = grown(name, fits)
    given["step"][:] = 2**20 - 1
    for other in ("mean_head", "scale_head"):
        given[other][:] = 1
    coder = EntropyCoder(Prior(**given))
    symbols = np.full((1, 4, 8, 8), 1023, np.int16)
    np.testing.assert_array_equal(coder.decode(coder.encode(symbols, 3), [3]), symbols)
    large = grown(name, too_large)
    large["magnitude"][1:] = 2**15 - 1
    with pytest.raises(ValueError, match="field that can leave 32 bits"):
        Prior(**large)


@pytest.mark.parametrize("name", ["mean", "scale"])
def test_heads_at_the_limit(name: str) -> None:
    """Each unit is cut to 8191, so 7 of them fit whatever the field is."""
    large = grown("field_start", 2**24, units=7)
    large[f"{name}_head"][:] = 32767
    Prior(**large)
    large = grown("field_start", 2**24, units=9)
    large[f"{name}_head"][:] = 32767
    with pytest.raises(ValueError, match=f"{name} that can leave 32 bits"):
        Prior(**large)


@pytest.mark.parametrize(
    ("options", "match"), [({"units": 257}, "256"), ({"slices": (1, 1, 255)}, "256"), ({"owns": 3}, "slices")]
)
def test_sizes_have_limits(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Prior(**tensors(**options))


def with_qualities(count: int) -> Tensors:
    given = tensors()
    for name, (_, shape) in SHAPES.items():
        if shape[0] == "qualities":
            given[name] = np.resize(given[name], (count, *given[name].shape[1:]))
    return given


def test_qualities_have_a_limit() -> None:
    assert Prior(**with_qualities(32)).qualities == 32
    for count in (33, 256):
        with pytest.raises(ValueError, match=f"{count} qualities: more than 256, 256 and 32"):
            Prior(**with_qualities(count))


def test_nothing_of_anything_is_refused() -> None:
    given = tensors()
    for name, (dtype, shape) in SHAPES.items():
        if "fields" in shape:
            given[name] = np.zeros(
                [0 if axis == "fields" else size for axis, size in zip(shape, given[name].shape, strict=True)], dtype
            )
    with pytest.raises(ValueError, match="without entries"):
        Prior(**given)
