"""A watch that is killed again and again while files keep coming: files in, records out, latency, memory over time.

    python benchmarks/watching.py [--seconds 3600] [--kills 50] [--rate 10] [--rest 2] [--work DIR] [--out DIR]

Files of drawn signs come at random moments, so many a second on average: most moved in whole; some written slowly, in
pieces; some by a writer that stops in the middle for longer than the watch waits; some are written again later with
another image; and now and then some hundred at once. `tsae compress --watch` is killed (SIGKILL) in the first half of the
time, half of the kills at random moments and half within a commit, and started again at once; in the second half it is left
alone, so that its memory shows. At the end it gets a SIGTERM. A file becomes visible when a reader that opens the archive
anew finds its record; its latency counts from the moment when its last byte was written, or it was moved in.

Every file must then have one record, made of the bytes that it has, and `tsae verify` and a plain `tsae compress` must
find nothing to do. Writes `watching.json`, `.md` and `.png`. Needs `pip install '.[bench]'`.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import hashlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent))

from rd.report import number, table
from rd.run_facts import run_facts

from tsae import archive as ar
from tsae.errors import TsaeError
from tsae.reader import Archive, open_archive
from tsae.signs import write_signs

SIGNS = 400
"""Different images."""

FOLDERS = 50
"""Folders that files come to."""

PERIOD_S = 0.1
"""How often the archive is looked at; a latency is known so well."""

HELD_S = 30.0
"""For how long a state is held."""

PACKAGES = ("numpy", "onnxruntime", "pillow", "pyarrow")


class Feeder(threading.Thread):
    """Writes files until it is told to end.

    Attributes:
        done_s: When each file was whole, by key; of one that was written again, when it was first.
    """

    def __init__(self, folder: Path, signs: list[bytes], rate: float, rest_s: float, seed: int) -> None:
        super().__init__(daemon=True)
        self._folder, self._signs, self._rate, self._rest_s = folder, signs, rate, rest_s
        self._random = random.Random(seed)  # noqa: S311
        self._slow: list[threading.Thread] = []
        self.done_s: dict[str, float] = {}
        self.kinds: collections.Counter[str] = collections.Counter()
        self.end = threading.Event()

    def run(self) -> None:
        """Until `end`."""
        while not self.end.wait(self._random.expovariate(self._rate)):
            kind = self._random.choices(["moved", "slow", "stalled", "again", "burst"], [80, 10, 1, 3, 0.1])[0]
            for _ in range(200 if kind == "burst" else 1):
                self._write(kind)
        for thread in self._slow:
            thread.join()

    def _write(self, kind: str) -> None:
        data, count = self._random.choice(self._signs), sum(self.kinds.values())
        if kind == "again" and self.done_s:
            (self._folder / self._random.choice(list(self.done_s))).write_bytes(data)
        else:
            key = f"camera-{self._random.randrange(FOLDERS):02d}/{count:07d}.png"
            (self._folder / key).parent.mkdir(exist_ok=True)
            if kind in ("slow", "stalled"):
                pause_s = self._rest_s * (0.3 if kind == "slow" else 2.5)
                self._slow = [thread for thread in self._slow if thread.is_alive()]
                self._slow.append(threading.Thread(target=self._write_slowly, args=(key, data, pause_s)))
                self._slow[-1].start()
            else:
                beside = self._folder / f"{key}.part"
                beside.write_bytes(data)
                beside.rename(self._folder / key)
                self.done_s[key] = time.time()
        self.kinds[kind] += 1

    def _write_slowly(self, key: str, data: bytes, pause_s: float) -> None:
        with open(self._folder / key, "wb", buffering=0) as file:
            for start in range(0, len(data), len(data) // 3 + 1):
                file.write(data[start : start + len(data) // 3 + 1])
                time.sleep(pause_s)
        self.done_s[key] = time.time()


class Observer(threading.Thread):
    """Opens the archive again and again, as any reader would; and holds a state for half a minute, then reads from it.

    Attributes:
        old_states: Number of states that were read from half a minute after they were opened.
        seen_s: When the record of each key was there, as of the moment before it was looked for.
        commits: Number of different states seen.
    """

    def __init__(self, archive: Path) -> None:
        super().__init__(daemon=True)
        self._archive, self._shards, self._lists = archive, set[str](), set[str]()
        self.seen_s: dict[str, float] = {}
        self.commits, self.errors, self.old_states = 0, list[str](), 0
        self.end = threading.Event()
        self._held: tuple[float, Archive] | None = None

    def run(self) -> None:
        """Until `end`."""
        last = b""
        while not self.end.wait(PERIOD_S):
            now_s = time.time()
            try:
                files = ar.ArchiveFiles(str(self._archive))
                if files.manifest_text != last:
                    last, self.commits = files.manifest_text, self.commits + 1
                    self._look(files, now_s)
                self._read_old()
            except TsaeError as error:
                if (self._archive / "manifest.json").exists() and "changed since" not in str(error):
                    self.errors.append(str(error))

    def _read_old(self) -> None:
        if self._held is None:
            self._held = time.time(), open_archive(str(self._archive))
        elif time.time() - self._held[0] > HELD_S:
            archive = self._held[1]
            for position in range(0, len(archive), max(1, len(archive) // 50)):  # by key, thousands of shards would be asked
                archive[position]
            archive.close()
            self._held, self.old_states = None, self.old_states + 1

    def _look(self, files: ar.ArchiveFiles, now_s: float) -> None:
        for index, shards in enumerate(files.manifest.lists):
            if shards.file in self._lists:
                continue
            self._lists.add(shards.file)
            for entry in files.entries_of(index):
                if entry.file not in self._shards:
                    for key in files.open_entry(entry).keys():  # noqa: SIM118 - a method of its own
                        self.seen_s.setdefault(key, now_s)
                    self._shards.add(entry.file)


@dataclasses.dataclass
class Supervisor:
    """Runs the watch, kills it at planned moments, and measures its memory."""

    command: list[str]
    plan_file: Path
    log: Path
    started_s: float = dataclasses.field(default_factory=time.time)
    kills_s: list[float] = dataclasses.field(default_factory=list)
    memory: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    in_commit: int = 0

    def start(self) -> subprocess.Popen[bytes]:
        """A new process of the command."""
        with open(self.log, "ab") as log:
            return subprocess.Popen(self.command, stdout=log, stderr=log)

    def run(self, seconds: float, kills: list[float], rng: random.Random) -> int:
        """Kills at the moments given, and at the end asks for the end.

        Returns:
            The exit code.
        """
        process, todo = self.start(), sorted(kills)
        while (now_s := time.time() - self.started_s) < seconds:
            time.sleep(0.5)
            if process.poll() is not None:
                raise RuntimeError(f"the watch ended by itself with {process.returncode}: {self.log.read_text()[-2000:]}")
            self._measure(process, now_s)
            if todo and now_s > todo[0]:
                todo.pop(0)
                if len(todo) % 2:
                    self._await_commit(rng)
                process.kill()
                process.wait()
                self.in_commit += self.plan_file.exists()
                self.kills_s.append(time.time() - self.started_s)
                process = self.start()
        process.terminate()
        return process.wait(60)

    def _await_commit(self, rng: random.Random) -> None:
        deadline = time.time() + 20
        while not self.plan_file.exists() and time.time() < deadline:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.03))

    def _measure(self, process: subprocess.Popen[bytes], now_s: float) -> None:
        try:
            parent = psutil.Process(process.pid)
            sizes = [p.memory_info().rss for p in [parent, *parent.children(recursive=True)]]
            self.memory.append((now_s, sum(sizes) / 1e6))
        except psutil.Error:
            pass


def check(folder: Path, archive: Path) -> dict[str, Any]:
    """What the archive has of what the folder has."""
    files = ar.ArchiveFiles(str(archive))
    keys = list(files.keys())
    origins = {key: origin for shard in range(files.shards) for key, origin in files.origins(shard).items()}
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.png")}
    other = [k for k, p in found.items() if k in origins and origins[k].sha256 != hashlib.sha256(p.read_bytes()).digest()[:16]]
    verified = subprocess.run(
        [sys.executable, "-m", "tsae", "verify", str(archive), "--decode"], capture_output=True, text=True
    )
    again = subprocess.run(
        [sys.executable, "-m", "tsae", "compress", str(folder), str(archive)], capture_output=True, text=True
    )
    return {
        "files": len(found),
        "records": len(keys),
        "lost": len(found.keys() - set(keys)),
        "twice": len(keys) - len(set(keys)),
        "of_other_bytes": len(other),
        "failures": files.manifest.counts.failures,
        "shards": files.shards,
        "verify_exit_code": verified.returncode,
        "again": again.stdout.strip().partition(": ")[2],
    }


def summarise(supervisor: Supervisor, feeder: Feeder, observer: Observer, seconds: float) -> dict[str, Any]:
    """Latencies and memory."""
    quiet_s = seconds / 2 + 20
    seen_s = observer.seen_s
    pairs = [(done_s - supervisor.started_s, seen_s[key] - done_s) for key, done_s in feeder.done_s.items() if key in seen_s]
    second_half = [mb for at_s, mb in supervisor.memory if at_s > quiet_s]
    tenth = max(1, len(second_half) // 10)
    return {
        "kills": len(supervisor.kills_s),
        "kills_within_a_commit": supervisor.in_commit,
        "kinds": dict(feeder.kinds),
        "states_seen": observer.commits,
        "old_states_read": observer.old_states,
        "reader_errors": observer.errors[:5],
        "files_not_seen": len(feeder.done_s.keys() - seen_s.keys()),
        "latency_s": _percentiles([latency_s for _, latency_s in pairs]),
        "latency_without_kills_s": _percentiles([latency_s for at_s, latency_s in pairs if at_s > quiet_s]),
        "memory_mb": {
            "peak": round(max(mb for _, mb in supervisor.memory), 1),
            "second_half_first_tenth": round(statistics.median(second_half[:tenth]), 1),
            "second_half_last_tenth": round(statistics.median(second_half[-tenth:]), 1),
        },
    }


def _percentiles(latencies_s: list[float]) -> dict[str, float]:
    values = np.percentile(latencies_s, [50, 99, 100])
    return dict(zip(("median", "p99", "max"), [round(float(value), 2) for value in values], strict=True))


def plot(supervisor: Supervisor, feeder: Feeder, observer: Observer, file: Path) -> None:
    """Memory over time with the kills, and the latency of each file."""
    figure = matplotlib.figure.Figure((10, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot([at / 60 for at, _ in supervisor.memory], [mb for _, mb in supervisor.memory], ".", markersize=2)
    for at_s in supervisor.kills_s:
        upper.axvline(at_s / 60, color="#d62728", linewidth=0.5)
    upper.set_ylabel("MB of all processes")
    upper.set_ylim(bottom=0)
    upper.set_title("Memory of the watch; red lines are kills", fontsize=10, loc="left")
    pairs = [(t - supervisor.started_s, observer.seen_s[k] - t) for k, t in feeder.done_s.items() if k in observer.seen_s]
    lower.semilogy([at / 60 for at, _ in pairs], [max(0.05, s) for _, s in pairs], ".", markersize=1)
    lower.set_ylabel("seconds from file to record")
    lower.set_xlabel("minutes")
    for ax in (upper, lower):
        ax.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def markdown(facts: dict[str, Any], result: dict[str, Any]) -> str:
    """The report."""
    latency, alone, memory = result["latency_s"], result["latency_without_kills_s"], result["memory_mb"]
    counts = "; ".join(str(result[name]) for name in ("records", "lost", "twice", "of_other_bytes"))
    flat = f"{memory['second_half_first_tenth']}, {memory['second_half_last_tenth']}"
    rows = [
        ["files", number(result["files"], 0)],
        ["records; lost; twice; of other bytes", counts],
        ["kills; within a commit", f"{result['kills']}; {result['kills_within_a_commit']}"],
        ["states seen by a reader", number(result["states_seen"], 0)],
        ["states read half a minute later; errors", f"{result['old_states_read']}; {len(result['reader_errors'])}"],
        ["latency, s: median, p99, most", f"{latency['median']}, {latency['p99']}, {latency['max']}"],
        ["the same while not killed", f"{alone['median']}, {alone['p99']}, {alone['max']}"],
        ["MB while not killed: first and last tenth", flat],
        ["exit code after SIGTERM; of `verify --decode`", f"{result['exit_code']}; {result['verify_exit_code']}"],
        ["a plain `tsae compress` then", result["again"]],
    ]  # fmt: skip
    machine = f"{facts['date']}, commit {facts['commit']}; {facts['machine']}, Python {facts['python']}."
    return "\n\n".join(["# Watching", machine, f"```\n{facts['command']}\n```", table(("what", "figure"), rows)]) + "\n"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rate", type=float, default=10, help="files a second")
    parser.add_argument("--rest", type=float, default=2, help="SECONDS of --watch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help="where files and archive are for the time being (default: a temporary folder)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def main() -> None:
    """Runs, checks, writes."""
    args = parse()
    rng, facts = random.Random(args.seed), run_facts(PACKAGES)  # noqa: S311
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        folder, archive = Path(work, "in"), Path(work, "archive")
        folder.mkdir()
        signs = [Path(work, "signs", key).read_bytes() for key in write_signs(f"{work}/signs", SIGNS)]
        command = [sys.executable, "-m", "tsae", "compress", str(folder), str(archive), "--watch", str(args.rest)]
        feeder, observer = Feeder(folder, signs, args.rate, args.rest, args.seed), Observer(archive)
        supervisor = Supervisor(command, archive / "job" / "plan.json", Path(work, "log"))
        feeder.start()
        observer.start()
        end = threading.Timer(args.seconds - 10 * args.rest, feeder.end.set)
        end.daemon = True
        end.start()
        code = supervisor.run(args.seconds, [rng.uniform(5, args.seconds / 2) for _ in range(args.kills)], rng)
        observer.end.set()
        feeder.join()
        observer.join()
        result = {**summarise(supervisor, feeder, observer, args.seconds), "exit_code": code, **check(folder, archive)}
        args.out.mkdir(parents=True, exist_ok=True)
        plot(supervisor, feeder, observer, args.out / "watching.png")
    (args.out / "watching.json").write_text(json.dumps({**facts, **result}, indent=1) + "\n")
    (args.out / "watching.md").write_text(markdown(facts, result))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
