"""A training step of the ADNI-size encoder. Modules have the same names as in Flax."""

import torch
from torch import nn
from torch.nn import functional

from benchmarks import inputs
from benchmarks.pytorch import common

CHANNELS, BLOCKS = (16, 16, 32, 64), (2, 2, 2, 2)


class NormSwish(nn.Module):
    """Batch norm, followed by swish."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm3d(channels, eps=1e-8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies both, which keep the shape."""
        return functional.silu(self.norm(x))


class ResidualBlock(nn.Module):
    """A residual block x + f(x), with f as norm, swish and convolution, twice.

    The shortcut has a convolution if the shape changes.
    """

    def __init__(self, channels: int, features: int, stride: int):
        super().__init__()
        self.norm1, self.norm2 = NormSwish(channels), NormSwish(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv3d(channels, features, 3, 1, 1, bias=False)
        changes = stride > 1 or channels != features
        self.shortcut = nn.Conv3d(channels, features, 3, stride, 1) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, D, H, W) to (N, features, D', H', W')."""
        return self.shortcut(x) + self.conv2(self.norm2(self.conv1(self.norm1(x))))


class ResNet3D(nn.Module):
    """The encoder, from volumes (N, D, H, W) to features."""

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
        """Returns the features (N, C)."""
        x = functional.max_pool3d(self.stem(volume[:, None]), 3, 2)
        for name in self.names:
            x = getattr(self, name)(x)
        return x.mean((2, 3, 4))


def step(shape: tuple[int, int, int], batch: int, channels_last: bool = False) -> inputs.Work:
    """Returns the work of a step of fused Adam on the mean square of the encoder's features, in float32."""
    module = common.set_initial_weights(ResNet3D()).train()
    if channels_last:
        module = module.to(memory_format=torch.channels_last_3d)
    volume = common.tensor(inputs.normal(batch, *shape))
    return common.training(lambda x: module(x).square().mean(), module, lambda: [(volume,)], 3e-4)
