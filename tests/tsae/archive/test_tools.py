"""Other tools read archives: every command of docs/READING.md is run as it stands there, on a golden archive."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import tsae
from tsae.archive import ArchiveFiles

ROOT = Path(__file__).resolve().parent.parent.parent.parent
PAGE = (ROOT / "docs" / "READING.md").read_text()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an archive in it as the page names it; relative paths lead there."""
    shutil.copytree(ROOT / "tests" / "golden" / "v1" / "signs", tmp_path / "signs-archive")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found
    return found


def run_python() -> dict[str, Any]:
    """The names that the page's Python leaves behind, without that for Hugging Face's library."""
    names: dict[str, Any] = {}
    for block in blocks("python"):
        if "import datasets" not in block:
            exec(block, names)  # noqa: S102 - the page is ours
    return names


def run_sql() -> list[list[tuple[Any, ...]]]:
    (block,) = blocks("sql")
    return [duckdb.sql(statement).fetchall() for statement in block.split(";") if statement.strip()]


def facts() -> list[dict[str, Any]]:
    """What the archive holds, by this package."""
    with tsae.open_archive("signs-archive") as archive:
        return list(archive.rows())


def test_duckdb_reads_plain_columns(place: Path) -> None:
    worst, by_label, failures, shards, origins = run_sql()
    rows = facts()
    columns = ("key", "width", "height", "label", "psnr_db")
    wanted = sorted((tuple(row[column] for column in columns) for row in rows), key=lambda row: row[4])
    assert worst == wanted[:5]
    assert {label: images for label, images, _ in by_label} == {
        label: sum(row["label"] == label for row in rows) for label in {row["label"] for row in rows}
    }
    files = ArchiveFiles("signs-archive")
    assert failures == [(failure.path, failure.stage, failure.message) for failure in files.failures()]
    assert shards == [(e.file, e.rows, e.bytes, e.first_key, e.last_key) for e in files.entries()]
    assert {key for key, _, _ in origins} == {row["key"] for row in rows}


def test_duckdb_reads_streams_digests_and_footers(place: Path) -> None:
    rows = duckdb.sql("SELECT key, stream, lossless FROM 'signs-archive/shards/*.parquet'").fetchall()
    with tsae.open_archive("signs-archive") as archive:
        latents = archive.latents([key for key, _, _ in rows])
        assert [stream for _, stream, _ in rows] == [one.tobytes() for one in latents]
        assert sum(lossless is not None for _, _, lossless in rows) == archive.manifest.counts.lossless
    for file, sha256 in duckdb.sql("SELECT file, sha256 FROM 'signs-archive/lists/*.parquet'").fetchall():
        assert hashlib.sha256((place / "signs-archive" / file).read_bytes()).digest() == sha256
    query = "SELECT decode(value) FROM parquet_kv_metadata('signs-archive/shards/*.parquet') WHERE decode(key) = 'tsae'"
    models = {json.loads(value)["model_sha256"] for (value,) in duckdb.sql(query).fetchall()}
    assert models == {hashlib.sha256((place / "signs-archive" / "model.safetensors").read_bytes()).hexdigest()}


def test_duckdb_selects_and_skips_by_key(place: Path) -> None:
    query = "SELECT key FROM 'signs-archive/shards/*.parquet' WHERE key BETWEEN 'stop/01' AND 'stop/03a.png' ORDER BY key"
    found = [key for (key,) in duckdb.sql(query).fetchall()]
    assert found == sorted(row["key"] for row in facts() if "stop/01" <= row["key"] <= "stop/03a.png")
    assert len(found) == 4


