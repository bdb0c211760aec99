"""Each file of an archive flipped, cut, exchanged, missing or lying: what comes out is right, or an error that names the file.

What is read, and what breaks the promise, is `fuzz.py`'s. The archive is in memory, but where the file system matters.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tsae
from tests.tsae.archive import fuzz
from tests.tsae.archive.fuzz import Files, Look, Truth, look
from tsae.archive import digest
from tsae.archive.files import MAX_LIST_SHARDS, MAX_SHARD_RECORDS
from tsae.archive.layout import Chunk, RowGroup
from tsae.archive.pages import _pages
from tsae.archive.parquet import split_file
from tsae.archive.shards import Shard
from tsae.config import DEFAULT_MODEL
from tsae.errors import TsaeError

QUICK = {"keys", "rows", "table", "failures", "model"}
"""With the record of each key, all that reads each byte once; the rest reads the same in other ways."""


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return Truth.of(fuzz.make(tmp_path_factory.mktemp("damage")))


def quick(truth: Truth) -> set[str]:
    return QUICK | {f"record {key}" for key in truth.keys}


def damaged(truth: Truth, name: str, data: bytes, wanted: set[str] | None = None) -> Look:
    """What an archive gives whose file `name` holds `data`; anything but right data and an error that names it is refused."""
    result = look(truth, {**truth.files, name: data}, {name}, wanted)
    assert result.violations == []
    return result


def flipped(data: bytes, at: int, mask: int) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def places(data: bytes, step: int, rng: random.Random) -> Iterator[tuple[int, int]]:
    """A place and a bit in each `step` bytes."""
    for start in range(0, len(data), step):
        yield min(start + rng.randrange(step), len(data) - 1), 1 << rng.randrange(8)


def test_the_archive_has_everything_that_can_be_damaged(truth: Truth) -> None:
    rows = truth.expected["table"].to_pylist()
    assert len(rows) == fuzz.SIGNS
    assert sum(row["lossless"] is not None for row in rows) == 1
    assert all(row["label"] and row["psnr_db"] for row in rows)
    assert len(truth.expected["failures"]) == 2
    assert [len(truth.kind(kind)) for kind in ("lists/", "shards/", "failures/", "provenance/", "model")] == [1, 2, 1, 2, 1]
    assert [shard_of(truth, name).row_groups for name in truth.kind("shards/")] == [2, 2]


def shard_of(truth: Truth, name: str) -> Shard:
    return Shard.of_file(truth.files[name], name)


def groups_of(truth: Truth, name: str) -> tuple[RowGroup, ...]:
    return shard_of(truth, name)._table.row_groups


# Flips


def flip_file(truth: Truth, kind: str, step: int, values: int, wanted: set[str] | None) -> list[Look]:
    """Flips every `step`th byte of each file of a kind, `values` times."""
    rng, found = random.Random(kind), []
    for name in truth.kind(kind):
        for _ in range(values):
            found += [
                damaged(truth, name, flipped(truth.files[name], *place), wanted)
                for place in places(truth.files[name], step, rng)
            ]
    return found


def check_manifest_flips(truth: Truth, step: int, values: int) -> None:
    for result in flip_file(truth, "manifest", step, values, None):
        assert (set(result.errors), result.right) == ({"open"}, set())


def check_list_flips(truth: Truth, step: int, values: int) -> None:
    without = {"len", "failures", "model", "manifest", "info"}
    for result in flip_file(truth, "lists/", step, values, None):
        # A key outside of all lists' ranges is known not to be there without a list.
        assert without <= result.right <= without | {"not there"}


def check_other_flips(truth: Truth, kind: str, operation: str | None, step: int, values: int) -> None:
    for result in flip_file(truth, kind, step, values, quick(truth)):
        assert set(result.errors) == ({operation} if operation else set())


def test_a_flip_in_the_manifest_is_always_detected(truth: Truth) -> None:
    check_manifest_flips(truth, 1, 1)


def test_a_flip_in_a_list_is_always_detected_and_costs_only_records(truth: Truth) -> None:
    check_list_flips(truth, 7, 1)


def test_a_flip_in_the_failures_costs_only_them(truth: Truth) -> None:
    check_other_flips(truth, "failures/", "failures", 31, 1)


def test_a_flip_in_the_model_costs_only_pictures(truth: Truth) -> None:
    check_other_flips(truth, "model", "model", 20_011, 1)
    (name,) = truth.kind("model")
    header_end = 8 + int.from_bytes(truth.files[name][:8], "little")
    for at in range(header_end):
        damaged_at = damaged(truth, name, flipped(truth.files[name], at, 1 << at % 8), {"model"})
        assert set(damaged_at.errors) == {"model"}


def test_a_flip_in_the_provenance_is_harmless_to_readers(truth: Truth) -> None:
    check_other_flips(truth, "provenance/", None, 211, 1)


def test_a_flip_in_a_shards_own_footer_is_harmless(truth: Truth) -> None:
    rng = random.Random(0)
    for name in truth.kind("shards/"):
        start, _ = split_file(truth.files[name])
        for at, mask in places(truth.files[name][start:], 101, rng):
            assert damaged(truth, name, flipped(truth.files[name], start + at, mask), quick(truth)).outcome == "harmless"


def bodies(data: bytes, chunk: Chunk) -> list[range]:
    """Where in a shard the bodies of a chunk's pages are, without headers."""
    found, at = [], chunk.start
    for _, body in _pages(data, chunk.start, chunk.end):
        at = data.index(bytes(body), at)
        found.append(range(at, at + len(body)))
        at += len(body)
    return found


