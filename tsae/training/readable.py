"""Losses that keep signs readable: what a classifier makes of them, and local structure, however faint it is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tsae.backends.torch import classifier_function
from tsae.config import DEFAULT_CLASSIFIER
from tsae.training.teacher import divergence, weights_for_pixels

TEMPERATURE = 4.0
"""Logits are divided by it: the second thoughts of the classifier count then, which is sure of nearly all images. With 1, more
signs of the validation tracks were lost than with 4."""

JITTERED = 0.75
"""Share of images that are jittered in a readable stage, of those that it reads: signs of poor light are few, and what a
classifier learned by heart it reads whatever is left of it."""

WINDOW_PX = 3
"""Of means; two in a row weigh 5x5 pixels."""

LUMINANCE_CONSTANT, CONTRAST_CONSTANT = 1e-4, 1e-4
"""Of structural similarity, for pixels in 0..1. The usual one of contrast, nine times as much, leaves out what is faint."""


class ReadingLoss:
    """How differently a classifier reads two batches: Kullback-Leibler divergence in nats, softened."""

    def __init__(self, device: str, classifier: str | None = None) -> None:
        """Loads the classifier.

        Args:
            device: "cpu" or "cuda".
            classifier: Name or file of one of pixels; None is the packaged one.

        Raises:
            InputError: if it looks at latents.
            ModelError: if it cannot be read.
        """
        weights = weights_for_pixels(classifier or DEFAULT_CLASSIFIER, "classifier")
        self._read = classifier_function(weights.layers, device)

    def __call__(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """Of each image of a batch, `[B]`.

        Args:
            x: Originals, float32 `[B, 3, 32, 32]` in 0..1, to which no gradient goes.
            x_hat: What is to be read alike, of the same shape.
        """
        with torch.no_grad():
            wanted = self._logits(x)
        return divergence(wanted, self._logits(x_hat), TEMPERATURE)

    def _logits(self, x: Tensor) -> Tensor:
        return self._read(x * 255).flatten(1)


def structural_loss(x: Tensor, x_hat: Tensor) -> Tensor:
    """One less the mean structural similarity of windows of 5x5 pixels (Wang et al. 2004), which counts contrast relatively.

    Args:
        x: Originals, float32 `[B, 3, H, W]` in 0..1.
        x_hat: Of the same shape.
    """
    mean, mean_hat = _window_mean(x), _window_mean(x_hat)
    variance = _window_mean(x * x) - mean * mean
    variance_hat = _window_mean(x_hat * x_hat) - mean_hat * mean_hat
    covariance = _window_mean(x * x_hat) - mean * mean_hat
    luminance = (2 * mean * mean_hat + LUMINANCE_CONSTANT) / (mean * mean + mean_hat * mean_hat + LUMINANCE_CONSTANT)
    contrast = (2 * covariance + CONTRAST_CONSTANT) / (variance + variance_hat + CONTRAST_CONSTANT)
    return 1 - (luminance * contrast).mean()


def _window_mean(x: Tensor) -> Tensor:
    return functional.avg_pool2d(functional.avg_pool2d(x, WINDOW_PX, 1), WINDOW_PX, 1)
