"""Finding records in a committed archive, and noticing when its files are not those that were committed."""

import importlib
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tsae.archive import ArchiveFiles, Failure, Manifest, Origin, Records, concatenate, digest, shard_to_bytes
from tsae.archive.access import matches
from tsae.errors import CorruptDataError, FormatError
from tsae.paths import Folder

Make = Callable[..., Records]
Write = Callable[..., Manifest]

FAILURES = [Failure("z.png", "read", "ImageError", "broken"), Failure("b.png", "decode", "ImageError", "cut short", 7, "v")]
COMMIT = importlib.import_module("tsae.archive.commit")  # in the package, the name is the function's

ROW_GROUP_BYTES = 256_000
"""Most bytes of a row group: the contract."""


@pytest.fixture(scope="module")
def shards(make_records: Make) -> list[Records]:
    """Three shards, the second of several row groups; between all of them there is room for keys that are not there."""
    return [make_records(5, "b/"), make_records(1_200, "d/", stream_bytes=512), make_records(3, "f/")]


@pytest.fixture(scope="module")
def intact(shards: list[Records], write_state: Write, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of them, not to be changed."""
    path = tmp_path_factory.mktemp("access") / "archive"
    write_state(Folder(str(path)), shards, failures=FAILURES)
    return path


@pytest.fixture
def path(intact: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return shutil.copytree(intact, tmp_path / "archive")


@pytest.fixture(scope="module")
def mixed(make_records: Make, write_state: Write, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Records]:
    """An archive of three commits whose shards' keys lie among each other, in lists of two shards; and its records.

    The last commit also replaced a record of the first shard.
    """
    every = make_records(900, "x/", stream_bytes=512)
    places = [range(0, 900, 3), range(1, 900, 3), range(2, 450, 3), range(452, 900, 3)]
    parts = [every.take(place) for place in places]
    other = make_records(900, "x/", stream_bytes=512, seed=1)
    replaced = concatenate([parts[0].take(range(100)), other.take([300]), parts[0].take(range(101, 300))])
    folder = Folder(str(tmp_path_factory.mktemp("mixed") / "archive"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(COMMIT, "LIST_SHARDS", 2)
        write_state(folder, parts[:1])
        write_state(folder, parts[1:3])
        write_state(folder, parts[3:], {0: replaced})
    assert len(ArchiveFiles(folder.path).manifest.lists) == 2
    return Path(folder.path), concatenate([replaced, *parts[1:]])


def shard_file(path: Path, number: int) -> Path:
    (file,) = (path / "shards").glob(f"{number:06d}-*")
    return file


def assert_equal(found: Records, expected: Records) -> None:
    assert found.to_table().equals(expected.to_table())


# Finding by key


def test_each_key_gives_its_own_record(intact: Path, shards: list[Records]) -> None:
    archive = ArchiveFiles(str(intact))
    assert archive.shard(1).row_groups > 2
    for records in (shards[2], shards[0], shards[1]):
        for row in sorted({0, 1, len(records) // 2, len(records) - 1}):
            assert_equal(archive.records([records.keys[row]]), records.take([row]))


NOT_THERE = ["", "a", "b", "b/00004.pnh", "c/00000.png", "d/00600.pn", "d/01200.png", "f/00003.png", "zzz", "é"]


@pytest.mark.parametrize("key", NOT_THERE)
def test_a_key_that_is_not_there_is_a_key_error(intact: Path, key: str) -> None:
    archive = ArchiveFiles(str(intact))
    for keys in ([key], ["b/00000.png", key], [key, "d/00600.png", key]):
        with pytest.raises(KeyError) as caught:
            archive.records(keys)
        assert caught.value.args == (key,)
    assert not archive.has(key)


def test_records_come_in_the_order_asked_for_and_as_often(intact: Path, shards: list[Records]) -> None:
    everything = concatenate(shards)
    rows = random.Random(0).choices(range(len(everything)), k=60)
    rows += [rows[0], rows[0], rows[7]]
    archive = ArchiveFiles(str(intact))
    assert_equal(archive.records([everything.keys[row] for row in rows]), everything.take(rows))
    assert_equal(archive.records_at(rows), everything.take(rows))
    assert len(archive.records([])) == len(archive.records_at([])) == 0


def test_keys_that_are_there(intact: Path, shards: list[Records]) -> None:
    archive = ArchiveFiles(str(intact))
    assert all(archive.has(key) for records in shards for key in records.keys[::97])


def test_keys_are_found_whichever_commit_they_came_with(mixed: tuple[Path, Records]) -> None:
    path, expected = mixed
    archive = ArchiveFiles(str(path))
    order = random.Random(1).sample(range(len(expected)), len(expected))
    assert_equal(archive.records([expected.keys[row] for row in order]), expected.take(order))
    assert all(archive.has(key) for key in expected.keys[::50])
    assert not archive.has("x/00300.pn")
    with pytest.raises(KeyError):
        archive.records(["x/00451.pn"])


# Finding by position


def test_a_position_is_commit_order_then_key_order(mixed: tuple[Path, Records]) -> None:
    path, expected = mixed
    archive = ArchiveFiles(str(path))
    assert list(archive.keys()) == expected.keys
    assert expected.keys != sorted(expected.keys)
    positions = [599, 600, 0, 299, 300, 899, 100, 100, 749]
    assert_equal(archive.records_at(positions), expected.take(positions))
    assert_equal(archive.records_at(range(900)), expected)
    assert archive.to_table().equals(expected.to_table())


@pytest.mark.parametrize("position", [-1, 1_208, 10**9])
def test_a_position_that_is_not_there_is_an_index_error(intact: Path, position: int) -> None:
    archive = ArchiveFiles(str(intact))
    with pytest.raises(IndexError):
        archive.records_at([0, position])


def test_later_commits_move_no_position(tmp_path: Path, make_records: Make, write_state: Write) -> None:
    folder = Folder(str(tmp_path / "archive"))
    first = [make_records(20, "m/"), make_records(30, "p/")]
    write_state(folder, first)
    before = ArchiveFiles(folder.path)
    keys = list(before.keys())
    changed = concatenate([make_records(20, "m/", seed=2).take([0]), first[0].take(range(1, 20))])
    write_state(folder, [make_records(9, "a/"), make_records(9, "z/")], {0: changed})
    after = ArchiveFiles(folder.path)
    assert list(after.keys()) == keys + [f"{prefix}/{index:05d}.png" for prefix in "az" for index in range(9)]
    assert_equal(after.records_at([0]), changed.take([0]))
    assert_equal(after.records_at(range(1, 50)), concatenate([first[0].take(range(1, 20)), first[1]]))
    assert_equal(after.records(["m/00000.png"]), changed.take([0]))


def test_a_state_that_was_opened_is_told_when_it_is_replaced(tmp_path: Path, make_records: Make, write_state: Write) -> None:
    folder = Folder(str(tmp_path / "archive"))
    write_state(folder, [make_records(20)])
    before = ArchiveFiles(folder.path)
    write_state(folder, [], {0: make_records(20, seed=1)})
    (file,) = (tmp_path / "archive" / "shards").glob(f"*{digest_of(before, 0)[:16]}*")
    file.unlink()
    for gone in (tmp_path / "archive" / "lists").glob(f"*{before.manifest.lists[0].sha256[:16]}*"):
        gone.unlink()
    with pytest.raises(CorruptDataError, match="changed since it was opened; open it again"):
        before.records(["sign/00001.png"])
    with pytest.raises(FormatError, match="changed since it was opened; open it again"):
        ArchiveFiles(folder.path, before.manifest_text).records(["sign/00001.png"])


def digest_of(archive: ArchiveFiles, shard: int) -> str:
    return archive.entry(shard).sha256


# Lists, tables, rows


def test_keys_and_rows_come_in_order(intact: Path, shards: list[Records]) -> None:
    archive = ArchiveFiles(str(intact))
    keys = [key for records in shards for key in records.keys]
    assert list(archive.keys()) == keys
    rows = list(archive.rows(["key", "label", "width"]))
    assert [row["key"] for row in rows] == keys
    assert [row["label"] for row in rows] == [label for records in shards for label in records.labels]
    assert set(rows[0]) == {"key", "label", "width"}


def test_a_star_matches_slashes_and_none_matches_all() -> None:
    assert matches("a/b/c.png", "a*.png")
    assert matches("anything\nelse", None)
    assert not matches("a.png", "*.jpg")


def test_the_table_has_every_column(intact: Path, shards: list[Records]) -> None:
    assert ArchiveFiles(str(intact)).to_table().equals(concatenate(shards).to_table())


def test_shards_and_their_entries(intact: Path, shards: list[Records]) -> None:
    archive = ArchiveFiles(str(intact))
    entries = list(archive.entries())
    assert archive.shards == len(entries) == 3
    assert [archive.entry(shard) for shard in range(3)] == entries == list(archive.entries_of(0))
    assert [entry.rows for entry in entries] == [5, 1_200, 3]
    for number, records in enumerate(shards):
        assert_equal(archive.shard_records(number), records)


def test_failures_are_joined_and_sorted(intact: Path) -> None:
    assert ArchiveFiles(str(intact)).failures() == sorted(FAILURES, key=lambda failure: failure.path)


def test_an_archive_in_memory_reads_the_same(shards: list[Records], write_state: Write, model: bytes) -> None:
    write_state(Folder("memory://access/archive"), shards, failures=FAILURES)
    archive = ArchiveFiles("memory://access/archive")
    assert archive.records(["d/00700.png"]).streams == [shards[1].streams[700]]
    assert archive.model_file() == model
    assert len(archive.failures()) == 2


def test_an_archive_without_images_has_no_keys(tmp_path: Path, write_state: Write) -> None:
    write_state(Folder(str(tmp_path)), [])
    archive = ArchiveFiles(str(tmp_path))
    assert list(archive.keys()) == []
    assert list(archive.rows(["key"])) == []
    assert archive.to_table().num_rows == archive.shards == 0
    assert not archive.has("a")
    with pytest.raises(KeyError):
        archive.records(["a"])
    with pytest.raises(IndexError):
        archive.records_at([0])


# Origins


def test_origins_are_those_of_the_shard(intact: Path, shards: list[Records]) -> None:
    archive = ArchiveFiles(str(intact))
    assert archive.origins(0) == {key: Origin.of(key.encode(), "1") for key in shards[0].keys}


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "swapped"])
def test_without_their_file_there_are_no_origins(path: Path, damage: str) -> None:
    file, other, _ = sorted((path / "provenance").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        shutil.rmtree(path / "provenance")
    else:
        file.write_bytes({"cut": bytes(data[:-9]), "flipped": bytes(data), "swapped": other.read_bytes()}[damage])
    archive = ArchiveFiles(str(path))
    assert archive.origins(0) == {}
    assert archive.records(["b/00001.png"])


# Sharing


def test_an_opened_archive_can_be_pickled(intact: Path, shards: list[Records]) -> None:
    archive = ArchiveFiles(str(intact))
    archive.records(["d/00001.png"])
    copy = pickle.loads(pickle.dumps(archive))  # noqa: S301
    assert copy.manifest == archive.manifest
    assert_equal(copy.records(["d/00700.png"]), shards[1].take([700]))
    assert len(pickle.dumps(archive)) < 20_000


UNPICKLE = """
import pickle, sys
archive = pickle.loads(sys.stdin.buffer.read())
sys.stdout.buffer.write(archive.records(["d/00700.png"]).streams[0])
assert "torch" not in sys.modules
"""


def test_a_pickled_archive_is_read_by_another_process(intact: Path, shards: list[Records]) -> None:
    pickled = pickle.dumps(ArchiveFiles(str(intact)))
    done = subprocess.run([sys.executable, "-c", UNPICKLE], input=pickled, capture_output=True, check=True)
    assert done.stdout == shards[1].streams[700]


def test_threads_can_share_an_archive(mixed: tuple[Path, Records]) -> None:
    """With caches so small that every thread drives out what another one needs."""
    path, expected = mixed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tsae.archive.access.OPEN_LISTS", 1)
        patch.setattr("tsae.archive.access.OPEN_SHARDS", 2)
        archive = ArchiveFiles(str(path))

    def read(seed: int) -> int:
        generator = random.Random(seed)
        for _ in range(12):
            rows = generator.choices(range(len(expected)), k=3)
            by_key, by_position = archive.records([expected.keys[row] for row in rows]), archive.records_at(rows)
            assert by_key.keys == by_position.keys == [expected.keys[row] for row in rows]
            assert by_key.streams == by_position.streams == [expected.streams[row] for row in rows]
        return seed

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(8))) == list(range(8))


def test_no_file_stays_open(intact: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("counts open files in /proc")
    before = len(os.listdir("/proc/self/fd"))
    archive = ArchiveFiles(str(intact))
    archive.records(["b/00000.png", "d/00000.png", "f/00000.png"])
    assert len(os.listdir("/proc/self/fd")) == before


# How much is read


class Reads:
    """What was read of which file."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.whole: list[str] = []
        self.ranges: list[tuple[str, int]] = []
        read, read_range = Folder.read, Folder.read_range

        def spy(folder: Folder, name: str, most_bytes: int | None = None) -> bytes:
            self.whole.append(name)
            return read(folder, name, most_bytes)

        def spy_on_range(folder: Folder, name: str, start: int, length: int) -> bytes:
            self.ranges.append((name, length))
            return read_range(folder, name, start, length)

        patch.setattr(Folder, "read", spy)
        patch.setattr(Folder, "read_range", spy_on_range)

    def clear(self) -> None:
        self.whole.clear()
        self.ranges.clear()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def test_opening_reads_the_manifest_and_nothing_else(intact: Path, reads: Reads) -> None:
    archive = ArchiveFiles(str(intact))
    assert (reads.whole, reads.ranges) == (["manifest.json"], [])
    assert archive.manifest.images == 1_208


def test_one_record_costs_its_list_once_and_one_row_group(intact: Path, reads: Reads) -> None:
    archive = ArchiveFiles(str(intact))
    reads.clear()
    archive.records(["d/00700.png"])
    assert reads.whole == [archive.manifest.lists[0].file]
    for find in (lambda: archive.records(["d/00003.png"]), lambda: archive.records_at([900])):
        reads.clear()
        find()
        assert reads.whole == []
        ((name, length),) = reads.ranges
        assert name == archive.entry(1).file
        assert length <= ROW_GROUP_BYTES


def test_one_record_of_many_commits_costs_one_row_group_and_keys(mixed: tuple[Path, Records], reads: Reads) -> None:
    """Where shards' keys lie among each other, the keys of each that could have it are looked at, and no stream."""
    path, expected = mixed
    archive = ArchiveFiles(str(path))
    archive.has(expected.keys[0])
    archive.records(expected.keys[-1:])
    for row in range(0, len(expected), 75):
        reads.clear()
        archive.records(expected.keys[row : row + 1])
        assert reads.whole == []
        lengths = sorted(length for _, length in reads.ranges)
        assert lengths[-1] <= ROW_GROUP_BYTES
        assert sum(lengths[:-1]) <= 0.05 * ROW_GROUP_BYTES


def test_a_row_group_is_read_once_however_many_of_its_records_are_wanted(intact: Path, reads: Reads) -> None:
    archive = ArchiveFiles(str(intact))
    archive.has("d/00001.png")
    reads.clear()
    archive.records([f"d/{index:05d}.png" for index in range(0, 1_200, 7)])
    assert len(reads.ranges) == archive.shard(1).row_groups
    reads.clear()
    archive.records_at(range(5, 1_205, 7))
    assert len(reads.ranges) == archive.shard(1).row_groups


def test_whether_a_key_is_there_costs_no_stream(intact: Path, reads: Reads) -> None:
    archive = ArchiveFiles(str(intact))
    reads.clear()
    assert archive.has("d/00700.png")
    assert not archive.has("d/00700.pn")
    assert sum(length for _, length in reads.ranges) < 20_000


def test_what_was_opened_stays_known(intact: Path) -> None:
    archive = ArchiveFiles(str(intact))
    first = archive.shard(0)
    assert archive.shard(0) is first
    assert archive.shard(1) is not first
    assert archive.shard(0) is first


# Noticing


def test_the_model_must_be_the_archives_own(path: Path, model: bytes) -> None:
    archive = ArchiveFiles(str(path))
    assert archive.model_file() == model
    (path / "model.safetensors").write_bytes(model + b"!")
    with pytest.raises(FormatError, match=r"model\.safetensors: SHA-256"):
        archive.model_file()
    (path / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"model\.safetensors: cannot be read"):
        archive.model_file()


def test_a_missing_shard_is_named_and_the_others_are_read(path: Path) -> None:
    missing = shard_file(path, 1)
    missing.unlink()
    archive = ArchiveFiles(str(path))
    assert archive.records(["b/00001.png"])
    for find in (lambda: archive.records(["d/00001.png"]), lambda: archive.records_at([6]), archive.to_table):
        with pytest.raises(CorruptDataError, match=missing.name):
            find()
    assert archive.records(["f/00001.png"])


def test_a_missing_list_is_named(path: Path) -> None:
    (missing,) = (path / "lists").iterdir()
    data = missing.read_bytes()
    missing.unlink()
    for find in (
        lambda a: a.records(["b/00001.png"]),
        lambda a: a.records_at([0]),
        lambda a: a.shard(0),
        lambda a: [*a.keys()],
    ):
        with pytest.raises(FormatError, match=missing.name):
            find(ArchiveFiles(str(path)))
    missing.write_bytes(data[:-1] + b"2")
    with pytest.raises(FormatError, match=f"{missing.name}: SHA-256"):
        ArchiveFiles(str(path)).records(["b/00001.png"])


def test_swapped_shards_are_noticed(tmp_path: Path, make_records: Make, write_state: Write) -> None:
    """Of as many rows, as many bytes and of the same model: only their keys tell them apart."""
    write_state(Folder(str(tmp_path)), [make_records(4, "a/"), make_records(4, "b/")])
    one, two = shard_file(tmp_path, 0), shard_file(tmp_path, 1)
    shutil.move(one, tmp_path / "x")
    shutil.move(two, one)
    shutil.move(tmp_path / "x", two)
    archive = ArchiveFiles(str(tmp_path))
    for shard, key in enumerate(("a/00001.png", "b/00001.png")):
        for find in (
            lambda key=key: archive.records([key]),
            lambda shard=shard: archive.records_at([4 * shard]),
            lambda shard=shard: archive.shard_records(shard),
            lambda key=key: archive.has(key),
            lambda: list(archive.keys()),
        ):
            with pytest.raises(CorruptDataError, match=r"shards/00000\d-.*restore"):
                find()


def test_a_shard_of_another_model_is_noticed(tmp_path: Path, make_records: Make, write_state: Write) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(COMMIT, "shard_to_bytes", lambda records, _: shard_to_bytes(records, {"model_sha256": "0" * 64}))
        write_state(Folder(str(tmp_path)), [make_records(4)])
    with pytest.raises(CorruptDataError, match="not the shard that the archive names"):
        ArchiveFiles(str(tmp_path)).records(["sign/00001.png"])


def test_a_shard_of_other_rows_is_noticed(tmp_path: Path, make_records: Make, write_state: Write, model: bytes) -> None:
    write_state(Folder(str(tmp_path)), [make_records(4)])
    records = make_records(4).take([0, 1, 3])
    shard_file(tmp_path, 0).write_bytes(shard_to_bytes(records, {"model_sha256": digest(model)}))
    with pytest.raises(CorruptDataError, match=shard_file(tmp_path, 0).name):
        ArchiveFiles(str(tmp_path)).records(["sign/00001.png"])


def test_a_record_that_does_not_match_its_checksum_is_refused(
    tmp_path: Path, make_records: Make, write_state: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages have checksums too; this is damage from before the shard was written."""
    checksums = Records.checksums
    with monkeypatch.context() as patch:
        patch.setattr(Records, "checksums", lambda records: checksums(records) ^ ([0, 1, 0, 0] if len(records) == 4 else 0))
        write_state(Folder(str(tmp_path)), [make_records(4)])
    archive = ArchiveFiles(str(tmp_path))
    for find in (
        lambda: archive.records(["sign/00000.png", "sign/00001.png"]),
        lambda: archive.records_at([1]),
        lambda: archive.shard_records(0),
        archive.to_table,
    ):
        with pytest.raises(CorruptDataError, match=r"sign/00001\.png.*checksum"):
            find()
    assert archive.records(["sign/00000.png", "sign/00002.png"])
    assert archive.records_at([3])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\0" * 5_000])
def test_a_replaced_shard_is_refused(path: Path, content: bytes) -> None:
    shard_file(path, 0).write_bytes(content)
    with pytest.raises(CorruptDataError, match=shard_file(path, 0).name):
        ArchiveFiles(str(path)).records(["b/00001.png"])


def test_a_shard_without_its_footer_is_read_all_the_same(path: Path, shards: list[Records]) -> None:
    """The list has a copy."""
    file = shard_file(path, 1)
    entry = ArchiveFiles(str(path)).entry(1)
    file.write_bytes(file.read_bytes()[: entry.data_bytes])
    assert_equal(ArchiveFiles(str(path)).shard_records(1), shards[1])


def test_a_damaged_failures_table_is_refused(path: Path) -> None:
    file = sorted((path / "failures").iterdir())[0]
    data = file.read_bytes()
    for damaged in (data[:-1], bytes([data[0] ^ 1]) + data[1:], data[:-30] + b"\xff" * 30):
        file.write_bytes(damaged)
        with pytest.raises(FormatError, match=file.name):
            ArchiveFiles(str(path)).failures()
    file.unlink()
    with pytest.raises(FormatError, match=file.name):
        ArchiveFiles(str(path)).failures()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not an archive"):
        ArchiveFiles(str(tmp_path))


def test_many_overlapping_commits_read_keys_once(
    tmp_path: Path, make_records: Callable[..., Records], write_state: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After small updates a key may lie in any of many shards: their keys are kept once read."""
    folder, everything = Folder(str(tmp_path)), make_records(200)
    for start in range(20):
        write_state(folder, [everything.take(range(start, 200, 20))])
    files, reads = ArchiveFiles(folder.path), []
    read_range = Folder.read_range
    monkeypatch.setattr(Folder, "read_range", lambda *args: reads.append(args) or read_range(*args))
    for key in everything.keys:
        assert files.records([key]).keys == [key]
    reads.clear()
    for key in everything.keys[::7]:
        assert files.has(key)
        assert files.records([key]).keys == [key]
    assert len(reads) == len(everything.keys[::7])
