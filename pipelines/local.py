"""The local engine: the steps of a job on all cores of this machine, in worker processes or in this one. No Beam, no torch.

Workers are forked from one process that has imported numpy and the like once, so that many start as fast as one. The
work is handed out task by task over a pipe to each; a worker that dies ends the job at once, and workers end with this
process, however it ends: their pipe closes.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from types import FrameType, TracebackType
from typing import Any, TypeVar

from tsae.errors import InputError, TsaeError
from tsae.imports import do_without_pandas

T = TypeVar("T")
J = TypeVar("J")

SMALL_JOB_IMAGES = 4096
"""Up to this, one shard and some 2 s of work, a job stays in this process."""

PRELOADED = ["onnxruntime", "onnx", "pyarrow.parquet", "pyarrow.compute", "PIL.Image", "fsspec", "safetensors.numpy"]
"""What workers share with the process that they are forked from. Nothing of ours: they import that as their parent does."""

HAS_FORKSERVER = "forkserver" in multiprocessing.get_all_start_methods()

TERMINATE_S = 1.0
"""How long workers have to end by themselves."""

END_S = 5.0
"""How long to wait for a process that was killed."""


def check_flags(workers: int | None, flags: Sequence[str]) -> None:
    """Refuses flags that cannot be.

    Args:
        workers: What the user gave as `--workers`.
        flags: For Beam, which then does the work.

    Raises:
        InputError: if one cannot be used.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: at least 1 is needed; leave it out to use all cores")
    if workers is not None and flags:
        raise InputError(f"--workers {workers}: is for the local engine, {flags[0]} for Beam, which has its own")
    if flags:
        from pipelines import engine

        engine.check_flags(flags)


def choose_workers(wanted: int | None, cores: int, images: int, tasks: int, is_shared: bool) -> int:
    """Number of local processes that do the work.

    Args:
        wanted: What the user asked for; None is to choose.
        cores: Of this machine.
        images: In the job.
        tasks: In the job: more workers than tasks have nothing to do.
        is_shared: Whether all paths can be seen by other processes; `memory://` cannot.
    """
    if not is_shared or (wanted is None and images <= SMALL_JOB_IMAGES):
        return 1
    return max(1, min(cores if wanted is None else wanted, tasks))


def start_early(workers: int | None, cores: int, flags: Sequence[str]) -> None:
    """Begins what workers will wait for, while the job is still being listed, if there may be any.

    Args:
        workers: What the user gave as `--workers`.
        cores: Of this machine.
        flags: For Beam.
    """
    if HAS_FORKSERVER and not flags and (cores if workers is None else workers) > 1:
        with contextlib.suppress(OSError):  # which then says so once workers are needed
            _start_server()


class Workers:
    """Processes that call functions, or for a single one this process; as a context manager, they end with the block."""

    def __init__(self, count: int) -> None:
        """Starts them.

        Args:
            count: How many; 1 is this process itself.
        """
        self.count = count
        self._workers = _start(count) if count > 1 else {}

    def call_each(self, function: Callable[..., T], *args: Any) -> list[T]:
        """What a function returns in each of them, called in all at once: what it loads they all have.

        Raises:
            TsaeError: if the function does, or a process ended.
        """
        if not self._workers:
            return [function(*args)]
        for connection in self._workers:
            self._send(connection, (_Applied(function), args, None))
        return [self._receive(connection) for connection in self._workers]

    def map(self, function: Callable[[Any, J], T], items: Sequence[Any], job: J) -> list[T]:
        """What the function returns for each item and the job, in their order; idle workers take the next item.

        Raises:
            TsaeError: the first that a function raises, or that a worker process ended.
        """
        if not self._workers:
            return [function(item, job) for item in items]
        results: dict[int, T] = {}
        left = collections.deque(enumerate(items))
        busy: dict[Connection, int] = {}
        while left or busy:
            for connection in self._workers.keys() - busy.keys():
                if left:
                    busy[connection], item = left.popleft()
                    self._send(connection, (function, item, job))
            for ready in multiprocessing.connection.wait(list(busy)):
                assert isinstance(ready, Connection)  # noqa: S101 (for the type checker)
                results[busy.pop(ready)] = self._receive(ready)
        return [results[number] for number in range(len(items))]

    def _send(self, connection: Connection, task: Any) -> None:
        try:
            connection.send(task)
        except OSError as error:
            raise self._ended(connection) from error

    def _receive(self, connection: Connection) -> Any:
        try:
            result, error = connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended(connection) from error
        if error is not None:
            raise error
        return result

    def _ended(self, connection: Connection) -> InputError:
        process = self._workers[connection]
        process.join(END_S)
        code = process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"code {code}"
        return InputError(f"a worker process ended ({how}); run the command again, with --resume where it asks for that")

    def __enter__(self) -> Workers:
        """Returns itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the processes, whatever they are doing."""
        _end(self._workers)


