"""Training of the autoencoders: seeded, resumable, logged. Owns the recipe; networks and data come from their modules.

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tsae import paths
from tsae.checkpoint import Model, model_to_bytes
from tsae.config import DEFAULT_MODEL
from tsae.data import ImageSet, load_images, split_images
from tsae.errors import InputError, ModelError
from tsae.metrics import psnr_db
from tsae.model import NETWORKS, SeedAutoencoder, to_network_input
from tsae.progress import Progress
from tsae.quantize import LatentQuantizer, fit_quantizer

MODEL_ENDING = ".safetensors"
SEEDS = 2**63
"""How many there are: what torch and numpy both take."""

EVALUATION_BATCH = 256
PROGRESS_STEPS = 50
"""Steps between two signs of progress: reading the loss makes a GPU wait."""

QUANTIZER_IMAGES = 8192
"""Training images that the quantiser's ranges are fitted to. All 34,769 of GTSRB would change the steps of seed-8x8x8 by 7 % at
most; what storing in 8 bits costs, 0.02 dB, leaves nothing to win there."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The recipe; with the data it determines the weights.

    Attributes:
        model: Name of the model, also of its architecture.
        epochs: Passes over the training images.
        batch_size: Images per step.
        learning_rate: Adam's highest rate: reached after one epoch, then lowered to nothing along a half cosine.
        seed: Of the initial weights and of the order of the images; 0 to 2^63 - 1.
        device: "cpu" or "cuda".
    """

    model: str = DEFAULT_MODEL
    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 1e-2
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            InputError: if one is out of range.
        """
        if self.model not in NETWORKS:
            raise InputError(f"model {self.model!r}: no such architecture; choose one of {', '.join(NETWORKS)}")
        if min(self.epochs, self.batch_size) < 1:
            raise InputError(f"epochs {self.epochs}, batch size {self.batch_size}: both must be at least 1")
        if not 0 <= self.seed < SEEDS:
            raise InputError(f"seed {self.seed}: outside 0 to {SEEDS - 1}; choose one within")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"learning rate {self.learning_rate}: not a number above 0; try {TrainConfig.learning_rate}")


@dataclasses.dataclass(eq=False)
class _State:
    """All that a run carries from one epoch to the next."""

    network: SeedAutoencoder
    optimizer: torch.optim.Adam
    epoch: int = 0
    best_loss: float = float("inf")
    best: dict[str, Tensor] = dataclasses.field(default_factory=dict)


def train(data: str | Path, out: str | Path, config: TrainConfig, *, resume: bool = False) -> Model:
    """Trains a model and writes it.

    Args:
        data: See `tsae.data.load_images`.
        out: The model file to write, ending in `.safetensors`.
        config: The recipe.
        resume: Whether to go on from the resume file of a killed run, if there is one.

    Returns:
        The model, with the weights that did best on the validation images.

    Raises:
        InputError: if the data or the output cannot be used, there is a model or an unfinished run that would be lost,
            or the loss is no number any more.
        ModelError: if the resume file is damaged or comes from another recipe or other data.
    """
    files = _Files(Path(out))
    files.check(resume)
    training, validation = split_images(load_images(data), data)
    torch.manual_seed(config.seed)
    state = _start(config)
    if resume and files.resume.exists():
        _restore(state, files.resume, config, training)
    files.keep_log(state.epoch)
    _run(state, config, training, validation, files)
    state.network.load_state_dict(state.best)
    model = _finish(state, config, training, validation, files)
    with _writing(files.resume):
        files.resume.unlink(missing_ok=True)
    return model


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Within the block, the operating system's errors are about writing `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); make room there, or name another place with --out") from error


@dataclasses.dataclass(frozen=True)
class _Files:
    """Where a run writes."""

    model: Path

    @property
    def log(self) -> Path:
        return self.model.with_suffix(".log.jsonl")

    @property
    def plot(self) -> Path:
        return self.model.with_suffix(".loss.png")

    @property
    def resume(self) -> Path:
        return self.model.with_suffix(".resume.safetensors")

    def check(self, resume: bool) -> None:
        """Refuses places that cannot be written, and to write over what a run has left.

        Raises:
            InputError: with the file and what to do.
        """
        with _writing(self.model):
            self._check_name()
        with _writing(self.resume):
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
        with _writing(self.log):
            lines = self.log.read_text().splitlines()[:epochs] if epochs and self.log.exists() else []
            self.log.write_text("".join(f"{line}\n" for line in lines))

    def append_log(self, entry: dict[str, Any]) -> None:
        with _writing(self.log), self.log.open("a") as log:
            log.write(json.dumps(entry) + "\n")


