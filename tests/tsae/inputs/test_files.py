"""What an INPUT names: folders, globs, lists, labels; and the reading of one listed file."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsae import paths
from tsae.errors import ImageError, InputError
from tsae.images import MAX_FILE_BYTES
from tsae.inputs import Item, list_inputs, map_states, read_input, reading

NOBODY = 65534


def touch(root: Path, *names: str | bytes) -> None:
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"content of " + os.fsencode(name))


def refusal(source: str | Path, root: str | None = None) -> str:
    """The message of the refusal: one line that names the source."""
    with pytest.raises(InputError) as caught:
        list_inputs(str(source), root)
    message = str(caught.value)
    assert str(source) in message
    assert "\n" not in message
    return message


@contextlib.contextmanager
def nobody(folder: Path) -> Iterator[None]:
    """Gives up the rights of root, for whom no file is unreadable, but keeps `folder` in reach."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, folder.parent, folder.parent.parent):  # pytest's own temporary folders
        path.chmod(0o755)
    os.seteuid(NOBODY)
    try:
        if not _is_in_reach(folder):
            pytest.skip("temporary folders are out of reach for other users")
        yield
    finally:
        os.seteuid(0)


def _is_in_reach(folder: Path) -> bool:
    try:
        return bool(os.listdir(folder))
    except PermissionError:
        return False


# Folders


def test_a_folder_is_listed_deeply_and_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a/z.jpg", "a/b/c.webp", "a.png", "B.PNG", "a/.hidden.bmp")
    listing = list_inputs(str(tmp_path))
    assert listing.root == str(tmp_path)
    assert listing.keys == ["B.PNG", "a.png", "a/.hidden.bmp", "a/b/c.webp", "a/z.jpg", "b.png"]
    assert (listing.failures, listing.skipped, listing.notes) == ([], 0, [])
    assert read_input(listing.root, "a/b/c.webp")[0] == b"content of a/b/c.webp"


def test_a_relative_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/a.png")
    monkeypatch.chdir(tmp_path)
    listing = list_inputs("in/")
    assert (listing.root, listing.keys) == (f"{tmp_path}/in", ["a.png"])


@pytest.mark.parametrize(
    "ending", [".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm"]
)
def test_endings_of_images(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, "a" + ending, "b" + ending.upper())
    assert list_inputs(str(tmp_path)).keys == ["a" + ending, "b" + ending.upper()]


def test_other_endings_are_skipped_and_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "note.txt", "sub/x.gif", "png", ".png", "a.png.bak", "sub/.DS_Store")
    listing = list_inputs(str(tmp_path))
    assert listing.keys == ["a.png"]
    assert listing.skipped == 6


def test_keys_sort_by_code_point_which_is_the_order_of_their_bytes(tmp_path: Path) -> None:
    names = ["a/b.png", "a.png", "a!.png", "é.png", "Z.png", "\U0001f6d1.png", "\uffff.png", "aa.png"]
    touch(tmp_path, *names)
    keys = list_inputs(str(tmp_path)).keys
    assert keys == sorted(names, key=lambda name: name.encode())
    assert keys == sorted(names)


@pytest.mark.parametrize(
    "name", ["with space.png", " .png", "new\nline.png", "straße/日本.png", "quote\"'.png", "[x]*?.png", "#%20.png"]
)
def test_unusual_names_are_keys_like_any_other(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    listing = list_inputs(str(tmp_path))
    assert listing.keys == [name]
    assert read_input(listing.root, name)[0] == b"content of " + name.encode()


def test_names_that_are_not_utf_8_are_failures_percent_escaped(tmp_path: Path) -> None:
    touch(tmp_path, "good.png", b"caf\xe9/sign \xff.png", b"note \xff.txt")
    listing = list_inputs(str(tmp_path))
    assert listing.keys == ["good.png"]
    (failure,) = listing.failures
    assert (failure.path, failure.stage, failure.error) == ("caf%E9/sign %FF.png", "list", "InputError")
    assert "UTF-8" in failure.message
    assert listing.skipped == 1


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "elsewhere/b.png", "elsewhere/deep/c.png")
    (tmp_path / "in" / "file.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "elsewhere")
    assert list_inputs(str(tmp_path / "in")).keys == ["a.png", "file.png", "folder/b.png", "folder/deep/c.png"]
    assert read_input(str(tmp_path / "in"), "file.png")[0] == b"content of elsewhere/b.png"


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "sub/b.png")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(".")
    (tmp_path / "itself.png").symlink_to("itself.png")
    listing = list_inputs(str(tmp_path))
    assert listing.keys == ["a.png", "itself.png", "sub/b.png"]
    with pytest.raises(ImageError, match="cannot be read"):
        read_input(listing.root, "itself.png")


