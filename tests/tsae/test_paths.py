"""One way to files: local paths taken literally, URLs by fsspec, writes in one step."""

import os
import pickle
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae import paths
from tsae.errors import InputError
from tsae.paths import TEMPORARY, Folder


@pytest.mark.parametrize("path", ["memory://x", "s3://bucket/key", "gs://b", "HTTP://h/x", "a+b-c.d://x"])
def test_urls(path: str) -> None:
    assert paths.is_url(path)


@pytest.mark.parametrize("path", ["/a/b", "a", "C:/x", "memory:/x", "://x", "1s3://x", "/a/s3://x", " s3://x"])
def test_local_paths(path: str) -> None:
    assert not paths.is_url(path)


@pytest.mark.parametrize(
    ("base", "name", "path"),
    [
        ("/a", "b/c.png", "/a/b/c.png"),
        ("/a/", "b", "/a/b"),
        ("/", "b", "/b"),
        ("memory://a", "b", "memory://a/b"),
        ("memory://", "b", "memory://b"),
    ],
)
def test_join_and_its_inverse(base: str, name: str, path: str) -> None:
    assert paths.join(base, name) == path
    assert paths.relative(path, base) == name


@pytest.mark.parametrize(
    ("path", "folder"), [("/ab/c", "/a"), ("/a", "/a"), ("/a/", "/a"), ("/a", "/a/b"), ("memory://ab", "memory://a")]
)
def test_not_below(path: str, folder: str) -> None:
    assert paths.relative(path, folder) is None


def test_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.absolute("a/../b") == f"{tmp_path}/b"
    assert paths.absolute("/x/") == "/x"
    assert paths.absolute("memory://x/y/") == "memory://x/y"
    assert paths.absolute("memory://") == "memory://"


@pytest.mark.parametrize(
    ("path", "parent"),
    [("/a/b", "/a"), ("/a", "/"), ("memory://a/b", "memory://a"), ("memory://a", "memory://")],
)
def test_parent(path: str, parent: str) -> None:
    assert paths.parent(path) == parent


def test_is_within_follows_links(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert paths.is_within(f"{tmp_path}/link/b", f"{tmp_path}/a")
    assert paths.is_within(f"{tmp_path}/a", f"{tmp_path}/link")
    assert not paths.is_within(f"{tmp_path}/a", f"{tmp_path}/a/b")
    assert not paths.is_within(f"{tmp_path}/ab", f"{tmp_path}/a")
    assert paths.is_within("memory://a/b", "memory://a")
    assert not paths.is_within("memory://ab", "memory://a")
    assert not paths.is_within("/a/b", "memory://a")


@pytest.mark.parametrize("url", ["nonsense://x", "abfs9://x"])
def test_an_unknown_scheme_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(InputError, match=url) as caught:
        paths.filesystem(url)
    assert "\n" not in str(caught.value)


def test_read_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert paths.read_file(str(tmp_path / "x")) == b"12345"
    assert paths.read_file(str(tmp_path / "x"), 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes"):
        paths.read_file(str(tmp_path / "x"), 4)
    fsspec.filesystem("memory").pipe_file("/read/x", b"12345")
    assert paths.read_file("memory://read/x", 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes"):
        paths.read_file("memory://read/x", 4)
    with pytest.raises(FileNotFoundError):
        paths.read_file("memory://read/nothing")


def test_what_is_no_regular_file_is_refused_without_waiting_or_leaking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    before = len(os.listdir("/proc/self/fd"))
    refusals = {"pipe.png": "not a regular", "": "folder", "loop.png": "loop.png", "no": "No such", "a\0b": "zero byte"}
    for name, message in refusals.items():
        with pytest.raises(OSError, match=message):
            paths.read_file(os.path.join(tmp_path, name))
    with pytest.raises(OSError, match="not a regular"):
        paths.read_file("/dev/zero")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("remote", [False, True])
def test_folder(remote: bool, tmp_path: Path) -> None:
    folder = Folder(f"memory://{tmp_path.name}/f" if remote else str(tmp_path / "f"))
    assert not folder.exists()
    assert folder.sizes_bytes() == {}
    folder.write("a/b.bin", b"one")
    folder.write("a/b.bin", b"two!")
    folder.write("c", b"")
    assert folder.exists()
    assert folder.exists("a/b.bin")
    assert not folder.exists("a/c")
    assert folder.read("a/b.bin") == b"two!"
    with folder.open("a/b.bin") as file:
        file.seek(2)
        assert file.read() == b"o!"
    assert folder.sizes_bytes() == {"a/b.bin": 4, "c": 0}
    assert pickle.loads(pickle.dumps(folder)).sizes_bytes() == {"a/b.bin": 4, "c": 0}  # noqa: S301
    folder.remove(["a/b.bin", "none"])
    folder.remove(["a/b.bin"])
    assert not folder.exists("a")
    assert folder.sizes_bytes() == {"c": 0}
    with pytest.raises(FileNotFoundError):
        folder.read("a/b.bin")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths.replace_file(tmp_path / "x", b"old")
    seen = []

    def fail(source: str, target: object) -> None:
        seen.append(source)
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        paths.replace_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]
    assert TEMPORARY.search(seen[0])
    assert os.path.dirname(seen[0]) == str(tmp_path)  # the same file system, or moving would not be one step


def test_names_as_long_as_a_file_system_allows_can_be_written(tmp_path: Path) -> None:
    name = "n" * 251 + ".png"
    Folder(str(tmp_path)).write(name, b"x")
    assert os.listdir(tmp_path) == [name]


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_any_name_can_be_written_and_listed(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    if name in (".", ".."):
        return
    folder = Folder(str(tmp_path_factory.mktemp("names")))
    folder.write(f"sub/{name}", b"content")
    assert folder.read(f"sub/{name}") == b"content"
    assert folder.sizes_bytes() == {f"sub/{name}": 7}
