"""Readers of old states: their files stay as long as they read, and go afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tsae.archive import (
    MANIFEST_FILE,
    ArchiveFiles,
    Manifest,
    Waste,
    clean_up,
    count,
    hold_manifest,
    named_files,
    read_manifest,
    read_manifest_text,
    recount,
)
from tsae.archive.cleanup import GRACE_S
from tsae.archive.states import held_states, kept_if_held, state_file
from tsae.paths import Folder, Hold

Make = Callable[..., Any]
Write = Callable[..., Manifest]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "archive"))


def test_the_files_of_a_state_stay_while_somebody_holds_it(folder: Folder, make_records: Make, write_state: Write) -> None:
    write_state(folder, [make_records(20)])
    text, hold = hold_manifest(folder)
    assert hold is not None
    manifest = write_state(folder, [], {0: make_records(20, seed=1)})
    clean_up(folder, manifest, None)
    assert list(held_states(folder)) == [state_file(text)]
    assert len(ArchiveFiles(folder.path, text).shard_records(0)) == 20
    hold.release()
    clean_up(folder, manifest, None)
    assert held_states(folder) == {}
    assert not (Path(folder.path) / "states").exists()
    assert {name for name in folder.sizes_bytes() if name.startswith("shards/")} == {ArchiveFiles(folder.path).entry(0).file}


def test_a_state_that_nobody_holds_leaves_nothing(folder: Folder, make_records: Make, write_state: Write) -> None:
    write_state(folder, [make_records(20)])
    manifest = write_state(folder, [make_records(20, "z/")])
    assert not (Path(folder.path) / "states").exists()
    clean_up(folder, manifest, None)
    assert sum(name.startswith("lists/") for name in folder.sizes_bytes()) == 1


def test_the_death_of_a_reader_ends_its_hold(folder: Folder, make_records: Make, write_state: Write) -> None:
    write_state(folder, [make_records(20)])
    script = "import sys, tsae; archive = tsae.open_archive(sys.argv[1]); print(len(archive), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, folder.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "20\n"
        manifest = write_state(folder, [], {0: make_records(20, seed=1)})
        clean_up(folder, manifest, None)
        assert len(held_states(folder)) == 1
        reader.kill()
    assert held_states(folder) == {}


def test_the_current_state_can_be_held_and_built_upon(folder: Folder, make_records: Make, write_state: Write) -> None:
    """A commit that fails may leave the current manifest a second name: no harm, and gone with the holder."""
    write_state(folder, [make_records(20)])
    text, hold = hold_manifest(folder)
    assert hold is not None
    with kept_if_held(folder, text):
        pass
    assert list(held_states(folder)) == [state_file(text)]
    assert read_manifest_text(folder) == text
    hold.release()
    assert held_states(folder) == {}
    assert read_manifest_text(folder) == text


def test_no_one_can_hold_a_state_while_it_is_found_free(folder: Folder, make_records: Make, write_state: Write) -> None:
    write_state(folder, [make_records(20)])
    with folder.unheld(MANIFEST_FILE) as is_free:
        assert is_free
        text = read_manifest_text(folder)
        folder.replace(MANIFEST_FILE, text + b" ", expected=text)
    held, hold = folder.read_and_hold(MANIFEST_FILE, 2**20)
    assert (held, hold is not None) == (text + b" ", True)


def test_a_store_has_no_holds(make_records: Make, write_state: Write) -> None:
    folder = Folder("memory://states-test/archive")
    write_state(folder, [make_records(20)])
    assert hold_manifest(folder)[1] is None
    write_state(folder, [], {0: make_records(20, seed=1)})
    assert held_states(folder) == {}


# Waste


def test_waste_goes_when_no_older_state_is_held(folder: Folder, make_records: Make, write_state: Write) -> None:
    waste = Waste(folder)
    write_state(folder, [make_records(20)])
    holds: list[Hold] = []
    texts: list[bytes] = []
    for number in range(3):
        text, hold = hold_manifest(folder)
        assert hold is not None
        holds.append(hold)
        texts.append(text)
        (before,) = ArchiveFiles(folder.path).manifest.lists
        write_state(folder, [make_records(5, f"more-{number}/")])
        waste.add(text, [before.file])
    first, second, third = holds
    second.release()
    waste.remove()
    assert [len(ArchiveFiles(folder.path, text).shard_records(0)) for text in texts] == [20, 20, 20]
    first.release()
    waste.remove()
    assert sum(name.startswith("lists/") for name in folder.sizes_bytes()) == 2, "that of the third and of the present"
    assert len(ArchiveFiles(folder.path, texts[2]).shard_records(0)) == 20
    third.release()
    waste.remove()
    assert sum(name.startswith("lists/") for name in folder.sizes_bytes()) == 1


def test_waste_stays_while_a_state_from_before_is_held(folder: Folder, make_records: Make, write_state: Write) -> None:
    write_state(folder, [make_records(20)])
    text, hold = hold_manifest(folder)
    assert hold is not None
    write_state(folder, [make_records(5, "a/")])
    waste, middle = Waste(folder), read_manifest_text(folder)
    (before,) = ArchiveFiles(folder.path).manifest.lists
    write_state(folder, [make_records(5, "b/")])
    waste.add(middle, [before.file])
    waste.remove()
    assert folder.exists(before.file)
    assert len(ArchiveFiles(folder.path, text).shard_records(0)) == 20
    hold.release()
    waste.remove()
    assert not folder.exists(before.file)


def test_waste_that_is_named_again_stays(folder: Folder, make_records: Make, write_state: Write) -> None:
    """An image that is changed and then is as before gives the very shard that was there, while somebody reads that state."""
    waste = Waste(folder)
    write_state(folder, [make_records(20)])
    _, hold = hold_manifest(folder)
    assert hold is not None
    for seed in (1, 0):
        old, text = ArchiveFiles(folder.path), read_manifest_text(folder)
        new = write_state(folder, [], {0: make_records(20, seed=seed)})
        waste.add(text, [old.entry(0).file, *(old.manifest.files - new.files)])
    waste.remove()
    hold.release()
    waste.remove()
    assert set(folder.sizes_bytes()) >= named_files(folder, read_manifest(folder))
    assert len(ArchiveFiles(folder.path).shard_records(0)) == 20
    assert sum(name.startswith("shards/") for name in folder.sizes_bytes()) == 1


def test_in_a_store_waste_stays_for_some_time() -> None:
    folder, now_s = Folder("memory://waste-test/archive"), [0.0]
    folder.write("lists/a", b"")
    folder.write("lists/b", b"")
    waste = Waste(folder, lambda: now_s[0])
    waste.add(b"first", ["lists/a"])
    now_s[0] = GRACE_S / 2
    waste.add(b"second", ["lists/b"])
    waste.remove()
    assert len(folder.sizes_bytes()) == 2
    now_s[0] = GRACE_S
    waste.remove()
    assert list(folder.sizes_bytes()) == ["lists/b"]


# Counts


@pytest.mark.parametrize("replaced", [0, 1])
def test_sums_follow_from_what_differs(folder: Folder, make_records: Make, write_state: Write, replaced: int) -> None:
    old = write_state(folder, [make_records(20), make_records(30, "z/", seed=3)])
    removed = ArchiveFiles(folder.path).entry(replaced)
    new = write_state(folder, [make_records(9, "a/")], {replaced: make_records(10, seed=1)})
    files = ArchiveFiles(folder.path)
    found = recount(old.counts, [removed], [files.entry(replaced), files.entry(2)], 0, 0)
    has_least = removed.psnr_min_db == old.counts.psnr_min_db
    assert found == (None if has_least else new.counts)
    assert new.counts == count(folder, new.lists, 0, 0)


def test_sums_of_many_additions_are_exact(folder: Folder, make_records: Make, write_state: Write) -> None:
    counts = write_state(folder, [make_records(20)]).counts
    for number in range(20):
        expected = write_state(folder, [make_records(number + 1, f"{number}/", seed=number)]).counts
        found = recount(counts, [], [ArchiveFiles(folder.path).entry(number + 1)], 0, 0)
        assert found == expected
        counts = found
