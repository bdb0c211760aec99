"""What lies in the store, seen from the host `driver`: `python -m tests.cluster.bucket put FOLDER URL | digests URL...`."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from s3fs import S3FileSystem


def put(folder: str, url: str) -> None:
    """Uploads a folder; its bucket is made."""
    files = S3FileSystem(use_listings_cache=False)
    bucket = url.removeprefix("s3://").partition("/")[0]
    if not files.exists(bucket):
        files.mkdir(bucket)
    paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    files.put([str(path) for path in paths], [f"{url}/{path.relative_to(folder).as_posix()}" for path in paths])


def digests(url: str) -> dict[str, str]:
    """SHA-256 of each file below a URL, by its name there."""
    files, place = S3FileSystem(use_listings_cache=False), url.removeprefix("s3://")
    found = files.cat(files.find(place)) if files.exists(place) else {}
    return {name.removeprefix(f"{place}/"): hashlib.sha256(data).hexdigest() for name, data in sorted(found.items())}


if __name__ == "__main__":
    if sys.argv[1] == "put":
        put(*sys.argv[2:])
    else:
        print(json.dumps([digests(url) for url in sys.argv[2:]]))
