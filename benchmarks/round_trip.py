"""The main job on real images, checked from outside: `tsae compress`, then `tsae decompress`, in fresh processes.

    python benchmarks/round_trip.py IMAGES [--model NAME|FILE] [--quality Q] [--workers N]

IMAGES is a folder. Fails if a file is missing, has another name or another size; prints one JSON object with counts, bytes
an image, PSNR (dB) of the files that came back against the 32x32 originals, and images/s of both jobs, start-up included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import tsae
from tsae.config import DEFAULT_MODEL
from tsae.images import decode_image, resize
from tsae.jobs.output_names import find_whole_names, output_name
from tsae.metrics import psnr_db


def seconds_of(*command: str) -> float:
    """Wall-clock time of one tsae command, which must end with exit code 0."""
    started_s = time.monotonic()
    subprocess.run([sys.executable, "-m", "tsae", *command], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started_s


def load(path: Path) -> NDArray[np.uint8]:
    """The image of a file as the model sees it, uint8 `[32, 32, 3]`."""
    return resize(decode_image(path.read_bytes()))


def main() -> None:
    """Parses, runs both jobs, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--quality")
    parser.add_argument("--workers", default="1")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archive_path, out = f"{folder}/archive", Path(folder, "out")
        flags = [f"--workers={args.workers}"]
        quality = [f"--quality={args.quality}"] if args.quality else []
        compress_s = seconds_of("compress", str(args.images), archive_path, f"--model={args.model}", *quality, *flags)
        decompress_s = seconds_of("decompress", archive_path, str(out), *flags)
        with tsae.open_archive(archive_path) as archive:
            keys, info = list(archive), archive.info()
        whole = find_whole_names(keys)
        names = [output_name(key, whole) for key in keys]
        found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
        if found != set(names):
            sys.exit(f"{len(found ^ set(names))} files are missing or have other names")
        decoded = [decode_image((out / name).read_bytes()) for name in names]
        if wrong := {image.size for image in decoded} - {(32, 32)}:
            sys.exit(f"files of sizes {wrong}")
        psnrs = psnr_db(np.stack([load(args.images / key) for key in keys]), np.stack([np.asarray(i) for i in decoded]))
    result = {
        "model": info["model"],
        "quality": info["quality"],
        "images": info["images"],
        "failures": info["failures"],
        "files": len(found),
        "stream_bytes_per_image": info["stream_bytes"] / info["images"],
        "bytes_per_image": info["bytes_per_image"],
        "psnr_db": {"mean": float(psnrs.mean()), "p1": float(np.percentile(psnrs, 1)), "min": float(psnrs.min())},
        "compress_images_per_s": info["images"] / compress_s,
        "decompress_images_per_s": info["images"] / decompress_s,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
