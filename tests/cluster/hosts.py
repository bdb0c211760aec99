"""Hosts of a cluster on one machine: network namespaces on a bridge of their own, with processes that are restarted.

A host has an address, a folder for temporary files and a table of processes, all its own; nothing outside sees its network,
and the network does not reach outside. It lives as long as the process that made it: the kernel ends everything on it, also if
that process is killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

NETWORK = "10.77.0"
"""First three bytes of all addresses, which exist only within the namespaces."""

DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")

RESTART_S = 1.0
"""How long a process that has ended stays away."""


@dataclasses.dataclass(frozen=True)
class Host:
    """A host.

    Attributes:
        name: What it is called.
        address: Where its servers listen.
        pid: Of the first process in its namespaces.
        is_private: Whether its folders for temporary files are its own.
    """

    name: str
    address: str
    pid: int
    is_private: bool = True

    def command(self, argv: Sequence[str]) -> list[str]:
        """What to run here to have it run there."""
        mount = ["--mount"] if self.is_private else []
        return [*DIE_WITH_PARENT, "nsenter", "--target", str(self.pid), "--net", *mount, "--pid", f"--wd={os.getcwd()}", *argv]


def make_hosts(names: Sequence[str], public: str, disk_mb: int) -> dict[str, Host]:
    """Makes hosts that reach each other and nothing else.

    Args:
        names: Of all hosts.
        public: The one that sees the folders of this machine as they are.
        disk_mb: Size of the folder for temporary files of each other one.

    Raises:
        OSError: if there can be none.
    """
    try:
        network = _first_process("ip link add lan type bridge && ip link set lan up && ip link set lo up")
    except OSError as error:
        # Pools and engines listen on all addresses and run what they are sent: not on a network that others are in.
        raise OSError("no network namespaces: hosts are kept apart by them, and they need root") from error
    hosts = {}
    for number, name in enumerate(names, start=11):
        # /dev/shm is where tests keep inputs: another host does not have them.
        own = f"mount -t tmpfs -o size={disk_mb}m tmpfs /tmp && mount -t tmpfs -o size=64m tmpfs /dev/shm"
        pid = _first_process(own if name != public else "true")
        address = f"{NETWORK}.{number}"
        _ip(network, f"link add to{number} type veth peer name net0 netns {pid}")
        _ip(network, f"link set to{number} master lan up")
        for change in (f"address add {address}/24 dev net0", "link set net0 up", "link set lo up"):
            _ip(pid, change)
        hosts[name] = Host(name, address, pid, name != public)
    return hosts


def _first_process(prepare: str) -> int:
    """Number of a process in new namespaces, after a shell command there; it ends with this one."""
    script = f"{prepare} && echo ready && exec sleep infinity"
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
    process = subprocess.Popen(
        [*DIE_WITH_PARENT, *unshare, "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise OSError("no namespaces")
    return children(process.pid)[0]


def _ip(pid: int, change: str) -> None:
    subprocess.run(["nsenter", "--target", str(pid), "--net", "ip", *change.split()], check=True)


def children(pid: int) -> list[int]:
    """Processes that a process has started, and that still are."""
    with contextlib.suppress(FileNotFoundError):
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return []


def family(pid: int) -> list[int]:
    """A process and all that came of it."""
    return [pid, *(one for child in children(pid) for one in family(child))]


def is_zombie(pid: int) -> bool:
    """Whether a process has ended, though its parent has not asked how."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


class Service:
    """A process on a host that is started again whenever it ends, as a node's agent would."""

    def __init__(self, name: str, host: Host, argv: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        self.name, self.host, self._argv, self._environment = name, host, argv, dict(os.environ) | environment
        self._log, self._process = logs / f"{name}.log", None
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                self.host.command(self._argv), env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    @property
    def pid(self) -> int | None:
        """Its number as this machine counts; None between two lives."""
        assert self._process is not None
        return next(iter(children(self._process.pid)), None)


def keep(services: Sequence[Service], told: Callable[[], object]) -> None:
    """Restarts what ends, until SIGTERM; calls `told` in each round."""
    end = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: end.set())
    ended_s: dict[str, float] = {}
    while not end.is_set():
        for service in services:
            if not service.has_ended:
                ended_s.pop(service.name, None)
            elif time.monotonic() - ended_s.setdefault(service.name, time.monotonic()) >= RESTART_S:
                service.start()
        told()
        end.wait(0.2)
