"""The local engine: how many workers, and that interrupted, killed and orphaned ones neither hang nor stay."""

from __future__ import annotations

import ctypes
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipelines import local
from tsae.cli import main
from tsae.errors import CorruptDataError, InputError
from tsae.signs import draw_signs

pytestmark = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds processes in /proc")

IMAGES = 20_000


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough images for eight shards and some seconds of work."""
    folder = tmp_path_factory.mktemp("many") / "images"
    folder.mkdir()
    file = io.BytesIO()
    Image.fromarray(next(draw_signs(1)).image).resize((120, 120)).save(file, "PNG")
    (folder / "0.png").write_bytes(file.getvalue())
    for i in range(1, IMAGES):
        os.link(folder / "0.png", folder / f"{i}.png")
    return folder


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def workers_of(pid: int) -> list[int]:
    """Workers of a process: forked from a server that is its child."""
    return [worker for server in children_of(pid) if b"forkserver" in command_of(server) for worker in children_of(server)]


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        return []


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_running(pid: int) -> bool:
    try:
        return "Z" not in re.sub(r".*\)", "", Path(f"/proc/{pid}/stat").read_text(), flags=re.S).split()[0]
    except OSError:
        return False


class Job:
    """`tsae compress` with two workers, running."""

    def __init__(self, source: Path, archive: Path, cwd: Path | None = None) -> None:
        command = [sys.executable, "-m", "tsae", "compress", str(source), str(archive), "--workers=2"]
        self.archive = archive
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd)

    def wait_for_workers(self) -> list[int]:
        wait_for(lambda: len(workers_of(self.process.pid)) == 2)
        return workers_of(self.process.pid)

    def wait_for_shards(self) -> None:
        wait_for(lambda: list(self.archive.glob("job/*/done/*.json")))

    def end(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.fixture
def job(many: Path, tmp_path: Path) -> Iterator[Job]:
    running = Job(many, tmp_path / "archive")
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupting_ends_all_processes_in_one_line(job: Job, many: Path, number: signal.Signals, code: int) -> None:
    workers = job.wait_for_workers()
    job.wait_for_shards()
    job.process.send_signal(number)
    returncode, err = job.end()
    assert returncode == code
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "tsae: interrupted"
    wait_for(lambda: not any(map(is_running, workers)), 10)
    assert main(["compress", str(many), str(job.archive), "--resume", "--workers=1"]) == 0


@pytest.mark.parametrize("when", ["starting", "working"])
def test_a_killed_worker_ends_the_job_that_then_can_be_resumed(job: Job, many: Path, when: str) -> None:
    workers = job.wait_for_workers()
    if when == "working":
        job.wait_for_shards()
    os.kill(workers[0], signal.SIGKILL)
    returncode, err = job.end()
    assert returncode == 2, err
    last = err.splitlines()[-1]
    assert last.startswith("tsae: error: a worker process ended")
    assert last.endswith("run the command again, with --resume where it asks for that")
    wait_for(lambda: not any(map(is_running, workers)), 10)
    again = main(["compress", str(many), str(job.archive), "--workers=1"])
    assert again in ((0, 2) if when == "starting" else (2,))  # nothing is planned before a worker has the model
    assert main(["compress", str(many), str(job.archive), *(["--resume"] if again else []), "--workers=1"]) == 0


def test_workers_end_with_a_killed_parent(job: Job) -> None:
    workers = job.wait_for_workers()
    job.process.kill()
    job.end()
    wait_for(lambda: not any(map(is_running, workers)), 10)


def test_workers_import_the_code_of_their_parent(signs_dir: Path, tmp_path: Path) -> None:
    """Not that of a folder that happens to be called `pipelines` where the command is run."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("raise ImportError('the wrong one')")
    root = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path[0] = {root!r}; import tsae.jobs.plan as p; p.SHARD_IMAGES = 9\nfrom tsae.cli import main\n"
    code += "sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "compress", str(signs_dir), "archive", "--workers=2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("wanted", "cores", "images", "shards", "is_shared", "expected"),
    [
        (None, 2, 100, 1, True, 1),
        (None, 2, local.SMALL_JOB_IMAGES + 1, 4, True, 2),
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
    assert local.choose_workers(wanted, cores, images, shards, is_shared) == expected


def times(item: int, job: int) -> int:
    if item == 3:
        raise CorruptDataError(f"item {item}: bad", item)
    if item == 4:
        raise KeyError("a bug")
    return item * job


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_items(count: int) -> None:
    with local.Workers(count) as workers:
        assert workers.map(times, [5, 1, 2], 10) == [50, 10, 20]
        assert workers.map(times, [], 10) == []
        assert workers.call_each(times, 7, 2) == [14] * count


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_step_raises_arrives(count: int) -> None:
    with local.Workers(count) as workers:
        with pytest.raises(CorruptDataError, match="item 3: bad") as raised:
            workers.map(times, [1, 3], 10)
        assert raised.value.args[1] == 3


def test_a_bug_in_a_worker_is_told_with_its_place() -> None:
    with local.Workers(2) as workers, pytest.raises(RuntimeError, match=r'KeyError\("a bug"\)|KeyError: .a bug.') as raised:
        workers.map(times, [4], 1)
    assert "in times" in str(raised.value)


def test_workers_have_the_environment_of_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "two"):
        monkeypatch.setenv("TSAE_TEST", value)
        with local.Workers(2) as workers:
            assert workers.call_each(os.getenv, "TSAE_TEST") == [value] * 2