def check_page_flips(truth: Truth, step: int, values: int, wanted: set[str] | None) -> dict[str, int]:
    """Flips bytes of all pages: what is no header is detected, and costs no more than its row group.

    Pages of which the records' checksums answer for the values have bits that no value depends on, such as those that
    fill up a block of lengths.
    """
    rng, counts = random.Random(step), {"detected": 0, "harmless": 0}
    for name in truth.kind("shards/"):
        data, first = truth.files[name], 0
        keys = shard_of(truth, name).keys()
        for group in groups_of(truth, name):
            inside = {f"record {key}" for key in keys[first : first + group.rows]}
            first += group.rows
            checked = [chunk for chunk in group.chunks if not chunk.column.is_self_checked]
            body = {at for chunk in checked for part in bodies(data, chunk) for at in part}
            for start in [*range(group.start, group.end, step)] * values:
                at = min(start + rng.randrange(step), group.end - 1)
                result = damaged(truth, name, flipped(data, at, 1 << rng.randrange(8)), wanted)
                lost = {operation for operation in result.errors if operation.startswith("record ")}
                assert lost <= inside
                assert result.outcome == "detected" or at not in body
                counts[result.outcome] += 1
        assert group.end == split_file(data)[0]
    return counts


def test_a_flip_in_a_page_is_detected_and_costs_at_most_the_row_group(truth: Truth) -> None:
    counts = check_page_flips(truth, 61, 1, quick(truth))
    assert counts["detected"] > 100
    assert counts["harmless"] < 0.05 * counts["detected"]


def test_magic_at_the_start_of_a_shard_is_not_read(truth: Truth) -> None:
    name = truth.kind("shards/")[0]
    assert damaged(truth, name, b"XXXX" + truth.files[name][4:]).outcome == "harmless"


