"""A classifier of pixels as a teacher: others learn from what it reads, beside the labels (Hinton et al. 2015).

It tells more than a label: that a sign looks nearly as much like another one, or can hardly be read. And it reads what a
learner does not see: an image before it was coded, or the pixels that latents stand for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tsae.backends import classifier_network
from tsae.classifier import ClassifierWeights, check_pixels, classifier_from_bytes
from tsae.errors import InputError
from tsae.zoo import read_model_file

SHARE = 0.5
"""Of the loss that is the teacher's; the labels have the rest."""

TEMPERATURE = 2.0
"""Logits of both are divided by it."""


class Teacher:
    """What it reads, and how far from that a learner is.

    Attributes:
        name: Its name or file.
        classes: Its labels, in the order of its logits.
        device: Where it is.
    """

    def __init__(self, name: str, device: str) -> None:
        """Loads the classifier.

        Args:
            name: Its name or file.
            device: "cpu" or "cuda".

        Raises:
            InputError: if it looks at latents.
            ModelError: if it cannot be read.
        """
        weights = weights_for_pixels(name, "teacher")
        self.name, self.classes, self.device = name, weights.classes, device
        self._network = classifier_network(weights.layers, device)

    def read(self, images: Tensor) -> Tensor:
        """Logits `[B, K]`, on its device, of images uint8 `[B, 32, 32, 3]`."""
        logits = self._network(images.permute(0, 3, 1, 2).float().cpu().numpy())
        return torch.from_numpy(logits[:, :, 0, 0]).to(self.device)

    def columns(self, classes: Sequence[str]) -> Tensor:
        """Where the classes of a learner are among the teacher's, int64 `[K]`.

        Raises:
            InputError: if it does not know one.
        """
        if unknown := sorted(set(classes) - set(self.classes)):
            raise InputError(
                f"teacher {self.name}: does not know the label {unknown[0]!r}; leave it out, or name one that does"
            )
        return torch.tensor([self.classes.index(label) for label in classes], device=self.device)


def weights_for_pixels(name: str, role: str) -> ClassifierWeights:
    """A classifier that looks at pixels.

    Args:
        name: Its name or file.
        role: What it is to be, for messages.

    Raises:
        InputError: if it looks at latents.
        ModelError: if it cannot be read.
    """
    weights = classifier_from_bytes(read_model_file(name), name)
    check_pixels(weights, f"{role} {name}")
    return weights


def divergence(wanted: Tensor, found: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence in nats of one reading from another, softened.

    Args:
        wanted: Logits `[B, K]`, to which no gradient should go.
        found: Logits of the same shape.
        temperature: Logits are divided by it. The result is multiplied by its square, so that gradients stay as large.

    Returns:
        Of each image, `[B]`.
    """
    p, q = (functional.log_softmax(logits.float() / temperature, 1) for logits in (wanted, found))
    return functional.kl_div(q, p, log_target=True, reduction="none").sum(1) * temperature**2
