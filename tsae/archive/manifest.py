"""The manifest: the one file that makes an archive of other files, and names its lists. Owns its JSON, not its writing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from tsae.archive.files import (
    JOB_FOLDER,
    MANIFEST_FILE,
    MAX_LIST_SHARDS,
    MAX_SHARD_RECORDS,
    MODEL_FILE,
    OTHER_MODEL_FILE,
    FileEntry,
    check_name,
    digest,
)
from tsae.errors import CorruptDataError, FormatError, TsaeError
from tsae.paths import Folder, Hold

FORMAT_VERSION = 1

MAX_BYTES = 2**26
"""Of a manifest, no more is read: lists take 300 bytes each, so that is for 200,000 of 4 million images."""

KNOWN_FEATURES: frozenset[str] = frozenset()
"""Names that a manifest may list under `requires`: what a reader of this version understands beyond version 1's text."""

HEAD = re.compile(rb'\{"format": "tsae", "format_version": 1, "sha256": "([0-9a-f]{64})",\n')
"""The first line of a manifest; the digest is of all that follows."""

SHA256 = re.compile("[0-9a-f]{64}")

UNMENTIONED = ("keep_readable", "doubt")
"""Settings that a manifest leaves out where they are None."""

JSON_TYPES = {"str": str, "bool": bool, "dict[str, Any]": dict}
"""Annotations of the fields below to what `json` must have made of them."""


@dataclasses.dataclass(frozen=True)
class ListEntry(FileEntry):
    """A list, with what lets a key or position be found without reading all of them; `rows` counts its shards.

    Attributes:
        images: Records in its shards.
        first_key: Smallest key.
        last_key: Largest key.
    """

    images: int
    first_key: str
    last_key: str


@dataclasses.dataclass(frozen=True)
class Counts:
    """Sums over an archive.

    Attributes:
        images: Number of records.
        shards: Number of shards.
        failures: Rows of the failures table.
        skipped: Input files passed over because of their endings.
        source_bytes: Size of the image files that came through.
        stream_bytes: Sum of the streams' lengths.
        lossless: Number of images that are stored losslessly as well.
        lossless_bytes: Sum of those images' lengths.
        psnr_mean_db: Mean PSNR of the images; None where one was not measured.
        psnr_min_db: Least PSNR of the images; None where one was not measured.
    """

    images: int
    shards: int
    failures: int
    skipped: int
    source_bytes: int
    stream_bytes: int
    lossless: int
    lossless_bytes: int
    psnr_mean_db: float | None
    psnr_min_db: float | None


