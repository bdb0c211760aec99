"""What an archive costs beside the coded images: bytes a record of each column and each kind of file.

    python benchmarks/overhead.py ARCHIVE [--stream-bytes N]

With `--stream-bytes`, the same records are written to another archive first, each with a made-up stream of N bytes on average
(from half to one and a half times that): what a codec of that rate would make of these keys, sizes and PSNRs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter

import numpy as np
import pyarrow.parquet as pq

from tsae import archive as ar
from tsae.archive.parquet import TAIL_BYTES
from tsae.jobs.plan import cut
from tsae.paths import Folder


def with_streams(files: ar.ArchiveFiles, stream_bytes: int, folder: Folder) -> ar.ArchiveFiles:
    """A copy of an archive with other streams."""
    rng = np.random.default_rng(0)
    entries, keys = [], list(files.keys())
    for number, task in enumerate(cut(range(len(keys)))):
        records = files.records([keys[row] for row in task.rows])
        lengths = rng.integers(stream_bytes // 2, stream_bytes * 3 // 2 + 1, len(records))
        streams = [rng.bytes(length) for length in lengths]
        columns = [*records.columns()]
        columns[6] = streams
        entries.append(ar.write_shard(folder, number, ar.Records(*columns), {}, files.manifest.model_sha256))
    lists = ar.write_lists(folder, None, {}, entries)
    counts = ar.count(folder, lists, 0, 0)
    manifest = ar.Manifest(**{**vars(files.manifest), "counts": counts, "lists": lists, "failures": ()})
    ar.commit(folder, manifest, None)
    return ar.ArchiveFiles(folder.path)


def column_bytes(files: ar.ArchiveFiles) -> Counter[str]:
    """Bytes of each column of the shards, and of what Parquet adds."""
    found: Counter[str] = Counter()
    for entry in files.entries():
        with files.folder.open(entry.file) as file:
            metadata = pq.read_metadata(file)
        for group in range(metadata.num_row_groups):
            for column in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(column)
                found[chunk.path_in_schema] += chunk.total_compressed_size
        found["footer"] += len(entry.footer) + TAIL_BYTES + len(b"PAR1")
    return found


def describe(files: ar.ArchiveFiles) -> dict[str, object]:
    """All figures, bytes a record; `overhead` is all but streams, lossless images, model and provenance."""
    images, counts = files.manifest.images, files.manifest.counts
    sizes_bytes: Counter[str] = Counter()
    for name, size in files.folder.sizes_bytes().items():
        sizes_bytes[name.partition("/")[0]] += size
    columns = column_bytes(files)
    columns["stream (lengths, pages)"] = columns.pop("stream") - counts.stream_bytes
    columns["lossless (lengths, pages)"] = columns.pop("lossless") - counts.lossless_bytes
    total = sum(size for name, size in sizes_bytes.items() if name not in (files.manifest.model_file, ar.PROVENANCE_FOLDER))
    overhead = total - counts.stream_bytes - counts.lossless_bytes
    return {
        "images": images,
        "stream_bytes": round(counts.stream_bytes / images, 2),
        "overhead": round(overhead / images, 2),
        "columns": {name: round(size / images, 2) for name, size in columns.items()},
        "files": {name: round(size / images, 2) for name, size in sizes_bytes.items()},
    }


def main() -> None:
    """Parses, writes the copy if asked for, measures, prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive")
    parser.add_argument("--stream-bytes", type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = ar.ArchiveFiles(args.archive)
        if args.stream_bytes:
            files = with_streams(files, args.stream_bytes, Folder(folder))
        print(json.dumps(describe(files), indent=1))


if __name__ == "__main__":
    main()
