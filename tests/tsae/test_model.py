"""The networks: their size and shapes."""

import pytest
import torch
from torch import nn

from tsae.model import SeedAutoencoder


@pytest.fixture
def network() -> SeedAutoencoder:
    torch.manual_seed(0)
    return SeedAutoencoder().eval()


def test_the_seeds_autoencoder_has_45899_parameters() -> None:
    """Counted as its author's framework does: with BN's running mean and variance, without torch's counter of batches."""
    state = SeedAutoencoder().state_dict()
    counted = {name: tensor.numel() for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert sum(counted.values()) == 45_899
    assert sum(parameter.numel() for parameter in SeedAutoencoder().parameters()) == 45_899 - 2 * (64 + 32 + 32 + 64)


@pytest.mark.parametrize("batch", [1, 5])
def test_shapes_and_ranges(network: SeedAutoencoder, batch: int) -> None:
    x = torch.rand(batch, 3, 32, 32)
    y = network.analysis(x)
    assert y.shape == (batch, *network.latent_shape) == (batch, 8, 8, 8)
    x_hat = network.synthesis(y)
    assert x_hat.shape == x.shape
    assert 0 <= x_hat.min() < x_hat.max() <= 1


def test_forward_gives_the_logits_of_the_reconstruction(network: SeedAutoencoder) -> None:
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(torch.sigmoid(network(x)), network.synthesis(network.analysis(x)))
    torch.testing.assert_close(network(x), network.synthesis_logits(network.analysis(x)))


def test_layers_are_the_seeds() -> None:
    network = SeedAutoencoder()
    kinds = [[type(layer).__name__ for layer in part] for part in (network.g_a, network.g_s)]
    block = ["BatchNorm2d", "ReLU"]
    assert kinds[0] == ["Conv2d", *block, "AvgPool2d", "Conv2d", *block, "AvgPool2d", "Conv2d"]
    assert kinds[1] == ["ConvTranspose2d", *block, "ConvTranspose2d", *block, "Conv2d"]
    assert all((layer.eps, layer.momentum) == (1e-3, 0.01) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))
    assert all(layer.kernel_size == (3, 3) for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)))


def test_the_same_seed_gives_the_same_network() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(SeedAutoencoder().state_dict()["g_a.0.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
