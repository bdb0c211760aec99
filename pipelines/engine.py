"""Where a pipeline runs on Beam: the runner, and one clear error from whatever a runner raises.

Where flags name no runner, it is Beam's FnApiRunner in this process. It is named because Beam's own default,
DirectRunner, picks among three engines by the pipeline's shape and the network.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import re
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners import create_runner
from apache_beam.runners.runner import PipelineResult

from tsae import errors
from tsae.errors import InputError, TsaeError

DEFAULT_RUNNER = "FnApiRunner"

LOCAL_RUNNERS = {"fnapirunner", "directrunner", "bundlebaseddirectrunner", "prismrunner"}


def check_flags(flags: Sequence[str]) -> None:
    """Refuses flags that Beam does not know, unless a remote runner is named, which may know more.

    Args:
        flags: Beam flags of the user.

    Raises:
        InputError: if one cannot be used.
    """
    unknown, runner = _unknown(flags), runner_name(flags)
    if unknown and runner.lower() in LOCAL_RUNNERS:
        raise InputError(f"{unknown[0]}: neither a flag of this command nor of Beam; see --help")
    try:
        create_runner(runner)
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


def runner_name(flags: Sequence[str]) -> str:
    """The runner that Beam flags name, or the one for where they name none."""
    is_named = any(flag == "--runner" or flag.startswith("--runner=") for flag in flags)
    return str(PipelineOptions(list(flags)).view_as(StandardOptions).runner) if is_named else DEFAULT_RUNNER


BOUNDED_RUNNERS = {"fnapirunner", "directrunner", "switchingdirectrunner", "bundlebaseddirectrunner", "sparkrunner"}
"""Those that look at what has no end once, and then are done, or that cannot run it."""


def check_endless(flags: Sequence[str]) -> None:
    """Refuses a runner that cannot run a pipeline without end.

    Args:
        flags: Beam flags of the user.

    Raises:
        InputError: if it cannot.
    """
    name = runner_name(flags)
    if name.rpartition(".")[2].lower() in BOUNDED_RUNNERS:
        rule = "cannot run what has no end, which --watch is"
        raise InputError(f"--runner={name}: {rule}; name Flink's or Prism's, or leave Beam's flags out to watch from here")


REMOTE_ERROR = re.compile(r"tsae\.errors\.(?P<kind>\w+): (?P<message>.*?)(?: \[while running .*)?$", re.MULTILINE)
"""How a `TsaeError` looks in the traceback text that runners with processes raise."""


def run(build: Callable[[beam.Pipeline], object], flags: Sequence[str]) -> None:
    """Builds a pipeline, and runs it to its end on the runner that the flags name.

    What it counted is not asked for: Prism 2.77 leaves out a bundle's last counts now and then, and a bundle that any
    runner repeats may count twice.

    Args:
        build: Adds the transforms.
        flags: Beam flags, known to `check_flags`.

    Raises:
        TsaeError: what a step raised, wherever it ran, or that the engine failed.
    """
    name = runner_name(flags)
    with _quiet():
        pipeline = _make_pipeline(name, flags)
        build(pipeline)
        try:
            _wait(pipeline.run())
        except KeyboardInterrupt as error:
            _stop_waiting(error)
            raise
        except Exception as error:
            _stop_waiting(error)
            original = find_tsae_error(error) or find_failure(error, name)
            if original is None:
                raise
            raise original from error


def _make_pipeline(name: str, flags: Sequence[str]) -> beam.Pipeline:
    try:
        return beam.Pipeline(name, PipelineOptions(list(flags)))
    except ValueError as error:  # a flag that this runner needs is missing
        raise InputError(f"--runner={name}: {_shorten(str(error))}; see Beam's documentation of its flags") from error


def _wait(result: PipelineResult) -> None:
    """Waits for a job's end; an interruption is its end on the engine too."""
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):  # of all that the engine may answer, none helps who wants to leave
            result.cancel()
        raise


def _stop_waiting(error: BaseException) -> None:
    """Ends what Beam has waited for in vain: its thread would stay in gRPC, and children forked from now on could crash.

    Beam 2.77 lets go of a job server that does not answer without a word to gRPC, whose thread watches the channel for ever.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        waiting = frame.f_locals.get("self")
        if isinstance(waiting, grpc.Future) and not waiting.done():
            waiting.cancel()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, Beam does not log each error's traceback: ours is one line."""
    root, beams = logging.getLogger(), logging.getLogger("apache_beam")
    level = beams.level
    beams.setLevel(logging.CRITICAL)
    root.addFilter(_is_ours)
    try:
        yield
    finally:
        root.removeFilter(_is_ours)
        beams.setLevel(level)


def _is_ours(record: logging.LogRecord) -> bool:
    # What a job server tells, Beam logs by the root logger.
    return record.module != "portable_runner"


JOB_FAILURE = re.compile(r"Pipeline \S+ failed in state (?P<state>\w+): (?P<reason>.*)", re.DOTALL)
"""What Beam raises where a job server says that a job has ended."""

IN_STEP = "[while running "
"""What runners in this process add to an exception of a step."""

TRACEBACK = "Traceback (most recent call last)"
"""In what an engine tells of an exception in a step of ours; without it, the engine itself has failed."""


def find_failure(error: BaseException, runner: str) -> InputError | None:
    """What to tell where an engine, and no step, has failed: it cannot be reached, lost too many workers, or was told to stop.

    Args:
        error: What Beam raised.
        runner: Name of Beam's runner.

    Returns:
        None if it is a bug.
    """
    found = JOB_FAILURE.match(str(error))
    if isinstance(error, grpc.FutureTimeoutError):
        reason = "its job server does not answer; check --job_endpoint, and"
    elif isinstance(error, grpc.RpcError):
        reason = f"its job server cannot be reached, or refuses ({_shorten(_details(error))}); check --job_endpoint, and"
    elif isinstance(error, OSError) and IN_STEP not in str(error):
        reason = f"it cannot be started ({_shorten(str(error))});"
    elif found and TRACEBACK not in found["reason"]:
        reason = f"the job ended as {found['state']} ({_shorten(found['reason'])});"
    else:
        return None
    return InputError(f"--runner={runner}: {reason} run the command again, with --resume where it asks for that")


def _details(error: grpc.RpcError) -> str:
    return str(error.details()) if hasattr(error, "details") else str(error)


def _shorten(text: str) -> str:
    """The first line, at most as long as one of a terminal or two."""
    return textwrap.shorten(text.strip().partition("\n")[0], 200, placeholder=" ...")


def find_tsae_error(error: BaseException) -> TsaeError | None:
    """The `TsaeError` that a runner's exception is, with Beam's addition, or quotes; None if there is none.

    Of a traceback it must be the last: what another exception came of is not what ended the step.
    """
    text = f"tsae.errors.{type(error).__name__}: {error}" if isinstance(error, TsaeError) else str(error)
    matches = list(REMOTE_ERROR.finditer(text))
    is_last = bool(matches) and TRACEBACK not in text[matches[-1].end() :]
    kind = getattr(errors, matches[-1]["kind"], None) if is_last else None
    return kind(matches[-1]["message"]) if isinstance(kind, type) and issubclass(kind, TsaeError) else None
