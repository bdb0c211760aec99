"""Accidents on a cluster at random moments of a job: `python -m tests.cluster.faults flink --kinds worker pool --times 6`.

Each time a job runs, something of the cluster is killed with SIGKILL, stopped or filled, and whatever does not come back by the
engine's own doing is run again by hand (`compress` with `--resume`). Then all files must be those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster import hosts, software
from tests.cluster.__main__ import Running, cluster
from tests.cluster.engines import NODES

SHARED = software.FOLDER / "shared"
"""A folder that all hosts see, as an NFS would be."""

HUNG_S = 75.0
"""A job that takes longer is taken for one that hangs, and its command is interrupted."""

STALL_S = 8.0

LATER_S = 5.0
"""Within this time after the first worker another one, or that, is killed: not always in the moment of its birth."""

MASTERS = {"flink": "jobmanager", "spark": "master", "prism": "prism"}
EXECUTORS = {"flink": "taskmanager-{}", "spark": "worker-{}"}


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that is disturbed.

    Attributes:
        name: "compress" or "decompress".
        source: Its input.
        shard_images: For `compress`.
    """

    name: str
    source: Path
    shard_images: int

    def argv(self, target: Path, again: bool = False) -> list[str]:
        flags = ["--resume"] if again and self.name == "compress" else []
        command = [sys.executable, "-m", "tests.cluster.small", str(self.shard_images), self.name]
        return [*command, str(self.source), str(target), *flags, "{beam}"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of an accident.

    Attributes:
        kind: What happened.
        at_s: When, after the start of the command.
        met: What was met, such as the number of the process that was killed; empty if the command had ended before.
        code: Exit code of the command; None if it hung.
        error: Its last line on standard error.
        again: How often it was run again.
        is_equal: Whether all files are those of an undisturbed run.
        seconds: From start to the end of the last command.
    """

    kind: str
    at_s: float
    met: str
    code: int | None
    error: str
    again: int
    is_equal: bool
    seconds: float


def workers(running: Running) -> list[int]:
    """The processes of Beam's SDK on all hosts."""
    services = Running.read()["services"]
    pools = [pid for name, pid in services.items() if name.startswith("pool-") and pid]
    return [pid for pool in pools for pid in hosts.children(pool) if not hosts.is_zombie(pid)]


def _kill(pids: list[int]) -> str:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return " ".join(map(str, pids))


def _pick(running: Running, rng: random.Random, process: subprocess.Popen[str]) -> list[int]:
    """A worker, at some time after there is a first one, or none if the command ends before."""
    while process.poll() is None and not workers(running):
        time.sleep(0.05)
    time.sleep(rng.uniform(0, LATER_S))
    found = [] if process.poll() is not None else workers(running)
    return [rng.choice(found)] if found else []


def kill_worker(running: Running, rng: random.Random, process: subprocess.Popen[str]) -> str:
    return _kill(_pick(running, rng, process))


def kill_pool(running: Running, rng: random.Random, process: subprocess.Popen[str]) -> str:
    """With all that it started, as the end of a container is."""
    pools = [name for name in Running.read()["services"] if name.startswith("pool-")]
    pid = running.pid(rng.choice(pools))
    return _kill(hosts.family(pid)) if pid else ""


def kill_executor(running: Running, rng: random.Random, process: subprocess.Popen[str]) -> str:
    pid = running.pid(EXECUTORS[running.state["engine"]].format(rng.choice(NODES)))
    return _kill(hosts.family(pid)) if pid else ""


def kill_master(running: Running, rng: random.Random, process: subprocess.Popen[str]) -> str:
    pid = running.pid(MASTERS[running.state["engine"]])
    return _kill([pid]) if pid else ""


def kill_job_server(running: Running, rng: random.Random, process: subprocess.Popen[str]) -> str:
    pid = running.pid("jobserver")
    return _kill([pid]) if pid else ""


def cancel(running: Running, rng: random.Random, process: subprocess.Popen[str]) -> str:
    """By hand, in the engine: of Flink by its REST server."""
    url = f"http://{running.state['hosts']['head']}:8081/jobs"
    while process.poll() is None:
        found = json.loads(running.run(["curl", "-s", url], capture_output=True).stdout or "{}").get("jobs", [])
        if jobs := [job["id"] for job in found if job["status"] in ("RUNNING", "CREATED")]:
            running.run(["curl", "-s", "-X", "PATCH", f"{url}/{jobs[0]}?mode=cancel"], capture_output=True)
            return str(jobs[0])
        time.sleep(0.05)
    return ""


def stall_worker(running: Running, rng: random.Random, process: subprocess.Popen[str]) -> str:
    pids = _pick(running, rng, process)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(STALL_S)
            os.kill(pid, signal.SIGCONT)
    return " ".join(map(str, pids))


def fill_disk(running: Running, rng: random.Random, process: subprocess.Popen[str]) -> str:
    """Of one node; until the command has ended."""
    node = rng.choice(NODES)
    pid = running.pid(f"pool-{node}")
    folder = f"/proc/{pid}/root/tmp"
    with contextlib.suppress(OSError), open(f"{folder}/full", "wb") as file:
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    process.wait()
    os.unlink(f"{folder}/full")
    return node


KINDS: dict[str, Callable[[Running, random.Random, subprocess.Popen[str]], str]] = {
    "worker": kill_worker,
    "pool": kill_pool,
    "executor": kill_executor,
    "master": kill_master,
    "job-server": kill_job_server,
    "cancel": cancel,
    "stall": stall_worker,
    "disk": fill_disk,
}


def disturb(running: Running, job: Job, kind: str, rng: random.Random, latest_s: float, expected: dict[str, str]) -> Outcome:
    """Runs a job, lets an accident happen, and has the job finished."""
    target = SHARED / "disturbed"
    shutil.rmtree(target, ignore_errors=True)
    started_s, at_s = time.monotonic(), rng.uniform(0.5, 0.75 * latest_s)
    process = running.start(job.argv(target), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(at_s)
    met = "" if process.poll() is not None else KINDS[kind](running, rng, process)
    error, code = _end(process)
    again, last = 0, code
    while last != 0 and again < 4:
        again += 1
        # A master or an executor that was killed may not be back yet.
        said, last = _end(running.start(job.argv(target, True), stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        if "has no job to resume" in said:  # killed before it had planned anything
            said, last = _end(running.start(job.argv(target), stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    seconds = time.monotonic() - started_s
    return Outcome(kind, round(at_s, 2), met, code, error, again, last == 0 and tree(target) == expected, round(seconds, 1))


def _end(process: subprocess.Popen[str]) -> tuple[str, int | None]:
    try:
        _, text = process.communicate(timeout=HUNG_S)
    except subprocess.TimeoutExpired:
        for pid in hosts.children(process.pid):  # as Ctrl-C does
            os.kill(pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30)
        _kill(hosts.family(process.pid))
        process.communicate()
        return "hung", None
    return (text.strip().splitlines() or [""])[-1], process.returncode


def undisturbed(running: Running, job: Job) -> tuple[dict[str, str], float]:
    """The files of a run without an accident, and how long it took."""
    target = SHARED / "undisturbed"
    shutil.rmtree(target, ignore_errors=True)
    started_s = time.monotonic()
    ended = running.run(job.argv(target), capture_output=True)
    assert ended.returncode == 0, ended.stderr
    return tree(target), time.monotonic() - started_s


def describe(outcomes: list[Outcome]) -> str:
    """A table with a line for each kind."""
    lines = ["| killed or harmed | times | met | ended by itself | run again | hung | equal |", "|---|---|---|---|---|---|---|"]
    for kind, number in collections.Counter(outcome.kind for outcome in outcomes).items():
        own = [outcome for outcome in outcomes if outcome.kind == kind]
        sums = [
            sum(bool(outcome.met) for outcome in own),
            sum(outcome.code == 0 for outcome in own),
            sum(outcome.again > 0 for outcome in own),
            sum(outcome.code is None for outcome in own),
            sum(outcome.is_equal for outcome in own),
        ]
        lines.append(f"| {kind} | {number} | {' | '.join(map(str, sums))} |")
    return "\n".join(lines)


def _add(path: Path, row: dict[str, object]) -> None:
    rows = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([*rows, row], indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.faults", description=__doc__)
    parser.add_argument("engine", choices=["flink", "spark", "prism"])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["worker", "pool", "executor", "master"])
    parser.add_argument("--times", type=int, default=6, help="accidents of each kind that meet a running command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=Path, required=True, help="a folder that all hosts see")
    parser.add_argument("--shard-images", type=int, default=256)
    parser.add_argument("--decompress", action="store_true", help="disturb that instead")
    parser.add_argument("--out", type=Path, help="JSON file to add the outcomes to")
    args = parser.parse_args()
    SHARED.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with cluster(args.engine) as running:
        job = Job("compress", args.images, args.shard_images)
        expected, seconds = undisturbed(running, job)
        if args.decompress:
            (SHARED / "undisturbed").rename(archive := SHARED / "archive")
            job = Job("decompress", archive, args.shard_images)
            expected, seconds = undisturbed(running, job)
        print(f"{running.state['versions']}: {len(expected)} files, undisturbed {seconds:.1f} s", flush=True)
        for kind in args.kinds:
            for number in range(3 * args.times):
                if sum(outcome.kind == kind and bool(outcome.met) for outcome in outcomes) == args.times:
                    break  # accidents that come after the command's end are none
                rng = random.Random(f"{args.seed} {kind} {number}")
                outcomes.append(disturb(running, job, kind, rng, seconds, expected))
                print(outcomes[-1], flush=True)
                if args.out:
                    facts = {"engine": running.state["versions"], "job": job.name, "undisturbed_s": round(seconds, 1)}
                    _add(args.out, {**facts, **dataclasses.asdict(outcomes[-1])})
    print(describe(outcomes))


if __name__ == "__main__":
    main()
