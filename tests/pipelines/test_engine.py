"""Choice of runner and workers, and errors as one line wherever they happen."""

from __future__ import annotations

import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipelines import engine
from tsae.errors import CorruptDataError, InputError


@pytest.mark.parametrize(
    ("wanted", "cores", "images", "shards", "is_shared", "expected"),
    [
        (None, 2, 100, 1, True, 1),
        (None, 2, engine.SMALL_JOB_IMAGES, 4, True, 2),
        (None, 64, 10**6, 250, True, 64),
        (None, 64, 20_000, 5, True, 5),
        (None, 64, 10**6, 250, False, 1),
        (3, 2, 100, 9, True, 3),
        (3, 2, 100, 0, True, 1),
    ],
)
def test_workers_follow_the_size_of_the_job(
    wanted: int | None, cores: int, images: int, shards: int, is_shared: bool, expected: int
) -> None:
    assert engine.choose_workers(wanted, cores, images, shards, is_shared) == expected


def test_the_local_engine_is_named_and_not_left_to_beam() -> None:
    assert isinstance(engine.make_pipeline(1, []).runner, FnApiRunner)
    assert isinstance(engine.make_pipeline(2, ["--job_name=x"]).runner, FnApiRunner)


def test_a_named_runner_is_taken_with_flags_of_its_own() -> None:
    engine.check_flags(["--runner=PortableRunner", "--job_endpoint=localhost:1", "--parallelism=3"])
    pipeline = engine.make_pipeline(2, ["--runner=PortableRunner", "--job_endpoint=localhost:1", "--parallelism=3"])
    assert type(pipeline.runner).__name__ == "PortableRunner"


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


@pytest.mark.parametrize("bug", [ValueError("tsae is wrong"), RuntimeError("tsae.errors.__doc__: x"), KeyError("k")])
def test_a_bug_is_not_taken_for_bad_data(bug: Exception) -> None:
    assert engine.find_tsae_error(bug) is None
