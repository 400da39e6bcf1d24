"""Minimax training in one pass: the adversary descends, what it reads ascends (Ganin and Lempitsky 2015)."""

from functools import partial

import jax
from jax import Array


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def reverse_gradient(x: Array, scale: float = 1.0) -> Array:
    """`x` itself, whose gradient is multiplied by `-scale` on the way back.

    An adversary that reads `reverse_gradient(latent, scale)` and minimises its own loss makes the encoder maximise it,
    which is the minimax game of CAI (paper A, section 4) without a second optimizer.

    Args:
      x: any float array.
      scale: how strongly the encoder is pushed; concrete.
    """
    return x


def _forward(x: Array, scale: float) -> tuple[Array, None]:
    return x, None


def _backward(scale: float, _: None, gradient: Array) -> tuple[Array]:
    return (-scale * gradient,)


reverse_gradient.defvjp(_forward, _backward)
