"""Archives made to do harm: nothing is written outside of the output folder, nothing of theirs is run, memory stays bounded.

The real commands meet each of them, in one process of its own whose memory is watched; `run_all` is what it does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import re
import resource
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.tsae.archive import fuzz
from tsae.archive import Coding, Folder, ListEntry, Manifest, Records, Settings, count, digest, write
from tsae.archive.files import MAX_SHARD_RECORDS, digested_name
from tsae.archive.lists import ShardEntry, list_to_bytes
from tsae.archive.parquet import split_file
from tsae.archive.shards import SHARD_FILE, chunk_crc32s
from tsae.images import encode_lossless
from tsae.zoo import read_model_file

GOOD = "good.png"
MEMORY = 700_000_000
"""What a command may use beyond what the process had: two thirds of it are Beam's and torch's own."""

MORE_ADDRESSES = 6 * 2**30
SECONDS = 570
"""For all commands on all archives, which need about a minute: only a hang takes longer."""


# Archives


def records(keys: list[str], sizes: int = 40) -> Records:
    """Records of grey images."""
    n = len(keys)
    return Records(
        keys,
        np.full(n, sizes, np.uint32),
        np.full(n, sizes, np.uint32),
        [None] * n,
        np.full(n, 30, np.float32),
        np.full(n, Coding.LATENTS_INT8, np.uint8),
        [bytes(512)] * n,
        [None] * n,
    )


Shards = list[tuple[bytes, bytes, Records]]
"""Each shard's file, the footer that its list has, and its records."""


def shard(
    content: Records, groups: list[int] | None = None, packed: bool = False, model: bytes | None = None
) -> tuple[bytes, bytes, Records]:
    """A shard with a checksum that holds for each record, whatever its content."""
    table = content.to_table()
    kind = dataclasses.replace(SHARD_FILE, schema=table.schema, incompressible=() if packed else SHARD_FILE.incompressible)
    metadata = {"format_version": 1, "model_sha256": digest(model or read_model_file("seed-8x8x8"))}
    data = kind.to_bytes(table, groups or [len(content)], metadata)
    return data, split_file(data)[1], content


def write_archive(path: Path, shards: Shards, model: bytes | None = None) -> None:
    """An archive with every digest as it must be."""
    folder, entries = Folder(str(path)), []
    model_file = read_model_file("seed-8x8x8") if model is None else model
    for number, (data, footer, content) in enumerate(shards):
        sha256 = digest(data)
        name = digested_name("shards", number, sha256)
        write(folder, name, data)
        first, last = content.keys[0], content.keys[-1]
        try:
            crc32s = chunk_crc32s(data)
        except ValueError:  # of a footer that is no shard's: it is refused before these are looked at
            crc32s = b""
        facts = (sha256, first, last, 0, 0, 0, 0, None, None, None, footer, crc32s)
        entries.append(ShardEntry(name, len(content), len(data), *facts))
    data = list_to_bytes(entries)
    name = digested_name("lists", 0, digest(data))
    write(folder, name, data)
    images, first, last = sum(e.rows for e in entries), min(e.first_key for e in entries), max(e.last_key for e in entries)
    lists = (ListEntry(name, len(entries), len(data), digest(data), images, first, last),)
    manifest = Manifest(
        requires=(),
        model="seed-8x8x8",
        model_file="model.safetensors",
        model_bytes=len(model_file),
        model_sha256=digest(model_file),
        latent_shape=(8, 8, 8),
        preprocessing={},
        settings=Settings("/in", "/in", True, None),
        created_by="nobody",
        counts=count(folder, lists, 0, 0),
        lists=lists,
        failures=(),
    )
    write(folder, "model.safetensors", model_file)
    write(folder, "manifest.json", manifest.to_json())


def good() -> tuple[bytes, bytes, Records]:
    return shard(records([GOOD]))


def write_with_model(path: Path, model: bytes) -> None:
    write_archive(path, [shard(records([GOOD]), model=model)], model)


BAD_KEYS = [
    "",
    "../up.png",
    "/absolute.png",
    "a/../../up2.png",
    "c:/drive.png",
    "nul\0.png",
    "a//b.png",
    "./dot.png",
    "k" * 5_000,
]
ODD_KEYS = [
    *("back\\slash.png", "..\\up.png", "esc\x1b[2Jape.png", "new\nline.png", "A.png", "a.png", "ä.png", "a\u0308.png"),
    *(
        "C:drive.png",
        "con.png",
        "-o.png",
        "~.png",
        "$HOME.png",
        "\u202egnp.exe",
        "trailing. .png",
        "d" * 300 + ".png",
        "e/" * 2_000 + "f",
    ),
]