def _start(config: TrainConfig) -> _State:
    network = NETWORKS[config.model]().to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _State(network, torch.optim.Adam(network.parameters(), lr=config.learning_rate))


def _learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Linear rise over the first epoch, then half a cosine to zero."""
    if step < steps_per_epoch:
        return config.learning_rate * (step + 1) / steps_per_epoch
    done = (step - steps_per_epoch) / max(steps_per_epoch * (config.epochs - 1), 1)
    return config.learning_rate * 0.5 * (1 + float(np.cos(np.pi * done)))


def _run(state: _State, config: TrainConfig, training: ImageSet, validation: ImageSet, files: _Files) -> None:
    """Runs the epochs that are left, with a log line and a resume file after each."""
    x = _on_device(training.images, config.device)
    with Progress(len(training) * config.epochs, f"training {config.model}") as progress:
        progress.update(len(training) * state.epoch)
        while state.epoch < config.epochs:
            started_s = time.monotonic()
            loss = _train_epoch(state, config, x, progress)
            seconds = time.monotonic() - started_s
            bce, psnrs = evaluate(state.network, validation.images, config.device)
            state.epoch += 1
            if not math.isfinite(bce):
                raise InputError(f"validation loss {bce} after epoch {state.epoch}: no number; lower the learning rate")
            if bce < state.best_loss:
                state.best_loss = bce
                state.best = {name: t.detach().cpu().clone() for name, t in state.network.state_dict().items()}
            entry = {"epoch": state.epoch, "train_bce": loss, "valid_bce": bce, "valid_psnr_db": psnrs.mean()}
            files.append_log({**entry, "images_per_s": len(x) / seconds, "seconds": seconds})
            _save(state, files.resume, config, training)


def _on_device(images: NDArray[np.uint8], device: str) -> Tensor:
    """uint8 `[N, H, W, 3]` images as a uint8 `[N, 3, H, W]` tensor, channels last in memory."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2)


