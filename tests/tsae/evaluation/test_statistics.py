"""The exact test and the interval, against cases worked by hand and by other means."""

from __future__ import annotations

import math

import pytest

from tsae.evaluation.statistics import mcnemar_p, paired_interval


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (4, 4, 1.0),
    ],
)
def test_small_splits_have_the_probabilities_of_coins(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar_p(only_first, only_second) == pytest.approx(p)
    assert mcnemar_p(only_second, only_first) == pytest.approx(p)


def test_large_splits_neither_overflow_nor_vanish() -> None:
    exact = 2 * sum(math.comb(2000, k) for k in range(901)) / 2**2000
    assert mcnemar_p(900, 1100) == pytest.approx(exact, rel=1e-9)
    assert 0 < mcnemar_p(0, 1000) < 1e-290


def test_the_interval_is_that_of_the_normal_distribution_where_counts_are_large() -> None:
    first, second, images = 400, 300, 6000
    difference = (first - second) / images
    deviation = math.sqrt((first + second) / images - difference**2) / math.sqrt(images)
    low, high = paired_interval(first, second, images)
    assert low == pytest.approx(difference - 1.96 * deviation, abs=0.05 * deviation * 2)
    assert high == pytest.approx(difference + 1.96 * deviation, abs=0.05 * deviation * 2)


def test_equal_readings_leave_no_interval_and_the_draws_repeat() -> None:
    assert paired_interval(0, 0, 50) == (0.0, 0.0)
    assert paired_interval(7, 3, 100) == paired_interval(7, 3, 100)
