"""Variations of training images, since they show few signs many times; and some images unlike all others.

Without, the validation loss of `tsae` stopped falling after 15 of 30 epochs of GTSRB (34,769 images of 1,159 signs), and rose
from the 21st on.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT_PX = 2
"""Images are shifted by up to so many pixels each way; what comes in at an edge mirrors what is there."""

DIMMED_SHARE, LEAST_CONTRAST, GREATEST_CONTRAST, SHIFT_LEVELS = 0.5, 0.6, 1.3, 20.0
"""Part of the images whose contrast and brightness are changed, and by how much."""

RECOLOURED_SHARE, FLAT_SHARE = 1 / 16, 1 / 32
"""Parts of a batch that are recoloured, and that are replaced by flat colours or by slopes from one colour to another, so
that drawings come back well, too."""


def vary(images: Tensor) -> Tensor:
    """Shifts and mirrors images, dims half of them, recolours some, and replaces others, with torch's generator.

    Args:
        images: uint8 `[B, 32, 32, 3]`; not changed.

    Returns:
        uint8 of the same shape.
    """
    recoloured, flat = round(len(images) * RECOLOURED_SHARE), round(len(images) * FLAT_SHARE)
    x = _shift(images).float()
    parts = [_recolour(x[:recoloured]), _slopes(x[recoloured : recoloured + flat]), _dim(x[recoloured + flat :])]
    return torch.cat(parts).clamp(0, 255).round().to(torch.uint8)


def _shift(images: Tensor) -> Tensor:
    """By whole pixels, and mirrored left to right or not."""
    count, side = len(images), images.shape[1]
    offsets = torch.randint(-SHIFT_PX, SHIFT_PX + 1, (2, count, 1), device=images.device)
    rows, columns = torch.arange(side, device=images.device) + offsets
    rows, columns = ((side - 1) - ((side - 1) - places.abs()).abs() for places in (rows, columns))
    mirrored = torch.rand(count, 1, device=images.device) < 0.5
    columns = torch.where(mirrored, (side - 1) - columns, columns)
    return images[torch.arange(count, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _dim(x: Tensor) -> Tensor:
    shape = (len(x), 1, 1, 1)
    contrast = torch.empty(shape, device=x.device).uniform_(LEAST_CONTRAST, GREATEST_CONTRAST)
    shift = torch.empty(shape, device=x.device).uniform_(-SHIFT_LEVELS, SHIFT_LEVELS)
    changed = x * contrast + shift
    return torch.where(torch.rand(shape, device=x.device) < DIMMED_SHARE, changed, x)


def _recolour(x: Tensor) -> Tensor:
    """Other channels for each other, inverted or not, with another contrast and brightness."""
    order = torch.rand(len(x), 3, device=x.device).argsort(1)
    x = x.gather(3, order[:, None, None, :].expand_as(x))
    x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, 255 - x, x)
    contrast = torch.exp2(torch.empty(len(x), 1, 1, 1, device=x.device).uniform_(-1, 1.5))
    shift = torch.empty(len(x), 1, 1, 3, device=x.device).uniform_(-60, 60)
    middle = x.mean((1, 2, 3), keepdim=True)
    return (x - middle) * contrast + middle + shift


def _slopes(x: Tensor) -> Tensor:
    """From one colour to another in some direction, or one colour only; half of the colours fully saturated."""
    shape = (len(x), 1, 1, 3)
    ends = []
    for _ in range(2):
        colour = torch.rand(shape, device=x.device) * 255
        pure = (torch.rand(shape, device=x.device) < 0.5) * 255.0
        ends.append(torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, colour, pure))
    axis = torch.linspace(0, 1, x.shape[1], device=x.device)
    weight = torch.rand(len(x), 1, 1, 1, device=x.device)
    along = weight * axis[None, :, None, None] + (1 - weight) * axis[None, None, :, None]
    along = along * (torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5)
    return ends[0] * (1 - along) + ends[1] * along