def test_the_pages_python_gives_what_the_archive_gives(place: Path) -> None:
    names, rows = run_python(), facts()
    assert isinstance(names["worst"], pd.DataFrame)
    assert names["worst"]["key"].tolist() == [row["key"] for row in sorted(rows, key=lambda row: row["psnr_db"])][:5]
    assert [row["key"] for row in names["records"].to_pylist()] == [row["key"] for row in rows]
    assert names["damaged"] == []
    assert names["everything"].equals(names["records"].cast(names["everything"].schema))
    with tsae.open_archive("signs-archive") as archive:
        keys = ["stop/00.png", "zebra.png"]
        places = [names["table"]["key"].to_pylist().index(key) for key in keys]
        assert np.array_equal(names["latents"][places], archive.latents(keys))
        assert names["latents"].dtype == np.int8
        assert names["y_hat"].shape == (len(archive), *archive.manifest.latent_shape)
        assert names["images"].shape == (6 + 1, 32, 32, 3)


def test_the_pages_loader_gives_what_the_archive_gives(place: Path) -> None:
    names = run_python()
    rows = facts()
    assert [names["data"].classes[label] if label >= 0 else None for label in names["data"].labels] == [
        r["label"] for r in rows
    ]
    assert names["state"]["images"] == len(rows)
    assert np.array_equal(names["values"].numpy(), names["data"].__getitems__(names["positions"].numpy()).values.numpy())
    assert list(names["loader"]) == []


HUGGING_FACE = """
import sys
import numpy as np
names = {}
exec(open(sys.argv[1]).read(), names)
signs, archive = names["signs"], names["archive"]
rows = [row for row in archive.rows() if row["label"] is not None]
assert [signs.features["label"].names[label] for label in signs[:]["label"]] == [row["label"] for row in rows]
assert np.array_equal(signs[:]["latents"], archive.latents([row["key"] for row in rows]))
assert names["first"]["latents"].shape == (4, 8, 8, 8)
import datasets, torch
for batch in torch.utils.data.DataLoader(signs, batch_size=4):
    assert batch["latents"].dtype == torch.int8
stream = datasets.load_dataset(
    "parquet", data_files="signs-archive/shards/*.parquet", split="train", streaming=True, columns=["key", "psnr_db"]
)
assert list(stream) == [{name: row[name] for name in ("key", "psnr_db")} for row in archive.rows()]
"""


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs datasets")
def test_hugging_faces_library_loads_shards(place: Path) -> None:
    (block,) = [block for block in blocks("python") if "import datasets" in block]
    (place / "page.py").write_text(block)
    environ = {**os.environ, "HF_HOME": str(place / "hf"), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, "-c", HUGGING_FACE, "page.py"], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_pages_checksum_finds_a_changed_record(place: Path) -> None:
    names = run_python()
    rows = names["records"].to_pylist()
    changes = {
        "width": 1,
        "height": 2,
        "label": "other",
        "psnr_db": None,
        "coding": 2,
        "stream": b"",
        "lossless": b"x",
        "key": "k",
    }
    for name, value in changes.items():
        assert names["checksum"]({**rows[0], name: value}) != rows[0]["crc32"], name


def test_pandas_reads_every_kind_of_file(place: Path) -> None:
    files = ArchiveFiles("signs-archive")
    frame = pd.read_parquet("signs-archive/shards")
    assert len(frame) == files.manifest.images
    assert frame["label"].isna().sum() == sum(row["label"] is None for row in facts())
    assert pd.read_parquet("signs-archive/failures")["path"].tolist() == [failure.path for failure in files.failures()]
    assert pd.read_parquet("signs-archive/lists")["rows"].sum() == len(frame)
    assert set(pd.read_parquet("signs-archive/provenance")["key"]) == set(frame["key"])


def test_pyarrow_checks_the_pages_if_asked_to(place: Path) -> None:
    """The checksums of pages are Parquet's own, so that other tools can look at them, too."""
    shard = sorted((place / "signs-archive" / "shards").iterdir())[0]
    data = bytearray(shard.read_bytes())
    assert pq.ParquetFile(shard, page_checksum_verification=True).read().num_rows == 3
    column = pq.ParquetFile(shard).metadata.row_group(0).column(6)
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        pq.ParquetFile(shard, page_checksum_verification=True).read()
