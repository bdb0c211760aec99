"""Jittered images: other ones, but of the same sign, as the seed says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tsae.training import jitter as jittering
from tsae.training.jitter import jitter


@pytest.fixture
def batch(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures)


def test_each_image_changes_and_keeps_shape_and_type(batch: torch.Tensor) -> None:
    torch.manual_seed(0)
    found = jitter(batch)
    assert (found.shape, found.dtype) == (batch.shape, torch.uint8)
    assert all((a != b).any() for a, b in zip(found, batch, strict=True))


def test_what_is_given_is_not_changed(batch: torch.Tensor) -> None:
    before = batch.clone()
    jitter(batch)
    assert torch.equal(batch, before)


def test_the_seed_decides(batch: torch.Tensor) -> None:
    def seeded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return jitter(batch)

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))


def test_equal_images_come_out_in_different_ways(batch: torch.Tensor) -> None:
    torch.manual_seed(0)
    found = jitter(batch[:1].repeat(8, 1, 1, 1))
    assert len({image.numpy().tobytes() for image in found}) == 8


def test_a_sign_stays_on_the_side_it_is_on() -> None:
    """Half white, half black: however it is moved, turned or lit, the white half stays on the left."""
    image = torch.zeros(32, 32, 3, dtype=torch.uint8)
    image[:, :16] = 255
    torch.manual_seed(0)
    found = jitter(image.repeat(64, 1, 1, 1)).float().mean(3)
    assert (found[:, :, :8].mean((1, 2)) > found[:, :, -8:].mean((1, 2)) + 20).all()


def test_only_the_share_that_is_to_be_blurred_is(batch: torch.Tensor) -> None:
    x = batch.permute(0, 3, 1, 2).float()
    found = jittering._blur(x)
    count = round(len(x) * jittering.BLURRED_SHARE)
    assert torch.equal(found[count:], x[count:])
    assert (found[:count].diff(dim=3).abs().mean((1, 2, 3)) < x[:count].diff(dim=3).abs().mean((1, 2, 3))).all()
    torch.testing.assert_close(found.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=3, rtol=0.05)


@pytest.mark.parametrize("count", [1, 2])
def test_small_batches_are_taken(batch: torch.Tensor, count: int) -> None:
    assert len(jitter(batch[:count])) == count
