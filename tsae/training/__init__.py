"""Training of the models: seeded, resumable, logged.

`images.py` owns reading and splitting training images, `labelled.py` those with labels; `run.py` what every run has in common;
`seed.py` and `learned.py` the recipes of the codecs, `classifier.py` that of classifiers (`sign_network.py`: their network);
`variable_rate.py` the network that `learned.py` trains, and `export.py` how it becomes integers; `readable.py` what `seed.py`
counts beside grey levels; `augment.py`, `jitter.py` and `coded.py` what is done to images meanwhile.
"""

from __future__ import annotations

import functools
from pathlib import Path

from tsae.checkpoint import Model, model_from_bytes
from tsae.errors import InputError
from tsae.training.classifier import default_classifier_config as default_classifier_config
from tsae.training.classifier import train_classifier as train_classifier
from tsae.training.config import TrainConfig as TrainConfig
from tsae.training.images import load_images
from tsae.training.learned import LearnedRecipe
from tsae.training.run import Build, run_recipe
from tsae.training.seed import SeedRecipe

RECIPES: dict[str, tuple[Build, TrainConfig]] = {
    "seed-8x8x8": (SeedRecipe, TrainConfig("seed-8x8x8", epochs=40, batch_size=64, learning_rate=1e-2)),
    "tsae": (LearnedRecipe, TrainConfig("tsae", epochs=30, batch_size=32, learning_rate=4e-3)),
}
"""Name of each model to its recipe, and the numbers that its packaged weights were trained with."""


def default_config(model: str) -> TrainConfig:
    """The numbers of a model's recipe.

    Raises:
        InputError: if there is no such model.
    """
    if model not in RECIPES:
        raise InputError(f"model {model!r}: no such recipe; choose one of {', '.join(RECIPES)}")
    return RECIPES[model][1]


def train(data: str | Path, out: str | Path, config: TrainConfig, *, resume: bool = False) -> Model:
    """Trains a model and writes it; see `tsae.training.run.run_recipe`.

    Raises:
        InputError: if the data or the output cannot be used, or the training fails.
        ModelError: if there is an unusable resume file.
    """
    default_config(config.model)
    load = functools.partial(load_images, data)
    return model_from_bytes(run_recipe(data, load, out, config, RECIPES[config.model][0], resume=resume), str(out))