@dataclasses.dataclass(frozen=True)
class Doubt:
    """Which images are stored at a higher quality than others: those of whose decoded pixels a classifier is less sure.

    Attributes:
        classifier: SHA-256 of its file.
        most: Of the classifier's probability for what it reads from the original, the share that may be gone, 0 to 1; with 1,
            only what is read otherwise is stored better. See `tsae.jobs.encoding`.
    """

    classifier: str
    most: float

    def __str__(self) -> str:
        """For messages."""
        return f"doubts up to {self.most:g} of {self.classifier}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run must have in common with the runs before it to bring their archive up to date.

    Attributes:
        source: The INPUT, absolute.
        root: Folder that keys are relative to.
        verify: Whether each image was decoded and measured.
        min_psnr_db: PSNR below which an image is stored losslessly as well; None is never.
        quality: Operating point of the model; None for a model that has none.
        target: What the quality was chosen for, such as "120 bytes" or "34 dB"; None where it was given.
        keep_readable: SHA-256 of the classifier that must read each image as it reads the original; None is not to ask.
            An archive made without it does not mention it.
        doubt: What is stored better than at `quality`, to use the bytes of the target; None is nothing. Not mentioned then.
    """

    source: str
    root: str
    verify: bool
    min_psnr_db: float | None
    quality: int | None = None
    target: str | None = None
    keep_readable: str | None = None
    doubt: Doubt | None = None

    @property
    def classifier(self) -> str | None:
        """SHA-256 of the classifier that is asked of each image; None if none is."""
        return self.keep_readable if self.doubt is None else self.doubt.classifier

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Settings:
        """From the JSON object of its fields; keys that this version does not know are passed over.

        Raises:
            TypeError: if it lacks one.
            AttributeError: if `doubt` is no object.
        """
        known = _known(cls, fields)
        if known.get("doubt") is not None:
            known["doubt"] = Doubt(**_known(Doubt, known["doubt"]))
        return cls(**known)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What an archive is.

    Attributes:
        requires: Names of features that a reader must know.
        model: Its name.
        model_file: Where it lies in the archive.
        model_bytes: Size of the model file.
        model_sha256: Digest of the model file.
        latent_shape: Of the latents of one image, `[C, H, W]`.
        preprocessing: See `tsae.config.Preprocessing`.
        settings: Of the runs that made it.
        created_by: Program and version of the last run.
        counts: Sums.
        lists: In the order of positions.
        failures: Files of the failures table.
    """

    requires: tuple[str, ...]
    model: str
    model_file: str
    model_bytes: int
    model_sha256: str
    latent_shape: tuple[int, ...]
    preprocessing: dict[str, Any]
    settings: Settings
    created_by: str
    counts: Counts
    lists: tuple[ListEntry, ...]
    failures: tuple[FileEntry, ...]

    @property
    def images(self) -> int:
        """Number of records."""
        return self.counts.images

    @property
    def format_version(self) -> int:
        """Of the archive: the only version there is."""
        return FORMAT_VERSION

    @property
    def files(self) -> set[str]:
        """The files that it names itself; its lists name others."""
        return {MANIFEST_FILE, self.model_file} | {entry.file for entry in (*self.lists, *self.failures)}

    def to_json(self) -> bytes:
        """The bytes of `manifest.json`; equal manifests give equal bytes."""
        fields = dataclasses.asdict(self)
        for name in UNMENTIONED:
            if fields["settings"][name] is None:
                del fields["settings"][name]
        rest = json.dumps(fields, indent=1).encode()[2:]
        return b'{"format": "tsae", "format_version": 1, "sha256": "' + digest(rest).encode() + b'",\n' + rest

    @classmethod
    def from_json(cls, text: bytes, source: str) -> Manifest:
        """Reads `to_json`'s bytes.

        Args:
            text: The whole file.
            source: Its path, for messages.

        Raises:
            FormatError: if it is of another version, or needs a feature that is not known.
            CorruptDataError: if it is damaged, or no manifest.
        """
        head = HEAD.match(text)
        if head is None or head[1].decode() != digest(text[head.end() :]):
            raise _fault(text, source)
        try:
            fields = json.loads(text)
            _check_features(fields["requires"], source)  # first: without knowing a feature, nothing else can be judged
            return _from_fields(fields)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CorruptDataError(f"{source}: contradicts itself ({reason}); restore the file") from error


def _check_features(requires: list[str], source: str) -> None:
    if not all(type(name) is str for name in requires):
        raise ValueError("`requires` is no list of names")
    if unknown := sorted(set(requires) - KNOWN_FEATURES):
        names = ", ".join(name if name.isprintable() else ascii(name) for name in unknown)[:200]
        raise FormatError(f"{source}: the archive needs {names}, which this tsae does not know; update tsae")


def unknown_keys(text: bytes) -> list[str]:
    """Names in a readable manifest that this version does not know, and so would drop if it wrote a new state.

    Args:
        text: The whole file.
    """
    fields = json.loads(text)
    parts = [("", Manifest, fields), ("settings.", Settings, fields["settings"]), ("counts.", Counts, fields["counts"])]
    parts += [("settings.doubt.", Doubt, doubt) for doubt in [fields["settings"].get("doubt")] if doubt is not None]
    parts += [("lists.", ListEntry, entry) for entry in fields["lists"]]
    names = {prefix + name for prefix, kind, part in parts for name in part.keys() - _known(kind, part).keys()}
    return sorted(names - {"format", "format_version", "sha256"})


def _fault(text: bytes, source: str) -> TsaeError:
    """What to say of a file that does not begin as a manifest of this version, or does not match its digest."""
    try:
        fields = json.loads(text)
        version = fields["format_version"] if fields["format"] == "tsae" else FORMAT_VERSION
    except (ValueError, KeyError, TypeError, RecursionError):
        version = FORMAT_VERSION
    if version != FORMAT_VERSION:
        return FormatError(f"{source}: archive format {str(version)[:20]}, this tsae reads {FORMAT_VERSION}; update tsae")
    return CorruptDataError(f"{source}: damaged, or not a manifest of tsae's: it does not match its SHA-256; restore the file")


def _from_fields(fields: dict[str, Any]) -> Manifest:
    """A manifest from its JSON object; keys that this version does not know are passed over."""
    manifest = Manifest(
        **{
            **_known(Manifest, fields),
            "requires": tuple(fields["requires"]),
            "latent_shape": tuple(fields["latent_shape"]),
            "settings": Settings.from_json(fields["settings"]),
            "counts": Counts(**_known(Counts, fields["counts"])),
            "lists": tuple(ListEntry(**_known(ListEntry, entry)) for entry in fields["lists"]),
            "failures": tuple(FileEntry(**_known(FileEntry, entry)) for entry in fields["failures"]),
        }
    )
    _check_manifest(manifest)
    return manifest


