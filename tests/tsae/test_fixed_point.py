"""Fixed point: the network on a device gives the integers that 64-bit arithmetic gives, or is refused."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tsae.backends import Network, fixed_point_network
from tsae.backends import onnx as onnx_backend
from tsae.backends import torch as torch_backend
from tsae.coding import exact
from tsae.coding.exact import FixedPointNetwork
from tsae.errors import ModelError
from tsae.fixed_point import (
    EXACT_LIMIT,
    HIDDEN_LIMIT,
    KERNEL,
    MIX_LIMIT,
    STREAM_LIMIT,
    FixedPointTransform,
    Layer,
)

INPUTS, WIDTH, HIDDEN, OUTPUTS, QUALITIES, INPUT_LIMIT = 12, 10, 17, 6, 3, 128


def draw_layer(
    rng: np.random.Generator, outputs: int, inputs: int, input_limit: int, output_limit: int, qualities: int
) -> Layer:
    """Random weights of which the sums come as near to 2^24 as they may, and outputs that leave their range now and then."""
    weight = rng.normal(0, 1, (outputs, inputs))
    share = rng.uniform(0.55, 0.95, outputs)  # of the exact range, for weights
    weight *= (share * EXACT_LIMIT / input_limit / np.abs(weight).sum(1))[:, None]
    weight = np.clip(np.trunc(weight), -32768, 32767).astype(np.int16)
    largest = np.abs(weight.astype(np.int64)).sum(1) * input_limit
    typical = np.sqrt((weight.astype(float) ** 2).sum(1)) * input_limit
    shift = np.clip(np.rint(np.log2(typical / output_limit)), 1, 20).astype(np.int32)
    room = EXACT_LIMIT - 1 - largest - (1 << (shift.astype(np.int64) - 1))
    bias = np.trunc(rng.uniform(-1, 1, (qualities, outputs)) * room).astype(np.int32)
    return Layer(weight, bias, shift)


def draw_transform(seed: int, blocks: int = 2) -> FixedPointTransform:
    rng = np.random.default_rng(seed)
    layers = [draw_layer(rng, WIDTH, INPUTS, INPUT_LIMIT, STREAM_LIMIT, 1)]
    for _ in range(blocks):
        layers.append(draw_layer(rng, WIDTH, KERNEL * KERNEL, STREAM_LIMIT, MIX_LIMIT, 1))
        layers.append(draw_layer(rng, HIDDEN, WIDTH, MIX_LIMIT, HIDDEN_LIMIT, QUALITIES))
        layers.append(draw_layer(rng, WIDTH, HIDDEN, HIDDEN_LIMIT, STREAM_LIMIT, 1))
    return FixedPointTransform((*layers, draw_layer(rng, OUTPUTS, WIDTH, STREAM_LIMIT, 255, 1)), INPUT_LIMIT)


def draw_inputs(seed: int, batch: int) -> np.ndarray:
    """Half of the images at the limits everywhere, where sums are largest."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-INPUT_LIMIT, INPUT_LIMIT + 1, (batch, INPUTS, 8, 8))
    x[::2] = rng.choice([-INPUT_LIMIT, INPUT_LIMIT], x[::2].shape)
    return x


def run(network: FixedPointNetwork, x: np.ndarray, quality: int) -> np.ndarray:
    return network.run(x.astype(np.float32), quality)


