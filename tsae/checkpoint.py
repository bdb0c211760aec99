"""Models: the architectures, and what their files hold. The container of a file is `tsae.model_file`'s matter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tsae.config import SEED_LATENT_SHAPE, Preprocessing
from tsae.entropy import GRID, LATENT_LIMIT, Prior
from tsae.errors import ModelError
from tsae.fixed_point import FixedPointTransform
from tsae.model_file import Tensors, below, fingerprint, read_model_file, write_model_file
from tsae.quantize import LatentQuantizer
from tsae.zoo import ZOO, names
from tsae.zoo import read_model_file as read_packaged

PIXEL_LIMIT = 128
"""Greatest magnitude of a pixel less 128."""

PATCH = 48
"""Values of a patch of 4x4 pixels."""

if TYPE_CHECKING:
    from tsae.model import SeedAutoencoder


@dataclasses.dataclass(frozen=True, eq=False)
class SeedWeights:
    """`seed-8x8x8`: floating-point networks, latents stored as 8-bit integers.

    Attributes:
        network: Its tensors by torch's names: float32, but counters of batches, which are int64.
        quantizer: Fitted to the network's latents.
    """

    architecture: ClassVar[str] = "seed-8x8x8"
    qualities: ClassVar[int] = 0
    latent_shape: ClassVar[tuple[int, int, int]] = SEED_LATENT_SHAPE

    network: Tensors
    quantizer: LatentQuantizer

    @classmethod
    def of(cls, network: SeedAutoencoder, quantizer: LatentQuantizer) -> SeedWeights:
        """Copies what a network has learned."""
        return cls(
            {name: np.atleast_1d(t.detach().cpu().numpy().copy()) for name, t in network.state_dict().items()}, quantizer
        )

    def to_network(self) -> SeedAutoencoder:
        """A network for torch, in evaluation mode, on the CPU."""
        import torch

        from tsae.model import SeedAutoencoder

        network = SeedAutoencoder()
        network.load_state_dict({name: torch.from_numpy(t.copy()) for name, t in self.network.items()})
        return network.eval()

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return sum(t.size for name, t in self.network.items() if name.endswith((".weight", ".bias")))

    def to_tensors(self) -> Tensors:
        """The network's tensors below `network.`, and `quantizer.scale` and `quantizer.offset`, float32 `[C]`."""
        tensors = {f"network.{name}": t for name, t in self.network.items()}
        return {**tensors, "quantizer.scale": self.quantizer.scale, "quantizer.offset": self.quantizer.offset}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> SeedWeights:
        """Reads `to_tensors`'s arrays.

        Raises:
            ValueError: if they do not fit.
        """
        network = {name: np.atleast_1d(t) for name, t in below(tensors, "network.").items()}
        _check_seed_tensors(network)
        try:
            quantizer = LatentQuantizer(tensors["quantizer.scale"], tensors["quantizer.offset"])
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"unusable quantiser ({error})") from error
        if quantizer.scale.shape != cls.latent_shape[:1]:
            raise ValueError(f"{quantizer.scale.size} scales for {cls.latent_shape[0]} channels")
        return cls(network, quantizer)


SEED_CONVOLUTIONS = {
    "g_a.0": (64, 3),
    "g_a.4": (32, 64),
    "g_a.8": (8, 32),
    "g_s.0": (8, 32),
    "g_s.3": (32, 64),
    "g_s.6": (3, 64),
}
"""Layers of the seed's network and the first two axes of their weights; those of 3x3 follow."""

SEED_NORMS = {"g_a.1": 64, "g_a.5": 32, "g_s.1": 32, "g_s.4": 64}
"""Batch normalisations and their channels."""


COUNTER = "num_batches_tracked"
"""Of each batch normalisation, for torch."""


