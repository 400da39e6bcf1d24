"""eqpool: pool multi-site neuroimaging data, equivariant to covariates and invariant to the scanner, in JAX.

This door opens on the reusable maths alone: rotations, losses and metrics, which need jax and numpy. Models, data,
training and reports live in their own subpackages and are imported from there.

Names are imported when they are first used: a command that refuses its arguments should not wait for jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from eqpool.commands.moved import keep_old_names

if TYPE_CHECKING:
    from eqpool import geometry
    from eqpool.evaluate.metrics import equivariance_gap
    from eqpool.evaluate.two_sample import mmd_permutation_test
    from eqpool.losses.equivariance import equivariance_loss, equivariance_loss_pairwise
    from eqpool.losses.mmd import conditional_mmd, mmd

__version__ = "0.1.0"

keep_old_names()

__all__ = [
    "__version__",
    "conditional_mmd",
    "equivariance_gap",
    "equivariance_loss",
    "equivariance_loss_pairwise",
    "geometry",
    "mmd",
    "mmd_permutation_test",
]

_MODULES = {
    "conditional_mmd": "eqpool.losses.mmd",
    "equivariance_gap": "eqpool.evaluate.metrics",
    "equivariance_loss": "eqpool.losses.equivariance",
    "equivariance_loss_pairwise": "eqpool.losses.equivariance",
    "mmd": "eqpool.losses.mmd",
    "mmd_permutation_test": "eqpool.evaluate.two_sample",
}
_SUBPACKAGES = ("evaluate", "geometry", "losses")


def __getattr__(name: str) -> Any:
    """Imports a public name, or a subpackage of the maths, and keeps it."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"eqpool.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'eqpool' has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