def value_places(truth: Truth, column: str) -> Iterator[tuple[str, int, str]]:
    """Where the bytes of a column's values are, in which file, and of which key; lengths are not among them."""
    for name in truth.kind("shards/"):
        data, shard, first = truth.files[name], shard_of(truth, name), 0
        keys = shard.keys()
        for group_number, group in enumerate(groups_of(truth, name)):
            rows = shard.table(group_number).column(column).to_pylist()
            (chunk,) = group.select([column]).chunks
            (body,) = bodies(data, chunk)
            at = body.stop
            for row in reversed(range(group.rows)):  # values are the end of the body, in their order
                value = rows[row].to_bytes(4, "little") if isinstance(rows[row], int) else rows[row]
                if value is not None:
                    assert data[at - len(value) : at] == value
                    yield from ((name, place, keys[first + row]) for place in range(at - len(value), at))
                    at -= len(value) + (4 if column == "lossless" else 0)
            first += group.rows


def check_values(truth: Truth, column: str, step: int) -> None:
    rng = random.Random(column)
    all_places = list(value_places(truth, column))
    assert len(all_places) >= 4 * fuzz.SIGNS if column != "lossless" else len(all_places) > 100
    for name, at, key in all_places[rng.randrange(step) :: step]:
        data = flipped(truth.files[name], at, 1 << rng.randrange(8))
        result = damaged(truth, name, data, quick(truth))
        assert set(result.errors) == {"table", f"record {key}"}
        assert f"the record of '{key}' does not match its checksum" in result.errors[f"record {key}"]
        shard = Shard.of_file(data, name)
        parts = [shard.read(group) for group in range(shard.row_groups)]
        assert [keys.keys[row] for keys, intact in parts for row in np.flatnonzero(~intact)] == [key]


@pytest.mark.parametrize(("column", "step"), [("stream", 307), ("lossless", 307), ("crc32", 7)])
def test_a_flip_in_a_value_costs_that_record_only(truth: Truth, column: str, step: int) -> None:
    check_values(truth, column, step)


@pytest.mark.slow
def test_every_byte_of_every_file_four_values_and_all_ways_to_read(truth: Truth) -> None:
    check_manifest_flips(truth, 1, 4)
    check_list_flips(truth, 1, 4)
    check_other_flips(truth, "failures/", "failures", 1, 4)
    check_other_flips(truth, "provenance/", None, 7, 1)
    check_other_flips(truth, "model", "model", 401, 1)
    for column in ("stream", "lossless", "crc32"):
        check_values(truth, column, 1)
    check_page_flips(truth, 1, 3, quick(truth))
    check_page_flips(truth, 1, 1, None)
    for name in truth.kind("shards/"):
        start, _ = split_file(truth.files[name])
        for at in range(start, len(truth.files[name])):
            assert damaged(truth, name, flipped(truth.files[name], at, 1 << at % 8), quick(truth)).outcome == "harmless"


def test_pictures_are_right_or_refused_as_their_records_are(truth: Truth, tmp_path: Path) -> None:
    for name, data in truth.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with tsae.open_archive(str(tmp_path)) as archive:
        pictures = {key: archive[key] for key in truth.keys}
    names, rng = [*truth.kind("shards/"), *truth.kind("lists/"), *truth.kind("model")], random.Random(0)
    refused = intact = 0
    for name in names * 2:
        data = truth.files[name]
        (tmp_path / name).write_bytes(
            flipped(data, rng.randrange(split_file(data)[0] if data[:4] == b"PAR1" else len(data)), 1)
        )
        archive = tsae.open_archive(str(tmp_path))
        for position, key in enumerate(truth.keys):
            for index in (key, position):
                try:
                    found = archive[index]
                except TsaeError as error:
                    refused += name in str(error)
                else:
                    assert np.array_equal(found, pictures[key])
                    intact += 1
        (tmp_path / name).write_bytes(data)
    assert refused + intact == 2 * 2 * len(names) * len(truth.keys)
    assert refused > 2 * 2 * len(truth.keys)


# Cut, longer, exchanged, missing


