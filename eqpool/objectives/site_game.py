"""CAI's adversary with an optimizer of its own, which takes several steps in each step of the encoder."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from eqpool.config import BaselineConfig
from eqpool.engine.state import Batch, Variables, init_variables
from eqpool.losses.task import task_loss
from eqpool.models.adversary import Adversary
from eqpool.ops.rows import masked_mean


class SiteGame:
    """The minimax game of CAI (Lokhande et al. 2022, section 4) between an encoder and an adversary of its latents.

    The adversary learns the site from the latents as they are, by `adversary_steps` steps of its own Adam. The encoder
    then maximises the adversary's loss. With one optimizer and one step for both, the adversary lags behind the encoder
    and looks beaten while another probe still reads the site.

    The adversary travels in the variables of the stage as `params`, `batch_stats` and `optimizer_state`.
    """

    def __init__(self, settings: BaselineConfig, num_sites: int, dimension: int):
        self._steps, self._num_sites, self._dimension = settings.adversary_steps, num_sites, dimension
        self._network = Adversary(num_sites)
        self._optimizer = optax.adam(settings.adversary_learning_rate)

    def initialise(self, key: jax.Array) -> Variables:
        """Makes the adversary before the first step."""
        variables = init_variables(self._network, key, jnp.zeros((2, self._dimension)), train=False)
        return variables | {"optimizer_state": self._optimizer.init(variables["params"])}

    def train(self, adversary: Variables, rows: Batch) -> Variables:
        """Takes the adversary's steps on `latent` (N, n), `site` and `mask` (N,), which are constants here."""
        held = jax.lax.stop_gradient(rows)

        def loss(params: Any, batch_stats: Any) -> tuple[jax.Array, Any]:
            logits, updated = self._apply({"params": params, "batch_stats": batch_stats}, held)
            return self.loss(logits, held), updated["batch_stats"]

        def step(_: int, adversary: Variables) -> Variables:
            gradient, batch_stats = jax.grad(loss, has_aux=True)(adversary["params"], adversary["batch_stats"])
            updates, state = self._optimizer.update(gradient, adversary["optimizer_state"])
            params = optax.apply_updates(adversary["params"], updates)
            return {"params": params, "batch_stats": batch_stats, "optimizer_state": state}

        return jax.lax.fori_loop(0, self._steps, step, jax.lax.stop_gradient(adversary))

    def encoder_loss(self, adversary: Variables, rows: Batch, count: int) -> jax.Array:
        """Computes the adversary's loss on the first `count` rows, with a gradient for their latents.

        Batch statistics are those of all rows, as in the adversary's own steps.
        """
        logits, _ = self._apply(jax.lax.stop_gradient(adversary), rows)
        return self.loss(logits[:count], {name: rows[name][:count] for name in ("site", "mask")})

    def logits(self, adversary: Variables, latent: jax.Array) -> jax.Array:
        """Computes the adversary's logits (N, sites) in inference mode."""
        return self._network.apply(_networks(adversary), latent, train=False)  # type: ignore[return-value]

    def loss(self, logits: jax.Array, rows: Batch) -> jax.Array:
        """Computes the mean cross-entropy over rows with a known site, in nats."""
        known = rows["mask"] * (rows["site"] >= 0)
        return task_loss(logits, rows["site"], num_classes=self._num_sites, mask=known)

    def information(self, loss: jax.Array, rows: Batch) -> jax.Array:
        """Computes how much of the site's entropy the adversary explains, at least 0, in nats.

        It is the encoder's own term up to a constant. Without the limit, an adversary that is confident and wrong
        would make its epoch look invariant.
        """
        known = rows["mask"] * (rows["site"] >= 0)
        share = jax.vmap(lambda site: masked_mean((rows["site"] == site).astype(jnp.float32), known))(
            jnp.arange(self._num_sites)
        )
        return jnp.maximum(jnp.sum(jax.scipy.special.entr(share)) - loss, 0)

    def _apply(self, adversary: Variables, rows: Batch) -> tuple[jax.Array, Any]:
        return self._network.apply(  # type: ignore[return-value]
            _networks(adversary), rows["latent"], train=True, mask=rows["mask"], mutable=["batch_stats"]
        )


def _networks(adversary: Variables) -> Variables:
    return {name: adversary[name] for name in ("params", "batch_stats")}
