"""One way to files: local paths taken literally, URLs by fsspec, writes in one step, nothing lost between two writers."""

import contextlib
import errno
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae import paths
from tsae.errors import InputError
from tsae.paths import TEMPORARY, ConflictError, FileFacts, Folder, disk, store
from tsae.paths import folder as folder_module


@pytest.fixture
def memory_folder(tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}/f"


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that is not there yet, in each kind of store."""
    return str(tmp_path / "f") if request.param == "local" else str(request.getfixturevalue(f"{request.param}_folder"))


@pytest.fixture
def folder(place: str) -> Folder:
    return Folder(place)


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


def open_below(path: Path) -> list[str]:
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [name for name in found if name.startswith((str(path), "/dev/zero"))]


def test_what_is_no_regular_file_is_refused_without_waiting_or_leaking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    before = open_below(tmp_path)
    refusals = {"pipe.png": "not a regular", "": "folder", "loop.png": "loop.png", "no": "No such", "a\0b": "zero byte"}
    for name, message in refusals.items():
        with pytest.raises(OSError, match=message):
            paths.read_file(os.path.join(tmp_path, name))
    readers: list[Callable[[Folder, str], object]] = [Folder.read, Folder.stat, Folder.open, lambda f, n: f.read_range(n, 0, 0)]
    for name in ("pipe.png", ".", "loop.png", "no", "a\0b", "\ud800"):
        for reader in readers:
            with pytest.raises(OSError, match="."):
                reader(Folder(str(tmp_path)), name)
    with pytest.raises(OSError, match="not a regular"):
        paths.read_file("/dev/zero")
    assert open_below(tmp_path) == before == []


def test_folder(folder: Folder) -> None:
    assert not folder.exists()
    assert folder.sizes_bytes() == {}
    folder.write("a/b.bin", b"one")
    folder.write("a/b.bin", b"two!")
    folder.write("c", b"", durable=True)
    assert folder.exists()
    assert folder.exists("a/b.bin")
    assert not folder.exists("a/c")
    assert folder.read("a/b.bin") == b"two!"
    assert folder.read("a/b.bin", 2) == b"tw"
    assert folder.read("a/b.bin", 9) == b"two!"
    assert folder.read("c", 9) == folder.read("a/b.bin", 0) == b""
    with folder.open("a/b.bin") as file:
        file.seek(2)
        assert file.read() == b"o!"
    assert folder.sizes_bytes() == {"a/b.bin": 4, "c": 0}
    assert pickle.loads(pickle.dumps(folder)).sizes_bytes() == {"a/b.bin": 4, "c": 0}  # noqa: S301
    folder.remove(["a/b.bin", "none"])
    folder.remove(["a/b.bin"])
    folder.remove([])
    assert not folder.exists("a")
    assert folder.sizes_bytes() == {"c": 0}
    with pytest.raises(FileNotFoundError):
        folder.read("a/b.bin")


def test_a_name_is_no_pattern(folder: Folder) -> None:
    for name in ("a*", "ab", "[b]", "b", "c?", "cd"):
        folder.write(name, b"x")
    folder.remove(["a*", "[b]", "c?"])
    assert set(folder.sizes_bytes()) == {"ab", "b", "cd"}


def test_read_range(folder: Folder) -> None:
    folder.write("x", b"0123456789")
    folder.write("empty", b"")
    assert folder.read_range("x", 0, 10) == b"0123456789"
    assert folder.read_range("x", 3, 4) == b"3456"
    assert folder.read_range("x", 10, 0) == folder.read_range("x", 5, 0) == folder.read_range("empty", 0, 0) == b""
    for start, length in [(0, 11), (9, 2), (10, 1), (99, 1), (11, 0), (0, 1 << 50), (1 << 63, 1), (-1, 1), (3, -1), (-3, 2)]:
        with pytest.raises(OSError, match="x: (it ends before|no file has)"):
            folder.read_range("x", start, length)
    with pytest.raises(FileNotFoundError):
        folder.read_range("none", 0, 1)


def test_a_range_may_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Folder(str(tmp_path)).write("x", b"0123456789")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, length, start: pread(descriptor, min(length, 3), start))
    assert Folder(str(tmp_path)).read_range("x", 1, 8) == b"12345678"
    assert Folder(str(tmp_path)).read("x", 7) == b"0123456"


def test_threads_read_ranges_of_one_file_at_once(folder: Folder) -> None:
    content = os.urandom(4000)
    folder.write("x", content)
    starts = [(i * 997) % 3900 for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda start: folder.read_range("x", start, 100), starts)) == [
            content[i : i + 100] for i in starts
        ]


def test_facts(folder: Folder, place: str) -> None:
    folder.write("a/x", b"12345")
    first = folder.stat("a/x")
    assert first.size_bytes == 5
    assert first.version
    assert paths.stat_file(f"{place}/a/x") == first
    assert paths.read_file_with_facts(f"{place}/a/x", 5) == (b"12345", first)
    time.sleep(0.02)  # clocks of file systems stand still for 10 ms, or less
    folder.write("a/x", b"54321")
    assert folder.stat("a/x") != first
    with pytest.raises(OSError, match="5 bytes"):
        paths.read_file_with_facts(f"{place}/a/x", 4)
    with pytest.raises(IsADirectoryError):
        folder.stat("a")
    with pytest.raises(FileNotFoundError):
        folder.stat("none")
    with pytest.raises(FileNotFoundError):
        paths.read_file_with_facts(f"{place}/none")


def test_facts_belong_to_the_file_that_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths.replace_file(tmp_path / "x", b"old")
    before, read_all = paths.stat_file(str(tmp_path / "x")), folder_module.read_all

    def replaced_meanwhile(descriptor: int) -> bytes:
        paths.replace_file(tmp_path / "x", b"newer")
        return read_all(descriptor)

    monkeypatch.setattr(folder_module, "read_all", replaced_meanwhile)
    assert paths.read_file_with_facts(str(tmp_path / "x")) == (b"old", before)


@pytest.mark.parametrize(
    ("info", "facts"),
    [
        ({"size": 3, "ETag": '"e"', "LastModified": "l"}, FileFacts(3, '"e"')),
        ({"size": 3, "ETag": "", "mtime": 5}, FileFacts(3, "5")),
        ({"size": None}, FileFacts(-1, "")),
    ],
)
def test_a_store_tells_what_it_knows(info: dict[str, Any], facts: FileFacts) -> None:
    assert store.remote_facts(info) == facts


def test_what_others_write_is_seen_at_once(s3_folder: str) -> None:
    folder, other = Folder(s3_folder), fsspec.filesystem("s3", skip_instance_cache=True)
    folder.write("a/x", b"one")
    assert folder.sizes_bytes() == {"a/x": 3}
    assert not folder.exists("a/y")
    other.pipe_file(f"{s3_folder}/a/y", b"else")
    other.pipe_file(f"{s3_folder}/a/x", b"other")
    assert folder.exists("a/y")
    assert folder.sizes_bytes() == {"a/x": 5, "a/y": 4}
    assert folder.stat("a/x").size_bytes == 5
    assert folder.read("a/x") == b"other"


def test_worker_processes_reach_the_bucket(s3_folder: str) -> None:
    Folder(s3_folder).write("x", b"content")
    code = "import sys; from tsae.paths import Folder; print(Folder(sys.argv[1]).read('x').decode())"
    done = subprocess.run([sys.executable, "-c", code, s3_folder], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "content\n"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths.replace_file(tmp_path / "x", b"old")
    seen = []

    def fail(source: str, target: object, **_: object) -> None:
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


def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and renamed from now on, in order."""
    events: list[str] = []
    replace = os.replace

    def note(descriptor: int) -> None:
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    def rename(source: str, target: str, **folders: Any) -> None:
        events.append("rename")
        replace(source, target, **folders)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", rename)
    return events


