"""tsae: a folder of traffic-sign images becomes a small archive of Parquet shards, and comes back.

The whole public API, by what it is for. Names that need networks are imported when they are first used.

* read an archive: `open_archive`, `Archive`; some of it: `Selection`
* encode and decode: `Codec`, `read_model_file`
* errors: `tsae.errors.TsaeError` and its subclasses
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tsae.errors import TsaeError as TsaeError

if TYPE_CHECKING:
    from tsae.codec import Codec as Codec
    from tsae.reader import Archive as Archive
    from tsae.reader import open_archive as open_archive
    from tsae.selection import Selection as Selection
    from tsae.zoo import read_model_file as read_model_file

__version__ = "0.1.0"

_HOMES = {
    "open_archive": "tsae.reader",
    "Archive": "tsae.reader",
    "Selection": "tsae.selection",
    "Codec": "tsae.codec",
    "read_model_file": "tsae.zoo",
}

__all__ = ["TsaeError", "__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Imports a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tsae' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