def keys(path: Path) -> None:
    names = sorted([*BAD_KEYS, *ODD_KEYS])
    write_archive(path, [good(), shard(records(names))])


def links(path: Path) -> None:
    write_archive(path, [good(), shard(records(["inside/x.png", "link/deep/x.png", "link/x.png", "y.png"]))])


def sizes(path: Path) -> None:
    parts = [shard(records([f"{size}.png"], size)) for size in (0, 5_793, 65_536, 2**31, 2**32 - 1)]
    write_archive(path, [good(), *parts])


def signed(number: int) -> bytes:
    """Thrift's compact form."""
    number, found = 2 * number, []
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def claims(path: Path) -> None:
    """Footers that speak of more than there is: a row group of 4 GB, 2^31 rows, pages at 2^40."""
    parts = []
    for index, (name, value) in enumerate([("total_byte_size", 2**32), ("num_rows", 2**31), ("data_page_offset", 2**40)]):
        data, footer, content = shard(dataclasses.replace(records([f"{index}/{i:03d}.png" for i in range(77)])))
        group = pa.parquet.read_metadata(io.BytesIO(data)).row_group(0)
        found = getattr(group, name, None) or getattr(group.column(6), name)
        assert signed(found) in footer
        parts.append((data, footer.replace(signed(found), signed(value)), content))
    write_archive(path, [good(), *parts])


def bombs(path: Path) -> None:
    """Little that unpacks to much: a row group of 40 MB, and 60 of 15 MB each."""
    large = dataclasses.replace(records(["large.png"]), streams=[bytes(40_000_000)])
    many = dataclasses.replace(records([f"many/{i:02d}.png" for i in range(60)]), streams=[bytes(15_000_000)] * 60)
    write_archive(path, [good(), shard(large, packed=True), shard(many, [1] * 60, packed=True)])


def shared_label(path: Path) -> None:
    """A label of 0.9 MB that 4,000 records share: 3.6 GB, were each to have its own."""
    content = dataclasses.replace(records([f"label/{i:04d}.png" for i in range(4_000)]), labels=["x" * 900_000] * 4_000)
    with pytest.MonkeyPatch.context() as patch:  # the checksums would take minutes; what is refused is the label
        patch.setattr(Records, "checksums", lambda self: np.zeros(len(self), np.uint32))
        patch.setattr(Records, "to_table", to_table_of_shared_labels)
        part = shard(content)
    write_archive(path, [good(), part])