@pytest.mark.parametrize("way", ["write", "replace"])
def test_a_durable_write_syncs_the_file_then_all_that_leads_to_it(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = synced(monkeypatch)
    folder = Folder(str(tmp_path / "new" / "archive"))
    if way == "write":
        folder.write("a/b/x", b"data", durable=True)
    else:
        folder.replace("a/b/x", b"data", None)
    assert TEMPORARY.search(events[0])
    assert events[1] == "rename"
    chain = ["new/archive/a/b", "new/archive/a", "new/archive", "new", "."]
    assert [os.path.relpath(name, tmp_path) for name in events[2:]] == chain


def test_other_writes_sync_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = synced(monkeypatch)
    Folder(str(tmp_path)).write("a/x", b"data")
    assert events == ["rename"]


def test_a_folder_that_cannot_be_synced_is_no_error_but_a_failing_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", fail(errno.EINVAL))
    Folder(str(tmp_path)).write("x", b"data", durable=True)
    monkeypatch.setattr(os, "fsync", fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        Folder(str(tmp_path)).write("x", b"data", durable=True)


def test_a_file_that_cannot_be_synced_is_not_moved_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    folder.write("x", b"old")

    def fsync(_: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="no"):
        folder.write("x", b"new", durable=True)
    with pytest.raises(OSError, match="no"):
        folder.replace("x", b"new", b"old")
    assert folder.sizes_bytes() == {"x": 3}
    assert folder.read("x") == b"old"


def test_replace(folder: Folder) -> None:
    folder.replace("a/x", b"1", None)
    folder.replace("a/x", b"2", b"1")
    for expected in (None, b"1", b"", b"22"):
        with pytest.raises(ConflictError, match="a/x: somebody else"):
            folder.replace("a/x", b"3", expected)
    with pytest.raises(ConflictError):
        folder.replace("a/none", b"3", b"2")
    with pytest.raises(ConflictError):
        folder.replace("a/x", b"2", b"1")  # its content already, but not by this call
    assert folder.read("a/x") == b"2"
    folder.write("empty", b"")
    with pytest.raises(ConflictError):
        folder.replace("empty", b"3", None)
    folder.replace("empty", b"3", b"")
    assert folder.sizes_bytes() == {"a/x": 1, "empty": 1}


def test_one_of_two_writers_wins(folder: Folder) -> None:
    content = None
    for turn in range(3):
        start = threading.Barrier(6)

        def write(
            number: int, turn: int = turn, content: bytes | None = content, start: threading.Barrier = start
        ) -> bytes | None:
            start.wait()
            with contextlib.suppress(ConflictError):
                data = b"%d by %d" % (turn, number)
                folder.replace("x", data, content)
                return data
            return None

        with ThreadPoolExecutor(6) as pool:
            winners = [data for data in pool.map(write, range(6)) if data is not None]
        assert winners == [folder.read("x")]
        content = winners[0]


def test_one_of_two_threads_wins_in_a_slow_store_without_conditions(
    memory_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pipe_file = Folder(memory_folder), MemoryFileSystem.pipe_file

    def slow(*arguments: Any) -> None:
        time.sleep(0.05)  # long enough for the others to compare as well, if nothing keeps them
        pipe_file(*arguments)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", slow)

    def write(number: int) -> bool:
        with contextlib.suppress(ConflictError):
            folder.replace("x", b"%d" % number, None)
            return True
        return False

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(write, range(3))) == 1


COUNTER = """
import sys
from tsae.paths import ConflictError, Folder
folder, left = Folder(sys.argv[1]), 20
print("ready", flush=True)
sys.stdin.readline()
while left:
    content = folder.read("x")
    try:
        folder.replace("x", b"%d" % (int(content) + 1), content)
        left -= 1
    except ConflictError:
        pass
"""


def test_no_count_of_several_processes_is_lost(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.replace("x", b"0", None)
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(python(COUNTER, str(tmp_path))) for _ in range(3)]
        for worker in workers:
            assert worker.stdout.readline() == b"ready\n"
        for worker in workers:
            worker.communicate(b"\n", timeout=60)
            assert worker.returncode == 0
    assert folder.read("x") == b"60"
    assert os.listdir(tmp_path) == ["x"]


@contextlib.contextmanager
def python(code: str, *arguments: str) -> Iterator[Any]:
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


HOLDER = """
import sys, time
from tsae import paths
from tsae.paths import disk
def hang(*_):
    print("locked", flush=True)
    time.sleep(600)
disk._move_in = hang
paths.Folder(sys.argv[1]).replace("x", b"dead", None)
"""


def test_a_killed_writer_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(str(tmp_path))
    monkeypatch.setattr(disk, "LOCK_WAIT_S", 0.05)
    with python(HOLDER, str(tmp_path)) as holder:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(OSError, match="another process has it locked") as caught:
            folder.replace("x", b"alive", None)
        assert not isinstance(caught.value, ConflictError)
        assert str(tmp_path) in str(caught.value)
        holder.send_signal(signal.SIGKILL)
        holder.wait(60)
        monkeypatch.setattr(disk, "LOCK_WAIT_S", 60)
        folder.replace("x", b"alive", None)
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("answer", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_still_compares(answer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: int) -> None:
        raise OSError(answer, "no locks")

    monkeypatch.setattr("fcntl.flock", flock)
    compare_and_set(Folder(str(tmp_path)))


def test_a_platform_without_locks_still_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "fcntl", None)
    compare_and_set(Folder(str(tmp_path)))


def compare_and_set(folder: Folder) -> None:
    folder.replace("x", b"1", None)
    with pytest.raises(ConflictError):
        folder.replace("x", b"2", None)
    folder.replace("x", b"2", b"1")
    assert folder.read("x") == b"2"


def test_a_failing_lock_is_an_error_and_what_is_no_file_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular"):
        folder.replace("pipe", b"1", None)

    def flock(*_: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match="broken"):
        folder.replace("x", b"1", None)
    assert open_below(tmp_path) == []


def test_a_folder_that_is_removed_while_locked_takes_nothing_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, check = Folder(str(tmp_path)), disk.check_expected

    def removed_and_made_anew(*arguments: Any) -> None:
        check(*arguments)
        monkeypatch.undo()
        os.rmdir(tmp_path / "a")
        folder.replace("a/x", b"theirs", None)

    monkeypatch.setattr(disk, "check_expected", removed_and_made_anew)
    with pytest.raises(FileNotFoundError):
        folder.replace("a/x", b"mine", None)
    assert folder.read("a/x") == b"theirs"


@pytest.mark.parametrize("expected", [None, b"old"])
def test_s3_itself_refuses_what_was_written_since_it_was_compared(
    expected: bytes | None, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, condition = Folder(s3_folder), store._s3_condition
    if expected is not None:
        folder.write("x", expected)

    def written_meanwhile(*arguments: Any) -> dict[str, str]:
        found = condition(*arguments)
        folder.write("x", b"theirs")
        return found

    monkeypatch.setattr(store, "_s3_condition", written_meanwhile)
    with pytest.raises(ConflictError):
        folder.replace("x", b"mine", expected)
    assert folder.read("x") == b"theirs"


def test_s3_itself_refuses_what_was_removed_since_it_was_compared(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, condition = Folder(s3_folder), store._s3_condition
    folder.write("x", b"old")

    def removed_meanwhile(*arguments: Any) -> dict[str, str]:
        found = condition(*arguments)
        folder.remove(["x"])
        return found

    monkeypatch.setattr(store, "_s3_condition", removed_meanwhile)
    with pytest.raises(ConflictError, match="removed"):
        folder.replace("x", b"mine", b"old")
    assert not folder.exists("x")


def test_a_file_that_became_what_was_expected_while_it_was_compared_is_replaced(
    s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, content = Folder(s3_folder), store._content
    folder.write("x", b"older")

    def written_between_tag_and_content(*arguments: Any) -> bytes | None:
        monkeypatch.undo()
        folder.write("x", b"old")
        return content(*arguments)

    monkeypatch.setattr(store, "_content", written_between_tag_and_content)
    folder.replace("x", b"mine", b"old")
    assert folder.read("x") == b"mine"


@pytest.mark.parametrize("expected", [None, b"old"])
def test_a_write_whose_answer_was_lost_counts(expected: bytes | None, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiobotocore.httpsession import AIOHTTPSession
    from botocore.exceptions import ConnectionClosedError

    folder = Folder(s3_folder)
    if expected is not None:
        folder.write("x", expected)
    send, puts = AIOHTTPSession.send, []

    async def lossy(self: Any, request: Any) -> Any:
        answer = await send(self, request)
        puts.extend([request.method] if request.method == "PUT" else [])
        if puts == ["PUT"] and request.method == "PUT":
            raise ConnectionClosedError(endpoint_url=request.url)
        return answer

    monkeypatch.setattr(AIOHTTPSession, "send", lossy)
    folder.replace("x", b"mine", expected)
    assert puts == ["PUT", "PUT"]
    assert folder.read("x") == b"mine"


def test_a_condition_that_would_be_left_out_is_refused(s3_folder: str) -> None:
    files, path = Folder(s3_folder)._reach("x")
    with pytest.raises(OSError, match="too old"):
        store._put_s3(files, path, b"x", {"IfNew": "1"})
    assert not Folder(s3_folder).exists("x")


def test_a_store_without_tags_replaces_nothing(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(s3_folder)
    folder.write("x", b"old")
    files = folder._reach()[0]
    monkeypatch.setattr(files, "info", lambda path: {"ETag": "", "size": 3, "type": "file"})
    with pytest.raises(OSError, match="no ETag"):
        folder.replace("x", b"new", b"old")
    assert folder.read("x") == b"old"


def test_s3_removes_in_bulk_and_tells_what_it_could_not(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(s3_folder)
    names = [str(i) for i in range(5)]
    for name in names:
        folder.write(name, b"x")
    files = folder._reach()[0]
    call, calls = files.call_s3, []

    def count(method: str, **arguments: Any) -> Any:
        calls.append(method)
        return call(method, **arguments)

    monkeypatch.setattr(store, "MOST_KEYS", 2)
    monkeypatch.setattr(files, "call_s3", count)
    folder.remove([*names, "none"])
    assert calls == ["delete_objects"] * 3
    assert folder.sizes_bytes() == {}
    refusal = {"Errors": [{"Key": "0", "Code": "AccessDenied", "Message": "Access Denied"}]}
    monkeypatch.setattr(files, "call_s3", lambda *_, **__: refusal)
    with pytest.raises(OSError, match="0: cannot be removed: AccessDenied"):
        folder.remove(names)


def test_other_stores_remove_in_bulk_too(memory_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    folder, store = Folder(memory_folder), AsyncFileSystemWrapper(MemoryFileSystem(), asynchronous=False)
    remove = store.rm

    def count(names: list[str]) -> None:
        calls.append(names)
        remove(names)

    monkeypatch.setattr(store, "rm", count)
    monkeypatch.setattr(folder_module, "filesystem", lambda path: (store, path.removeprefix("memory:/")))
    for name in ("a", "b", "c", "d*"):
        folder.write(name, b"x")
    folder.remove(["a", "b"])
    assert len(calls) == 1
    assert set(folder.sizes_bytes()) == {"c", "d*"}
    folder.remove(["none", "c"])
    folder.remove(["d*"])
    assert folder.sizes_bytes() == {}


def test_a_file_that_goes_while_its_folder_is_listed_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1", "a/2", "b"):
        Folder(str(tmp_path)).write(name, b"x")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "link").symlink_to("b")
    (tmp_path / "a" / "up").symlink_to("..")
    entries = disk._entries

    def racing(folder: str) -> Any:
        found = entries(folder)
        (tmp_path / "a" / "1").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(disk, "_entries", racing)
    sizes = Folder(str(tmp_path / "a")).sizes_bytes()
    assert list(sizes) == ["2", "up"]
    assert {name: size for name, size in Folder(str(tmp_path)).sizes_bytes().items() if name != "a/up"} == {
        "a/2": 1,
        "b": 1,
        "dangling": 0,
        "link": 1,
    }


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "no", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        Folder(str(tmp_path)).sizes_bytes()


USES: dict[str, Callable[[Folder], object]] = {
    "exists": lambda folder: folder.exists("x"),
    "exists as a whole": lambda folder: folder.exists(),
    "stat": lambda folder: folder.stat("x"),
    "read": lambda folder: folder.read("x"),
    "read some": lambda folder: folder.read("x", 3),
    "read_range": lambda folder: folder.read_range("x", 0, 3),
    "open": lambda folder: folder.open("x"),
    "write": lambda folder: folder.write("x", b"y"),
    "replace": lambda folder: folder.replace("x", b"y", b"x"),
    "create": lambda folder: folder.replace("x", b"y", None),
    "sizes_bytes": lambda folder: folder.sizes_bytes(),
    "remove": lambda folder: folder.remove(["x"]),
    "read_file": lambda folder: paths.read_file(f"{folder.path}/x"),
    "stat_file": lambda folder: paths.stat_file(f"{folder.path}/x"),
}


class Hanging:
    """A store that takes connections and requests, and never answers."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=100)

    def __enter__(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.fixture
def fresh_s3(monkeypatch: pytest.MonkeyPatch, s3_url: str) -> Iterator[pytest.MonkeyPatch]:
    """S3 with an environment of its own, one attempt per layer and short waits."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    waits = {"connect_timeout": 1, "read_timeout": 0.1, "retries": {"mode": "standard", "total_max_attempts": 1}}
    monkeypatch.setattr(store, "S3_CONFIG", waits)
    monkeypatch.setattr(folder_module, "S3_RETRIES", 1)
    monkeypatch.setattr(store, "UPLOAD_WAIT_S", 0.1)
    yield monkeypatch
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/archive"])
@pytest.mark.parametrize("trouble", ["refuses", "hangs", "no credentials"])
def test_a_store_that_cannot_be_reached_is_an_error_of_one_line(trouble: str, url: str, fresh_s3: pytest.MonkeyPatch) -> None:
    with Hanging() as endpoint:
        if trouble == "hangs":
            fresh_s3.setenv("AWS_ENDPOINT_URL", endpoint)
        if trouble == "no credentials":
            fresh_s3.delenv("AWS_ACCESS_KEY_ID")
        if trouble == "refuses":
            with Hanging() as gone:
                fresh_s3.setenv("AWS_ENDPOINT_URL", gone)
        for name, use in USES.items():
            with pytest.raises(OSError, match=".") as caught:
                use(Folder(url))
            assert not isinstance(caught.value, (FileNotFoundError, ConflictError)), name
            assert "\n" not in str(caught.value), name


def test_s3_waits_and_repeats_within_bounds(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = paths.filesystem(s3_url)[0]
    assert files.retries == 2
    assert files.s3.meta.config.retries == {"mode": "standard", "total_max_attempts": 4}
    assert files.s3.meta.config.read_timeout == 15
    assert files.s3.meta.config.connect_timeout == 5
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 60}})
    assert paths.filesystem(s3_url)[0].config_kwargs == {**store.S3_CONFIG, "read_timeout": 60}


@pytest.mark.parametrize("use", USES)
def test_whatever_a_driver_raises_is_an_error_of_one_line(
    use: str, memory_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(memory_folder)
    folder.write("x", b"x")

    def fail(*_: object, **__: object) -> None:
        raise ValueError("a\n  b")

    for method in ("info", "cat_file", "open", "pipe_file", "find", "rm_file"):
        monkeypatch.setattr(MemoryFileSystem, method, fail)
    with pytest.raises(OSError, match=f"{memory_folder}.*: ValueError: a b$"):
        USES[use](folder)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for method in ("info", "cat_file", "open", "pipe_file", "find", "rm_file"):
        monkeypatch.setattr(MemoryFileSystem, method, stop)
    with pytest.raises(KeyboardInterrupt):
        USES[use](folder)


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_any_name_can_be_written_and_listed(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    if name in (".", ".."):
        return
    folder = Folder(str(tmp_path_factory.mktemp("names")))
    folder.write(f"sub/{name}", b"content")
    assert folder.read(f"sub/{name}") == b"content"
    assert folder.sizes_bytes() == {f"sub/{name}": 7}


# Files that are written bit by bit


def test_a_file_written_bit_by_bit_is_there_when_it_is_whole(place: str) -> None:
    path = f"{place}/new/a.zip"
    with paths.written_file(path) as file:
        file.write(b"abc")
        assert paths.kind(path) is None
        file.seek(1)
        file.write(b"x")
    assert paths.read_file(path) == b"axc"
    with paths.written_file(path) as file:
        file.write(b"n")
    assert paths.read_file(path) == b"n"


def test_of_a_file_that_is_not_finished_nothing_is_left(place: str) -> None:
    path = f"{place}/a.zip"
    with paths.written_file(path) as file:
        file.write(b"old")
    with contextlib.suppress(ZeroDivisionError), paths.written_file(path) as file:
        file.write(b"new")
        1 / 0
    assert paths.read_file(path) == b"old"
    assert Folder(place).sizes_bytes() == {"a.zip": 3}