def test_a_dead_worker_is_an_error_and_not_a_wait() -> None:
    with local.Workers(2) as workers, pytest.raises(InputError, match=r"a worker process ended \(signal 9\)"):
        workers.map(end_itself, [0], None)


def end_itself(item: int, job: None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_cannot_be_sent_back_is_a_bug_and_no_death() -> None:
    with local.Workers(2) as workers, pytest.raises(RuntimeError, match="pickle"):
        workers.call_each(os.scandir, "/")


def test_too_many_workers_leave_none_behind() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
        "from multiprocessing import active_children\nfrom pipelines import local\nfrom tsae.errors import InputError\n"
        "try: local.Workers(30)\nexcept InputError as error: print(error, active_children())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "30 worker processes: cannot be started" in done.stdout, done.stderr
    assert done.stdout.endswith("with --workers []\n")


@pytest.mark.parametrize("how", ["file", "stdin"])
def test_a_script_is_not_run_again_in_its_workers(tmp_path: Path, how: str) -> None:
    script = "print('once')\nimport os\nfrom pipelines import local\n"
    script += "with local.Workers(2) as workers: print(workers.map(divmod, [7, 9], 2))\n"
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, *([str(tmp_path / "script.py")] if how == "file" else ["-"])]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=120, env=environ, cwd=tmp_path)
    assert done.stdout == "once\n[(3, 1), (4, 1)]\n", done.stderr


@pytest.mark.parametrize("after_s", [1.0, 2.0])
def test_interrupting_a_start_is_one_line(many: Path, tmp_path: Path, after_s: float) -> None:
    command = [sys.executable, "-m", "tsae", "compress", str(many), str(tmp_path / "archive"), "--workers=2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "tsae: interrupted\n")


def test_a_worker_that_is_ended_within_a_callback_of_c_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with local.Workers(2) as workers:
        assert workers.call_each(end_within_a_callback, 15) == [1, 1]
    assert capfd.readouterr().err == ""


def end_within_a_callback(number: int) -> int:
    """Python prints exceptions that reach a callback of C, and drops them."""
    calls = []

    def callback(a: object, b: object) -> int:
        calls.append(a)
        os.kill(os.getpid(), number)
        return 0

    values = (ctypes.c_int * 2)(2, 1)
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(callback)
    ctypes.CDLL(None).qsort(values, 2, ctypes.sizeof(ctypes.c_int), compare)
    return len(calls)
