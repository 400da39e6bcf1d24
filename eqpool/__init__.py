"""eqpool: pool multi-site neuroimaging data, equivariant to covariates and invariant to the scanner, in JAX.

This door opens on the reusable maths alone: rotations, losses and metrics, which need jax and numpy. Models, data,
training and reports live in their own subpackages and are imported from there.
"""

from eqpool import geometry
from eqpool.evaluate.metrics import equivariance_gap, mmd_permutation_test
from eqpool.losses.equivariance import equivariance_loss, equivariance_loss_pairwise
from eqpool.losses.mmd import conditional_mmd, mmd

__version__ = "0.1.0"

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
