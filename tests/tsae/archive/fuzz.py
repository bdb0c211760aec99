"""Damages small archives in every way it can think of, reads all of them, and says where the reader breaks its promise.

`python -m tests.tsae.archive.fuzz --minutes 10 --seed 0`, from the repository. Case N of seed S is always the same, so a
violation is repeated with `--seed S --first N --cases 1`. Cases run in a forked child, so that an end of the process in
native code, a hang, or memory without bound is seen as well.

The promise: what was damaged by chance gives right data, or a `TsaeError` of one line that names the file; nothing else
is raised; memory stays bounded. What was damaged with all digests repaired (a lie) may in addition tell other things of
itself than before, such as other counts; but each record that is handed out is one that was written, because its
checksum holds.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import io
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tsae.archive import Folder, Records, digest, pages, shards
from tsae.archive.failures import FAILURE_FILE
from tsae.archive.lists import LIST_FILE, ShardList
from tsae.archive.manifest import read_manifest_text
from tsae.archive.parquet import split_file
from tsae.archive.shards import SHARD_FILE
from tsae.errors import TsaeError
from tsae.reader import Archive
from tsae.selection import Selection

Files = dict[str, bytes]
"""A whole archive: relative names to bytes."""

MANIFEST = "manifest.json"
PATH = "/ARCHIVE"
SIGNS, FIRST_RUN = 10, 6
FLOOR_DB = 23.0
"""One of the ten signs comes back worse."""

GROUP_BYTES = 1_800
"""Row groups of three records, so that each shard has two."""


# An archive to damage


def make(folder: Path, model: str = "seed-8x8x8") -> Files:
    """Ten drawn signs in two commits of a shard each, with labels, one lossless image and two failures.

    Streams are those of the seed, of which each has 512 bytes, if no other model is named: then it is known how many records
    are in a row group, and how many images come back worse than the floor. In a process of its own, as the commands leave
    threads behind, which a fork does not take along.
    """
    code = f"import runpy; runpy.run_path({__file__!r})['write_signs_archive']({os.fspath(folder)!r}, {model!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, capture_output=True)
    return load(folder / "archive")


def write_signs_archive(folder: str, model: str) -> None:
    from tsae.archive import shards
    from tsae.cli import main
    from tsae.signs import write_signs

    shards.ROW_GROUP_BYTES = GROUP_BYTES
    write_signs(Path(folder, "all"), SIGNS)
    images = sorted(Path(folder, "all").rglob("*.png"))
    source, arguments = (
        Path(folder, "in"),
        [f"{folder}/in", f"{folder}/archive", f"--model={model}", f"--min-psnr={FLOOR_DB}", "--allow-failures"],
    )
    for number, part in enumerate((images[:FIRST_RUN], images[FIRST_RUN:])):
        for image in part:
            place = source / image.relative_to(Path(folder, "all"))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(image.read_bytes())
        (source / "labels.csv").write_bytes(Path(folder, "all", "labels.csv").read_bytes())
        (source / f"broken-{number}.png").write_bytes(b"no image")
        if main(["compress", *arguments]) != 0:
            raise SystemExit("the archive was not written")


def load(folder: Path) -> Files:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


# Reading it without a disk


@dataclasses.dataclass(frozen=True, eq=False)
class FilesFolder(Folder):
    """A folder in memory that behaves as a local one."""

    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    def read(self, name: str, most_bytes: int | None = None) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(2, "No such file or directory")
        return self.files[name][:most_bytes]

    def read_range(self, name: str, start: int, length: int) -> bytes:
        data = self.read(name)[start : start + length] if min(start, length) >= 0 else b""
        if len(data) != length:
            raise OSError(f"{self.path}/{name}: it ends before the {length} bytes from {start} on do")
        return data

    def exists(self, name: str = "") -> bool:
        return any(file == name or file.startswith(f"{name}/") for file in self.files)

    def sizes_bytes(self) -> dict[str, int]:
        return {name: len(data) for name, data in self.files.items()}


def open_files(files: Mapping[str, bytes]) -> Archive:
    """Opens an archive in memory.

    Raises:
        TsaeError: as `open_archive`.
    """
    folder = FilesFolder(PATH, files)
    archive = Archive(PATH, read_manifest_text(folder))
    archive._files.folder = folder
    return archive


# What a user can read


def table(records: Records) -> pa.Table:
    return records.to_table()


def operations(keys: list[str]) -> dict[str, Callable[[Archive], Any]]:
    """Everything that a reader can be asked for but pixels: equal streams of the same model give equal pixels."""
    found: dict[str, Callable[[Archive], Any]] = {
        "len": len,
        "keys": list,
        "glob": lambda archive: list(archive.keys("s*")),
        "rows": lambda archive: list(archive.rows()),
        "selection": lambda archive: list(archive.rows(Selection(prefix="s", min_bytes=1, min_px=1, sort="psnr", limit=9))),
        "row groups": lambda archive: archive.row_groups(4).records(np.arange(len(keys))).streams,
        "table": lambda archive: archive.to_table(),
        "all at once": lambda archive: table(archive._files.records(keys)),
        "latents": lambda archive: archive.latents(keys).tolist(),
        "failures": lambda archive: archive.failures(),
        "model": lambda archive: digest(archive._files.model_file()),
        "manifest": lambda archive: archive.manifest,
        "info": lambda archive: {k: v for k, v in archive.info().items() if "bytes" not in k and "ratio" not in k},
        "not there": lambda archive: [key in archive for key in ("", "speed-50/", "zzz", keys[0] + "x")],
    }
    for key in keys:
        found[f"record {key}"] = lambda archive, key=key: table(archive.record(key))
        found[f"has {key}"] = lambda archive, key=key: key in archive
    for position in range(len(keys)):
        found[f"position {position}"] = lambda archive, position=position: table(archive._files.records_at([position]))
    return found


def same(found: Any, expected: Any) -> bool:
    return bool(found.equals(expected)) if isinstance(expected, pa.Table) else found == expected


@dataclasses.dataclass(frozen=True, eq=False)
class Truth:
    """An intact archive, and all that it must give."""

    files: Files
    keys: list[str]
    operations: dict[str, Callable[[Archive], Any]]
    expected: dict[str, Any]
    rows: dict[str, pa.Table]

    @classmethod
    def of(cls, files: Files) -> Truth:
        archive = open_files(files)
        keys = list(archive)
        wanted = operations(keys)
        expected = {name: operation(archive) for name, operation in wanted.items()}
        return cls(files, keys, wanted, expected, {key: table(archive.record(key)) for key in keys})

    def kind(self, kind: str) -> list[str]:
        """Names of the files of a kind, in order."""
        return [name for name in sorted(self.files) if name.startswith(kind)]


@dataclasses.dataclass
class Look:
    """What reading an archive gave: which operations gave right data, which an error, and what broke the promise."""

    right: set[str] = dataclasses.field(default_factory=set)
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    violations: list[str] = dataclasses.field(default_factory=list)

    @property
    def outcome(self) -> str:
        return "violation" if self.violations else "detected" if self.errors else "harmless"


def look(truth: Truth, files: Mapping[str, bytes], damaged: set[str] | None, wanted: set[str] | None = None) -> Look:
    """Reads an archive.

    Args:
        truth: What it was.
        files: What it is.
        damaged: The files of which an error must name one; None where digests were repaired, so that it may be any.
        wanted: The operations to do; None is all.
    """
    result = Look()
    try:
        archive = open_files(files)
    except Exception as error:
        judge_error(result, "open", error, damaged)
        return result
    for name, operation in truth.operations.items():
        if wanted is not None and name not in wanted:
            continue
        try:
            found = operation(archive)
        except Exception as error:
            judge_error(result, name, error, damaged)
            continue
        if same(found, truth.expected[name]):
            result.right.add(name)
        elif damaged is not None:
            result.violations.append(f"{name}: wrong data {str(found)[:200]}")
        else:
            judge_lie(result, name, found, truth)
    return result


FILE = re.compile(
    rf"{PATH}/(manifest\.json|model[-0-9a-f]*\.safetensors|(lists|shards|failures)/[0-9]+-[0-9a-f]+\.parquet)|{PATH}: "
)


KEY = re.compile(r"[a-z0-9/-]+\.png: ")
"""What is wrong with one record is said of its key: the caller knows the archive."""


def judge_error(result: Look, name: str, error: Exception, damaged: set[str] | None) -> None:
    text = str(error)
    # A lie may leave out a key, or speak of fewer positions: then it is not there, and to say so is right.
    if damaged is None and isinstance(error, (KeyError, IndexError)) and name != "open" and not is_raw(error):
        result.errors[name] = text
    elif not isinstance(error, TsaeError):
        where = traceback.extract_tb(error.__traceback__)[-1]
        result.violations.append(f"{name}: {type(error).__name__}: {text[:200]} at {where.filename}:{where.lineno}")
    elif "\n" in text or len(text) > 1000:
        result.violations.append(f"{name}: not one line: {text[:300]!r}")
    elif not (any(file in text for file in damaged) if damaged is not None else FILE.search(text) or KEY.match(text)):
        result.violations.append(f"{name}: names none of {damaged}: {text[:300]}")
    else:
        result.errors[name] = text


def is_raw(error: Exception) -> bool:
    """Whether a KeyError or IndexError comes from anywhere but the two places that say that something is not there."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return not (where.filename.endswith("archive/access.py") and where.name in ("records", "_locate"))