@pytest.fixture(params=["onnx", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both compute on the CPU here; what is meant for a GPU too."""
    computed_by(importlib.import_module(f"tsae.backends.{request.param}").fixed_point, monkeypatch)
    return str(request.param)


def computed_by(fixed_point: Callable[[FixedPointTransform, int, str], Network], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "fixed_point_network", fixed_point)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


# Exactness


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_network_is_exact(backend: str, threads: int, batch: int) -> None:
    for seed in range(4):
        transform = draw_transform(seed)
        network, x = FixedPointNetwork(transform), draw_inputs(seed, batch)
        for quality in (1, QUALITIES):
            np.testing.assert_array_equal(run(network, x, quality), transform.run(x, quality))


def test_how_inputs_lie_in_memory_does_not_matter(backend: str) -> None:
    transform, x = draw_transform(3), draw_inputs(3, 5)
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(run(FixedPointNetwork(transform), channels_last, 1), transform.run(x, 1))


@pytest.mark.parametrize("batch", [1, 2, 16, 17, 64])
def test_torch_without_mkldnn_is_exact_too(threads: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else torch would take NNPACK for some batch sizes, which is not exact."""
    computed_by(torch_backend.fixed_point, monkeypatch)
    with torch.backends.mkldnn.flags(enabled=False):
        for seed in range(3):
            transform = draw_transform(seed)
            network, x = FixedPointNetwork(transform), draw_inputs(seed, batch)
            np.testing.assert_array_equal(run(network, x, 2), transform.run(x, 2))


def test_the_test_reaches_the_limits() -> None:
    """Else it would show little: sums close to 2^24, and values cut off everywhere."""
    transform, x = draw_transform(0), draw_inputs(0, 64)
    first = transform.layers[0]
    sums = np.einsum("oi,bihw->bohw", first.weight.astype(np.int64), x)
    assert np.abs(sums).max() > EXACT_LIMIT / 3
    sums_at_most = np.abs(first.weight.astype(np.int64)).sum(1) * INPUT_LIMIT + np.abs(first.bias).max(0)
    assert sums_at_most.max() > 0.9 * EXACT_LIMIT
    assert (np.abs((sums + first.bias[0][:, None, None]) >> first.shift[:, None, None]) > STREAM_LIMIT).mean() > 0.02
    y = [transform.run(x, quality) for quality in (1, 2, 3)]
    assert len(np.unique(y[0])) > 100
    assert (y[0] != y[2]).any()


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_network_is_exact(seed: int, blocks: int) -> None:
    transform, x = draw_transform(seed, blocks), draw_inputs(seed, 3)
    found = run(FixedPointNetwork(transform), x, 2 if blocks else 1)
    np.testing.assert_array_equal(found, transform.run(x, 2 if blocks else 1))


def test_an_image_does_not_depend_on_its_neighbours(backend: str) -> None:
    network, x = FixedPointNetwork(draw_transform(1)), draw_inputs(1, 20)
    whole = run(network, x, 2)
    for row in range(0, 20, 3):
        np.testing.assert_array_equal(run(network, x[row : row + 1], 2), whole[row : row + 1])


def test_the_reference_is_what_its_docstring_says() -> None:
    """Against plain loops: rounding to the nearest with ties up, padding with zeros, every cut."""
    transform, x = draw_transform(5, blocks=1), draw_inputs(5, 1)
    first, mix, expand, reduce, last = transform.layers

    def divide(layer: Layer, total: int, output: int) -> int:
        bias = int(layer.bias[min(2, len(layer.bias)) - 1, output])
        return (2 * (total + bias) + (1 << int(layer.shift[output]))) // (2 << int(layer.shift[output]))

    def pointwise(layer: Layer, values: list[int], output: int) -> int:
        weights = layer.weight[output].tolist()
        return divide(layer, sum(w * value for w, value in zip(weights, values, strict=True)), output)

    def cut(value: int, low: int, high: int) -> int:
        return min(max(value, low), high)

    def stream(row: int, column: int) -> list[int]:
        values = x[0, :, row, column].tolist()
        return [cut(pointwise(first, values, o), -STREAM_LIMIT, STREAM_LIMIT) for o in range(WIDTH)]

    t = {(row, column): stream(row, column) for row in range(8) for column in range(8)}
    found = transform.run(x, 2)
    for row, column in ((0, 0), (3, 4), (7, 2)):
        mixed = []
        for channel in range(WIDTH):
            taps = [(i, row + i // 5 - 2, column + i % 5 - 2) for i in range(25)]
            total = sum(int(mix.weight[channel, i]) * t[r, c][channel] for i, r, c in taps if (r, c) in t)
            mixed.append(cut(divide(mix, total, channel), -MIX_LIMIT, MIX_LIMIT))
        hidden = [cut(pointwise(expand, mixed, o), 0, HIDDEN_LIMIT) for o in range(HIDDEN)]
        added = [cut(t[row, column][o] + pointwise(reduce, hidden, o), -STREAM_LIMIT, STREAM_LIMIT) for o in range(WIDTH)]
        assert found[0, :, row, column].tolist() == [pointwise(last, added, o) for o in range(OUTPUTS)]


# What is refused


def one_layer(weight: int, bias: int, shift: int) -> Layer:
    return Layer(np.full((1, 3), weight, np.int16), np.full((1, 1), bias, np.int32), np.full(1, shift, np.int32))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_may_reach_all_but_the_limit(sign: int) -> None:
    """3 weights of 100 for inputs up to 128, and a half of 2^2."""
    rest = EXACT_LIMIT - 1 - 3 * 100 * 128 - 2**2
    one_layer(sign * 100, sign * rest, 3).check(128)
    with pytest.raises(ValueError, match=f"a sum that can reach {EXACT_LIMIT}, beyond {EXACT_LIMIT - 1}"):
        one_layer(sign * 100, sign * (rest + 1), 3).check(128)
    with pytest.raises(ValueError, match="beyond"):
        one_layer(sign * 100, sign * rest, 3).check(129)
    with pytest.raises(ValueError, match="beyond"):
        one_layer(sign * 100, sign * rest, 4).check(128)


def test_each_quality_counts_in_the_sum() -> None:
    bias = np.array([[0], [EXACT_LIMIT - 100]], np.int32)
    with pytest.raises(ValueError, match="beyond"):
        dataclasses.replace(one_layer(1, 0, 1), bias=bias).check(128)


@pytest.mark.parametrize("extreme", [-(2**31), -32768])
def test_the_least_integers_do_not_wrap(extreme: int) -> None:
    layer = one_layer(-32768, 0, 1) if extreme == -32768 else one_layer(0, extreme, 1)
    with pytest.raises(ValueError, match="beyond"):
        layer.check(4095)


@pytest.mark.parametrize("shift", [0, -1, 31, 64])
def test_a_shift_that_is_none_is_refused(shift: int) -> None:
    with pytest.raises(ValueError, match="a shift outside 1 to 30"):
        one_layer(1, 0, shift).check(1)


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": np.ones((1, 3), np.int32)},
        {"weight": np.ones((1, 3), np.float32)},
        {"weight": np.ones(3, np.int16)},
        {"weight": np.ones((1, 3, 1, 1), np.int16)},
        {"weight": np.ones((2, 3), np.int16)},
        {"bias": np.zeros((1, 1), np.int64)},
        {"bias": np.zeros(1, np.int32)},
        {"bias": np.zeros((1, 2), np.int32)},
        {"shift": np.ones(1, np.int64)},
        {"shift": np.ones((1, 1), np.int32)},
        {"shift": np.ones(2, np.int32)},
    ],
)
def test_arrays_of_other_types_or_shapes_are_refused(fields: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        dataclasses.replace(one_layer(1, 0, 1), **fields).check(1)


@pytest.mark.parametrize(
    "layer",
    [
        Layer(np.zeros((0, 3), np.int16), np.zeros((1, 0), np.int32), np.zeros(0, np.int32)),
        Layer(np.zeros((1, 0), np.int16), np.zeros((1, 1), np.int32), np.ones(1, np.int32)),
        Layer(np.zeros((1, 3), np.int16), np.zeros((0, 1), np.int32), np.ones(1, np.int32)),
    ],
    ids=["no outputs", "no inputs", "no qualities"],
)
def test_sizes_of_0_are_refused(layer: Layer) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        layer.check(128)


def with_layer(number: int, **fields: np.ndarray) -> tuple[Layer, ...]:
    layers = [*draw_transform(0).layers]
    layers[number] = dataclasses.replace(layers[number], **fields)
    return tuple(layers)


@pytest.mark.parametrize("number", range(8))
def test_layers_that_do_not_follow_one_another_are_refused(number: int) -> None:
    """An input less; where that is the number of inputs of the whole, an output less."""
    layer = draw_transform(0).layers[number]
    if number:
        layers = with_layer(number, weight=layer.weight[:, :-1])
    else:
        layers = with_layer(0, weight=layer.weight[:-1], bias=layer.bias[:, :-1], shift=layer.shift[:-1])
    with pytest.raises(ValueError, match=r"layer \d is .*, not \d+ times"):
        FixedPointTransform(layers, INPUT_LIMIT)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 6])
def test_another_number_of_layers_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} layers"):
        FixedPointTransform(draw_transform(0).layers[:count], INPUT_LIMIT)


