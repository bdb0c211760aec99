"""An input that is looked at again and again."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae.errors import InputError
from tsae.inputs import Lookout, list_inputs, trees
from tsae.inputs.known import NOWHERE, Known
from tsae.inputs.resting import Resting
from tsae.paths import Folder

LONG_AGO_S = 1000.0


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def put(path: Path, data: bytes = b"image", age_s: float = LONG_AGO_S) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    then_s = time.time() - age_s
    os.utime(path, (then_s, then_s))
    return path


def begin(source: Path | str, clock: Clock, rest_s: float = 10.0) -> Lookout:
    lookout = Lookout(str(source), rest_s, clock)
    lookout.begin()
    lookout.begun(list_inputs(str(source), may_be_empty=True))
    return lookout


def look(lookout: Lookout, failed: tuple[str, ...] = (), most: int = 1000) -> dict[str, bool]:
    """Key to whether it is new, of what is ready; it is known afterwards."""
    sighting = lookout.look(most)
    if sighting is None:
        return {}
    lookout.done(sighting, failed)
    return dict(zip(sighting.listing.keys, sighting.is_new.tolist(), strict=True))


# Known


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 3)), max_size=60))
@settings(max_examples=50)
def test_the_last_state_of_a_key_is_known(pairs: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tsae.inputs.known.RECENT", 7)
        known, expected = Known(), {}
        places: dict[str, int] = {}
        for key, number in pairs:
            known.add(key, (number, "v"), None if number == 0 else number)
            expected[key], places[key] = number, number or places.get(key, NOWHERE)
        assert known.places([*places, "another key"]).tolist() == [*places.values(), NOWHERE]
        assert all(known.is_in_state(key, (number, "v")) for key, number in expected.items())
        assert not any(known.is_in_state(key, (number + 1, "v")) for key, number in expected.items())
        assert known.are_known([*expected, "another key"]).tolist() == [True] * len(expected) + [False]
        states = [(number + (number == 2), "v") for number in expected.values()]
        assert known.are_in_states(list(expected), states).tolist() == [number != 2 for number in expected.values()]
        assert all(key in known for key in expected)
        assert "another key" not in known


# Resting


def test_a_file_rests_by_its_time_of_change_or_by_what_was_seen(clock: Clock) -> None:
    resting = Resting(10, clock)
    resting.see("old", (1, str(time.time_ns() - 60 * 10**9)))
    in_future = (1, str(time.time_ns() + 10**12))
    resting.see("future", in_future)
    assert list(resting.ready()) == ["old"]
    clock.now_s = 6
    resting.see("future", in_future)
    assert list(resting.ready()) == ["old"]
    assert resting.wait_s() == 0
    clock.now_s = 10
    assert list(resting.ready()) == ["old", "future"]
    resting.see("future", (2, in_future[1]))
    assert list(resting.ready()) == ["old"], "it has changed"
    resting.drop(["old", "nobody"])
    assert resting.wait_s() == pytest.approx(10)
    resting.drop(["future"])
    assert resting.wait_s() is None


# What is found


def test_new_files_are_found_once(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path / "a.png")
    lookout = begin(tmp_path, clock)
    assert look(lookout) == {}
    put(tmp_path / "b.png")
    put(tmp_path / "deep/er/c.png")
    put(tmp_path / "notes.txt")
    assert look(lookout) == {"b.png": True, "deep/er/c.png": True}
    assert look(lookout) == {}


def test_a_file_that_is_still_written_waits(tmp_path: Path, clock: Clock) -> None:
    lookout = begin(tmp_path, clock)
    put(tmp_path / "a.png", b"ima", age_s=0)
    assert look(lookout) == {}
    assert 2.5 <= lookout.wait_s() <= 10
    put(tmp_path / "a.png", b"image", age_s=0)
    assert look(lookout) == {}
    put(tmp_path / "a.png", b"image")
    assert look(lookout) == {"a.png": True}
    assert lookout.wait_s() == 10


def test_a_file_that_is_written_when_the_watch_begins_waits_too(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "b.png", b"ima", age_s=0)
    lookout = Lookout(str(tmp_path), 10, clock)
    lookout.begin()
    assert list(lookout.begun(list_inputs(str(tmp_path))).keys) == ["a.png"]
    put(tmp_path / "b.png")
    assert look(lookout) == {"b.png": True}


def test_what_comes_while_the_input_is_listed_is_found_later(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path / "a.png")
    lookout = Lookout(str(tmp_path), 10, clock)
    lookout.begin()
    put(tmp_path / "b.png")
    assert list(lookout.begun(list_inputs(str(tmp_path))).keys) == ["a.png"]
    assert look(lookout) == {"b.png": True}


def test_a_file_that_is_replaced_is_found_and_not_new(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path / "a.png")
    lookout = begin(tmp_path, clock)
    put(tmp_path / "a.part", b"another").rename(tmp_path / "a.png")
    assert look(lookout) == {"a.png": False}


def test_only_a_full_look_finds_what_was_written_in_its_place(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "COARSE_NS", 0)
    put(tmp_path / "a.png")
    lookout = begin(tmp_path, clock)
    lookout._next_full_s = 100.0
    assert look(lookout) == {}
    put(tmp_path / "a.png", b"another")
    assert look(lookout) == {}
    clock.now_s = 100.0
    assert look(lookout) == {"a.png": False}


def test_one_that_failed_is_asked_for_at_each_look(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "COARSE_NS", 0)
    lookout = begin(tmp_path, clock)
    lookout._next_full_s = 100.0
    put(tmp_path / "half.png", b"ha")
    assert look(lookout, failed=("half.png",)) == {"half.png": True}
    assert look(lookout) == {}
    put(tmp_path / "half.png", b"whole")
    assert look(lookout) == {"half.png": False}


def test_a_quick_look_lists_only_folders_that_have_changed(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "COARSE_NS", -(10**18))  # no folder is listed again for having just changed
    for name in "abc":
        put(tmp_path / name / "1.png")
    lookout = begin(tmp_path, clock)
    lookout._next_full_s = 100.0
    listed: list[str] = []
    scan = trees.scan
    monkeypatch.setattr(trees, "scan", lambda folder: (listed.append(folder), scan(folder))[1])
    assert look(lookout) == {}
    assert listed == []
    put(tmp_path / "b" / "2.png")
    assert look(lookout) == {"b/2.png": True}
    assert listed == [f"{tmp_path}/b/"]


def test_in_a_large_folder_a_quick_look_asks_for_new_names_only(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "QUICK_ENTRIES", 1)
    put(tmp_path / "a.png")
    put(tmp_path / "b.png")
    lookout = begin(tmp_path, clock)
    lookout._next_full_s = 100.0
    put(tmp_path / "b.png", b"another")
    put(tmp_path / "c.png")
    assert look(lookout) == {"c.png": True}
    clock.now_s = 100.0
    assert look(lookout) == {"b.png": False}


def test_a_folder_that_goes_and_comes_again(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path / "a/1.png")
    lookout = begin(tmp_path, clock)
    (tmp_path / "a/1.png").unlink()
    (tmp_path / "a").rmdir()
    assert look(lookout) == {}
    put(tmp_path / "a/1.png", b"another")
    put(tmp_path / "a/2.png")
    assert look(lookout) == {"a/1.png": False, "a/2.png": True}


def test_a_link_to_a_folder_above_ends_nowhere(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path / "a/1.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    lookout = begin(tmp_path, clock)
    put(tmp_path / "a/2.png")
    assert look(lookout) == {"a/2.png": True}


def test_a_file_that_went_before_it_was_taken_is_forgotten(tmp_path: Path, clock: Clock) -> None:
    lookout = begin(tmp_path, clock)
    put(tmp_path / "a.png", age_s=0)
    assert look(lookout) == {}
    (tmp_path / "a.png").unlink()
    clock.now_s = 20
    assert look(lookout) == {}


def test_more_than_are_wanted_wait(tmp_path: Path, clock: Clock) -> None:
    lookout = begin(tmp_path, clock)
    for name in "abc":
        put(tmp_path / f"{name}.png")
    assert list(look(lookout, most=2)) == ["a.png", "b.png"]
    assert list(look(lookout, most=2)) == ["c.png"]


def test_keys_of_records_are_not_new(tmp_path: Path, clock: Clock) -> None:
    lookout = begin(tmp_path, clock)
    put(tmp_path / "there.png")
    lookout = begin(tmp_path, clock)
    lookout.know(["gone.png", "there.png"], 7)
    put(tmp_path / "gone.png")
    sighting = lookout.look(10)
    assert sighting is not None
    assert (list(sighting.listing.keys), sighting.is_new.tolist(), sighting.places.tolist()) == (["gone.png"], [False], [7])
    lookout.done(sighting, ())
    put(tmp_path / "gone.png", b"another")
    put(tmp_path / "new.png")
    sighting = lookout.look(10)
    assert sighting is not None
    assert sighting.places.tolist() == [7, NOWHERE]
    lookout.done(sighting, (), {"new.png": 8})
    put(tmp_path / "new.part", b"another").rename(tmp_path / "new.png")
    sighting = lookout.look(10)
    assert sighting is not None
    assert sighting.places.tolist() == [8]


def test_names_that_cannot_be_keys_are_failures_once(tmp_path: Path, clock: Clock) -> None:
    lookout = begin(tmp_path, clock)
    bad = os.fsencode(tmp_path) + b"/bad\xff.png"
    with open(bad, "wb"):
        pass
    os.utime(bad, (0, 0))
    sighting = lookout.look(10)
    assert sighting is not None
    assert [failure.path for failure in sighting.listing.failures] == ["bad%FF.png"]
    lookout.done(sighting, ())
    assert lookout.look(10) is None


def test_what_is_no_regular_file_is_handed_on(tmp_path: Path, clock: Clock) -> None:
    """Reading it says why it fails."""
    lookout = begin(tmp_path, clock)
    os.mkfifo(tmp_path / "pipe.png")
    assert look(lookout) == {}
    clock.now_s = 10
    assert look(lookout) == {"pipe.png": True}
    assert look(lookout) == {}


def test_an_input_that_goes_is_refused(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path / "in/a.png")
    lookout = begin(tmp_path / "in", clock)
    (tmp_path / "in").rename(tmp_path / "away")
    with pytest.raises(InputError, match="cannot be read"):
        lookout.look(10)


# Globs, stores


def test_a_glob_is_watched(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path / "a/1.png")
    lookout = begin(f"{tmp_path}/*/*.png", clock)
    put(tmp_path / "a/2.png")
    put(tmp_path / "a/3.jpg")
    put(tmp_path / "a/b/4.png")
    put(tmp_path / "5.png")
    assert look(lookout) == {"a/2.png": True}
    deep = begin(f"{tmp_path}/**/*.png", clock)
    put(tmp_path / "a/c/6.png")
    assert look(deep) == {"a/c/6.png": True}


@pytest.mark.parametrize("name", ["list.txt", "images.tar", "*.tar", "*.parquet"])
def test_lists_and_containers_are_not_watched(tmp_path: Path, clock: Clock, name: str) -> None:
    put(tmp_path / "list.txt")
    put(tmp_path / "images.tar")
    with pytest.raises(InputError, match="no folder and no glob of images"):
        Lookout(str(tmp_path / name), 10, clock)


def test_an_object_of_a_store_is_ready_at_once(clock: Clock) -> None:
    folder = Folder("memory://lookout-test/in")
    folder.write("a.png", b"image")
    lookout = begin(folder.path, clock)
    folder.write("b.png", b"image")
    sighting = lookout.look(10)
    assert sighting is not None
    (item,) = sighting.listing.items(sighting.listing.rows)
    assert (item.key, item.size_bytes, bool(item.version)) == ("b.png", 5, True)
    lookout.done(sighting, ())
    assert look(lookout) == {}
    folder.write("b.png", b"another")
    assert look(lookout) == {"b.png": False}


# Labels


def labels(lookout: Lookout) -> dict[str, Any]:
    sighting = lookout.look(10)
    assert sighting is not None
    found = {item.key: item.label for item in sighting.listing.items(sighting.listing.rows)}
    if not lookout.is_stale:
        lookout.done(sighting, ())
    return found


def test_new_images_have_the_labels_of_a_whole_listing(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path / "stop/1.png")
    put(tmp_path / "yield/1.png")
    lookout = begin(tmp_path, clock)
    put(tmp_path / "stop/2.png")
    put(tmp_path / "ahead/1.png")
    assert labels(lookout) == {"ahead/1.png": "ahead", "stop/2.png": "stop"}
    assert not lookout.is_stale
    put(tmp_path / "3.png")
    labels(lookout)
    assert lookout.is_stale, "now names of folders are no labels any more"


def test_a_second_folder_makes_names_of_folders_labels(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path / "stop/1.png")
    lookout = begin(tmp_path, clock)
    put(tmp_path / "stop/2.png")
    assert labels(lookout) == {"stop/2.png": None}
    put(tmp_path / "yield/1.png")
    labels(lookout)
    assert lookout.is_stale
    lookout.begin()
    assert lookout.begun(list_inputs(str(tmp_path))).labels["stop/1.png"] == "stop"
    assert not lookout.is_stale


def test_a_table_of_labels_that_changes_makes_it_stale(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "labels.csv", b"path,label\na.png,stop\nb.png,yield\n")
    lookout = begin(tmp_path, clock)
    put(tmp_path / "b.png")
    assert labels(lookout) == {"b.png": "yield"}
    put(tmp_path / "labels.csv", b"path,label\na.png,stop\nb.png,stop\n")
    lookout._next_full_s = clock()
    look(lookout)
    assert lookout.is_stale
