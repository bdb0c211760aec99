"""Fixtures: a folder of drawn signs and an archive of it, made once by the command line itself."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium
from tsae import paths
from tsae.cli import main
from tsae.signs import write_signs

SIGNS = 40


@pytest.fixture(scope="session")
def signs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 drawn signs with labels.csv; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("signs") / "images"
    write_signs(folder, SIGNS)
    return folder


@pytest.fixture(scope="session")
def archive_dir(signs_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their archive; not to be changed by a test."""
    archive = tmp_path_factory.mktemp("archives") / "signs"
    assert main(["compress", str(signs_dir), str(archive)]) == 0
    return archive


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """A bucket of an S3 server in this process; other processes of the tests reach it too, and nothing leaves the machine."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from s3fs import S3FileSystem
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_at_a_time(environ: Any, start_response: Any) -> Any:
        # As in S3, nothing comes between the check of a condition and the write; moto by itself lets threads in there.
        with lock:
            return application(environ, start_response)

    server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        set_s3_environment(patch, f"http://127.0.0.1:{server.server_port}")
        S3FileSystem.clear_instance_cache()
        paths.filesystem("s3://tsae-test")[0].mkdir("tsae-test")
        yield "s3://tsae-test"
        S3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def set_s3_environment(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        patch.delenv(name)
    patch.setenv("AWS_ENDPOINT_URL", endpoint)
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("AWS_CONFIG_FILE", os.devnull)
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    patch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def s3_folder(s3_url: str) -> str:
    """A new folder in the bucket."""
    return f"{s3_url}/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium."""
    with chromium() as browser:
        yield browser