def test_a_broken_link_is_listed_and_fails_when_it_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "broken.png").symlink_to("nowhere")
    listing = list_inputs(str(tmp_path))
    assert listing.keys == ["a.png", "broken.png"]
    with pytest.raises(ImageError, match="No such file"):
        read_input(listing.root, "broken.png")


def test_a_folder_named_as_an_image_is_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "x.png/inside.png")
    assert list_inputs(str(tmp_path)).keys == ["x.png/inside.png"]
    with pytest.raises(ImageError, match="folder"):
        read_input(str(tmp_path), "x.png")


def test_a_pipe_named_as_an_image_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    assert list_inputs(str(tmp_path)).keys == ["x.png"]
    with pytest.raises(ImageError, match="not a regular file"):
        read_input(str(tmp_path), "x.png")


def test_a_file_larger_than_any_honest_image_is_not_read(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    os.truncate(tmp_path / "a.png", MAX_FILE_BYTES + 1)  # sparse: it takes no room on the disk
    with pytest.raises(ImageError, match=f"more than the {MAX_FILE_BYTES}"):
        read_input(str(tmp_path), "a.png")


def test_an_unreadable_file_is_listed_and_fails_when_it_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "secret.png")
    (tmp_path / "secret.png").chmod(0)
    with nobody(tmp_path):
        assert list_inputs(str(tmp_path)).keys == ["a.png", "secret.png"]
        assert read_input(str(tmp_path), "a.png")
        with pytest.raises(ImageError, match=r"cannot be read: Permission denied; .*permissions"):
            read_input(str(tmp_path), "secret.png")


def test_an_unreadable_folder_is_a_failure_and_the_rest_goes_on(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "locked/b.png")
    (tmp_path / "locked").chmod(0)
    try:
        with nobody(tmp_path):
            listing = list_inputs(str(tmp_path))
            assert "Permission denied" in refusal(tmp_path / "locked")
    finally:
        (tmp_path / "locked").chmod(0o755)
    assert listing.keys == ["a.png"]
    (failure,) = listing.failures
    assert (failure.path, failure.stage, failure.error) == ("locked/", "list", "PermissionError")


def test_folders_may_be_nested_deeper_than_python_recurses(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("a.png", os.O_WRONLY | os.O_CREAT, dir_fd=folder))
    os.close(folder)
    keys = list_inputs(str(tmp_path)).keys
    (tmp_path / keys[0]).unlink()
    for depth in range(1200, 0, -1):  # what removes temporary folders recurses
        os.rmdir(f"{tmp_path}/" + "d/" * depth)
    assert keys == ["d/" * 1200 + "a.png"]


def test_what_has_no_image_is_refused(tmp_path: Path) -> None:
    assert "no image found" in refusal(tmp_path)
    touch(tmp_path, "a.txt", "b.txt")
    assert "2 files with other endings" in refusal(tmp_path)
    assert "not there" in refusal(tmp_path / "missing")
    assert "not there" in refusal(f"{tmp_path}/zero\0byte")


# Globs


def test_the_root_of_a_glob_is_the_part_before_the_first_wildcard(tmp_path: Path) -> None:
    touch(tmp_path, "a/x/1.png", "a/y/2.png", "a/y/3.jpg", "a/y/deep/4.png", "b/5.png")
    listing = list_inputs(f"{tmp_path}/a/*/*.png")
    assert (listing.root, listing.keys) == (f"{tmp_path}/a", ["x/1.png", "y/2.png"])
    assert list_inputs(f"{tmp_path}/a/y/*").keys == ["2.png", "3.jpg"]
    assert list_inputs(f"{tmp_path}/a/y/?.png").keys == ["2.png"]
    assert list_inputs(f"{tmp_path}/[ac]/x/[0-9].png").keys == ["a/x/1.png"]


def test_two_stars_match_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "a/2.png", "a/b/3.png", "a/b/4.txt")
    assert list_inputs(f"{tmp_path}/**/*.png").keys == ["1.png", "a/2.png", "a/b/3.png"]
    listing = list_inputs(f"{tmp_path}/**")
    assert (listing.keys, listing.skipped) == (["1.png", "a/2.png", "a/b/3.png"], 1)
    assert list_inputs(f"{tmp_path}/a/**/3.png").root == f"{tmp_path}/a"


