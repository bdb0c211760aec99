"""The floor with the tools of `tsae`: PNG files by libspng and by `tsae.png`, matrix products by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from peers import floor
from peers.shared import run_program
from tsae import png
from tsae.backends.onnx import IR_VERSION, OPSET
from tsae.images import MAX_PIXELS


def _decode(data: bytes) -> Image.Image:
    pixels = png.decode_plain(data, MAX_PIXELS)
    assert pixels is not None, "not a plain PNG file"
    return Image.fromarray(pixels)


def _encode(images: NDArray[np.uint8]) -> list[bytes]:
    return list(png.encode(images, [None] * len(images)))


def _make_product() -> Callable[[NDArray[np.float32], NDArray[np.float32]], object]:
    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [floor.MATRIX] * 2) for name in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [a, b], [c])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return lambda a, b: session.run(None, {"a": a, "b": b})


OWN = floor.Tools(_decode, _encode, _make_product)

if __name__ == "__main__":
    from peers import own_floor  # by its name, which processes can import

    run_program(*(floor.on_all_cores(steps, own_floor.OWN) for steps in (floor.compress, floor.decompress)))
