"""The models that come with tsae: one table, and the way from a name or a path to a model file. Needs no torch."""

from __future__ import annotations

import dataclasses
import hashlib
from importlib import resources
from typing import Literal

from tsae import paths
from tsae.errors import ModelError

Kind = Literal["codec", "classifier"]


@dataclasses.dataclass(frozen=True)
class ZooEntry:
    """A model in the package.

    Attributes:
        file: Weights below `tsae/weights`.
        sha256: Of that file.
        card: How it was trained and what it is good for, beside it.
        kind: What it is for: `tsae.codec`, or `tsae.classifier`.
    """

    file: str
    sha256: str
    card: str
    kind: Kind = "codec"


ZOO = {
    "tsae": ZooEntry(
        "tsae.safetensors",
        "7a158efd42fc25a4a8a004b804f035f28bacf87803641940b4dd9cc0c179b5b9",
        "tsae.md",
    ),
    "seed-8x8x8": ZooEntry(
        "seed-8x8x8.safetensors",
        "11284fd355b31768f145845865b89d188cfb9c4f447759fa455861a99fabb543",
        "seed-8x8x8.md",
    ),
    "signs-43": ZooEntry(
        "signs-43.safetensors",
        "d619e2bb404a2142d81a72edfc75cd7367931747befa4894d0911af915e9e700",
        "signs-43.md",
        "classifier",
    ),
    "signs-43-seed": ZooEntry(
        "signs-43-seed.safetensors",
        "c7b70ef25c0497f3b5472355fcf7bf3db1f64c5fe19c8e8465ba1da5ca521e8a",
        "signs-43-seed.md",
        "classifier",
    ),
    "signs-43-tsae": ZooEntry(
        "signs-43-tsae.safetensors",
        "96d0d9f68d5b90fdc6422cdfe2db8ab9ee2f87f0c1e4c1ac029c2c55dd77383d",
        "signs-43-tsae.md",
        "classifier",
    ),
}


def names(kind: Kind) -> list[str]:
    """The models of a kind."""
    return [name for name, entry in ZOO.items() if entry.kind == kind]


def read_model_file(name: str) -> bytes:
    """The bytes of a model file.

    Args:
        name: A name of the table, or the path or URL of a file.

    Returns:
        The file; one from the table is known to be undamaged.

    Raises:
        ModelError: if there is no such model, it cannot be read, or the packaged file is damaged.
    """
    if name in ZOO:
        entry = ZOO[name]
        data = (resources.files("tsae") / "weights" / entry.file).read_bytes()
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise ModelError(f"{entry.file}: damaged inside the installed package; install tsae again")
        return data
    try:
        return paths.read_file(name)
    except OSError as error:
        known = ", ".join(ZOO)
        raise ModelError(f"{name}: no model of that name ({known}) and no readable file ({error}); name one") from error
