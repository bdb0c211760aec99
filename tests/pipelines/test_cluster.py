"""The jobs on clusters: what Flink, Spark and Prism make is what this machine makes alone, to the byte.

Nodes are network namespaces; between them is an S3 server. `tests/cluster` starts all that; see README.md, "On a cluster".
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tsae.signs import write_signs

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.cluster import hosts, store
from tests.cluster.__main__ import Running, cluster
from tests.pipelines.test_own_classifier import write_own

pytestmark = pytest.mark.cluster

SIGNS, SHARD_IMAGES = 120, 9
"""14 tasks become 16 shards: more than there are slots."""


@dataclasses.dataclass(frozen=True)
class Lab:
    """A cluster, a folder of images on its host `driver`, and the same images in its store."""

    running: Running
    images: Path
    source: str

    def python(self, *argv: str) -> str:
        ended = self.running.run([sys.executable, "-m", *argv], capture_output=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def put(self, folder: Path, url: str) -> str:
        self.python("tests.cluster.bucket", "put", str(folder), url)
        return url

    def digests(self, *urls: str) -> list[dict[str, str]]:
        return list(json.loads(self.python("tests.cluster.bucket", "digests", *urls)))

    def tsae(self, *argv: str) -> Any:
        """Runs `tsae` with small shards; `{beam}` in place of Beam's flags."""
        command = [sys.executable, "-m", "tests.cluster.small", str(SHARD_IMAGES), *argv]
        return self.running.run(command, capture_output=True, timeout=180)

    def start(self, *argv: str) -> Any:
        return self.running.start([sys.executable, "-m", "tests.cluster.small", str(SHARD_IMAGES), *argv])


@pytest.fixture(scope="module", params=["flink", "spark", "prism"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    images = tmp_path_factory.mktemp("cluster") / "images"
    write_signs(images, SIGNS, seed=5)
    (images / "broken.png").write_bytes(b"no image")
    with cluster(request.param) as running:
        made = Lab(running, images, "s3://signs/in")
        made.put(images, made.source)
        yield made


@pytest.fixture
def url() -> str:
    """A new folder in the bucket."""
    return f"s3://signs/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def local(lab: Lab) -> str:
    """The archive that one process without Beam makes; not to be changed."""
    ended = lab.tsae("compress", lab.source, "s3://signs/local", "--workers=1")
    assert ended.returncode == 1, ended.stderr  # as one image is none
    return "s3://signs/local"


def test_the_archive_is_that_of_one_process(lab: Lab, local: str, url: str) -> None:
    ended = lab.tsae("compress", lab.source, url, "{beam}")
    assert ended.returncode == 1, ended.stderr
    assert f"{url}: {SIGNS} images, 1 failed, 1 other file skipped" in ended.stdout
    expected, found = lab.digests(local, url)
    assert found == expected
    assert sum(name.startswith("shards/") for name in found) == 16
    again = lab.tsae("compress", lab.source, url, "{beam}", "--allow-failures")
    assert "nothing has changed" in again.stdout
    assert again.returncode == 0


def test_workers_elsewhere_ask_the_classifier_of_the_command(lab: Lab, tmp_path: Path, url: str) -> None:
    """Which they have not installed: it is in the folder of the job."""
    own = write_own(tmp_path / "own.safetensors")
    command = ["compress", lab.source, "--quality=1", "--keep-readable", "--classifier", own, "--allow-failures"]
    alone, ended = lab.tsae(*command, f"{url}/one", "--workers=1"), lab.tsae(*command, f"{url}/many", "{beam}")
    assert alone.returncode == ended.returncode == 0, alone.stderr + ended.stderr
    one, many = lab.digests(f"{url}/one", f"{url}/many")
    assert many == one
    assert " stored better to stay readable, +" in ended.stdout


def test_the_images_are_those_of_one_process(lab: Lab, local: str, url: str) -> None:
    assert lab.tsae("decompress", local, f"{url}/one", "--workers=1").returncode == 0
    ended = lab.tsae("decompress", local, f"{url}/many", "{beam}")
    assert ended.returncode == 0, ended.stderr
    assert f"{SIGNS} images written, " in ended.stdout
    one, many = lab.digests(f"{url}/one", f"{url}/many")
    assert len(one) == SIGNS
    assert many == one
    assert f"0 images written, {SIGNS} there already" in lab.tsae("decompress", local, f"{url}/many", "{beam}").stdout


def test_an_archive_is_brought_up_to_date(lab: Lab, tmp_path: Path, url: str) -> None:
    own, states = lab.put(lab.images, f"{url}/in"), [f"{url}/one", f"{url}/many"]
    for state, flags in zip(states, ("--workers=1", "{beam}"), strict=True):
        assert lab.tsae("compress", own, state, "--allow-failures", flags).returncode == 0
    changed = sorted(path.relative_to(lab.images) for path in lab.images.rglob("*.png"))[7]
    for name in ("new.png", changed):
        path = tmp_path / "changes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 40), (200, 20, 20)).save(path)
    lab.put(tmp_path / "changes", own)
    for state, flags in zip(states, ("--workers=1", "{beam}"), strict=True):
        assert "(1 new, 1 changed)" in lab.tsae("compress", own, state, "--allow-failures", flags).stdout
    one, many = lab.digests(*states)
    assert many == one


def test_a_job_whose_command_was_killed_is_resumed_while_the_cluster_works_on(lab: Lab, local: str, url: str) -> None:
    process = lab.start("compress", lab.source, url, "{beam}")
    while process.poll() is None and not any("/done/" in name for name in lab.digests(url)[0]):
        time.sleep(0.1)
    for command in hosts.children(process.pid):  # itself only brings that to its host
        os.kill(command, signal.SIGKILL)
    process.wait()
    ended = lab.tsae("compress", lab.source, url, "{beam}", "--resume")
    assert ended.returncode == 1, ended.stderr
    expected, found = lab.digests(local, url)
    assert found == expected


def test_a_store_that_fails_now_and_then_costs_nothing_but_time(lab: Lab, local: str, url: str) -> None:
    faults = f"{lab.running.state['environment']['AWS_ENDPOINT_URL']}{store.CONTROL}"
    lab.running.run(["curl", "-s", f"{faults}?error=0.03&seed=4"], capture_output=True)
    ended = lab.tsae("compress", lab.source, url, "{beam}")
    done = ast.literal_eval(lab.running.run(["curl", "-s", faults], capture_output=True).stdout)
    assert ended.returncode == 1, ended.stderr
    assert done["errors"] > 0
    expected, found = lab.digests(local, url)
    assert found == expected


def test_what_a_step_refuses_is_one_line_here(lab: Lab, local: str) -> None:
    ended = lab.tsae("decompress", local, "s3://no-such-bucket/out", "{beam}")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("tsae: error: s3://no-such-bucket/out")


def test_a_job_server_that_is_not_there_is_one_line(lab: Lab, local: str, url: str) -> None:
    flags = [flag if not flag.startswith("--job_endpoint") else "--job_endpoint=127.0.0.1:1" for flag in lab.running.flags]
    ended = lab.tsae("decompress", local, url, *flags, "--job_server_timeout=3")
    assert ended.returncode == 2, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("tsae: error: --runner=PortableRunner: its job server does not answer")
