"""Losses of what can be read: nothing lost costs nothing, and what is lost where signs are faint costs as much as elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tsae.classifier import load_classifier
from tsae.training.readable import TEMPERATURE, ReadingLoss, structural_loss


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """Smooth noise, float32 `[6, 3, 32, 32]` in 0.2..0.8."""
    torch.manual_seed(0)
    return functional.interpolate(torch.rand(6, 3, 8, 8), size=32, mode="bilinear") * 0.6 + 0.2


@pytest.fixture(scope="module")
def blurred(x: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(x, 5, 1, padding=2, count_include_pad=False)


def test_what_comes_back_exactly_costs_nothing(x: torch.Tensor) -> None:
    assert ReadingLoss("cpu")(x, x).tolist() == pytest.approx([0] * len(x), abs=1e-6)
    assert structural_loss(x, x).item() == pytest.approx(0, abs=1e-6)


def test_reading_is_compared_as_the_classifier_of_numpy_reads(x: torch.Tensor, blurred: torch.Tensor) -> None:
    images, decoded = ((part * 255).round().byte() for part in (x, blurred))
    p, q = (load_classifier().probabilities(part.permute(0, 2, 3, 1).numpy()).astype(np.float64) for part in (images, decoded))
    soft_p, soft_q = (part ** (1 / TEMPERATURE) for part in (p, q))
    soft_p, soft_q = (part / part.sum(1, keepdims=True) for part in (soft_p, soft_q))
    expected = TEMPERATURE**2 * (soft_p * np.log(soft_p / soft_q)).sum(1)
    assert ReadingLoss("cpu")(images / 255, decoded / 255).numpy() == pytest.approx(expected, rel=1e-3)
    assert expected.mean() > 0.01


def test_gradients_go_to_what_came_back_only(x: torch.Tensor, blurred: torch.Tensor) -> None:
    original, decoded = x.clone().requires_grad_(), blurred.clone().requires_grad_()
    ReadingLoss("cpu")(original, decoded).sum().backward()
    assert original.grad is None
    assert decoded.grad is not None
    stepped = decoded.detach() - 1e-3 * decoded.grad.sign()
    assert ReadingLoss("cpu")(x, stepped).mean() < ReadingLoss("cpu")(x, blurred).mean()


def test_structure_counts_faint_signs_nearly_as_much(x: torch.Tensor, blurred: torch.Tensor) -> None:
    """Squared errors would fall to a hundredth."""
    faint, faint_blurred = (0.1 * part + 0.4 for part in (x, blurred))
    plain = structural_loss(x, blurred).item()
    assert plain > 0.05
    assert structural_loss(faint, faint_blurred).item() > 0.3 * plain


def test_structure_is_that_of_the_usual_formula(x: torch.Tensor, blurred: torch.Tensor) -> None:
    """Computed anew, window by window, with the weights of two means in a row."""
    weights = np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1]) / 81
    a, b = (part[0, 0].double().numpy() for part in (x, blurred))
    found = []
    for row in range(28):
        for column in range(28):
            u, v = (part[row : row + 5, column : column + 5] for part in (a, b))
            mean_u, mean_v = (weights * u).sum(), (weights * v).sum()
            var_u, var_v = ((weights * (part - mean) ** 2).sum() for part, mean in ((u, mean_u), (v, mean_v)))
            covariance = (weights * (u - mean_u) * (v - mean_v)).sum()
            luminance = (2 * mean_u * mean_v + 1e-4) / (mean_u**2 + mean_v**2 + 1e-4)
            found.append(luminance * (2 * covariance + 1e-4) / (var_u + var_v + 1e-4))
    assert structural_loss(x[:1, :1].double(), blurred[:1, :1].double()).item() == pytest.approx(1 - np.mean(found))
