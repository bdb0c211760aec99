"""Listing a remote tree by ranges of names: each file once, whatever the names and pages, and few requests in vain."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.utils import parse_timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae import archive as ar
from tsae import paths
from tsae.inputs import list_inputs
from tsae.paths import tree


class Store:
    """What `find_files` needs of s3fs, over names in memory."""

    protocol, req_kw = ("s3", "s3a"), {}

    def __init__(self, names: list[str]) -> None:
        self.keys, self.requests = sorted(f"in/{name}" for name in names), 0

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call_s3(self, method: str, Bucket: str, Prefix: str, MaxKeys: int, StartAfter: str = "") -> dict[str, Any]:
        assert (method, Bucket) == ("list_objects_v2", "bucket")
        self.requests += 1
        found = [key for key in self.keys if key.startswith(Prefix) and key > StartAfter]
        contents = [{"Key": key, "Size": len(key), "ETag": f'"{key}"'} for key in found[:MaxKeys]]
        return {"IsTruncated": len(found) > MaxKeys, **({"Contents": contents} if contents else {})}


def listed(store: Store) -> list[tuple[str, paths.FileFacts | None]]:
    return list(tree.find_files(store, "bucket/in"))


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4) | st.text("ab/~ \x7f", min_size=1, max_size=5)


@given(st.sets(NAMES, max_size=60), st.integers(1, 7), st.integers(1, 5))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_each_file_is_found_once(names: set[str], page: int, requests: int) -> None:
    store = Store(sorted(names))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "PAGE_NAMES", page)
        patch.setattr(tree, "LIST_REQUESTS", requests)
        found = listed(store)
    assert sorted(found) == [(name, paths.FileFacts(len(f"in/{name}"), f'"in/{name}"')) for name in sorted(names)]
    assert store.requests <= 3 * (len(names) // page + 1)


def test_requests_in_vain_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "PAGE_NAMES", 10)
    store = Store([f"{number // 300:05d}/{number // 30 % 10:05d}_{number % 30:05d}.png" for number in range(20_000)])
    assert len(listed(store)) == 20_000
    assert 2000 <= store.requests < 2400


@pytest.mark.parametrize(
    ("first", "last", "between"),
    [
        ("", None, True),
        ("a", "c", True),
        ("a", "a ", False),
        ("00/1", "00/9", True),
        ("é", "ê", False),
        ("~~~~~~", None, False),
    ],
)
def test_a_name_between_two(first: str, last: str | None, between: bool) -> None:
    found = tree._between(first, last)
    assert (found is not None) == between
    if found is not None:
        assert first < found < (last or "\x7f")


@pytest.mark.parametrize(
    "text", ["2026-11-28T12:34:56.789Z", "2026-11-28T12:34:56Z", "Sat, 28 Nov 2026 12:34:56 GMT", "1764333296", 1764333296.5]
)
def test_times_are_those_that_botocore_reads(text: str | float) -> None:
    assert tree._parse_time(text) == parse_timestamp(text)


def test_names_of_any_kind_on_a_server(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        "a.png",
        "a/b.png",
        "a/é ü.png",
        "a/+%2F&.png",
        "b/c/d.png",
        "b/c.png",
        "b/c/",
        "z.txt",
        "~.png",
        *(f"x/{i}.png" for i in range(9)),
    ]
    folder = ar.Folder(s3_folder)
    for name in names:
        folder.write(name, name.encode())
    ar.Folder(f"{s3_folder}-other").write("no.png", b"")
    files, base = paths.filesystem(s3_folder)
    expected = {path.removeprefix(f"{base}/"): info for path, info in files.find(f"{base}/", detail=True).items()}
    monkeypatch.setattr(tree, "PAGE_NAMES", 3)
    found = dict(paths.find_remote(s3_folder))
    assert found == {name: paths.remote_facts(info) for name, info in expected.items()}
    assert set(found) == set(names)
    assert folder.sizes_bytes() == {name: len(name.encode()) for name in sorted(names)}
    listing = list_inputs(s3_folder)
    assert listing.keys == sorted(name for name in names if name.endswith(".png"))
    assert listing.skipped == 2