def test_a_glob_follows_links_as_a_folder_does(tmp_path: Path) -> None:
    touch(tmp_path, "in/a/1.png", "elsewhere/2.png")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "loop").symlink_to(".")
    assert list_inputs(f"{tmp_path}/in/*/*.png").keys == ["a/1.png", "link/2.png"]
    assert list_inputs(f"{tmp_path}/in/**/*.png").keys == ["a/1.png", "link/2.png"]


def test_a_relative_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/1.png", "in/2.jpg")
    monkeypatch.chdir(tmp_path)
    listing = list_inputs("in/*.png")
    assert (listing.root, listing.keys) == (f"{tmp_path}/in", ["1.png"])
    assert list_inputs("*/1.png").keys == ["in/1.png"]


def test_a_glob_reports_folders_only_where_they_look_like_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "folder/b.png", "x.png/inside.png")
    listing = list_inputs(f"{tmp_path}/*")
    assert listing.keys == ["a.png"]
    assert [(failure.path, failure.error) for failure in listing.failures] == [("x.png", "IsADirectoryError")]


def test_a_folder_whose_name_has_wildcards_is_taken_literally(tmp_path: Path) -> None:
    touch(tmp_path, "set[1]*/a.png")
    listing = list_inputs(f"{tmp_path}/set[1]*")
    assert (listing.root, listing.keys) == (f"{tmp_path}/set[1]*", ["a.png"])


def test_globs_that_match_nothing_or_are_none_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt")
    assert "no image found" in refusal(f"{tmp_path}/*.png")
    assert "1 files with other endings" in refusal(f"{tmp_path}/*")
    with pytest.raises(InputError, match="/missing: cannot be read"):
        list_inputs(f"{tmp_path}/missing/*.png")
    assert "not a glob" in refusal(f"{tmp_path}/a**b/*.png")


# Lists


def test_a_text_list_names_paths_below_its_own_folder(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/sub/b c.png", "in/é.gif")
    lines = ["sub/b c.png", "", "  ", f"{tmp_path}/in/a.png", "./sub/../é.gif", "a.png", "missing.png"]
    (tmp_path / "in" / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    listing = list_inputs(str(tmp_path / "in" / "list.txt"))
    assert listing.root == f"{tmp_path}/in"
    assert listing.keys == ["a.png", "missing.png", "sub/b c.png", "é.gif"]  # named, so of any ending, there or not
    assert "names 1 images more than once" in listing.notes[0]


def test_a_list_of_windows_reads_the_same(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.png\r\n\r\nb.png\r\n")
    assert list_inputs(str(tmp_path / "list.txt")).keys == ["a.png", "b.png"]


def test_root_gives_the_folder_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "data/a.png")
    (tmp_path / "list.txt").write_text(f"a.png\n{tmp_path}/data/x/b.png\n")
    for root in (f"{tmp_path}/data", f"{tmp_path}/data/", "data"):
        monkeypatch.chdir(tmp_path)
        listing = list_inputs(str(tmp_path / "list.txt"), root)
        assert (listing.root, listing.keys) == (f"{tmp_path}/data", ["a.png", "x/b.png"])


@pytest.mark.parametrize(
    "line", ["../a.png", "/etc/passwd", "in/../../x.png", "memory://x/a.png", "/", ".", "../in", "x/../../etc/a://b.png"]
)
def test_paths_outside_of_the_root_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "list.txt").write_text(f"good.png\n{line}\n")
    message = refusal(tmp_path / "in" / "list.txt")
    assert line in message
    assert "--root" in message


def test_dots_do_not_lead_out_of_the_root_past_a_colon(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "list.txt").write_text(f"{tmp_path}/in/../etc/a://b.png\n")
    assert "not below" in refusal(tmp_path / "in" / "list.txt")


def test_a_line_that_is_not_utf_8_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a.png\ncaf\xe9.png\n")
    listing = list_inputs(str(tmp_path / "list.txt"))
    assert listing.keys == ["a.png"]
    assert [(failure.path, failure.stage) for failure in listing.failures] == [("caf%E9.png", "list")]


def test_a_line_with_a_zero_byte_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a\0b.png\nc.png\n")
    listing = list_inputs(str(tmp_path / "list.txt"))
    assert listing.keys == ["c.png"]
    assert [(failure.path, failure.stage) for failure in listing.failures] == [("a\0b.png", "list")]


def test_a_parquet_list(tmp_path: Path) -> None:
    table = pa.table({"path": ["b.png", f"{tmp_path}/a.png", None, "", "b.png", "new\nline.png"], "other": range(6)})
    pq.write_table(table, tmp_path / "list.parquet")
    listing = list_inputs(str(tmp_path / "list.parquet"))
    assert listing.keys == ["a.png", "b.png", "new\nline.png"]
    assert "names 1 images more than once" in listing.notes[0]


@pytest.mark.parametrize(
    "column", [pa.array(["a.png"], pa.large_string()), pa.array([b"a.png"]), pa.array(["a.png"]).dictionary_encode()]
)
def test_a_parquet_list_may_hold_text_of_several_types(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"path": column}), tmp_path / "list.parquet")
    assert list_inputs(str(tmp_path / "list.parquet")).keys == ["a.png"]


