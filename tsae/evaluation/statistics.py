"""Whether a difference of two accuracies on the same images is more than chance: an exact test, and an interval."""

from __future__ import annotations

import math

import numpy as np

RESAMPLES = 10_000
"""Of the bootstrap: its ends vary by some hundredths of the interval."""


def mcnemar_p(only_first: int, only_second: int) -> float:
    """McNemar's exact test: the probability of so uneven a split, or a more uneven one, if both were equally good.

    Two-sided, by the binomial distribution with probability 1/2 over the images that only one of the two reads
    (McNemar 1947; Fagerland, Lydersen, Laake 2013, "exact conditional test").

    Args:
        only_first: Images that only the first one reads.
        only_second: Images that only the second one reads.
    """
    count, fewer = only_first + only_second, min(only_first, only_second)
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) - count * math.log(2) for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def paired_interval(only_first: int, only_second: int, images: int, seed: int = 0) -> tuple[float, float]:
    """95 % of the bootstrap's differences of the accuracies, first less second, as fractions.

    Drawing images with replacement is drawing from three kinds of them: read by the first only, by the second only, by both or
    none. So the draws are multinomial, and no image is needed (Efron, Tibshirani 1993, chapter 13: percentile interval).

    Args:
        only_first: Images that only the first one reads.
        only_second: Images that only the second one reads.
        images: All of them, at least one.
        seed: Of the draws.
    """
    shares = np.array([only_first, only_second, images - only_first - only_second]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, RESAMPLES)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / images, [2.5, 97.5])
    return float(low), float(high)
