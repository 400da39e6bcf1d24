"""CAI's game: what the adversary's own steps do, what the encoder is given, and what its score says."""

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import BaselineConfig
from eqpool.objectives.site_game import SiteGame

COUNT, SITES, DIMENSION = 48, 2, 4


def rows() -> dict[str, jax.Array]:
    """Latents whose first number tells the site; two rows are padding, and one has no site."""
    generator = np.random.default_rng(0)
    site = generator.integers(0, SITES, COUNT).astype(np.int32)
    latent = generator.normal(size=(COUNT, DIMENSION)).astype(np.float32)
    latent[:, 0] += 4 * site
    site[0], mask = -1, np.ones(COUNT, np.float32)
    mask[-2:] = 0
    return {"latent": jnp.asarray(latent), "site": jnp.asarray(site), "mask": jnp.asarray(mask)}


def game(steps: int) -> SiteGame:
    return SiteGame(BaselineConfig(adversary_steps=steps, adversary_learning_rate=1e-2), SITES, DIMENSION)


def test_k_steps_are_k_times_one_step():
    adversary, seen = game(1).initialise(jax.random.key(0)), rows()
    at_once = jax.jit(game(3).train)(adversary, seen)
    one = jax.jit(game(1).train)
    one_by_one = one(one(one(adversary, seen), seen), seen)
    untrained, *trained = (game(1).encoder_loss(one, seen, COUNT) for one in (adversary, at_once, one_by_one))
    np.testing.assert_allclose(*trained, rtol=1e-3)
    assert trained[0] < 0.9 * untrained


def test_the_adversary_learns_the_site_of_rows_that_count():
    adversary, seen = game(100).initialise(jax.random.key(0)), rows()
    before = game(100).encoder_loss(adversary, seen, COUNT)
    trained = jax.jit(game(100).train)(adversary, seen)
    after = game(100).encoder_loss(trained, seen, COUNT)
    assert before > 0.5 > 0.1 > after
    moved = seen | {"latent": seen["latent"].at[-2:].set(1e3), "site": seen["site"].at[-2:].set(0)}
    again = jax.jit(game(100).train)(adversary, moved)
    np.testing.assert_allclose(game(100).encoder_loss(again, seen, COUNT), after, rtol=0.1, atol=1e-4)


def test_the_encoder_gets_a_gradient_for_its_own_rows_and_the_adversary_none():
    adversary, seen, first = game(5).initialise(jax.random.key(0)), rows(), 16

    def loss(latent):
        compared = seen | {"latent": jnp.concatenate([latent, jax.lax.stop_gradient(seen["latent"][first:])])}
        trained = game(5).train(adversary, compared)
        return game(5).encoder_loss(trained, compared, first)

    gradient = jax.jit(jax.grad(loss))(seen["latent"][:first])
    held = game(5).train(adversary, seen)
    alone = jax.grad(
        lambda latent: game(5).encoder_loss(held, seen | {"latent": seen["latent"].at[:first].set(latent)}, first)
    )(seen["latent"][:first])
    np.testing.assert_allclose(gradient, alone, rtol=1e-3, atol=1e-6)
    assert np.abs(gradient).max() > 0


def test_information_is_the_entropy_less_the_loss_and_never_negative():
    seen = rows()
    known = np.asarray(seen["site"])[(np.asarray(seen["mask"]) > 0) & (np.asarray(seen["site"]) >= 0)]
    share = np.bincount(known) / len(known)
    entropy = -np.sum(share * np.log(share))
    np.testing.assert_allclose(game(1).information(jnp.float32(0.1), seen), entropy - 0.1, rtol=1e-5)
    assert game(1).information(jnp.float32(7.0), seen) == 0
