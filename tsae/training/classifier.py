"""The recipe of the sign classifiers: on pixels, jittered and partly coded anew each time; on latents as archives hold them."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tsae.classifier import ClassifierWeights, Input, classifier_from_bytes
from tsae.training.coded import code_some
from tsae.training.config import TrainConfig
from tsae.training.jitter import jitter
from tsae.training.labelled import LabelledSet, Source, load_labelled, places_of
from tsae.training.run import descend, multiplies_bfloat16, run_recipe
from tsae.training.sign_network import latents_of, network_of, new_network
from tsae.training.teacher import SHARE, TEMPERATURE, Teacher, divergence

CONFIGS: dict[Input, TrainConfig] = {
    "pixels": TrainConfig("signs-43", epochs=80, batch_size=128, learning_rate=5e-3),
    "latents": TrainConfig("signs-43-latents", epochs=4, batch_size=128, learning_rate=1e-2),
}
"""The numbers of each recipe."""

WARM_STEPS = 300
"""The learning rate rises over the first steps, of a short run over a tenth of it; then it follows half a cosine to zero."""

WEIGHT_DECAY = 0.05

SMOOTHING = 0.1
"""Share of the target that all classes share."""

AVERAGE_DECAY = 0.999
"""Of the moving average of the weights, which is what is kept."""

EVALUATION_BATCH = 256


class ClassifierRecipe:
    """Trains a `SignNetwork` with AdamW, a moving average of its weights, and smoothed labels.

    Convolutions are in bfloat16 where that is faster; the loss of the first epochs was the same within 0.3 %.
    """

    def __init__(self, kind: Input, config: TrainConfig, training: LabelledSet, teacher: Teacher | None = None) -> None:
        """Builds the network, with random weights or those of a classifier.

        Args:
            kind: What it looks at.
            config: The recipe's numbers.
            training: To train on; latents with the teacher's readings, if there is one.
            teacher: What else it learns from than labels.

        Raises:
            InputError: if the classifier to start from looks at something else, or the teacher does not know the classes.
            ModelError: if the classifier to start from cannot be read.
        """
        self.config, self.kind, self._teacher = config, kind, teacher
        self._columns = None if teacher is None else teacher.columns(training.classes)
        self._has_bfloat16 = multiplies_bfloat16(config.device)
        network = new_network(kind, training) if config.start is None else network_of(config.start, kind, training)
        self.network = network.to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        plain = [p for p in self.network.parameters() if p.ndim == 1]
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.learning_rate)]

    def modules(self) -> dict[str, nn.Module]:
        """What a killed run goes on with, beside the optimiser; `average` is what is kept."""
        return {"network": self.network, "average": self.average}

    def _channels_first(self, values: Tensor) -> Tensor:
        return values.permute(0, 3, 1, 2) if self.kind == "pixels" else values

    def step(self, values: Tensor, labels: Tensor, readings: Tensor | None = None, *, number: int, steps: int) -> Tensor:
        """One step of descent.

        Args:
            values: Pixels, uint8 `[B, 32, 32, 3]`, or latents, integers `[B, C, 8, 8]`.
            labels: Numbers of classes, int64 `[B]`.
            readings: For latents, the teacher's logits, if there is one.
            number: Of this step, from 0.
            steps: Of the whole run.

        Returns:
            The mean loss, without gradient.
        """
        self.network.train()
        if self.kind == "pixels":
            values = jitter(values)
            readings = None if self._teacher is None else self._teacher.read(values)
            values = code_some(values)
        x = self._channels_first(values)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._has_bfloat16):
            logits = self.network(x).float()
        loss = functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        if readings is not None:
            loss = torch.lerp(loss, divergence(readings[:, self._columns], logits, TEMPERATURE).mean(), SHARE)
        loss = descend(self.optimizers[0], loss, self._rate(number, steps))
        self._average(number)
        return loss

    def _rate(self, number: int, steps: int) -> float:
        warm = max(1.0, min(WARM_STEPS, steps / 10))
        return self.config.learning_rate * min(1.0, (number + 1) / warm) * 0.5 * (1 + math.cos(math.pi * number / steps))

    @torch.no_grad()
    def _average(self, number: int) -> None:
        """Moves the average on, with the statistics of batch normalisations."""
        decay = min(AVERAGE_DECAY, (1 + number) / (10 + number))
        kept, new = (list(network.state_dict().values()) for network in (self.average, self.network))
        real = [index for index, t in enumerate(new) if t.is_floating_point()]
        torch._foreach_lerp_([kept[index] for index in real], [new[index] for index in real], 1 - decay)

    @torch.no_grad()
    def evaluate(self, validation: LabelledSet) -> dict[str, float]:
        """Cross-entropy with smoothed labels (nats) of the average weights, and accuracy."""
        self.average.eval()
        loss, right = 0.0, 0
        for start in range(0, len(validation), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            values = self._channels_first(torch.from_numpy(validation.images[part]).to(self.config.device))
            labels = torch.from_numpy(validation.labels[part]).to(self.config.device)
            logits = self.average(values)
            loss += functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=SMOOTHING).item()
            right += int((logits.argmax(1) == labels).sum().item())
        return {"loss": loss / len(validation), "accuracy": right / len(validation)}

    def finish(self, training: LabelledSet, facts: dict[str, Any]) -> bytes:
        """The classifier's file, of the average weights."""
        weights = ClassifierWeights(
            self.config.model, self.kind, training.classes, self.average.layers(), latents_of(training), facts
        )
        return weights.to_bytes()


def default_classifier_config(kind: Input) -> TrainConfig:
    """The numbers of a recipe."""
    return CONFIGS[kind]


def train_classifier(
    data: Source, out: str | Path, config: TrainConfig, kind: Input = "pixels", *, resume: bool = False
) -> ClassifierWeights:
    """Trains a classifier and writes it; see `tsae.training.run.run_recipe`.

    Args:
        data: See `tsae.training.labelled.load_labelled`.
        out: The model file to write, ending in `.safetensors`.
        config: The recipe's numbers.
        kind: What the classifier looks at.
        resume: Whether to go on from the resume file of a killed run, if there is one.

    Returns:
        What was learned, with the weights that did best on the validation images.

    Raises:
        InputError: if the data, the output or the teacher cannot be used, or the training fails.
        ModelError: if a classifier cannot be read, or there is an unusable resume file.
    """
    teacher = None if config.teacher is None else Teacher(config.teacher, config.device)
    load = functools.partial(load_labelled, data, kind, teacher)
    build = functools.partial(ClassifierRecipe, kind, teacher=teacher)
    written = run_recipe(places_of(data)[0], load, out, config, build, resume=resume)
    return classifier_from_bytes(written, str(out))