def check_cuts(truth: Truth, step: int, cheap_step: int) -> int:
    """Every `step`th length of each file; `cheap_step`th of those of which little is read."""
    done = 0
    for name, data in truth.files.items():
        kind = name.partition("/")[0]
        for length in range(0, len(data), step if kind in ("shards", "lists", "manifest.json") else cheap_step):
            result = damaged(truth, name, data[:length], quick(truth))
            done += 1
            if kind == "shards":
                whole, row = set(), 0
                keys = shard_of(truth, name).keys()
                for group in groups_of(truth, name):
                    whole |= {f"record {key}" for key in keys[row : row + group.rows] if group.end <= length}
                    row += group.rows
                lost = {f"record {key}" for key in keys} - whole
                assert {operation for operation in result.errors if operation.startswith("record ")} == lost
                assert bool(result.errors) == bool(lost)
            elif kind == "provenance":
                assert result.outcome == "harmless"
            else:
                assert result.outcome == "detected"
    return done


def test_cut_short(truth: Truth) -> None:
    assert check_cuts(truth, 131, 19_973) > 80


@pytest.mark.slow
def test_cut_to_every_length(truth: Truth) -> None:
    assert check_cuts(truth, 1, 41) > 10_000


@pytest.mark.parametrize("more", [b"\0", b"PAR1", b"x" * 10_000, b"\n{}"])
def test_longer_than_it_was(truth: Truth, more: bytes) -> None:
    for name, data in truth.files.items():
        is_harmless = name.startswith(("shards/", "provenance/"))  # nothing is read beyond what the list speaks of
        assert damaged(truth, name, data + more).outcome == ("harmless" if is_harmless else "detected")
        assert damaged(truth, name, more + data).outcome == ("harmless" if name.startswith("provenance/") else "detected")


def test_each_file_in_the_place_of_each_other_or_missing(truth: Truth) -> None:
    for name in truth.files:
        expected = "harmless" if name.startswith("provenance/") else "detected"
        without = {file: data for file, data in truth.files.items() if file != name}
        missing = look(truth, without, {name}, quick(truth))
        assert (missing.violations, missing.outcome) == ([], expected)
        for other, data in truth.files.items():
            if other != name:
                assert damaged(truth, name, data, quick(truth)).outcome == expected


def test_two_files_exchanged(truth: Truth) -> None:
    names = sorted(truth.files)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            files = {**truth.files, name: truth.files[other], other: truth.files[name]}
            result = look(truth, files, {name, other}, quick(truth))
            assert result.violations == []
            are_harmless = name.startswith("provenance/") and other.startswith("provenance/")
            assert result.outcome == ("harmless" if are_harmless else "detected")


# What the file system can put in a file's place


def put_folder(place: Path) -> None:
    place.mkdir()


def put_pipe(place: Path) -> None:
    os.mkfifo(place)


def put_loop(place: Path) -> None:
    place.symlink_to(place.name)


def put_dead_link(place: Path) -> None:
    place.symlink_to("not-there")


def put_device(place: Path) -> None:
    place.symlink_to("/dev/zero")


def put_deep_folder(place: Path) -> None:
    (place / "a" / "b").mkdir(parents=True)


