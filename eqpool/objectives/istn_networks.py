"""The networks of an ISTN and the sites that they are conditioned on (Robinson et al. 2020, section 2)."""

import jax
import jax.numpy as jnp

from eqpool.config import RunConfig
from eqpool.models.discriminator import Discriminator
from eqpool.models.istn import ISTN

# The task models that are retrained on harmonised images, by the names of their variables.
TASK_MODELS = ("scratch", "finetuned")


def make_transformer(config: RunConfig) -> ISTN:
    """Makes the ISTN that `config.istn` describes."""
    settings = config.istn
    return ISTN(
        appearance=settings.appearance,
        shape=settings.shape,
        encoder=settings.encoder,
        bottleneck=settings.bottleneck,
        decoder=settings.decoder,
        dropout=settings.dropout,
        residual=settings.residual,
        spacing=settings.spacing,
        max_displacement=settings.max_displacement,
        fill=settings.fill,
        dtype=jnp.dtype(config.model.compute_dtype),
    )


def make_discriminator(config: RunConfig) -> Discriminator:
    """Makes the discriminator that `config.istn` describes."""
    settings = config.istn
    return Discriminator(
        settings.discriminator,
        dropout=settings.discriminator_dropout,
        norm=settings.discriminator_norm,
        dtype=jnp.dtype(config.model.compute_dtype),
    )


def sees_sites(num_sites: int, direction: str) -> bool:
    """Whether the transformer is given each image's site: neither between two sites nor if it is universal."""
    return num_sites > 2 and direction != "universal"


def site_condition(site: jax.Array, num_sites: int, direction: str) -> jax.Array | None:
    """Returns each image's site, (N, num_sites) one-hot, or None if the transformer does not see it (`sees_sites`)."""
    return jax.nn.one_hot(site, num_sites, dtype=jnp.float32) if sees_sites(num_sites, direction) else None
