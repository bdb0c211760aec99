"""What `tsae serve` answers in which time, beside nginx with the PNG files, and a plain viewer of a Parquet file.

    python benchmarks/serving.py [--images 10000] [--seconds 8] [--requests 200000] [--dir DIR] [--json FILE]

Needs wrk and nginx on the path, and the extra `serve`. Archives as benchmarks/access.py writes them; all servers and wrk
share the cores of this machine. *uncached* is `GET` of random keys with `--cache-mb 0`, so that every image is decoded and
encoded; row groups that were read are kept, as they are by default. *cold* keeps no row groups either. *cached* is one image
over and over. *pages* are JSON pages of 100 of 100,000 records, sorted and filtered. *memory* is the resident size of the
server after each part of so many uncached requests.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import http.client
import io
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import access
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import tsae
from tsae import png
from tsae.paths import Folder
from tsae.selection import Selection
from tsae.serve.columns import NUMBERS, Columns, Index, Labels, cut
from tsae.serve.pages import Pages
from tsae.serve.summary import summarize

HERE = Path(__file__).resolve().parent
MODELS = ("tsae", "seed-8x8x8")
PAGE_RECORDS = 100_000

WAITED = "*waited*: time for which the server's threads were ready to run and got no core, of that of the run (wrk took one)."


def wrk(port: int, clients: int, seconds: float, path: str, keys: int = 0, after: str = "", pid: int = 0) -> dict[str, Any]:
    """The figures of a run of wrk on one thread; of a server whose process is told, also for how long it waited for a core."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    command += ["-s", str(HERE / "serving.lua")]
    command += [f"http://127.0.0.1:{port}", "--", path, str(keys), after]
    waited_s = core_wait_s(pid) if pid else 0.0
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    waited_s = core_wait_s(pid) - waited_s if pid else 0.0
    found: dict[str, Any] = json.loads(next(line for line in lines if line.startswith("JSON "))[5:])
    found["per_s"] = round(found["requests"] / found["seconds"], 1)
    return found | ({"waited": round(waited_s / found["seconds"], 3)} if pid else {})


