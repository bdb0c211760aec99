from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tsae.entropy.priors import numbers, prior
from tsae.entropy import arrays, kernels
from tsae.entropy.arrays import LINE_BYTES, room
from tsae.entropy.coder import EntropyCoder

ROOT = Path(__file__).parents[3]


def test_one_compilation_serves_all() -> None:
    """Whatever the prior, its arrays and the direction are."""
    for options in ({}, {"units": 40, "owns": 0}):
        coder = EntropyCoder(prior(**options))
        symbols = numbers("symbols", 2, 2, 4, 8, 8).astype(np.int16)
        symbols.flags.writeable = False
        assert len(coder.decode(coder.encode(symbols, 3), [3, 3])) == 2
    assert len(kernels.code_images.signatures) == 1  # type: ignore[attr-defined]


def test_compiled_functions_need_no_place_for_a_cache() -> None:
    scope: dict[str, object] = {}
    exec(compile("def double(x):\n    return 2 * x", "no such file", "exec"), scope)  # noqa: S102
    with pytest.raises(RuntimeError, match="cannot cache"):
        kernels.numba.njit(cache=True)(scope["double"])
    assert kernels.compiled(scope["double"])(21) == 42  # type: ignore[type-var, operator]


def test_import_without_a_writable_place(tmp_path: Path) -> None:
    """Neither the package's folder nor the home can be written to, as in many containers."""
    code = """
import numba.core.caching as caching
def nowhere(self):
    raise OSError
for name in dir(caching):
    if name.endswith("CacheLocator"):
        getattr(caching, name).ensure_cache_path = nowhere
from tsae.entropy import kernels
assert "NullCache" in type(kernels.code_images._cache).__name__
"""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_rooms_start_with_a_cache_line() -> None:
    for size in (1, 7, 100, 12345):
        array = room(size, np.int16)
        assert array.shape == (size,)
        assert array.dtype == np.int16
        assert array.ctypes.data % LINE_BYTES == 0


def test_cells_of_rows_do_not_touch() -> None:
    cells = [[kernels.cell_of.py_func(8 * y + x) for x in range(8)] for y in range(8)]  # type: ignore[attr-defined]
    inside = {cell for row in cells for cell in row}
    assert len(inside) == 64
    for y in range(8):
        for x in range(8):
            for dy in range(-1, 3):
                for dx in range(-2, 3):
                    near = cells[y][x] + dy * arrays.ROW + dx
                    here = 0 <= y + dy < 8 and 0 <= x + dx < 8
                    assert near == cells[y + dy][x + dx] if here else near not in inside
                    assert 0 <= near < arrays.CELLS or (dy == -1 and dx == -2)  # which no tap reaches
    assert max(inside) + 2 * arrays.ROW - arrays.CAUSAL_REACH + arrays.CAUSAL_COLUMNS <= arrays.CELLS
