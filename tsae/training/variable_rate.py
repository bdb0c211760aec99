"""The trainable form of the `tsae` model: floating point, noise in place of rounding. What runs is made from it at the end.

Units: one unit of latents and of every activation is 16 grey levels, so that they are about 1.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tsae.checkpoint import PATCH
from tsae.fixed_point import HIDDEN_LIMIT, STREAM_LIMIT

QUALITIES = 8

GREY_LEVELS = 16.0
"""Grey levels in one unit."""

STREAM_BITS, MIX_BITS, HIDDEN_BITS = 6, 5, 6
"""Fractional bits, in units, of the activations of `tsae.fixed_point`."""

STREAM_REACH = STREAM_LIMIT / 2.0**STREAM_BITS
"""Greatest magnitude of the inner representation, in units."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Widths and depths.

    Attributes:
        channels: Of the latents.
        slices: Channels that are predicted at once; single ones also see themselves through the hidden field.
        owns: How many of the first slices do.
        fields: Units of the prior's hidden field.
        analysis: Width, hidden width and number of blocks of the analysis network.
        synthesis: The same for the synthesis network.
    """

    channels: int = 32
    slices: tuple[int, ...] = (1, 1, 1, 1, 1, 1, 2, 4, 4, 8, 8)
    owns: int = 6
    fields: int = 32
    analysis: tuple[int, int, int] = (80, 160, 3)
    synthesis: tuple[int, int, int] = (64, 160, 2)


def to_patches(images: Tensor) -> Tensor:
    """uint8 `[B, 32, 32, 3]` to float32 `[B, 48, 8, 8]` in grey levels, channels last: row and column in the patch, colour."""
    batch = len(images)
    patches = images.view(batch, 8, 4, 8, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(batch, 8, 8, PATCH)
    return patches.float().permute(0, 3, 1, 2)


def to_unit_pixels(patches: Tensor) -> Tensor:
    """What `to_patches` gives, cut to 0..255, as float32 `[B, 3, 32, 32]` in 0..1."""
    parts = patches.clamp(0, 255).reshape(-1, 4, 4, 3, 8, 8).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(-1, 3, 32, 32) / 255


def principal_components(images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """The principal components of patches less mid-grey, and what they vary by.

    Args:
        images: uint8 `[N, 32, 32, 3]`.

    Returns:
        Unit vectors by falling variance, float32 `[48, 48]`, a row each; root mean squares, float32 `[48]`, grey levels.
    """
    patches = (to_patches(torch.from_numpy(images)) - 128).permute(0, 2, 3, 1).reshape(-1, PATCH).double()
    variances, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    signs = torch.sign(vectors.sum(0)) + (vectors.sum(0) == 0)  # a component's sign is the library's choice
    return (vectors * signs).T.flip(0).float().contiguous(), variances.flip(0).clamp_min(1e-3).sqrt().float()


class _OnGrid(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, step: Tensor | float, least: float, greatest: float) -> Tensor:
        return (x / step).round_().mul_(step).clamp_(least, greatest)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return gradients[0], None, None, None


def on_grid(x: Tensor, step: Tensor | float, least: float = -math.inf, greatest: float = math.inf) -> Tensor:
    """The nearest multiple of a step within a range, with the gradient of `x` itself ("straight through")."""
    result: Tensor = _OnGrid.apply(x, step, least, greatest)
    return result


class Pointwise(nn.Module):
    """A 1x1 convolution whose weight is a matrix, as `torch.optim.Muon` needs it.

    Attributes:
        step: What weights are rounded to multiples of, by output, `[outputs, 1]`; None is not at all.
    """

    step: Tensor | None

    def __init__(self, inputs: int, outputs: int) -> None:
        """Starts with small random weights and no bias."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * (0.5 / math.sqrt(inputs)))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.step = None

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, 8, 8]` to `[B, outputs, 8, 8]`."""
        weight = self.weight if self.step is None else on_grid(self.weight, self.step)
        return functional.conv2d(x, weight[:, :, None, None], self.bias)


class Block(nn.Module):
    """`x + B relu(A mix(x) + quality)`, mix a 5x5 convolution of each channel by itself; B starts at 0, mix near x.

    Attributes:
        mix_step: What the weights of mix are rounded to multiples of, `[width, 1, 1, 1]`; None where nothing is rounded.
    """

    mix_step: Tensor | None

    def __init__(self, width: int, hidden: int) -> None:
        """Builds the layers."""
        super().__init__()
        self.mix = nn.Conv2d(width, width, 5, padding=2, groups=width)
        assert self.mix.bias is not None  # noqa: S101 (a convolution has one unless told otherwise)
        self.expand = Pointwise(width, hidden)
        self.reduce = Pointwise(hidden, width)
        self.quality = nn.Parameter(torch.zeros(QUALITIES, hidden))
        self.mix_step = None
        with torch.no_grad():
            self.mix.weight.mul_(0.5)[:, 0, 2, 2] += 1
            nn.init.zeros_(self.mix.bias)
            self.reduce.weight.zero_()

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """`[B, width, 8, 8]` and the quality of each image less 1, int64 `[B]`."""
        if self.mix_step is None:
            hidden = functional.relu(self.expand(self.mix(x)) + self.quality[quality][:, :, None, None])
            result: Tensor = x + self.reduce(hidden)
            return result
        weight = on_grid(self.mix.weight, self.mix_step)
        mixed = functional.conv2d(x, weight, self.mix.bias, padding=2, groups=x.shape[1])
        hidden = self.expand(on_grid(mixed, 2.0**-MIX_BITS)) + self.quality[quality][:, :, None, None]
        hidden = on_grid(functional.relu(hidden), 2.0**-HIDDEN_BITS, 0, HIDDEN_LIMIT / 2.0**HIDDEN_BITS)
        return on_grid(x + self.reduce(hidden), 2.0**-STREAM_BITS, -STREAM_REACH, STREAM_REACH)


class Transform(nn.Module):
    """Inputs -> width -> blocks -> outputs, all at 8x8; starts as the linear map `last @ first`."""

    def __init__(self, first: Tensor, last: Tensor, sizes: tuple[int, int, int]) -> None:
        """Builds the layers.

        Args:
            first: What the first channels of the inner representation start as, float32 `[n, inputs]`.
            last: How they give the outputs, float32 `[outputs, n]`.
            sizes: Width, hidden width, number of blocks.
        """
        super().__init__()
        width, hidden, blocks = sizes
        self.first = Pointwise(first.shape[1], width)
        self.blocks = nn.ModuleList([Block(width, hidden) for _ in range(blocks)])
        self.last = Pointwise(width, len(last))
        with torch.no_grad():
            self.first.weight[: len(first)] = first
            self.last.weight.zero_()[:, : len(first)] = last

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """`[B, inputs, 8, 8]` and the quality of each image less 1, int64 `[B]`, to `[B, outputs, 8, 8]`."""
        x = self.first(x)
        if self.first.step is not None:
            x = on_grid(x, 2.0**-STREAM_BITS, -STREAM_REACH, STREAM_REACH)
        for block in self.blocks:
            x = block(x, quality)
        result: Tensor = self.last(x)
        return result


class TrainablePrior(nn.Module):
    """Mean and scale of each latent from those coded before it; see `tsae.entropy.Prior` for what it becomes."""

    def __init__(self, sizes: Sizes, deviations: Tensor) -> None:
        """Starts with the principal components' deviations as scales, and no context.

        Args:
            sizes: Of the model.
            deviations: Of each channel in units, float32 `[C]`.
        """
        super().__init__()
        self.sizes = sizes
        channels, fields, slices = sizes.channels, sizes.fields, sizes.slices
        self.field_weights = nn.ParameterList([nn.Parameter(0.1 * torch.randn(fields, 2 * n, 3, 3) / n) for n in slices[:-1]])
        self.own_weights = nn.Parameter(0.02 * torch.randn(sizes.owns, fields, 2, 3, 5))
        self.field_quality = nn.Parameter(torch.zeros(QUALITIES, fields))
        self.field_position = nn.Parameter(0.3 * torch.rand(fields, 8, 8))
        self.mean_head = nn.Parameter(torch.zeros(channels, fields))
        self.scale_head = nn.Parameter(torch.zeros(channels, fields))
        self.mean_causal = nn.Parameter(torch.zeros(channels, 1, 3, 5))
        self.scale_causal = nn.Parameter(torch.zeros(channels, 1, 3, 5))
        self.mean_start = nn.Parameter(torch.zeros(channels, 8, 8))
        self.scale_start = nn.Parameter(torch.log2(deviations)[:, None, None].repeat(1, 8, 8))
        self.scale_quality = nn.Parameter(torch.zeros(QUALITIES, channels))
        causal = torch.ones(3, 5)
        causal[2, 2:] = 0
        self.causal: Tensor
        self.register_buffer("causal", causal)

    def forward(self, symbols: Tensor, latents: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts all latents at once, each as the decoder will.

        Args:
            symbols: `[B, C, 8, 8]`.
            latents: What they stand for, in units, `[B, C, 8, 8]`.
            quality: Of each image less 1, int64 `[B]`.

        Returns:
            Mean in units and binary logarithm of the scale in units, `[B, C, 8, 8]`.
        """
        magnitudes = torch.log2(1 + symbols.abs())
        above, above_magnitudes = (functional.pad(x, (2, 2, 2, 0)) for x in (latents, magnitudes))
        causal, channels, owns = self.causal, self.sizes.channels, self.sizes.owns
        mean = functional.conv2d(above, self.mean_causal * causal, groups=channels) + self.mean_start
        scale = functional.conv2d(above_magnitudes, self.scale_causal * causal, groups=channels) + self.scale_start
        scale = scale + self.scale_quality[quality][:, :, None, None]
        field = self.field_position + self.field_quality[quality][:, :, None, None]
        means, scales, first = [], [], 0
        for number, size in enumerate(self.sizes.slices):
            seen = slice(first, first + size)
            hidden = field
            if number < owns:
                own = torch.cat([above[:, seen], above_magnitudes[:, seen]], 1)
                hidden = hidden + functional.conv2d(own, self.own_weights[number] * causal)
            heads = torch.cat([self.mean_head[seen], self.scale_head[seen]])[:, :, None, None]
            both = functional.conv2d(functional.relu(hidden), heads)
            means.append(both[:, :size])
            scales.append(both[:, size:])
            if number < len(self.field_weights):
                both = torch.cat([latents[:, seen], magnitudes[:, seen]], 1)
                field = field + functional.conv2d(both, self.field_weights[number], padding=1)
            first += size
        return mean + torch.cat(means, 1), scale + torch.cat(scales, 1)


class VariableRateAutoencoder(nn.Module):
    """One set of weights for eight operating points.

    ```
    x [48,8,8] patches -> g_a -> y [C,8,8] -> * gain(quality), round -> symbols -> * step(quality) -> y_hat -> g_s -> x_hat
                                                      `-> prior -> mean, scale -> bits
    ```

    It starts as a transform by principal components of the patches.

    Sources: gains by quality after Z. Cui et al., https://arxiv.org/abs/2003.02012; rate by uniform noise and distortion by
    straight-through rounding after D. Minnen, S. Singh, https://arxiv.org/abs/2007.08739.
    """

    def __init__(self, sizes: Sizes, components: Tensor, deviations: Tensor) -> None:
        """Builds the networks.

        Args:
            sizes: Widths and depths.
            components: From `principal_components`.
            deviations: The same, grey levels.
        """
        super().__init__()
        channels = sizes.channels
        self.sizes = sizes
        self.g_a = Transform(components, torch.eye(channels, PATCH), sizes.analysis)
        self.g_s = Transform(torch.eye(channels), components[:channels].T, sizes.synthesis)
        self.prior = TrainablePrior(sizes, deviations[:channels] / GREY_LEVELS)
        steps = FINEST_STEP * 2 ** (STEP_OCTAVES * torch.linspace(1, 0, QUALITIES)) / GREY_LEVELS
        self.log_gain = nn.Parameter(-torch.log2(steps)[:, None].repeat(1, channels))
        self.log_step = nn.Parameter(torch.zeros(QUALITIES, channels))

    def forward(self, x: Tensor, quality: Tensor, hard: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Codes images as far as a gradient can follow.

        Args:
            x: Patches in grey levels, float32 `[B, 48, 8, 8]`.
            quality: Of each image less 1, int64 `[B]`.
            hard: Whether the rate is that of the rounded symbols; else of symbols with uniform noise.

        Returns:
            Reconstructed patches in grey levels, bits of each symbol `[B, C, 8, 8]`, and the symbols.
        """
        log_gain = self.log_gain[quality][:, :, None, None]
        scaled = self.g_a((x - 128) / GREY_LEVELS, quality) * torch.exp2(log_gain)
        symbols = scaled + (torch.round(scaled) - scaled).detach()
        latents = symbols * torch.exp2(self.log_step[quality][:, :, None, None] - log_gain)
        x_hat = self.g_s(latents, quality) * GREY_LEVELS + 128
        mean, log_scale = self.prior(symbols, latents, quality)
        values = symbols if hard else scaled + torch.rand_like(scaled) - 0.5
        return x_hat, bits_of(values, mean * torch.exp2(log_gain), log_scale + log_gain), symbols

    @torch.no_grad()
    def predictions(self, x: Tensor, quality: Tensor) -> tuple[NDArray[np.int64], ...]:
        """Which table each symbol is coded with, as far as floating point can tell, to fit the tables.

        Args:
            x: Patches in grey levels, float32 `[B, 48, 8, 8]`.
            quality: Of each image less 1, int64 `[B]`.

        Returns:
            int64 `[B, C, 8, 8]` each: quarters of an octave of the scale above the least one, sixteenths of a step of the
            mean from half a step below its nearest integer, symbol less that integer, and symbol.
        """
        log_gain = self.log_gain[quality][:, :, None, None]
        symbols = torch.round(self.g_a((x - 128) / GREY_LEVELS, quality) * torch.exp2(log_gain))
        latents = symbols * torch.exp2(self.log_step[quality][:, :, None, None] - log_gain)
        mean, log_scale = self.prior(symbols, latents, quality)
        sixteenths = torch.floor(16 * mean * torch.exp2(log_gain) + 0.5)
        nearest = torch.floor((sixteenths + 8) / 16)
        rows = torch.floor((log_scale + log_gain - LEAST_LOG_SCALE) * 4 + 0.5)
        parts = (rows, sixteenths + 8 - 16 * nearest, symbols - nearest, symbols)
        return tuple(part.long().numpy() for part in parts)


