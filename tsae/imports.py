"""What a process of our own need not import."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _NoPandas(MetaPathFinder, Loader):
    """Finds a pandas that cannot be imported, whether or not it is installed.

    To fail at finding would be shorter, but torch looks for it before it trains, and expects an answer.
    """

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname == "pandas" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        raise ModuleNotFoundError("pandas is not imported in a process of tsae", name="pandas")


def do_without_pandas() -> None:
    """Lets imports of pandas fail from now on, for programs of our own alone.

    Where it is installed, pyarrow imports it when it first sees a list: a quarter of a second, longer than most commands take.
    """
    sys.meta_path.insert(0, _NoPandas())
