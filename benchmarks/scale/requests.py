"""Requests that a job makes of an object store, counted on an S3 server in this process: by kind, and what each part costs."""

from __future__ import annotations

import importlib
import io
import logging
import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines import compress
from pipelines.options import CompressOptions
from scale.synthetic import key
from tsae import archive as ar
from tsae import paths
from tsae.jobs import job_folder, plan

KINDS = ("PUT", "LIST", "GET", "HEAD", "DELETE")
"""As prices have them; POST, by which many files are removed at once, counts as DELETE, which is free."""

BUCKET = "s3://counted"

COMMIT = importlib.import_module("tsae.archive.commit")
"""The module: the package has a function of that name."""


class Counted:
    """Counts the requests of an application by kind."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self._application, self._lock = application, threading.Lock()
        self.counts: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Passes a request on."""
        with self._lock:
            self.counts[kind_of(environ["REQUEST_METHOD"], environ.get("QUERY_STRING", ""))] += 1
            return self._application(environ, start_response)


def kind_of(method: str, query: str) -> str:
    """The kind of a request by which it is charged."""
    if method == "GET" and "list-type" in query:
        return "LIST"
    return "DELETE" if method == "POST" else method


@contextmanager
def counting_server() -> Iterator[Counted]:
    """An S3 server with an empty bucket; the environment leads s3fs to it."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    counted = Counted(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, counted, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    try:
        paths.filesystem(BUCKET)[0].mkdir(BUCKET.removeprefix("s3://"))
        yield counted
    finally:
        server.shutdown()
        server.server_close()


def picture() -> bytes:
    """A small PNG file."""
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(sink, "png")
    return sink.getvalue()


def put_files(folder: ar.Folder, images: int) -> str:
    """Images as files; gives the input's name."""
    data = picture()
    for number in range(images):
        folder.write(key(number), data)
    return folder.path


def put_container(folder: ar.Folder, images: int) -> str:
    """Images as one Parquet file; gives the input's name."""
    image = pa.array([{"bytes": picture(), "path": key(number)} for number in range(images)])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": image}), sink)
    folder.write("images.parquet", bytes(sink.getvalue()))
    return f"{folder.path}/images.parquet"


INPUTS = {"files": put_files, "container": put_container}


def count_job(server: Counted, kind: str, shards: int, shard_images: int, list_shards: int, is_update: bool) -> dict[str, int]:
    """The requests of a job of so many shards; or of a look whether the archive of such a job is up to date."""
    folder = f"{BUCKET}/{uuid.uuid4().hex}"
    source = INPUTS[kind](ar.Folder(f"{folder}/in"), shards * shard_images)
    plan.SHARD_IMAGES, COMMIT.LIST_SHARDS = shard_images, list_shards
    options = CompressOptions(source, f"{folder}/archive", workers=1, model="seed-8x8x8")
    server.counts.clear()
    compress.run(options)
    if is_update:
        server.counts.clear()
        compress.run(options)
    return {name: server.counts[name] for name in KINDS}


def coefficients(server: Counted, kind: str, is_update: bool) -> dict[str, dict[str, float]]:
    """Requests by kind: of a job, of each shard, of each image, of each list and of each file of the plan.

    Six jobs, and the numbers that explain them all: where they do not, the residual is not zero.
    """
    before = plan.SHARD_IMAGES, COMMIT.LIST_SHARDS, getattr(job_folder, "PART_TASKS", 0)
    jobs = [(8, 2, 8, 8), (16, 2, 16, 16), (16, 4, 16, 16), (16, 2, 4, 16), (16, 2, 16, 4), (24, 3, 6, 8)]
    rows, counts = [], []
    try:
        for shards, images, list_shards, part_tasks in jobs:
            job_folder.PART_TASKS = part_tasks
            counts.append(count_job(server, kind, shards, images, list_shards, is_update))
            rows.append([1, shards, shards * images, -(-shards // list_shards), -(-shards // part_tasks)])
    finally:
        plan.SHARD_IMAGES, COMMIT.LIST_SHARDS, job_folder.PART_TASKS = before
    found = {}
    for name in KINDS:
        wanted = np.array([count[name] for count in counts], float)
        solution = np.linalg.lstsq(np.array(rows, float), wanted, rcond=None)[0]
        residual = float(np.abs(np.array(rows) @ solution - wanted).max())
        parts = dict(zip(("job", "shard", "image", "list", "part"), solution.round(2).tolist(), strict=True))
        found[name] = {**parts, "residual": round(residual, 2)}
    return found