def _known(kind: Any, fields: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in fields.items() if name in names}


def _is_of_type(value: Any, annotation: str) -> bool:
    """Whether a value from JSON is what a field's annotation says; numbers are finite, integers not negative."""
    if annotation.endswith(" | None"):
        return value is None or _is_of_type(value, annotation.removesuffix(" | None"))
    if annotation == "float":
        return type(value) in (int, float) and math.isfinite(value)
    if annotation == "int":
        return type(value) is int and 0 <= value < 2**63
    return annotation not in JSON_TYPES or type(value) is JSON_TYPES[annotation]


def _check_manifest(manifest: Manifest) -> None:
    """Raises ValueError unless all is of its type, names stay inside the archive, and numbers agree."""
    settings, doubt = manifest.settings, manifest.settings.doubt
    parts: list[Any] = [manifest, settings, manifest.counts, *manifest.lists, *manifest.failures, *([doubt] if doubt else [])]
    for part in parts:
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if not _is_of_type(value, str(field.type)):
                raise ValueError(f"{field.name} is {str(value)[:50]!r}, not of type {field.type}")
    if manifest.model_file != MODEL_FILE and not OTHER_MODEL_FILE.fullmatch(manifest.model_file):
        raise ValueError(f"the model is named {manifest.model_file[:50]!r}")
    shape = manifest.latent_shape
    if len(shape) != 3 or not all(type(size) is int and 0 < size < 2**20 for size in shape):
        raise ValueError("latent_shape is no shape")
    for folder, entries in (("lists", manifest.lists), ("failures", manifest.failures)):
        for entry in entries:
            check_name(entry.file, folder)
    if not all(SHA256.fullmatch(part.sha256) for part in (*manifest.lists, *manifest.failures)):
        raise ValueError("a digest is none")
    if settings.classifier is not None and not SHA256.fullmatch(settings.classifier):
        raise ValueError(f"the classifier's digest is {settings.classifier[:50]!r}")
    if settings.keep_readable not in (None, settings.classifier):
        raise ValueError("keep_readable and doubt are of two classifiers")
    if doubt and not 0 <= doubt.most <= 1:
        raise ValueError(f"doubts up to {doubt.most} are allowed, not up to 0 to 1")
    if not SHA256.fullmatch(manifest.model_sha256):
        raise ValueError(f"the model's digest is {manifest.model_sha256[:50]!r}")
    for entry in manifest.lists:  # `list(archive)` reserves memory for as many keys as this says, before it reads one
        if not 0 < entry.rows <= MAX_LIST_SHARDS or not entry.rows <= entry.images <= entry.rows * MAX_SHARD_RECORDS:
            raise ValueError(f"{entry.file} claims {entry.images} images in {entry.rows} shards")
    if manifest.images != sum(entry.images for entry in manifest.lists):
        raise ValueError("the numbers of images of the lists do not add up")


def read_manifest_text(archive: Folder) -> bytes:
    """The bytes of the manifest of an archive.

    Raises:
        FormatError: if there is none, or it cannot be read.
    """
    with _one_error(archive):
        return archive.read(MANIFEST_FILE, MAX_BYTES)


def hold_manifest(archive: Folder) -> tuple[bytes, Hold | None]:
    """The same, and where that can be had a hold on this state: as long as it lasts, its files stay.

    Raises:
        FormatError: as `read_manifest_text`.
    """
    with _one_error(archive):
        return archive.read_and_hold(MANIFEST_FILE, MAX_BYTES)


@contextlib.contextmanager
def _one_error(archive: Folder) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        remedy = "its job did not end; finish it with --resume" if archive.exists(JOB_FOLDER) else "name another folder"
        raise FormatError(f"{archive.path}: not an archive (no {MANIFEST_FILE}); {remedy}") from error
    except OSError as error:
        reason = error.strerror or error
        raise FormatError(
            f"{archive.path}/{MANIFEST_FILE}: cannot be read ({reason}); check the file and its permissions"
        ) from error


def read_manifest(archive: Folder) -> Manifest:
    """Reads the manifest of an archive.

    Raises:
        FormatError: if there is none, or an unreadable one.
    """
    return Manifest.from_json(read_manifest_text(archive), f"{archive.path}/{MANIFEST_FILE}")
