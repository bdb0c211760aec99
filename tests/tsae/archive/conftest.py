"""Records made of noise: what an archive holds needs no network to be stored and found."""

from collections.abc import Callable

import numpy as np
import pytest

from tsae.archive import Coding, Records


@pytest.fixture(scope="session")
def make_records() -> Callable[..., Records]:
    """Makes `count` records, keys `<prefix>00000.png` and so on; the same arguments give the same records."""

    def make(count: int, prefix: str = "sign/", stream_bytes: int = 40, seed: int = 0) -> Records:
        rng = np.random.default_rng([seed, count])
        return Records(
            [f"{prefix}{index:05d}.png" for index in range(count)],
            rng.integers(20, 150, count, dtype=np.uint32),
            rng.integers(20, 150, count, dtype=np.uint32),
            [(None, "", "stop", "Ende – 80")[index % 4] for index in range(count)],
            np.full(count, Coding.LATENTS_INT8, np.uint8),
            [rng.bytes(stream_bytes) for _ in range(count)],
        )

    return make
