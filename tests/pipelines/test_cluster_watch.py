"""A watch on clusters, as one pipeline without end: files come while it runs, things end that should not, nothing is lost.

See `test_cluster.py` for the clusters.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import tsae
from tsae.errors import FormatError
from tsae.signs import write_signs

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.cluster import faults, hosts
from tests.cluster.__main__ import Running, cluster
from tests.cluster.software import FOLDER

pytestmark = pytest.mark.cluster

LOOKS = 1500
"""Times that a test looks whether something has come, a fifth of a second apart."""


class Watched:
    """A folder, its archive, and a command that watches it on a cluster; all hosts see both."""

    def __init__(self, running: Running, folder: Path) -> None:
        self.running, self.archive, self._source = running, folder / "archive", folder / "in"
        write_signs(folder / "images", 120, seed=11)
        self._images = sorted((folder / "images").rglob("*.png"))
        random.Random(2).shuffle(self._images)
        self._source.mkdir()
        self.keys: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    def command(self, *flags: str) -> list[str]:
        return [sys.executable, "-m", "tsae", "compress", str(self._source), str(self.archive), *flags]

    def start(self) -> None:
        self.process = self.running.start(self.command("--watch=1", "{beam}"), stderr=subprocess.PIPE)

    def end(self, number: int) -> tuple[int, str]:
        """Sends the command a signal, and returns its exit code and what it said."""
        assert self.process is not None
        for command in hosts.children(self.process.pid):  # itself only brings that to its host
            os.kill(command, number)
        said = self.process.communicate(timeout=60)[1]
        return self.process.returncode, said

    def put(self, count: int) -> None:
        """Adds images; each is there whole at once, or grows."""
        for _ in range(count):
            image = self._images.pop()
            target = self._source / image.parent.name / image.name
            target.parent.mkdir(exist_ok=True)
            data = image.read_bytes()
            with target.open("wb") as file:
                file.write(data[:100])
                file.flush()
                file.write(data[100:])
            self.keys.append(target.relative_to(self._source).as_posix())

    def read(self) -> list[str]:
        """Keys of all records; a state that can be opened can be read."""
        try:
            with tsae.open_archive(str(self.archive)) as opened:
                found = list(opened)
                if found:
                    opened[found[-1]]
                return found
        except FormatError:
            assert not (self.archive / "manifest.json").exists()
            return []

    def wait(self) -> None:
        """Until all that was put there can be read."""
        assert self.process is not None
        for _ in range(LOOKS):
            found = self.read()
            assert len(found) == len(set(found))
            if set(found) >= set(self.keys):
                return
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.2)
        pytest.fail(f"{sorted(set(self.keys) - set(self.read()))} did not come")

    def run(self, *flags: str) -> subprocess.CompletedProcess[str]:
        return self.running.run(self.command(*flags), capture_output=True)

    def check(self) -> None:
        """After the end of a watch, each file has one record, and nothing is left of the job."""
        assert sorted(self.read()) == sorted(self.keys)
        assert not (self.archive / "job").exists()
        assert "nothing has changed" in self.run().stdout
        verified = self.running.run([sys.executable, "-m", "tsae", "verify", str(self.archive)], capture_output=True)
        assert verified.returncode == 0, verified.stdout


@pytest.fixture(scope="module", params=["flink", "prism"])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with cluster(request.param) as found:
        yield found


def test_an_engine_of_batches_refuses_and_the_archive_is_free() -> None:
    with cluster("spark") as running:
        folder = FOLDER / "refused"
        shutil.rmtree(folder, ignore_errors=True)
        watched = Watched(running, folder)
        watched.put(3)
        watched.start()
        assert watched.process is not None
        said = watched.process.communicate(timeout=120)[1]
        assert watched.process.returncode == 2
        assert "cannot be run here: a pipeline without end" in said.splitlines()[-1]
        assert watched.run().returncode == 0
        watched.check()
        shutil.rmtree(folder)


@pytest.fixture
def watched(running: Running) -> Iterator[Watched]:
    folder = FOLDER / "watched"  # unlike temporary folders, all hosts see it
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = Watched(running, folder)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.end(signal.SIGINT)
    shutil.rmtree(folder)


def test_what_comes_can_be_read_while_it_runs_and_after_it_was_cancelled(watched: Watched) -> None:
    watched.put(5)
    watched.start()
    watched.wait()
    for _ in range(3):
        watched.put(8)
        watched.wait()
    code, said = watched.end(signal.SIGINT)
    assert code == 0, said
    assert "images, 0 failures" in said
    watched.check()
    watched.put(8)
    watched.start()
    watched.wait()
    watched.put(3)
    assert watched.end(signal.SIGTERM)[0] == 0
    assert watched.run().returncode == 0  # takes in what the watch had not found yet
    watched.check()


def test_a_command_that_was_killed_is_given_again_while_its_job_still_runs(watched: Watched) -> None:
    watched.put(5)
    watched.start()
    watched.wait()
    watched.put(10)
    assert watched.end(signal.SIGKILL)[0] != 0
    refused = watched.run()
    assert refused.returncode == 2
    assert "belongs to a job that watches" in refused.stderr
    watched.put(5)
    watched.start()
    watched.wait()
    watched.put(5)
    watched.wait()
    assert watched.end(signal.SIGKILL)[0] != 0
    assert watched.run("--resume").returncode == 0
    watched.check()


@pytest.mark.parametrize("kind", ["executor", "worker", "pool"])
def test_what_ends_and_comes_back_costs_no_file(watched: Watched, kind: str) -> None:
    if watched.running.state["engine"] != "flink":
        pytest.skip("Prism has no executors, and waits for workers that are gone")
    watched.put(5)
    watched.start()
    watched.wait()
    assert watched.process is not None
    rng = random.Random(kind)
    for number in range(6):
        watched.put(2)
        time.sleep(0.4)
        if number == 2:
            assert faults.KINDS[kind](watched.running, rng, watched.process)
    watched.wait()
    watched.put(4)
    watched.wait()
    assert watched.end(signal.SIGINT)[0] == 0
    watched.check()
