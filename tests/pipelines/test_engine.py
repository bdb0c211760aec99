"""Choice of runner and workers, and errors as one line wherever they happen."""

from __future__ import annotations

import pytest

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


def test_the_local_engine_is_named_and_not_left_to_beam(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(engine, "_run", lambda build, pipeline: used.append(type(pipeline.runner).__name__) or {})
    engine.run(lambda pipeline: None, 1, [])
    engine.run(lambda pipeline: None, 2, ["--job_name=x"])
    engine.run(lambda pipeline: None, 1, ["--runner=PortableRunner", "--job_endpoint=localhost:1", "--parallelism=3"])
    assert used == ["FnApiRunner", "FnApiRunner", "PortableRunner"]


def test_a_remote_runner_may_have_flags_of_its_own() -> None:
    engine.check_flags(["--runner=PortableRunner", "--job_endpoint=localhost:1", "--parallelism=3"], None)


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
        engine.check_flags(flags, workers)
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


@pytest.mark.parametrize("bug", [ValueError("tsae is wrong"), RuntimeError("tsae.errors.__doc__: x"), KeyError("k")])
def test_a_bug_is_not_taken_for_bad_data(bug: Exception) -> None:
    assert engine.find_tsae_error(bug) is None
