"""benchmarks/throughput.py: what is counted, compared, left out and drawn; and our own contestants from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsae.signs import write_signs

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from peers import bare, floor, report, shared
from peers.contest import (
    BARE,
    CONTESTANTS,
    PEER,
    Contestant,
    Run,
    Settings,
    command,
    count_outputs,
    play,
    split_missing,
    spread,
)
from peers.watch import watch
from throughput import choose

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def a_run(name: str, wall_s: float, images: int = 100, **others: object) -> Run:
    fields = {"direction": "compress", "round": 1, "returned": images, "peak_mb": 5.0, "figures": {}, "error": ""}
    return Run(**{**fields, **others, "name": name, "images": images, "wall_s": wall_s})  # type: ignore[arg-type]


def runs_of(name: str, wall_s: float, startup_s: float = 1.0, **others: object) -> list[Run]:
    return [a_run(name, startup_s, 2), a_run(name, wall_s, **others)]


def row_of(name: str, runs: Sequence[Run]) -> dict[str, object]:
    (row,) = [row for row in report.summarize(runs, 2) if row["name"] == name]
    return row


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    return [tmp_path / "signs" / key for key in write_signs(tmp_path / "signs", 8)]


def test_start_up_is_told_apart() -> None:
    row = row_of("tsae", runs_of("tsae", 3.0))
    assert (row["images_per_s"], row["steady_images_per_s"]) == (pytest.approx(33.3), 50)


def test_ratios_are_to_the_best_peer_that_lost_nothing_and_to_the_floor() -> None:
    runs = [*runs_of("tsae", 3.0), *runs_of("datasets", 6.0), *runs_of("Beam", 11.0), *runs_of("Ray Data", 0.5, returned=99)]
    runs += [a_run("floor", 9.0, figures={"read": 4000.0, "network": 6000.0})]  # 10 ms an image on one of two cores
    row = row_of("tsae", runs)
    assert (row["to_best_peer"], row["steady_to_best_peer"], row["steady_to_floor"]) == (pytest.approx(2, abs=0.01), 2.5, 0.25)
    assert row_of("Ray Data", runs)["lost"] == 1
    assert "lost 1 images" in report.speed_table(report.summarize(runs, 2))


def test_without_peers_and_floor_there_are_no_ratios() -> None:
    row = row_of("tsae", runs_of("tsae", 3.0))
    assert (row["to_best_peer"], row["steady_to_floor"]) == (None, None)


def test_the_round_that_warms_up_does_not_count_and_others_give_their_median() -> None:
    runs = [a_run("tsae", 99.0, round=0), a_run("tsae", 1.0, 2), *(a_run("tsae", wall_s) for wall_s in (2.0, 50.0, 3.0))]
    assert row_of("tsae", runs)["wall_s"] == 3


def test_start_up_that_is_all_leaves_no_steady_speed() -> None:
    assert row_of("tsae", runs_of("tsae", 1.0, startup_s=1.2))["steady_images_per_s"] is None


def test_work_that_a_contestant_timed_itself_is_a_row_of_its_own() -> None:
    assert row_of("bare loop, work alone", runs_of("bare loop", 3.0, figures={"work_s": 0.5}))["images_per_s"] == 200


def test_a_failure_is_told_and_gives_no_speed() -> None:
    rows = report.summarize([*runs_of("tsae", 3.0), *runs_of("Beam", 1.0, error="no memory")], 2)
    assert "failed: no memory" in report.speed_table(rows)
    assert "images_per_s" not in row_of("Beam", runs_of("Beam", 1.0, error="no memory"))


def test_report_and_plot_are_drawn(tmp_path: Path) -> None:
    rows = report.summarize(
        [*runs_of("tsae", 3.0), *runs_of("Beam", 1.0, error="x"), a_run("floor", 1, figures={"read": 5.0})], 2
    )
    facts = dict.fromkeys(("date", "commit", "machine", "python", "command", "workers", "rounds", "left_out"), "")
    text = report.markdown({**facts, "packages": {}, "images": 100}, {"compress": rows})
    assert "on one core: read 5." in text
    report.plot({"compress": rows, "decompress": rows}, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").width > 100


def test_a_peer_without_its_package_is_left_out_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = Contestant("nobody", PEER, ("nobody",), "no_such_package_at_all")
    monkeypatch.setattr("throughput.CONTESTANTS", [nobody, *CONTESTANTS])
    able, left_out = choose(["nobody", "DataLoader", "tsae"], sys.executable)
    assert ([contestant.name for contestant in able], left_out) == (["tsae", "DataLoader"], ["nobody"])
    assert capsys.readouterr().out.count("\n") == 1
    assert split_missing([nobody], sys.executable) == ([], [nobody])


def test_peers_have_their_own_interpreter(tmp_path: Path) -> None:
    settings = Settings(tmp_path, "other-python", 3, 60)
    started = {c.name: command(c, "compress", Path("in"), Path("out"), settings) for c in CONTESTANTS}
    assert started["Beam"] == ["other-python", "-m", "peers.beam", "compress", "in", "out", "3"]
    assert started["bare loop"][0] == started["tsae"][0] == sys.executable
    assert {"--no-verify", "--workers", "seed-8x8x8"} <= set(started["seed-8x8x8, no verify"])


def test_links_are_spread_over_sources_and_folders(tmp_path: Path, sources: list[Path]) -> None:
    folder = spread(sources, tmp_path / "input", 1003)
    assert [len(list(part.iterdir())) for part in sorted(folder.iterdir())] == [1000, 3]
    assert (folder / "00001" / "0001002.png").read_bytes() == sources[1002 % 8].read_bytes()


def test_links_are_symbolic_where_hard_ones_are_refused(
    tmp_path: Path, sources: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError("too many links")

    monkeypatch.setattr(os, "link", refuse)
    assert (spread(sources, tmp_path / "input", 3) / "00000" / "0000002.png").readlink() == sources[2].resolve()


def test_what_a_contestant_loses_is_seen(tmp_path: Path) -> None:
    shared.write_latents(tmp_path / "0.parquet", ["a", "b"], [np.zeros((2, 512), np.int8)])
    shared.write_latents(tmp_path / "1.parquet", ["c"], [np.zeros((1, 512), np.int8)])
    (tmp_path / "a").mkdir()
    for name in ("a/0.png", "1.png", "2.txt"):
        (tmp_path / name).touch()
    assert count_outputs(tmp_path, "compress") == 3
    assert count_outputs(tmp_path, "decompress") == 2


def test_the_bare_loop_keeps_every_image(tmp_path: Path, sources: list[Path]) -> None:
    source = spread(sources, tmp_path / "input", 70)
    table, output = tmp_path / "table", tmp_path / "output"
    table.mkdir()
    output.mkdir()
    bare.encode_part(source, shared.list_images(source), table / "0.parquet")
    bare.decode_part(table, slice(None), _with_folders(output, source))
    assert shared.list_images(output) == shared.list_images(source)
    name = "00000/0000069.png"
    difference = shared.read_pixels(output / name).astype(float) - shared.read_pixels(source / name)
    assert np.abs(difference).mean() < 20


def _with_folders(output: Path, source: Path) -> Path:
    shared.make_folders(output, shared.list_images(source))
    return output


def test_the_floor_counts_multiply_adds() -> None:
    import torch

    network = shared.load_weights().network
    encoder = 9 * (1024 * 3 * 64 + 256 * 64 * 32 + 64 * 32 * 8)
    decoder = 9 * (64 * 8 * 32 + 256 * 32 * 64 + 1024 * 64 * 3)
    assert floor.multiply_adds(network.g_a, torch.zeros(1, 3, 32, 32)) == encoder
    assert floor.multiply_adds(network.g_s, torch.zeros(1, 8, 8, 8)) == decoder


def test_a_command_is_watched_with_its_children() -> None:
    child = "import time; block = bytes(50_000_000); time.sleep(0.9)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done'); sys.exit('tired')"
    watched = watch([sys.executable, "-c", code], os.environ, 60)
    assert (watched.code, watched.output, watched.complaint) == (1, "done\n", "tired")
    assert len(watched.children_mb) == 1
    assert watched.peak_mb > watched.parent_mb
    assert watched.wall_s > 0.9


def test_a_command_that_runs_too_long_is_ended() -> None:
    watched = watch([sys.executable, "-c", "import time; time.sleep(60)"], os.environ, 0.3)
    assert (watched.code, watched.complaint) == (None, "ran too long")


def test_everyone_runs_in_every_round_by_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "peers.contest.run", lambda who, direction, source, images, number, _: a_run(who.name, 1.0, images, round=number)
    )
    pair = [Contestant("a", BARE, ()), Contestant("b", BARE, (), directions=("compress",))]
    inputs = {images: {"compress": tmp_path, "latents": tmp_path} for images in (9, 2)}
    played = [(run.round, run.name, run.images) for run in play(pair, ["compress"], inputs, 1, Settings(tmp_path, "", 1, 1))]
    assert played == [(0, "a", 9), (0, "b", 9), (1, "b", 2), (1, "b", 9), (1, "a", 2), (1, "a", 9)]


@pytest.mark.slow
def test_one_of_ours_from_end_to_end(tmp_path: Path, sources: list[Path]) -> None:
    out = tmp_path / "out"
    arguments = ["--images", "8", "--rounds", "1", "--workers", "1", "--out", str(out), "--only", "seed-8x8x8", "floor"]
    subprocess.run([sys.executable, str(BENCHMARKS / "throughput.py"), str(tmp_path / "signs"), *arguments], check=True)
    results = json.loads((out / "throughput.json").read_text())["results"]
    for direction in ("compress", "decompress"):
        assert [(row["name"], row["lost"], row["error"]) for row in results[direction]] == [
            ("seed-8x8x8", 0, ""),
            ("floor", 0, ""),
        ]
    assert (out / "throughput.png").stat().st_size
    assert "read" in (out / "throughput.md").read_text()
