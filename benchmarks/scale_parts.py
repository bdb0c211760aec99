"""The parts of a job and of an archive that need no images, at sizes up to 10^9 keys: time, memory, bytes.

    python benchmarks/scale_parts.py [--images 1000000 10000000 100000000] [--parts open list ...] [--dir DIR] [--json FILE]

Each part of each size runs in a process of its own, on made-up keys and descriptions (`scale/synthetic.py`). Seconds are of
the wall clock; `peak_mb` is the most resident memory of the process while a stage ran, `mb` what it had after it.

*open*: an archive is opened that describes so many records, and one is found by its key and read. *list*, *shuffled*,
*containers*: a list of paths in their order, one in none, and Parquet files of a million images each are listed, sorted, cut
into tasks and planned; then one task's images are read from the plan. *commit*: the results of all tasks become lists and a
manifest. *resume*: such a job is taken up whose tasks are all done. *s3list*: a folder of a made-up S3 is listed, whose pages
take 0.1 s. *found*: the memory that this takes. *update*: an input is compared with its archive, whose shards are all there;
not for more than 10^6 images.
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pyarrow as pa
from rd.run_facts import run_facts
from scale import store, synthetic

from tsae import archive as ar
from tsae import paths
from tsae.inputs import Listing, list_inputs
from tsae.inputs.files import find_in_folder
from tsae.inputs.listing import TEXTS
from tsae.jobs import job_folder, plan, task_results
from tsae.jobs.update import find_changes
from tsae.paths import FileFacts, Folder

PACKAGES = ("fsspec", "numpy", "pyarrow")
CONTAINER_ROWS = 1_000_000
LIST_LATENCY_S = 0.1
"""Of a page of a made-up store: what S3 takes for one of a thousand keys."""

FOUND = 20
"""Keys that are looked for one after the other, after the first."""

Row = dict[str, Any]


class Stages:
    """Seconds and memory of what this process does, stage by stage."""

    def __init__(self) -> None:
        self.row: Row = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures a block."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
        started_s = time.perf_counter()
        yield
        seconds = round(time.perf_counter() - started_s, 4)
        self.row[name] = {"s": seconds, "peak_mb": status_mb("VmHWM"), "mb": status_mb("VmRSS")}


def status_mb(field: str) -> int:
    """A line of what the kernel tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) // 1000


class Reads:
    """Counts what is read of an archive."""

    def __init__(self) -> None:
        self.requests = self.bytes = 0
        for name in ("read", "read_range"):
            setattr(Folder, name, self._counted(getattr(Folder, name)))

    def _counted(self, function: Callable[..., bytes]) -> Callable[..., bytes]:
        def counted(*args: Any, **kwargs: Any) -> bytes:
            data = function(*args, **kwargs)
            self.requests, self.bytes = self.requests + 1, self.bytes + len(data)
            return data

        return counted


