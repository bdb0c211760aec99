"""The parent's side of local worker processes: their lease, and what happens when one ends that should not."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import grpc
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from pipelines import worker
from tsae.errors import InputError, TsaeError

LOG_LINES = 30
"""Lines of a worker's log that are shown when it ended for a reason that is not ours."""

NOTICE_S = 3.0
"""How long after another error the end of a worker process may become known."""

BEAM_THREAD = "run_worker"
"""Name of the thread in which Beam waits for a worker process; it raises when the process ends with an error."""


class WorkerProcesses:
    """Local worker processes for one run, as a context manager; without them there is nothing to watch.

    Beam's runner waits for ever for a worker that was killed. Here its end interrupts the run, and the end of the run,
    however it comes, ends the workers.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tsae-workers-")
        self._lease = pathlib.Path(self._folder.name) / "lease"
        self._lease.touch()
        self._ended = ""
        self._is_watching = threading.current_thread() is threading.main_thread()

    def runner(self) -> FnApiRunner:
        """Beam's local engine on these processes."""
        return FnApiRunner(SubprocessSDKEnvironment.from_command_string(worker.command(str(self._lease))))

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """While the block runs, a worker's end interrupts it, and signals end the workers first.

        Raises:
            InputError: if a worker process ended.
        """
        threading.excepthook = self._on_thread_error
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        try:
            if self._is_watching:
                for number, handler in before.items():
                    signal.signal(number, self._release_then(handler))
            yield
        except TsaeError:
            raise
        except BaseException as error:
            if not self._has_worker_ended(error):
                raise
            self._print_logs()
            reason = f"a worker process ended ({self._ended})"
            raise InputError(f"{reason}; run the command again, compress with --resume") from error
        finally:
            self._lease.unlink(missing_ok=True)
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _has_worker_ended(self, error: BaseException) -> bool:
        """Whether a worker's end is behind an error; Beam may notice the closed channel before the process's end."""
        self._is_watching = False
        deadline = time.monotonic() + (NOTICE_S if isinstance(error, Exception) else 0)
        while not self._ended and time.monotonic() < deadline:
            time.sleep(0.05)
        return bool(self._ended)

    def close(self) -> None:
        """Removes the logs."""
        self._folder.cleanup()

    def _release_then(self, handler: Any) -> Any:
        def release(signum: int, frame: FrameType | None) -> None:
            self._lease.unlink(missing_ok=True)
            if signum == signal.SIGUSR1 or not callable(handler):
                raise KeyboardInterrupt
            handler(signum, frame)

        return release

    def _on_thread_error(self, args: Any) -> None:
        if issubclass(args.exc_type, grpc.RpcError):
            return  # a channel to a worker closed: its process's end is told apart from that
        if args.thread is None or args.thread.name != BEAM_THREAD:
            sys.__excepthook__(args.exc_type, args.exc_value, args.exc_traceback)
        elif self._lease.exists():
            self._ended = " ".join(str(args.exc_value).split())
            if self._is_watching:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _print_logs(self) -> None:
        for log in sorted(pathlib.Path(self._folder.name).glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            if "Traceback (most recent call last):" in lines:
                print(f"--- {log.name}", *lines[-LOG_LINES:], sep="\n", file=sys.stderr)
