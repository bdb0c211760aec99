"""The whole evaluation: measures archives against their originals, and writes report.json, report.html and plots."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tsae
from tsae import archive as ar
from tsae import log, paths
from tsae.config import Preprocessing
from tsae.errors import InputError
from tsae.evaluation.facts import Readings
from tsae.evaluation.figures import columns_per_image, describe_images
from tsae.evaluation.measuring import Measured, measure
from tsae.evaluation.names import class_names
from tsae.evaluation.verdict import judge
from tsae.originals import Originals
from tsae.reader import Archive, open_archive

if TYPE_CHECKING:
    from tsae.classifier import SignClassifier

REPORT_JSON, REPORT_HTML, PLOTS_FOLDER = "report.json", "report.html", "plots"

OUR_NAME = re.compile(rf"report\.json|report\.html|{PLOTS_FOLDER}/[a-z0-9-]+\.png")
"""What a folder may hold that a report is written to."""

Report = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What came of it.

    Attributes:
        reports: As JSON can hold them, of each archive.
        page: Path of the page; None where none was written.
    """

    reports: list[Report]
    page: str | None

    @property
    def is_whole(self) -> bool:
        """Whether all images of all archives were measured."""
        return not any(report["problems"]["counts"] for report in self.reports)

    def to_json(self) -> Report:
        """What `report.json` holds: the report of one archive, or of several below `archives`."""
        return self.reports[0] if len(self.reports) == 1 else {"archives": self.reports}


def evaluate(
    archive_paths: Sequence[str],
    originals_source: str,
    classifier: SignClassifier,
    report: str | None = None,
    root: str | None = None,
) -> Evaluation:
    """Measures archives, and writes a report if a place for it is named.

    Args:
        archive_paths: Paths or URLs, at least one.
        originals_source: What the archives were made of: whatever `tsae compress` takes as INPUT.
        classifier: Reads signs.
        report: Folder to write to: new, empty, or with an earlier report, which is replaced.
        root: For a list of originals, the folder that its keys are relative to.

    Raises:
        InputError: if nothing can be measured, or the report cannot be written.
        TsaeError: if an archive or its model cannot be used.
    """
    if classifier.input != "pixels":
        raise InputError(
            f"classifier {classifier.name}: looks at {classifier.input}, here one of pixels is needed; name another"
        )
    if report is not None:
        _check_output(report, archive_paths, originals_source)
    originals = Originals(originals_source, root, is_listed=True)
    with contextlib.ExitStack() as stack:
        archives = [stack.enter_context(open_archive(path)) for path in archive_paths]
        names = _names(archive_paths)
        reports = [_evaluate_one(*pair, originals, classifier) for pair in zip(archives, names, strict=True)]
        page = None if report is None else write_report(reports, archives, originals, report)
    return Evaluation(reports, page)


def _names(archive_paths: Sequence[str]) -> list[str]:
    """The last part of each path; whole paths where two would be called the same."""
    short = [log.printable(os.path.basename(paths.absolute(path))) for path in archive_paths]
    return short if len(set(short)) == len(short) else [log.printable(path) for path in archive_paths]


def _evaluate_one(archive: Archive, name: str, originals: Originals, classifier: SignClassifier) -> Report:
    Preprocessing.from_json(archive.manifest.preprocessing)
    measured = measure(archive, originals, classifier)
    figures = _rate(archive, name) | describe_images(Readings(measured.facts, classifier.classes))
    figures |= _beside(archive, measured, classifier)
    return figures | {"verdict": judge(figures)}


def _rate(archive: Archive, name: str) -> Report:
    """What is known without originals."""
    info = archive.info()
    kept = ("model", "model_sha256", "quality", "target", "min_psnr_db", "keep_readable", "doubt", "bytes_per_image")
    return {
        "name": name,
        "archive": archive.path,
        "state": archive.state,
        "tsae": tsae.__version__,
        "archive_images": info["images"],
        "archive_failures": info["failures"],
        **{field: info[field] for field in kept},
        "ratio_to_raw": info["ratio_to_raw"],
        "ratio_to_source": info["ratio_to_source"],
        "bytes": {
            "archive": info["archive_bytes"],
            "model": info["model_bytes"],
            "provenance": info["provenance_bytes"],
            "by_column": columns_per_image(_column_bytes(archive), info["images"]),
        },
    }


