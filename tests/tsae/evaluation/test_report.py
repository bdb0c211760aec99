"""Archives of drawn signs evaluated: figures against the pixels themselves, the files of a report, and what goes wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import tsae
from tests.tsae.evaluation.conftest import NearestMean
from tsae import classifier as classifiers
from tsae import paths
from tsae.cli import main
from tsae.errors import InputError
from tsae.evaluation import evaluate
from tsae.images import decode_image, resize
from tsae.metrics import psnr_db, ssim


class Unsure(NearestMean):
    """Knows no label of the drawn signs, and is not sure of any."""

    classes = tuple(f"other {label}" for label in NearestMean.classes)

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return 0.3 * super().probabilities(images)


VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """The tags of a page, known to be closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def one(archive: Path, originals: Path, classifier: Any, report: Path | None = None) -> dict[str, Any]:
    return evaluate([str(archive)], str(originals), classifier, report and str(report)).to_json()


def pixels(folder: Path, keys: Sequence[str]) -> np.ndarray:
    return np.stack([resize(decode_image((folder / key).read_bytes())) for key in keys])


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip_a_stream(archive: Path, copy: Path, key: str) -> None:
    """A copy of an archive with one byte of one image's stream changed."""
    shutil.copytree(archive, copy)
    with tsae.open_archive(str(archive)) as opened:
        stream = opened.record(key).streams[0]
    (shard,) = (copy / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[data.index(stream)] ^= 0x55
    shard.write_bytes(data)


def test_figures_are_those_of_the_pixels(low_archive: Path, signs_dir: Path, classifier: Any) -> None:
    report = one(low_archive, signs_dir, classifier)
    with tsae.open_archive(str(low_archive)) as archive:
        keys, info = list(archive), archive.info()
        x, x_hat = pixels(signs_dir, keys), archive.decode(keys)
    assert report["images"] == report["archive_images"] == len(keys)
    assert report["bytes_per_image"] == info["bytes_per_image"]
    assert sum(report["bytes"]["by_column"].values()) == pytest.approx(info["bytes_per_image"])
    assert report["bytes"]["by_column"]["stream"] >= info["stream_bytes"] / len(keys)
    psnrs_db = np.minimum(psnr_db(x, x_hat), 100)
    assert report["psnr_db"]["mean"] == pytest.approx(psnrs_db.mean())
    assert report["psnr_db"]["p1"] == pytest.approx(np.percentile(psnrs_db, 1))
    assert report["ssim"]["mean"] == pytest.approx(ssim(x, x_hat).mean())
    labels = np.array([classifier.classes.index(key.split("/")[0]) for key in keys])
    before, after = (classifier.probabilities(images).argmax(1) for images in (x, x_hat))
    assert report["accuracy"]["originals"] == pytest.approx((before == labels).mean())
    assert report["accuracy"]["decoded"] == pytest.approx((after == labels).mean())
    assert report["agreement"] == pytest.approx((before == after).mean())
    lost = [key for key, was, now in zip(keys, before == labels, after == labels, strict=True) if was and not now]
    assert [row["key"] for row in report["lost"]] == lost


def test_labels_of_the_originals_count_where_the_archive_has_none(
    signs_dir: Path, low_archive: Path, tmp_path: Path, classifier: Any
) -> None:
    bare, archive = tmp_path / "bare", tmp_path / "archive"
    shutil.copytree(signs_dir, bare)
    (bare / "labels.csv").write_text("path,label\n")
    assert main(["compress", str(bare), str(archive), "--quality=1"]) == 0
    assert "accuracy" not in one(archive, bare, classifier)
    assert one(archive, signs_dir, classifier)["accuracy"] == one(low_archive, signs_dir, classifier)["accuracy"]


def test_originals_may_be_whatever_compress_takes(signs_dir: Path, low_archive: Path, tmp_path: Path, classifier: Any) -> None:
    lines = sorted(str(path.relative_to(signs_dir)) for path in signs_dir.rglob("*.png"))
    (tmp_path / "list.txt").write_text("\n".join(lines))
    done = evaluate([str(low_archive)], str(tmp_path / "list.txt"), classifier, root=str(signs_dir))
    assert done.is_whole
    assert done.to_json()["psnr_db"] == one(low_archive, signs_dir, classifier)["psnr_db"]


def test_a_report_is_one_page_with_everything_in_it(
    low_archive: Path, signs_dir: Path, tmp_path: Path, classifier: Any
) -> None:
    report = tmp_path / "report"
    found = one(low_archive, signs_dir, classifier, report)
    assert json.loads((report / "report.json").read_text()) == found
    names = {"psnr", "ssim", "bytes", "darkness", "blur", "size"}
    assert {path.name for path in (report / "plots").iterdir()} == {f"{name}.png" for name in names}
    assert Image.open(report / "plots" / "psnr.png").size == (676, 390)
    text = (report / "report.html").read_text()
    page = Page(text)
    links = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "srcset", "href")]
    assert len(links) == 2 * len(names) + 2 * (32 + len(found["lost"]))
    assert all((link or "").startswith("data:image/png;base64,") for link in links)
    assert not re.search(r"https?:|url\(|@import|<script", text)
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert ("html", {"lang": "en"}) in page.tags
    assert "prefers-color-scheme: dark" in text
    assert found["verdict"]["line"] in page.text
    for row in found["lost"]:
        assert row["key"] in page.text


