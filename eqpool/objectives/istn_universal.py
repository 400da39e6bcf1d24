"""The game of a universal ISTN: one transformer that does not see the site, and a discriminator for each site.

It goes beyond Robinson et al. 2020. IGUANe (Roca et al. 2025) also maps many scanners to one by a single generator.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eqpool.objectives.istn_game import Game, Terms
from eqpool.objectives.random_scanner import random_scanner
from eqpool.ops.devices import sum_over


class UniversalGame(Game):
    """A game in which S2T of each site's images faces a discriminator of its own.

    One discriminator of all sites would be content with a mixture that looks like the reference on the whole. The
    judges' parameters have a leading axis, one entry a site, of which that of the reference is never trained.
    """

    def __init__(self, *arguments: Any, site: jax.Array):
        """Starts the pass of a batch whose source images are of the sites `site` (N,). Other arguments are `Game`'s."""
        super().__init__(*arguments)
        self._site = site

    def generator_loss(self, judge: str, generated: jax.Array, mask: jax.Array) -> jax.Array:
        """Computes L_adv of each image by its site's judge."""

        def of_site(params: Any, own: jax.Array) -> jax.Array:
            return self._generator_loss(params, generated, mask * own)

        return self._over_sites(of_site, jax.lax.stop_gradient(self._variables["params"][judge]), mask)

    def discriminator_loss(self, judge: str, generated: jax.Array, real: jax.Array, mask: jax.Array) -> jax.Array:
        """Computes eq. (1) of each judge, on its site's generated images and on all real ones."""

        def of_site(params: Any, own: jax.Array) -> jax.Array:
            return self._discriminator_loss(params, generated, real, mask * own, mask)

        return self._over_sites(of_site, self._variables["params"][judge], mask)

    def consistency_terms(
        self, source: jax.Array, reference: jax.Array, to_reference: jax.Array, mask: jax.Array
    ) -> Terms:
        """Computes the error of S2T of images as random scanners show them.

        S2T of a reference image should be that image, whatever the scanner, and S2T of a source image the same as
        without the random scanner. The site of new images need not be one of training for either to hold.
        """
        if not self.settings.consistency_weight:
            return {}
        shown = random_scanner(
            self._next_key(), jnp.concatenate([source, reference]), squashed=self._config.data.squash
        )
        masks = jnp.concatenate([mask, mask])
        made = self.transform("to_reference", shown, masks, averaged=False).image
        wanted = jnp.concatenate([jax.lax.stop_gradient(to_reference), reference])
        return {"consistency": self.image_distance(made, wanted, masks)}

    def _over_sites(self, loss: Callable[[Any, jax.Array], jax.Array], judges: Any, mask: jax.Array) -> jax.Array:
        """Sums loss(judge, its rows (N,)) over the sites, each with its share of the batch's rows."""
        own = (self._site[None] == jnp.arange(self.num_sites)[:, None]).astype(mask.dtype)
        rows, everyone = sum_over((own @ mask, jnp.sum(mask)), self.axis_name)
        shares = rows / jnp.maximum(everyone, 1)
        return shares @ jax.vmap(loss)(judges, own)
