"""Networks on a GPU, by torch: the same layers as in `onnx.py`. On a CPU they serve as a second opinion, in tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tsae.backends import Network
from tsae.backends.layers import LEAST_VARIANCE, SPREAD, ClassifierLayers, Convolution, SeedLayers
from tsae.fixed_point import HIDDEN_LIMIT, KERNEL, MIX_LIMIT, STREAM_LIMIT, FixedPointTransform, is_mix, scaled_layer


def _network(function: Callable[[Tensor], Tensor], device: str, dtype: torch.dtype) -> Network:
    """A function of tensors as one of arrays."""

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            batch = torch.from_numpy(x).to(device, dtype).contiguous(memory_format=torch.channels_last)
            y: NDArray[np.float32] = function(batch).float().contiguous().cpu().numpy()
        return y

    return run


def _move(layer: Convolution, device: str) -> tuple[Tensor, Tensor]:
    weight = torch.from_numpy(layer.weight).to(device, memory_format=torch.channels_last)
    return weight, torch.from_numpy(layer.bias).to(device)


def seed_analysis(layers: SeedLayers, device: str) -> Network:
    """Images to latents."""
    *inner, last = (_move(layer, device) for layer in layers.analysis)

    def analyse(x: Tensor) -> Tensor:
        for weight, bias in inner:
            x = functional.avg_pool2d(functional.conv2d(x, weight, bias, padding=1).relu_(), 2)
        return functional.conv2d(x, *last, padding=1)

    return _network(analyse, device, torch.float32)


def seed_synthesis(layers: SeedLayers, device: str) -> Network:
    """Latents to images."""
    *inner, last = (_move(layer, device) for layer in layers.synthesis)

    def synthesise(x: Tensor) -> Tensor:
        for weight, bias in inner:
            x = functional.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1).relu_()
        return functional.conv2d(x, *last, padding=1).sigmoid_()

    return _network(synthesise, device, torch.float32)


def classifier(layers: ClassifierLayers, device: str) -> Network:
    """Pixels or latents to logits."""
    return _network(classifier_function(layers, device), device, torch.float32)


def classifier_function(layers: ClassifierLayers, device: str) -> Callable[[Tensor], Tensor]:
    """The same as a function of tensors, for gradients with regard to what it looks at."""
    scale, offset = (torch.from_numpy(values).to(device)[:, None, None] for values in (layers.scale, layers.offset))
    *inner, last = (_move(layer, device) for layer in layers.convolutions)

    def classify(x: Tensor) -> Tensor:
        x = x * scale + offset
        if layers.then[0] != "spread":
            x = functional.layer_norm(x, x.shape[1:], eps=LEAST_VARIANCE)
        for (weight, bias), then in zip(inner, layers.then, strict=True):
            x = functional.conv2d(x, weight, bias, padding=1)
            if then == "spread":
                x = functional.pixel_shuffle(x, SPREAD)
                x = functional.layer_norm(x, x.shape[1:], eps=LEAST_VARIANCE)
                continue
            x = x.relu_()
            if then == "pool":
                x = functional.max_pool2d(x, 2)
            if then == "blur-pool":
                x = blur_pool(x)
        return functional.conv2d(x, *last)

    return classify


def blur_pool(x: Tensor) -> Tensor:
    """Halves rows and columns of what was rectified; see `tsae.backends.layers.Then`."""
    return functional.avg_pool2d(functional.max_pool2d(functional.pad(x, [0, 1, 0, 1]), 2, 1), 2)


def fixed_point(transform: FixedPointTransform, quality: int, device: str) -> Network:
    """Integers to integers: in float64 on a GPU, which no setting makes less exact, as TF32 would float32.

    There are only 1x1 and depthwise 5x5 convolutions, so that Winograd's transforms have no place; NNPACK, which some builds
    of torch take for batches of 16 and more, would transform all the same, and is switched off.
    """
    torch.backends.nnpack.set_flags(False)  # type: ignore[no-untyped-call]
    dtype = torch.float64 if device == "cuda" else torch.float32
    layers = [_shape(transform, number, quality, device, dtype) for number in range(len(transform.layers))]

    def run(x: Tensor) -> Tensor:
        (weight, bias), *inner, last = layers
        t = functional.conv2d(x, weight, bias).floor_().clamp_(-STREAM_LIMIT, STREAM_LIMIT)
        for mix, expand, reduce in zip(inner[::3], inner[1::3], inner[2::3], strict=True):
            mixed = functional.conv2d(t, *mix, padding=KERNEL // 2, groups=t.shape[1])
            mixed.floor_().clamp_(-MIX_LIMIT, MIX_LIMIT)
            hidden = functional.conv2d(mixed, *expand).floor_().clamp_(0, HIDDEN_LIMIT)
            t.add_(functional.conv2d(hidden, *reduce).floor_()).clamp_(-STREAM_LIMIT, STREAM_LIMIT)
        return functional.conv2d(t, *last).floor_()

    return _network(run, device, dtype)


def _shape(transform: FixedPointTransform, number: int, quality: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    weight, bias = (torch.from_numpy(values) for values in scaled_layer(transform, number, quality))
    side = KERNEL if is_mix(transform, number) else 1
    shaped = weight.view(len(weight), -1, side, side).to(device, dtype, memory_format=torch.channels_last)
    return shaped, bias.to(device, dtype)
