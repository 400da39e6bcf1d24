"""Traces an ISTN's effect on images, step by step, for figures (Robinson et al. 2020, Figs. 3 and 4)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import RunConfig
from eqpool.geometry.warp import jacobian_determinant
from eqpool.objectives.istn import transform

EXAMPLES = 6


def istn_steps(
    config: RunConfig, variables: Any, images: np.ndarray, site: np.ndarray, num_sites: int
) -> dict[str, np.ndarray]:
    """Computes the steps of a few images (N, *shape) in [-1, 1] of sites (N,), all float32.

    Returns:
      `source`, `appearance` (after the ITN) and `image` (after the STN), each (N, *shape) in [-1, 1]. With an STN also
      `displacement` (N, *shape, D) in voxels and `jacobian` (N, *shape).
    """

    steps = jax.jit(lambda variables, images, site: trace_steps(config, variables, images, site, num_sites))
    made = steps(variables, jnp.asarray(images), jnp.asarray(site)) | {"source": images}
    return {name: np.asarray(array, np.float32) for name, array in made.items()}


def trace_steps(
    config: RunConfig, variables: Any, images: jax.Array, site: jax.Array, num_sites: int
) -> dict[str, jax.Array]:
    """Computes the steps without the source. Under jit, unused outputs are not computed."""
    output = transform(config, variables, images, site, num_sites)
    made = {"appearance": output.appearance[..., 0], "image": output.image[..., 0]}
    if output.deformation is None:
        return made
    displacement = output.deformation.displacement(images.shape[1:])
    return made | {"displacement": displacement, "jacobian": jacobian_determinant(displacement)}
