"""Compaction: what is merged and what goes, and that nothing else changes, whoever else is at work."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae import archive as ar
from tsae.errors import BusyError, CorruptDataError, FormatError, InputError
from tsae.jobs import choice, claim, compact, merge, plan
from tsae.jobs.compact import Compaction, CompactOptions
from tsae.paths import Folder

Make = Callable[..., ar.Records]
Write = Callable[..., ar.Manifest]

SHARD_IMAGES = 8

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
"""Where many small files are written fast."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SHARD_IMAGES", SHARD_IMAGES)
    monkeypatch.setattr(claim, "LOOK_S", 0.001)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "archive"))


def run(folder: Folder, **options: Any) -> Compaction:
    return compact.compact(CompactOptions(folder.path, **options))


def spread(records: ar.Records, shards: int) -> list[ar.Records]:
    """Shards whose key ranges overlap: each has every so manieth record."""
    return [records.take(range(start, len(records), shards)) for start in range(shards)]


def in_order(records: ar.Records, sizes: Sequence[int]) -> list[ar.Records]:
    ends = np.cumsum([0, *sizes]).tolist()
    return [records.take(range(start, end)) for start, end in itertools.pairwise(ends)]


def rows(folder: Folder) -> dict[str, dict[str, Any]]:
    """All records, to the byte, by key."""
    table = ar.ArchiveFiles(folder.path).to_table()
    found = {row["key"]: row for row in table.to_pylist()}
    assert len(found) == len(table)
    return found


def sizes(folder: Folder) -> list[int]:
    return [entry.rows for entry in ar.ArchiveFiles(folder.path).entries()]


def list_keys(folder: Folder) -> list[str]:
    return list(ar.ArchiveFiles(folder.path).keys())


def origins(folder: Folder) -> dict[str, ar.Origin]:
    files = ar.ArchiveFiles(folder.path)
    return {key: origin for shard in range(files.shards) for key, origin in files.origins(shard).items()}


def contents(folder: Folder) -> dict[str, bytes]:
    return {name: folder.read(name) for name in folder.sizes_bytes()}


def check_tidy(folder: Folder) -> None:
    """Nothing is there but what the manifest names, and all of that."""
    assert set(folder.sizes_bytes()) == ar.named_files(folder, ar.read_manifest(folder))
    assert not [report.damages for report in ar.verify(ar.ArchiveFiles(folder.path), 1) if report.damages]


def check_nothing_to_do(folder: Folder, **options: Any) -> None:
    before = contents(folder)
    assert not run(folder, **options).is_changed
    assert contents(folder) == before


# Merging


def test_small_shards_become_few(folder: Folder, make_records: Make, write_state: Write) -> None:
    for records in spread(make_records(30), 15):
        write_state(folder, [records], failures=[ar.Failure("x", "read", "E", "m")])
    before, facts, known = ar.read_manifest(folder), rows(folder), origins(folder)
    result = run(folder)
    assert dataclasses.astuple(result)[:4] == (30, 0, 15, 4)
    assert result.bytes_before > result.bytes_after > 0
    assert rows(folder) == facts
    assert origins(folder) == known
    assert sizes(folder) == [7, 8, 7, 8]
    assert list_keys(folder) == sorted(facts)
    after = ar.read_manifest(folder)
    assert dataclasses.replace(after.counts, shards=15) == before.counts
    kept = dataclasses.replace(after, counts=before.counts, lists=before.lists, created_by=before.created_by)
    assert kept == before
    check_tidy(folder)
    check_nothing_to_do(folder)
    check_nothing_to_do(folder, everything=True)


def test_large_shards_stay_in_front_as_they_are(folder: Folder, make_records: Make, write_state: Write) -> None:
    shards = in_order(make_records(28), [2, 8, 1, 5, 3, 8, 1])
    write_state(folder, shards)
    large = [entry.file for entry in ar.ArchiveFiles(folder.path).entries() if entry.rows >= 5]
    facts = rows(folder)
    run(folder)
    assert sizes(folder) == [8, 5, 8, 7]
    assert [entry.file for entry in ar.ArchiveFiles(folder.path).entries()][:3] == large
    assert rows(folder) == facts
    check_nothing_to_do(folder)


def test_all_of_them_in_the_order_of_keys_if_asked_for(folder: Folder, make_records: Make, write_state: Write) -> None:
    write_state(folder, [*spread(make_records(16), 2), make_records(3, "a/")])
    facts = rows(folder)
    check_nothing_to_do(folder)  # one small shard
    assert run(folder, everything=True).shards_after == 3
    assert list_keys(folder) == sorted(facts)
    assert rows(folder) == facts
    check_nothing_to_do(folder, everything=True)


