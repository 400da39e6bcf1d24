"""A training step of the ADNI-size encoder; modules bear the names they have in Flax."""

import torch
from torch import nn
from torch.nn import functional

from benchmarks import inputs
from benchmarks.pytorch import common

CHANNELS, BLOCKS = (16, 16, 32, 64), (2, 2, 2, 2)


class NormSwish(nn.Module):
    """Batch norm, then swish."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm3d(channels, eps=1e-8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keeps the shape."""
        return functional.silu(self.norm(x))


class ResidualBlock(nn.Module):
    """x + f(x), f = norm, swish, convolution, twice; a convolution on the shortcut where shapes change."""

    def __init__(self, channels: int, features: int, stride: int):
        super().__init__()
        self.norm1, self.norm2 = NormSwish(channels), NormSwish(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv3d(channels, features, 3, 1, 1, bias=False)
        changes = stride > 1 or channels != features
        self.shortcut = nn.Conv3d(channels, features, 3, stride, 1) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, D, H, W) to (N, features, D', H', W')."""
        return self.shortcut(x) + self.conv2(self.norm2(self.conv1(self.norm1(x))))


class ResNet3D(nn.Module):
    """Volumes (N, D, H, W) to features."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(1, CHANNELS[0], 7, 2, 3)
        self.names, channels = [], CHANNELS[0]
        for stage, (features, count) in enumerate(zip(CHANNELS, BLOCKS, strict=True)):
            for index in range(count):
                self.names.append(f"stage{stage}_block{index}")
                stride = 2 if stage and not index else 1
                self.add_module(self.names[-1], ResidualBlock(channels, features, stride))
                channels = features

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """The features (N, C)."""
        x = functional.max_pool3d(self.stem(volume[:, None]), 3, 2)
        for name in self.names:
            x = getattr(self, name)(x)
        return x.mean((2, 3, 4))


def step(shape: tuple[int, int, int], batch: int, compiled: bool = False, channels_last: bool = False) -> inputs.Work:
    """Encoder, mean square of its features, fused Adam; float32."""
    module = common.set_initial_weights(ResNet3D()).train()
    if channels_last:
        module = module.to(memory_format=torch.channels_last_3d)
    volume = common.tensor(inputs.normal(batch, *shape))
    return common.training(lambda x: module(x).square().mean(), module, lambda: [(volume,)], 3e-4, compiled)