def core_wait_s(pid: int) -> float:
    """Seconds for which threads of a process were ready to run and got no core (`schedstat` of Linux)."""
    return sum(int(file.read_text().split()[1]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


@contextlib.contextmanager
def ended(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """Ends a process after the block."""
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def served(archive: str, *flags: str) -> Iterator[tuple[int, int]]:
    """Port and process number of a server that is ready."""
    command = [sys.executable, "-m", "tsae", "serve", archive, "--port", "0", "--log-json", *flags]
    with ended(subprocess.Popen(command, stderr=subprocess.PIPE, text=True)) as process:
        assert process.stderr is not None
        port = 0
        for line in process.stderr:
            event = json.loads(line)
            port = int(event["url"].rpartition(":")[2]) if event["event"] == "serving" else port
            if event["event"] == "state":
                break
        yield port, process.pid


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024, 1)


def measure_images(archive: str, images: int, seconds: float) -> dict[str, Any]:
    """Single images of one archive."""
    found: dict[str, Any] = {}
    with served(archive, "--cache-mb", "0") as (port, pid):
        wrk(port, 1, 2, "/images/", images)
        for clients in (1, 16):
            found[f"uncached, {clients} clients"] = wrk(port, clients, seconds, "/images/", images, pid=pid)
        found["latents, 16 clients"] = wrk(port, 16, seconds / 2, "/latents/", images, pid=pid)
        found["batch"] = measure_batches(port, images, seconds)
    with served(archive, "--cache-mb", "0", "--group-mb", "0") as (port, pid):
        for clients in (1, 16):
            found[f"cold, {clients} clients"] = wrk(port, clients, seconds / 2, "/images/", images, pid=pid)
    with served(archive) as (port, pid):
        found["cached, 4 clients"] = wrk(port, 4, seconds / 2, f"/images/{access.key(77)}", pid=pid)
    return found


def measure_batches(port: int, images: int, seconds: float, keys_each: int = 5000) -> dict[str, Any]:
    """Batches of random keys, one after the other, read by a client that only counts."""
    connection, rng, done = http.client.HTTPConnection("127.0.0.1", port, timeout=120), random.Random(0), 0  # noqa: S311
    started_s = time.monotonic()
    while time.monotonic() - started_s < seconds:
        keys = [access.key(i) for i in rng.sample(range(images), min(keys_each, images))]
        connection.request("POST", "/batch", json.dumps({"keys": keys}))
        body = connection.getresponse().read()
        done += len(keys)
    taken_s = time.monotonic() - started_s
    assert len(zipfile.ZipFile(io.BytesIO(body)).namelist()) == len(keys)
    return {"keys_each": len(keys), "images": done, "images_per_s": round(done / taken_s, 1)}


def measure_memory(archive: str, images: int, requests: int) -> dict[str, Any]:
    """Resident memory after parts of so many uncached requests of 16 clients."""
    with served(archive, "--cache-mb", "8") as (port, pid):
        done, samples = 0, [(0, rss_mb(pid))]
        while done < requests:
            done += wrk(port, 16, 10, "/images/", images, f"?size={33 + done % 8}" if done % 2 else "")["requests"]
            samples.append((done, rss_mb(pid)))
    return {"requests": done, "rss_mb": samples}


def measure_pages(archive: str, seconds: float) -> dict[str, Any]:
    """Pages and figures of 100,000 records."""
    queries = {
        "first page": "/images?limit=100",
        "by PSNR, far in": "/images?limit=100&sort=psnr&after=" + access.key(PAGE_RECORDS // 2),
        "one prefix": "/images?limit=100&prefix=00001/&sort=bytes&order=desc",
        "above 40 dB": "/images?limit=100&min_psnr=40",
        "figures": "/stats",
    }
    with served(archive) as (port, pid):
        found: dict[str, Any] = {name: wrk(port, 1, seconds / 4, path) for name, path in queries.items()}
        found["rss_mb"] = rss_mb(pid)
    return found


def measure_columns(records: int) -> dict[str, Any]:
    """What the index of so many records takes: made up, two runs that overlap, so that all has to be sorted."""
    before, labels, rng, parts = rss_mb(os.getpid()), Labels(), np.random.default_rng(0), []
    codes = [labels.code(str(i)) for i in range(43)]
    for start in range(0, records, 4096):
        n = min(4096, records - start)
        numbers = {name: rng.integers(1, 200, n).astype(kind) for name, kind in NUMBERS.items()}
        numbers |= {"psnrs_db": rng.normal(32, 3, n).astype(np.float32), "labels": rng.choice(codes, n).astype(np.int32)}
        base = start % (records // 2) * 2 + (start >= records // 2)
        parts.append((start, Columns(keys=(pa.array([f"{base + 2 * i:018d}" for i in range(n)]),), **numbers)))
    started_s = time.monotonic()
    index = Index(parts, labels)
    built_s = time.monotonic() - started_s
    del parts
    started_s = time.monotonic()
    summarize(index)
    summary_s, pages = time.monotonic() - started_s, Pages(index)
    queries = {"key": Selection(sort="key"), "psnr": Selection(sort="psnr"), "label": Selection(sort="key", labels=("7",))}
    queries["prefix"] = Selection(prefix="0000000001", sort="psnr")
    first_ms, again_ms = ({name: timed_ms(pages, query) for name, query in queries.items()} for _ in range(2))
    memory_mb = rss_mb(os.getpid()) - before
    known = cut(index.columns)
    few = Columns(
        (pa.array([f"{7 * i:018d}x" for i in range(20)]),), **{name: getattr(known[0], name)[:20] for name in NUMBERS}
    )
    started_s = time.monotonic()
    Index([*((0, part) for part in known), (0, few)], labels, (), index)
    grown_s = time.monotonic() - started_s
    return {
        "records": records,
        "join_and_sort_s": round(built_s, 3),
        "with_20_more_s": round(grown_s, 3),
        "figures_s": round(summary_s, 2),
        "memory_mb": round(memory_mb, 1),
        "first_page_ms": first_ms,
        "again_ms": again_ms,
    }


def timed_ms(pages: Pages, query: Selection) -> float:
    """Of one page."""
    started_s = time.perf_counter()
    pages.page(dataclasses.replace(query, limit=100))
    return round((time.perf_counter() - started_s) * 1e3, 2)


def measure_reading(archive: str) -> dict[str, Any]:
    """What the columns of an archive take to be read."""
    from tsae.serve.columns import Indexer

    with tsae.open_archive(archive) as opened:
        started_s = time.monotonic()
        index = Indexer().make(opened.files)
        return {"records": len(index), "read_s": round(time.monotonic() - started_s, 2)}


def write_files(archive: str, folder: Path) -> None:
    """What the archive holds as PNG files, and as a Parquet file of them."""
    with tsae.open_archive(archive) as opened:
        keys = list(opened)
        files = [file for start in range(0, len(keys), 500) for file in png.encode(opened[start : start + 500], [None] * 500)]
    for key, file in zip(keys, files, strict=True):
        place = folder / "images" / key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file)
    table = pa.table({"key": keys, "image": files, "label": [key[:5] for key in keys]})
    pq.write_table(table, folder / "plain.parquet", row_group_size=1000)


NGINX = """
user root; worker_processes 2; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 256; }}
http {{ access_log off; sendfile on; types {{ image/png png; }} client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2;
fastcgi_temp_path {folder}/t3; uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5; keepalive_requests 1000000;
server {{ listen 127.0.0.1:{port}; root {folder}; }} }}
"""


def measure_others(archive: str, folder: Path, images: int, seconds: float, port: int) -> dict[str, Any]:
    """nginx, and the plain viewer, with the same images."""
    write_files(archive, folder)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    found: dict[str, Any] = {}
    with ended(subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")])):
        wait_for(port)
        for clients in (1, 16):
            found[f"nginx, {clients} clients"] = wrk(port, clients, seconds / 2, "/images/", images)
    plain = [sys.executable, str(HERE / "serving_plain.py"), str(folder / "plain.parquet"), str(port + 1)]
    with ended(subprocess.Popen(plain)):
        wait_for(port + 1)
        for clients in (1, 16):
            found[f"plain viewer, {clients} clients"] = wrk(port + 1, clients, seconds / 2, "/images/", images)
        found["plain viewer, a page of 100, 1 client"] = wrk(port + 1, 1, seconds / 2, "/rows?offset=5000")
    return found


def wait_for(port: int) -> None:
    """Until somebody listens."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.connect()
            connection.close()
            return
        time.sleep(0.1)
    raise TimeoutError(port)


def machine() -> dict[str, Any]:
    """Where this ran."""
    commit = subprocess.run(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    model = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.strip(),
        "cpu": model[0] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def rows_of(results: dict[str, Any]) -> Iterator[str]:
    """Lines of a table of all that wrk measured."""
    for group, figures in results.items():
        for name, row in figures.items() if isinstance(figures, dict) else ():
            if isinstance(row, dict) and "median_ms" in row:
                waited = f"{row['waited']:.0%}" if "waited" in row else ""
                cells = (f"{row['median_ms']:.2f}", f"{row['p99_ms']:.2f}", f"{row['per_s']:,.0f}", str(row["failed"]), waited)
                yield f"| {group} | {name} | {' | '.join(cells)} |"


def to_markdown(results: dict[str, Any]) -> str:
    """The figures as a page."""
    where = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    lines = ["# Serving", "", "What `python benchmarks/serving.py` measured; its head says how. " + where + ".", ""]
    lines += ["| | what | median, ms | p99, ms | requests/s | failed | waited |", "|---|---|---|---|---|---|---|"]
    lines += [*rows_of(results), "", WAITED, ""]
    for model in MODELS:
        if model in results:
            batch = results[model]["batch"]
            lines.append(f"`/batch`, {model}: {batch['images_per_s']:,.0f} images/s, {batch['keys_each']:,} keys each.")
    memory = results["memory"]["rss_mb"]
    samples = ", ".join(f"{size:.0f} after {done:,}" for done, size in memory)
    lines += ["", f"Resident memory, MB, uncached requests of 16 clients with a cache of 8 MB: {samples}.", ""]
    lines += ["## Columns", "", "```", json.dumps(results["columns"], indent=1), "```", ""]
    return "\n".join(lines)


def main() -> None:
    """Parses, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--requests", type=int, default=200_000, help="of the measurement of memory")
    parser.add_argument("--columns", type=int, nargs="+", default=[100_000, 10_000_000])
    parser.add_argument("--port", type=int, default=18_480, help="for the others, and the next one")
    parser.add_argument("--dir", help="where to write; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write the figures there, and a page beside it")
    args = parser.parse_args()
    if missing := [name for name in ("wrk", "nginx") if shutil.which(name) is None]:
        parser.error(f"{' and '.join(missing)} must be installed")
    results: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory(dir=args.dir) as name:
        folder = Path(name)
        for model in MODELS:
            access.write_archive(Folder(str(folder / model)), access.one_run(args.images), model)
            results[model] = measure_images(str(folder / model), args.images, args.seconds)
            print(json.dumps(results[model]), flush=True)
        access.write_archive(Folder(str(folder / "pages")), access.one_run(PAGE_RECORDS))
        results["pages of 100,000"] = measure_pages(str(folder / "pages"), args.seconds)
        results["others"] = measure_others(str(folder / MODELS[0]), folder, args.images, args.seconds, args.port)
        print(json.dumps(results["others"]), flush=True)
        results["memory"] = measure_memory(str(folder / MODELS[0]), args.images, args.requests)
        results["columns"] = [measure_reading(str(folder / "pages")), *map(measure_columns, args.columns)]
    print(to_markdown(results))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
        args.json.with_suffix(".md").write_text(to_markdown(results))


if __name__ == "__main__":
    main()