def _seed_shapes() -> dict[str, tuple[int, ...]]:
    """Tensors of the seed's network by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (first, second) in SEED_CONVOLUTIONS.items():
        is_transposed = name in ("g_s.0", "g_s.3")
        shapes |= {f"{name}.weight": (first, second, 3, 3), f"{name}.bias": (second if is_transposed else first,)}
    for name, channels in SEED_NORMS.items():
        shapes |= {f"{name}.{what}": (channels,) for what in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}.{COUNTER}"] = (1,)
    return shapes


def _check_seed_tensors(network: Tensors) -> None:
    shapes = _seed_shapes()
    wrong = sorted(network.keys() ^ shapes.keys())
    wrong += [name for name in sorted(network.keys() & shapes.keys()) if not _is_seed_tensor(name, network[name], shapes[name])]
    if wrong:
        raise ValueError(f"weights do not fit {SeedWeights.architecture}: {', '.join(wrong)}")
    if not all(np.isfinite(t).all() for t in network.values()):
        raise ValueError("weights that are not finite numbers")


def _is_seed_tensor(name: str, tensor: NDArray[Any], shape: tuple[int, ...]) -> bool:
    return tensor.shape == shape and tensor.dtype == (np.int64 if name.endswith(COUNTER) else np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedWeights:
    """`tsae-1`: networks in fixed point, entropy-coded latents, several qualities.

    Attributes:
        analysis: Patches of pixels less 128 to latents.
        synthesis: Dequantised latents to patches of pixels less 128.
        prior: Probabilities of the quantised latents.
    """

    architecture: ClassVar[str] = "tsae-1"

    analysis: FixedPointTransform
    synthesis: FixedPointTransform
    prior: Prior

    @property
    def qualities(self) -> int:
        """How many operating points there are."""
        return self.prior.qualities

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """`[C, H, W]`."""
        return (self.prior.channels, GRID, GRID)

    @property
    def parameters(self) -> int:
        """How many integers there are, those of the tables included."""
        return self.analysis.parameters + self.synthesis.parameters + sum(t.size for t in self.prior.to_tensors().values())

    def to_tensors(self) -> Tensors:
        """Integers below `analysis.`, `synthesis.` and `tables.`."""
        parts: dict[str, FixedPointTransform | Prior]
        parts = {"analysis": self.analysis, "synthesis": self.synthesis, "tables": self.prior}
        return {f"{part}.{name}": t for part, owner in parts.items() for name, t in owner.to_tensors().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> LearnedWeights:
        """Reads `to_tensors`'s arrays.

        Raises:
            ValueError: if they do not fit.
        """
        analysis = FixedPointTransform.from_tensors(below(tensors, "analysis."), PIXEL_LIMIT)
        synthesis = FixedPointTransform.from_tensors(below(tensors, "synthesis."), LATENT_LIMIT)
        prior = Prior.from_tensors(below(tensors, "tables."))
        shapes = (analysis.inputs, analysis.outputs, synthesis.inputs, synthesis.outputs)
        if shapes != (PATCH, prior.channels, prior.channels, PATCH):
            raise ValueError(f"networks {shapes} do not fit patches of {PATCH} and {prior.channels} channels")
        if not {analysis.qualities, synthesis.qualities} <= {1, prior.qualities}:
            raise ValueError(f"networks of {analysis.qualities} and {synthesis.qualities} qualities, not {prior.qualities}")
        return cls(analysis, synthesis, prior)


Weights = SeedWeights | LearnedWeights

ARCHITECTURES: dict[str, type[SeedWeights] | type[LearnedWeights]] = {
    weights.architecture: weights for weights in (SeedWeights, LearnedWeights)
}
"""Architecture name, as model files carry it, to what it is made of."""


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """All that turns images into bytes and back.

    Attributes:
        name: What users call it, such as "tsae".
        weights: Of one of the architectures.
        preprocessing: What images must go through first.
        training: How it was trained, for people; JSON values only.
    """

    name: str
    weights: Weights
    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)


def model_to_bytes(model: Model) -> bytes:
    """The model file of `model`; equal models give equal bytes."""
    header = {
        "name": model.name,
        "architecture": model.weights.architecture,
        "preprocessing": model.preprocessing.to_json(),
        "training": model.training,
    }
    return write_model_file(header, model.weights.to_tensors())


def model_from_bytes(data: bytes, source: str) -> Model:
    """Reads a model file.

    Args:
        data: The whole file.
        source: Its path, for messages.

    Returns:
        The model, on the CPU.

    Raises:
        ModelError: if the file is damaged, of a newer version, of an unknown architecture, or its tensors do not fit.
    """
    header, tensors = read_model_file(data, source)
    architecture = header["architecture"]
    if architecture not in ARCHITECTURES:
        raise ModelError(f"{source}: unknown architecture {architecture!r}, known: {', '.join(ARCHITECTURES)}; update tsae")
    try:
        weights = ARCHITECTURES[architecture].from_tensors(tensors)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{source}: {reason}; train the model again") from error
    return Model(header["name"], weights, Preprocessing.from_json(header["preprocessing"]), header["training"])


def describe_models() -> list[dict[str, object]]:
    """Facts about each model of the table, JSON values only.

    Raises:
        ModelError: if a packaged file is damaged.
    """
    return [_describe(name, read_packaged(name)) for name in names("codec")]


def _describe(name: str, data: bytes) -> dict[str, object]:
    model = model_from_bytes(data, ZOO[name].file)
    channels, height, width = model.weights.latent_shape
    return {
        "name": name,
        "kind": "codec",
        "latents": f"{height}x{width}x{channels}",
        "qualities": model.weights.qualities,
        "parameters": model.weights.parameters,
        "model_bytes": len(data),
        "sha256": fingerprint(data),
        "card": f"tsae/weights/{ZOO[name].card}",
        "training": model.training,
    }
