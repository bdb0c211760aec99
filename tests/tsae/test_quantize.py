"""The quantiser: round trips within half a step, clipping outside, and a fit that serves the bulk of the data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tsae.quantize import LatentQuantizer, fit_quantizer

Array = np.ndarray


def quantizer(scale: list[float], offset: list[float]) -> LatentQuantizer:
    return LatentQuantizer(np.array(scale, np.float32), np.array(offset, np.float32))


SCALES = st.floats(2.0**-10, 2.0**10, width=32)
OFFSETS = st.floats(-100, 100, width=32)


@given(SCALES, OFFSETS, hnp.arrays(np.float64, (2, 1, 3, 3), elements=st.floats(-128, 127)))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_within_the_range_the_error_is_half_a_step_at_most(scale: float, offset: float, place: Array) -> None:
    y = (offset + scale * place).astype(np.float32)
    quantiser = quantizer([scale], [offset])
    y_hat = quantiser.dequantize(quantiser.quantize(y))
    rounding = 8 * np.finfo(np.float32).eps * (abs(offset) + 128 * scale)
    assert np.abs(y_hat.astype(np.float64) - y).max() <= scale / 2 + rounding


@given(SCALES, OFFSETS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_level_comes_back(scale: float, offset: float) -> None:
    levels = np.arange(-128, 128, dtype=np.int8).reshape(1, 1, 16, 16)
    if scale < 128 * np.spacing(np.float32(abs(offset) + 128 * scale)):
        return  # float32 cannot tell neighbouring levels apart
    quantiser = quantizer([scale], [offset])
    np.testing.assert_array_equal(quantiser.quantize(quantiser.dequantize(levels)), levels)


def test_beyond_the_range_values_are_clipped_not_wrapped() -> None:
    y = np.array([-1e30, -129.0, -128.6, 127.4, 128.0, 1e30, -np.inf, np.inf], np.float32).reshape(1, 1, 1, 8)
    levels = quantizer([1.0], [0.0]).quantize(y)
    assert levels.dtype == np.int8
    np.testing.assert_array_equal(levels.ravel(), [-128, -128, -128, 127, 127, 127, -128, 127])


def test_ties_go_to_the_even_level() -> None:
    y = np.array([-1.5, -0.5, 0.5, 1.5, 2.5], np.float32).reshape(1, 1, 1, 5)
    np.testing.assert_array_equal(quantizer([1.0], [0.0]).quantize(y).ravel(), [-2, 0, 0, 2, 2])


def test_each_channel_has_its_own_scale_and_offset() -> None:
    y = np.full((2, 3, 1, 2), 10, np.float32)
    quantiser = quantizer([1.0, 2.0, 5.0], [0.0, 4.0, -10.0])
    levels = quantiser.quantize(y)
    np.testing.assert_array_equal(levels[:, :, 0, 0], [[10, 3, 4]] * 2)
    y_hat = quantiser.dequantize(levels)
    assert y_hat.dtype == np.float32
    np.testing.assert_array_equal(y_hat, y)


@pytest.mark.parametrize(
    ("scale", "offset"),
    [
        ([0.0], [0.0]),
        ([-1.0], [0.0]),
        ([np.nan], [0.0]),
        ([np.inf], [0.0]),
        ([1.0], [np.nan]),
        ([1.0], [np.inf]),
        ([1.0, 1.0], [0.0]),
        ([[1.0]], [[0.0]]),
    ],
)
def test_unusable_numbers_are_refused(scale: list[float], offset: list[float]) -> None:
    with pytest.raises(ValueError, match="scale and offset"):
        quantizer(scale, offset)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        LatentQuantizer(np.ones(1), np.zeros(1))  # type: ignore[arg-type]


def error(quantiser: LatentQuantizer, y: Array) -> float:
    return float(np.square(quantiser.dequantize(quantiser.quantize(y)).astype(np.float64) - y).mean())


@given(st.integers(0, 2**32 - 1), st.floats(-50, 50), st.floats(0.01, 20))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_fit_is_no_worse_than_the_full_range(seed: int, mean: float, spread: float) -> None:
    y = np.random.default_rng(seed).normal(mean, spread, (40, 2, 4, 4)).astype(np.float32)
    low, high = y.min(axis=(0, 2, 3)), y.max(axis=(0, 2, 3))
    scale = (high - low) / np.float32(255)
    full = LatentQuantizer(scale, low + 128 * scale)
    assert error(fit_quantizer(y), y) <= error(full, y) * 1.001


def test_the_fit_uses_both_ends_of_the_levels() -> None:
    y = np.random.default_rng(0).uniform(-3, 7, (100, 1, 8, 8)).astype(np.float32)
    levels = fit_quantizer(y).quantize(y)
    assert levels.min() == -128
    assert levels.max() == 127


def test_the_fit_gives_up_an_outlier_that_would_cost_all_others() -> None:
    y = np.random.default_rng(0).normal(0, 1, (20_000, 1, 8, 8)).astype(np.float32)
    y[0, 0, 0, 0] = 60.0  # clipping costs 55^2 once, the long step would cost (64 / 255)^2 / 12 each of 1.28 million times
    quantiser = fit_quantizer(y)
    step_of_full_range = (60 - y.min()) / 255
    assert quantiser.scale[0] < step_of_full_range / 2
    assert error(quantiser, y[1:]) < step_of_full_range**2 / 12 / 4


def test_the_fit_keeps_an_outlier_that_would_cost_more_than_it_saves() -> None:
    y = np.random.default_rng(0).normal(0, 1, (500, 1, 8, 8)).astype(np.float32)
    y[0, 0, 0, 0] = 30.0
    quantiser = fit_quantizer(y)
    assert quantiser.dequantize(quantiser.quantize(y))[0, 0, 0, 0] > 29


def test_the_fit_of_one_channel_does_not_depend_on_others() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(0, size, (50, 1, 4, 4)).astype(np.float32) for size in (1, 9))
    alone, together = fit_quantizer(a), fit_quantizer(np.concatenate([a, b], axis=1))
    assert alone.scale[0] == together.scale[0]
    assert alone.offset[0] == together.offset[0]
    assert together.scale[1] > 5 * together.scale[0]


def test_a_constant_channel_comes_back() -> None:
    y = np.full((5, 1, 2, 2), 3.25, np.float32)
    quantiser = fit_quantizer(y)
    np.testing.assert_array_equal(quantiser.dequantize(quantiser.quantize(y)), y)


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (2, 4, 4), (1, 0, 4, 4)])
def test_no_data_no_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="latents of shape"):
        fit_quantizer(np.zeros(shape, np.float32))
