"""Networks on a CPU: graphs of ONNX operators, run by ONNX Runtime in the calling thread."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tsae.backends import Network
from tsae.backends.layers import Convolution, SeedLayers
from tsae.fixed_point import HIDDEN_LIMIT, KERNEL, MIX_LIMIT, STREAM_LIMIT, FixedPointTransform, is_mix, scaled_layer

OPSET = 17
"""Version of ONNX' operators, of 2022."""

IR_VERSION = 8
"""Version of its container that came with them."""


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
        ends = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, c, None, None])
            for n, c in (("x", channels_in), (y, channels_out))
        ]
        graph = helper.make_graph(self._nodes, "network", ends[:1], ends[1:], self._constants)
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
    """Latents to images."""
    graph, x = Graph(), "x"
    *inner, last = layers.synthesis
    for layer in inner:
        x = graph.apply("Relu", _grow(graph, x, layer))
    y = graph.apply("Sigmoid", _convolve_to_few(graph, x, last))
    return graph.compile(y, layers.synthesis[0].weight.shape[0], len(last.bias))


def _grow(graph: Graph, x: str, layer: Convolution) -> str:
    """A transposed convolution that doubles the size."""
    weight, bias = graph.constant(layer.weight), graph.constant(layer.bias)
    return graph.apply("ConvTranspose", x, weight, bias, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])


def _convolve_to_few(graph: Graph, x: str, layer: Convolution) -> str:
    """A convolution to 3 channels as the transposed one that it equals.

    That is computed as a product for 27 outputs and a sum of shifted ones, which takes 130 us an image less than 3 outputs
    of vectors that are filled to 16.
    """
    turned = layer.weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    return graph.apply("ConvTranspose", x, graph.constant(turned), graph.constant(layer.bias), pads=[1, 1, 1, 1])


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
