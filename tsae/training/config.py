"""The numbers of a recipe."""

from __future__ import annotations

import dataclasses
import math

from tsae.errors import InputError

SEEDS = 2**63
"""How many there are: what torch and numpy both take."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The recipe; with the data it determines the weights.

    Attributes:
        model: Name of the model, also of its architecture.
        epochs: Passes over the training images.
        batch_size: Images per step.
        learning_rate: The highest rate of Adam.
        seed: Of the initial weights and of the order of the images; 0 to 2^63 - 1.
        device: "cpu" or "cuda".
        start: Name or file of the model to start from; None starts from nothing.
        rates_only: Whether only what differs between qualities is learned, from a model to start from.
        readable: What a nat of a classifier's readings counts in the loss, from a model to start from: for seed-8x8x8 in nats,
            beside local structure; for tsae in dB at the lowest quality. 0 is a stage without either.
        classifier: Name or file of that classifier; None is the packaged one of pixels.
        teacher: Name or file of the classifier of pixels whose readings a classifier learns from, too; None is none.
    """

    model: str
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    device: str = "cpu"
    start: str | None = None
    rates_only: bool = False
    readable: float = 0.0
    classifier: str | None = None
    teacher: str | None = None

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            InputError: if one is out of range.
        """
        if min(self.epochs, self.batch_size) < 1:
            raise InputError(f"epochs {self.epochs}, batch size {self.batch_size}: both must be at least 1")
        if self.rates_only and self.start is None:
            raise InputError("rates only: needs a model to start from; name one with --start")
        if self.readable and self.start is None:
            raise InputError("readable: needs a model to start from; name one with --start")
        if not (math.isfinite(self.readable) and self.readable >= 0):
            raise InputError(f"readable {self.readable}: not a weight of 0 or more; choose one, such as 0.1")
        if self.classifier is not None and not self.readable:
            raise InputError(f"classifier {self.classifier}: is asked what stays readable; add --readable, such as 0.1")
        if not 0 <= self.seed < SEEDS:
            raise InputError(f"seed {self.seed}: outside 0 to {SEEDS - 1}; choose one within")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"learning rate {self.learning_rate}: not a number above 0; leave it out for the model's own")
