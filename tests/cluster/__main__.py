"""`python -m tests.cluster flink|spark|prism up|down|run [COMMAND ...]`: a cluster on this machine.

`up` starts one and leaves it running; `down` ends it. `run` runs a command on the cluster's host `driver`: in the one that is
up, or else in one that lives only as long as the command. In the command, `{beam}` stands for Beam's flags.

    python -m tests.cluster flink run tsae compress s3://signs/in s3://signs/archive {beam}
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.cluster import engines, hosts, software

STATE = software.FOLDER / "run"
"""Configuration, logs and `state.json`, which tells the processes of the cluster that is up."""

START_S = 120.0


class Running:
    """A cluster that is up."""

    def __init__(self) -> None:
        """Finds it.

        Raises:
            FileNotFoundError: if none is up.
        """
        self.state = self.read()

    @staticmethod
    def read() -> dict[str, Any]:
        return dict(json.loads((STATE / "state.json").read_text()))

    @property
    def flags(self) -> list[str]:
        """For Beam."""
        return list(self.state["flags"])

    def pid(self, service: str) -> int | None:
        """The number that a process has now, between all its lives."""
        found = self.read()["services"][service]
        return int(found) if found is not None else None

    def command(self, argv: Sequence[str]) -> list[str]:
        """A command to be run on the host `driver`, with Beam's flags in place of `{beam}`."""
        words = [word for given in argv for word in (self.flags if given == "{beam}" else [given])]
        return hosts.Host(**self.state["driver"]).command(words)

    def start(self, argv: Sequence[str], **facts: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(argv), env=os.environ | self.state["environment"], text=True, **facts)

    def run(self, argv: Sequence[str], **facts: Any) -> subprocess.CompletedProcess[str]:
        environment = os.environ | self.state["environment"]
        return subprocess.run(self.command(argv), env=environment, text=True, check=False, **facts)


def up(engine: str, disk_mb: int = 512, dies_with_us: bool = False) -> Running:
    """Starts a cluster and waits until all of it answers.

    Args:
        engine: "flink", "spark" or "prism".
        disk_mb: Size of each node's folder for temporary files.
        dies_with_us: Whether it ends with this process, however that ends.

    Raises:
        RuntimeError: if one is up already, or this one does not come up; its logs are in `STATE`.
    """
    STATE.mkdir(parents=True, exist_ok=True)
    if is_up():
        raise RuntimeError("a cluster is up already; end it with `down`")
    with contextlib.suppress(FileNotFoundError):
        (STATE / "state.json").unlink()
    keeper = [sys.executable, "-m", "tests.cluster", engine, "keep", str(disk_mb)]
    with (STATE / "keeper.log").open("wb") as log:
        process = subprocess.Popen(
            [*(hosts.DIE_WITH_PARENT if dies_with_us else ()), *keeper],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )
    while not (STATE / "state.json").exists():
        if process.poll() is not None:
            raise RuntimeError(f"the cluster did not come up: {(STATE / 'keeper.log').read_text()[-2000:]}")
        time.sleep(0.1)
    return Running()


def is_up() -> bool:
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def down() -> None:
    """Ends the cluster that is up, if there is one, and waits until nothing of it is left."""
    if not is_up():
        return
    keeper = int((STATE / "lock.pid").read_text())
    if not _is_keeper(keeper):  # it is just starting, or another process asks the same
        raise RuntimeError("a cluster is starting or ending; try again")
    members = hosts.family(keeper)
    os.kill(keeper, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() and not hosts.is_zombie(pid) for pid in members):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(keeper, signal.SIGKILL)
        time.sleep(0.05)


def _is_keeper(pid: int) -> bool:
    """Whether a process is one of these: numbers are given again."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b"tests.cluster" in words and b"keep" in words
    return False


@contextlib.contextmanager
def cluster(engine: str, disk_mb: int = 512) -> Iterator[Running]:
    """A cluster for the time of a block."""
    running = up(engine, disk_mb, dies_with_us=True)
    try:
        yield running
    finally:
        down()


def keep(engine: str, disk_mb: int) -> None:
    """The life of a cluster, until SIGTERM."""
    lock = (STATE / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.set_inheritable(lock.fileno(), False)
    (STATE / "lock.pid").write_text(str(os.getpid()))
    for log in STATE.glob("*-*.log"):
        log.unlink()
    made = hosts.make_hosts(engines.HOSTS, "driver", disk_mb)
    plan, environment = engines.plan(engine, made, STATE), engines.environment(made)
    services = []
    for spec in plan.specs:
        service = hosts.Service(spec.name, made[spec.host], spec.argv, environment, STATE)
        services.append(service)
    for spec in plan.specs:
        if spec.port is not None:
            _wait_for_port(made[spec.host], spec.port)
    if engine == "flink":
        _wait_for_slots(made["driver"], f"http://{made['head'].address}:8081/overview")
    facts = {
        "engine": engine,
        "versions": plan.versions,
        "flags": plan.flags,
        "environment": environment,
        "keeper": os.getpid(),
        "driver": vars(made["driver"]),
        "hosts": {name: host.address for name, host in made.items()},
    }

    def tell() -> None:
        new = STATE / "state.new"
        new.write_text(json.dumps({**facts, "services": {service.name: service.pid for service in services}}, indent=1))
        new.rename(STATE / "state.json")

    hosts.keep(services, tell)


def _wait_for_port(host: hosts.Host, port: int) -> None:
    address = "localhost" if port == engines.POOL_PORT else host.address
    probe = f"import socket; socket.create_connection(({address!r}, {port}), 1).close()"
    deadline = time.monotonic() + START_S
    while subprocess.run(host.command([sys.executable, "-c", probe]), stderr=subprocess.DEVNULL, check=False).returncode:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{host.name}:{port} does not answer")
        time.sleep(0.2)


def _wait_for_slots(driver: hosts.Host, url: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        found = subprocess.run(driver.command(["curl", "-s", url]), capture_output=True, check=False).stdout
        with contextlib.suppress(ValueError, KeyError):  # at first it answers that it is not there yet
            if json.loads(found)["slots-total"] >= len(engines.NODES) * engines.SLOTS:
                return
        time.sleep(0.3)
    raise TimeoutError("Flink's task managers did not come")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("engine", choices=["flink", "spark", "prism"])
    parser.add_argument("action", choices=["up", "down", "run", "keep"])
    parser.add_argument("command", nargs=argparse.REMAINDER, help="for run")
    args = parser.parse_args()
    if args.action == "keep":
        keep(args.engine, int(args.command[0]))
    elif args.action == "down":
        down()
    elif args.action == "up":
        running = up(args.engine)
        print(f"{running.state['versions']}; Beam's flags: {' '.join(running.flags)}")
    else:
        with contextlib.nullcontext(Running()) if is_up() else cluster(args.engine) as running:
            return running.run(args.command).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
