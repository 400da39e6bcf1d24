"""Functions whose gradient or batching rule is not that of their value."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_batching.custom_vmap
def any_of_batch(condition: Array) -> Array:
    """Returns `condition` itself, or under vmap whether it holds for any member of the batch.

    A `cond` on the result stays a `cond`. On a condition that differs over the batch, vmap would compute both branches.
    """
    return condition


@any_of_batch.def_vmap
def _any_of_batch_rule(axis_size: int, in_batched: list[bool], condition: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return any_of_batch(jnp.any(condition)), False


def round_straight_through(x: Array) -> Array:
    """Rounds to the nearest whole numbers, with the gradient of `x` itself (Bengio et al. 2013).

    The gradient of rounding is 0 almost everywhere.
    """
    return x + jax.lax.stop_gradient(jnp.round(x) - x)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def reverse_gradient(x: Array, scale: float = 1.0) -> Array:
    """Returns `x` itself and multiplies its gradient by `-scale` in the backward pass.

    An adversary that reads `reverse_gradient(latent, scale)` and minimises its own loss makes the encoder maximise this
    loss. One pass then trains the minimax game of CAI (Ganin and Lempitsky 2015; Lokhande et al. 2022, section 4).

    Args:
      x: float array of any shape.
      scale: concrete weight of the reversed gradient.
    """
    return x


def _reverse_forward(x: Array, scale: float) -> tuple[Array, None]:
    return x, None


def _reverse_backward(scale: float, _: None, gradient: Array) -> tuple[Array]:
    return (-scale * gradient,)


reverse_gradient.defvjp(_reverse_forward, _reverse_backward)
