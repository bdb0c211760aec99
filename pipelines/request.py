"""What `compress` asks for: options checked, the files of model and classifier, and the settings of the archive."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

from pipelines import local
from pipelines.options import CompressOptions
from tsae import archive as ar
from tsae import log, paths
from tsae.config import DEFAULT_CLASSIFIER
from tsae.errors import InputError
from tsae.inputs import Listing
from tsae.jobs.encoding import MISREAD_ONLY, Classify
from tsae.jobs.run_report import Launch
from tsae.jobs.target import Target, choose_quality
from tsae.model_facts import ModelFacts, check_quality, read_model_facts
from tsae.zoo import read_model_file


class Stages:
    """Seconds that the stages before the first task take, for a report of the run, if one is wanted."""

    def __init__(self, is_wanted: bool) -> None:
        self._is_wanted, self._started_s, self._last_s = is_wanted, time.time(), time.monotonic()
        self._stages_s: dict[str, float] = {}

    def end(self, stage: str) -> None:
        """What has passed since the stage before was this one."""
        now_s = time.monotonic()
        self._stages_s[stage], self._last_s = now_s - self._last_s, now_s

    def launch(self, engine: str, workers: int | None) -> Launch | None:
        """How the run began."""
        return Launch(engine, workers, self._started_s, self._stages_s) if self._is_wanted else None


@dataclasses.dataclass(frozen=True)
class Request:
    """What a command asks for, checked as far as that can be done without its input.

    Attributes:
        options: As given.
        flags: Beam flags; without any, the local engine does the work.
        archive: Where the archive is, or will be.
        model_file: The whole model file.
        classifier_file: That of the classifier that may be asked, if one may be.
        settings: What later runs must have in common with it, the root excepted.
        stages: Seconds of the stages so far.
    """

    options: CompressOptions
    flags: Sequence[str]
    archive: ar.Folder
    model_file: bytes
    classifier_file: bytes | None
    settings: ar.Settings
    stages: Stages

    @property
    def classifier_sha256(self) -> str | None:
        """Which classifier says what can be read: records depend on it."""
        return None if self.classifier_file is None else ar.digest(self.classifier_file)


def prepare(options: CompressOptions, flags: Sequence[str] = ()) -> Request:
    """Checks options and flags, and reads the model.

    Raises:
        TsaeError: if one of them cannot be used.
    """
    stages = Stages(options.run_report)
    local.check_flags(options.workers, flags)
    _check_options(options)
    archive = ar.Folder(paths.absolute(options.archive))
    model_file = read_model_file(options.model)
    classifier_file = _read_classifier(options)
    settings = _settings(options, read_model_facts(model_file, options.model), classifier_file)
    return Request(options, flags, archive, model_file, classifier_file, settings, stages)


def _read_classifier(options: CompressOptions) -> bytes | None:
    """The file of the classifier that may be asked.

    Raises:
        TsaeError: if it cannot be used, or nothing would ask it.
    """
    if not (options.keep_readable or (options.target_bytes is not None and options.verify)):
        if options.classifier is not None:
            remedy = "add --keep-readable or --target-bytes (without --no-verify), or leave it out"
            raise InputError(f"--classifier {options.classifier}: nothing would ask it; {remedy}")
        return None
    data = read_model_file(options.classifier or DEFAULT_CLASSIFIER)
    if options.classifier is not None:
        from tsae.classifier import check_pixels, classifier_from_bytes

        check_pixels(classifier_from_bytes(data, options.classifier), f"--classifier {options.classifier}")
    return data


def _check_options(options: CompressOptions) -> None:
    floor_db = options.min_psnr_db
    if floor_db is not None and not options.verify:
        raise InputError(f"--min-psnr {floor_db}: cannot be kept without verification; leave out --no-verify")
    if options.keep_readable and not options.verify:
        raise InputError("--keep-readable: cannot be kept without verification; leave out --no-verify")
    if floor_db is not None and not 0 < floor_db <= ar.EXACT_PSNR_DB:
        raise InputError(f"--min-psnr {floor_db}: is in dB, above 0 and at most {ar.EXACT_PSNR_DB:.0f}; 30 is a usual floor")
    for name, target in (("--target-bytes", options.target_bytes), ("--target-psnr", options.target_psnr_db)):
        if target is not None and not (math.isfinite(target) and target > 0):
            raise InputError(f"{name} {target}: must be a number above 0; 128 bytes or 33 dB are usual")


def _settings(options: CompressOptions, model: ModelFacts, classifier_file: bytes | None) -> ar.Settings:
    """The settings as far as they are known before the input is listed."""
    source = paths.absolute(options.input) if options.input else ""
    target = _target(options)
    if target and not model.qualities:
        raise InputError(f"target of {target}: model {model.name} has no qualities to choose from; leave it out, or use tsae")
    quality = None if target else check_quality(options.quality, model.qualities, model.name)
    aim = str(target) if target else None
    kept = ar.digest(classifier_file) if options.keep_readable and classifier_file is not None else None
    return ar.Settings(source, source, options.verify, options.min_psnr_db, quality, aim, kept)


def _target(options: CompressOptions) -> Target | None:
    given = (options.target_bytes, options.target_psnr_db)
    return None if given == (None, None) else Target(*given)


def keep_target(settings: ar.Settings, old: ar.Settings, request: Request) -> ar.Settings:
    """The settings with what was chosen for the target before, if there is one; the classifier is the one at hand."""
    if settings.target is None:
        return settings
    sha256 = request.classifier_sha256
    doubt = old.doubt and dataclasses.replace(old.doubt, classifier=sha256 or old.doubt.classifier)
    return dataclasses.replace(settings, quality=old.quality, doubt=doubt)


def reach_target(settings: ar.Settings, listing: Listing, request: Request) -> ar.Settings:
    """The settings with what reaches the target, if there is one: a quality, and for bytes what is stored better."""
    options, target = request.options, _target(request.options)
    if target is None:
        return settings
    if not listing.keys:
        raise InputError(
            f"target of {target}: no readable image in {listing.root} to choose a quality by; give --quality instead"
        )
    from tsae.codec import choose_device, shared_codec

    codec = shared_codec(request.model_file, options.model, choose_device(options.device))
    if target.bytes_per_image is not None and request.classifier_sha256 is not None:
        settings = dataclasses.replace(settings, doubt=ar.Doubt(request.classifier_sha256, MISREAD_ONLY))
    choice = choose_quality(listing, codec, target, settings, _asked(request))
    log.say("target", f"target of {target}: {choice}", quality=choice.quality, better=round(choice.better, 4))
    return choice.settings(settings)


def _asked(request: Request) -> Classify | None:
    """The classifier that may be asked."""
    if request.classifier_file is None:
        return None
    from tsae.classifier import classifier_of

    return classifier_of(request.classifier_file, request.options.classifier or DEFAULT_CLASSIFIER).probabilities
