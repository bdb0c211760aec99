"""The trainable network: every latent is predicted from those coded before it only, and bits are those of a distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tsae.training.conftest import SMALL
from tsae.coding import learned
from tsae.training.variable_rate import (
    QUALITIES,
    TrainablePrior,
    VariableRateAutoencoder,
    bits_of,
    on_grid,
    principal_components,
    to_patches,
)


@pytest.fixture
def prior() -> TrainablePrior:
    """With random weights everywhere, so that nothing is predicted from nothing."""
    torch.manual_seed(0)
    prior = TrainablePrior(SMALL, torch.ones(SMALL.channels)).requires_grad_(False)
    for parameter in prior.parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter))
    return prior


def draw_symbols(seed: int) -> torch.Tensor:
    return torch.randint(-3, 4, (1, SMALL.channels, 8, 8), generator=torch.Generator().manual_seed(seed)).float()


def slice_of(channel: int) -> int:
    return int(np.searchsorted(np.cumsum(SMALL.slices), channel, side="right"))


def predict(prior: TrainablePrior, symbols: torch.Tensor) -> torch.Tensor:
    """Mean and scale, `[2, C, 8, 8]`."""
    mean, scale = prior(symbols, 0.7 * symbols, torch.tensor([3]))
    return torch.cat([mean, scale])


def test_a_later_latent_changes_no_earlier_prediction(prior: TrainablePrior) -> None:
    """Nor any prediction of its own slice's other channels, nor its own; and it does change some later one."""
    symbols = draw_symbols(1)
    before = predict(prior, symbols)
    for channel in range(SMALL.channels):
        for row, column in ((0, 0), (0, 7), (3, 4), (7, 0), (6, 6)):
            changed = symbols.clone()
            changed[0, channel, row, column] += 5
            differs = (predict(prior, changed) != before).any(0)
            for other in range(SMALL.channels):
                if slice_of(other) < slice_of(channel) or (other != channel and slice_of(other) == slice_of(channel)):
                    assert not differs[other].any()
            assert not differs[channel].flatten()[: 8 * row + column + 1].any()
            if (row, column) == (3, 4):
                assert differs[channel].any()
                assert differs[channel + 1 :].any() == (slice_of(channel) < len(SMALL.slices) - 1)


def test_only_what_is_near_is_looked_at(prior: TrainablePrior) -> None:
    """At most one position to each side in later slices, and two in the channel itself."""
    symbols = draw_symbols(2)
    before, changed = predict(prior, symbols), symbols.clone()
    changed[0, 0, 3, 3] += 5
    differs = (predict(prior, changed) != before).any(0)
    assert differs[0].nonzero().sub(3).abs().max() <= 2
    assert differs[2:].nonzero()[:, 1:].sub(3).abs().max() <= 1


def test_qualities_differ(prior: TrainablePrior) -> None:
    symbols = draw_symbols(3).repeat(2, 1, 1, 1)
    mean, scale = prior(symbols, symbols, torch.tensor([0, 7]))
    assert (mean[0] != mean[1]).any()
    assert (scale[0] != scale[1]).any()


def test_at_first_there_is_no_context_and_the_transform_is_linear(pictures: np.ndarray) -> None:
    torch.manual_seed(0)
    network = VariableRateAutoencoder(SMALL, *principal_components(pictures)).requires_grad_(False)
    x = to_patches(torch.from_numpy(pictures))
    components, _ = principal_components(pictures)
    y = network.g_a((x - 128) / 16, torch.zeros(len(x), dtype=torch.int64))
    expected = torch.einsum("cp,bphw->bchw", components[: SMALL.channels], (x - 128) / 16)
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)
    mean, _ = network.prior(torch.round(y), y, torch.zeros(len(x), dtype=torch.int64))
    assert not mean.any()


def test_principal_components_are_orthonormal_and_sorted(pictures: np.ndarray) -> None:
    components, deviations = principal_components(pictures)
    torch.testing.assert_close(components @ components.T, torch.eye(48), atol=1e-4, rtol=0)
    assert (deviations.diff() <= 0).all()
    assert (components.sum(1) >= -1e-4).all()
    x = (to_patches(torch.from_numpy(pictures)) - 128).permute(0, 2, 3, 1).reshape(-1, 48)
    torch.testing.assert_close((x @ components.T).square().mean(0).sqrt(), deviations, atol=0.05, rtol=1e-3)


def test_patches_are_those_of_the_codec(pictures: np.ndarray) -> None:
    mine = to_patches(torch.from_numpy(pictures)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(mine - 128, learned.to_patches(pictures))


def test_bits_are_those_of_a_distribution() -> None:
    """Over all symbols the probabilities add up to 1, whatever mean and scale."""
    values = torch.arange(-400, 401).float()
    for mean in (0.0, 0.3, -7.5):
        for log_scale in (-4.0, -1.0, 0.0, 3.0, 5.0):
            bits = bits_of(values, torch.tensor(mean), torch.tensor(log_scale))
            assert torch.exp2(-bits).sum() == pytest.approx(1, abs=2e-4)
            assert bits.argmin() == torch.argmin((values - mean).abs())


def test_a_scale_is_a_standard_deviation() -> None:
    values = torch.arange(-400, 401).float()
    p = torch.exp2(-bits_of(values, torch.tensor(0.0), torch.tensor(4.0)))
    assert (p * values.square()).sum().sqrt() == pytest.approx(16, rel=0.01)


def test_rounding_passes_the_gradient_on() -> None:
    x = torch.tensor([-9.0, -0.6, 0.1, 0.4, 9.0], requires_grad=True)
    y = on_grid(x, 0.5, -2, 2)
    assert y.tolist() == [-2, -0.5, 0, 0.5, 2]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1, 1, 1]


def test_there_are_as_many_qualities_as_gains(pictures: np.ndarray) -> None:
    network = VariableRateAutoencoder(SMALL, *principal_components(pictures))
    assert network.log_gain.shape == network.log_step.shape == (QUALITIES, SMALL.channels)
    assert (network.log_gain.diff(dim=0) > 0).all()
