"""Stages one and two of the paper's protocol on tables. Modules have the same names as in Flax."""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.inputs import Work
from benchmarks.pytorch import common
from benchmarks.pytorch.equivariance import EquivarianceLoss, uniform_generator
from benchmarks.pytorch.group_maps import cayley
from benchmarks.pytorch.mmd import mmd
from benchmarks.table_stages import NUM_CLASSES, NUM_SITES, SIZES, paper_config, random_rows

LATENT, HIDDEN = 30, 64


class MLP(nn.Sequential):
    """Linear layers with swish between them."""

    def __init__(self, *widths: int):
        super().__init__()
        for index, pair in enumerate(zip(widths, widths[1:], strict=False)):
            if index:
                self.add_module(f"swish_{index}", nn.SiLU())
            self.add_module(f"Dense_{index}", nn.Linear(*pair))


class Head(nn.Sequential):
    """A linear layer, batch norm, swish and a linear layer, without biases."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.add_module("Dense_0", nn.Linear(width, HIDDEN, bias=False))
        self.add_module("BatchNorm_0", nn.BatchNorm1d(HIDDEN, eps=1e-5))
        self.add_module("swish", nn.SiLU())
        self.add_module("Dense_1", nn.Linear(HIDDEN, outputs, bias=False))


class Tau(nn.Module):
    """The map from l to cayley(skew(net(l)))."""

    def __init__(self):
        super().__init__()
        self.MLP_0 = MLP(LATENT, HIDDEN, LATENT * (LATENT - 1) // 2)
        self.scale = nn.Parameter(torch.tensor(0.1))
        self.register_buffer("upper", torch.triu_indices(LATENT, LATENT, 1))

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        """Maps (N, n) to (N, n, n)."""
        A = latent.new_zeros(len(latent), LATENT, LATENT)
        A[:, self.upper[0], self.upper[1]] = self.scale * self.MLP_0(latent)
        return cayley(A - A.transpose(1, 2))


class StageOne(nn.Module):
    """The networks E, tau, D and the head, with the paper's loss."""

    def __init__(self, features: int):
        super().__init__()
        self.encoder = nn.ModuleDict({"trunk": MLP(features, HIDDEN, LATENT)})
        self.decoder = nn.ModuleDict({"features": MLP(LATENT, HIDDEN, features)})
        self.tau = Tau()
        self.head = Head(LATENT, NUM_CLASSES)
        self._equivariance = EquivarianceLoss(uniform_generator(LATENT))
        self._weights = paper_config("adult").stage_one

    def forward(self, inputs: torch.Tensor, covariate: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Returns the loss of a batch."""
        weights, latent = self._weights, functional.normalize(self.encoder["trunk"](inputs))
        return (
            weights.equivariance_weight * self._equivariance(self.tau(latent), covariate)
            + weights.reconstruction_weight * functional.mse_loss(self.decoder["features"](latent), inputs)
            + weights.prediction_weight * functional.cross_entropy(self.head(latent), target)
        )


class StageTwo(nn.Module):
    """The networks b, h and Psi, with the paper's loss in its first epoch."""

    def __init__(self):
        super().__init__()
        self.b = nn.ModuleDict({"network": MLP(LATENT, HIDDEN, HIDDEN, LATENT)})
        self.h, self.psi = MLP(LATENT, HIDDEN, NUM_CLASSES), MLP(LATENT, HIDDEN, LATENT)
        self._weights = paper_config("adult").stage_two

    def forward(
        self, latent: torch.Tensor, tau: torch.Tensor, site: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Returns the loss of a batch."""
        free = self.b["network"]((latent[:, None] @ tau)[:, 0])
        phi = (tau @ free[..., None])[..., 0]
        weights = self._weights
        return (
            weights.prediction_weight * functional.cross_entropy(self.h(phi), target)
            + weights.reconstruction_weight * (self.psi(phi) - latent).square().sum(1).mean()
            + weights.mmd_weight * weights.mmd_ramp_start * mmd(phi, site, NUM_SITES)
        )


def make(name: str, rows: int, features: int) -> tuple[nn.Module, list[torch.Tensor]]:
    """Returns the network of the stage `name`, and the columns that its loss reads."""
    module = StageOne(features) if name == "stage_one" else StageTwo()
    columns = {key: common.tensor(value) for key, value in random_rows(name, rows, features, LATENT).items()}
    columns |= {"covariate": columns["covariate"][:, 0], "site": columns["site"].long()}
    columns["target"] = columns["target"].long()
    names = ("inputs", "covariate", "target") if name == "stage_one" else ("latent", "tau", "site", "target")
    return common.set_initial_weights(module).train(), [columns[key] for key in names]


def first_loss(dataset: str, name: str, rows: int, features: int) -> float:
    """Returns the loss of one batch before training."""
    del dataset
    module, columns = make(name, rows, features)
    return float(module(*columns).detach())


def epoch(dataset: str, name: str, compiled: bool = False) -> Work:
    """Returns the work of one epoch over a table in memory, without validation.

    As on our side, the last, smaller batch is included.
    """
    size, batch = SIZES[dataset], paper_config(dataset).stage_one.batch_size
    module, columns = make(name, size.train, size.features)

    def batches():
        for rows in torch.randperm(size.train).split(batch):
            yield [column[rows] for column in columns]

    return common.training(module, module, batches, 1e-3, compiled, steps=-(-size.train // batch))
