"""A general learned codec on the same images: CompressAI's `bmshj2018-hyperprior`, trained from scratch, real strings.

    python benchmarks/compressai_baseline.py TRAIN TEST --work DIR [--minutes M] [--first-minutes M] [--limit N]

TRAIN and TEST are what `tsae train` takes; of TRAIN, the training images alone are used. The points are those of several
weights of the distortion (255^2 MSE, as CompressAI documents the loss), the highest rate first; each goes on from the one
before, so a later point has had all the minutes before it as well. Then `update()`, `compress()` and `decompress()` of the
test images: bytes are the lengths of the strings, nothing else. Writes `compressai.json` to `--out`, which
`rate_distortion.py` reads. `--work` keeps checkpoints: a killed run goes on with the same command.

Images of 32 px: the model's z has stride 64. `--padding crop` (default) keeps the images as they are, lets z be one position,
and cuts what the hyper decoder makes of it, 4x4, to the 2x2 of y. `--padding zero` is CompressAI's own way, zeros
around up to 64 px: four times the work, and four times the latents to code.

Best in an environment of its own, since its numpy may be older: `pip install compressai`, then tsae. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rd.points import Coded, Images, Point, describe, digest, select
from rd.run_facts import run_facts
from torch import Tensor, nn

from tsae.training.images import load_images, split_images

warnings.filterwarnings("ignore", category=FutureWarning)

from compressai.losses import RateDistortionLoss  # noqa: E402
from compressai.ops import compute_padding  # noqa: E402
from compressai.zoo import image_models  # noqa: E402

CURVE = "bmshj2018-hyperprior"
LAMBDAS = (0.36, 0.18, 0.0932, 0.0483, 0.025, 0.013, 0.0067)
"""CompressAI's own from 0.0067 to 0.18, and one above them."""

SIZE_PX, STRIDE_PX, Y_STRIDE_PX = 32, 64, 16
EVALUATION_BATCH = 64
LAST_LEARNING_RATE, AUXILIARY_LEARNING_RATE = 2e-5, 1e-3
CLIP_NORM = 1.0
CHECKPOINT_S, REPORT_S = 120.0, 15.0
TIMING_IMAGES, TIMING_ROUNDS = 64, 3


SETTINGS = ("architecture", "padding", "seed", "minutes", "first_minutes", "batch", "learning_rate")
"""Arguments that decide what is trained."""


class Crop(nn.Module):
    """Leaves the first rows and columns of an image of features."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Crops `[N, C, H, W]`."""
        return x[..., : self.size, : self.size]


