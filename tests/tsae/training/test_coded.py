"""Coded images in training batches: what archives and files give back, in a known share, as the seed says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tsae.codec import Codec
from tsae.metrics import psnr_db
from tsae.training import coded
from tsae.training.coded import code_some
from tsae.zoo import read_model_file


@pytest.fixture
def batch(pictures: np.ndarray) -> torch.Tensor:
    """48 images, of which three times 6 are coded."""
    return torch.from_numpy(pictures).repeat(-(-48 // len(pictures)), 1, 1, 1)[:48]


def test_a_share_of_each_kind_is_coded_and_the_rest_stays(batch: torch.Tensor) -> None:
    before = batch.clone()
    torch.manual_seed(0)
    found = code_some(batch)
    assert (found.shape, found.dtype) == (batch.shape, torch.uint8)
    assert torch.equal(batch, before)
    assert torch.equal(found[18:], batch[18:])
    learned, seed, files = (found[start : start + 6].numpy() for start in (0, 6, 12))
    originals = batch.numpy()
    np.testing.assert_array_equal(seed, through("seed-8x8x8", originals[6:12], None))
    at_each = [through("tsae", originals[:6], quality) for quality in range(2, 7)]
    assert all(any((image == every[row]).all() for every in at_each) for row, image in enumerate(learned))
    assert len({quality for row in range(6) for quality in range(5) if (learned[row] == at_each[quality][row]).all()}) > 1
    assert (psnr_db(originals[12:18], files) > 12).all()
    assert (files != originals[12:18]).any((1, 2, 3)).all()


def through(name: str, images: np.ndarray, quality: int | None) -> np.ndarray:
    codec = Codec.from_bytes(read_model_file(name), name)
    return codec.decode_streams(codec.encode(images, quality))


def test_the_seed_decides(batch: torch.Tensor) -> None:
    def seeded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return code_some(batch)

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))


@pytest.mark.parametrize("file_format", coded.FORMATS)
def test_files_of_high_quality_are_near_their_images(batch: torch.Tensor, file_format: str) -> None:
    images = batch[:4].numpy()
    found = np.stack([coded._by_file(image, file_format, 95) for image in images])
    assert (psnr_db(images, found) > 20).all()


def test_batches_too_small_for_a_share_stay(batch: torch.Tensor) -> None:
    assert torch.equal(code_some(batch[:3]), batch[:3])
