"""The model file: one safetensors file with weights, quantiser and a JSON header. Never pickle, so loading runs no code.

Owns the layout of that file. Tensors are the network's own names below `network.`, plus `quantizer.scale` and
`quantizer.offset` (float32 `[C]`). The metadata entry `tsae` is a JSON object with `format_version`, `name`,
`architecture`, `preprocessing` and `training` (free-form facts for people).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import safetensors
import safetensors.torch
import torch

from tsae.config import Preprocessing
from tsae.errors import ModelError
from tsae.model import NETWORKS, SeedAutoencoder
from tsae.quantize import LatentQuantizer

FORMAT_VERSION = 1

HEADER_TYPES = {"name": str, "architecture": str, "preprocessing": dict, "training": dict}
"""What the header holds beside the version, and as which JSON type."""


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network with all that turns its latents into bytes and back.

    Attributes:
        name: What users call it, such as "seed-8x8x8".
        network: In evaluation mode.
        quantizer: Fitted to the network's latents.
        preprocessing: What images must go through first.
        training: How it was trained, for people; JSON values only.
    """

    name: str
    network: SeedAutoencoder
    quantizer: LatentQuantizer
    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)


def fingerprint(model_file: bytes) -> str:
    """What binds an archive to its model: the SHA-256 of the model file, 64 hexadecimal digits."""
    return hashlib.sha256(model_file).hexdigest()


def model_to_bytes(model: Model) -> bytes:
    """The model file of `model`; equal models give equal bytes."""
    architecture = next(name for name, network in NETWORKS.items() if type(model.network) is network)
    header = {
        "format_version": FORMAT_VERSION,
        "name": model.name,
        "architecture": architecture,
        "preprocessing": model.preprocessing.to_json(),
        "training": model.training,
    }
    tensors = {f"network.{name}": t.detach().cpu().contiguous() for name, t in model.network.state_dict().items()}
    tensors["quantizer.scale"] = torch.from_numpy(model.quantizer.scale)
    tensors["quantizer.offset"] = torch.from_numpy(model.quantizer.offset)
    return safetensors.torch.save(tensors, {"tsae": json.dumps(header, sort_keys=True)})


def model_from_bytes(data: bytes, source: str) -> Model:
    """Reads a model file.

    Args:
        data: The whole file.
        source: Its path, for messages.

    Returns:
        The model, its network in evaluation mode on the CPU.

    Raises:
        ModelError: if the file is damaged, of a newer version, of an unknown architecture, or its tensors do not fit.
    """
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{source}: damaged or no safetensors file ({reason}); fetch or train it again") from error
    header = read_header(data, source)
    network = _build(header, tensors, source)
    try:
        quantizer = LatentQuantizer(tensors["quantizer.scale"].numpy(), tensors["quantizer.offset"].numpy())
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{source}: unusable quantiser ({error}); train the model again") from error
    if quantizer.scale.shape != network.latent_shape[:1]:
        raise ModelError(f"{source}: {quantizer.scale.size} scales for {network.latent_shape[0]} channels; train it again")
    preprocessing = Preprocessing.from_json(header["preprocessing"])
    return Model(header["name"], network, quantizer, preprocessing, header["training"])


def read_header(data: bytes, source: str) -> dict[str, Any]:
    """The JSON header of a model file.

    Args:
        data: The whole file, already known to be safetensors.
        source: Its path, for messages.

    Returns:
        The object described at the top of this module.

    Raises:
        ModelError: if it is no tsae model, or of a newer version.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["tsae"])
        version = header["format_version"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{source}: safetensors, but no tsae model (no `tsae` header); name a model of tsae's") from error
    if version != FORMAT_VERSION:
        raise ModelError(f"{source}: model format {version}, this tsae reads {FORMAT_VERSION}; update tsae")
    wrong = [name for name, kind in HEADER_TYPES.items() if not isinstance(header.get(name), kind)]
    if wrong:
        raise ModelError(f"{source}: header without a usable {', '.join(wrong)}; train the model again")
    return header


def _build(header: dict[str, Any], tensors: dict[str, torch.Tensor], source: str) -> SeedAutoencoder:
    architecture = header["architecture"]
    if architecture not in NETWORKS:
        raise ModelError(f"{source}: unknown architecture {architecture!r}, known: {', '.join(NETWORKS)}; update tsae")
    network = NETWORKS[architecture]()
    state = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{source}: weights do not fit {architecture} ({reason}); train the model again") from error
    if not all(bool(torch.isfinite(t).all()) for t in network.state_dict().values()):
        raise ModelError(f"{source}: weights that are not finite numbers; train the model again")
    return network.eval()
