"""What both trained stages make of inputs, for every door: the work directory's commands and the estimator."""

import contextlib
from collections.abc import Callable, Iterator

import jax

from eqpool.engine.state import Stage, Variables
from eqpool.geometry.sphere import normalize


def make_encode(one: Stage, two: Stage) -> Callable[[Variables, Variables, jax.Array], dict[str, jax.Array]]:
    """Returns the function of stage one's variables, stage two's, and inputs (N, *input_shape) float32.

    It gives `latent`, `covariate_free`, `phi` and `pooled_latent` (N, n), and `prediction` (N, outputs).
    """

    def encode(first: Variables, second: Variables, inputs: jax.Array) -> dict[str, jax.Array]:
        encoded = one.forward(first, {"inputs": inputs})
        pooled = two.forward(second, {name: encoded[name] for name in ("latent", "tau")})
        outputs = {name: pooled[name] for name in ("covariate_free", "phi", "prediction")}
        return outputs | {"latent": encoded["latent"], "pooled_latent": pooled_latent(pooled["reconstruction"])}

    return encode


def pooled_latent(psi_of_phi: jax.Array) -> jax.Array:
    """Psi(Phi) (N, n) on the unit sphere, as D takes it.

    D is trained on l, which lies on the sphere; Psi is trained to come near l and need not reach it.
    """
    return normalize(psi_of_phi)


@contextlib.contextmanager
def standard_promotion() -> Iterator[None]:
    """Lets dtypes and ranks promote as usual: flax and optax fail where a caller's JAX promotes strictly."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
