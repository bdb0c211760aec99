"""A training run: epochs, log, resume file and plot, the same for every recipe.

Beside the model `NAME.safetensors` it writes `NAME.log.jsonl` (one JSON object an epoch), `NAME.loss.png`, and while it
runs `NAME.resume.safetensors`, from which a killed run goes on and ends, on the CPU, with the very same weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from tsae import paths
from tsae.errors import InputError, ModelError
from tsae.progress import Progress
from tsae.training.config import TrainConfig
from tsae.training.images import ImageSet, split_images

MODEL_ENDING = ".safetensors"

PROGRESS_STEPS = 50
"""Steps between two signs of progress: reading the loss makes a GPU wait."""


class Recipe(Protocol):
    """How one kind of model is trained."""

    config: TrainConfig
    optimizers: list[torch.optim.Optimizer]

    def modules(self) -> Mapping[str, nn.Module]:
        """The networks that change, by name; the one named last is what is kept."""

    @property
    def step(self) -> Callable[..., Tensor]:
        """One step of descent, of some of each of `ImageSet.examples`, `number` and `steps` of the run; gives the mean loss."""

    @property
    def evaluate(self) -> Callable[[Any], dict[str, float]]:
        """Figures on an `ImageSet`; `loss` chooses the epoch whose weights are kept."""

    @property
    def finish(self) -> Callable[[Any, dict[str, Any]], bytes]:
        """The model file of the weights that are in the network now, from the images trained on and facts for people."""


Build = Callable[[TrainConfig, Any], Recipe]
"""Makes a recipe from its numbers and the `ImageSet` to train on."""

Load = Callable[[], ImageSet]


@dataclasses.dataclass(eq=False)
class _Progress:
    """What a run carries from one epoch to the next, beside the recipe's own state."""

    epoch: int = 0
    best_loss: float = float("inf")
    best: dict[str, Tensor] = dataclasses.field(default_factory=dict)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, learning_rate: float) -> Tensor:
    """One step down a loss, which comes back without gradient."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def multiplies_bfloat16(device: str) -> bool:
    """Whether matrices of bfloat16 are multiplied faster than those of float32: on GPUs, and CPUs with AVX512_BF16 or AMX."""
    return device == "cuda" or torch.cpu._is_avx512_bf16_supported()  # CPUs with AMX have it, too


def run_recipe(
    data: str | Path, load: Load, out: str | Path, config: TrainConfig, build: Build, *, resume: bool = False
) -> bytes:
    """Trains a model and writes it.

    Args:
        data: Where the images are from.
        load: Reads them.
        out: The model file to write, ending in `.safetensors`.
        config: The recipe's numbers.
        build: Makes the recipe.
        resume: Whether to go on from the resume file of a killed run, if there is one.

    Returns:
        The model's file, with the weights that did best on the validation images.

    Raises:
        InputError: if the data or the output cannot be used, there is a model or an unfinished run that would be lost,
            or the loss is no number any more.
        ModelError: if the resume file is damaged or comes from another recipe or other data.
    """
    files = Files(Path(out))
    files.check(resume)
    training, validation = split_images(load(), data)
    torch.manual_seed(config.seed)
    recipe: Recipe = build(config, training)
    state = _Progress()
    if resume and files.resume.exists():
        _restore(recipe, state, files.resume, training)
    files.keep_log(state.epoch)
    _run_epochs(recipe, state, training, validation, files)
    _kept(recipe).load_state_dict(state.best)
    figures = {f"valid_{name}": value for name, value in recipe.evaluate(validation).items()}
    facts = {"train_images": len(training), "valid_images": len(validation), **figures}
    model = recipe.finish(training, {**dataclasses.asdict(config), **facts})
    with writing(files.model):
        paths.replace_file(files.model, model)
    _plot(files)
    with writing(files.resume):
        files.resume.unlink(missing_ok=True)
    return model


def _kept(recipe: Recipe) -> nn.Module:
    return list(recipe.modules().values())[-1]


def _run_epochs(recipe: Recipe, state: _Progress, training: ImageSet, validation: ImageSet, files: Files) -> None:
    """Runs the epochs that are left, with a log line and a resume file after each."""
    config = recipe.config
    examples = [torch.from_numpy(values).to(config.device) for values in training.examples]
    with Progress(len(training) * config.epochs, f"training {config.model}") as progress:
        progress.update(len(training) * state.epoch)
        while state.epoch < config.epochs:
            started_s = time.monotonic()
            loss = _run_epoch(recipe, state.epoch, examples, progress)
            seconds = time.monotonic() - started_s
            figures = recipe.evaluate(validation)
            state.epoch += 1
            if not math.isfinite(figures["loss"]):
                named = f"validation loss {figures['loss']} after epoch {state.epoch}"
                raise InputError(f"{named}: no number; lower the learning rate")
            if figures["loss"] < state.best_loss:
                state.best_loss = figures["loss"]
                state.best = {name: t.detach().cpu().clone() for name, t in _kept(recipe).state_dict().items()}
            entry = {"epoch": state.epoch, "train_loss": loss, **{f"valid_{name}": v for name, v in figures.items()}}
            files.append_log({**entry, "images_per_s": len(training) / seconds, "seconds": seconds})
            _save(recipe, state, files.resume, training)


def _run_epoch(recipe: Recipe, epoch: int, examples: list[Tensor], progress: Progress) -> float:
    """One pass, in an order and with noise that follow from seed and epoch alone; returns the mean loss."""
    config, images, device = recipe.config, len(examples[0]), examples[0].device
    order = torch.from_numpy(np.random.default_rng((config.seed, epoch)).permutation(images)).to(device)
    torch.manual_seed(int(np.random.default_rng((config.seed, epoch, 1)).integers(2**62)))
    steps = -(-images // config.batch_size)
    shown, total = 0, torch.zeros((), dtype=torch.float64, device=device)
    for step in range(steps):
        chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
        batch = [values[chosen] for values in examples]
        loss = recipe.step(*batch, number=epoch * steps + step, steps=steps * config.epochs)
        total += loss * len(chosen)
        done = min((step + 1) * config.batch_size, images)
        if step % PROGRESS_STEPS == 0 or done == images:
            progress.update(done - shown, epoch=epoch + 1, loss=f"{loss.item():.4f}")
            shown = done
    return total.item() / images


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the block, the operating system's errors are about writing `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); make room there, or name another place with --out") from error


@dataclasses.dataclass(frozen=True)
class Files:
    """Where a run writes."""

    model: Path

    @property
    def log(self) -> Path:
        """One JSON object an epoch."""
        return self.model.with_suffix(".log.jsonl")

    @property
    def plot(self) -> Path:
        """Losses against epochs."""
        return self.model.with_suffix(".loss.png")

    @property
    def resume(self) -> Path:
        """All that a killed run goes on with."""
        return self.model.with_suffix(".resume.safetensors")

    def check(self, resume: bool) -> None:
        """Refuses places that cannot be written, and to write over what a run has left.

        Raises:
            InputError: with the file and what to do.
        """
        with writing(self.model):
            self._check_name()
        with writing(self.resume):
            self._check_state(resume)
            self._try_writing()

    def _check_name(self) -> None:
        if self.model.is_dir():
            raise InputError(f"{self.model}: is a folder; name a file in it that ends in {MODEL_ENDING}")
        if self.model.suffix != MODEL_ENDING:
            raise InputError(f"{self.model}: does not end in {MODEL_ENDING}, as models do; add the ending")
        if not self.model.parent.is_dir():
            raise InputError(f"{self.model.parent}: no such folder for the model; create it first")

    def _check_state(self, resume: bool) -> None:
        if self.resume.exists():
            if not resume:
                raise InputError(f"{self.resume}: from a run that did not end; finish it with --resume, or delete it")
        elif self.model.exists():
            raise InputError(f"{self.model}: already trained; delete it to train anew, or name another file with --out")

    def _try_writing(self) -> None:
        """Writes what every epoch will write, the file with the longest name, and leaves it as it was."""
        is_there = self.resume.exists()
        paths.replace_file(self.resume, self.resume.read_bytes() if is_there else b"")
        if not is_there:
            self.resume.unlink()

    def keep_log(self, epochs: int) -> None:
        """Drops what a killed run logged after its last resume file."""
        with writing(self.log):
            lines = self.log.read_text().splitlines()[:epochs] if epochs and self.log.exists() else []
            self.log.write_text("".join(f"{line}\n" for line in lines))

    def append_log(self, entry: dict[str, Any]) -> None:
        """Adds a line."""
        with writing(self.log), self.log.open("a") as log:
            log.write(json.dumps(entry) + "\n")


def _data_digest(training: ImageSet) -> str:
    found = hashlib.sha256("\0".join(training.keys).encode("utf-8", "surrogateescape"))
    for values in training.examples:
        found.update(np.ascontiguousarray(values).reshape(-1).data)
    return found.hexdigest()


def _save(recipe: Recipe, state: _Progress, path: Path, training: ImageSet) -> None:
    tensors = {f"best.{name}": t for name, t in state.best.items()}
    for part, module in recipe.modules().items():
        tensors |= {f"{part}.{name}": t for name, t in module.state_dict().items()}
    for number, optimizer in enumerate(recipe.optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{index}.{name}": torch.as_tensor(t) for name, t in moments.items()}
    facts = {
        "config": dataclasses.asdict(recipe.config),
        "data": _data_digest(training),
        "epoch": state.epoch,
        "best_loss": state.best_loss,
    }
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with writing(path):
        paths.replace_file(path, safetensors.torch.save(plain, {"resume": json.dumps(facts)}))


def _restore(recipe: Recipe, state: _Progress, path: Path, training: ImageSet) -> None:
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["resume"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: damaged ({error}); delete it to start anew") from error
    if facts["config"] != dataclasses.asdict(recipe.config) or facts["data"] != _data_digest(training):
        raise ModelError(f"{path}: from another recipe or other data; give the same ones, or delete it to start anew")
    for part, module in recipe.modules().items():
        module.load_state_dict(_below(tensors, f"{part}."))
    state.best = _below(tensors, "best.")
    for number, optimizer in enumerate(recipe.optimizers):
        moments: dict[int, dict[str, Tensor]] = {}
        for name, t in _below(tensors, f"optimizer.{number}.").items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = t
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    state.epoch, state.best_loss = facts["epoch"], facts["best_loss"]


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _plot(files: Files) -> None:
    """Draws training and validation loss against the epoch."""
    import matplotlib.figure

    entries = [json.loads(line) for line in files.log.read_text().splitlines()]
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("train_loss", "training"), ("valid_loss", "validation")):
        axes.plot([e["epoch"] for e in entries], [e[name] for e in entries], label=label)
    lowest = min(entries, key=lambda e: e["valid_loss"])
    axes.set_title(f"{files.model.stem}: best validation loss {lowest['valid_loss']:.5f} at epoch {lowest['epoch']}")
    later = [e[name] for e in entries[len(entries) // 10 :] for name in ("train_loss", "valid_loss")]
    margin = 0.05 * (max(later) - min(later)) + 1e-4  # the first epochs would flatten all that matters
    axes.set_ylim(min(later) - margin, max(later) + margin)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    with writing(files.plot):
        figure.savefig(files.plot, dpi=150)
