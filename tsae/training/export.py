"""What was learned, as integers: the networks of `tsae.fixed_point`, and the prior with tables fitted to training images."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tsae.checkpoint import PATCH, PIXEL_LIMIT, LearnedWeights, Model
from tsae.entropy import arrays
from tsae.entropy.prior import Prior
from tsae.fixed_point import EXACT_LIMIT, HIDDEN_LIMIT, MIX_LIMIT, STREAM_LIMIT, FixedPointTransform, Layer
from tsae.training.variable_rate import (
    GREY_LEVELS,
    HIDDEN_BITS,
    LEAST_LOG_SCALE,
    LOGISTIC_SLOPE,
    MIX_BITS,
    QUALITIES,
    STREAM_BITS,
    Block,
    Pointwise,
    Sizes,
    Transform,
    VariableRateAutoencoder,
    to_patches,
)

LATENT_BITS, PIXEL_BITS = 6, 4
"""Fractional bits of latents and pixels, in units of 16 grey levels."""

GAIN_BITS, PREDICTION_BITS, FIELD_BITS, ACTIVATION_BITS, MAGNITUDE_BITS = 12, 20, 15, 7, 4
"""Fractional bits of the prior's integers."""

HEAD_BITS = PREDICTION_BITS - ACTIVATION_BITS

SCALE_ROWS_AN_OCTAVE = 4
"""Tables of neighbouring scales are a factor of 2^(1/4) apart."""

TABLE_ROWS = 45
"""From 2^-4.5 steps to 2^6.5."""

TABLE_REACH, LEAST_REACH = 4.0, 2
"""Tables reach so many deviations from the mean, and so many symbols at least; what lies beyond escapes."""

PSEUDO_COUNT = 256.0
"""How many symbols the learned distribution counts as beside those that were seen, in each table."""

LEAST_PROBABILITY = 2.0**-18
"""Before rounding; every interval gets a frequency of at least 1 in 2^15."""

FIT_IMAGES, FIT_BATCH = 4096, 256
"""Training images that tables are fitted to, and at once."""

DEAD_CHANNEL = 2e-5
"""A channel in which no more than this share of symbols is other than 0 is not coded at that quality."""


def fixed_transform(
    transform: Transform, input_limit: int, input_bits: int, output_bits: int, gain: float
) -> FixedPointTransform:
    """A trained transform in integers.

    Args:
        transform: What was trained.
        input_limit: Greatest magnitude of an input.
        input_bits: Fractional bits of inputs.
        output_bits: Of outputs.
        gain: What outputs are multiplied by.
    """
    width = len(transform.first.weight)
    layers = [_layer(transform.first.weight, transform.first.bias, input_limit, input_bits, STREAM_BITS)]
    for block in cast(Iterable[Block], transform.blocks):
        mix = block.mix.weight.reshape(width, -1)
        assert block.mix.bias is not None  # noqa: S101 (a convolution has one unless told otherwise)
        layers.append(_layer(mix, block.mix.bias, STREAM_LIMIT, STREAM_BITS, MIX_BITS))
        layers.append(_layer(block.expand.weight, block.expand.bias + block.quality, MIX_LIMIT, MIX_BITS, HIDDEN_BITS))
        layers.append(_layer(block.reduce.weight, block.reduce.bias, HIDDEN_LIMIT, HIDDEN_BITS, STREAM_BITS))
    layers.append(_layer(transform.last.weight * gain, transform.last.bias * gain, STREAM_LIMIT, STREAM_BITS, output_bits))
    return FixedPointTransform(tuple(layers), input_limit)


def _layer(weight: Tensor, bias: Tensor, input_limit: int, input_bits: int, output_bits: int) -> Layer:
    """Each output with the finest weights that keep its sum exact."""
    w, b = weight.detach().double().numpy(), np.atleast_2d(bias.detach().double().numpy())
    for bits in range(24, 0, -1):
        fits = _rounded(w, b, bits, input_bits)
        shift = bits + input_bits - output_bits
        total = np.abs(fits[0]).sum(1) * input_limit + np.abs(fits[1]).max(0) + 2.0 ** (shift - 1)
        good = (total < EXACT_LIMIT) & (np.abs(fits[0]).max(1) <= np.iinfo(np.int16).max)
        if bits == 24:
            best, chosen, chosen_bias, shifts = good * False, fits[0] * 0, fits[1] * 0, np.zeros(len(w), np.int32)
        new = good & ~best
        chosen[new], chosen_bias[:, new], shifts[new] = fits[0][new], fits[1][:, new], shift
        best |= new
    if not best.all() or shifts.min() < 1:
        raise ValueError("weights too large for exact sums")
    return Layer(chosen.astype(np.int16), chosen_bias.astype(np.int32), shifts)


