"""Both jobs on an S3 server that now and then answers with an error or not at all."""

from __future__ import annotations

import contextlib
import sys
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import set_s3_environment
from tsae import archive as ar
from tsae import paths
from tsae.cli import main
from tsae.jobs import plan
from tsae.paths import store as s3
from tsae.signs import write_signs

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.cluster import store

SIGNS = 30


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shaky") / "images"
    write_signs(folder, SIGNS, seed=7)
    return folder


@pytest.fixture
def server(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of its own, whose silence a client does not bear for long."""
    from s3fs import S3FileSystem
    from werkzeug.serving import make_server

    monkeypatch.setattr(store, "HANG_S", 2.0)
    monkeypatch.setattr(s3, "S3_CONFIG", {**s3.S3_CONFIG, "read_timeout": 0.5})
    running = make_server("127.0.0.1", 0, store.Store(), threaded=True)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{running.server_port}"
    set_s3_environment(monkeypatch, url)
    S3FileSystem.clear_instance_cache()
    with contextlib.suppress(FileExistsError):  # buckets are those of all servers of this process
        paths.filesystem("s3://shaky")[0].mkdir("shaky")
    yield url
    running.shutdown()
    running.server_close()
    S3FileSystem.clear_instance_cache()


def harm(server: str, query: str = "") -> dict[str, int]:
    """Sets what the server does from now on; returns what it did until now."""
    with urllib.request.urlopen(f"{server}{store.CONTROL}?{query}", timeout=5) as answer:  # noqa: S310 (our own)
        return dict(eval(answer.read()))  # noqa: S307 (our own)


@pytest.fixture
def place() -> str:
    return f"s3://shaky/{uuid.uuid4().hex}"


@pytest.mark.slow
@pytest.mark.parametrize("query", ["error=0.05&seed=1", "hang=0.04&seed=2"])
def test_requests_are_repeated(
    query: str, server: str, place: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SHARD_IMAGES", 8)
    assert main(["compress", str(images), str(tmp_path / "calm")]) == 0
    harm(server, query)
    assert main(["compress", str(images), f"{place}/archive"]) == 0
    assert main(["decompress", f"{place}/archive", f"{place}/out"]) == 0
    done = harm(server)
    assert done["errors"] + done["hangs"] > 1
    calm = ar.Folder(str(tmp_path / "calm"))
    shaky = ar.Folder(f"{place}/archive")
    assert shaky.sizes_bytes().keys() == calm.sizes_bytes().keys()
    assert {name: shaky.read(name) for name in calm.sizes_bytes()} == {name: calm.read(name) for name in calm.sizes_bytes()}
    assert len(ar.Folder(f"{place}/out").sizes_bytes()) == SIGNS


def test_an_error_that_stays_is_told_in_one_line_and_the_job_can_be_resumed(
    server: str, place: str, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SHARD_IMAGES", 8)
    command = ["compress", str(images), f"{place}/archive"]
    from pipelines import compress as pipeline

    run_job = pipeline._run_job
    monkeypatch.setattr(pipeline, "_run_job", lambda *args: harm(server, "error=1") and run_job(*args))
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tsae: error: {place}/archive")
    assert "--resume" in line
    harm(server)
    monkeypatch.setattr(pipeline, "_run_job", run_job)
    assert main([*command, "--resume"]) == 0
    assert main(["verify", f"{place}/archive", "--decode"]) == 0
