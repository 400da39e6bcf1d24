"""The universal ISTN: it does not see the site, and each site's images face a judge of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.config import DataConfig, IstnConfig, RunConfig, TaskConfig
from eqpool.data.shape import DataShape
from eqpool.objectives.istn import make_istn, transform
from eqpool.objectives.istn_game import Game
from eqpool.objectives.istn_universal import UniversalGame
from eqpool.objectives.random_scanner import random_scanner
from eqpool.objectives.task import make_task

SHAPE, ROWS = (20, 20), 6


def config(direction: str = "universal", **istn) -> RunConfig:
    settings = {"encoder": (4, 8), "bottleneck": (8,), "decoder": (4,), "discriminator": (4, 8), "shape": "none"}
    settings |= {"dropout": 0.0, "gradient_penalty": 1.0, "instance_noise": 0.1, "direction": direction}
    return RunConfig(
        name="test",
        method="istn",
        data=DataConfig(dataset="morpho_mnist"),
        task=TaskConfig(model="morpho_classifier"),
        istn=IstnConfig(**(settings | istn)),
    )


def images(seed: int, rows: int = ROWS) -> jax.Array:
    return jnp.tanh(jax.random.normal(jax.random.key(seed), (rows, *SHAPE, 1)))


def made(settings: RunConfig, sites: int):
    shape = DataShape(SHAPE, 1, sites, 3)
    stage = make_istn(settings, shape, make_task(settings, shape).initialise(jax.random.key(5)))
    return stage, shape, stage.initialise(jax.random.key(1))


def batch(site: jax.Array) -> dict[str, jax.Array]:
    return {
        "inputs": images(0)[..., 0],
        "site": site,
        "target": jnp.arange(ROWS) % 3,
        "target_known": jnp.ones(ROWS),
        "mask": jnp.ones(ROWS),
        "reference_inputs": images(1)[..., 0],
        "reference_site": jnp.full(ROWS, 2),
    }


def size(tree) -> float:
    return float(sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)))


def test_one_site_and_its_judge_play_the_game_of_one_way():
    settings, key, mask = config(), jax.random.key(3), jnp.asarray([1, 1, 0, 1, 1, 1.0])
    _, shape, variables = made(settings, sites=3)
    judge = jax.tree.map(lambda leaf: leaf[1], variables["params"]["reference_judge"])
    alone = variables | {"params": variables["params"] | {"reference_judge": judge}}
    one_way = Game(config("one_way"), shape, alone, key)
    universal = UniversalGame(settings, shape, variables, key, site=jnp.full(ROWS, 1))
    generated, real = images(2), images(4)
    for loss, given in (("generator_loss", (generated, mask)), ("discriminator_loss", (generated, real, mask))):
        expected = getattr(one_way, loss)("reference_judge", *given)
        np.testing.assert_allclose(getattr(universal, loss)("reference_judge", *given), expected, rtol=1e-5)


def test_a_judge_learns_from_its_sites_images_and_weighs_them_by_their_share():
    settings = config(gradient_penalty=0.0)
    _, shape, variables = made(settings, sites=3)
    site, real, mask = jnp.asarray([0, 1, 1, 0, 0, 0]), images(4), jnp.ones(ROWS)

    @jax.jit
    def gradient(generated):
        def loss(judges):
            own = variables | {"params": variables["params"] | {"reference_judge": judges}}
            game = UniversalGame(settings, shape, own, jax.random.key(3), site=site)
            return game.discriminator_loss("reference_judge", generated, real, mask)

        return jax.grad(loss)(variables["params"]["reference_judge"])

    def of_judge(tree, number):
        return jax.tree.map(lambda leaf: leaf[number], tree)

    before = gradient(images(2))
    after = gradient(jnp.where((site == 0)[:, None, None, None], images(9), images(2)))  # images of site 0 change
    assert size(jax.tree.map(jnp.subtract, of_judge(before, 0), of_judge(after, 0))) > 1e-4
    assert size(jax.tree.map(jnp.subtract, of_judge(before, 1), of_judge(after, 1))) < 1e-6 < size(of_judge(before, 1))
    assert size(of_judge(before, 2)) == 0  # the reference has no images to judge


def test_the_site_changes_nothing_of_s2t():
    settings = config()
    _, _, variables = made(settings, sites=3)
    given = images(0)[..., 0]
    first, second = (transform(settings, variables, given, jnp.full(ROWS, site), 3).image for site in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_consistency_trains_the_transformer_and_can_be_left_out():
    stage, _, variables = made(config(), sites=3)
    rows, key = batch(jnp.asarray([0, 1, 0, 1, 0, 1])), jax.random.key(2)

    def consistency(params):
        return stage.loss(variables | {"params": params}, rows, key, jnp.int32(0)).terms["consistency"]

    value, gradient = jax.jit(jax.value_and_grad(consistency))(variables["params"])
    assert value > 0 and {name for name in gradient if size(gradient[name])} == {"to_reference"}
    without, _, _ = made(config(consistency_weight=0.0), sites=3)
    assert "consistency" not in without.loss(variables, rows, key, jnp.int32(0)).terms


@pytest.mark.parametrize("squashed", [True, False])
def test_a_random_scanner_changes_the_look_of_the_tissue_and_nothing_else(squashed):
    background = 0.0 if squashed else -1.0
    smooth = jax.image.resize(jax.random.normal(jax.random.key(1), (5, 4, 4, 4, 1)), (5, 16, 16, 16, 1), "cubic")
    inside = jnp.zeros((16, 16, 16, 1)).at[2:14, 2:14, 2:14].set(1) > 0
    image = jnp.where(inside, jnp.tanh(smooth), background)
    seen = np.asarray(random_scanner(jax.random.key(0), image, squashed=squashed))
    assert (seen[:, ~np.asarray(inside)] == background).all() and np.abs(seen).max() <= 1
    changes = []
    for before, after in zip(np.asarray(image), seen, strict=True):
        before, after = before[np.asarray(inside)], after[np.asarray(inside)]
        assert 0.8 < np.corrcoef(before, after)[0, 1] < 0.9999
        changes.append(after - before)
        if squashed:
            z = np.arctanh(np.clip(after, -1 + 1e-6, 1 - 1e-6))
            np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=2e-3)
    assert abs(np.corrcoef(changes[0], changes[1])[0, 1]) < 0.9  # each image has a scanner of its own