FINEST_STEP, STEP_OCTAVES = 8.0, 3.0
"""Steps start at 8 grey levels for the highest quality, and 2^3 times that for the lowest: error variance is a twelfth
of the square, so these are about 40 and 27 dB less what zeroed latents save."""

LEAST_LOG_SCALE, GREATEST_LOG_SCALE = -4.5, 7.0
"""Binary logarithms of the least and greatest scale, in steps: those of the first and about the last table."""

LEAST_PROBABILITY = 1e-7
"""Keeps the logarithm finite; the real coder escapes."""


def bits_of(values: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Information of symbols under a logistic distribution integrated over each step, in bits.

    Args:
        values: Symbols, or symbols with noise.
        mean: In steps.
        log_scale: Binary logarithm of the standard deviation, in steps.

    Returns:
        Of the same shape.
    """
    slope = LOGISTIC_SLOPE * torch.exp2(-log_scale.clamp(LEAST_LOG_SCALE, GREATEST_LOG_SCALE))
    distance = (values - mean).abs()  # of two sigmoids near 1 the difference would be lost
    likelihood = torch.sigmoid((0.5 - distance) * slope) - torch.sigmoid((-0.5 - distance) * slope)
    return -torch.log2(likelihood.clamp_min(LEAST_PROBABILITY))


LOGISTIC_SLOPE = math.pi / math.sqrt(3)
"""A logistic distribution of unit deviation is `sigmoid(1.814 x)`."""