def test_a_verdict_without_reading_is_told_wherever_it_stands(
    low_archive: Path,
    signs_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(classifiers, "load_classifier", lambda *names: Unsure())
    flags, report = [str(low_archive), "--originals", str(signs_dir)], tmp_path / "report"
    said = "not judged by reading: the classifier is not sure of these originals"
    assert main(["evaluate", *flags, "--report", str(report)]) == 0
    out = capsys.readouterr().out
    assert said in next(line for line in out.splitlines() if line.startswith("verdict"))
    assert "(says little: see the verdict)" in out
    verdict = json.loads((report / "report.json").read_text())["verdict"]
    assert said in verdict["line"]
    assert not verdict["by_reading"]
    assert said in (report / "report.html").read_text().partition("</strong>")[0]
    evaluate([str(low_archive), str(low_archive)], str(signs_dir), Unsure(), str(report))
    page = Page((report / "report.html").read_text())
    assert "one (not judged by reading) is " in page.text


def test_a_report_takes_the_place_of_an_earlier_one_only(
    low_archive: Path, archive_dir: Path, signs_dir: Path, tmp_path: Path, classifier: Any
) -> None:
    report = tmp_path / "report"
    one(low_archive, signs_dir, classifier, report)
    evaluate([str(low_archive), str(archive_dir)], str(signs_dir), classifier, str(report))
    names = {path.name for path in (report / "plots").iterdir()}
    assert {"rate-psnr.png", "rate-accuracy.png", "1-psnr.png", "2-psnr.png"} <= names
    assert "psnr.png" not in names
    (report / "mine.txt").touch()
    with pytest.raises(InputError, match=r"mine\.txt, which is no report's"):
        one(low_archive, signs_dir, classifier, report)
    for place, message in (
        (low_archive / "report", "lies inside"),
        (signs_dir, "lies inside"),
        (report / "mine.txt", "is a file"),
    ):
        with pytest.raises(InputError, match=message):
            one(low_archive, signs_dir, classifier, place)


def test_several_archives_stand_side_by_side(
    low_archive: Path, archive_dir: Path, signs_dir: Path, tmp_path: Path, classifier: Any
) -> None:
    done = evaluate([str(low_archive), str(archive_dir)], str(signs_dir), classifier, str(tmp_path / "report"))
    reports = json.loads((tmp_path / "report" / "report.json").read_text())["archives"]
    assert reports == done.reports
    assert [report["name"] for report in reports] == ["low", "signs"]
    assert reports[0]["bytes_per_image"] < reports[1]["bytes_per_image"]
    assert reports[0] == one(low_archive, signs_dir, classifier)
    page = Page((tmp_path / "report" / "report.html").read_text())
    assert "2 archives compared" in page.text
    assert "The smallest" in page.text


def test_an_archive_that_asked_the_classifier_says_so(
    signs_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", str(signs_dir), str(tmp_path / "a"), "--quality=1", "--keep-readable"]) == 0
    capsys.readouterr()
    flags = ["--originals", str(signs_dir), "--report", str(tmp_path / "report"), "--json"]
    assert main(["evaluate", str(tmp_path / "a"), *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["classifier"]["was_asked"]
    assert any("Compression asked this very classifier" in reason["text"] for reason in report["verdict"]["reasons"])


def test_equal_names_become_paths(low_archive: Path, signs_dir: Path, tmp_path: Path, classifier: Any) -> None:
    shutil.copytree(low_archive, tmp_path / "low")
    paths = [str(low_archive), str(tmp_path / "low")]
    assert [report["name"] for report in evaluate(paths, str(signs_dir), classifier).reports] == paths


def test_hostile_keys_and_labels_stay_text(signs_dir: Path, tmp_path: Path, classifier: Any) -> None:
    source, name = tmp_path / "source", "<script>alert(1)<&'\".png"
    source.mkdir()
    shutil.copy(next(signs_dir.rglob("*.png")), source / name)
    (source / "labels.csv").write_text('path,label\n"' + name.replace('"', '""') + '","<b>bold"\n')
    assert main(["compress", str(source), str(tmp_path / "archive"), "--quality=1"]) == 0
    one(tmp_path / "archive", source, classifier, tmp_path / "report")
    text = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in text
    assert "<b>bold" not in text
    assert name in Page(text).text


def test_missing_unreadable_and_further_originals_are_told(
    low_archive: Path, signs_dir: Path, tmp_path: Path, classifier: Any
) -> None:
    source = tmp_path / "source"
    shutil.copytree(signs_dir, source)
    missing, unreadable, *_ = sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
    (source / missing).unlink()
    (source / unreadable).write_bytes(b"\x89PNG no more")
    shutil.copy(next(signs_dir.rglob("*.png")), source / "new.png")
    done = evaluate([str(low_archive)], str(source), classifier, str(tmp_path / "report"))
    report = done.to_json()
    assert not done.is_whole
    assert report["problems"]["counts"] == {"missing originals": 1, "unreadable originals": 1}
    assert {problem["key"] for problem in report["problems"]["first"]} == {missing, unreadable}
    assert report["images"] == report["archive_images"] - 2
    assert report["originals_without_record"] == {"images": 1, "first": ["new.png"]}
    assert report["verdict"]["level"] in ("fair", "poor")
    page = Page((tmp_path / "report" / "report.html").read_text())
    assert f"{missing}: not in {source}" in page.text
    assert "new.png" in page.text


def test_damaged_records_are_told_and_the_others_measured(
    low_archive: Path, signs_dir: Path, tmp_path: Path, classifier: Any
) -> None:
    with tsae.open_archive(str(low_archive)) as archive:
        key = list(archive)[7]
    flip_a_stream(low_archive, tmp_path / "damaged", key)
    report = one(tmp_path / "damaged", signs_dir, classifier, tmp_path / "report")
    assert report["problems"]["counts"] == {"damaged records": 1}
    assert report["problems"]["first"][0]["key"] == key
    assert report["originals_without_record"]["images"] == 0
    assert (report["images"], report["verdict"]["level"]) == (report["archive_images"] - 1, "poor")
    for lost in ("shards", "lists"):
        copy = tmp_path / lost
        shutil.copytree(low_archive, copy)
        shutil.rmtree(copy / lost)
        with pytest.raises(InputError, match=r"none of 40 images could be measured \(first: "):
            one(copy, signs_dir, classifier)


def test_nothing_to_measure_is_refused(low_archive: Path, signs_dir: Path, tmp_path: Path, classifier: Any) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(next(signs_dir.rglob("*.png")), other / "other.png")
    with pytest.raises(InputError, match=r"none of 40 images could be measured \(first: .*not in .*; check --originals"):
        one(low_archive, other, classifier)
    with pytest.raises(InputError, match="not there"):
        one(low_archive, tmp_path / "nowhere", classifier)


def test_a_classifier_of_latents_is_refused(low_archive: Path, signs_dir: Path) -> None:
    class OfLatents(NearestMean):
        input = "latents"

    with pytest.raises(InputError, match="looks at latents, here one of pixels is needed"):
        one(low_archive, signs_dir, OfLatents())


def test_a_bucket_takes_a_report_and_gives_archive_and_originals(
    low_archive: Path, signs_dir: Path, s3_folder: str, classifier: Any
) -> None:
    files, _ = paths.filesystem(s3_folder)
    for name, folder in (("archive", low_archive), ("signs", signs_dir)):
        files.put(str(folder), f"{s3_folder}/{name}", recursive=True)
    done = evaluate([f"{s3_folder}/archive"], f"{s3_folder}/signs", classifier, f"{s3_folder}/report")
    expected = one(low_archive, signs_dir, classifier)
    assert {**done.to_json(), "archive": "", "name": ""} == {**expected, "archive": "", "name": ""}
    assert done.page == f"{s3_folder}/report/report.html"
    assert b"<!doctype html>" in paths.read_file(done.page)


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["evaluate", *arguments])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_the_command_prints_a_summary_or_json(
    low_archive: Path,
    signs_dir: Path,
    tmp_path: Path,
    classifier: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(classifiers, "load_classifier", lambda *names: classifier)
    capsys.readouterr()
    flags = [str(low_archive), "--originals", str(signs_dir)]
    code, out, err = run([*flags, "--report", str(tmp_path / "report")], capsys)
    assert (code, err) == (0, "")
    assert "images    40 of 40 measured\n" in out
    assert out.endswith(f"report    {tmp_path}/report/report.html\n")
    monkeypatch.chdir(tmp_path)
    code, out, _ = run([*flags, "--json"], capsys)
    assert (code, json.loads(out)) == (0, json.loads((tmp_path / "report" / "report.json").read_text()))
    assert files_of(tmp_path / "tsae-report") == files_of(tmp_path / "report")  # where it goes if nobody says
    assert run([str(tmp_path / "none"), "--originals", str(signs_dir)], capsys)[0] == 2


def test_the_command_tells_problems_and_exits_with_1(
    low_archive: Path,
    signs_dir: Path,
    tmp_path: Path,
    classifier: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(classifiers, "load_classifier", lambda *names: classifier)
    source = tmp_path / "source"
    shutil.copytree(signs_dir, source)
    gone = sorted(source.rglob("*.png"))[:7]
    for path in gone:
        path.unlink()
    capsys.readouterr()
    code, out, err = run([str(low_archive), "--originals", str(source), "--report", str(tmp_path / "report")], capsys)
    assert code == 1
    assert "33 of 40 images were measured: 7 missing originals" in out
    assert len(err.splitlines()) == 6
    assert "7 images not measured" in err
