"""Tar files of images: members, labels, damage, and what a hostile one may try."""

import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae.errors import ImageError, InputError, TsaeError
from tsae.images import MAX_FILE_BYTES
from tsae.inputs import Item, Listing, Read, list_inputs, map_inputs, tars


def tar_bytes(members: Mapping[str, bytes], **options: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            add(tar, name, content)
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


def read_all(listing: Listing) -> dict[str, bytes | str]:
    """By key, the bytes of each image, or why it cannot be read."""

    def read_one(item: Item, read: Read) -> bytes | str:
        try:
            return read()[0]
        except ImageError as error:
            return str(error)

    items = listing.items(listing.rows)
    return {item.key: content for item, content in zip(items, map_inputs(read_one, items, listing.root), strict=True)}


def refusal(source: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        list_inputs(str(source))
    message = str(caught.value)
    assert str(source) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_a_folder_of_its_members(tmp_path: Path, tar_format: int) -> None:
    images = {"b.png": b"B", "sub/a.JPG": b"A" * 600, "sub/é.webp": b"", "long/" + "x" * 90 + ".ppm": b"L"}
    if tar_format != tarfile.USTAR_FORMAT:
        images["y" * 300 + ".png"] = b"Y"
    (tmp_path / "in.tar").write_bytes(tar_bytes({**images, "note.txt": b"note"}, format=tar_format))
    listing = list_inputs(str(tmp_path / "in.tar"))
    assert listing.root == f"{tmp_path}/in.tar"
    assert listing.keys == sorted(images)
    assert (listing.failures, listing.skipped, listing.notes, listing.labels) == ([], 1, [], {})
    assert read_all(listing) == images


def test_names_as_tar_itself_writes_them(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        add(tar, "./", type=tarfile.DIRTYPE)
        add(tar, "./a.png", b"A")
        add(tar, "./x.png", type=tarfile.DIRTYPE)
        add(tar, "./x.png/b.png", b"B")
    assert read_all(list_inputs(str(tmp_path / "in.tar"))) == {"a.png": b"A", "x.png/b.png": b"B"}


def test_several_tars_are_folders_below_the_root(tmp_path: Path) -> None:
    for name in ("s/0.tar", "s/1.tar", "t/0.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(tar_bytes({"a.png": name.encode(), "b.png": b"B"}))
    (tmp_path / "c.png").write_bytes(b"C")
    listing = list_inputs(f"{tmp_path}/s/*.tar")
    assert listing.root == f"{tmp_path}/s"
    assert read_all(listing) == {"0.tar/a.png": b"s/0.tar", "0.tar/b.png": b"B", "1.tar/a.png": b"s/1.tar", "1.tar/b.png": b"B"}
    assert list_inputs(f"{tmp_path}/**/0.tar").keys == ["s/0.tar/a.png", "s/0.tar/b.png", "t/0.tar/a.png", "t/0.tar/b.png"]
    (tmp_path / "list.txt").write_text(f"t/0.tar\nc.png\n{tmp_path}/s/1.tar\nt/../t/0.tar\n")
    listing = list_inputs(str(tmp_path / "list.txt"))
    assert listing.keys == ["c.png", "s/1.tar/a.png", "s/1.tar/b.png", "t/0.tar/a.png", "t/0.tar/b.png"]
    assert read_all(listing)["c.png"] == b"C"


def test_folders_and_globs_of_images_pass_tars_over(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"A")
    (tmp_path / "in.tar").write_bytes(tar_bytes({"b.png": b"B"}))
    for source in (str(tmp_path), f"{tmp_path}/*"):
        listing = list_inputs(source)
        assert (listing.keys, listing.skipped) == (["a.png"], 1)
    (tmp_path / "a.png").unlink()
    assert "globs of tar or Parquet files in .tar or .parquet" in refusal(f"{tmp_path}/*")


def test_a_remote_tar() -> None:
    files = fsspec.filesystem("memory")
    images = {f"{i}.png": str(i).encode() * 1000 for i in range(20)}
    files.pipe_file("/tars/x.tar", tar_bytes({**images, "3.cls": b"7"}))
    listing = list_inputs("memory://tars/x.tar")
    assert (listing.root, listing.labels) == ("memory://tars/x.tar", {"3.png": "7"})
    assert read_all(listing) == images
    listing = list_inputs("memory://tars/*.tar")
    assert (listing.root, listing.keys[0]) == ("memory://tars", "x.tar/0.png")
    assert read_all(listing)["x.tar/3.png"] == images["3.png"]


def test_an_image_whose_name_only_looks_like_a_tar(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.tar.png\nb.tar.d/c.png\n")
    assert list_inputs(str(tmp_path / "list.txt")).keys == ["a.tar.png", "b.tar.d/c.png"]


def test_root_is_for_lists(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes({"a.png": b"A"}))
    with pytest.raises(InputError, match="--root /x: is for lists"):
        list_inputs(str(tmp_path / "in.tar"), "/x")


# Labels


def test_labels_beside_images(tmp_path: Path) -> None:
    members = {
        "1.png": b"", "1.cls": b" 14\n", "2.cls": "ÿ stop".encode(), "2.png": b"", "3.png": b"", "3.json": b'{"label": 3}',
        "4.json": b'{"label": "yield", "x": [1]}', "4.png": b"", "5.png": b"", "5.json": b'{"other": 1}', "6.png": b"",
        "6.json": b'{"label": 1}', "6.cls": b"six", "7.left.png": b"", "7.cls": b"7", "8.png": b"", "8.json": b'["label"]',
        "d.1/9.png": b"", "d.cls": b"not it", "10.png": b"", "10.cls": b"\n", "11.png": b"", "11.json": b'{"label": [1]}',
    }  # fmt: skip
    (tmp_path / "in.tar").write_bytes(tar_bytes(members))
    listing = list_inputs(str(tmp_path / "in.tar"))
    labels = {"1.png": "14", "2.png": "ÿ stop", "3.png": "3", "4.png": "yield", "6.png": "six", "7.left.png": "7"}
    assert listing.labels == labels
    assert listing.failures == []


@pytest.mark.parametrize(
    "member", [("1.cls", b"\xff"), ("1.json", b"{"), ("1.json", b"[" * 100_000), ("1.json", b"{}" * 2**20)]
)
def test_labels_that_cannot_be_read_are_failures_and_the_image_stays(tmp_path: Path, member: tuple[str, bytes]) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes({"1.png": b"1", member[0]: member[1]}))
    listing = list_inputs(str(tmp_path / "in.tar"))
    assert (listing.keys, listing.labels) == (["1.png"], {})
    assert [(failure.path, failure.stage) for failure in listing.failures] == [(member[0], "list")]
    assert "its label cannot be read" in listing.failures[0].message


def test_labels_that_are_too_long_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes({"1.png": b"1", "1.cls": b"x" * 5000}))
    listing = list_inputs(str(tmp_path / "in.tar"))
    assert listing.labels == {}
    assert "1 labels of more than 4096 bytes" in listing.notes[0]


def test_labels_csv_beside_tars_counts_alone(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes({"1.png": b"1", "1.cls": b"a", "2.png": b"2", "2.cls": b"b"}))
    (tmp_path / "labels.csv").write_text("path,label\nin.tar/2.png,mine\n")
    assert list_inputs(f"{tmp_path}/*.tar").labels == {"in.tar/2.png": "mine"}


# What a tar may hold besides


def test_no_member_leads_out_of_the_tar(tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(b"outside")
    names = ["../outside.png", "/etc/x.png", "a/../../outside.png", "a//b.png", "C:/x.png", "x\ny/../b.png"]
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        add(tar, "good.png", b"good")
        for name in names:
            add(tar, name, b"evil")
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            add(tar, f"link{number}.png", type=kind, linkname="../outside.png")
        add(tar, "link.txt", type=tarfile.SYMTYPE, linkname="../outside.png")
    listing = list_inputs(str(tmp_path / "in.tar"))
    assert read_all(listing) == {"good.png": b"good"}
    assert {failure.path for failure in listing.failures} == {*names, *(f"link{number}.png" for number in range(4))}
    assert listing.skipped == 1


def test_names_that_are_not_utf_8_are_failures(tmp_path: Path) -> None:
    data = tar_bytes({"caf\udce9.png": b"x", "a.png": b"A"}, format=tarfile.GNU_FORMAT, errors="surrogateescape")
    (tmp_path / "in.tar").write_bytes(data)
    listing = list_inputs(str(tmp_path / "in.tar"))
    assert (listing.keys, [failure.path for failure in listing.failures]) == (["a.png"], ["caf%E9.png"])


def test_sparse_members_are_failures(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "a.png", b"A")
        sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s.png", "GNU.sparse.realsize": "9"}
        add(tar, "s.png", b"1\n0\n9\n".ljust(512, b"\0") + b"123456789", pax_headers=sparse)
    listing = list_inputs(str(tmp_path / "in.tar"))
    assert (listing.keys, [failure.path for failure in listing.failures]) == (["a.png"], ["s.png"])
    assert "sparse" in listing.failures[0].message


def test_of_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for content in (b"old", b"new"):
            add(tar, "a.png", content)
    listing = list_inputs(str(tmp_path / "in.tar"))
    assert read_all(listing) == {"a.png": b"new"}
    assert "names 1 images more than once" in listing.notes[0]


def test_a_member_larger_than_any_honest_image_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.size = MAX_FILE_BYTES + 1
    (tmp_path / "in.tar").write_bytes(info.tobuf())
    os.truncate(tmp_path / "in.tar", 512 + MAX_FILE_BYTES + 512 + 1024)  # sparse on the disk
    listing = list_inputs(str(tmp_path / "in.tar"))
    content = read_all(listing)["a.png"]
    assert isinstance(content, str)
    assert f"more than the {MAX_FILE_BYTES}" in content


# Damage


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("name", ["in.tar", "in.tar.gz", "in.TGZ"])
def test_compressed_tars_are_refused(tmp_path: Path, mode: str, name: str) -> None:
    with tarfile.open(tmp_path / name, mode) as tar:  # type: ignore[call-overload]
        add(tar, "a.png", b"A")
    assert "decompress it first" in refusal(tmp_path / name)
    (tmp_path / "list.txt").write_text(f"{name}\n")
    with pytest.raises(InputError, match="decompress it first"):
        list_inputs(str(tmp_path / "list.txt"))


@pytest.mark.parametrize("content", [b"", b"no tar", b"\0" * 100, b"x" * 2000])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.tar").write_bytes(content)
    assert "no intact tar file" in refusal(tmp_path / "in.tar")


def test_an_empty_tar_has_no_image(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes({}))
    assert "no image found" in refusal(tmp_path / "in.tar")


def test_a_tar_cut_short_anywhere_loses_nothing_silently(tmp_path: Path) -> None:
    images = {f"{i}.png": bytes([i]) * 700 for i in range(4)}
    data = tar_bytes(images)
    for end in [*range(512, 4 * 1536 + 512, 100), 1536, 3072, 4 * 1536]:
        (tmp_path / "in.tar").write_bytes(data[:end])
        try:
            listing = list_inputs(str(tmp_path / "in.tar"))
        except InputError as error:
            assert end < 1536, error  # noqa: PT017
            continue
        assert read_all(listing) == dict(list(images.items())[: len(listing.keys)])
        assert [failure.path for failure in listing.failures] == [f"{tmp_path}/in.tar"]
        assert f"after {len(listing.keys)} members" in listing.failures[0].message


def test_a_tar_damaged_in_its_middle_names_the_rest(tmp_path: Path) -> None:
    data = bytearray(tar_bytes({f"{i}.png": b"x" for i in range(4)}))
    data[2 * 1024 + 10] ^= 0xFF
    (tmp_path / "in.tar").write_bytes(data)
    listing = list_inputs(str(tmp_path / "in.tar"))
    assert listing.keys == ["0.png", "1.png"]
    assert "after 2 members: from byte 2048 on it is no tar" in listing.failures[0].message


def test_a_tar_that_cannot_be_read_fails_alone_among_others(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"a.png": b"A"}))
    (tmp_path / "gone.tar").symlink_to("nowhere")
    listing = list_inputs(f"{tmp_path}/*.tar")
    assert listing.keys == ["a.tar/a.png"]
    assert [(failure.path, failure.error) for failure in listing.failures] == [("gone.tar", "FileNotFoundError")]


SMALL = tar_bytes({"a.png": b"A" * 600, "b.cls": b"1", "b.png": b"B", "y" * 200 + ".png": b"Y"}, format=tarfile.GNU_FORMAT)


@given(st.lists(st.tuples(st.integers(0, 4999), st.binary(min_size=1, max_size=12)), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_damage_ends_in_a_listing_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]]
) -> None:
    data = bytearray(SMALL)
    for position, part in edits:
        data[position : position + len(part)] = part
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    path.write_bytes(data)
    try:
        listing = list_inputs(str(path))
    except TsaeError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert all(isinstance(content, bytes) for content in read_all(listing).values())


OWNERS = st.sampled_from([b"", b"0", b" 17", b"7 ", b"\0" * 3 + b"17", b"1\0009", b"-7", b"8", b"1_0", b"\x80\0\0\x07"])
KINDS = st.sampled_from([b"0", b"\0", b"1", b"5", b"7", b"L", b"S", b"x", b"?"])
NAMES = st.sampled_from([b"c.png", b"c.png/", b"\xff.png", b"./c.png", b"", b"\0c.png"])


@given(
    OWNERS,
    KINDS,
    NAMES,
    st.sampled_from([b"", b"folder"]),
    st.sampled_from([b"ustar\00000", b"ustar  \0", b"\0" * 8]),
    st.integers(0, 2),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_short_way_through_a_header_gives_what_tarfile_gives(
    tmp_path_factory: pytest.TempPathFactory, size: bytes, kind: bytes, name: bytes, prefix: bytes, magic: bytes, error: int
) -> None:
    header = bytearray(512)
    for start, field in ((0, name), (124, size), (148, b" " * 8), (156, kind), (257, magic), (345, prefix)):
        header[start : start + len(field)] = field
    header[148:156] = b"%06o\0 " % (sum(header) + error // 2)
    path = tmp_path_factory.getbasetemp() / "header.tar"
    path.write_bytes(SMALL[:1536] + header + b"x" * 512 + b"\0" * 1024)

    def outcome() -> object:
        listing = list_inputs(str(path))
        return listing.table.to_pylist(), listing.failures, listing.skipped

    found = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tars._Tar, "_plain", lambda _: None)
        assert outcome() == found


@pytest.mark.parametrize("size", [-512, -1024, 2**40, 2**62])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_made_up_sizes_neither_hang_nor_take_memory(tmp_path: Path, size: int, kind: bytes) -> None:
    info = tarfile.TarInfo("b.png")
    info.size, info.type = size, kind
    header = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "in.tar").write_bytes(tar_bytes({"a.png": b"A"})[:1024] + header + b"\0" * 4096)
    listing = list_inputs(str(tmp_path / "in.tar"))
    assert listing.keys == ["a.png"]
    assert [failure.path for failure in listing.failures] == [f"{tmp_path}/in.tar"]


def test_long_chains_of_headers_end(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.size, info.type = 1, tarfile.GNUTYPE_LONGNAME
    chain = (info.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")) * 3000
    (tmp_path / "in.tar").write_bytes(tar_bytes({"a.png": b"A"})[:1024] + chain + b"\0" * 1024)
    listing = list_inputs(str(tmp_path / "in.tar"))
    assert (listing.keys, len(listing.failures)) == (["a.png"], 1)


# Change


def test_a_tar_that_changes_after_it_was_listed_gives_no_wrong_image(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(tar_bytes({"a.png": b"A", "b.png": b"B"}))
    listing = list_inputs(str(tmp_path / "in.tar"))
    (tmp_path / "in.tar").write_bytes(tar_bytes({"0.png": b"0", "a.png": b"A", "b.png": b"B"}))
    for content in read_all(listing).values():
        assert isinstance(content, str)
        assert "has changed since it was listed; run the command again" in content
    (tmp_path / "in.tar").unlink()
    assert all("No such file" in str(content) for content in read_all(listing).values())


@pytest.mark.parametrize(
    ("member", "content"), [("a/.json", b'{"label": "7"}'), ("1.json", b'{"label": "\\ud800"}'), (".cls", b"7")]
)
def test_an_odd_label_member_costs_only_itself(tmp_path: Path, member: str, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"1.png": b"A", member: content, "2.png": b"B", "2.cls": b"two"}))
    listing = list_inputs(str(tmp_path / "x.tar"))
    assert listing.labels == {"2.png": "two"}
    assert list(listing.keys) == ["1.png", "2.png"]


def test_a_label_that_is_true_or_false_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_bytes({"1.png": b"A", "1.json": b'{"label": true}'}))
    assert list_inputs(str(tmp_path / "x.tar")).labels == {}