@pytest.fixture
def on_disk(truth: Truth, tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    for name, data in truth.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


READ = """
import json, sys
from tests.tsae.archive import fuzz
import tsae
path, keys, user, found = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), {}
if user:  # who may not read Python's own files either: so all of them are needed once before
    intact = tsae.open_archive(path + ".intact")
    for operation in fuzz.operations(keys).values():
        operation(intact)
    import os
    os.setuid(user)
def attempt(name, call):
    try:
        call()
        found[name] = ""
    except fuzz.TsaeError as error:
        found[name] = str(error)
    except BaseException as error:
        found[name] = "RAW " + repr(error)
attempt("open", lambda: tsae.open_archive(path))
if not found["open"]:
    archive = tsae.open_archive(path)
    for name, operation in fuzz.operations(keys).items():
        attempt(name, lambda: operation(archive))
print(json.dumps(found))
"""


def read_in_child(path: Path, keys: list[str], user: int) -> dict[str, str]:
    """The error of each way to read, "" where there is none; as another user, if that is not 0."""
    root = Path(__file__).parents[3]
    code = f"import sys; sys.path.insert(0, {str(root)!r})\n" + READ
    command = [sys.executable, "-c", code, str(path), json.dumps(keys), str(user)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd="/")
    answers = json.loads(result.stdout)
    assert isinstance(answers, dict)
    return answers


@pytest.mark.parametrize("put", [put_folder, put_pipe, put_loop, put_dead_link, put_device, put_deep_folder])
def test_no_file_in_its_place(truth: Truth, on_disk: Path, put: Callable[[Path], None]) -> None:
    for name, data in truth.files.items():
        place = on_disk / name
        place.unlink()
        put(place)
        errors = {}
        try:
            archive = tsae.open_archive(str(on_disk))
        except TsaeError as error:
            errors["open"] = str(error)
        else:
            for operation, call in truth.operations.items():
                try:
                    assert operation == "info" or fuzz.same(call(archive), truth.expected[operation])
                except TsaeError as error:
                    errors[operation] = str(error)
        assert bool(errors) != name.startswith("provenance/")
        assert all(name in error and "\n" not in error for error in errors.values())
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
        place.write_bytes(data)


def test_a_file_that_may_not_be_read(truth: Truth, on_disk: Path) -> None:
    with tempfile.TemporaryDirectory() as base:  # not pytest's, where another user does not come in
        archive = Path(base, "archive")
        Path(base).chmod(0o755)
        for copy in (archive, Path(base, "archive.intact")):
            shutil.copytree(on_disk, copy)
            for path in (copy, *copy.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
        for name in (truth.kind("shards/")[0], truth.kind("lists/")[0], "manifest.json"):
            (archive / name).chmod(0)
            found = read_in_child(archive, truth.keys, 65534 if os.getuid() == 0 else 0)
            errors = [error for error in found.values() if error]
            assert errors
            assert all(name in error and "ermission" in error and not error.startswith("RAW") for error in errors)
            (archive / name).chmod(0o644)


def test_a_folder_in_the_place_of_the_archive_is_a_file_or_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "pipe", "loop", "not-there"):
        with pytest.raises(TsaeError, match=name):
            tsae.open_archive(str(tmp_path / name))


# Lies: every digest holds


@contextlib.contextmanager
def bounded_memory(most_bytes: int) -> Iterator[None]:
    """Refuses that Python or pyarrow hold more at any moment than before, touched or not."""
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
        assert (pool.max_memory() or 0) < most_bytes
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def lie(truth: Truth, files: Files, wanted: set[str] | None = None) -> Look:
    with bounded_memory(30_000_000):
        result = look(truth, files, None, wanted)
    assert result.violations == []
    return result


def with_manifest(truth: Truth, change: Callable[[dict[str, Any]], object]) -> Files:
    files = dict(truth.files)
    fields = fuzz.manifest_of(files)
    change(fields)
    fuzz.set_manifest(files, fields)
    return files


def with_list(truth: Truth, change: Callable[[list[dict[str, Any]]], object], is_told: bool = True) -> Files:
    """A list with other rows; its numbers and keys are those of the manifest where `is_told`."""
    files, (name,) = dict(truth.files), truth.kind("lists/")
    rows = fuzz.list_rows(files[name])
    change(rows)
    fuzz.put(files, "lists", 0, fuzz.list_file(rows))
    if is_told:
        fields = fuzz.manifest_of(files)
        images, keys = sum(row["rows"] for row in rows), [(row["first_key"], row["last_key"]) for row in rows] or [("", "")]
        fields["counts"]["images"] = images
        fields["lists"][0].update(
            rows=len(rows), images=images, first_key=min(first for first, _ in keys), last_key=max(last for _, last in keys)
        )
        fuzz.set_manifest(files, fields)
    return files


def set_in(*path: Any, value: Any) -> Callable[[Any], None]:
    def change(fields: Any) -> None:
        for name in path[:-1]:
            fields = fields[name]
        fields[path[-1]] = value

    return change


def counted(images: int, rows: int) -> Callable[[Any], None]:
    def change(fields: Any) -> None:
        fields["counts"]["images"] = images
        fields["lists"][0].update(images=images, rows=rows)

    return change


MANIFEST_LIES: list[tuple[str, Callable[[Any], Any], str]] = [
    ("more images", set_in("counts", "images", value=11), "do not add up"),
    ("images of the list too", counted(11, 2), "not what the manifest says of it"),
    ("fewer images", counted(9, 2), "not what the manifest says of it"),
    ("no images", counted(0, 2), "claims 0 images in 2 shards"),
    ("rows = 2^31", counted(10, 2**31), "claims 10 images in 2147483648 shards"),
    ("images = 2^62", counted(2**62, 1), f"claims {2**62} images in 1 shards"),
    ("as many images as may be", counted(MAX_LIST_SHARDS * MAX_SHARD_RECORDS, MAX_LIST_SHARDS), "not what the manifest says"),
    ("images = 2^64", counted(2**64, 2), "claims|not of type"),
    ("images = 10^400", counted(10**400, 2), "claims|not of type"),
    ("negative", set_in("counts", "images", value=-1), "images is '-1'"),
    ("fraction", set_in("counts", "images", value=10.0), "images is '10.0'"),
    ("true", set_in("lists", 0, "rows", value=True), "rows is 'True'"),
    ("one shard", set_in("lists", 0, "rows", value=1), "not what the manifest says of it"),
    ("another digest", set_in("lists", 0, "sha256", value="0" * 64), "SHA-256"),
    ("no digest", set_in("lists", 0, "sha256", value="0" * 10**6), "a digest is none"),
    ("another model digest", set_in("model_sha256", value="0" * 64), "SHA-256"),
    ("a model digest of a megabyte", set_in("model_sha256", value="x" * 10**6), "the model's digest is"),
    ("first key too great", set_in("lists", 0, "first_key", value="b"), "not what the manifest says of it"),
    ("last key too small", set_in("lists", 0, "last_key", value="b"), "not what the manifest says of it"),
    ("latent_shape of other streams", set_in("latent_shape", value=[8, 8, 9]), "coding 1 with 512 bytes"),
    ("latent_shape of 2^57", set_in("latent_shape", value=[2**19] * 3), "coding 1 with 512 bytes"),
    ("latent_shape without end", set_in("latent_shape", value=[2] * 10**5), "coding 1 with 512 bytes|latent_shape"),
    ("latent_shape of nothing", set_in("latent_shape", value=[]), "coding 1 with 512 bytes|latent_shape"),
    ("a list above", set_in("lists", 0, "file", value="../lists/000000-0000000000000000.parquet"), "a file is named"),
    ("a list that is a shard", set_in("lists", 0, "file", value="shards/000000-0000000000000000.parquet"), "a file is named"),
    ("a model elsewhere", set_in("model_file", value="/etc/passwd"), "the model is named"),
    ("a list twice", lambda fields: fields["lists"].append(fields["lists"][0]), "do not add up"),
    ("no lists", set_in("lists", value=[]), "do not add up"),
    ("no failures", set_in("failures", value=[]), ""),
    ("failures twice", lambda fields: fields["failures"].append(fields["failures"][0]), ""),
    ("other counts", lambda fields: fields["counts"].update(shards=2**62, stream_bytes=2**62, source_bytes=0), ""),
    ("infinite PSNR", set_in("counts", "psnr_min_db", value=float("inf")), "psnr_min_db"),
    ("a feature", set_in("requires", value=["time travel"]), "time travel"),
    ("many features", set_in("requires", value=[f"x{i}" for i in range(10**5)]), "needs x0, x1"),
]


@pytest.mark.parametrize(("change", "reason"), [lie[1:] for lie in MANIFEST_LIES], ids=[lie[0] for lie in MANIFEST_LIES])
def test_a_manifest_that_lies(truth: Truth, change: Callable[[Any], Any], reason: str) -> None:
    files = with_manifest(truth, change)
    with bounded_memory(100_000_000):
        result = look(truth, files, None)
    assert result.violations == []
    if reason:
        assert any(re.search(reason, error) for error in result.errors.values()), result.errors
    else:
        assert result.errors == {}


@pytest.mark.parametrize(
    "text", [b"[" * 10**5 + b"]" * 10**5, b"{" * 10**5, b'{"a":' * 10**5 + b"1" + b"}" * 10**5, b"", b"\xff" * 99, b"1" * 10**5]
)
def test_a_manifest_whose_digest_holds_but_that_is_none(truth: Truth, text: bytes) -> None:
    for rest in (text, b'"requires": ' + text, b'"requires": ' + text + b"}"):
        head = b'{"format": "tsae", "format_version": 1, "sha256": "' + digest(rest).encode() + b'",\n'
        assert set(lie(truth, {**truth.files, "manifest.json": head + rest}).errors) == {"open"}
    assert set(lie(truth, {**truth.files, "manifest.json": text}).errors) == {"open"}


def swap(name: str) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[0][name], rows[1][name] = rows[1][name], rows[0][name]

    return change


LIST_LIES: list[tuple[str, Callable[[Any], Any], str]] = [
    ("shards in another order", lambda rows: rows.reverse(), ""),
    ("a shard twice", lambda rows: rows.append(dict(rows[0])), ""),
    ("no shards", lambda rows: rows.clear(), "not what the manifest says|Parquet|list"),
    ("the other's footer", swap("footer"), "not the shard that the archive names"),
    ("the other's name", swap("file"), "damaged, or not a shard|has other keys|does not match|cannot be read"),
    ("the other's rows", swap("rows"), "not the shard that the archive names"),
    ("the other's bytes", swap("bytes"), "damaged, or not a shard"),
    ("the other's first key", swap("first_key"), "not the shard that the archive names|claims keys"),
    ("the other's last key", swap("last_key"), "not the shard that the archive names|claims keys"),
    ("a footer of nothing", set_in(0, "footer", value=b""), "damaged, or not a shard"),
    ("a footer of noise", set_in(0, "footer", value=bytes(range(256)) * 40), "damaged, or not a shard"),
    ("a footer of 9 MB", set_in(0, "footer", value=bytes(9_000_000)), "damaged, or not a list|footer of"),
    ("bytes = 0", set_in(0, "bytes", value=0), "damaged, or not a shard"),
    ("bytes = 2^62", set_in(0, "bytes", value=2**62), "at most 2147483648 are read"),
    ("bytes = 2^63", set_in(0, "bytes", value=2**63), "at most 2147483648 are read"),
    ("bytes cut", lambda rows: rows[0].update(bytes=rows[0]["bytes"] - 2_000), "damaged, or not a shard"),
    ("rows = 2^31", set_in(0, "rows", value=2**31), "claims|not the shard"),
    ("rows = 0", set_in(0, "rows", value=0), "claims keys or rows"),
    ("rows + 1", set_in(0, "rows", value=7), "not the shard that the archive names"),
    (
        "keys from all to all",
        lambda rows: rows[0].update(first_key="", last_key="\U0010ffff"),
        "not the shard that the archive",
    ),
    ("keys upside down", lambda rows: rows[0].update(first_key="z", last_key="a"), "claims keys or rows"),
    ("a shard of another archive", set_in(0, "file", value="shards/000007-0123456789abcdef.parquet"), "No such file"),
    ("a shard outside", set_in(0, "file", value="shards/../../x.parquet"), "a file is named"),
    ("provenance outside", set_in(0, "provenance", value="/etc/passwd"), "a file is named"),
    ("no provenance", set_in(0, "provenance", value=None), ""),
    ("another digest of a shard", set_in(0, "sha256", value=bytes(32)), ""),
    ("no PSNR", lambda rows: rows[0].update(psnr_min_db=float("nan")), "a PSNR that is no number"),
    ("sums", lambda rows: rows[0].update(source_bytes=2**63, stream_bytes=2**63, lossless=2**31, lossless_bytes=2**63), ""),
]


@pytest.mark.parametrize(("change", "reason"), [lie[1:] for lie in LIST_LIES], ids=[lie[0] for lie in LIST_LIES])
@pytest.mark.parametrize("is_told", [True, False], ids=["told", "not-told"])
def test_a_list_that_lies(truth: Truth, change: Callable[[Any], Any], reason: str, is_told: bool) -> None:
    result = lie(truth, with_list(truth, change, is_told), None if is_told else quick(truth))
    if reason:
        found = [error for error in result.errors.values() if re.search(f"{reason}|not what the manifest", error)]
        assert found, result.errors
    elif is_told:
        assert {name for name in result.errors if not name.startswith("position")} == set()


def test_as_many_shards_as_a_list_can_name_are_one_shard(truth: Truth) -> None:
    """1,024 times the same shard: nothing is reserved for what is not there."""
    files = with_list(truth, lambda rows: rows.extend(dict(rows[0]) for _ in range(MAX_LIST_SHARDS - len(rows))))
    archive = fuzz.open_files(files)
    with bounded_memory(30_000_000):
        assert len(archive) == fuzz.FIRST_RUN * (MAX_LIST_SHARDS - 1) + fuzz.SIGNS - fuzz.FIRST_RUN
        assert archive.record(truth.keys[-1]).to_table().equals(truth.rows[truth.keys[-1]])


def test_a_list_in_the_place_of_the_failures_and_back(truth: Truth) -> None:
    (shards,), (failures,) = truth.kind("lists/"), truth.kind("failures/")
    for kind, other in (("lists", failures), ("failures", shards)):
        files = dict(truth.files)
        fuzz.put(files, kind, 0, truth.files[other])
        errors = lie(truth, files).errors
        assert any("not a list of shards" in error or "no failures table" in error for error in errors.values())


def test_a_shape_that_the_model_does_not_have_gives_no_picture(truth: Truth, tmp_path: Path) -> None:
    files = with_manifest(truth, set_in("latent_shape", value=[64, 8, 1]))
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with pytest.raises(TsaeError, match="manifest.json: latent_shape"):
        tsae.open_archive(str(tmp_path))[0]


# Entropy-coded streams, of which the model's file has the tables


@pytest.fixture(scope="module")
def coded_truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return Truth.of(fuzz.make(tmp_path_factory.mktemp("coded"), DEFAULT_MODEL))


def test_a_flip_in_the_model_costs_pictures_and_coded_latents(coded_truth: Truth) -> None:
    for result in flip_file(coded_truth, "model", 50_021, 1, quick(coded_truth) | {"latents"}):
        assert set(result.errors) == {"model", "latents"}


@pytest.mark.parametrize("column", ["stream", "crc32"])
def test_a_flip_in_a_coded_stream_costs_that_record_only(coded_truth: Truth, column: str) -> None:
    rng = random.Random(column)
    for name, at, key in list(value_places(coded_truth, column))[rng.randrange(31) :: 31]:
        data = flipped(coded_truth.files[name], at, 1 << rng.randrange(8))
        result = damaged(coded_truth, name, data, quick(coded_truth) | {"latents"})
        assert set(result.errors) == {"table", "latents", f"record {key}"}


@pytest.mark.parametrize("shape", [[32, 8, 9], [8, 8, 8], [33, 8, 8], [2**19] * 3, [2] * 10**5, [32], []])
def test_a_shape_that_is_not_the_models_gives_no_latents(coded_truth: Truth, shape: list[int]) -> None:
    with bounded_memory(100_000_000):
        result = look(coded_truth, with_manifest(coded_truth, set_in("latent_shape", value=shape)), None)
    assert result.violations == []
    assert set(result.errors) in ({"latents"}, {"open"})
