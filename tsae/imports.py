"""What a process of our own need not import."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec


class _NotPandas(MetaPathFinder):
    """Finds no pandas, whether or not it is installed."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not imported in a process of tsae", name="pandas")
        return None


def do_without_pandas() -> None:
    """Lets imports of pandas fail from now on, for programs of our own alone.

    Where it is installed, pyarrow imports it when it first sees a list: a quarter of a second, longer than most commands take.
    """
    sys.meta_path.insert(0, _NotPandas())
