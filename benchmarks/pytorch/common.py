"""Functions that the PyTorch side shares: initial weights, and a training step as it is usually written."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.inputs import Work, initial_weight


def tensor(array: Any) -> torch.Tensor:
    """Converts a NumPy array to a tensor."""
    return torch.from_numpy(array)


def set_initial_weights(module: nn.Module) -> nn.Module:
    """Sets every parameter to `inputs.initial_weight`, for modules with Flax's names.

    The values are transposed to PyTorch's order of axes.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            *path, leaf = name.replace("parameters_", "parameters").split(".")  # modules have a method "parameters"
            kernel = leaf == "weight" and parameter.ndim > 1
            flax_leaf = {"weight": "kernel" if kernel else "scale"}.get(leaf, leaf)
            # Kernels are (out, in, *taps) in PyTorch and (*taps, in, out) in Flax.
            order = (*range(2, parameter.ndim), 1, 0) if kernel else tuple(range(parameter.ndim))
            shape = tuple(parameter.shape[axis] for axis in order)
            value = initial_weight("/".join([*path, flax_leaf]), shape)
            back = (value.ndim - 1, value.ndim - 2, *range(value.ndim - 2)) if kernel else order
            parameter.copy_(tensor(value.transpose(back).copy() if kernel else value))
    return module


def function(function: Callable[[torch.Tensor], torch.Tensor], x: Any, gradient: bool, compiled: bool = False) -> Work:
    """Returns the work of computing a scalar `function` of an array, with its gradient if `gradient` is set."""
    x = tensor(x)
    function = torch.compile(function) if compiled else function

    def run() -> float:
        if not gradient:
            with torch.inference_mode():
                return float(function(x))
        leaf = x.detach().requires_grad_()
        value = function(leaf)
        value.backward()
        return float(value.detach())

    return Work(run)


def training(
    loss: Callable[..., torch.Tensor], module: nn.Module, batches: Callable[[], Any], learning_rate: float,
    compiled: bool = False, steps: int = 1,
) -> Work:  # fmt: skip
    """Returns the work of training with fused Adam on all `batches()`, which have `steps` batches per run."""
    optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate, fused=True)
    loss = torch.compile(loss) if compiled else loss

    def run() -> float:
        for batch in batches():
            optimizer.zero_grad(set_to_none=True)
            value = loss(*batch)
            value.backward()
            optimizer.step()
        return float(value.detach())

    return Work(run, steps)