def prepare_open(folder: Path, count: int) -> Row:
    """An archive of which only one shard is there."""
    started_s = time.perf_counter()
    manifest = synthetic.described(Folder(str(folder)), count, count // 3)
    files = [folder / entry.file for entry in manifest.lists]
    sizes = {"manifest_bytes": (folder / ar.MANIFEST_FILE).stat().st_size, "lists": len(files)}
    sizes["list_bytes"] = sum(file.stat().st_size for file in files)
    return {**sizes, "shards": manifest.counts.shards, "made_s": round(time.perf_counter() - started_s, 1)}


def run_open(folder: Path, count: int, stages: Stages) -> None:
    """Opens it, finds the key, and others of the same shard."""
    reads = Reads()
    with stages.stage("open"):
        files = ar.ArchiveFiles(str(folder))
    opened = reads.bytes
    with stages.stage("find"):
        (found,) = files.records([synthetic.key(count // 3)]).keys
    assert found == synthetic.key(count // 3)
    stages.row["bytes_read"] = {"open": opened, "find": reads.bytes - opened, "requests": reads.requests}
    with stages.stage("find_again"):
        for number in range(count // 3, min(count // 3 + FOUND, count)):
            files.has(synthetic.key(number))
    with stages.stage("entries"):
        assert sum(1 for _ in files.entries()) == files.shards


def prepare_list(folder: Path, count: int) -> Row:
    """A list in its order."""
    folder.mkdir()
    synthetic.write_path_list(folder / "in.parquet", count, shuffled=False)
    return {"list_bytes": (folder / "in.parquet").stat().st_size}


def prepare_shuffled(folder: Path, count: int) -> Row:
    """A list in none."""
    folder.mkdir()
    synthetic.write_path_list(folder / "in.parquet", count, shuffled=True)
    return {"list_bytes": (folder / "in.parquet").stat().st_size}


def prepare_containers(folder: Path, count: int) -> Row:
    """Parquet files of images."""
    synthetic.write_containers(folder, count, CONTAINER_ROWS)
    return {"containers": len(list(folder.iterdir()))}


def run_listing(source: str, archive: Folder, stages: Stages) -> None:
    """Lists, cuts, plans; reads one task back."""
    with stages.stage("list"):
        listing = list_inputs(source)
    stages.row["keys"] = len(listing.keys)
    with stages.stage("cut"):
        tasks = plan.cut(listing.rows)
    with stages.stage("plan"):
        job = plan.plan(listing, tasks, archive, b"model", synthetic.settings(), None, False, [], "cpu")
    sizes = archive.sizes_bytes()
    stages.row["plan_bytes"] = sizes[ar.PLAN_FILE]
    stages.row["listing_bytes"] = sum(size for name, size in sizes.items() if "listing" in name)
    stages.row["job_pickle_bytes"] = len(pickle.dumps(job))
    del listing
    with stages.stage("count_images"):
        job_folder.count_images(job, range(job.tasks))
    with stages.stage("read_task"):
        assert len(job_folder.read_listing(job.tasks // 2, job)) == len(tasks[job.tasks // 2].rows)
    with stages.stage("check_owner"):
        job_folder.check_owner(job)


def run_list(folder: Path, count: int, stages: Stages) -> None:
    """Of a list."""
    run_listing(str(folder / "in.parquet"), Folder(f"{folder}/archive"), stages)


def run_containers(folder: Path, count: int, stages: Stages) -> None:
    """Of Parquet files."""
    run_listing(f"{folder}/*.parquet", Folder(f"{folder}-archive"), stages)
    shutil.rmtree(f"{folder}-archive")


def a_job(archive: Folder, tasks: int) -> job_folder.CompressJob:
    """A job whose inputs are of no matter: each task has one."""
    listing = Listing.of("/benchmark", [synthetic.key(number) for number in range(tasks)])
    planned = [plan.Task(range(task, task + 1)) for task in range(tasks)]
    return plan.plan(listing, planned, archive, b"model", synthetic.settings(), None, False, [], "cpu")


def prepare_resume(folder: Path, count: int) -> Row:
    """A job whose tasks are all done, by what its folder says; their shards are empty files of the right sizes."""
    archive = Folder(str(folder))
    job = a_job(archive, len(synthetic.shard_ranges(count)))
    shards, size_bytes = synthetic.Shards(archive, count), 0
    for result in synthetic.results(shards):
        (folder / job.file("done")).mkdir(exist_ok=True)
        text = result.to_json()
        size_bytes += len(text)
        (folder / job.file(f"done/{result.task:06d}.json")).write_bytes(text)
        for name, length in ((result.shard.file, result.shard.bytes), (result.shard.provenance, 1)):
            with open(folder / name, "ab") as file:
                file.truncate(length)
    return {"tasks": job.tasks, "done_bytes": size_bytes}


def run_resume(folder: Path, count: int, stages: Stages) -> None:
    """Takes it up, and finds what is done."""
    with stages.stage("resume"):
        job = plan.resume("/benchmark", Folder(str(folder)))
    with stages.stage("count_images"):
        job_folder.count_images(job, range(job.tasks))
    with stages.stage("finished_tasks"):
        finished = task_results.finished_tasks(job)
    assert len(finished) == job.tasks
    with stages.stage("lists"):
        lists = ar.write_lists(job.archive, None, {}, [finished[task].shard for task in range(job.tasks)])
    stages.row["list_files"] = len(lists)


def prepare_commit(folder: Path, count: int) -> Row:
    """Nothing but an empty folder."""
    folder.mkdir()
    return {}


def run_commit(folder: Path, count: int, stages: Stages) -> None:
    """Lists and manifest from the results of all tasks."""
    archive = Folder(str(folder))
    shards = synthetic.Shards(archive, count)
    with stages.stage("results"):
        found = list(synthetic.results(shards))
    stages.row["pickled_bytes_per_result"] = round(sum(len(pickle.dumps(r)) for r in found[:1000]) / len(found[:1000]))
    stages.row["json_bytes_per_result"] = round(sum(len(r.to_json()) for r in found[:1000]) / len(found[:1000]))
    with stages.stage("lists"):
        lists = ar.write_lists(archive, None, {}, [result.shard for result in found])
    with stages.stage("count"):
        counts = ar.count(archive, lists, 0, 0)
    manifest = shards.manifest(lists, counts)
    with stages.stage("manifest"):
        ar.commit(archive, manifest, None)
    with stages.stage("named_files"):
        stages.row["named"] = len(ar.named_files(archive, manifest))


def prepare_s3list(folder: Path, count: int) -> Row:
    """Nothing."""
    return {"latency_s": LIST_LATENCY_S}


def run_s3list(folder: Path, count: int, stages: Stages) -> None:
    """A folder of a store that only lists."""
    with store.listing_store(count, LIST_LATENCY_S) as endpoint:
        started_s = time.process_time()
        with stages.stage("list"):
            listing = list_inputs(f"s3://bucket/{store.PREFIX.rstrip('/')}")
        stages.row |= {"cpu_s": round(time.process_time() - started_s, 2), "pages": store.pages_sent(endpoint)}
    assert len(listing.keys) == count


def prepare_found(folder: Path, count: int) -> Row:
    """Nothing."""
    return {}


def run_found(folder: Path, count: int, stages: Stages) -> None:
    """The same without a store: what it would tell of each file, in no order."""

    def find_remote(root: str) -> Iterator[tuple[str, FileFacts]]:
        for numbers in synthetic.number_batches(count, shuffled=True):
            for number in numbers.tolist():
                yield synthetic.key(number), FileFacts(2000 + number % 5000, f'"{number:032x}"')

    paths.find_remote = find_remote
    with stages.stage("list"):
        table = find_in_folder("s3://bucket/images").sorted_table("s3://bucket/images")
    assert len(table) == count


def prepare_update(folder: Path, count: int) -> Row:
    """An archive whose shards are all there."""
    archive = Folder(str(folder))
    shards = synthetic.Shards(archive, count)
    entries = [shards.real(number)[0] for number in range(len(shards.ranges))]
    lists = ar.write_lists(archive, None, {}, entries)
    ar.write(archive, ar.MODEL_FILE, shards.model)
    ar.commit(archive, shards.manifest(lists, ar.count(archive, lists, 0, 0)), None)
    return {"shards": len(entries), "provenance_bytes": sum(p.stat().st_size for p in (folder / "provenance").iterdir())}


def run_update(folder: Path, count: int, stages: Stages) -> None:
    """Compares it with an input of the same keys, whose listing tells that nothing has changed."""
    files = ar.ArchiveFiles(str(folder))
    origins = [origin for shard in range(files.shards) for origin in files.origins(shard).values()]
    columns = {
        "key": pa.chunked_array([synthetic.keys(numbers) for numbers in synthetic.number_batches(count)]),
        "label": pa.array([name[:5] for name in files.keys("*")]).dictionary_encode().cast(TEXTS),
        "size_bytes": pa.array([origin.size_bytes for origin in origins], pa.int64()),
        "version": pa.array([origin.version for origin in origins], pa.large_string()),
    }
    listing = Listing("s3://bucket/images", pa.table(columns))
    with stages.stage("find_changes"):
        changes = find_changes(listing, files, False)
    assert not changes.is_needed


PARTS: dict[str, tuple[Callable[[Path, int], Row], Callable[[Path, int, Stages], None]]] = {
    "open": (prepare_open, run_open),
    "list": (prepare_list, run_list),
    "shuffled": (prepare_shuffled, run_list),
    "containers": (prepare_containers, run_containers),
    "commit": (prepare_commit, run_commit),
    "resume": (prepare_resume, run_resume),
    "s3list": (prepare_s3list, run_s3list),
    "found": (prepare_found, run_found),
    "update": (prepare_update, run_update),
}

DEFAULT_PARTS = ("open", "list", "shuffled", "containers", "commit", "resume")


def measure(part: str, count: int, work: Path) -> Row:
    """A part at a size: prepared in one process, run in another."""
    row: Row = {"part": part, "images": count}
    folder = work / f"{part}-{count}"
    try:
        for step in ("prepare", "run"):
            command = [sys.executable, __file__, "--one", step, part, str(count), str(folder)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                return {**row, "failed": f"{step} ended with {done.returncode}"}
            row |= json.loads(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return row


def one(step: str, part: str, count: int, folder: Path) -> Row:
    """What a process of its own does."""
    prepare, run = PARTS[part]
    if step == "prepare":
        return prepare(folder, count)
    stages = Stages()
    run(folder, count, stages)
    return stages.row


def main() -> None:
    """Measures each part at each size, and writes the figures anew after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=DEFAULT_PARTS)
    parser.add_argument("--dir", help="where made-up inputs and archives lie meanwhile; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write the figures there as well; what it has of other parts and sizes stays")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        step, part, count, folder = args.one
        print(json.dumps(one(step, part, int(count), Path(folder))))
        return
    with tempfile.TemporaryDirectory(dir=args.dir) as work:
        for count in args.images:
            for part in args.parts:
                row = {**measure(part, count, Path(work)), "commit": run_facts(())["commit"]}
                print(json.dumps(row), flush=True)
                if args.json:
                    write(args.json, row)


def write(file: Path, row: Row) -> None:
    """The figures with a row in its place."""
    known = json.loads(file.read_text())["rows"] if file.exists() else []
    rows = [other for other in known if (other["part"], other["images"]) != (row["part"], row["images"])]
    rows = sorted([*rows, row], key=lambda row: (row["part"], row["images"]))
    file.write_text(json.dumps({**run_facts(PACKAGES), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
