"""Records made of noise, and archives of them: what an archive holds needs no network to be stored and found."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pytest

from tsae.archive import (
    MANIFEST_FILE,
    MODEL_FILE,
    ArchiveFiles,
    Coding,
    Failure,
    Manifest,
    Origin,
    Records,
    Settings,
    commit,
    count,
    digest,
    failures_to_bytes,
    file_number,
    write,
    write_digested,
    write_lists,
    write_shard,
)
from tsae.paths import Folder

NOTHING: Mapping[int, Records] = MappingProxyType({})


@pytest.fixture(scope="session")
def make_records() -> Callable[..., Records]:
    """Makes `count` records, keys `<prefix>00000.png` and so on; the same arguments give the same records.

    Every fifth image is stored losslessly as well, and all were measured.
    """

    def make(count: int, prefix: str = "sign/", stream_bytes: int = 40, seed: int = 0) -> Records:
        rng = np.random.default_rng([seed, count])
        return Records(
            [f"{prefix}{index:05d}.png" for index in range(count)],
            rng.integers(20, 150, count, dtype=np.uint32),
            rng.integers(20, 150, count, dtype=np.uint32),
            [(None, "", "stop", "Ende – 80")[index % 4] for index in range(count)],
            rng.integers(20 * 64, 50 * 64, count).astype(np.float32) / 64,
            np.full(count, Coding.LATENTS_INT8, np.uint8),
            [rng.bytes(stream_bytes) for _ in range(count)],
            [rng.bytes(30) if index % 5 == 3 else None for index in range(count)],
        )

    return make


@pytest.fixture(scope="session")
def model() -> bytes:
    """What stands for the model of the archives below."""
    return b"not a model, but its digest is checked all the same"


@pytest.fixture(scope="session")
def write_state(model: bytes) -> Callable[..., Manifest]:
    """Commits a state of an archive: shards after those that are there, and some in the place of others."""

    def write_state(
        folder: Folder, added: Sequence[Records], replaced: Mapping[int, Records] = NOTHING, failures: Sequence[Failure] = ()
    ) -> Manifest:
        base = ArchiveFiles(folder.path) if folder.exists(MANIFEST_FILE) else None

        def write_one(number: int, records: Records) -> object:
            origins = {key: Origin.of(key.encode(), "1") for key in records.keys}
            return write_shard(folder, number, records, origins, digest(model))

        first = base.shards if base else 0
        new = [write_one(first + number, records) for number, records in enumerate(added)]
        old = {number: write_one(file_number(base.entry(number).file), records) for number, records in replaced.items()}
        lists = write_lists(folder, base, old, new)
        tables = [
            write_digested(folder, "failures", number, failures_to_bytes([failure]), 1)
            for number, failure in enumerate(failures)
        ]
        manifest = Manifest(
            requires=(),
            model="test",
            model_file=MODEL_FILE,
            model_bytes=len(model),
            model_sha256=digest(model),
            latent_shape=(1, 8, 5),
            preprocessing={},
            settings=Settings("/in", "/in", True, None),
            created_by="tsae test",
            counts=count(folder, lists, len(tables), 0),
            lists=lists,
            failures=tuple(tables),
        )
        write(folder, MODEL_FILE, model)
        commit(folder, manifest, base.manifest_text if base else None)
        return manifest

    return write_state
