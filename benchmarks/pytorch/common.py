"""Shared by the PyTorch side: weights by the common rule, and a training step as it is usually written."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.inputs import Work, initial_weight


def tensor(array: Any) -> torch.Tensor:
    """A NumPy array as a tensor."""
    return torch.from_numpy(array)


def set_initial_weights(module: nn.Module) -> nn.Module:
    """Every parameter as `inputs.initial_weight` has it; modules bear Flax's names, weights PyTorch's order of axes."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            *path, leaf = name.replace("parameters_", "parameters").split(".")  # a module has a method of that name
            kernel = leaf == "weight" and parameter.ndim > 1
            flax_leaf = {"weight": "kernel" if kernel else "scale"}.get(leaf, leaf)
            # (out, in, *taps) here, (*taps, in, out) there
            order = (*range(2, parameter.ndim), 1, 0) if kernel else tuple(range(parameter.ndim))
            shape = tuple(parameter.shape[axis] for axis in order)
            value = initial_weight("/".join([*path, flax_leaf]), shape)
            back = (value.ndim - 1, value.ndim - 2, *range(value.ndim - 2)) if kernel else order
            parameter.copy_(tensor(value.transpose(back).copy() if kernel else value))
    return module


def function(function: Callable[[torch.Tensor], torch.Tensor], x: Any, gradient: bool, compiled: bool) -> Work:
    """The scalar `function` of an array, with its gradient where that is asked for."""
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
    compiled: bool, steps: int = 1,
) -> Work:  # fmt: skip
    """Fused Adam on `loss` of what each of `batches()` holds; `steps` batches a run."""
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
