"""How a run came to a state of an archive, for operators; no reader needs it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from tsae import archive as ar
from tsae.errors import InputError

if TYPE_CHECKING:
    from tsae.jobs.job_folder import CompressJob
    from tsae.jobs.task_results import TaskResult

PACKAGES = ("tsae", "apache-beam", "numpy", "onnxruntime", "pillow", "pyarrow", "torch")
"""Whose versions may matter."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """How a run began, as the process that began it knows.

    Attributes:
        engine: "local", or the name of Beam's runner.
        workers: Processes of the local engine; None where an engine of its own decides.
        started_s: When, in seconds since 1970.
        stages_s: Seconds that it took until the tasks could begin, by stage.
    """

    engine: str
    workers: int | None
    started_s: float
    stages_s: dict[str, float]


def write_run_report(job: CompressJob, manifest: ar.Manifest, results: Sequence[TaskResult]) -> None:
    """Writes the report of a run that has committed; where that fails, there is none.

    Args:
        job: The job.
        manifest: What it committed.
        results: Of all tasks of the job, those of earlier runs included.
    """
    if job.launch is not None:
        report = (json.dumps(describe_run(job, job.launch, manifest, results), indent=1) + "\n").encode()
        with contextlib.suppress(InputError):
            ar.write(job.archive, ar.run_name(ar.digest(manifest.to_json()), ar.digest(report)), report)


def describe_run(job: CompressJob, launch: Launch, manifest: ar.Manifest, results: Sequence[TaskResult]) -> dict[str, Any]:
    """The report as JSON can hold it.

    Seconds of read, encode and write are sums over tasks, so of all workers together, and like the counts they are of all
    runs of a job that was resumed; `wall_s` is of the last one, by the clocks of where it began and where it was committed.
    """
    ended_s = time.time()
    stages_s = Counter(launch.stages_s)
    for result in results:
        stages_s.update(result.stages_s)
    return {
        "command": "compress",
        "engine": launch.engine,
        "workers": launch.workers,
        "device": job.device,
        "committed_on": socket.gethostname(),
        "platform": f"{platform.platform()}, Python {platform.python_version()}",
        "versions": _versions(),
        "started": _utc(launch.started_s),
        "ended": _utc(ended_s),
        "wall_s": round(max(0.0, ended_s - launch.started_s), 3),
        "stages_s": {stage: round(seconds, 3) for stage, seconds in stages_s.items()},
        "tasks": job.tasks,
        "images_written": sum(result.images for result in results),
        "images_kept_readable": sum(result.kept.images for result in results),
        "bytes_kept_readable": sum(result.kept.bytes for result in results),
        "images_failed": sum(result.failures.rows for result in results if result.failures),
        "bytes_read": sum(result.source_bytes for result in results),
        "bytes_written": sum(result.shard.bytes for result in results if result.shard),
        "archive": dataclasses.asdict(manifest.counts),
    }


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
