"""The networks: their size and shapes, and folding that changes nothing but speed."""

import copy

import pytest
import torch
from torch import nn

from tsae.model import SeedAutoencoder, fold_batch_norm


@pytest.fixture
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


def test_folding_changes_no_result(network: SeedAutoencoder) -> None:
    x = torch.rand(4, 3, 32, 32)
    folded = fold_batch_norm(network)
    with torch.inference_mode():
        y = network.analysis(x)
        torch.testing.assert_close(folded.analysis(x), y, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(folded.synthesis(y), network.synthesis(y), atol=1e-5, rtol=1e-5)


def test_folding_removes_every_batch_normalisation_and_gradients(network: SeedAutoencoder) -> None:
    folded = fold_batch_norm(network)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not any(layer.training for layer in folded.modules())


def test_folding_leaves_the_network_as_it_was(network: SeedAutoencoder) -> None:
    network.train()
    before = copy.deepcopy(network.state_dict())
    folded = fold_batch_norm(network)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
