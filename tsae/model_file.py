"""The model file: one safetensors file with a JSON header. Never pickle, so loading runs no code. Needs no torch.

Owns the container, not what is in it: `tsae.checkpoint` says which tensors a model has. The metadata entry `tsae` is a JSON
object with `format_version`, `name`, `architecture`, `preprocessing` and `training` (free-form facts for people).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from tsae.errors import ModelError

FORMAT_VERSION = 1

HEADER_TYPES = {"name": str, "architecture": str, "preprocessing": dict, "training": dict}
"""What the header holds beside the version, and as which JSON type."""

CLASSIFIER = "signs-1"
"""The architecture of classifiers: of all others, models are codecs."""

Tensors = dict[str, NDArray[Any]]


def fingerprint(model_file: bytes) -> str:
    """What binds an archive to its model: the SHA-256 of the model file, 64 hexadecimal digits."""
    return hashlib.sha256(model_file).hexdigest()


def write_model_file(header: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The file; equal contents give equal bytes.

    Args:
        header: What `HEADER_TYPES` names.
        tensors: By name.
    """
    text = json.dumps({"format_version": FORMAT_VERSION, **header}, sort_keys=True)
    return safetensors.numpy.save({name: np.ascontiguousarray(t) for name, t in tensors.items()}, {"tsae": text})


def read_model_file(data: bytes, source: str) -> tuple[dict[str, Any], Tensors]:
    """Header and tensors.

    Args:
        data: The whole file.
        source: Its path, for messages.

    Raises:
        ModelError: if the file is damaged, no tsae model, or of a newer version.
    """
    try:
        tensors = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{source}: damaged or no safetensors file ({reason}); fetch or train it again") from error
    return read_header(data, source), tensors


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


def below(tensors: Mapping[str, NDArray[Any]], prefix: str) -> Tensors:
    """The tensors whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