def _column_bytes(archive: Archive) -> Counter[str]:
    """Bytes of the archive's files by column, and of what is beside the columns, as far as it can be read."""
    files, manifest, found = archive.files, archive.manifest, Counter[str]()
    sizes = [("lists", sum(entry.bytes for entry in manifest.lists)), ("manifest", len(files.manifest_text))]
    for name, size in [*sizes, ("failures", sum(entry.bytes for entry in manifest.failures))]:
        found[name] = size
    for shard in range(files.shards):
        try:
            columns = files.shard(shard).column_bytes()
        except tsae.TsaeError:
            continue
        found.update(columns)
        found["Parquet footers"] += files.facts(shard)["bytes"] - sum(columns.values())
    return +found


def _beside(archive: Archive, measured: Measured, classifier: SignClassifier) -> Report:
    problems = measured.problems
    return {
        "problems": {"counts": dict(problems.counts), "first": [dataclasses.asdict(problem) for problem in problems.first]},
        "originals_without_record": {"images": measured.unarchived, "first": measured.some_unarchived},
        "classifier": {
            "name": classifier.name,
            "sha256": classifier.sha256,
            "classes": len(classifier.classes),
            "multiply_adds": classifier.multiply_adds,
            "names": class_names(classifier.classes),
            "was_asked": archive.manifest.settings.classifier == classifier.sha256,
        },
    }


def _check_output(report: str, archive_paths: Sequence[str], originals_source: str) -> None:
    """Refuses a folder that holds something else, before an hour's work is done for it."""
    place = paths.absolute(report)
    for other in (*archive_paths, originals_source):
        if paths.is_within(place, paths.absolute(other)):
            raise InputError(f"{report}: lies inside {other}; choose a folder apart from it")
    try:
        if paths.kind(report) == "file":
            raise InputError(f"{report}: is a file; name a folder for the report")
        found = set(ar.Folder(place).sizes_bytes())
    except OSError as error:
        raise InputError(f"{report}: cannot be read ({error.strerror or error}); name another folder") from error
    if others := sorted(name for name in found if not OUR_NAME.fullmatch(name) and not paths.TEMPORARY.search(name)):
        raise InputError(f"{report}: holds {ar.shown(others[0])}, which is no report's; name a new or empty folder")


def write_report(reports: Sequence[Report], archives: Sequence[Archive], originals: Originals, report: str) -> str:
    """Writes the files of a report; the page last.

    Args:
        reports: Of each archive.
        archives: Those, still open.
        originals: Their input.
        report: The folder.

    Returns:
        Path of the page.

    Raises:
        InputError: if a file cannot be written.
    """
    from tsae.evaluation.page import page, pictured_keys
    from tsae.evaluation.pictures import picture_pairs
    from tsae.evaluation.plots import comparison_plots, report_plots  # imports matplotlib

    plots = [report_plots(figures) for figures in reports]
    across = comparison_plots(reports) if len(reports) > 1 else []
    pictures = [picture_pairs(a, originals, pictured_keys(figures)) for a, figures in zip(archives, reports, strict=True)]
    files = {f"{PLOTS_FOLDER}/{plot.name}.png": plot.light for plot in across}
    for number, some in enumerate(plots, start=1):
        prefix = f"{number}-" if len(reports) > 1 else ""
        files |= {f"{PLOTS_FOLDER}/{prefix}{plot.name}.png": plot.light for plot in some}
    text = json.dumps(Evaluation(list(reports), None).to_json(), indent=1, allow_nan=False)
    files |= {REPORT_JSON: f"{text}\n".encode(), REPORT_HTML: page(reports, pictures, plots, across).encode()}
    folder = ar.Folder(paths.absolute(report))
    _replace(folder, files)
    return paths.join(report, REPORT_HTML)


def _replace(folder: ar.Folder, files: dict[str, bytes]) -> None:
    """Writes files, and removes those of an earlier report that this one has not."""
    try:
        before = [name for name in folder.sizes_bytes() if OUR_NAME.fullmatch(name) and name not in files]
        for name, data in files.items():
            folder.write(name, data)
        folder.remove(before)
    except OSError as error:
        raise InputError(f"{folder.path}: cannot be written ({error.strerror or error}); name another folder") from error
