"""What is mixed into batches: only their first images change, and always to something that is an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tsae.training.augment import mix_in


@pytest.fixture
def batch() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (128, 32, 32, 3), np.uint8))


def mixed(batch: torch.Tensor, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return mix_in(batch)


def test_only_the_first_sixteenth_changes(batch: torch.Tensor) -> None:
    before = batch.clone()
    for seed in range(5):
        found = mixed(batch, seed)
        assert (found.dtype, found.shape) == (torch.uint8, batch.shape)
        assert torch.equal(batch, before)
        assert torch.equal(found[8:], batch[8:])
        assert all(not torch.equal(found[i], batch[i]) for i in range(4, 8))
        assert any(not torch.equal(found[i], batch[i]) for i in range(4))


@pytest.mark.parametrize(("size", "changed"), [(0, 0), (1, 0), (15, 0), (32, 2), (33, 2), (64, 4)])
def test_a_small_batch_changes_less(batch: torch.Tensor, size: int, changed: int) -> None:
    found = mixed(batch[:size], 0)
    assert (found.dtype, found.shape) == (torch.uint8, (size, 32, 32, 3))
    assert torch.equal(found[changed:], batch[changed:size])


def test_torch_seeds_it(batch: torch.Tensor) -> None:
    assert torch.equal(mixed(batch, 3), mixed(batch, 3))
    assert not torch.equal(mixed(batch, 3), mixed(batch, 4))


def test_flat_images_have_one_colour_or_slope_evenly(batch: torch.Tensor) -> None:
    """Along rows and columns, neighbours differ by nearly the same everywhere: they owe nothing to what they replace."""
    plain = 0
    for seed in range(20):
        for image in mixed(batch, seed)[4:8].to(torch.int16):
            for axis in (0, 1):
                step = image.diff(dim=axis)
                assert int((step.amax((0, 1)) - step.amin((0, 1))).max()) <= 1
            plain += int((image == image[0, 0]).all())
    assert 20 < plain < 60


def test_recoloured_images_keep_their_shapes() -> None:
    """An edge stays where it is, and what is uniform stays uniform."""
    x = torch.full((128, 32, 32, 3), 90, dtype=torch.uint8)
    x[:, :, 16:] = torch.tensor([110, 140, 100], dtype=torch.uint8)
    for image in mixed(x, 1)[:4]:
        assert bool((image[:, :16] == image[0, 0]).all())
        assert bool((image[:, 16:] == image[0, 16]).all())