def judge_lie(result: Look, name: str, found: Any, truth: Truth) -> None:
    """Other data than before, from an archive whose digests hold: no record may be one that was never written."""
    if isinstance(found, pa.Table):
        for row in range(found.num_rows):
            key = found.column("key")[row].as_py()
            if key not in truth.rows or not found.slice(row, 1).equals(truth.rows[key]):
                result.violations.append(f"{name}: a record of {key!r} that was never written")
        if name.startswith("record ") and found.column("key").to_pylist() != [name.removeprefix("record ")]:
            result.violations.append(f"{name}: another record")
    result.right.add(name)


# Damage by chance: no digest is repaired


Mutation = Callable[[random.Random, Truth, Files], None]


def pick(rng: random.Random, files: Files, kinds: tuple[str, ...] = ("manifest", "lists/", "shards/", "failures/")) -> str:
    """A file; seldom the model or provenance, of which little is to be learned."""
    if rng.random() < 0.03:
        return rng.choice(sorted(files))
    kind = rng.choice(kinds)
    return rng.choice([name for name in sorted(files) if name.startswith(kind)] or sorted(files))


def damage_bytes(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One to four changes: bits, runs of bytes, splices, insertions, cuts."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at, length = rng.randrange(len(data) + 1), rng.choice([0, 1, 1, 2, 4, 8, 16, 64, 700])
        run = rng.choice([rng.randbytes(length), b"\xff" * length, b"\x7f" * length, bytes(length)])
        kind = rng.randrange(9)
        if kind <= 2 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind <= 4:
            data = data[:at] + run[: len(data) - at] + data[at + length :]
        elif kind == 5:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            data = data[:at] + other[start : start + length] + data[at + length :]
        elif kind == 6:
            data = data[:at] + run + data[at:]
        elif kind == 7:
            data = data[:at] + data[at + length :]
        else:
            data = rng.choice([data[:at], data[:at], data[at:], data + run, b""])
    return data


def by_bytes(rng: random.Random, truth: Truth, files: Files) -> None:
    for _ in range(rng.choice([1, 1, 1, 2])):
        name = pick(rng, files)
        files[name] = damage_bytes(rng, files[name], list(truth.files.values()))


def by_file(rng: random.Random, truth: Truth, files: Files) -> None:
    name, other = pick(rng, files), pick(rng, files)
    kind = rng.randrange(4)
    if kind == 0:
        del files[name]
    elif kind == 1:
        files[name] = files[other]
    elif kind == 2:
        files[name], files[other] = files[other], files[name]
    else:
        files[name] = random_parquet(rng)


def random_parquet(rng: random.Random) -> bytes:
    """A Parquet file of some schema: perhaps of ours with other values, perhaps of another."""
    rows = rng.choice([1, 3, 5])
    kinds: list[tuple[pa.DataType, Callable[[], Any]]] = [
        (pa.string(), lambda: rng.choice(["", "a", "é" * 9, "../x", "k" * 300])),
        (pa.binary(), lambda: rng.randbytes(rng.choice([0, 3, 512]))),
        (pa.binary(32), lambda: rng.randbytes(32)),
        (pa.uint8(), lambda: rng.randrange(256)),
        (pa.uint32(), lambda: rng.randrange(2**32)),
        (pa.uint64(), lambda: rng.randrange(2**64)),
        (pa.int64(), lambda: rng.randrange(-(2**63), 2**63)),
        (pa.float32(), lambda: rng.choice([0.0, float("nan"), float("inf"), -1.5])),
        (pa.float64(), lambda: rng.random()),
        (pa.bool_(), lambda: rng.random() < 0.5),
        (pa.timestamp("us"), lambda: rng.randrange(2**40)),
        (pa.list_(pa.int32()), lambda: [1, 2]),
        (pa.struct([("a", pa.string())]), lambda: {"a": "b"}),
        (pa.decimal128(10, 2), lambda: None),
        (pa.null(), lambda: None),
    ]
    schema = rng.choice([SHARD_FILE.schema, LIST_FILE.schema, FAILURE_FILE.schema, pa.schema([])])
    fields = [field for field in schema if rng.random() < 0.95]
    fields += [
        pa.field(rng.choice("abc") + str(i), rng.choice(kinds)[0]) for i in range(rng.choice([0, 0, 1, 5]) + (not fields))
    ]
    if rng.random() < 0.1:
        rng.shuffle(fields)
    makers = {str(kind): maker for kind, maker in kinds}
    columns = [
        pa.array(
            [makers[str(field.type)]() if not field.nullable or rng.random() < 0.8 else None for _ in range(rows)], field.type
        )
        for field in fields
    ]
    sink = io.BytesIO()
    options = {
        "use_dictionary": rng.random() < 0.3,
        "compression": rng.choice(["zstd", "zstd", "none", "snappy"]),
        "write_page_checksum": rng.random() < 0.9,
        "store_schema": rng.random() < 0.2,
        "data_page_version": rng.choice(["1.0", "1.0", "2.0"]),
    }
    pq.write_table(
        pa.Table.from_arrays(columns, schema=pa.schema(fields)), sink, row_group_size=rng.choice([1, rows]), **options
    )
    return sink.getvalue()


# Lies: digests are repaired, so that what is below them is reached


def set_manifest(files: Files, fields: Any) -> None:
    """Writes a manifest of any JSON value, with a digest that holds."""
    rest = json.dumps(fields, indent=1).encode()[2:] if isinstance(fields, dict) else json.dumps(fields).encode()
    files[MANIFEST] = b'{"format": "tsae", "format_version": 1, "sha256": "' + digest(rest).encode() + b'",\n' + rest


def manifest_of(files: Files) -> dict[str, Any]:
    fields = json.loads(files[MANIFEST])
    return {name: value for name, value in fields.items() if name not in ("format", "format_version", "sha256")}


def rename(name: str, data: bytes) -> str:
    return re.sub(r"-[0-9a-f]{16}\.", f"-{digest(data)[:16]}.", name)


def put(files: Files, kind: str, index: int, data: bytes) -> None:
    """Puts a file in the place of a list or failures table, with its digest in the manifest."""
    fields = manifest_of(files)
    entry = fields[kind][index]
    del files[entry["file"]]
    entry.update(file=rename(entry["file"], data), bytes=len(data), sha256=digest(data))
    files[entry["file"]] = data
    set_manifest(files, fields)


def list_rows(data: bytes) -> list[dict[str, Any]]:
    found = ShardList(data, "list")
    return [{**dataclasses.asdict(entry), "sha256": bytes.fromhex(entry.sha256)} for entry in found.entries()]


def list_file(rows: list[dict[str, Any]]) -> bytes:
    return LIST_FILE.to_bytes(pa.Table.from_pylist(rows, LIST_FILE.schema), [len(rows)] if rows else [])


NUMBERS = [0, 1, 2, 5, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1]
VALUES: list[Any] = [
    *NUMBERS,
    -1,
    2**64,
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    None,
    True,
    "",
    "x",
    "../../x",
    "a\0b",
]
VALUES += ["ü" * 5000, [], {}, [[]], [1, 2], {"a": 1}, [8, 8, 8], [2**19] * 9, ["x"] * 100]


def lie_in_manifest(rng: random.Random, truth: Truth, files: Files) -> None:
    fields = manifest_of(files)
    for _ in range(rng.choice([1, 1, 2])):
        place: Any = fields
        while True:
            name = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
            if not isinstance(place[name], (dict, list)) or not place[name] or rng.random() < 0.15:
                break
            place = place[name]
        kind = rng.randrange(8)
        if kind == 0 and isinstance(place, dict):
            del place[name]
        elif kind == 1 and isinstance(place, list):
            place.insert(rng.randrange(len(place) + 1), rng.choice(place))
        elif kind == 2 and type(place[name]) is int:
            place[name] += rng.choice([-1, 1])
        elif kind == 3 and isinstance(place[name], list):
            rng.shuffle(place[name])
        else:
            place[name] = rng.choice([*VALUES, *NUMBERS, rng.choice(truth.keys), rng.choice(sorted(files))])
        if not fields:
            break
    set_manifest(files, fields)


def lie_in_manifest_bytes(rng: random.Random, truth: Truth, files: Files) -> None:
    rest = files[MANIFEST].partition(b"\n")[2]
    rest = damage_bytes(rng, rest, [rest, b"[" * 100, b'"\\ud800"', b"1e999"])
    files[MANIFEST] = b'{"format": "tsae", "format_version": 1, "sha256": "' + digest(rest).encode() + b'",\n' + rest


def lie_in_list(rng: random.Random, truth: Truth, files: Files) -> None:
    fields = manifest_of(files)
    if not fields["lists"]:
        return
    index = rng.randrange(len(fields["lists"]))
    rows = list_rows(files[fields["lists"][index]["file"]])
    for _ in range(rng.choice([1, 1, 2, 3])):
        row, other = rng.choice(rows), rng.choice(rows)
        kind = rng.randrange(9)
        if kind <= 1:
            row["footer"] = damage_bytes(rng, row["footer"], [other["footer"]])
        elif kind == 2:
            row["footer"] = rng.choice([other["footer"], split_file(random_parquet(rng))[1], b"", files[MANIFEST]])
        elif kind == 3:
            name = rng.choice(LIST_FILE.schema.names)
            row[name] = other[name]
        elif kind == 4:
            rows.insert(rng.randrange(len(rows) + 1), dict(other))
        elif kind == 5 and len(rows) > 1:
            rows.remove(row)
        elif kind == 6:
            rng.shuffle(rows)
        else:
            change_field(rng, row, truth, files)
    with contextlib.suppress(pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError):
        data = list_file(rows)
        put(files, "lists", index, data)
        if rng.random() < 0.7:  # else the manifest says other numbers
            fields = manifest_of(files)
            images = sum(row["rows"] for row in rows)
            fields["counts"]["images"] += images - fields["lists"][index]["images"]
            fields["lists"][index].update(rows=len(rows), images=images)
            set_manifest(files, fields)


def change_field(rng: random.Random, row: dict[str, Any], truth: Truth, files: Files) -> None:
    field = rng.choice(list(LIST_FILE.schema))
    texts = [
        "",
        "a",
        "~",
        "\U0010ffff",
        "../x",
        "/etc/passwd",
        "shards/000000-0123456789abcdef.parquet",
        *sorted(files),
        *truth.keys,
    ]
    if pa.types.is_integer(field.type):
        row[field.name] = rng.choice([*NUMBERS, row[field.name] + 1, abs(row[field.name] - 1)])
    elif pa.types.is_floating(field.type):
        row[field.name] = rng.choice([None, 0.0, -1e30, float("nan"), float("inf")])
    elif pa.types.is_string(field.type):
        row[field.name] = rng.choice(texts)
    elif field.name == "sha256":
        row[field.name] = rng.randbytes(32)


def lie_in_file_bytes(rng: random.Random, truth: Truth, files: Files) -> None:
    """A list or failures table of damaged bytes that match their digest."""
    kind, fields = rng.choice(["lists", "failures"]), manifest_of(files)
    if fields[kind]:
        index = rng.randrange(len(fields[kind]))
        data = files[fields[kind][index]["file"]]
        random_file = rng.random() < 0.2
        put(files, kind, index, random_parquet(rng) if random_file else damage_bytes(rng, data, list(truth.files.values())))


def lie_in_pages(rng: random.Random, truth: Truth, files: Files) -> None:
    """Pages of a shard, or of a list or failures table, changed in place; `look_at_lie` lets their checksums hold."""
    kind, fields = rng.choice(["shards", "shards", "lists", "failures"]), manifest_of(files)
    if kind == "shards":
        name = rng.choice(truth.kind("shards/"))
        files[name] = in_place(rng, files[name])
    elif fields[kind]:
        index = rng.randrange(len(fields[kind]))
        put(files, kind, index, in_place(rng, files[fields[kind][index]["file"]]))


def in_place(rng: random.Random, data: bytes) -> bytes:
    end, _ = split_file(data)
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, length = rng.randrange(4, end), rng.choice([0, 0, 1, 1, 4, 8])
        changed[at : at + length] = rng.choice([rng.randbytes(length), b"\xff" * length, b"\x7f" * length, bytes(length)])
        changed[at] ^= 1 << rng.randrange(8) if length == 0 else 0
    return bytes(changed[: len(data)])


BY_CHANCE: list[Mutation] = [by_bytes, by_bytes, by_bytes, by_file]
LIES: list[Mutation] = [
    *(lie_in_manifest, lie_in_manifest_bytes, lie_in_list, lie_in_list, lie_in_list),
    *(lie_in_file_bytes, lie_in_pages, lie_in_pages),
]


class Anything:
    """Equal to all: a page's checksum that holds, for whoever can write one."""

    def __ne__(self, other: object) -> bool:
        return False


PAGE_CHECKSUMS_HOLD = types.SimpleNamespace(crc32=lambda body: Anything())


@contextlib.contextmanager
def page_checksums_that_hold() -> Iterator[None]:
    before, chunks = pages.zlib, shards.zlib
    pages.zlib = shards.zlib = PAGE_CHECKSUMS_HOLD  # type: ignore[assignment]
    try:
        yield
    finally:
        pages.zlib, shards.zlib = before, chunks


def run_case(truth: Truth, seed: int, number: int) -> tuple[str, Look]:
    """One case: the name of the mutation, and what came of it."""
    rng = random.Random(f"{seed}/{number}")
    files = dict(truth.files)
    if rng.random() < 0.4:
        mutation = rng.choice(BY_CHANCE)
        mutation(rng, truth, files)
        damaged = {name for name in truth.files if files.get(name) != truth.files[name]}
        return mutation.__name__, look(truth, files, damaged or set(truth.files))
    mutations = [rng.choice(LIES) for _ in range(rng.choice([1, 1, 1, 2]))]
    for index, mutation in enumerate(mutations):
        with contextlib.suppress(*([Exception] if index else [])):  # the second may find no archive any more
            mutation(rng, truth, files)
    name = mutations[0].__name__
    with page_checksums_that_hold() if rng.random() < 0.5 or lie_in_pages in mutations else contextlib.nullcontext():
        return name, look(truth, files, None)


# In children


BATCH = 100
CHILD_SECONDS = 300
"""How long a batch may take, which needs seconds: only a hang takes longer."""

MORE_MEMORY = 3 * 2**30
"""Address space that a child may reserve beyond what it has: a file of 2 GiB, and more."""

MORE_RESIDENT = 2**28
"""Memory that a child may use beyond what it has."""


def run_batch(truth: Truth, seed: int, numbers: range) -> tuple[collections.Counter[str], list[str]]:
    """Runs cases in a forked child: counts of outcomes, and violations."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 1
        try:
            with open(writer, "w") as answer:
                json.dump(_in_child(truth, seed, numbers), answer)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if status == 0:
        outcomes, violations = json.loads(text)
        return collections.Counter(outcomes), violations
    if len(numbers) > 1:  # which of them was it?
        parts = [run_batch(truth, seed, range(number, number + 1)) for number in numbers]
        found = [violation for _, violations in parts for violation in violations]
        return sum((counts for counts, _ in parts), collections.Counter()), found or [
            f"cases {numbers}: {status}, only together"
        ]
    reason = "it hangs" if os.WTERMSIG(status) == signal.SIGALRM else f"the process ended with status {status}"
    return collections.Counter({"violation": 1}), [f"seed {seed} case {numbers[0]}: {reason}"]


def _in_child(truth: Truth, seed: int, numbers: range) -> tuple[dict[str, int], list[str]]:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(CHILD_SECONDS)
    limit = address_space() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    outcomes: collections.Counter[str] = collections.Counter()
    violations = []
    before = peak_resident()
    for number in numbers:
        name, result = run_case(truth, seed, number)
        outcomes[f"{name}: {result.outcome}"] += 1
        violations += [f"seed {seed} case {number} ({name}): {text}" for text in result.violations]
        if (more := peak_resident() - before) > MORE_RESIDENT:
            violations.append(f"seed {seed} case {number} ({name}): {more:,} bytes of memory")
            before += more
    return outcomes, violations


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def peak_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@functools.cache
def shared_truth() -> Truth:
    """The truth of `make`'s archive; made once per process."""
    with tempfile.TemporaryDirectory() as folder:
        return Truth.of(make(Path(folder)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--cases", type=int, help="at most so many")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    truth, end_s = shared_truth(), time.monotonic() + 60 * args.minutes
    outcomes: collections.Counter[str] = collections.Counter()
    found: list[str] = []
    number, last = args.first, args.first + args.cases if args.cases else sys.maxsize
    while number < last and time.monotonic() < end_s:
        batch = range(number, min(number + BATCH, last))
        counts, violations = run_batch(truth, args.seed, batch)
        outcomes, number = outcomes + counts, batch.stop
        found += violations
        for violation in violations:
            print(violation, flush=True)
    for name, count in sorted(outcomes.items()):
        print(f"{count:8,} {name}")
    print(f"{sum(outcomes.values()):8,} cases of seed {args.seed}, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
