"""Choice of Beam's runner, and errors as one line wherever they happen."""

from __future__ import annotations

import logging
import threading

import apache_beam as beam
import grpc
import pytest

from pipelines import engine, local
from tsae.errors import CorruptDataError, InputError


def test_the_runner_is_named_and_not_left_to_beam(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    class Pipeline:
        def __init__(self, runner: str, options: object) -> None:
            used.append(runner)

        def run(self) -> object:
            raise InputError("far enough")

    monkeypatch.setattr(engine.beam, "Pipeline", Pipeline)
    for flags in (["--job_name=x"], ["--runner=PortableRunner", "--job_endpoint=localhost:1", "--parallelism=3"]):
        with pytest.raises(InputError, match="far enough"):
            engine.run(lambda pipeline: None, flags)
    assert used == ["FnApiRunner", "PortableRunner"]


def test_a_remote_runner_may_have_flags_of_its_own() -> None:
    engine.check_flags(["--runner=PortableRunner", "--job_endpoint=localhost:1", "--parallelism=3"])


@pytest.mark.parametrize(
    ("flags", "workers", "named"),
    [
        (["--nonsense"], None, "--nonsense"),
        (["--runner=DirectRunner", "--nonsense"], None, "--nonsense"),
        (["--runner=directrunner", "--nonsense"], None, "--nonsense"),
        (["--runner=Bogus"], None, "--runner=Bogus"),
        (["--direct_num_workers=abc"], None, "direct_num_workers"),
        (["--runner=DirectRunner"], 2, "--workers 2"),
        ([], 0, "--workers 0"),
    ],
)
def test_flags_that_cannot_be_used_are_refused_in_one_line(
    flags: list[str], workers: int | None, named: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=named) as refused:
        local.check_flags(workers, flags)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (InputError("a: b [while running 'WriteShard/Map']"), InputError("a: b")),
        (
            RuntimeError(
                "Traceback ...\ntsae.errors.InputError: first\n...\ntsae.errors.CorruptDataError: k: bad [while running 'x']\n"
            ),
            CorruptDataError("k: bad"),
        ),
    ],
)
def test_errors_of_steps_are_found_in_what_runners_raise(raised: Exception, expected: Exception) -> None:
    found = engine.find_tsae_error(raised)
    assert type(found) is type(expected)
    assert str(found) == str(expected)


HANDLING = """Traceback (most recent call last):
  ...
tsae.errors.ImageError: cut short

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  ...
KeyError: 'k'
"""


@pytest.mark.parametrize(
    "bug", [ValueError("tsae is wrong"), RuntimeError("tsae.errors.__doc__: x"), KeyError("k"), RuntimeError(HANDLING)]
)
def test_a_bug_is_not_taken_for_bad_data(bug: Exception) -> None:
    assert engine.find_tsae_error(bug) is None


class Unreachable(grpc.RpcError):
    def details(self) -> str:
        return "failed to connect to all addresses\nand more"


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (grpc.FutureTimeoutError(), "does not answer; check --job_endpoint"),
        (Unreachable(), r"cannot be reached, or refuses \(failed to connect to all addresses\); check --job_endpoint"),
        (RuntimeError("Pipeline job_7 failed in state CANCELLED: unknown error"), r"ended as CANCELLED \(unknown error\)"),
        (
            RuntimeError(f"Pipeline x failed in state FAILED: java.lang.X: {'lost ' * 99}"),
            r"ended as FAILED \(java.lang.X: .* \.\.\.\)",
        ),
        (OSError("no jar"), r"cannot be started \(no jar\)"),
    ],
)
def test_what_an_engine_cannot_do_is_one_line_with_the_remedy(raised: Exception, told: str) -> None:
    found = engine.find_failure(raised, "FlinkRunner")
    assert isinstance(found, InputError)
    with pytest.raises(InputError, match=rf"^--runner=FlinkRunner: .*{told}.* run the command again, with --resume"):
        raise found
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    "bug",
    [
        OSError("no such column [while running 'ReadImages']"),
        ValueError("tsae is wrong"),
        RuntimeError("Pipeline x failed in state FAILED: ...: Traceback (most recent call last):\n  ...\nKeyError: 'k'"),
    ],
)
def test_a_bug_is_not_taken_for_the_engines_failure(bug: Exception) -> None:
    assert engine.find_failure(bug, "FlinkRunner") is None


def test_beam_is_quiet_while_a_job_runs(caplog: pytest.LogCaptureFixture) -> None:
    beams, level = logging.getLogger("apache_beam"), logging.getLogger("apache_beam").level
    record = logging.LogRecord("root", logging.ERROR, "/x/portable_runner.py", 1, "a traceback", None, None)
    with engine._quiet():
        logging.getLogger().handle(record)
        beams.error("a traceback")
        logging.error("ours")
    assert [r.message for r in caplog.records] == ["ours"]
    assert beams.level == level
    logging.getLogger().handle(record)
    assert len(caplog.records) == 2


def test_an_interruption_ends_the_job_on_the_engine_too() -> None:
    told = []

    class Result:
        def wait_until_finish(self) -> None:
            raise KeyboardInterrupt

        def cancel(self) -> None:
            told.append("cancel")
            raise OSError("gone already")

    with pytest.raises(KeyboardInterrupt):
        engine._wait(Result())
    assert told == ["cancel"]


def test_nothing_waits_on_for_a_job_server_that_does_not_answer() -> None:
    """A thread that stays in gRPC makes children forked later crash now and then, as of a DataLoader."""
    before = set(threading.enumerate())
    with pytest.raises(InputError, match="does not answer"):
        engine.run(
            lambda pipeline: pipeline | beam.Create([1]),
            ["--runner=PortableRunner", "--job_endpoint=localhost:1", "--job_server_timeout=1"],
        )
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), thread