def test_biases_for_different_qualities_are_refused() -> None:
    with pytest.raises(ValueError, match="different numbers of qualities"):
        FixedPointTransform(with_layer(2, bias=draw_transform(0).layers[2].bias[:2]), INPUT_LIMIT)


def test_sums_are_checked_for_what_each_layer_takes() -> None:
    """The first layer takes inputs within the limit, so a greater limit makes its sums too large."""
    with pytest.raises(ValueError, match="beyond"):
        FixedPointTransform(draw_transform(0).layers, 2 * INPUT_LIMIT)
    for number in range(1, 8):
        layer = draw_transform(0).layers[number]
        with pytest.raises(ValueError, match="beyond"):
            FixedPointTransform(with_layer(number, weight=np.clip(layer.weight * 2.0, -32768, 32767).astype(np.int16)), 128)


def test_tensors_come_back() -> None:
    transform = draw_transform(3)
    tensors = transform.to_tensors()
    read = FixedPointTransform.from_tensors(tensors, INPUT_LIMIT)
    assert read.to_tensors().keys() == tensors.keys()
    assert all(np.array_equal(array, tensors[name]) for name, array in read.to_tensors().items())
    assert (read.inputs, read.outputs, read.qualities) == (INPUTS, OUTPUTS, QUALITIES)
    assert read.parameters == sum(array.size for name, array in tensors.items() if not name.endswith("shift"))
    del tensors["4.bias"]
    with pytest.raises(ValueError, match=r"no 4\.bias"):
        FixedPointTransform.from_tensors(tensors, INPUT_LIMIT)