class Padded:
    """The network for images of 32 px, by one of the two ways."""

    def __init__(self, architecture: int, padding: str) -> None:
        """A new network with random weights.

        Args:
            architecture: CompressAI's "quality", which decides about widths only.
            padding: "crop" or "zero".
        """
        self.net = image_models[CURVE](architecture, metric="mse")
        if padding == "crop":
            self.pad, self.unpad = (0, 0, 0, 0), (0, 0, 0, 0)
            self.net.h_s = nn.Sequential(self.net.h_s, Crop(SIZE_PX // Y_STRIDE_PX))
        else:
            self.pad, self.unpad = compute_padding(SIZE_PX, SIZE_PX, min_div=STRIDE_PX)

    def __call__(self, x: Tensor) -> dict[str, Any]:
        """What the loss takes: reconstructions of the size of the images, and likelihoods."""
        output = self.net(nn.functional.pad(x, self.pad))
        return {**output, "x_hat": nn.functional.pad(output["x_hat"], self.unpad)}

    def encode(self, images: Images) -> list[dict[str, Any]]:
        """Strings of batches of images."""
        with torch.inference_mode():
            return [self.net.compress(nn.functional.pad(x, self.pad)) for x in torch.split(to_tensor(images), EVALUATION_BATCH)]

    def decode(self, batches: list[dict[str, Any]]) -> Images:
        """Images from strings alone."""
        with torch.inference_mode():
            parts = [self.net.decompress(batch["strings"], batch["shape"])["x_hat"] for batch in batches]
        return to_pixels(nn.functional.pad(torch.cat(parts), self.unpad))


def to_tensor(images: Images) -> Tensor:
    """Images as float32 `[N, 3, 32, 32]` from 0 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def to_pixels(x: Tensor) -> Images:
    """The way back."""
    pixels: NDArray[np.uint8] = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


@dataclasses.dataclass
class Progress:
    """Where training stands.

    Attributes:
        row: Which of `LAMBDAS` is trained.
        spent_s: Time spent on it.
        steps: Taken for it.
        total_s: Time spent on all.
        total_steps: Taken for all.
    """

    row: int = 0
    spent_s: float = 0.0
    steps: int = 0
    total_s: float = 0.0
    total_steps: int = 0


class Trainer:
    """Network, optimisers and progress, with a checkpoint."""

    def __init__(self, args: argparse.Namespace, images: Images) -> None:
        """Starts anew, or from the checkpoint of the same settings."""
        torch.manual_seed(args.seed)
        self.images, self.progress = images, Progress()
        self.model = Padded(args.architecture, args.padding)
        named = list(self.model.net.named_parameters())
        self.weights = [p for name, p in named if not name.endswith(".quantiles")]
        self.optimizer = torch.optim.Adam(self.weights, args.learning_rate, fused=True)
        self.auxiliary = torch.optim.Adam([p for name, p in named if name.endswith(".quantiles")], AUXILIARY_LEARNING_RATE)
        self.settings = {name: getattr(args, name) for name in SETTINGS}
        self.minutes = [args.first_minutes or args.minutes, *([args.minutes] * (len(LAMBDAS) - 1))]
        self.file: Path = args.work / "checkpoint.pt"
        if self.file.exists():
            self._load()

    def _parts(self) -> dict[str, Any]:
        return {"net": self.model.net, "optimizer": self.optimizer, "auxiliary": self.auxiliary}

    def save(self) -> None:
        """Writes the checkpoint in one step."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"progress": dataclasses.asdict(self.progress), "settings": self.settings, "rng": torch.get_rng_state()}
        new = self.file.with_suffix(".new")
        torch.save(state, new)
        os.replace(new, self.file)

    def _load(self) -> None:
        state = torch.load(self.file, weights_only=True)
        assert state["settings"] == self.settings, f"{self.file} is of {state['settings']}; name another folder"
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["rng"])

    def train(self) -> None:
        """Trains for the present weight of the distortion until its minutes are over."""
        progress, budget_s = self.progress, self.minutes[self.progress.row] * 60
        criterion = RateDistortionLoss(LAMBDAS[progress.row])
        self.model.net.train()
        saved_s = reported_s = time.monotonic()
        losses: list[tuple[float, float]] = []
        while progress.spent_s < budget_s:
            started_s = time.monotonic()
            self._set_learning_rate(progress.spent_s / budget_s)
            losses.append(self._step(criterion))
            now_s = time.monotonic()
            self._count(now_s - started_s)
            if now_s - reported_s > REPORT_S:
                self._report(losses)
                losses, reported_s = [], now_s
            if now_s - saved_s > CHECKPOINT_S:
                self.save()
                saved_s = now_s

    def _step(self, criterion: nn.Module) -> tuple[float, float]:
        """One step on a random batch; returns bits per pixel and MSE."""
        rows = torch.randint(len(self.images), (self.settings["batch"],)).numpy()
        x = to_tensor(self.images[rows])
        self.optimizer.zero_grad()
        self.auxiliary.zero_grad()
        loss = criterion(self.model(x), x)
        loss["loss"].backward()
        nn.utils.clip_grad_norm_(self.weights, CLIP_NORM)
        self.optimizer.step()
        self.model.net.aux_loss().backward()
        self.auxiliary.step()
        return loss["bpp_loss"].item(), loss["mse_loss"].item()

    def _set_learning_rate(self, share: float) -> None:
        """A cosine over the minutes of each point, each from half of where the first starts."""
        top = self.settings["learning_rate"] / (1 if self.progress.row == 0 else 2)
        for group in self.optimizer.param_groups:
            group["lr"] = LAST_LEARNING_RATE + (top - LAST_LEARNING_RATE) * (1 + math.cos(math.pi * min(share, 1))) / 2

    def _count(self, taken_s: float) -> None:
        self.progress.spent_s += taken_s
        self.progress.total_s += taken_s
        self.progress.steps += 1
        self.progress.total_steps += 1

    def _report(self, losses: list[tuple[float, float]]) -> None:
        bpp, mse = (statistics.fmean(column) for column in zip(*losses, strict=True))
        print(
            f"lambda {LAMBDAS[self.progress.row]}: {self.progress.spent_s / 60:.1f} min, {self.progress.steps} steps, "
            f"{bpp * SIZE_PX**2 / 8:.1f} bytes, MSE {255**2 * mse:.1f} ({-10 * math.log10(mse):.2f} dB), "
            f"loss {LAMBDAS[self.progress.row] * 255**2 * mse + bpp:.3f}",
            flush=True,
        )


def measure(trainer: Trainer, images: Images) -> Point:
    """The operating point of the network as it is now, from strings."""
    model = trainer.model
    model.net.eval()
    model.net.update(force=True)
    batches = model.encode(images)
    sizes = [len(string) for batch in batches for strings in batch["strings"] for string in strings]
    model_bytes = sum(p.numel() * p.element_size() for p in model.net.parameters())
    coded = Coded(sum(sizes) / len(images), model.decode(batches), model_bytes=model_bytes)
    point = describe(CURVE, f"lambda {LAMBDAS[trainer.progress.row]}", images, coded)
    encode_us, decode_us = times_us(model, images[select(len(images), TIMING_IMAGES)])
    return dataclasses.replace(point, encode_us=encode_us, decode_us=decode_us, facts=facts_of(trainer, images))


def times_us(model: Padded, images: Images) -> tuple[float, float]:
    """Medians of encoding and decoding times, us an image, in one batch."""
    taken = []
    for _ in range(TIMING_ROUNDS):
        started_s = time.perf_counter()
        batches = model.encode(images)
        between_s = time.perf_counter()
        model.decode(batches)
        taken.append((between_s - started_s, time.perf_counter() - between_s))
    encode_s, decode_s = (statistics.median(column) for column in zip(*taken, strict=True))
    return encode_s * 1e6 / len(images), decode_s * 1e6 / len(images)


def facts_of(trainer: Trainer, images: Images) -> dict[str, Any]:
    """What a point's training took, and its size by likelihoods: strings end on whole words, which costs some bytes."""
    progress = trainer.progress
    with torch.inference_mode():
        outputs = [trainer.model(x)["likelihoods"].values() for x in torch.split(to_tensor(images), EVALUATION_BATCH)]
    bits = -sum(float(torch.log2(likelihoods).sum()) for output in outputs for likelihoods in output)
    return {
        "minutes": progress.spent_s / 60,
        "image_steps": progress.steps * trainer.settings["batch"],
        "total_minutes": progress.total_s / 60,
        "total_image_steps": progress.total_steps * trainer.settings["batch"],
        "likelihood_bytes": bits / 8 / len(images),
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for checkpoints")
    parser.add_argument("--minutes", type=float, default=30, metavar="M", help="of training a point (default: %(default)s)")
    parser.add_argument("--first-minutes", type=float, metavar="M", help="of the first point, from scratch (default: the same)")
    parser.add_argument(
        "--architecture", type=int, choices=range(1, 9), default=5, help="128/192 channels to 5, 192/320 from 6"
    )
    parser.add_argument("--padding", choices=["crop", "zero"], default="crop")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="images a step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, metavar="RATE", help="at first (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, metavar="N", help="measure on so many test images, evenly spaced")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    return parser.parse_args()


def write(args: argparse.Namespace, images: Images, points: list[Point]) -> None:
    """Writes all points that there are."""
    facts = {
        **run_facts(("tsae", "torch", "numpy", "compressai")),
        **{name: getattr(args, name) for name in SETTINGS},
        "lambdas": LAMBDAS,
        "data": Path(args.test).name,
        "images": len(images),
        "images_sha256": digest(images),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    result = {**facts, "points": [dataclasses.asdict(point) for point in points]}
    (args.out / "compressai.json").write_text(json.dumps(result, indent=1) + "\n")


def measured(args: argparse.Namespace, trainer: Trainer, images: Images) -> Point:
    """The point of the present weight, measured once and kept beside the checkpoint."""
    file: Path = args.work / f"point-{trainer.progress.row}-{digest(images)}.json"
    if not file.exists():
        file.write_text(json.dumps(dataclasses.asdict(measure(trainer, images))))
    return Point(**json.loads(file.read_bytes()))


def main() -> None:
    """Trains and measures one point after the other."""
    args = parse()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    test = load_images(args.test).images
    test = test[select(len(test), args.limit)]
    trainer = Trainer(args, split_images(load_images(args.train), args.train)[0].images)
    done = sorted(args.work.glob(f"point-*-{digest(test)}.json"))
    points = [Point(**json.loads(file.read_bytes())) for file in done[: trainer.progress.row]]
    while trainer.progress.row < len(LAMBDAS):
        trainer.train()
        trainer.save()
        points.append(measured(args, trainer, test))
        print(json.dumps(dataclasses.asdict(points[-1])), flush=True)
        write(args, test, points)
        trainer.progress = dataclasses.replace(trainer.progress, row=trainer.progress.row + 1, spent_s=0.0, steps=0)
        trainer.save()


if __name__ == "__main__":
    main()
