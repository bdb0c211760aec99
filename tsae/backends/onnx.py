"""Networks on a CPU: graphs of ONNX operators, run by ONNX Runtime in the calling thread."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tsae.backends import Network
from tsae.backends.layers import LEAST_VARIANCE, SPREAD, ClassifierLayers, Convolution, SeedLayers
from tsae.fixed_point import HIDDEN_LIMIT, KERNEL, MIX_LIMIT, STREAM_LIMIT, FixedPointTransform, is_mix, scaled_layer

OPSET = 17
"""Version of ONNX' operators, of 2022."""

IR_VERSION = 8
"""Version of its container that came with them."""

LANES = 16
"""Float32 numbers that processors take at once, at most."""

PHASES = [(0, 0), (0, 1), (1, 0), (1, 1)]
"""Parts of an image: even or odd rows, even or odd columns."""


class Graph:
    """A network under construction: each method adds an operator and returns the name of its result."""

    def __init__(self) -> None:
        """With the input "x" alone."""
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def apply(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds any operator of one result."""
        name = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, values: NDArray[np.float32]) -> str:
        """Adds weights."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def convolve(self, x: str, weight: NDArray[np.float32], bias: NDArray[np.float32], **attributes: Any) -> str:
        """Adds a convolution that keeps the size."""
        rows, columns = weight.shape[2:]
        pads = [rows // 2, columns // 2] * 2
        return self.apply("Conv", x, self.constant(weight), self.constant(bias), pads=pads, **attributes)

    def cut(self, x: str, low: int, high: int) -> str:
        """Adds a cut to a range."""
        return self.apply("Clip", x, self.constant(np.array(low, np.float32)), self.constant(np.array(high, np.float32)))

    def compile(self, y: str, channels_in: int, channels_out: int) -> Network:
        """Makes the network that gives a result."""
        inputs, outputs = _tensor("x", channels_in), _tensor(y, channels_out)
        graph = helper.make_graph(self._nodes, "network", [inputs], [outputs], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a process for each core: threads would only contend
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

        def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
            result: NDArray[np.float32] = session.run(None, {"x": np.ascontiguousarray(x)})[0]
            return result

        return run


def _tensor(name: str, channels: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, channels, None, None])


def seed_analysis(layers: SeedLayers, device: str) -> Network:
    """Images to latents."""
    graph, x = Graph(), "x"
    *inner, last = layers.analysis
    for layer in inner:
        x = graph.apply("Relu", graph.convolve(x, *layer))
        x = graph.apply("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return graph.compile(graph.convolve(x, *last), layers.analysis[0].weight.shape[1], len(last.bias))


def seed_synthesis(layers: SeedLayers, device: str) -> Network:
    """Latents to images.

    From the second layer on as convolutions that fill the lanes of a processor, of the four phases of an image, which only its
    3 channels are interleaved of: with the layers as they are, an image takes several times as long (docs/PERFORMANCE.md).
    """
    graph = Graph()
    first, second, last = layers.synthesis
    shape = {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}
    x = graph.apply("Relu", graph.apply("ConvTranspose", "x", *map(graph.constant, first), **shape))
    y = graph.apply("Sigmoid", _convolve_to_few(graph, _phases(graph, x, second), last))
    return graph.compile(graph.apply("DepthToSpace", y, blocksize=2, mode="DCR"), len(first.weight), len(last.bias))


def _phases(graph: Graph, x: str, layer: Convolution) -> list[str]:
    """A rectified transposed convolution of stride 2 as four plain ones, for even and odd rows and columns of its result."""
    rows = ([1], [2, 0])  # of its kernel, that meet an input; those of columns are the same
    phases = []
    for i, j in PHASES:
        kernel = graph.constant(layer.weight[:, :, rows[i]][:, :, :, rows[j]].transpose(1, 0, 2, 3))
        phases.append(graph.apply("Relu", graph.apply("Conv", x, kernel, graph.constant(layer.bias), pads=[0, 0, i, j])))
    return phases


def _convolve_to_few(graph: Graph, phases: list[str], layer: Convolution) -> str:
    """A convolution of an image that is there as phases; gives the phases of its result, the channels of each together.

    Its 3 outputs would leave 13 of 16 lanes empty; so there is a product for each of the 27 weights of an input. Then each
    product is shifted to where its weight puts it, and they are summed.
    """
    outputs, inputs, *kernel = layer.weight.shape
    taps = list(itertools.product(*map(range, kernel)))
    weights = layer.weight.transpose(2, 3, 0, 1).reshape(-1, inputs, 1, 1)
    padded = _round_up(len(weights), LANES)  # so that the phases can be joined without moving anything
    weights = np.concatenate([weights, np.zeros((padded - len(weights), inputs, 1, 1), np.float32)])
    products = graph.apply("Concat", *[graph.apply("Conv", phase, graph.constant(weights)) for phase in phases], axis=1)
    shifts = np.zeros((len(PHASES) * padded, 1, *kernel), np.float32)
    sums = np.zeros((len(PHASES) * outputs, len(shifts), 1, 1), np.float32)
    for (number, phase), (place, tap) in itertools.product(enumerate(PHASES), enumerate(taps)):
        # A product in row 2 i + phase belongs to row 2 i + phase + 1 - tap = 2 (i + step) + target; columns likewise.
        (down, row), (right, column) = (divmod(at + 1 - offset, 2) for at, offset in zip(phase, tap, strict=True))
        source, target = number * padded + place * outputs, PHASES.index((row, column)) * outputs
        for channel in range(outputs):
            shifts[source + channel, 0, 1 - down, 1 - right] = 1
            sums[target + channel, source + channel] = 1
    shifted = graph.apply("Conv", products, graph.constant(shifts), pads=[1] * 4, group=len(shifts))
    return graph.convolve(shifted, sums, np.tile(layer.bias, len(PHASES)))


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def fixed_point(transform: FixedPointTransform, quality: int, device: str) -> Network:
    """Integers to integers, all of them exact in float32."""
    graph, number = Graph(), -1

    def convolve(x: str) -> str:
        nonlocal number
        number += 1
        weight, bias = scaled_layer(transform, number, quality)
        groups = len(weight) if is_mix(transform, number) else 1
        side = KERNEL if is_mix(transform, number) else 1
        shaped = weight.reshape(len(weight), -1, side, side)
        return graph.apply("Floor", graph.convolve(x, shaped, bias, group=groups))

    t = graph.cut(convolve("x"), -STREAM_LIMIT, STREAM_LIMIT)
    for _ in range(transform.blocks):
        mixed = graph.cut(convolve(t), -MIX_LIMIT, MIX_LIMIT)
        hidden = graph.cut(convolve(mixed), 0, HIDDEN_LIMIT)
        t = graph.cut(graph.apply("Add", t, convolve(hidden)), -STREAM_LIMIT, STREAM_LIMIT)
    return graph.compile(convolve(t), transform.inputs, transform.outputs)


def classifier(layers: ClassifierLayers, device: str) -> Network:
    """Pixels or latents to logits."""
    graph = Graph()
    scale, offset = (values[:, None, None] for values in (layers.scale, layers.offset))
    *inner, last = layers.convolutions
    if layers.then[0] == "spread":  # what follows is linear, and does the scaling, too
        x = graph.apply("Add", "x", graph.constant(offset / scale))
        inner[0] = Convolution(inner[0].weight * scale, inner[0].bias)
    else:
        x = graph.apply("Add", graph.apply("Mul", "x", graph.constant(scale)), graph.constant(offset))
        x = _standardise(graph, x, len(layers.scale), layers.side)
    for layer, then, side in zip(inner, layers.then, layers.sides(), strict=False):
        x = graph.convolve(x, *layer)
        if then == "spread":  # standardised before its pixels are moved: the same numbers, in fewer rows
            x = graph.apply("DepthToSpace", _standardise(graph, x, len(layer.bias), side), blocksize=SPREAD, mode="CRD")
            continue
        x = graph.apply("Relu", x)
        if then == "pool":
            x = graph.apply("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        if then == "blur-pool":
            x = graph.apply("MaxPool", x, kernel_shape=[2, 2], pads=[0, 0, 1, 1])
            x = graph.apply("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return graph.compile(graph.apply("Conv", x, *map(graph.constant, last)), len(layers.scale), len(last.bias))


def _standardise(graph: Graph, x: str, channels: int, side: int) -> str:
    """Brings each image to a mean of 0 and a variance of nearly 1."""
    one = graph.constant(np.ones((channels, side, side), np.float32))
    return graph.apply("LayerNormalization", x, one, axis=1, epsilon=LEAST_VARIANCE)
