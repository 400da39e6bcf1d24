"""A training step of the ISTN and its discriminator. Modules have the same names as in Flax."""

import math

import torch
from torch import nn
from torch.nn import functional

from benchmarks import inputs
from benchmarks.inputs import BOTTLENECK, DECODER, ENCODER, JUDGE, SPACING, STN_WIDTHS
from benchmarks.pytorch import common
from eqpool.geometry.bspline import _basis, bspline_control_shape


class Rest(nn.Module):
    """Norm, ReLU and dropout."""

    def __init__(self, features: int, norm: str, dropout: float):
        super().__init__()
        if norm == "batch":
            self.norm = nn.BatchNorm3d(features, eps=1e-5)
        self._instance, self._dropout = norm == "instance", dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the layers, which keep the shape."""
        x = functional.instance_norm(x, eps=1e-5) if self._instance else self.norm(x) if hasattr(self, "norm") else x
        return functional.dropout(functional.relu(x, inplace=True), self._dropout)


class ConvBlock(nn.Module):
    """Convolution, norm, ReLU and dropout. With `up` the grid is doubled first."""

    def __init__(
        self, channels: int, features: int, stride: int = 1, norm: str = "batch", dropout: float = 0.0, up: bool = False
    ):
        super().__init__()
        self.conv = nn.Conv3d(channels, features, 3, stride, 1, bias=norm == "none")
        self.rest = Rest(features, norm, dropout)
        self._up = up

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, D, H, W) to (N, features, D', H', W')."""
        x = functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False) if self._up else x
        return self.rest(self.conv(x))


class Chain(nn.Module):
    """ConvBlocks `layer0`, `layer1` and so on. The first has stride 1, and the others halve the grid."""

    def __init__(self, widths: tuple[int, ...], norm: str, first_norm: str, dropout: float = 0.0):
        super().__init__()
        self.depth = len(widths)
        for index, pair in enumerate(zip((1, *widths), widths, strict=False)):
            last = index == self.depth - 1
            block = ConvBlock(*pair, 2 if index else 1, norm if index else first_norm, dropout if last else 0.0)
            self.add_module(f"layer{index}", block)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Applies all blocks."""
        for index in range(self.depth):
            x = getattr(self, f"layer{index}")(x)
        return x


class ITN(nn.Module):
    """The U-Net with additive skip connections."""

    def __init__(self, dropout: float):
        super().__init__()
        widths = (1, *ENCODER)
        for index, pair in enumerate(zip(widths, widths[1:], strict=False)):
            self.add_module(f"encoder{index}", ConvBlock(*pair, 2 if index else 1))
        widths = (ENCODER[-1], *BOTTLENECK)
        for index, pair in enumerate(zip(widths, widths[1:], strict=False)):
            self.add_module(f"bottleneck{index}", ConvBlock(*pair))
        widths = (BOTTLENECK[-1], *DECODER)
        for index, pair in enumerate(zip(widths, widths[1:], strict=False)):
            self.add_module(f"decoder{index}", ConvBlock(*pair, dropout=dropout, up=True))
        self.output = nn.Conv3d(DECODER[-1], 1, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images (N, 1, D, H, W) to images in [-1, 1]."""
        skips = []
        for index in range(len(ENCODER)):
            x = getattr(self, f"encoder{index}")(x)
            skips.append(x)
        for index in range(len(BOTTLENECK)):
            x = getattr(self, f"bottleneck{index}")(x)
        for index, skip in enumerate(skips[-2::-1]):
            x = getattr(self, f"decoder{index}")(x) + skip
        return torch.tanh(self.output(x))


