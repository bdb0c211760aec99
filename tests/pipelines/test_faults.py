"""Accidents at any moment of `tsae compress`: kills, full disks, files that cannot be read, two writers at once.

Whatever happens, a reader sees the old archive, or the new one, or none, and to run the command again as its refusal
says ends in the archive of an undisturbed run, byte for byte. The loops are short here and long in the tests marked `slow`.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

import tsae
from pipelines import compress
from pipelines.options import CompressOptions
from tests.pipelines import faults
from tests.pipelines.faults import Fault
from tsae import paths
from tsae.archive import digest, is_leftover
from tsae.checkpoint import model_from_bytes, model_to_bytes
from tsae.config import DEFAULT_MODEL
from tsae.errors import FormatError, InputError
from tsae.signs import write_signs
from tsae.zoo import read_model_file

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watches processes as Linux does")

SIGNS, SHARD_IMAGES = 200, 50
"""Of the random kills: four shards, so that there is something to take up."""

FEW_SIGNS, FEW_SHARD_IMAGES = 20, 12
"""Where every single step is tried."""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A command, what it finds, and what it leaves if nothing disturbs it.

    Attributes:
        name: fresh, update, overwrite or model.
        source: Its input.
        flags: Its flags.
        base: The archive that it finds; None where there is none.
        old: Files of that.
        new: Files of the archive that it leaves.
        code: Its exit code.
        seconds: How long it takes.
    """

    name: str
    source: Path
    flags: tuple[str, ...]
    base: Path | None
    old: dict[str, bytes]
    new: dict[str, bytes]
    code: int
    seconds: float

    def argv(self, archive: Path) -> list[str]:
        return ["compress", str(self.source), str(archive), *self.flags]

    def resume_argv(self, archive: Path) -> list[str]:
        return [*(word for word in self.argv(archive) if word != "--overwrite"), "--resume"]