# A device that does not compute exactly


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).bfloat16().float().numpy()


def to_tensor_float_32(x: np.ndarray) -> np.ndarray:
    """Cuts to 10 bits behind the point, as a GPU does that is set to faster arithmetic."""
    return (np.ascontiguousarray(x).view(np.int32) & ~0x1FFF).view(np.float32)


def spoilt(spoil: Callable[[np.ndarray], np.ndarray]) -> Callable[[FixedPointTransform, int, str], Network]:
    """A backend of which the results are changed."""

    def fixed_point(transform: FixedPointTransform, quality: int, device: str) -> Network:
        network = fixed_point_network(transform, quality, device)
        return lambda x: spoil(network(x))

    return fixed_point


def assert_refused() -> None:
    with pytest.raises(ModelError, match=r'device cpu: does not compute exactly .*"highest"') as caught:
        FixedPointNetwork(draw_transform(2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rounded", [to_bfloat16, to_tensor_float_32, lambda x: x * np.float32(1 + 2**-20)])
def test_a_device_that_computes_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch, rounded: Callable[[np.ndarray], np.ndarray]
) -> None:
    """The weights of every layer, as a faster arithmetic would take them."""
    FixedPointNetwork(draw_transform(2))
    scaled = onnx_backend.scaled_layer

    def inexact(transform: FixedPointTransform, number: int, quality: int) -> tuple[np.ndarray, np.ndarray]:
        weight, bias = scaled(transform, number, quality)
        return rounded(weight), bias

    monkeypatch.setattr(onnx_backend, "scaled_layer", inexact)
    assert_refused()


@pytest.mark.parametrize("wrong", [1, 2, 16, 17])
def test_a_device_that_is_wrong_at_one_batch_size_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: int) -> None:
    computed_by(spoilt(lambda y: y + 1 if len(y) == wrong else y), monkeypatch)
    assert_refused()


def test_a_single_wrong_output_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(y: np.ndarray) -> np.ndarray:
        y[-1, -1, -1, -1] += 1
        return y

    computed_by(spoilt(spoil), monkeypatch)
    assert_refused()