class Trunk(Chain):
    """Convolutions, followed by a linear layer on their outputs."""

    def __init__(self, outputs: int, side: int):
        super().__init__(STN_WIDTHS, "batch", "batch")
        small = math.ceil(side / 2 ** (len(STN_WIDTHS) - 1))
        self.parameters_ = nn.Linear(STN_WIDTHS[-1] * small**3, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images to parameters."""
        return self.parameters_(self.features(x).movedim(1, -1).flatten(1))  # Flax flattens with channels last


def rotation(angles: torch.Tensor) -> torch.Tensor:
    """Converts angles (N, 3) in radians to R_0 R_1 R_2 (N, 3, 3), with R_k about array axis k."""
    cosine, sine = angles.cos().unbind(1), angles.sin().unbind(1)
    zero, one = torch.zeros_like(cosine[0]), torch.ones_like(cosine[0])
    result = None
    for axis, (c, s) in enumerate(zip(cosine, sine, strict=True)):
        matrix = [[one, zero, zero], [zero, c, -s], [zero, s, c]]  # axis 0; rotated indices give the others
        rows = [torch.stack([matrix[(i - axis) % 3][(j - axis) % 3] for j in range(3)], 1) for i in range(3)]
        turn = torch.stack(rows, 1)
        result = turn if result is None else result @ turn
    return result


def affine(*parts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the linear part and the offset of the affine map for four parts (N, 3) in [-1, 1].

    The map is shear . scale . shear^T . rotation . translation.
    """
    translation, angles, log_scale, shear = parts
    axes = rotation(shear * math.pi / 4)
    linear = axes * (0.2 * log_scale).exp()[:, None] @ axes.transpose(1, 2) @ rotation(angles * math.pi / 4)
    return linear, (linear @ (0.1 * translation)[..., None]).transpose(1, 2)


class Warp(nn.Module):
    """The affine or B-spline STN, with grid_sample."""

    def __init__(self, kind: str, side: int):
        super().__init__()
        self.kind, self.side = kind, side
        self.control = bspline_control_shape((side,) * 3, SPACING)
        self.trunk = Trunk(12 if kind == "affine" else math.prod(self.control) * 3, side)
        line = torch.linspace(-1, 1, side)
        grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).flip(-1)  # grid_sample takes x, y, z
        self.register_buffer("identity", grid[None])
        self.register_buffer("basis", torch.tensor(_basis(side, SPACING), dtype=torch.float32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Warps the images."""
        bounded = torch.tanh(self.trunk(images))
        if self.kind == "affine":
            linear, offset = affine(*bounded.split(3, 1))
            moved = self.identity.flip(-1).reshape(1, -1, 3) @ linear.transpose(1, 2) + offset
            grid = moved.flip(-1).reshape(len(images), *self.identity.shape[1:])
        else:
            points = 0.1 * self.side * bounded.reshape(-1, *self.control, 3)
            for _ in range(3):  # each pass handles one axis and moves it to the end
                points = torch.einsum("nabcz,Aa->nbcAz", points, self.basis)
            grid = self.identity + points.flip(-1) * (2 / (self.side - 1))
        return functional.grid_sample(images, grid, align_corners=True)


class Discriminator(Chain):
    """The discriminator, with one logit per image."""

    def __init__(self, dropout: float):
        super().__init__(JUDGE, "instance", "none", dropout)
        self.logit = nn.ModuleDict({"conv": nn.Conv3d(JUDGE[-1], 1, 3, 2, 0)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N,)."""
        return self.logit["conv"](self.features(x)).mean((1, 2, 3, 4))


class Step(nn.Module):
    """Both networks and the sum of their losses."""

    def __init__(self, kind: str, side: int, dropout: float):
        super().__init__()
        self.istn = nn.ModuleDict({"itn": ITN(dropout), "stn": Warp(kind, side)})
        self.judge = Discriminator(dropout)

    def forward(self, source: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Returns the loss of one batch from each site."""
        s2t = self.istn["stn"](self.istn["itn"](source))
        t2t = self.istn["stn"](self.istn["itn"](reference))
        held = {name: weight.detach() for name, weight in self.judge.named_parameters()}  # constants for the ISTN
        bce = functional.binary_cross_entropy_with_logits
        fooled = torch.func.functional_call(self.judge, held, (s2t,))
        generated, real = self.judge(s2t.detach()), self.judge(reference)
        caught = (bce(generated, torch.zeros_like(generated)) + bce(real, torch.ones_like(real))) / 2
        return bce(fooled, torch.ones_like(fooled)) + caught + 25 * (t2t - reference).abs().mean()


def step(kind: str, side: int, batch: int, dropout: float = 0.5, channels_last: bool = False) -> inputs.Work:
    """Returns the work of a step of fused Adam on `batch` float32 images of each site, with `side`^3 voxels."""
    module = common.set_initial_weights(Step(kind, side, dropout)).train()
    images = [torch.tanh(common.tensor(inputs.normal(batch, 1, side, side, side, seed=seed))) for seed in (0, 1)]
    if channels_last:
        module = module.to(memory_format=torch.channels_last_3d)
        images = [image.to(memory_format=torch.channels_last_3d) for image in images]
    return common.training(module, module, lambda: [images], 1e-4)
