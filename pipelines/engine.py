"""Where a pipeline runs: choice of runner and workers, and one clear error from whatever a runner raises.

Without a `--runner` flag the engine is Beam's FnApiRunner: in this process for one worker, a process each for more. It is
named because Beam's own default, DirectRunner, picks among three engines by the pipeline's shape and the network.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import re
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners import create_runner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines.local import WorkerProcesses
from tsae import errors
from tsae.errors import InputError, TsaeError

SMALL_JOB_IMAGES = 16384
"""Below this, starting worker processes (about 5 s of imports each) costs more than they save at 2,000 images/s."""

LOCAL_RUNNERS = {"fnapirunner", "directrunner", "bundlebaseddirectrunner", "prismrunner"}


def choose_workers(wanted: int | None, cores: int, images: int, shards: int, is_shared: bool) -> int:
    """Number of local worker processes.

    Args:
        wanted: What the user asked for; None is to choose.
        cores: Of this machine.
        images: In the job.
        shards: In the job: more workers than shards have nothing to do.
        is_shared: Whether all paths can be seen by other processes; `memory://` cannot.
    """
    if not is_shared or (wanted is None and images < SMALL_JOB_IMAGES):
        return 1
    return max(1, min(cores if wanted is None else wanted, shards))


def check_flags(flags: Sequence[str], workers: int | None) -> None:
    """Refuses flags that Beam does not know, unless a remote runner is named, which may know more, and odd combinations.

    Args:
        flags: Beam flags of the user.
        workers: What the user gave as `--workers`, which is for the local engine.

    Raises:
        InputError: if one cannot be used.
    """
    unknown, runner = _unknown(flags), _runner_name(flags)
    if unknown and (runner is None or runner.lower() in LOCAL_RUNNERS):
        raise InputError(f"{unknown[0]}: neither a flag of this command nor of Beam; see --help")
    if runner is not None and workers is not None:
        raise InputError(f"--workers {workers}: is for the local engine; {runner} has flags of its own for that")
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: at least 1 is needed; leave it out to use all cores")
    try:
        create_runner(runner or "FnApiRunner")
    except (ValueError, ImportError) as error:
        raise InputError(f"--runner={runner}: Beam has none of that name ({' '.join(str(error).split())})") from error


def _unknown(flags: Sequence[str]) -> list[str]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as message:
            return parser.parse_known_args(list(flags))[1]
    except argparse.ArgumentError as error:
        raise InputError(f"{error}; see Beam's documentation of its flags") from error
    except SystemExit as error:
        raise InputError(f"{message.getvalue().strip().splitlines()[-1]}; see Beam's documentation of its flags") from error


def _runner_name(flags: Sequence[str]) -> str | None:
    is_named = any(flag == "--runner" or flag.startswith("--runner=") for flag in flags)
    return str(PipelineOptions(list(flags)).view_as(StandardOptions).runner) if is_named else None


REMOTE_ERROR = re.compile(r"tsae\.errors\.(?P<kind>\w+): (?P<message>.*?)(?: \[while running .*)?$", re.MULTILINE)
"""How a `TsaeError` looks in the traceback text that runners with processes raise."""


def run(build: Callable[[beam.Pipeline], object], workers: int, flags: Sequence[str]) -> dict[str, int]:
    """Builds a pipeline, and runs it to its end on the runner that the flags name, or else on the local engine.

    Args:
        build: Adds the transforms.
        workers: Processes of the local engine; not used where `flags` name a runner.
        flags: Beam flags, known to `check_flags`.

    Returns:
        The pipeline's counters by name.

    Raises:
        TsaeError: what a step raised, wherever it ran, or that a worker process ended.
    """
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # it logs each error's traceback; ours is one line
    if _runner_name(flags) is not None:
        return _run(build, beam.Pipeline(options=PipelineOptions(list(flags))))
    options = PipelineOptions([*flags, f"--direct_num_workers={workers}"])
    if workers == 1:
        return _run(build, beam.Pipeline(FnApiRunner(), options))
    processes = WorkerProcesses()
    try:
        with processes.watch():
            return _run(build, beam.Pipeline(processes.runner(), options))
    finally:
        processes.close()


def _run(build: Callable[[beam.Pipeline], object], pipeline: beam.Pipeline) -> dict[str, int]:
    build(pipeline)
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except Exception as error:
        original = find_tsae_error(error)
        if original is None:
            raise
        raise original from error
    return {counter.key.metric.name: counter.result for counter in result.metrics().query()["counters"]}


def find_tsae_error(error: BaseException) -> TsaeError | None:
    """The `TsaeError` that a runner's exception is, with Beam's addition, or quotes; None if there is none."""
    text = f"tsae.errors.{type(error).__name__}: {error}" if isinstance(error, TsaeError) else str(error)
    matches = list(REMOTE_ERROR.finditer(text))
    kind = getattr(errors, matches[-1]["kind"], None) if matches else None
    return kind(matches[-1]["message"]) if isinstance(kind, type) and issubclass(kind, TsaeError) else None
