"""Where a pipeline runs: choice of runner and workers, and one clear error from whatever a runner raises.

Without a `--runner` flag the engine is Beam's FnApiRunner: in this process for one worker, a process each for more. It is
named because Beam's own default, DirectRunner, picks among three engines by the pipeline's shape and the network.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import logging
import pathlib
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from tsae import errors
from tsae.errors import InputError, TsaeError

SMALL_JOB_IMAGES = 16384
"""Below this, starting worker processes (about 5 s of imports each) costs more than they save at 2,000 images/s."""

LOG_LINES = 50
"""Lines of a worker's log that are shown when it ended for a reason that is not ours."""

LOCAL_RUNNERS = {"FnApiRunner", "DirectRunner", "BundleBasedDirectRunner", "PrismRunner"}


def choose_workers(wanted: int | None, cores: int, images: int, shards: int, is_shared: bool) -> int:
    """Number of local worker processes.

    Args:
        wanted: What the user asked for; None is to choose.
        cores: Of this machine.
        images: In the job.
        shards: In the job: more workers than shards have nothing to do.
        is_shared: Whether all paths can be seen by other processes; `memory://` cannot.

    Raises:
        InputError: if fewer than one is wanted.
    """
    check_workers(wanted)
    if not is_shared or (wanted is None and images < SMALL_JOB_IMAGES):
        return 1
    return max(1, min(cores if wanted is None else wanted, shards))


def check_workers(wanted: int | None) -> None:
    """Refuses a number of workers that makes no sense.

    Raises:
        InputError: if fewer than one is wanted.
    """
    if wanted is not None and wanted < 1:
        raise InputError(f"--workers {wanted}: at least 1 is needed; leave it out to use all cores")


def check_flags(flags: Sequence[str]) -> None:
    """Refuses flags that Beam does not know, unless a remote runner is named, which may know more.

    Raises:
        InputError: if there is one.
    """
    unknown = _unknown(flags)
    is_local = not _names_runner(flags) or PipelineOptions(list(flags)).view_as(StandardOptions).runner in LOCAL_RUNNERS
    if unknown and is_local:
        raise InputError(f"{unknown[0]}: neither a flag of this command nor of Beam; see --help")


def _names_runner(flags: Sequence[str]) -> bool:
    return any(flag == "--runner" or flag.startswith("--runner=") for flag in flags)


def make_pipeline(workers: int, flags: Sequence[str]) -> beam.Pipeline:
    """An empty pipeline on the runner that the flags name, or else on the local engine.

    Args:
        workers: Processes of the local engine; not used where `flags` name a runner.
        flags: Beam flags of the user.
    """
    if _names_runner(flags):
        return beam.Pipeline(options=PipelineOptions(list(flags)))
    return beam.Pipeline(_local_runner(workers), PipelineOptions([*flags, f"--direct_num_workers={workers}"]))


def _local_runner(workers: int) -> FnApiRunner:
    if workers == 1:
        return FnApiRunner()
    command = shlex.join([sys.executable, "-m", "pipelines.worker", _worker_logs()])
    return FnApiRunner(SubprocessSDKEnvironment.from_command_string(command))


@functools.cache
def _worker_logs() -> str:
    """A folder for the logs of worker processes, which goes when this process ends."""
    folder = tempfile.mkdtemp(prefix="tsae-workers-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _unknown(flags: Sequence[str]) -> list[str]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return parser.parse_known_args(list(flags))[1]


REMOTE_ERROR = re.compile(r"tsae\.errors\.(?P<kind>\w+): (?P<message>.*?)(?: \[while running .*)?$", re.MULTILINE)
"""How a `TsaeError` looks in the traceback text that runners with processes raise."""


def run(pipeline: beam.Pipeline) -> dict[str, int]:
    """Runs a pipeline to its end.

    Returns:
        Its counters by name.

    Raises:
        TsaeError: what a step raised, wherever it ran.
    """
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # it logs each error's traceback; ours is one line
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except Exception as error:
        original = find_tsae_error(error)
        if original is None:
            _print_worker_logs()
            raise
        raise original from error
    return {counter.key.metric.name: counter.result for counter in result.metrics().query()["counters"]}


def _print_worker_logs() -> None:
    for log in pathlib.Path(_worker_logs()).iterdir():
        print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-LOG_LINES:], sep="\n", file=sys.stderr)


def find_tsae_error(error: BaseException) -> TsaeError | None:
    """The `TsaeError` that a runner's exception is, with Beam's addition, or quotes; None if there is none."""
    text = f"tsae.errors.{type(error).__name__}: {error}" if isinstance(error, TsaeError) else str(error)
    matches = list(REMOTE_ERROR.finditer(text))
    kind = getattr(errors, matches[-1]["kind"], None) if matches else None
    return kind(matches[-1]["message"]) if isinstance(kind, type) and issubclass(kind, TsaeError) else None