def _train_epoch(state: _State, config: TrainConfig, x: Tensor, progress: Progress) -> float:
    """One pass in an order that follows from seed and epoch alone; returns the mean loss."""
    order = torch.from_numpy(np.random.default_rng((config.seed, state.epoch)).permutation(len(x))).to(x.device)
    steps = -(-len(x) // config.batch_size)
    shown, total = 0, torch.zeros((), dtype=torch.float64, device=x.device)
    state.network.train()
    for step in range(steps):
        for group in state.optimizer.param_groups:
            group["lr"] = _learning_rate(config, state.epoch * steps + step, steps)
        batch = x[order[step * config.batch_size : (step + 1) * config.batch_size]].float() / 255
        loss = nn.functional.binary_cross_entropy_with_logits(state.network(batch), batch)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        total += loss.detach() * len(batch)
        done = min((step + 1) * config.batch_size, len(x))
        if step % PROGRESS_STEPS == 0 or done == len(x):
            progress.update(done - shown, epoch=state.epoch + 1, loss=f"{loss.item():.4f}")
            shown = done
    return total.item() / len(x)


@torch.no_grad()
def evaluate(network: SeedAutoencoder, images: NDArray[np.uint8], device: str) -> tuple[float, NDArray[np.float64]]:
    """Distortion of a network without quantised latents.

    Args:
        network: On `device`; left in evaluation mode.
        images: uint8 `[N, 32, 32, 3]`.
        device: Where to compute.

    Returns:
        Mean binary cross-entropy (nats per component), and each image's PSNR in dB, float64 `[N]`.
    """
    network.eval()
    loss, psnrs = 0.0, []
    for start in range(0, len(images), EVALUATION_BATCH):
        originals = images[start : start + EVALUATION_BATCH]
        x = _on_device(originals, device).float() / 255
        logits = network(x)
        loss += nn.functional.binary_cross_entropy_with_logits(logits, x).item() * len(x)
        x_hat = (torch.sigmoid(logits) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        psnrs.append(psnr_db(originals, x_hat))
    return loss / len(images), np.concatenate(psnrs)


def _finish(state: _State, config: TrainConfig, training: ImageSet, validation: ImageSet, files: _Files) -> Model:
    """Fits the quantiser and writes model and plot."""
    bce, psnrs = evaluate(state.network, validation.images, config.device)
    mean_psnr_db = float(psnrs.mean())
    facts = {"train_images": len(training), "valid_images": len(validation), "valid_bce": bce, "valid_psnr_db": mean_psnr_db}
    network = state.network.cpu()
    model = Model(config.model, network, _fit(network, training), training={**dataclasses.asdict(config), **facts})
    with _writing(files.model):
        paths.replace_file(files.model, model_to_bytes(model))
    _plot(files)
    return model


@torch.no_grad()
def _fit(network: SeedAutoencoder, training: ImageSet) -> LatentQuantizer:
    chosen = np.random.default_rng(0).permutation(len(training))[:QUANTIZER_IMAGES]
    parts = np.array_split(training.images[np.sort(chosen)], -(-len(chosen) // EVALUATION_BATCH))
    return fit_quantizer(np.concatenate([network.analysis(torch.from_numpy(to_network_input(p))).numpy() for p in parts]))


def _data_digest(training: ImageSet) -> str:
    return hashlib.sha256("\0".join(training.keys).encode("utf-8", "surrogateescape") + training.images.tobytes()).hexdigest()


def _save(state: _State, path: Path, config: TrainConfig, training: ImageSet) -> None:
    tensors = {f"network.{name}": t for name, t in state.network.state_dict().items()}
    tensors |= {f"best.{name}": t for name, t in state.best.items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": t for name, t in moments.items()}
    facts = {
        "config": dataclasses.asdict(config),
        "data": _data_digest(training),
        "epoch": state.epoch,
        "best_loss": state.best_loss,
    }
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with _writing(path):
        paths.replace_file(path, safetensors.torch.save(plain, {"resume": json.dumps(facts)}))


def _restore(state: _State, path: Path, config: TrainConfig, training: ImageSet) -> None:
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["resume"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: damaged ({error}); delete it to start anew") from error
    if facts["config"] != dataclasses.asdict(config) or facts["data"] != _data_digest(training):
        raise ModelError(f"{path}: from another recipe or other data; give the same ones, or delete it to start anew")
    _load(state, tensors)
    state.epoch, state.best_loss = facts["epoch"], facts["best_loss"]


def _load(state: _State, tensors: dict[str, Tensor]) -> None:
    def below(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    state.network.load_state_dict(below("network."))
    state.best = below("best.")
    moments: dict[int, dict[str, Tensor]] = {}
    for name, t in below("adam.").items():
        index, _, moment = name.partition(".")
        moments.setdefault(int(index), {})[moment] = t
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})


def _plot(files: _Files) -> None:
    """Draws training and validation loss against the epoch."""
    import matplotlib.figure

    entries = [json.loads(line) for line in files.log.read_text().splitlines()]
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("train_bce", "training"), ("valid_bce", "validation")):
        axes.plot([e["epoch"] for e in entries], [e[name] for e in entries], label=label)
    lowest = min(entries, key=lambda e: e["valid_bce"])
    axes.set_title(f"{files.model.stem}: best validation loss {lowest['valid_bce']:.5f} at epoch {lowest['epoch']}")
    later = [e[name] for e in entries[len(entries) // 10 :] for name in ("train_bce", "valid_bce")]
    margin = 0.05 * (max(later) - min(later)) + 1e-4  # the first epochs would flatten all that matters
    axes.set_ylim(min(later) - margin, max(later) + margin)
    axes.set_xlabel("epoch")
    axes.set_ylabel("binary cross-entropy (nats per component)")
    axes.legend(frameon=False)
    with _writing(files.plot):
        figure.savefig(files.plot, dpi=150)