def make_scenarios(runner: Any, folder: Path, signs: int) -> dict[str, Scenario]:
    """Archives and inputs: first the older state of the input is compressed, then the input changes."""
    source, base = folder / "in", folder / "base"
    names = write_signs(source, signs)
    (source / "broken.png").write_bytes(b"no image")
    (source / "mended.png").write_bytes(b"not yet an image")
    assert runner.run(["compress", source, base]).code == 1
    kept = (source / names[0]).read_bytes()
    (source / "mended.png").write_bytes(kept)
    (source / "broken-too.png").write_bytes(kept[: len(kept) // 2])
    (source / names[1]).write_bytes(b"broken since")
    for name in names[2:5]:
        (source / name).write_bytes(kept)
    (source / names[-1]).write_bytes(kept)
    (source / names[6]).unlink()
    for i in range(signs // 8):
        (source / f"new{i:03d}.png").write_bytes((source / names[10 + i % 5]).read_bytes())
    model = _other_model(folder)
    kinds: dict[str, tuple[Path | None, tuple[str, ...]]] = {
        "fresh": (None, ()),
        "update": (base, ()),
        "overwrite": (base, ("--overwrite",)),
        "model": (base, ("--overwrite", f"--model={model}")),
    }
    scenarios = {}
    for name, (old, flags) in kinds.items():
        archive = faults.copy_archive(old, folder / f"undisturbed-{name}")
        ended = runner.run(["compress", source, archive, *flags])
        assert ended.code == 1, ended.err  # as some images fail
        old_files = faults.files_of(old) if old else {}
        scenarios[name] = Scenario(name, source, flags, old, old_files, faults.files_of(archive), ended.code, ended.seconds)
        check_records(archive)
    states = [*(scenario.new for scenario in scenarios.values()), faults.files_of(base)]
    # Made from nothing and made instead of another is the same; all else differs.
    assert len({digest(files["manifest.json"]) for files in states}) == 4
    return scenarios


def _other_model(folder: Path) -> Path:
    """A model that gives other latents, and pixels, than the one that comes with tsae."""
    model = model_from_bytes(read_model_file(DEFAULT_MODEL), DEFAULT_MODEL)
    tensors = model.weights.to_tensors()
    tensors |= {name: t // 2 for name, t in tensors.items() if name.endswith(".bias")}
    path = folder / "other.safetensors"
    path.write_bytes(model_to_bytes(dataclasses.replace(model, weights=type(model.weights).from_tensors(tensors))))
    return path


def check_records(archive: Path) -> None:
    """Every record can be decoded, and there is one for each key."""
    with tsae.open_archive(str(archive)) as opened:
        keys = list(opened)
        assert len(set(keys)) == len(keys) == len(opened)
        assert opened.decode(keys).shape == (len(keys), 32, 32, 3)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    running = faults.Runner(tmp_path_factory.mktemp("runner"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def many(runner: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    runner.shard_images = SHARD_IMAGES
    return make_scenarios(runner, tmp_path_factory.mktemp("many"), SIGNS)


@pytest.fixture(scope="module")
def few(runner: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scenario]:
    runner.shard_images = FEW_SHARD_IMAGES
    return make_scenarios(runner, tmp_path_factory.mktemp("few"), FEW_SIGNS)


@pytest.fixture
def few_runner(runner: Any, few: dict[str, Scenario]) -> Any:
    runner.shard_images = FEW_SHARD_IMAGES
    return runner


@pytest.fixture
def many_runner(runner: Any, many: dict[str, Scenario]) -> Any:
    runner.shard_images = SHARD_IMAGES
    return runner


def check_visible(archive: Path, scenario: Scenario) -> str:
    """What a reader sees after an accident is one whole state; returns how far the job had got."""
    found = faults.files_of(archive)
    manifest = found.get("manifest.json")
    if manifest is None:
        assert not scenario.old, "the old archive is gone"
        with pytest.raises(FormatError) as refusal:
            tsae.open_archive(str(archive))
        assert "\n" not in str(refusal.value)
    else:
        assert manifest in (scenario.old.get("manifest.json"), scenario.new["manifest.json"])
        state = scenario.new if manifest == scenario.new["manifest.json"] else scenario.old
        # All of its bytes are those of an archive whose records have been decoded; so they need not be again.
        assert {name: found.get(name) for name in state} == state
        with tsae.open_archive(str(archive)) as opened:
            assert len(list(opened.keys())) == len(opened)
    strange = [name for name in found if not name.endswith("/") and name not in scenario.old | scenario.new]
    assert all(map(is_leftover, strange))
    if manifest == scenario.new["manifest.json"]:
        return "committed" if "job/plan.json" in found else "cleaned" if strange else "done"
    done = sum("/done/" in name and name.endswith(".json") for name in found)
    return f"{done} done" if "job/plan.json" in found else "planning"


def start_again(runner: Any, archive: Path, scenario: Scenario) -> Any:
    return runner.start(scenario.resume_argv(archive))


def end_again(runner: Any, archive: Path, scenario: Scenario, resumed: Any) -> Any:
    """Goes on as a user would: with --resume, and if that is refused, as the refusal says."""
    ended = resumed.end()
    if ended.code == 2 and "run the command without --resume" in ended.refusal:
        ended = runner.run(scenario.argv(archive))
    return ended


def check_finished(runner: Any, archives: Sequence[Path], scenario: Scenario) -> None:
    """Going on ends in the archive of an undisturbed run, and leaves nothing else."""
    for pair in (archives[start : start + 2] for start in range(0, len(archives), 2)):  # at once, to wait less
        for archive, resumed in [(archive, start_again(runner, archive, scenario)) for archive in pair]:
            ended = end_again(runner, archive, scenario, resumed)
            assert ended.code == scenario.code, (archive, ended.err)
            assert "Traceback" not in ended.err
            check_files(archive, scenario.new)


def check_files(archive: Path, expected: dict[str, bytes]) -> None:
    """Of folders that are empty, as a kill may leave them, nothing is said: they are no part of an archive."""
    found, expected = ({n: data for n, data in x.items() if n[-1] != "/"} for x in (faults.files_of(archive), expected))
    assert sorted(found) == sorted(expected), archive
    assert found == expected, archive


NAMES = ("fresh", "update", "overwrite", "model")


def slow(*values: object) -> list[Any]:
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("name", ["update", *slow("fresh", "overwrite", "model")])
def test_a_kill_between_any_two_file_operations(few: dict[str, Scenario], few_runner: Any, tmp_path: Path, name: str) -> None:
    """One run, copied before each operation, gives all states that a kill can leave, partly written new files excepted."""
    scenario, archive = few[name], faults.copy_archive(few[name].base, tmp_path / "archive")
    (tmp_path / "copies").mkdir()
    fault = Fault(faults.SYNCED, how="snapshot", folder=str(tmp_path / "copies"), archive=str(archive))
    assert few_runner.run(scenario.argv(archive), fault).code == scenario.code
    check_files(archive, scenario.new)
    copies = sorted(path for path in (tmp_path / "copies").iterdir() if path.is_dir())
    assert len(copies) > 20
    seen = [check_visible(copy, scenario) for copy in copies]
    assert {"planning", "0 done", "1 done", "2 done", "committed", "done"} <= set(seen)
    check_finished(few_runner, copies, scenario)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_real_kill_between_any_two_file_operations(
    few: dict[str, Scenario], few_runner: Any, tmp_path: Path, name: str
) -> None:
    scenario = few[name]
    for at in itertools.count(1):
        archive = faults.copy_archive(scenario.base, tmp_path / f"{at}")
        ended = few_runner.run(scenario.argv(archive), Fault(at=at, how="kill", archive=str(archive)))
        if ended.code == scenario.code:
            break
        assert ended.code == -signal.SIGKILL
        check_visible(archive, scenario)
        check_finished(few_runner, [archive], scenario)
    assert at > 20
    print(f"{name}: killed before each of {at - 1} operations")


def kill_at_random(
    scenarios: dict[str, Scenario], runner: Any, folder: Path, kills: int, seed: int
) -> tuple[collections.Counter[str], int]:
    """Kills commands, and some of those that take them up, after random times; says how far they had got.

    Returns:
        Where the kills hit, and how many came too late.
    """
    rng, seen, late = random.Random(seed), collections.Counter[str](), 0
    for attempt in itertools.cycle(range(len(NAMES))):
        if seen.total() >= kills:
            return seen, late
        scenario, archive = scenarios[NAMES[attempt]], folder / f"{seen.total()}-{late}"
        faults.copy_archive(scenario.base, archive)
        argv, longest_s = scenario.argv(archive), scenario.seconds
        while seen.total() < kills:
            ended = runner.start(argv).end(after_s=rng.uniform(0, longest_s))
            reached = check_visible(archive, scenario)
            if ended.code != -signal.SIGKILL:
                late += 1
                break
            seen[f"{scenario.name}: {reached}"] += 1
            argv = scenario.resume_argv(archive) if reached not in ("planning", "done") else scenario.argv(archive)
            longest_s *= 0.7  # less is left to do
            if rng.random() < 0.6:
                break
        check_finished(runner, [archive], scenario)
        shutil.rmtree(archive)
    raise AssertionError("unreachable")


def test_kills_at_random_moments(many: dict[str, Scenario], many_runner: Any, tmp_path: Path) -> None:
    seen, _ = kill_at_random(many, many_runner, tmp_path, 20, seed=1)
    assert seen.total() == 20


@pytest.mark.slow
def test_many_kills_at_random_moments(many: dict[str, Scenario], many_runner: Any, tmp_path: Path) -> None:
    seen, late = kill_at_random(many, many_runner, tmp_path, 240, seed=2)
    lines = [f"{count:4} {where}" for where, count in sorted(seen.items())]
    print(f"{seen.total()} kills, {late} came after the end", *lines, sep="\n")
    assert {where.partition(":")[0] for where in seen} == set(NAMES)


# Worker processes: how one that is killed ends the job is in test_local.py


def test_a_killed_worker_costs_nothing(many: dict[str, Scenario], many_runner: Any, tmp_path: Path) -> None:
    """Two worker processes, one of which is killed when some shards are written."""
    scenario, archive = many["update"], faults.copy_archive(many["update"].base, tmp_path / "archive")
    command = many_runner.start([*scenario.argv(archive), "--workers=2"])
    before = len(list((archive / "shards").iterdir()))
    _wait_for(lambda: len(list((archive / "shards").iterdir())) > before)
    os.kill(_workers(command.pid)[0], signal.SIGKILL)
    assert "a worker process ended" in command.end().refusal
    assert check_visible(archive, scenario) in {f"{n} done" for n in range(9)}
    check_finished(many_runner, [archive], scenario)


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def _workers(pid: int) -> list[int]:
    """Forked from a server that is a child of the command."""
    return [worker for server in _children(pid) for worker in _children(server)]


def _children(pid: int) -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in children.read_text().split()]
    return found


# No room


def fail_at_each(runner: Any, scenario: Scenario, folder: Path, calls: Sequence[str], code: int) -> int:
    """Each of some file operations fails once: one line, nothing half, and it can be finished; says how many."""
    archives, at = [], 0
    for at in itertools.count(1):
        archive = faults.copy_archive(scenario.base, folder / f"{at}")
        ended = runner.run(scenario.argv(archive), Fault(calls, at, "error", code, archive=str(archive)))
        if faults.MET not in ended.err:
            break
        reached = check_visible(archive, scenario)
        if ended.code == scenario.code:
            assert reached == "done"
        else:
            assert os.strerror(code) in ended.refusal
            archives.append(archive)
    check_finished(runner, archives, scenario)
    return at - 1


def test_a_full_disk_at_any_rename(few: dict[str, Scenario], few_runner: Any, tmp_path: Path) -> None:
    assert fail_at_each(few_runner, few["fresh"], tmp_path, ["replace"], errno.ENOSPC) > 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fresh", "update", "model"])
def test_an_error_of_the_disk_at_any_operation(few: dict[str, Scenario], few_runner: Any, tmp_path: Path, name: str) -> None:
    calls = ("replace", "fsync", "unlink", "mkdir")
    print(f"{name}: {fail_at_each(few_runner, few[name], tmp_path, calls, errno.EIO)} operations failed")


@pytest.mark.parametrize("name", ["update", *slow("fresh")])
def test_files_that_cannot_grow(few: dict[str, Scenario], few_runner: Any, tmp_path: Path, name: str) -> None:
    """The model is the largest file of a new archive; what a command says must fit too."""
    scenario, archives = few[name], []
    written = [len(data) for file, data in scenario.new.items() if scenario.old.get(file) != data]
    for limit in (2000, max(written) - 1):
        archives.append(faults.copy_archive(scenario.base, tmp_path / f"{limit}"))
        ended = few_runner.run(scenario.argv(archives[-1]), Fault(file_bytes=limit))
        assert "cannot be written (File too large)" in ended.refusal
        reached = check_visible(archives[-1], scenario)
        assert reached == "planning" if limit == 2000 else reached != "done"  # the largest file may be the plan or a shard
    check_finished(few_runner, archives, scenario)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, to be made larger with `resize`."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"mount: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def resize(folder: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)


def used_kilobytes(folder: Path) -> int:
    facts = os.statvfs(folder)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize // 1024


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small filesystem needs root")
@pytest.mark.parametrize("name", ["fresh", *slow("update")])
@pytest.mark.parametrize("step", [104, *slow(12)])
def test_a_full_disk_of_any_size(few: dict[str, Scenario], few_runner: Any, small_disk: Path, name: str, step: int) -> None:
    """From room for nothing to room for all; the reader of the old archive notices nothing, and with more room it goes on."""
    scenario, archive, seen = few[name], small_disk / "archive", set()
    for room in itertools.count(4, step):
        resize(small_disk, 65536)
        faults.copy_archive(scenario.base, archive)
        resize(small_disk, used_kilobytes(small_disk) + room)
        ended = few_runner.run(scenario.argv(archive))
        seen.add(reached := check_visible(archive, scenario))
        if ended.code == scenario.code:
            assert reached == "done"
            break
        assert "No space left on device" in ended.refusal
        resize(small_disk, 65536)
        check_finished(few_runner, [archive], scenario)
        shutil.rmtree(archive)
    assert {"planning", "done"} < seen


# What cannot be read


@pytest.mark.parametrize("name", ["fresh", *slow("update")])
def test_an_image_that_cannot_be_read_fails_alone(few: dict[str, Scenario], few_runner: Any, tmp_path: Path, name: str) -> None:
    scenario, archive = few[name], faults.copy_archive(few[name].base, tmp_path / "archive")
    ended = few_runner.run(scenario.argv(archive), Fault(bad_path="new001.png"))
    assert ended.code == scenario.code
    with tsae.open_archive(str(archive)) as opened:
        (failure,) = (failure for failure in opened.failures() if failure.path == "new001.png")
        keys = set(opened)
    assert (failure.stage, failure.error) == ("read", "ImageError")
    assert os.strerror(errno.EIO) in failure.message
    (tmp_path / "whole").mkdir()
    for file, content in scenario.new.items():
        path = tmp_path / "whole" / file
        path.mkdir(exist_ok=True) if file.endswith("/") else (path.parent.mkdir(exist_ok=True), path.write_bytes(content))
    with tsae.open_archive(str(tmp_path / "whole")) as opened:
        assert keys == set(opened) - {"new001.png"}


@pytest.mark.parametrize(
    "bad", ["listing.parquet", "base.json", *slow("plan.json", "model.safetensors", "manifest.json", ".parquet")]
)
def test_a_file_of_its_own_that_cannot_be_read_ends_the_job_in_one_line(
    few: dict[str, Scenario], few_runner: Any, tmp_path: Path, bad: str
) -> None:
    """First the whole job, and then the rest of a killed one."""
    scenario = few["update"]
    whole, killed = (faults.copy_archive(scenario.base, tmp_path / name) for name in ("whole", "killed"))
    refusal = few_runner.run(scenario.argv(whole), Fault(bad_path=bad)).refusal
    assert re.search(r"cannot be read \(.*(Input/output error|Invalid argument)", refusal)
    check_visible(whole, scenario)
    (tmp_path / "copies").mkdir()
    fault = Fault(how="snapshot", folder=str(tmp_path / "copies"), archive=str(killed))
    assert few_runner.run(scenario.argv(killed), fault).code == scenario.code
    copies = (path for path in (tmp_path / "copies").iterdir() if path.is_dir())
    killed = next(copy for copy in copies if check_visible(copy, scenario) == "1 done")
    ended = few_runner.run(scenario.resume_argv(killed), Fault(bad_path=bad))
    if ended.code != scenario.code:
        assert ended.refusal
    check_finished(few_runner, [whole, killed], scenario)


def test_a_file_that_cannot_be_written_ends_the_job_in_one_line(
    few: dict[str, Scenario], few_runner: Any, tmp_path: Path
) -> None:
    scenario = few["fresh"]
    ended = few_runner.run(scenario.argv(tmp_path / "archive"), Fault(bad_path=".tmp", bad_write=True))
    assert "cannot be written (Input/output error)" in ended.refusal
    check_visible(tmp_path / "archive", scenario)
    check_finished(few_runner, [tmp_path / "archive"], scenario)


# Two writers at once


@pytest.fixture(scope="module")
def rival(runner: Any, few: dict[str, Scenario], tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """The same command with another input, of which nothing fails."""
    runner.shard_images = FEW_SHARD_IMAGES
    folder = tmp_path_factory.mktemp("rival")
    write_signs(folder / "in", FEW_SIGNS + 4, seed=5)
    ended = runner.run(["compress", folder / "in", folder / "archive"])
    assert ended.code == 0
    return Scenario("rival", folder / "in", (), None, {}, faults.files_of(folder / "archive"), 0, ended.seconds)


def check_won(archive: Path, winner: Scenario) -> None:
    """The archive is the winner's; of the other there may be files that the next commit removes, but nothing to resume."""
    found = faults.files_of(archive)
    assert {name: found.get(name) for name in winner.new} == winner.new
    others = [name for name in found if name not in winner.new and not name.endswith("/")]
    assert all(map(is_leftover, others))
    assert "job/plan.json" not in others


def race(runner: Any, commands: Sequence[tuple[list[str], float]]) -> list[Any]:
    """Runs commands that start so many seconds after the same moment."""
    start_s = time.monotonic() + 0.1
    running = [runner.start(argv, Fault(start_s=start_s + delay_s)) for argv, delay_s in commands]
    return [command.end() for command in running]


@pytest.mark.parametrize("times", [4, *slow(60)])
def test_of_two_new_archives_in_one_place_one_wins(
    few: dict[str, Scenario], rival: Scenario, few_runner: Any, tmp_path: Path, times: int
) -> None:
    both, rng, wins = (few["fresh"], rival), random.Random(3), collections.Counter[str]()
    for attempt in range(times):
        archive = tmp_path / f"{attempt}"
        delays_s = [0.0, rng.uniform(0, 0.02) if rng.random() < 0.7 else rng.uniform(0, 0.5)]
        rng.shuffle(delays_s)
        ends = race(few_runner, [(x.argv(archive), delay_s) for x, delay_s in zip(both, delays_s, strict=True)])
        (winner,) = (x for x, ended in zip(both, ends, strict=True) if ended.code == x.code)
        (loser,) = (ended for x, ended in zip(both, ends, strict=True) if x is not winner)
        assert loser.refusal
        check_won(archive, winner)
        wins[winner.name] += 1
    print(f"{times} races: {dict(wins)}")


@pytest.mark.slow
def test_two_that_replace_one_archive(few: dict[str, Scenario], rival: Scenario, few_runner: Any, tmp_path: Path) -> None:
    """The later may take the place of the earlier: that one is told, or was done before."""
    both, rng, ends_seen = (few["overwrite"], rival), random.Random(4), collections.Counter[tuple[int, ...]]()
    for attempt in range(60):
        archive = faults.copy_archive(few["overwrite"].base, tmp_path / f"{attempt}")
        delays_s = [0.0, rng.uniform(0, 0.6)]
        rng.shuffle(delays_s)
        argvs = [[*x.argv(archive), *([] if "--overwrite" in x.flags else ["--overwrite"])] for x in both]
        ends = race(few_runner, list(zip(argvs, delays_s, strict=True)))
        won = [x for x, ended in zip(both, ends, strict=True) if ended.code == x.code]
        assert won
        assert all(ended.refusal for x, ended in zip(both, ends, strict=True) if x not in won)
        manifest = (archive / "manifest.json").read_bytes()
        (last,) = (x for x in won if x.new["manifest.json"] == manifest)
        check_won(archive, last)
        ends_seen[tuple(ended.code for ended in ends)] += 1
    print(f"60 races, exit codes: {dict(ends_seen)}")


def stop_at(runner: Any, scenario: Scenario, rival: Scenario, archive: Path, at: int) -> str | None:
    """A command is stopped before a file operation, another one replaces the archive, and the first goes on.

    Returns:
        Who was told; None if the first has fewer operations.
    """
    faults.copy_archive(scenario.base, archive)
    first = runner.start(scenario.argv(archive), Fault(at=at, how="stop", archive=str(archive)))
    if not first.wait_for_stop():
        assert first.end().code == scenario.code
        return None
    second = runner.run([*rival.argv(archive), "--overwrite"], Fault(lock_wait_s=0.1))
    if second.code == rival.code:
        check_won(archive, rival)
    else:
        assert second.refusal
    first.signal(signal.SIGCONT)
    ended = first.end()
    if second.code != rival.code:
        # It could not come in between, as the first had the lock; then the first has won.
        assert ended.code == scenario.code, ended.err
        check_won(archive, scenario)
        return "second"
    check_won(archive, rival)
    if ended.code == scenario.code:
        return "nobody"
    assert ended.refusal
    return "first"


@pytest.mark.parametrize(
    ("name", "step"),
    [("update", 16), *(pytest.param(name, 1, marks=pytest.mark.slow) for name in ("fresh", "update", "model"))],
)
def test_one_that_slept_while_another_replaced_the_archive(
    few: dict[str, Scenario], rival: Scenario, few_runner: Any, tmp_path: Path, name: str, step: int
) -> None:
    told: collections.Counter[str] = collections.Counter()
    for at in itertools.count(1, step):
        who = stop_at(few_runner, few[name], rival, tmp_path / f"{at}", at)
        if who is None:
            break
        told[who] += 1
    print(f"{name}: stopped before {told.total()} operations; told: {dict(told)}")
    assert told["first"] > told["nobody"]


@pytest.mark.parametrize("times", [2, *slow(60)])
def test_two_that_take_up_one_job(few: dict[str, Scenario], few_runner: Any, tmp_path: Path, times: int) -> None:
    rng, codes = random.Random(6), collections.Counter[tuple[int, ...]]()
    for attempt in range(times):
        scenario = few[rng.choice(["fresh", "update", "model"])]
        archive = faults.copy_archive(scenario.base, tmp_path / f"{attempt}")
        at = rng.randrange(12, 34)
        ended = few_runner.run(scenario.argv(archive), Fault(at=at, how="kill", archive=str(archive)))
        assert ended.code == -signal.SIGKILL
        argv = scenario.resume_argv(archive)
        ends = race(few_runner, [(argv, 0.0), (argv, rng.choice([0.0, rng.uniform(0, 0.4)]))])
        assert scenario.code in {ended.code for ended in ends}, [ended.err for ended in ends]
        assert all(ended.refusal for ended in ends if ended.code != scenario.code)
        check_won(archive, scenario)
        codes[tuple(ended.code for ended in ends)] += 1
    print(f"{times} races, exit codes: {dict(codes)}")


# Where nothing can be locked


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "s3":
        yield request.getfixturevalue("s3_folder")
    else:
        yield f"memory://faults-{os.getpid()}"
        fsspec.filesystem("memory").rm(f"/faults-{os.getpid()}", recursive=True)


def compress_to(source: Path, archive: str, **options: Any) -> None:
    compress.run(CompressOptions(str(source), archive, **options))


def keys_of(archive: str) -> list[str]:
    with tsae.open_archive(archive) as opened:
        assert opened.decode(list(opened)).shape[0] == len(opened)
        return sorted(opened)


def signs_of(folder: Path, seed: int) -> tuple[Path, list[str]]:
    names = write_signs(folder, 5, seed)
    return folder, sorted(names)


@pytest.mark.parametrize("base", [None, 0])
def test_of_two_commits_from_one_state_one_wins(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: int | None
) -> None:
    """The second does all its work when the first has nothing left to do but to commit."""
    (first, _), (second, names) = signs_of(tmp_path / "1", 1), signs_of(tmp_path / "2", 2)
    if base is not None:
        compress_to(signs_of(tmp_path / "0", 0)[0], remote)
    from tsae import archive as ar

    commit = ar.commit

    def second_first(*args: Any) -> None:
        monkeypatch.setattr(ar, "commit", commit)
        compress_to(second, remote, overwrite=True)
        commit(*args)

    monkeypatch.setattr(ar, "commit", second_first)
    with pytest.raises(InputError, match="another command has changed it meanwhile"):
        compress_to(first, remote, overwrite=True)
    assert keys_of(remote) == names
    assert not any(name.startswith("job/") for name in paths.Folder(remote).sizes_bytes())


def test_of_two_threads_one_wins(remote: str, tmp_path: Path) -> None:
    sources = [signs_of(tmp_path / str(seed), seed) for seed in (1, 2)]
    for attempt in range(3):
        ends: dict[int, BaseException | None] = {}
        start = threading.Barrier(2)

        def work(number: int, ends: dict[int, Any] = ends, start: Any = start, attempt: int = attempt) -> None:
            start.wait(60)
            try:
                ends[number] = compress_to(sources[number][0], f"{remote}/{attempt}")
            except BaseException as raised:
                ends[number] = raised

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert sorted(ends) == [0, 1]
        (winner,) = (number for number, error in ends.items() if error is None)
        assert isinstance(ends[1 - winner], InputError)
        assert keys_of(f"{remote}/{attempt}") == sources[winner][1]
