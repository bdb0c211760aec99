"""Signs as another camera, another day or a poorer crop would have shown them: what classifiers see in place of each image.

No mirroring, and no colours that signs do not have: both change what a sign says. Random numbers are torch's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

TURN, SHEAR, SHIFT = math.radians(12), 0.12, 0.17
"""Greatest turn, in radians; shear; and shift, in half widths of an image: 2.7 pixels."""

ZOOM, STRETCH = 0.18, 0.1
"""Greatest natural logarithms of zoom, and of how much wider than high."""

BLURRED_SHARE, BLUR_PX, BLUR_ODDS = 0.35, (0.4, 1.4), 0.7
"""Share of images that are blurred, standard deviation across, and the greatest logarithm of what it is more or less along."""

BLUR_REACH_PX = 3

CONTRAST, BRIGHTNESS, GAMMA, SHADE, TINT = (-0.7, 0.5), (-0.9, 0.5), 0.4, 0.4, 0.2
"""Natural logarithms: of the change of contrast, and of the mean; greatest ones of the exponent of a curve of brightness, of
brightness from the middle of an image to an edge, and of each colour."""

SATURATION = 1.6
"""From grey to so many times as colourful."""

HIDDEN_SHARE, HIDDEN = 0.25, (0.1, 0.4)
"""Share of images with something before the sign, and its width and height as parts of the image's."""

NOISE = 0.15
"""Greatest deviation of noise, as a part of the image's own."""


def jitter(images: Tensor) -> Tensor:
    """Changes each image of a batch in its own way.

    Args:
        images: uint8 `[B, H, W, 3]`; not changed.

    Returns:
        uint8 of the same shape.
    """
    x = images.permute(0, 3, 1, 2).float()
    x = _light(_blur(_hide(_move(x))))
    return x.clamp_(0, 255).round_().to(torch.uint8).permute(0, 2, 3, 1)


def _uniform(x: Tensor, low: float, high: float, *shape: int) -> Tensor:
    return torch.empty(len(x), *shape, device=x.device).uniform_(low, high)


def _move(x: Tensor) -> Tensor:
    """Turns, zooms, shears and shifts; beyond the edge the nearest pixels go on."""
    turn, shear = _uniform(x, -TURN, TURN), _uniform(x, -SHEAR, SHEAR)
    zoom, stretch = torch.exp(_uniform(x, -ZOOM, ZOOM)), torch.exp(_uniform(x, -STRETCH, STRETCH))
    cos, sin = torch.cos(turn) / zoom, torch.sin(turn) / zoom
    across = torch.stack([cos * stretch, shear - sin, _uniform(x, -SHIFT, SHIFT)], 1)
    down = torch.stack([sin, cos / stretch, _uniform(x, -SHIFT, SHIFT)], 1)
    grid = functional.affine_grid(torch.stack([across, down], 1), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _hide(x: Tensor) -> Tensor:
    """Lays a rectangle of some colour over some images."""
    height, width = x.shape[2:]
    inside = []
    for size in (height, width):
        middle, extent = _uniform(x, 0, 1) * size, _uniform(x, *HIDDEN) * size
        distance = (torch.arange(size, device=x.device) + 0.5 - middle.view(-1, 1)).abs()
        inside.append(distance < extent.view(-1, 1) / 2)
    chosen = _uniform(x, 0, 1) < HIDDEN_SHARE
    mask = inside[0][:, None, :, None] & inside[1][:, None, None, :] & chosen.view(-1, 1, 1, 1)
    return torch.where(mask, _uniform(x, 0, 255, x.shape[1], 1, 1), x)


def _blur(x: Tensor) -> Tensor:
    """Blurs the first images of a batch, which are any, by a Gaussian that is wider across or along."""
    count, (_, channels, *size) = round(len(x) * BLURRED_SHARE), x.shape
    if not count:
        return x
    across = _uniform(x[:count], *BLUR_PX)
    down = across * torch.exp(_uniform(x[:count], -BLUR_ODDS, BLUR_ODDS))
    y = functional.pad(x[:count], [BLUR_REACH_PX] * 4, mode="replicate").reshape(1, count * channels, *(s + 6 for s in size))
    for deviation, axis in ((across, -2), (down, -1)):
        kernel = _gaussian(deviation).repeat_interleave(channels, 0)[:, None].unsqueeze(axis)
        y = functional.conv2d(y, kernel, groups=count * channels)
    return torch.cat([y.reshape(count, channels, *size), x[count:]])


def _gaussian(deviation: Tensor) -> Tensor:
    """Kernels of one dimension, `[B, 7]`, by standard deviation in pixels, `[B]`."""
    distance = torch.arange(-BLUR_REACH_PX, BLUR_REACH_PX + 1, device=deviation.device)
    weight = torch.exp(-(distance**2) / (2 * deviation[:, None] ** 2))
    return weight / weight.sum(1, keepdim=True)


def _light(x: Tensor) -> Tensor:
    """Changes contrast, brightness and colours, casts a shade, and adds noise."""
    mean, grey = x.mean((1, 2, 3), keepdim=True), x.mean(1, keepdim=True)
    contrast, brightness = torch.exp(_uniform(x, *CONTRAST, 1, 1, 1)), torch.exp(_uniform(x, *BRIGHTNESS, 1, 1, 1))
    x = grey + (x - grey) * _uniform(x, 0, SATURATION, 1, 1, 1)
    x = (x - mean) * contrast + mean * brightness
    x = 255 * (x.clamp(0, 255) / 255) ** torch.exp(_uniform(x, -GAMMA, GAMMA, 1, 1, 1))
    down, across = (torch.linspace(-1, 1, size, device=x.device) for size in x.shape[2:])
    shade = _uniform(x, -SHADE, SHADE, 1, 1, 1) * down[:, None] + _uniform(x, -SHADE, SHADE, 1, 1, 1) * across
    tint = _uniform(x, -TINT, TINT, x.shape[1], 1, 1)
    x = x * torch.exp(shade + tint)
    return x + torch.randn_like(x) * _uniform(x, 0, NOISE, 1, 1, 1) * x.std((1, 2, 3), keepdim=True)