@pytest.mark.parametrize("shape", [[], [3], [8], [8, 8, 3], [4, 4]])
def test_where_nothing_would_be_gained_nothing_is_done(
    folder: Folder, make_records: Make, write_state: Write, shape: list[int]
) -> None:
    write_state(folder, in_order(make_records(sum(shape)), shape))
    check_nothing_to_do(folder)


def test_lists_before_the_first_merged_shard_stay(
    folder: Folder, make_records: Make, write_state: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    monkeypatch.setattr(importlib.import_module("tsae.archive.commit"), "LIST_SHARDS", 2)
    write_state(folder, in_order(make_records(45), [8, 8, 8, 8, 1, 8, 1, 2, 1]))
    before, facts = ar.read_manifest(folder), rows(folder)
    run(folder)
    after = ar.read_manifest(folder)
    assert sizes(folder) == [8, 8, 8, 8, 8, 5]
    assert after.lists[:2] == before.lists[:2]
    assert [entry.rows for entry in after.lists] == [2, 2, 2]
    assert rows(folder) == facts
    check_tidy(folder)


def test_of_lost_provenance_only_the_sum_of_sizes_is_known(folder: Folder, make_records: Make, write_state: Write) -> None:
    write_state(folder, in_order(make_records(7), [3, 4])[:1])
    write_state(folder, in_order(make_records(7), [3, 3, 1])[1:])
    files = ar.ArchiveFiles(folder.path)
    known = files.origins(0) | files.origins(2)
    folder.remove([str(files.entry(1).provenance)])
    before = files.manifest.counts
    run(folder)
    assert origins(folder) == known
    assert ar.read_manifest(folder).counts.source_bytes == before.source_bytes > 0


TEXT = st.text("abcß€😀", min_size=1, max_size=5)


@given(
    st.lists(st.lists(TEXT, min_size=1, max_size=12), min_size=1, max_size=12),
    st.integers(1, 3000),
    st.sampled_from([2, 4, 8, 16]),
    st.booleans(),
    st.none() | st.sampled_from(["a*", "*ß*", "?"]),
    st.sampled_from([20, 2**19]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_shards_with_a_buffer_of_any_size(
    make_records: Make,
    write_state: Write,
    keys: list[list[str]],
    buffer_bytes: int,
    shard_images: int,
    everything: bool,
    glob: str | None,
    group_records: int,
) -> None:
    seen = set[str]()
    shards = []
    for number, names in enumerate(keys):
        own = sorted(set(names) - seen)
        seen |= set(own)
        if own:
            shards.append(dataclasses.replace(make_records(len(own), seed=number), keys=own))
    with tempfile.TemporaryDirectory(dir=MEMORY) as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SHARD_IMAGES", shard_images)
        patch.setattr(merge, "BUFFER_BYTES", buffer_bytes)
        patch.setattr(choice, "GROUP_RECORDS", group_records)
        folder = Folder(path)
        for records in shards:
            write_state(folder, [records])
        expected = {key: row for key, row in rows(folder).items() if glob is None or not ar.matches(key, glob)}
        remove = [] if glob is None else [glob]
        if not expected:
            with pytest.raises(InputError, match="all .* records would go"):
                run(folder, everything=everything, remove=remove)
            return
        removed = run(folder, everything=everything, remove=remove).removed
        assert removed == len(seen) - len(expected)
        assert rows(folder) == expected
        assert set(origins(folder)) == set(expected)
        found = sizes(folder)
        assert max(found) <= max(shard_images, *(len(shard) for shard in shards))
        assert sum(2 * size < shard_images for size in found) <= 1
        if everything:
            assert list(ar.ArchiveFiles(path).keys()) == sorted(expected)
        check_nothing_to_do(folder, everything=everything, remove=remove)


def test_many_are_merged_in_groups_of_neighbours(
    folder: Folder, make_records: Make, write_state: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "GROUP_RECORDS", 20)
    write_state(folder, spread(make_records(60), 30))
    facts, reads, read = rows(folder), [], merge._read_records
    monkeypatch.setattr(merge, "_read_records", lambda *args: reads.append(1) or read(*args))
    run(folder)
    assert len(reads) == 30, "each is read once"
    assert rows(folder) == facts
    assert sizes(folder) == [6, 7, 7] * 3
    check_nothing_to_do(folder)
    assert run(folder, everything=True).shards_after == 8
    assert list_keys(folder) == sorted(facts)
    assert rows(folder) == facts


def test_a_key_that_is_there_twice_is_told(folder: Folder, make_records: Make, write_state: Write) -> None:
    write_state(folder, [make_records(2), make_records(3)])
    before = contents(folder)
    with pytest.raises(FormatError, match="the key sign/00000.png is there twice"):
        run(folder)
    assert ar.read_manifest_text(folder) == before[ar.MANIFEST_FILE]


def test_what_is_held_at_once_is_bounded(
    folder: Folder, make_records: Make, write_state: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of records is; here four times the buffer, of shards that all overlap."""
    monkeypatch.setattr(merge, "BUFFER_BYTES", 20_000)
    write_state(folder, spread(make_records(120, stream_bytes=600), 40))
    held, sort = [], merge._sorted

    def watched(tables: Sequence[pa.Table]) -> pa.Table:
        held.append(sum(table.nbytes for table in tables))
        return sort(tables)

    monkeypatch.setattr(merge, "_sorted", watched)
    facts = rows(folder)
    run(folder)
    assert rows(folder) == facts
    assert len(held) > 4
    assert max(held) < 20_000 + 4 * 800


# Removing


def test_records_are_removed_by_their_keys(folder: Folder, make_records: Make, write_state: Write) -> None:
    write_state(folder, [make_records(8, f"{name}/", seed=seed) for seed, name in enumerate("abc")])
    facts, large = rows(folder), [entry.file for entry in ar.ArchiveFiles(folder.path).entries()]
    result = run(folder, remove=["b/00003.png", "c/0000[01].png"])
    assert (result.removed, result.images, sizes(folder)) == (3, 21, [8, 7, 6])
    gone = {"b/00003.png", "c/00000.png", "c/00001.png"}
    assert rows(folder) == {key: row for key, row in facts.items() if key not in gone}
    assert set(origins(folder)) == facts.keys() - gone
    files = ar.ArchiveFiles(folder.path)
    assert "".join(key[0] for key in list_keys(folder)) == "aaaaaaaabbbbbbbcccccc"
    assert files.entry(0).file == large[0]
    data = b"".join(contents(folder).values())
    assert not any(key.encode() in data for key in gone)
    assert not any(facts[key]["stream"] in data for key in gone)
    check_tidy(folder)
    check_nothing_to_do(folder, remove=["b/00003.png", "c/0000[01].png"])
    assert ar.ArchiveFiles(folder.path).manifest.counts.source_bytes == 21 * len("a/00000.png")


def test_a_shard_whose_records_all_go_goes(folder: Folder, make_records: Make, write_state: Write) -> None:
    write_state(folder, [make_records(8, f"{name}/") for name in "abc"])
    assert run(folder, remove=["b/*"]).shards_after == 2
    assert "".join(key[0] for key in list_keys(folder)) == "aaaaaaaacccccccc"
    check_tidy(folder)


def test_an_archive_is_not_emptied(folder: Folder, make_records: Make, write_state: Write) -> None:
    write_state(folder, [make_records(3), make_records(8, "z/")])
    before = contents(folder)
    for everything in (False, True):
        with pytest.raises(InputError, match="all 11 records would go; remove the archive itself"):
            run(folder, remove=["*"], everything=everything)
    assert contents(folder) == before


def test_a_shard_larger_than_our_own_is_cut(folder: Folder, make_records: Make, write_state: Write) -> None:
    """Another writer may put more in one."""
    write_state(folder, [make_records(20)])
    check_nothing_to_do(folder)
    run(folder, remove=["*/00019.png"])
    assert sizes(folder) == [6, 6, 7]


@pytest.fixture
def source(tmp_path: Path, make_records: Make, folder: Folder, write_state: Write) -> Path:
    """An input, of which an archive says that it was made."""
    path = tmp_path / "in"
    records = make_records(8)
    for key in records.keys:
        Folder(str(path)).write(key, b"")
    manifest = write_state(folder, [records])
    own = dataclasses.replace(manifest, settings=ar.Settings(str(path), str(path), True, None))
    ar.commit(folder, own, manifest.to_json())
    return path


def test_records_go_whose_files_have_gone(folder: Folder, source: Path) -> None:
    check_nothing_to_do(folder, remove_missing=True)
    (source / "sign/00003.png").unlink()
    (source / "sign/00004.png").rename(source / "moved.png")
    assert run(folder, remove_missing=True).removed == 2
    assert [key[-5] for key in rows(folder)] == list("012567")
    check_nothing_to_do(folder, remove_missing=True)


def refuse_missing(folder: Folder, match: str) -> None:
    before = contents(folder)
    with pytest.raises(InputError, match=match) as error:
        run(folder, remove_missing=True)
    assert "\n" not in str(error.value)
    assert contents(folder) == before


def test_a_disk_that_is_not_there_empties_no_archive(folder: Folder, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "sign").rename(source.parent / "elsewhere")
    refuse_missing(folder, "cannot be listed .*no image found.*nothing is known to be missing")
    source.rmdir()
    refuse_missing(folder, "cannot be listed .*not there")
    source.symlink_to(source.parent / "nowhere")
    refuse_missing(folder, "cannot be listed .*not there")
    source.unlink()
    Folder(str(source)).write("other.png", b"")
    refuse_missing(folder, "all 8 records would go")


def test_a_part_of_the_input_that_cannot_be_read_takes_no_records(
    folder: Folder, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tsae.inputs import files

    Folder(str(source)).write("a.png", b"")
    scan = files.scan

    def refuse(path: str) -> Any:
        if path.rstrip("/").endswith("/sign"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(files, "scan", refuse)
    refuse_missing(folder, "cannot be listed wholly .sign/: the folder cannot be read")


def test_a_list_is_listed_as_the_archive_was_made(folder: Folder, source: Path) -> None:
    text = "".join(f"sign/0000{i}.png\n" for i in range(8))
    (source.parent / "list.txt").write_text(text)
    manifest = ar.read_manifest(folder)
    own = dataclasses.replace(manifest, settings=ar.Settings(str(source.parent / "list.txt"), str(source), True, None))
    ar.commit(folder, own, manifest.to_json())
    check_nothing_to_do(folder, remove_missing=True)
    (source.parent / "list.txt").write_text(text[: text.index("sign/00007")])
    assert run(folder, remove_missing=True).removed == 1


def test_an_archive_that_does_not_know_its_input(folder: Folder, make_records: Make, write_state: Write) -> None:
    manifest = write_state(folder, [make_records(3)])
    ar.commit(folder, dataclasses.replace(manifest, settings=ar.Settings("", "", True, None)), manifest.to_json())
    refuse_missing(folder, "does not know its input; name what is to go with --remove")


# Others at work


@pytest.fixture
def small(folder: Folder, make_records: Make, write_state: Write) -> dict[str, dict[str, Any]]:
    """An archive of ten small shards, and its records."""
    for records in spread(make_records(20), 10):
        write_state(folder, [records])
    return rows(folder)


@contextlib.contextmanager
def meanwhile(monkeypatch: pytest.MonkeyPatch, actions: Sequence[Callable[[], object]]) -> Iterator[list[int]]:
    """Each attempt is disturbed by the next action, between the writing of its shards and its claim."""
    take, attempts = compact.take_claim, [0]

    def disturbed(*args: Any) -> claim.Claim:
        attempts[0] += 1
        if attempts[0] <= len(actions):
            actions[attempts[0] - 1]()
        return take(*args)

    monkeypatch.setattr(compact, "take_claim", disturbed)
    yield attempts
    monkeypatch.setattr(compact, "take_claim", take)


def test_what_was_added_meanwhile_stays_behind(
    folder: Folder, small: Any, make_records: Make, write_state: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = make_records(2, "new/")
    with meanwhile(monkeypatch, [lambda: write_state(folder, [new])]) as attempts:
        run(folder)
    assert attempts == [2]  # one to commit, and one to remove the old files
    assert sizes(folder) == [6, 7, 7, 2]
    assert list_keys(folder) == [*sorted(small), *new.keys]
    check_tidy(folder)


@pytest.mark.parametrize("everything", [False, True])
def test_what_was_replaced_meanwhile_is_not_brought_back(
    folder: Folder, small: Any, make_records: Make, write_state: Write, monkeypatch: pytest.MonkeyPatch, everything: bool
) -> None:
    changed = ar.ArchiveFiles(folder.path).shard_records(3)
    changed = dataclasses.replace(changed, streams=[b"changed" for _ in changed.keys])
    with meanwhile(monkeypatch, [lambda: write_state(folder, [], {3: changed})]) as attempts:
        run(folder, everything=everything)
    assert attempts == [3]
    assert sizes(folder) == [6, 7, 7]
    found = rows(folder)
    assert found.keys() == small.keys()
    assert {key for key, row in found.items() if row["stream"] == b"changed"} == set(changed.keys)
    check_tidy(folder)


def test_what_another_command_took_for_leftovers_is_written_again(
    folder: Folder, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tidy() -> None:
        ar.clean_up(folder, ar.read_manifest(folder), None)

    with meanwhile(monkeypatch, [tidy] * 3) as attempts:
        run(folder)
    assert attempts[0] > 4
    assert sizes(folder) == [4, 4, 4, 4, 4]  # two by two, as there was no time for more
    assert rows(folder) == small
    check_tidy(folder)


def test_one_that_is_disturbed_for_ever_gives_up(folder: Folder, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def tidy() -> None:
        ar.clean_up(folder, ar.read_manifest(folder), None)

    before = ar.read_manifest_text(folder)
    with meanwhile(monkeypatch, [tidy] * 99), pytest.raises(InputError, match="change it all the time; run this later"):
        run(folder)
    assert ar.PLAN_FILE not in folder.sizes_bytes()
    assert ar.read_manifest_text(folder) == before
    run(folder)
    assert rows(folder) == small
    check_tidy(folder)


def test_another_compaction_meanwhile(folder: Folder, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def other() -> None:
        monkeypatch.setattr(compact, "take_claim", claim.take_claim)
        run(folder)

    with meanwhile(monkeypatch, [other]):
        assert not run(folder).is_changed
    assert rows(folder) == small
    check_tidy(folder)


JOB = json.dumps({"token": "a job's", "name": "0123456789abcdef"}).encode()


def test_a_job_is_waited_for(folder: Folder, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write(ar.PLAN_FILE, JOB)
    looks = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            folder.remove([ar.PLAN_FILE])

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", look)
        run(folder)
    assert len(looks) >= 3
    assert rows(folder) == small
    check_tidy(folder)


@pytest.mark.parametrize("late", [False, True])
def test_a_job_that_does_not_end_is_left_alone(folder: Folder, small: Any, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    monkeypatch.setattr(claim, "WAIT_S", 0.05)
    before = contents(folder)
    if not late:
        folder.write(ar.PLAN_FILE, JOB)
    with (
        meanwhile(monkeypatch, [lambda: folder.write(ar.PLAN_FILE, JOB)]),
        pytest.raises(BusyError, match="at work there; wait for it, or if"),
    ):
        run(folder)
    assert contents(folder).items() >= (before | {ar.PLAN_FILE: JOB}).items()
    if not late:
        assert contents(folder) == before | {ar.PLAN_FILE: JOB}


def test_a_claim_that_was_left_is_in_nobodys_way(folder: Folder, small: Any) -> None:
    left = claim.take_claim(folder, "compact")
    assert claim.is_claim(folder.read(ar.PLAN_FILE))
    run(folder)
    assert not left.is_held()
    assert rows(folder) == small
    check_tidy(folder)
    claim.take_claim(folder, "compact")
    folder.write("shards/000000-0123456789abcdef.parquet", b"what a kill left")
    assert not run(folder).is_changed
    check_tidy(folder)


def test_one_whose_claim_was_taken_does_not_commit(folder: Folder, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    take, times = compact.take_claim, itertools.count()

    def overtaken(*args: Any) -> claim.Claim:
        taken = take(*args)
        if next(times) == 0:
            folder.replace(ar.PLAN_FILE, JOB, folder.read(ar.PLAN_FILE))
        return taken

    monkeypatch.setattr(compact, "take_claim", overtaken)
    monkeypatch.setattr(claim, "WAIT_S", 0.05)
    before = ar.read_manifest_text(folder)
    with pytest.raises(InputError, match="at work there"):
        run(folder)
    assert folder.read(ar.PLAN_FILE) == JOB
    assert ar.read_manifest_text(folder) == before
    folder.remove([ar.PLAN_FILE])
    run(folder)
    assert rows(folder) == small


@pytest.mark.parametrize("plan_text", [None, b"", b"{", b"[]", b"5", b'{"token": "x"}', JOB])
def test_what_is_no_claim(plan_text: bytes | None) -> None:
    assert not claim.is_claim(plan_text)


# Readers and grace


def test_old_files_stay_for_a_while(folder: Folder, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old, waited = ar.ArchiveFiles(folder.path, ar.read_manifest_text(folder)), []

    def read_meanwhile(seconds: float) -> None:
        waited.append(seconds)
        assert {row["key"]: row for row in old.to_table().to_pylist()} == small
        assert sizes(folder) == [6, 7, 7]

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", read_meanwhile)
        run(folder, grace_s=77)
    assert waited == [77]
    check_tidy(folder)


def test_an_interruption_while_old_files_stay(folder: Folder, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(folder, grace_s=77)
    assert sizes(folder) == [6, 7, 7]
    assert len(folder.sizes_bytes()) > 20
    assert not run(folder).is_changed
    check_tidy(folder)
    assert rows(folder) == small


def test_the_usual_grace() -> None:
    assert compact._grace_s(CompactOptions("/local")) == 0
    assert compact._grace_s(CompactOptions("file:///local")) == 0
    assert compact._grace_s(CompactOptions("s3://bucket/archive")) == 300
    assert compact._grace_s(CompactOptions("s3://bucket/archive", grace_s=0)) == 0
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="--grace .*0 or more"):
            compact._grace_s(CompactOptions("/local", grace_s=wrong))


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_on_a_store(request: pytest.FixtureRequest, tmp_path: Path, kind: str, make_records: Make, write_state: Write) -> None:
    path = f"memory://compact-{tmp_path.name}" if kind == "memory" else request.getfixturevalue("s3_folder")
    folder = Folder(path)
    write_state(folder, spread(make_records(12), 6))
    facts = rows(folder)
    assert run(folder, grace_s=0).shards_after == 2
    assert rows(folder) == facts
    check_tidy(folder)
    check_nothing_to_do(folder)


# Damage


def test_a_damaged_record_ends_it_before_anything_changes(folder: Folder, small: Any) -> None:
    entry = ar.ArchiveFiles(folder.path).entry(4)
    stream = small[entry.first_key]["stream"]
    data = folder.read(entry.file)
    folder.write(entry.file, data.replace(stream, bytes(len(stream))))
    before = contents(folder)
    with pytest.raises(CorruptDataError, match=f"{entry.first_key} does not match its checksum.*--repair OUT"):
        run(folder)
    assert contents(folder) == before


def test_a_missing_shard_ends_it_before_anything_changes(folder: Folder, small: Any) -> None:
    folder.remove([ar.ArchiveFiles(folder.path).entry(4).file])
    before = contents(folder)
    with pytest.raises(CorruptDataError, match="cannot be read"):
        run(folder)
    assert contents(folder) == before


def test_records_that_would_be_lost_end_it(folder: Folder, small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason may be: here, that the merging itself loses or confuses some."""
    before, sort = ar.read_manifest_text(folder), merge._sorted

    def lossy(tables: Sequence[pa.Table]) -> pa.Table:
        return sort(tables)[:-1]

    def confused(tables: Sequence[pa.Table]) -> pa.Table:
        table = sort(tables)
        return pa.concat_tables([table[:1], table[:-1]])

    for broken in (lossy, confused):
        monkeypatch.setattr(merge, "_sorted", broken)
        with pytest.raises((FormatError, ValueError)):
            run(folder)
        assert ar.read_manifest_text(folder) == before
    monkeypatch.undo()
    assert rows(folder) == small


def test_what_a_newer_tsae_wrote_is_not_dropped(folder: Folder, small: Any) -> None:
    text = ar.read_manifest_text(folder)
    rest = text.partition(b"\n")[2].replace(b'"requires"', b'"surprise": 1,\n "requires"', 1)
    head = f'{{"format": "tsae", "format_version": 1, "sha256": "{ar.digest(rest)}",\n'.encode()
    folder.write(ar.MANIFEST_FILE, head + rest)
    with pytest.raises(FormatError, match="a newer tsae has written surprise"):
        run(folder)


def test_there_must_be_an_archive(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="not an archive"):
        run(Folder(str(tmp_path)))
    with pytest.raises(FormatError, match="not an archive"):
        run(Folder(str(tmp_path / "nowhere")))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["write", "replace", "remove"])
def test_a_disk_that_says_no(folder: Folder, small: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """At any of its operations: the archive is whole, and the next run finishes."""
    original = getattr(Folder, name)
    for at in range(1, 40):
        calls = itertools.count(1)

        def refuse(*args: Any, calls: Iterator[int] = calls, at: int = at, **kwargs: Any) -> None:
            if next(calls) == at:
                raise OSError(28, "No space left on device")
            original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Folder, name, refuse)
            try:
                run(folder)
            except InputError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
        assert rows(folder) == small
        if next(calls) <= at:
            break
    assert 1 < at < 39
    run(folder)
    assert rows(folder) == small
    check_tidy(folder)