def test_a_damaged_parquet_list_is_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.parquet"
    pq.write_table(pa.table({"path": [f"{index}.png" for index in range(500)]}), good, compression="snappy")
    data = good.read_bytes()
    column = pq.ParquetFile(good).metadata.row_group(0).column(0)
    start, end = column.dictionary_page_offset, column.dictionary_page_offset + column.total_compressed_size
    bad = tmp_path / "bad.parquet"
    refused = 0
    for position in range(start + 30, end - 30, 97):  # pages, not the footer: that can stop the process that parses it
        bad.write_bytes(data[:position] + b"\xff" * 8 + data[position + 8 :])
        try:
            list_inputs(str(bad))
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
    assert refused
    for damaged in (b"", b"PAR1", b"no parquet at all", data[:-3], data[: len(data) // 2]):
        bad.write_bytes(damaged)
        refusal(bad)


@pytest.mark.parametrize(
    "table", [pa.table({"file": ["a.png"]}), pa.table({"path": [["a.png"]]}), pa.table({"path": [b"\xff.png"]})]
)
def test_a_parquet_list_without_text_paths_is_refused(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / "list.parquet")
    assert "column `path`" in refusal(tmp_path / "list.parquet")


def test_empty_and_other_files_are_no_lists(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n\n")
    assert "no image found" in refusal(tmp_path / "list.txt")
    touch(tmp_path, "a.png")
    assert "must end in .txt or .parquet" in refusal(tmp_path / "a.png")


def test_an_unreadable_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\n")
    (tmp_path / "list.txt").chmod(0)
    with nobody(tmp_path):
        assert "Permission denied" in refusal(tmp_path / "list.txt")


# Remote inputs


def test_remote_folders_globs_and_lists() -> None:
    files = fsspec.filesystem("memory")
    for name in ("a.png", "sub/b.jpg", "sub/deep/c.png", "note.txt"):
        files.pipe_file(f"/inputs/{name}", name.encode())
    files.pipe_file("/inputs/labels.csv", b"path,label\na.png,stop\n")
    files.pipe_file("/inputs/list.txt", b"sub/b.jpg\nmemory://inputs/a.png\n")
    for source in ("memory://inputs", "memory://inputs/"):
        listing = list_inputs(source)
        assert (listing.root, listing.keys) == ("memory://inputs", ["a.png", "sub/b.jpg", "sub/deep/c.png"])
        assert (listing.skipped, listing.labels) == (3, {"a.png": "stop"})
    assert read_input("memory://inputs", "sub/b.jpg")[0] == b"sub/b.jpg"
    with pytest.raises(ImageError, match="cannot be read"):
        read_input("memory://inputs", "missing.png")
    listing = list_inputs("memory://inputs/**/*.png")
    assert (listing.root, listing.keys) == ("memory://inputs", ["a.png", "sub/deep/c.png"])
    assert list_inputs("memory://inp*s/a.png").keys == ["inputs/a.png"]
    listing = list_inputs("memory://inputs/list.txt")
    assert (listing.root, listing.keys) == ("memory://inputs", ["a.png", "sub/b.jpg"])
    refusal("memory://inputs/nothing")
    refusal("memory://inputs/*.webp")
    refusal("nonsense://inputs")


# Labels


def test_labels_come_from_labels_csv(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "c, d.png")
    (tmp_path / "labels.csv").write_bytes('label,extra,path\r\nstop,1,a.png\r\n,2,b.png\r\n"ÿ, z",3,"c, d.png"\r\n'.encode())
    for source in (str(tmp_path), f"{tmp_path}/*.png"):
        listing = list_inputs(source)
        assert listing.labels == {"a.png": "stop", "c, d.png": "ÿ, z"}
        assert listing.notes == []


def test_labels_of_a_spreadsheet_with_a_mark_at_its_start(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbfpath,label\na.png,stop\n")
    assert list_inputs(str(tmp_path)).labels == {"a.png": "stop"}


def test_rows_of_labels_that_are_too_short_or_too_long_do_no_harm(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "labels.csv").write_text("label,path\nstop,a.png,more\nyield\n\nlost,\n")
    assert list_inputs(str(tmp_path)).labels == {"a.png": "stop"}


@pytest.mark.parametrize(
    "content", [b"", b"file,class\na.png,1\n", b"path,label\na.png,\xff\n", b"path,label\na.png," + b"x" * 200_000]
)
def test_malformed_labels_are_refused(tmp_path: Path, content: bytes) -> None:
    """Without them, all images of an archive would lose theirs when it is brought up to date."""
    touch(tmp_path, "a.png")
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(InputError, match="; fix or remove the file$") as caught:
        list_inputs(str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}/labels.csv: labels cannot be read (")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["info", "cat_file"])
def test_labels_that_a_store_does_not_give_are_refused(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that answers no more is not one without labels."""
    files = fsspec.filesystem("memory")
    files.pipe_file("/silent/a.png", b"")
    files.pipe_file("/silent/labels.csv", b"path,label\na.png,stop\n")
    answer = getattr(files, method)

    def refuse(path: str, *args: object, **options: object) -> object:
        if path.endswith("labels.csv"):
            raise PermissionError(13, "Forbidden")
        return answer(path, *args, **options)

    assert list_inputs("memory://silent").labels == {"a.png": "stop"}
    monkeypatch.setattr(type(files), method, lambda self, path, *args, **options: refuse(path, *args, **options))
    with pytest.raises(InputError, match=r"labels\.csv: labels cannot be read \(Forbidden\); fix or remove"):
        list_inputs("memory://silent")


# Reading ahead


@pytest.mark.parametrize("is_slow", [True, False])
def test_files_of_a_slow_disk_are_fetched_ahead_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_slow: bool
) -> None:
    """All but the first two blocks: the first shows that the disk is slow, while it is worked on the second is too late."""
    names = [f"{number:03}.png" for number in range(300)]
    touch(tmp_path, *names)
    (tmp_path / "200.png").unlink()
    os.mkfifo(tmp_path / "200.png")
    fetched: list[str] = []
    fetch = reading._fetch
    monkeypatch.setattr(reading, "_fetch", lambda path: (fetched.append(path), fetch(path)))
    monkeypatch.setattr(reading, "SLOW_READ_S", 0.0 if is_slow else float("inf"))
    monkeypatch.setattr(reading.ThreadPoolExecutor, "submit", lambda pool, function, *args: function(*args))
    listing = list_inputs(str(tmp_path))

    def content(item: Item, read: reading.Read) -> bytes | str:
        try:
            return read()[0]
        except ImageError as error:
            return str(error)

    found = reading.map_inputs(content, listing.items(listing.rows), listing.root)
    assert [x for x in found if isinstance(x, bytes)] == [f"content of {name}".encode() for name in names if name != "200.png"]
    assert "not a regular file" in str(found[200])
    assert fetched == ([f"{listing.root}/{name}" for name in names[2 * reading.AHEAD :]] if is_slow else [])


def test_states_that_the_listing_tells_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by a thread, which takes longer than all else that an update does for an image."""
    asked: list[str] = []

    def stat(path: str) -> paths.FileFacts:
        asked.append(path)
        return paths.FileFacts(7, path[-1])

    monkeypatch.setattr(paths, "stat_file", stat)
    items = [Item("a"), Item("b", size_bytes=1, version="v"), Item("c"), Item("d", None, "x.tar", 512, 3, "w"), Item("e")]
    states = map_states(items, "memory://in")
    assert states == [(7, "a"), (1, "v"), (7, "c"), (3, "w:512"), (7, "e")]
    assert sorted(asked) == ["memory://in/a", "memory://in/c", "memory://in/e"]
