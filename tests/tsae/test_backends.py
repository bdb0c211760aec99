"""What computes the seed's networks: every backend gives what torch's own layers give, whatever the batch."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from tsae.backends import SeedNetworks, seed_networks
from tsae.backends.layers import SeedLayers, seed_layers
from tsae.checkpoint import SeedWeights
from tsae.model import SeedAutoencoder
from tsae.quantize import LatentQuantizer


@pytest.fixture(scope="module")
def network() -> SeedAutoencoder:
    """In evaluation mode, with batch normalisation as far from the identity as training leaves it, and farther."""
    torch.manual_seed(0)
    network = SeedAutoencoder().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.normal_(layer.running_mean, 0.3, 0.5)
            nn.init.uniform_(layer.running_var, 0.1, 3.0)
            nn.init.uniform_(layer.weight, -1.5, 1.5)
            nn.init.normal_(layer.bias, 0.0, 0.5)
    return network


@pytest.fixture(scope="module")
def layers(network: SeedAutoencoder) -> SeedLayers:
    ones = np.ones(8, np.float32)
    return seed_layers(SeedWeights.of(network, LatentQuantizer(ones, ones)).network)


@pytest.fixture(scope="module", params=["onnx", "torch"])
def networks(request: pytest.FixtureRequest, layers: SeedLayers) -> SeedNetworks:
    backend = importlib.import_module(f"tsae.backends.{request.param}")
    return SeedNetworks(backend.seed_analysis(layers, "cpu"), backend.seed_synthesis(layers, "cpu"))


@pytest.mark.parametrize("batch", [1, 5, 16])
def test_folded_layers_give_what_the_whole_network_gives(networks: SeedNetworks, network: SeedAutoencoder, batch: int) -> None:
    x = np.random.default_rng(batch).uniform(0, 1, (batch, 3, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        y = network.analysis(torch.from_numpy(x))
        x_hat = network.synthesis(y)
    found = networks.analysis(x)
    assert found.shape == (batch, 8, 8, 8)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, y.numpy(), atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(networks.synthesis(y.numpy()), x_hat.numpy(), atol=2e-5, rtol=1e-4)


def test_what_is_given_is_not_changed(networks: SeedNetworks) -> None:
    x = np.random.default_rng(0).uniform(0, 1, (2, 3, 32, 32)).astype(np.float32)
    before = x.copy()
    networks.analysis(x)
    np.testing.assert_array_equal(x, before)


def test_memory_may_lie_in_any_order(networks: SeedNetworks) -> None:
    x = np.random.default_rng(0).uniform(0, 1, (2, 32, 32, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(networks.analysis(x), networks.analysis(np.ascontiguousarray(x)))


def test_threads_may_share_a_network(layers: SeedLayers) -> None:
    analysis = seed_networks(layers, "cpu").analysis
    inputs = np.random.default_rng(0).uniform(0, 1, (8, 4, 3, 32, 32)).astype(np.float32)
    expected, found = [analysis(x) for x in inputs], {}

    def work(number: int) -> None:
        for _ in range(20):
            found[number] = analysis(inputs[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, y in enumerate(expected):
        np.testing.assert_array_equal(found[number], y)


def test_on_a_cpu_neither_torch_nor_what_the_other_model_needs_is_imported() -> None:
    code = """
import sys
import numpy as np
from tsae.codec import choose_device, shared_codec
from tsae.zoo import read_model_file
codec = shared_codec(read_model_file("seed-8x8x8"), "seed-8x8x8", "cpu")
codec.decode(codec.encode(np.zeros((2, 32, 32, 3), np.uint8)))
assert not {"torch", "numba"} & sys.modules.keys()
codec = shared_codec(read_model_file("tsae"), "tsae", "cpu")
codec.decode(codec.encode(np.zeros((2, 32, 32, 3), np.uint8), 3))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