class _Applied:
    """A function of several arguments as one of an item and a job."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, args: tuple[Any, ...], job: None) -> Any:
        return self._function(*args)


def _start(count: int) -> dict[Connection, Any]:
    """Processes by the connections to them."""
    context: Any = multiprocessing.get_context("forkserver" if HAS_FORKSERVER else "spawn")
    workers: dict[Connection, Any] = {}
    try:
        with _without_main():
            if HAS_FORKSERVER:
                _start_server()
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, dict(os.environ)), daemon=True)
                process.start()
                theirs.close()
                workers[ours] = process
    except OSError as error:
        _end(workers)
        reason = error.strerror or error
        raise InputError(f"{count} worker processes: cannot be started ({reason}); ask for fewer with --workers") from error
    except BaseException:
        _end(workers)
        raise
    return workers


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Within the block, new processes do not run the main script again: they need nothing of it."""
    main = sys.modules["__main__"]
    facts = {name: getattr(main, name) for name in ("__spec__", "__file__") if hasattr(main, name)}
    try:
        main.__spec__ = None
        vars(main).pop("__file__", None)
        yield
    finally:
        vars(main).update(facts)


def _start_server() -> None:
    """Starts the process that workers are forked from, if it does not run, such that Ctrl-C ends it without a word."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    multiprocessing.resource_tracker.ensure_running()  # first, as it would let SIGINT through again
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _end(workers: dict[Connection, Any]) -> None:
    """Ends processes, whatever they are doing: first such that they can remove half a file."""
    for connection, process in workers.items():
        process.terminate()
        connection.close()
    deadline = time.monotonic() + TERMINATE_S
    for process in workers.values():
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join(END_S)


def _serve(connection: Connection, environ: dict[str, str]) -> None:
    """The life of a worker, with the environment that its parent has now: that of the fork may be older."""
    os.environ.clear()
    os.environ.update(environ)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent as well, which ends its workers
    signal.signal(signal.SIGTERM, _end_itself)
    do_without_pandas()
    gc.freeze()  # else each collection would copy what is shared with the process that this one was forked from
    with contextlib.suppress(EOFError, OSError):  # the parent has ended
        while True:
            _answer(connection, _outcome(*connection.recv()))


def _end_itself(number: int, frame: FrameType | None) -> None:
    """Ends this process by an exception, which removes half a file on its way.

    Where Python must drop exceptions, such as in a callback of a C library, it would tell of this one; the process then ends
    when its pipe closes.
    """
    sys.unraisablehook = lambda unraisable: None
    sys.exit(128 + number)


def _answer(connection: Connection, outcome: tuple[Any, Exception | None]) -> None:
    try:
        connection.send(outcome)
    except OSError:
        raise
    except Exception:  # what cannot be pickled is a bug as well
        connection.send((None, RuntimeError(f"in a worker process:\n{traceback.format_exc()}")))


def _outcome(function: Callable[[Any, Any], Any], item: Any, job: Any) -> tuple[Any, Exception | None]:
    try:
        return function(item, job), None
    except TsaeError as error:
        return None, error
    except Exception:  # a bug, of which the parent must tell where it was
        return None, RuntimeError(f"in a worker process:\n{traceback.format_exc()}")
