"""The process of a command: runs what was parsed, and turns every end into an exit code and at most one line."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from tsae import __version__, log
from tsae.cli.parser import EXIT_REFUSED, parse, parse_pipeline
from tsae.errors import TsaeError

EXIT_BUG = 70


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments after the program's name; None takes the process's own.

    Returns:
        Exit code: 0 done, 1 some inputs failed or keys are not there, 2 refused, 70 a bug, 130 or 143 interrupted.
    """
    return _guarded(parse, sys.argv[1:] if argv is None else argv)


def main_of_program() -> NoReturn:
    """The process of `tsae`, which is nobody else's."""
    from tsae.imports import do_without_pandas

    do_without_pandas()
    sys.exit(main())


def main_of_pipeline(command: str, argv: Sequence[str]) -> int:
    """Runs `compress` or `decompress` with `--input` and `--output` in place of the two paths; see `main`."""
    return _guarded(lambda arguments: parse_pipeline(command, arguments), argv)


def _guarded(how: Callable[[Sequence[str]], tuple[argparse.Namespace, list[str]]], argv: Sequence[str]) -> int:
    """Runs what was parsed, and turns every expected end into an exit code and at most one line."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with log.json_lines("--log-json" in argv), _catch_signals() as received:
        try:
            args, flags = how(argv)
            return int(args.run(args, flags))
        except TsaeError as error:
            log.say("refused", " ".join(str(error).split()), "error", error=type(error).__name__, exit_code=EXIT_REFUSED)
            return EXIT_REFUSED
        except BrokenPipeError:  # whoever read our output has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except BaseException as error:  # Beam turns the interruption of a step into another exception
            if not received and isinstance(error, Exception):
                return _report_bug()
            if not received:
                raise
            log.say("interrupted", "interrupted", "warning", exit_code=128 + received[0])
            return 128 + received[0]


def _report_bug() -> int:
    """Prints a traceback; its exit code is not that of failed images."""
    if log.is_json():
        log.tell("bug", "error", traceback=traceback.format_exc(), version=__version__, exit_code=EXIT_BUG)
        return EXIT_BUG
    traceback.print_exc()
    print(f"tsae {__version__}: this is a bug; please report it with the lines above", file=sys.stderr)
    return EXIT_BUG


@contextlib.contextmanager
def _catch_signals() -> Iterator[list[int]]:
    """Within the block SIGINT and SIGTERM interrupt, and are added to the list that it yields; a second one ends at once."""
    received: list[int] = []

    def interrupt(signum: int, frame: Any) -> NoReturn:
        received.append(signum)
        if len(received) > 1:
            os._exit(128 + signum)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