def _rounded(
    w: NDArray[np.float64], b: NDArray[np.float64], bits: int, input_bits: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.rint(w * 2.0**bits), np.rint(b * 2.0 ** (bits + input_bits))


def round_as_exported(network: VariableRateAutoencoder) -> None:
    """Makes the trainable network round weights and activations as its export will, so that training can make up for it."""
    pixels = fixed_transform(network.g_a, PIXEL_LIMIT, PIXEL_BITS, LATENT_BITS, 1.0)
    latents = fixed_transform(network.g_s, arrays.LATENT_LIMIT, LATENT_BITS, 0, GREY_LEVELS)
    for transform, fixed, bits, gain in (
        (network.g_a, pixels, (PIXEL_BITS, LATENT_BITS), 1.0),
        (network.g_s, latents, (LATENT_BITS, 0), GREY_LEVELS),
    ):
        first, *inner, last = fixed.layers
        transform.first.step = _step(first, bits[0], STREAM_BITS)
        transform.last.step = _step(last, STREAM_BITS, bits[1]) / gain
        for number, block in enumerate(cast(Iterable[Block], transform.blocks)):
            mix, expand, reduce = inner[3 * number : 3 * number + 3]
            block.mix_step = _step(mix, STREAM_BITS, MIX_BITS)[:, :, None, None]
            block.expand.step = _step(expand, MIX_BITS, HIDDEN_BITS)
            block.reduce.step = _step(reduce, HIDDEN_BITS, STREAM_BITS)


def _step(layer: Layer, input_bits: int, output_bits: int) -> Tensor:
    """What one in the last place of an integer weight stands for, by output, float32 `[outputs, 1]`."""
    bits = torch.from_numpy(layer.shift + output_bits - input_bits)
    return torch.exp2(-bits.float())[:, None]


@torch.no_grad()
def trainable(weights: LearnedWeights) -> VariableRateAutoencoder:
    """The trainable network that integers stand for: where a training that starts from a model starts.

    Args:
        weights: Of the model.
    """
    network = VariableRateAutoencoder(sizes_of(weights), torch.eye(PATCH), torch.ones(PATCH))
    _fill_transform(network.g_a, weights.analysis, PIXEL_BITS, LATENT_BITS, 1.0)
    _fill_transform(network.g_s, weights.synthesis, LATENT_BITS, 0, GREY_LEVELS)
    _fill_prior(network, weights.prior)
    return network


def sizes_of(weights: LearnedWeights) -> Sizes:
    """Widths and depths of a model."""
    prior = weights.prior
    shapes = [
        (len(t.layers[0].weight), len(t.layers[2].weight), (len(t.layers) - 2) // 3)
        for t in (weights.analysis, weights.synthesis)
    ]
    slices = tuple(prior.slices.tolist())
    return Sizes(prior.channels, slices, len(prior.own_weight), prior.mean_head.shape[1], shapes[0], shapes[1])


def _fill_transform(transform: Transform, fixed: FixedPointTransform, input_bits: int, output_bits: int, gain: float) -> None:
    first, *inner, last = fixed.layers
    _fill(transform.first, first, input_bits, STREAM_BITS)
    _fill(transform.last, last, STREAM_BITS, output_bits, gain)
    for number, block in enumerate(cast(Iterable[Block], transform.blocks)):
        mix, expand, reduce = inner[3 * number : 3 * number + 3]
        _fill(block.mix, mix, STREAM_BITS, MIX_BITS)
        _fill(block.reduce, reduce, HIDDEN_BITS, STREAM_BITS)
        block.quality.copy_(_fill(block.expand, expand, MIX_BITS, HIDDEN_BITS))
        block.expand.bias.zero_()


def _fill(target: Pointwise | nn.Conv2d, layer: Layer, input_bits: int, output_bits: int, gain: float = 1.0) -> Tensor:
    """Sets weight and bias; returns the biases by quality."""
    step = _step(layer, input_bits, output_bits)
    target.weight.copy_((torch.from_numpy(layer.weight).float() * step / gain).view_as(target.weight))
    biases = torch.from_numpy(layer.bias).float() * step.T * 2.0**-input_bits / gain
    if target.bias is not None:
        target.bias.copy_(biases[0])
    return biases


def _fill_prior(network: VariableRateAutoencoder, fixed: Prior) -> None:
    prior, taps = network.prior, arrays.CAUSAL_TAPS
    field_scale = torch.tensor([2.0 ** (FIELD_BITS - LATENT_BITS), 2.0 ** (FIELD_BITS - MAGNITUDE_BITS)])
    field = torch.from_numpy(fixed.field_weight).float() / field_scale[:, None]  # [C, 9, 2, H]
    first = 0
    for part, size in zip(prior.field_weights, fixed.slices.tolist(), strict=False):
        both = field[first : first + size].reshape(size, 3, 3, 2, -1).permute(4, 3, 0, 1, 2)  # [H, 2, n, 3, 3]
        part.copy_(both.flatten(1, 2))
        first += size
    own = torch.from_numpy(fixed.own_weight).float() / field_scale[:, None]  # [O, 12, 2, H]
    prior.own_weights.zero_().flatten(3)[..., :taps] = own.permute(0, 3, 2, 1)
    prior.field_quality.copy_(_float(fixed.field_start, FIELD_BITS))
    prior.field_position.copy_(_float(fixed.field_position, FIELD_BITS).T.reshape(-1, 8, 8))
    for name, bits in (("mean", PREDICTION_BITS - LATENT_BITS), ("scale", PREDICTION_BITS - MAGNITUDE_BITS)):
        getattr(prior, f"{name}_start").copy_(_float(getattr(fixed, f"{name}_start"), PREDICTION_BITS).reshape(-1, 8, 8))
        getattr(prior, f"{name}_head").copy_(_float(getattr(fixed, f"{name}_head"), HEAD_BITS))
        getattr(prior, f"{name}_causal").zero_().flatten(1)[:, :taps] = _float(getattr(fixed, f"{name}_causal"), bits)
    log_gain = torch.log2(_float(fixed.gain, GAIN_BITS))
    network.log_gain.copy_(log_gain)
    network.log_step.copy_(torch.log2(_float(fixed.step, LATENT_BITS + arrays.STEP_SHIFT)) + log_gain)
    offset = 0.5 / SCALE_ROWS_AN_OCTAVE - LEAST_LOG_SCALE
    prior.scale_quality.copy_(_float(fixed.log_gain, PREDICTION_BITS) - offset - log_gain)


def _float(values: NDArray[np.signedinteger], bits: int) -> Tensor:
    return torch.from_numpy(values.astype(np.float64) * 2.0**-bits).float()


@torch.no_grad()
def fixed_prior(network: VariableRateAutoencoder, images: NDArray[np.uint8]) -> Prior:
    """A trained prior in integers.

    Args:
        network: What was trained, on the CPU.
        images: To fit the tables to, uint8 `[N, 32, 32, 3]`.

    """
    prior, sizes = network.prior, network.sizes
    counts, used = _count_symbols(network, images)
    cumulative = [_frequencies(_logistic(*divmod(table, arrays.OFFSETS)), row) for table, row in enumerate(counts)]
    reaches = [_reach(table // arrays.OFFSETS) for table in range(len(counts))]
    latent_bits, magnitude_bits = FIELD_BITS - LATENT_BITS, FIELD_BITS - MAGNITUDE_BITS
    field = torch.cat([torch.stack(part.split(part.shape[1] // 2, 1)).permute(2, 3, 4, 0, 1) for part in prior.field_weights])
    unseen = torch.zeros(sizes.channels - len(field), *field.shape[1:])  # nothing comes after the last slice
    own = prior.own_weights.flatten(3)[..., : arrays.CAUSAL_TAPS].permute(0, 3, 2, 1)
    field_scale = torch.tensor([2.0**latent_bits, 2.0**magnitude_bits])[:, None]
    log_gain = network.log_gain + prior.scale_quality - LEAST_LOG_SCALE + 0.5 / SCALE_ROWS_AN_OCTAVE
    return Prior(
        slices=np.array(sizes.slices, np.int32),
        active=used.astype(np.uint8),
        gain=_int(torch.exp2(network.log_gain), GAIN_BITS),
        step=_int(torch.exp2(network.log_step - network.log_gain), LATENT_BITS + arrays.STEP_SHIFT),
        log_gain=_int(log_gain, PREDICTION_BITS),
        field_start=_int(prior.field_quality, FIELD_BITS),
        field_position=_int(prior.field_position.flatten(1).T, FIELD_BITS),
        field_weight=_int(torch.cat([field.flatten(1, 2), unseen.flatten(1, 2)]) * field_scale, 0, np.int16),
        own_weight=_int(own * field_scale, 0, np.int16),
        mean_start=_int(prior.mean_start.flatten(1), PREDICTION_BITS),
        mean_head=_int(prior.mean_head, HEAD_BITS, np.int16),
        mean_causal=_int(prior.mean_causal.flatten(1)[:, : arrays.CAUSAL_TAPS], PREDICTION_BITS - LATENT_BITS),
        scale_start=_int(prior.scale_start.flatten(1), PREDICTION_BITS),
        scale_head=_int(prior.scale_head, HEAD_BITS, np.int16),
        scale_causal=_int(prior.scale_causal.flatten(1)[:, : arrays.CAUSAL_TAPS], PREDICTION_BITS - MAGNITUDE_BITS),
        magnitude=_int(torch.log2(1.0 + torch.arange(arrays.MAGNITUDES)), MAGNITUDE_BITS),
        table_least=np.array([-reach for reach in reaches], np.int32),
        table_first=np.cumsum([0] + [len(table) for table in cumulative], dtype=np.int32),
        cumulative=np.concatenate(cumulative).astype(np.uint16),
    )


def _int(values: Tensor, bits: int, dtype: type[np.signedinteger] = np.int32) -> NDArray[np.signedinteger]:
    """Rounded to so many fractional bits; weights that their type cannot hold become its largest."""
    scaled, limit = np.rint(values.detach().double().numpy() * 2.0**bits), np.iinfo(dtype).max
    return np.ascontiguousarray(np.clip(scaled, -limit, limit).astype(dtype))


def _reach(row: int) -> int:
    return max(LEAST_REACH, int(np.ceil(TABLE_REACH * 2 ** (row / SCALE_ROWS_AN_OCTAVE + LEAST_LOG_SCALE))))


def _logistic(row: int, offset: int) -> NDArray[np.float64]:
    """Probability of each difference within reach, and last of all others, float64 `[2 reach + 2]`."""
    reach = _reach(row)
    slope = LOGISTIC_SLOPE / 2 ** (row / SCALE_ROWS_AN_OCTAVE + LEAST_LOG_SCALE)
    edges = np.arange(-reach, reach + 2) - 0.5 - (offset - arrays.OFFSETS // 2) / arrays.OFFSETS
    below = 0.5 * (1 + np.tanh(0.5 * slope * edges))
    above = 0.5 * (1 - np.tanh(0.5 * slope * edges))
    inside = np.where(edges[:-1] > 0, above[:-1] - above[1:], below[1:] - below[:-1])  # the difference of the smaller ones
    return np.append(inside, below[0] + above[-1])


def _frequencies(expected: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cumulative frequencies, 0 to 2^15, from what was learned and what was seen."""
    reach = len(expected) // 2 - 1
    middle = len(counts) // 2
    inside = counts[middle - reach : middle + reach + 1]
    seen = np.append(inside, counts.sum() - inside.sum())
    p = np.maximum((seen + PSEUDO_COUNT * expected) / (seen.sum() + PSEUDO_COUNT), LEAST_PROBABILITY)
    total = 1 << arrays.PROBABILITY_BITS
    frequencies = 1 + np.floor(p / p.sum() * (total - len(p))).astype(np.int64)
    frequencies[np.argmax(frequencies)] += total - frequencies.sum()
    return np.concatenate([[0], np.cumsum(frequencies)])


def _count_symbols(network: VariableRateAutoencoder, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How often each table codes each difference from the mean, and which channels are used at which quality."""
    tables, width = TABLE_ROWS * arrays.OFFSETS, 2 * _reach(TABLE_ROWS - 1) + 1
    counts = np.zeros(tables * width, np.int64)
    chosen = np.random.default_rng(0).permutation(len(images))[:FIT_IMAGES]
    used = np.zeros((QUALITIES, network.sizes.channels), np.int64)
    for quality in range(QUALITIES):
        for part in np.array_split(np.sort(chosen), max(1, len(chosen) // FIT_BATCH)):
            x = to_patches(torch.from_numpy(images[part]))
            rows, offsets, differences, symbols = network.predictions(x, torch.full((len(x),), quality))
            table = np.clip(rows, 0, TABLE_ROWS - 1) * arrays.OFFSETS + offsets
            difference = np.clip(differences, -(width // 2), width // 2) + width // 2
            counts += np.bincount((table * width + difference).ravel(), minlength=len(counts))
            used[quality] += (symbols != 0).sum((0, 2, 3))
    return counts.reshape(tables, width), used > DEAD_CHANNEL * len(chosen) * 64


def export(name: str, network: VariableRateAutoencoder, images: NDArray[np.uint8], facts: dict[str, Any]) -> Model:
    """The model in integers.

    Args:
        name: Of the model.
        network: What was trained.
        images: To fit the tables to, uint8 `[N, 32, 32, 3]`.
        facts: About the training, for people.
    """
    network = copy.deepcopy(network).cpu().requires_grad_(False)
    analysis = fixed_transform(network.g_a, PIXEL_LIMIT, PIXEL_BITS, LATENT_BITS, 1.0)
    synthesis = fixed_transform(network.g_s, arrays.LATENT_LIMIT, LATENT_BITS, 0, GREY_LEVELS)
    return Model(name, LearnedWeights(analysis, synthesis, fixed_prior(network, images)), training=facts)
