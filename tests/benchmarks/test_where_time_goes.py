"""The steps of a sampling profile."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import where_time_goes as benchmark

START = "process 7:python -m tsae;_serve (pipelines/local.py:241);compress_task (tsae/jobs/compress.py:198)"


@pytest.mark.parametrize(
    ("inner", "step"),
    [
        ("read_images (tsae/jobs/compress.py:9);decode_image (tsae/images.py:5);decode_plain (tsae/png.py:7)", "decode image"),
        ("read_images (tsae/jobs/compress.py:9);resize (tsae/images.py:5);Image.resize (PIL/Image.py:7)", "scale"),
        ("encode_image (tsae/images.py:5);save (PIL/Image.py:7)", "write PNG"),
        ("encode (tsae/png.py:5)", "write PNG"),
        ("SeedCoding.decode (tsae/coding/seed.py:1);Graph.compile.<locals>.run (tsae/backends/onnx.py:8)", "network"),
        ("load_codec (tsae/jobs/compress.py:9);_find_and_load (<frozen importlib._bootstrap>:1165)", "imports"),
        ("something (else.py:1)", benchmark.REST),
    ],
)
def test_a_sample_belongs_to_the_innermost_step(inner: str, step: str) -> None:
    assert benchmark.step_of(f"{START};{inner}".split(";")) == step


def test_samples_are_added_up() -> None:
    profile = f"{START};a (b.py:1) 3\n{START};encode (tsae/png.py:5) 4\n{START};encode (tsae/png.py:6) 5\n"
    assert benchmark.count_steps(profile) == {benchmark.REST: 3, "write PNG": 9}
