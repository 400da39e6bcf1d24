"""Functions that our side shares: initial weights, and works that run a compiled function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.inputs import Work, initial_weight


def with_initial_weights(variables: Any) -> Any:
    """Replaces every parameter in Flax's variables by `inputs.initial_weight`."""

    def value(path, leaf):
        return jnp.asarray(initial_weight("/".join(key.key for key in path), leaf.shape))

    return variables | {"params": jax.tree_util.tree_map_with_path(value, variables["params"])}


def function(function: Callable[..., jax.Array], x: Any, gradient: bool) -> Work:
    """Returns the work of computing a scalar `function` of an array, with its gradient if `gradient` is set."""
    x = jnp.asarray(x)
    compiled = jax.jit(jax.value_and_grad(function) if gradient else function)

    def run() -> float:
        value = jax.block_until_ready(compiled(x))
        return float(value[0] if gradient else value)

    return Work(run)


def training(loss: Callable[..., tuple[jax.Array, Any]], variables: Any, batch: Any, learning_rate: float) -> Work:
    """Returns the work of a training step with Adam, always on the same batch.

    `loss` maps (variables, batch, key) to (scalar, updated batch statistics).
    """
    optimizer = optax.adam(learning_rate)

    # The batch is an argument, because XLA computes what depends on constants alone while it compiles.
    def step(variables: Any, moments: Any, key: jax.Array, batch: Any):
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        (value, updated), gradient = jax.value_and_grad(
            lambda params: loss(rest | {"params": params}, batch, key), has_aux=True
        )(variables["params"])
        updates, moments = optimizer.update(gradient, moments)
        params = optax.apply_updates(variables["params"], updates)
        return rest | updated | {"params": params}, moments, jax.random.fold_in(key, 1), value

    compiled = jax.jit(step, donate_argnums=(0, 1))
    state = [variables, optimizer.init(variables["params"]), jax.random.key(0)]
    batch = jax.tree.map(jnp.asarray, batch)

    def run() -> float:
        *state[:], value = compiled(*state, batch)
        jax.block_until_ready(state[0])
        return float(value)

    return Work(run)
