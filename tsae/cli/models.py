"""`tsae train` and `train-classifier`, which make models, and `models`, which shows the packaged ones."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tsae.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from tsae.training import TrainConfig


def add_train(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `train`."""
    parser.add_argument("data", metavar="DATA", help="folder of images, Parquet file with images, or folder with train.parquet")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="NAME", help="architecture (default: %(default)s)")
    _add_recipe(parser)
    parser.add_argument("--start", metavar="NAME|FILE", help="model to go on from, such as tsae for signs of your own")
    parser.add_argument(
        "--readable", type=float, default=0.0, metavar="WEIGHT", help="with --start: count what the sign classifier reads, too"
    )
    parser.add_argument("--classifier", metavar="NAME|FILE", help="with --readable: which one (default: signs-43)")
    parser.add_argument("--rates-only", action="store_true", help="with --start: learn only what differs between qualities")


def add_train_classifier(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `train-classifier`."""
    parser.add_argument(
        "data",
        nargs="+",
        metavar="DATA|ARCHIVE",
        help="archives with labels; or images with labels: folder, Parquet file, or folder with train.parquet",
    )
    parser.add_argument(
        "--input",
        choices=["pixels", "latents"],
        default="pixels",
        help="pixels, which of an archive are decoded, or latents as an archive stores them (default: pixels)",
    )
    _add_recipe(parser)
    parser.add_argument("--start", metavar="NAME|FILE", help="classifier to go on from, such as signs-43 for signs of your own")
    parser.add_argument("--teacher", metavar="NAME|FILE", help="classifier of pixels whose readings are learned, too")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="MODEL", help="model file to write, ending in .safetensors")
    parser.add_argument("--epochs", type=int, metavar="N", help="default: the model's, as the next two")
    parser.add_argument("--batch-size", type=int, metavar="N")
    parser.add_argument("--learning-rate", type=float, metavar="RATE")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    parser.add_argument("--resume", action="store_true", help="go on where a killed run of the same recipe ended")


def _recipe_of(args: argparse.Namespace, default: TrainConfig) -> TrainConfig:
    """A recipe's numbers, with those that were given."""
    from tsae.codec import choose_device

    given = {name: getattr(args, name) for name in ("epochs", "batch_size", "learning_rate")}
    given = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(default, seed=args.seed, device=choose_device(args.device), **given)


def run_train(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `train`; see `tsae.training.train`."""
    from tsae.training import default_config, train

    config = _recipe_of(args, default_config(args.model))
    asked = {name: getattr(args, name) for name in ("start", "rates_only", "readable", "classifier")}
    config = dataclasses.replace(config, **asked)
    facts = train(args.data, args.out, config, resume=args.resume).training
    print(f"{args.out}: validation loss {facts['valid_loss']:.5f} on {facts['valid_images']} images")
    return 0


def run_train_classifier(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `train-classifier`; see `tsae.training.train_classifier`."""
    from pathlib import Path

    from tsae.training import default_classifier_config, train_classifier

    config = _recipe_of(args, default_classifier_config(args.input))
    config = dataclasses.replace(config, model=Path(args.out).stem, start=args.start, teacher=args.teacher)
    facts = train_classifier(args.data, args.out, config, args.input, resume=args.resume).training
    print(
        f"{args.out}: {100 * facts['valid_accuracy']:.2f} % of {facts['valid_images']} validation images are classified rightly"
    )
    return 0


def add_models(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `models`."""
    parser.add_argument("--json", action="store_true")


def run_models(args: argparse.Namespace, flags: list[str]) -> int:
    """Runs `models`: the packaged ones, and classifiers."""
    from tsae.checkpoint import describe_models
    from tsae.classifier import describe_classifiers

    models, classifiers = describe_models(), describe_classifiers()
    if args.json:
        print(json.dumps(models + classifiers, indent=1))
        return 0
    for model in models:
        default = " (default)" if model["name"] == DEFAULT_MODEL else ""
        qualities = f"qualities 1 to {model['qualities']}" if model["qualities"] else "one quality"
        print(f"{model['name']}{default}: latents {model['latents']}, {qualities}, ", end="")
        print(_describe_file(model))
    for model in classifiers:
        print(f"{model['name']}: classifier of {model['classes']} signs by {model['input']}, ", end="")
        print(f"{model['multiply_adds']:,} multiply-adds, {_describe_file(model)}")
    return 0


def _describe_file(model: Mapping[str, object]) -> str:
    return f"{model['parameters']:,} parameters, file of {model['model_bytes']:,} bytes, card {model['card']}"
