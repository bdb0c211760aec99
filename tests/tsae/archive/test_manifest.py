"""The manifest: its text comes back, and nothing damaged, unknown or untrue gets through."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae.archive import FORMAT_VERSION, Counts, Doubt, FileEntry, ListEntry, Manifest, Settings, digest, read_manifest
from tsae.archive.manifest import unknown_keys
from tsae.errors import CorruptDataError, FormatError
from tsae.paths import Folder

DIGEST = digest(b"")


def list_entry(number: int, first_key: str = "a", last_key: str = "b") -> ListEntry:
    return ListEntry(f"lists/{number:06d}-{DIGEST[:16]}.parquet", 2, 900, DIGEST, 3, first_key, last_key)


def build(*lists: ListEntry, failures: tuple[FileEntry, ...] = (), **fields: Any) -> Manifest:
    images = sum(entry.images for entry in lists)
    usual: dict[str, Any] = {
        "requires": (),
        "model": "test-model",
        "model_file": "model.safetensors",
        "model_bytes": 1_000,
        "model_sha256": DIGEST,
        "latent_shape": (8, 8, 8),
        "preprocessing": {"size_px": 32, "resample": "bilinear"},
        "settings": Settings("/in", "/in", True, 30.0, 5, "34 dB"),
        "created_by": "tsae test",
        "counts": Counts(images, 2 * len(lists), len(failures), 2, 12_345, 512 * images, 1, 700, 31.5, 22.25),
    }
    return Manifest(**usual | fields, lists=lists, failures=failures)


FAILURES = FileEntry(f"failures/000000-{DIGEST[:16]}.parquet", 1, 500, DIGEST)
MANIFEST = build(list_entry(0), list_entry(1, "b", "é日\n\U0001f6d1"), failures=(FAILURES,))


def sealed(fields: dict[str, Any], version: object = 1) -> bytes:
    """A manifest that says whatever it likes, with the right digest."""
    rest = json.dumps({name: value for name, value in fields.items() if name not in ("format", "format_version", "sha256")})
    head = f'{{"format": "tsae", "format_version": {json.dumps(version)}, "sha256": "{digest(rest[1:].encode())}",\n'
    return head.encode() + rest[1:].encode()


def edited(**fields: Any) -> bytes:
    return sealed(json.loads(MANIFEST.to_json()) | fields)


def reason_of(text: bytes) -> str:
    with pytest.raises((FormatError, CorruptDataError)) as caught:
        Manifest.from_json(text, "some/manifest.json")
    message = str(caught.value)
    assert message.startswith("some/manifest.json: ")
    assert "\n" not in message
    assert len(message) < 400
    return message


# The text


def test_round_trip() -> None:
    small = build(
        model="Größe", preprocessing={}, settings=Settings("", "", False, None), model_file=f"model-{'0' * 16}.safetensors"
    )
    for manifest in (MANIFEST, build(), small):
        text = manifest.to_json()
        assert Manifest.from_json(text, "test") == manifest
        assert Manifest.from_json(text, "test").to_json() == text
    assert Manifest.from_json(edited(), "test") == MANIFEST


NUMBERS = st.integers(0, 2**60)
DB = st.none() | st.floats(-100, 100)


@given(
    st.lists(st.tuples(st.text(), st.text()).map(sorted), max_size=4),
    st.builds(
        Settings,
        st.text(),
        st.text(),
        st.booleans(),
        st.none() | st.floats(0, 100),
        st.none() | st.integers(0, 2**60),
        st.none() | st.text(),
    ),
    st.text(),
    st.tuples(*[NUMBERS] * 7, DB, DB),
    st.dictionaries(st.text(), st.none() | st.booleans() | st.text() | st.integers() | st.floats(allow_nan=False)),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_keys_names_and_numbers_come_back(
    ranges: list[list[str]], options: Settings, name: str, numbers: tuple[Any, ...], preprocessing: dict[str, Any]
) -> None:
    lists = [list_entry(index, *keys) for index, keys in enumerate(ranges)]
    counts = Counts(3 * len(lists), *numbers)
    manifest = build(*lists, settings=options, created_by=name, model=name, counts=counts, preprocessing=preprocessing)
    assert Manifest.from_json(manifest.to_json(), "test") == manifest


def test_the_first_line_names_format_version_and_digest_of_the_rest() -> None:
    first, rest = MANIFEST.to_json().split(b"\n", 1)
    assert first.decode() == f'{{"format": "tsae", "format_version": {FORMAT_VERSION}, "sha256": "{digest(rest)}",'
    assert json.loads(MANIFEST.to_json())["model"] == "test-model"
    assert MANIFEST.images == 6
    assert MANIFEST.format_version == FORMAT_VERSION
    names = {"manifest.json", "model.safetensors", FAILURES.file, MANIFEST.lists[0].file, MANIFEST.lists[1].file}
    assert MANIFEST.files == names


# Damage


def test_no_flipped_bit_gets_through() -> None:
    text = MANIFEST.to_json()
    for position in range(len(text)):
        for bit in range(8):
            damaged = bytearray(text)
            damaged[position] ^= 1 << bit
            reason_of(bytes(damaged))


def test_a_manifest_cut_short_or_grown_is_refused() -> None:
    text = MANIFEST.to_json()
    for length in range(len(text)):
        reason_of(text[:length])
    for more in (b"\n", b" ", b"}", text):
        reason_of(text + more)
        reason_of(more + text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b'"tsae"',
        b"{}",
        b'{"format": "other", "format_version": 1}',
        b"\xff\xfe",
        b"[" * 100000,
        b'{"a":' * 100000,
        b'{"format": "tsae"}',
        b'{"format": ["tsae"], "format_version": 2}',
        b"\xef\xbb\xbf{}",
        b"1" * 10000,
    ],
)
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    assert "restore the file" in reason_of(text)


def test_a_line_end_of_another_system_is_damage() -> None:
    reason_of(MANIFEST.to_json().replace(b"\n", b"\r\n"))
    reason_of(json.dumps(json.loads(MANIFEST.to_json())).encode())


# Versions and features


@pytest.mark.parametrize("version", [2, 99, 0, -1, 1.5, "1", None, [1], "one", 10**400])
def test_a_manifest_of_another_version_is_refused(version: object) -> None:
    message = reason_of(sealed({"anything": "else"}, version))
    assert f"archive format {str(version)[:20]}, this tsae reads {FORMAT_VERSION}" in message
    assert "update tsae" in message


def test_the_version_is_told_however_the_text_is_laid_out() -> None:
    assert "update tsae" in reason_of(json.dumps({"format_version": 7, "format": "tsae"}, indent=3).encode())


@pytest.mark.parametrize("requires", [["coded-latents"], ["a", "z"], ["x" * 5_000]])
def test_an_unknown_feature_is_refused_by_name(requires: list[str]) -> None:
    message = reason_of(edited(requires=requires))
    assert all(name[:50] in message for name in ["needs ", "update tsae", *requires])


def test_what_later_versions_add_is_passed_over() -> None:
    fields = json.loads(MANIFEST.to_json())
    for part in (fields, fields["settings"], fields["counts"], *fields["lists"], *fields["failures"]):
        part["added-later"] = {"x": [1, None, 10**400]}
    assert Manifest.from_json(sealed(fields), "test") == MANIFEST


# Lies


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Manifest)])
def test_a_manifest_without_a_field_or_with_nonsense_in_it_is_refused(field: str) -> None:
    fields = json.loads(MANIFEST.to_json())
    for nonsense in (None, 1.5, [1], {"x": 1} if field != "preprocessing" else "x", True, -1, 10**400):
        reason_of(sealed(fields | {field: nonsense}))
    del fields[field]
    reason_of(sealed(fields))


NUMBER_FIELDS = {"rows", "bytes", "images"}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ListEntry)])
def test_an_entry_without_a_field_or_with_nonsense_in_it_is_refused(field: str) -> None:
    entry = dataclasses.asdict(MANIFEST.lists[0])
    nonsense = [None, 1.5, [1], True, -1, 10**400, 2**63, "3" if field in NUMBER_FIELDS else 3]
    for value in nonsense:
        reason_of(edited(lists=[entry | {field: value}]))
    del entry[field]
    reason_of(edited(lists=[entry]))
    for other in (None, 1, "x", [1]):
        reason_of(edited(lists=[other]))


LATER = {"quality", "target"}
"""Settings that came with models that have qualities."""


@pytest.mark.parametrize("part", ["settings", "counts"])
def test_a_part_without_a_field_or_with_nonsense_in_it_is_refused(part: str) -> None:
    whole = json.loads(MANIFEST.to_json())[part]
    for field, value in whole.items():
        for nonsense in ([1], {}, 1 if isinstance(value, str) else -1 if isinstance(value, int) else "x", 10**400):
            reason_of(edited(**{part: whole | {field: nonsense}}))
        if field not in LATER:
            reason_of(edited(**{part: {name: value for name, value in whole.items() if name != field}}))


@pytest.mark.parametrize(("field", "nonsense"), [("quality", ["5", 5.0, True, -1]), ("target", [33, 1.5, True, ["33 dB"]])])
def test_what_the_first_archives_do_not_have_may_be_missing_but_not_be_nonsense(field: str, nonsense: list[Any]) -> None:
    whole = json.loads(MANIFEST.to_json())["settings"]
    for value in nonsense:
        assert f"{field} is" in reason_of(edited(settings=whole | {field: value}))
    without = {name: value for name, value in whole.items() if name != field}
    for settings_fields in (without, whole | {field: None}):
        read = Manifest.from_json(edited(settings=settings_fields), "test")
        assert read.settings == dataclasses.replace(MANIFEST.settings, **{field: None})


def test_a_setting_that_is_not_used_is_not_mentioned() -> None:
    assert b"keep_readable" not in MANIFEST.to_json()
    settings = dataclasses.replace(MANIFEST.settings, keep_readable="a" * 64)
    kept = dataclasses.replace(MANIFEST, settings=settings)
    assert Manifest.from_json(kept.to_json(), "test") == kept
    for nonsense in ("", "a" * 63, "A" * 64, 5):
        fields = json.loads(kept.to_json())["settings"] | {"keep_readable": nonsense}
        assert "keep_readable" in (reason := reason_of(edited(settings=fields))) or "classifier" in reason


@pytest.mark.parametrize("most", [0, 0.013, 1.0])
def test_a_limit_of_doubt_comes_back(most: float) -> None:
    assert b"doubt" not in MANIFEST.to_json()
    doubted = dataclasses.replace(MANIFEST, settings=dataclasses.replace(MANIFEST.settings, doubt=Doubt("a" * 64, most)))
    read = Manifest.from_json(doubted.to_json(), "test")
    assert read == doubted
    assert read.settings.classifier == "a" * 64
    assert unknown_keys(doubted.to_json()) == []
    fields = json.loads(doubted.to_json())
    fields["settings"]["doubt"]["weather"] = 5
    assert unknown_keys(json.dumps(fields).encode()) == ["settings.doubt.weather"]


@pytest.mark.parametrize(
    ("doubt", "reason"),
    [
        *(({"classifier": "a" * 64, "most": most}, "most is") for most in ("0.5", True, None, [0.5])),
        *(({"classifier": "a" * 64, "most": most}, "doubts up to") for most in (-0.001, 1.001)),
        *(({"classifier": sha256, "most": 0.5}, "the classifier's digest is") for sha256 in ("", "a" * 63, "A" * 64)),
        ({"classifier": 5, "most": 0.5}, "classifier is"),
        ({"most": 0.5}, "classifier"),
        ({"classifier": "a" * 64}, "most"),
        ({"classifier": "b" * 64, "most": 0.5}, "of two classifiers"),
        *((nonsense, "contradicts itself") for nonsense in (5, "x", [["classifier", "a" * 64], ["most", 0.5]], {}, False)),
    ],
)
def test_a_limit_of_doubt_that_is_none_is_refused(doubt: Any, reason: str) -> None:
    fields = json.loads(MANIFEST.to_json())["settings"] | {"doubt": doubt}
    if reason == "of two classifiers":
        fields |= {"keep_readable": "a" * 64}
    assert reason in reason_of(edited(settings=fields))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_psnr_that_is_no_number_is_refused(number: str) -> None:
    for field in ("31.5", "22.25", "30.0"):
        rest = MANIFEST.to_json().split(b"\n", 1)[1]
        assert field.encode() in rest
        rest = rest.replace(field.encode(), number.encode())
        text = f'{{"format": "tsae", "format_version": 1, "sha256": "{digest(rest)}",\n'.encode() + rest
        assert "not of type" in reason_of(text)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.parquet",
        "/etc/passwd",
        "lists/../../x.parquet",
        "manifest.json",
        "lists/x.parquet",
        "s3://bucket/x",
        f"lists/000000-{DIGEST[:16]}.parquet\n",
        f"lists/000000-{DIGEST[:16]}.parquet\0",
        f"shards/000000-{DIGEST[:16]}.parquet",
        f"../lists/000000-{DIGEST[:16]}.parquet",
        "lists/000000-" + "g" * 16 + ".parquet",
        "",
    ],
)
def test_files_outside_of_the_archive_cannot_be_named(name: str) -> None:
    entry = dataclasses.asdict(MANIFEST.lists[0])
    assert "file" in reason_of(edited(lists=[entry | {"file": name}]))
    assert "file" in reason_of(edited(failures=[dataclasses.asdict(FAILURES) | {"file": name}]))
    assert "model is named" in reason_of(edited(model_file=name))


def test_counts_that_do_not_add_up_are_refused() -> None:
    counts = dataclasses.asdict(MANIFEST.counts)
    for images in (0, 5, 7, 2**62):
        assert "add up" in reason_of(edited(counts=counts | {"images": images}))


@pytest.mark.parametrize(
    "shape",
    [[], [8, 8], [8] * 4, [0, 8, 8], [8.0, 8, 8], [True, 8, 8], [2**30, 1, 1], ["8"] * 3, "888", [[8], 8, 8], [-8, 8, 8]],
)
def test_a_latent_shape_that_is_none_is_refused(shape: Any) -> None:
    assert "latent_shape" in reason_of(edited(latent_shape=shape))


def test_deep_nesting_is_refused_in_one_line() -> None:
    for deep in ("[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000):
        rest = MANIFEST.to_json().split(b"\n", 1)[1].replace(b'"bilinear"', deep.encode())
        reason_of(f'{{"format": "tsae", "format_version": 1, "sha256": "{digest(rest)}",\n'.encode() + rest)


def test_a_key_that_comes_twice_counts_once() -> None:
    rest = MANIFEST.to_json().split(b"\n", 1)[1].replace(b'"requires"', b'"model": "first", "requires"', 1)
    text = f'{{"format": "tsae", "format_version": 1, "sha256": "{digest(rest)}",\n'.encode() + rest
    assert Manifest.from_json(text, "test") == MANIFEST


# Reading


def test_reading_what_is_no_archive(tmp_path: Path) -> None:
    archive = Folder(str(tmp_path))
    with pytest.raises(FormatError, match="not an archive"):
        read_manifest(Folder(str(tmp_path / "missing")))
    with pytest.raises(FormatError, match="name another folder"):
        read_manifest(archive)
    (tmp_path / "job").mkdir()
    with pytest.raises(FormatError, match="--resume"):
        read_manifest(archive)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FormatError, match="not an archive"):
        read_manifest(Folder(str(tmp_path / "file")))
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(FormatError, match="cannot be read"):
        read_manifest(archive)


def test_reading_the_manifest_of_an_archive(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(MANIFEST.to_json())
    assert read_manifest(Folder(str(tmp_path))) == MANIFEST


def test_an_unknown_feature_is_looked_at_before_anything_else() -> None:
    """What it changes may be the very thing that looks wrong."""
    fields = json.loads(MANIFEST.to_json())
    fields = {name: value for name, value in fields.items() if name not in ("format", "format_version", "sha256", "lists")}
    rest = json.dumps({**fields, "requires": ["paged-lists"]}, indent=1).encode()[2:]
    head = b'{"format": "tsae", "format_version": 1, "sha256": "' + digest(rest).encode() + b'",\n'
    with pytest.raises(FormatError, match="needs paged-lists.*update tsae"):
        Manifest.from_json(head + rest, "m")


def test_keys_of_a_newer_tsae_are_told() -> None:
    assert unknown_keys(MANIFEST.to_json()) == []
    fields = json.loads(MANIFEST.to_json())
    fields["future"] = fields["settings"]["weather"] = 5
    assert unknown_keys(json.dumps(fields).encode()) == ["future", "settings.weather"]
