"""The plan of a job: which image is in which shard, what a killed job can take up, and who of two may work."""

from __future__ import annotations

import dataclasses
import functools
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae.archive import FileEntry, Folder, Settings, ShardEntry, is_leftover
from tsae.errors import InputError
from tsae.inputs import Item, list_inputs
from tsae.jobs import compress, job_folder, task_results
from tsae.jobs import plan as planning
from tsae.jobs.job_folder import CompressJob
from tsae.jobs.plan import find_state
from tsae.jobs.task_results import TaskResult

Plan = Callable[..., CompressJob]


def run(task: int, job: CompressJob) -> TaskResult:
    return compress.write_shard(compress.encode_images(compress.read_images(task, job), job), job)


# Cutting


@pytest.mark.parametrize("images", [0, 1, 4095, 4096, 4097, 6315, 16_384, 16_385, 100_000])
def test_shards_are_few_and_equal_and_many_of_them_a_multiple_of_8(images: int) -> None:
    tasks = planning.cut(range(images))
    fewest = -(-images // planning.SHARD_IMAGES)
    assert fewest <= len(tasks) < fewest + 8
    assert len(tasks) == fewest if fewest <= 4 else len(tasks) % 8 == 0
    assert [row for task in tasks for row in task.rows] == list(range(images))
    assert {task.replaces for task in tasks} <= {None}
    sizes = [len(task.rows) for task in tasks]
    assert not sizes or max(sizes) - min(sizes) <= 1


# Files


def test_a_plan_survives_its_file(plan_job: Plan, signs_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes((next(signs_dir.rglob("*.png"))).read_bytes())
    with open(bytes(tmp_path / "in") + b"/bad\xff.png", "wb"):
        pass
    job = plan_job(tmp_path / "in", tmp_path / "archive")
    assert job.known_failures is not None
    resumed = planning.resume(str(tmp_path / "in"), job.archive)
    assert resumed.token != job.token
    assert dataclasses.replace(resumed, token=job.token) == job
    assert job_folder.read_listing(0, resumed) == [Item("a.png")]


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SIZES = st.integers(0, 2**60)
SETTINGS = st.builds(
    Settings, NAMES, NAMES, st.booleans(), st.none() | st.floats(0, 100), st.none() | st.integers(1, 99), st.none() | NAMES
)
FILES = st.builds(FileEntry, NAMES, SIZES, SIZES, NAMES)
DB = st.none() | st.floats(-100, 100)
SHARDS = st.builds(
    ShardEntry, NAMES, SIZES, SIZES, NAMES, NAMES, NAMES, SIZES, SIZES, SIZES, SIZES, DB, DB, st.none() | NAMES, st.binary()
)


@given(
    st.builds(
        CompressJob,
        archive=st.just(Folder("/somewhere")),
        name=NAMES,
        token=NAMES,
        settings=SETTINGS,
        tasks=SIZES,
        first_number=SIZES,
        is_update=st.booleans(),
        model_sha256=NAMES,
        model_file=NAMES,
        device=NAMES,
        skipped=SIZES,
        known_failures=st.none() | FILES,
        progress=st.none(),
    )
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_plan_comes_back(job: CompressJob) -> None:
    assert CompressJob.from_json(job.to_json(), job.archive) == job


@given(st.builds(TaskResult, SIZES, st.none() | SHARDS, st.none() | FILES))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_result_comes_back(result: TaskResult) -> None:
    assert TaskResult.from_json(result.to_json()) == result


def test_all_files_of_a_job_are_known_as_its_own(plan_job: Plan, signs_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "manifest.json").write_bytes(b"a manifest")
    job = plan_job(signs_dir, tmp_path / "archive", base=b"a manifest")
    run(0, job)
    names = [name for name in Folder(str(tmp_path / "archive")).sizes_bytes() if name != "manifest.json"]
    assert {name.rpartition("/")[2] for name in names} >= {"plan.json", "base.json", "listing.parquet", "000000.json"}
    assert all(map(is_leftover, names))


def test_a_damaged_or_missing_shard_is_not_taken_for_finished(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 10)
    job = plan_job(signs_dir, tmp_path / "archive")
    results = [run(task, job) for task in range(4)]
    assert task_results.finished_tasks(job) == dict(enumerate(results))
    names = [tmp_path / "archive" / result.shard.file for result in results if result.shard]
    names[0].unlink()
    names[1].write_bytes(names[1].read_bytes()[:-1])
    assert results[2].shard is not None
    (tmp_path / "archive" / str(results[2].shard.provenance)).unlink()
    assert task_results.finished_tasks(job) == {3: results[3]}


def test_tasks_are_listed_in_several_files(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = list_inputs(str(signs_dir)).keys
    monkeypatch.setattr(planning, "SHARD_IMAGES", 10)
    monkeypatch.setattr(job_folder, "PART_TASKS", 3)
    job = plan_job(signs_dir, tmp_path / "archive")
    assert len(list((tmp_path / "archive" / "job" / job.name / "listing").iterdir())) == -(-job.tasks // 3) > 1
    listed = [[item.key for item in job_folder.read_listing(task, job)] for task in range(job.tasks)]
    assert [key for task in listed for key in task] == keys
    assert job_folder.count_images(job, [1, 3]) == {1: len(listed[1]), 3: len(listed[3])}
    assert planning.resume(str(signs_dir), job.archive).tasks == job.tasks
    job_folder.forget(job)
    assert [str(path.name) for path in (tmp_path / "archive" / "job").iterdir()] == ["plan.json"]


def test_what_tasks_replace_does_not_travel_with_the_job(plan_job: Plan, signs_dir: Path, tmp_path: Path) -> None:
    """Nor is it in the plan, which is read twice a task."""
    listing = list_inputs(str(signs_dir))
    tasks = [planning.Task(range(row, row + 1), row + 70_000 if row % 2 else None) for row in range(len(listing.keys))]
    (tmp_path / "archive").mkdir()
    job = dataclasses.replace(plan_job(signs_dir, tmp_path / "archive"), is_update=True, name="0" * 16, tasks=len(tasks))
    job_folder.write_listing(job, [functools.partial(listing.select, task.rows) for task in tasks], [t.replaces for t in tasks])
    assert job.replaces == tuple(task.replaces for task in tasks)
    assert dataclasses.replace(job, is_update=False).replaces == (None,) * job.tasks
    assert len(pickle.dumps(job)) < 2000
    assert len(job.to_json()) < 2000


def test_notes_whose_results_are_at_hand_are_not_read(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SHARD_IMAGES", 10)
    job = plan_job(signs_dir, tmp_path / "archive")
    results = [run(task, job) for task in range(4)]
    read: list[str] = []
    real = Folder.read
    monkeypatch.setattr(Folder, "read", lambda self, name, *args: (read.append(name), real(self, name, *args))[1])
    assert task_results.finished_tasks(job, {0, 3}) == {1: results[1], 2: results[2]}
    assert sorted(name[-11:] for name in read) == ["000001.json", "000002.json"]
    monkeypatch.setattr(Folder, "sizes_bytes", lambda self: pytest.fail("nothing is to be found there"))
    assert task_results.finished_tasks(job, range(job.tasks)) == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"task": 1, "shard": {}, "failures": null}', b"\xff"])
def test_a_note_that_cannot_be_read_is_no_finished_task(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, content: bytes
) -> None:
    job = plan_job(signs_dir, tmp_path / "archive")
    run(0, job)
    (note,) = (tmp_path / "archive" / "job" / job.name / "done").iterdir()
    note.write_bytes(content)
    assert task_results.finished_tasks(job) == {}


# Two at once


def test_of_two_that_plan_at_once_one_is_told(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes between what the first has read and what it writes."""
    take_place, second = planning._take_place, []

    def second_first(job: CompressJob, before: bytes | None) -> None:
        monkeypatch.setattr(planning, "_take_place", take_place)
        second.append(plan_job(signs_dir, tmp_path / "archive"))
        take_place(job, before)

    monkeypatch.setattr(planning, "_take_place", second_first)
    with pytest.raises(InputError, match="another command started there at the same time"):
        plan_job(signs_dir, tmp_path / "archive")
    (winner,) = second
    job_folder.check_owner(winner)
    assert [path.name for path in (tmp_path / "archive" / "job").iterdir() if path.is_dir()] == [winner.name]
    assert compress.commit_archive([run(0, winner)], winner).images == 40


def test_of_two_that_resume_at_once_one_is_told(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = plan_job(signs_dir, tmp_path / "archive")
    take_place, second = planning._take_place, []

    def second_first(mine: CompressJob, before: bytes | None) -> None:
        monkeypatch.setattr(planning, "_take_place", take_place)
        second.append(planning.resume(str(signs_dir), job.archive))
        take_place(mine, before)

    monkeypatch.setattr(planning, "_take_place", second_first)
    with pytest.raises(InputError, match="another command started there at the same time"):
        planning.resume(str(signs_dir), job.archive)
    job_folder.check_owner(second[0])
    with pytest.raises(InputError, match="nothing more is done"):
        job_folder.check_owner(job)


@pytest.mark.parametrize("base", [None, b"an older manifest"])
def test_a_plan_for_a_state_that_is_gone_is_refused(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, base: bytes | None
) -> None:
    """Another command has committed since this one looked."""
    folder = Folder(str(tmp_path / "archive"))
    folder.write("manifest.json", b"a manifest")
    with pytest.raises(InputError, match="changed it meanwhile; run this one again"):
        plan_job(signs_dir, folder.path, base=base)
    assert list(folder.sizes_bytes()) == ["manifest.json"]


@pytest.mark.parametrize("plan", [None, b"", b"{}", b"[]", b'{"token": null}', b'{"token": "other"}'])
def test_a_job_notices_that_its_plan_is_another(plan_job: Plan, signs_dir: Path, tmp_path: Path, plan: bytes | None) -> None:
    job = plan_job(signs_dir, tmp_path / "archive")
    job_folder.check_owner(job)
    file = tmp_path / "archive" / "job" / "plan.json"
    file.unlink() if plan is None else file.write_bytes(plan)
    with pytest.raises(InputError, match="nothing more is done"):
        job_folder.check_owner(job)


def test_a_plan_that_cannot_be_written_leaves_nothing(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        plan_job(signs_dir, tmp_path / "archive")
    assert [path for path in (tmp_path / "archive").rglob("*") if path.is_file()] == []


# Resuming


@pytest.mark.parametrize(
    "edit",
    [
        lambda fields: fields.pop("tasks"),
        lambda fields: fields.update(tasks="3"),
        lambda fields: fields.update(tasks=99),
        lambda fields: fields.update(settings=None),
        lambda fields: fields.update(surprise=1),
        lambda fields: fields.update(model_sha256="0" * 64),
        lambda fields: fields.update(name="../x"),
        lambda fields: fields.update(is_update=True),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, edit: Callable[[dict], object]
) -> None:
    job = plan_job(signs_dir, tmp_path / "archive")
    file = tmp_path / "archive" / "job" / "plan.json"
    fields = json.loads(file.read_text())
    edit(fields)
    file.write_text(json.dumps(fields))
    with pytest.raises(InputError, match="damaged.*--overwrite"):
        planning.resume(str(signs_dir), job.archive)


def test_a_job_for_another_input_is_not_resumed(plan_job: Plan, signs_dir: Path, tmp_path: Path) -> None:
    job = plan_job(signs_dir, tmp_path / "archive")
    with pytest.raises(InputError, match=f"was for {signs_dir}"):
        planning.resume(str(tmp_path), job.archive)


# The state to start from


def test_the_state_to_start_from(plan_job: Plan, signs_dir: Path, archive_dir: Path, tmp_path: Path) -> None:
    source = str(signs_dir)
    assert find_state(source, str(tmp_path / "new"), False) is None
    assert find_state(source, str(archive_dir), False) == (archive_dir / "manifest.json").read_bytes()
    assert find_state(source, str(archive_dir), True) == (archive_dir / "manifest.json").read_bytes()
    plan_job(signs_dir, tmp_path / "unfinished")
    with pytest.raises(InputError, match=r"unfinished job already.*--resume"):
        find_state(source, str(tmp_path / "unfinished"), False)
    assert find_state(source, str(tmp_path / "unfinished"), True) is None
    with pytest.raises(InputError, match="ARCHIVE is empty"):
        find_state(source, "", False)


def test_what_a_kill_left_before_the_plan_is_not_in_the_way(tmp_path: Path, signs_dir: Path) -> None:
    for name in ("job/0123456789abcdef/model.safetensors", "failures/000001-0123456789abcdef.parquet", ".tsae-1-2.tmp"):
        Folder(str(tmp_path)).write(name, b"left")
    assert find_state(str(signs_dir), str(tmp_path), False) is None
    Folder(str(tmp_path)).write("job/mine.txt", b"mine")
    with pytest.raises(InputError, match=r"job/mine\.txt"):
        find_state(str(signs_dir), str(tmp_path), False)


RECORDS = ["lists/000000-0123456789abcdef.parquet", "shards/000000-0123456789abcdef.parquet"]


@pytest.mark.parametrize(
    ("records", "remedy"), [(RECORDS, "verify .* --repair OUT"), (RECORDS[1:], "another folder")], ids=["lists", "shards"]
)
def test_records_without_a_manifest_are_replaced_only_when_asked(
    records: list[str], remedy: str, tmp_path: Path, signs_dir: Path
) -> None:
    for name in [*records, "model.safetensors"]:
        Folder(str(tmp_path)).write(name, b"mine")
    with pytest.raises(InputError, match=rf"manifest\.json is lost; .*{remedy}.*--overwrite"):
        find_state(str(signs_dir), str(tmp_path), False)
    assert find_state(str(signs_dir), str(tmp_path), True) is None
    Folder(str(tmp_path)).write("thesis.txt", b"mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"something else \(thesis\.txt\)"):
            find_state(str(signs_dir), str(tmp_path), overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b'{"name": "app"}', b"\xff", b'{"format": 1}', b"[" * 100_000])
def test_the_manifest_of_something_else_is_never_a_state(
    manifest: bytes, overwrite: bool, tmp_path: Path, signs_dir: Path
) -> None:
    Folder(str(tmp_path)).write("manifest.json", manifest)
    Folder(str(tmp_path)).write("css/a.css", b"mine")
    with pytest.raises(InputError, match=r"something else \(manifest\.json\)"):
        find_state(str(signs_dir), str(tmp_path), overwrite)


@pytest.mark.parametrize(
    ("manifest", "others"),
    [(b'{"format": "tsae", "format_ver', []), (b'{"format_version": 9, "format": "tsae"}', []), (b"", RECORDS[1:])],
)
def test_a_damaged_manifest_of_ours_stays_ours(manifest: bytes, others: list[str], tmp_path: Path, signs_dir: Path) -> None:
    for name in others:
        Folder(str(tmp_path)).write(name, b"")
    Folder(str(tmp_path)).write("manifest.json", manifest)
    assert find_state(str(signs_dir), str(tmp_path), True) == manifest


def test_a_store_that_does_not_answer_is_told_in_one_line(
    plan_job: Plan, signs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("could not connect\nto the endpoint")

    job = plan_job(signs_dir, "memory://silent/archive")
    monkeypatch.setattr(MemoryFileSystem, "find", refuse)
    with pytest.raises(InputError, match="^memory://silent/archive: cannot be read .*could not connect to the endpoint"):
        task_results.finished_tasks(job)
    with pytest.raises(InputError, match="^memory://silent/archive: cannot be read .*could not connect to the endpoint"):
        find_state(str(signs_dir), "memory://silent/archive", True)
    monkeypatch.setattr(MemoryFileSystem, "info", refuse)
    with pytest.raises(InputError, match="^memory://silent/new: cannot be read .*could not connect to the endpoint"):
        find_state(str(signs_dir), "memory://silent/new", False)


def test_a_damaged_manifest_is_no_base_to_start_from(tmp_path: Path) -> None:
    assert job_folder.old_manifest(Folder(str(tmp_path)), b"{") is None
    assert job_folder.old_manifest(Folder(str(tmp_path)), None) is None


def test_the_listing_that_is_gone_ends_the_job(plan_job: Plan, signs_dir: Path, tmp_path: Path) -> None:
    job = plan_job(signs_dir, tmp_path / "archive")
    assert [item.key for item in job_folder.read_listing(0, job)] == list_inputs(str(signs_dir)).keys
    (tmp_path / "archive" / "job" / job.name / "listing" / "000000.parquet").unlink()
    with pytest.raises(InputError, match="listing cannot be read"):
        job_folder.read_listing(0, job)
    with pytest.raises(InputError, match="its job is damaged"):
        planning.resume(str(signs_dir), job.archive)
