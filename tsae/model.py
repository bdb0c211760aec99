"""The networks, and nothing else: no files, no data, no quantisation.

Every network maps images `x`, float32 `[B, 3, 32, 32]` in 0..1, to latents `y` with `analysis`, and latents to
reconstructions `x_hat` in 0..1 with `synthesis`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tsae.config import SEED_LATENT_SHAPE


class SeedAutoencoder(nn.Module):
    """The autoencoder this project grew from: 32x32x3 -> 8x8x8 -> 32x32x3, 45,899 numbers with the BN statistics.

    ```
    x [3,32,32] -> Conv 64 -> BN -> ReLU -> AvgPool 2 -> Conv 32 -> BN -> ReLU -> AvgPool 2 -> Conv 8 -> y [8,8,8]
    y -> ConvT 32 /2 -> BN -> ReLU -> ConvT 64 /2 -> BN -> ReLU -> Conv 3 -> sigmoid -> x_hat [3,32,32]
    ```

    All kernels are 3x3 and keep the size ("same"). A transposed convolution of stride 2 grows 8 to 16 with one row of
    padding too many, which is cut at the near edge; Keras cuts it at the far edge, the same network in a mirror.

    Source: https://github.com/guilhermedom/autoencoder-traffic-sign-images-compression
    """

    latent_shape = SEED_LATENT_SHAPE

    def __init__(self) -> None:
        """Builds the layers with torch's default initialisation (seed it with `torch.manual_seed`)."""
        super().__init__()
        self.g_a = nn.Sequential(
            *_convolution(3, 64), nn.AvgPool2d(2), *_convolution(64, 32), nn.AvgPool2d(2), nn.Conv2d(32, 8, 3, padding=1)
        )
        self.g_s = nn.Sequential(*_upsampling(8, 32), *_upsampling(32, 64), nn.Conv2d(64, 3, 3, padding=1))

    def analysis(self, x: Tensor) -> Tensor:
        """Images float32 `[B, 3, 32, 32]` in 0..1 to latents float32 `[B, 8, 8, 8]`, unbounded."""
        y: Tensor = self.g_a(x)
        return y

    def synthesis_logits(self, y: Tensor) -> Tensor:
        """Latents `[B, 8, 8, 8]` to reconstructions before the sigmoid, for a cross-entropy that does not overflow."""
        logits: Tensor = self.g_s(y)
        return logits

    def synthesis(self, y: Tensor) -> Tensor:
        """Latents float32 `[B, 8, 8, 8]` to reconstructions float32 `[B, 3, 32, 32]` in 0..1."""
        return torch.sigmoid(self.synthesis_logits(y))

    def forward(self, x: Tensor) -> Tensor:
        """Images `[B, 3, 32, 32]` to the logits of their reconstructions: what training needs."""
        return self.synthesis_logits(self.analysis(x))


def _convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.BatchNorm2d(channels_out, eps=1e-3, momentum=0.01),
        nn.ReLU(),
    ]


def _upsampling(channels_in: int, channels_out: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(channels_in, channels_out, 3, stride=2, padding=1, output_padding=1)
    return [convolution, nn.BatchNorm2d(channels_out, eps=1e-3, momentum=0.01), nn.ReLU()]