def many_records(path: Path) -> None:
    keys = [f"{i:06d}.png" for i in range(MAX_SHARD_RECORDS + 1)]
    write_archive(path, [good(), shard(records(keys), [*[4_096] * (MAX_SHARD_RECORDS // 4_096), 1])])


def to_table_of_shared_labels(self: Records) -> pa.Table:
    table = dataclasses.replace(self, labels=[None] * len(self))
    arrays = [
        pa.array(column, field.type, from_pandas=True)
        for column, field in zip(table.columns(), SHARD_FILE.schema, strict=False)
    ]
    arrays[3] = pa.DictionaryArray.from_arrays(pa.array([0] * len(self), pa.int32()), [self.labels[0]])
    schema = SHARD_FILE.schema.set(3, pa.field("label", arrays[3].type))
    return pa.Table.from_arrays([*arrays, pa.array(self.checksums())], schema=schema)


def labels(path: Path) -> None:
    long = dataclasses.replace(records(["long.png"]), labels=["x" * 10_000_000])
    odd = dataclasses.replace(records(["odd.png"]), labels=["\x1b[2J\n\0../.."])
    write_archive(path, [good(), shard(long), shard(odd)])


def streams(path: Path) -> None:
    """Streams and lossless images that are none, below keys that would turn an error into two lines."""
    content = records([f"{index}\n\x1b[2J.png" for index in range(7)])
    webp = encode_lossless(np.zeros((32, 32, 3), np.uint8))
    content.streams[:3] = [b"", bytes(511), bytes(10_000_000)]
    content.codings[3] = 200
    content.lossless[4:] = [huge_webp(webp, 16_383), huge_webp(webp, 12_000), b"no image"]
    write_archive(path, [good(), shard(content)])


def huge_webp(webp: bytes, side: int) -> bytes:
    """So many pixels squared, as its header says; Pillow by itself refuses 805 MB, and not 432 MB."""
    at = webp.index(b"VP8L") + 9
    assert webp[at - 1] == 0x2F
    (bits,) = struct.unpack("<I", webp[at : at + 4])
    data = webp[:at] + struct.pack("<I", bits & ~(2**28 - 1) | (side - 1) | (side - 1) << 14) + webp[at + 4 :]
    with warnings.catch_warnings(), contextlib.suppress(Image.DecompressionBombError):
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert Image.open(io.BytesIO(data)).size == (side, side)
    return data


class Marker:
    """Whoever unpickles this leaves a file behind."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return open, (self.place, "w")


def pickled(path: Path) -> bytes:
    return pickle.dumps(Marker(f"{path}.was-unpickled"))


def torch_file(path: Path) -> bytes:
    """What `torch.save` writes: a zip file with a pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(path))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def pickled_model(path: Path) -> None:
    write_with_model(path, pickled(path))


def torch_model(path: Path) -> None:
    write_with_model(path, torch_file(path))


def header_model(path: Path) -> None:
    write_with_model(path, struct.pack("<Q", 2**60) + b"{}" + bytes(1_000))


def long_header_model(path: Path) -> None:
    header = b'{"x":{"dtype":"F32","shape":[1099511627776,1048576],"data_offsets":[0,4611686018427387904]}}'
    write_with_model(path, struct.pack("<Q", len(header)) + header)


def nested_model(path: Path) -> None:
    header = json.dumps({"__metadata__": {"tsae": "[" * 100_000}}).encode()
    write_with_model(path, struct.pack("<Q", len(header)) + header)


def replace(path: Path, pattern: str, data: bytes) -> None:
    write_archive(path, [good(), shard(records(["other.png"]))])
    for file in path.glob(pattern):
        file.write_bytes(data)


def pickled_shards(path: Path) -> None:
    replace(path, "shards/*", pickled(path))


def pickled_lists(path: Path) -> None:
    replace(path, "lists/*", pickled(path))


def pickled_manifest(path: Path) -> None:
    replace(path, "manifest.json", pickled(path))


def nested_manifest(path: Path) -> None:
    rest = b'"requires": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    replace(
        path, "manifest.json", b'{"format": "tsae", "format_version": 1, "sha256": "' + digest(rest).encode() + b'",\n' + rest
    )


def nested_metadata(path: Path) -> None:
    """A shard whose key-value metadata is 100,000 lists in each other."""
    content = records(["nested.png"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json, "dumps", lambda *args, **kwargs: "[" * 100_000)
        part = shard(content)
    write_archive(path, [good(), part])


def holes(path: Path) -> None:
    """Files of a terabyte, all of it hole."""
    write_archive(path, [good(), shard(records(["other.png"]))])
    for pattern in ("lists/*", "model.safetensors", "shards/*"):
        for file in path.glob(pattern):
            os.truncate(file, 2**40)


def manifest_hole(path: Path) -> None:
    write_archive(path, [good()])
    os.truncate(path / "manifest.json", 2**40)


HOSTILE: list[Callable[[Path], None]] = [
    *(
        keys,
        links,
        sizes,
        claims,
        bombs,
        shared_label,
        many_records,
        labels,
        streams,
        pickled_model,
        torch_model,
        header_model,
        long_header_model,
    ),
    *(nested_model, pickled_shards, pickled_lists, pickled_manifest, nested_manifest, nested_metadata, holes, manifest_hole),
]


# What is done to them


@dataclasses.dataclass
class Run:
    """What a command did: its exit code, what it printed, and the memory that it used beyond what the process had."""

    code: int
    out: str
    err: str
    memory_bytes: int


def run_all(folder: str) -> None:
    """Runs all commands on all archives of a folder, and writes what came of them to `results.json`."""
    base = Path(folder)
    results: dict[str, dict[str, Run]] = {"intact": run_commands(base, "intact")}  # which loads torch and Beam
    limit = fuzz.address_space() + MORE_ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for make in HOSTILE:
        results[make.__name__] = run_commands(base, make.__name__)
    found = {name: {command: dataclasses.asdict(run) for command, run in runs.items()} for name, runs in results.items()}
    (base / "results.json").write_text(json.dumps(found))


def run_commands(base: Path, name: str) -> dict[str, Run]:
    archive, place = str(base / "archives" / name), base / "work" / name
    (place / "here").mkdir(parents=True)
    (place / "out" / "inside").mkdir(parents=True)
    (place / "got").mkdir()
    for output in ("out", "got"):
        (place / output / "link").symlink_to(base / "outside")
    os.chdir(place / "here")
    wanted = [*(key for key in BAD_KEYS + ODD_KEYS if key and "\0" not in key and not key.startswith("-")), "link/x.png"]
    commands = {
        "info": ["info", archive],
        "ls": ["ls", archive],
        "ls --json": ["ls", "--json", archive],
        "verify": ["verify", archive, "--workers", "1"],
        "get": ["get", archive, GOOD, "-o", f"{place}/good.png"],
        "get to folder": ["get", archive, *wanted, "-o", f"{place}/got/"],
        "get linked": ["get", archive, "link/x.png", "-o", f"{place}/got/"],
        "decompress": ["decompress", archive, f"{place}/out", "--restore-size"],
    }
    if name == "streams":
        commands["get broken"] = ["get", archive, *(f"{index}\n\x1b[2J.png" for index in range(7)), "-o", f"{place}/got/"]
    return {command: run(arguments) for command, arguments in commands.items()}


def run(arguments: list[str]) -> Run:
    from tsae.cli import main

    out, err = Path("../out.txt"), Path("../err.txt")
    with open(out, "w+") as out_file, open(err, "w+") as err_file:
        kept = os.dup(1), os.dup(2)
        os.dup2(out_file.fileno(), 1), os.dup2(err_file.fileno(), 2)
        reset_peak()
        before = peak_bytes()
        try:
            code = main(arguments)
        except SystemExit as exit:
            code = int(str(exit.code))
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os.dup2(kept[0], 1), os.dup2(kept[1], 2)
            os.close(kept[0]), os.close(kept[1])
    return Run(code, out.read_text(errors="replace")[:100_000], err.read_text(errors="replace"), peak_bytes() - before)


def reset_peak() -> None:
    """Linux counts the peak of a process's memory anew; where it does not, only growth beyond all before is seen."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


# What must come of it


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all archives, in which all commands have been run."""
    base = tmp_path_factory.mktemp("hostile")
    (base / "outside").mkdir()
    (base / "archives").mkdir()
    write_archive(base / "archives" / "intact", [good()])
    for make in HOSTILE:
        make(base / "archives" / make.__name__)
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})"
    code = f"{start}; from tests.tsae.archive.test_hostile import run_all; run_all({str(base)!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    assert result.returncode == 0, result.stderr[-2_000:]
    return base


@pytest.fixture(scope="module")
def results(base: Path) -> dict[str, dict[str, Run]]:
    found = json.loads((base / "results.json").read_text())
    return {name: {command: Run(**run) for command, run in runs.items()} for name, runs in found.items()}


def test_an_intact_archive_passes(results: dict[str, dict[str, Run]], base: Path) -> None:
    runs = results["intact"]
    assert {command: run.code for command, run in runs.items() if "get " not in command} == dict.fromkeys(
        ("info", "ls", "ls --json", "verify", "get", "decompress"), 0
    )
    assert Image.open(base / "work" / "intact" / "out" / GOOD).size == (40, 40)


NAMES = [make.__name__ for make in HOSTILE]


@pytest.mark.parametrize("name", NAMES)
def test_no_command_ends_in_a_bug_or_says_more_than_clear_lines(results: dict[str, dict[str, Run]], name: str) -> None:
    for command, run in results[name].items():
        assert run.code in (0, 1, 2), (command, run)
        assert "Traceback" not in run.err
        assert run.code == 0 or run.err or command == "verify", command
        printed = run.err if command != "verify" else run.err + run.out
        for line in re.split(r"[\r\n]+", printed):
            assert len(line) < 6_000, (command, line[:500])  # a key of 5,000 that the user typed is said again
            assert line.isprintable(), (command, line[:500])
        if run.code == 2:
            assert run.err.count("tsae: error: ") == 1, (command, run.err)
            assert run.err.splitlines()[-1].startswith("tsae: error: ")


@pytest.mark.parametrize("name", NAMES)
def test_memory_stays_bounded(results: dict[str, dict[str, Run]], name: str) -> None:
    assert {command: run.memory_bytes for command, run in results[name].items() if run.memory_bytes > MEMORY} == {}


def test_nothing_is_written_outside_and_nothing_is_run(base: Path, results: dict[str, dict[str, Run]]) -> None:
    assert results
    assert list((base / "outside").iterdir()) == []
    assert sorted(path.name for path in base.iterdir()) == ["archives", "outside", "results.json", "work"]
    assert sorted(path.name for path in (base / "archives").iterdir()) == sorted(["intact", *NAMES])
    for name in NAMES:
        place = base / "work" / name
        known = {"here", "out", "got", "good.png", "out.failures.parquet", "out.txt", "err.txt"}
        assert {path.name for path in place.iterdir()} <= known
        assert list((place / "here").iterdir()) == []
    assert not any(Path(place).exists() for place in ("/absolute.png", "/up.png"))


GOOD_COMES_BACK = ["keys", "links", "sizes", "claims", "bombs", "shared_label", "labels", "streams", "nested_metadata"]


@pytest.mark.parametrize("name", GOOD_COMES_BACK)
def test_what_is_good_in_it_comes_back(base: Path, results: dict[str, dict[str, Run]], name: str) -> None:
    runs, place = results[name], base / "work" / name
    assert (runs["get"].code, runs["decompress"].code) == (0, 1)
    with Image.open(place / "good.png") as image:
        assert image.size == (32, 32)
    with Image.open(place / "out" / GOOD) as image:
        assert image.size == (40, 40)


def test_keys_become_files_in_the_folder_or_failures(base: Path, results: dict[str, dict[str, Run]]) -> None:
    out = base / "work" / "keys" / "out"
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    possible = [key for key in ODD_KEYS if len(key) < 300]
    assert written == {re.sub(r"\.[^.]*$", "", key) + ".png" for key in possible} | {GOOD}
    assert "A.png" in written
    assert "a.png" in written
    assert f"{len(BAD_KEYS) + 2} failed" in results["keys"]["decompress"].out


def test_links_are_not_followed_out_of_the_folder(base: Path, results: dict[str, dict[str, Run]]) -> None:
    run = results["links"]["decompress"]
    assert "2 failed" in run.out
    assert "link/x.png: its folder is a link that leads out of the output folder" in run.err
    assert (base / "work" / "links" / "out" / "inside" / "x.png").is_file()
    assert "leads out of it" in results["links"]["get linked"].err
    assert results["links"]["get linked"].code == 2


def test_sizes_are_refused_one_by_one(results: dict[str, dict[str, Run]]) -> None:
    assert "5 failed" in results["sizes"]["decompress"].out
    assert results["sizes"]["decompress"].err.count("leave out --restore-size") == 5


def test_what_would_unpack_to_much_is_refused(results: dict[str, dict[str, Run]]) -> None:
    assert "bytes, at most 16,777,216" in results["bombs"]["ls --json"].err
    assert "at most 268435456 are read" in results["bombs"]["decompress"].err
    assert "a label of more than 4096 bytes" in results["shared_label"]["ls --json"].err
    assert results["shared_label"]["ls"].out.count("label/") == 4_000
    assert f"{MAX_SHARD_RECORDS + 1} records, at most {MAX_SHARD_RECORDS} are read" in results["many_records"]["ls"].err


@pytest.mark.parametrize("name", ["pickled_model", "torch_model", "header_model", "long_header_model", "nested_model"])
def test_models_that_are_none_are_refused_by_name(results: dict[str, dict[str, Run]], name: str) -> None:
    for command in ("get", "decompress"):
        assert results[name][command].code == 2
        assert "model.safetensors" in results[name][command].err
    assert results[name]["ls"].out == f"{GOOD}\n"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("pickled_shards", "shards/"),
        ("pickled_lists", "lists/"),
        ("pickled_manifest", "manifest.json"),
        ("nested_manifest", "manifest.json"),
        ("holes", "lists/"),
        ("manifest_hole", "manifest.json"),
    ],
)
def test_files_that_are_none_are_named(results: dict[str, dict[str, Run]], name: str, file: str) -> None:
    for command in ("ls", "get", "ls --json", "verify"):
        run = results[name][command]
        assert run.code in (1, 2)
        assert file in run.err + run.out
