"""Distances between latents of any scale, at any offset, beside outliers, and latents that are not finite.

Held against loops in float64, with and without jit, on a device of its own and under pmap (`chex.variants`).
"""

import itertools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from eqpool import conditional_mmd, mmd
from eqpool.losses import kernels
from eqpool.losses.matching import grouped_mmd, matched_distance
from eqpool.ops.custom_rules import any_of_batch
from eqpool.ops.points import as_scaled_points

ROWS, SITES = 24, 3
SITE = (np.arange(ROWS) % SITES).astype(np.int32)
BASE = np.random.default_rng(0).normal(size=(ROWS, 5)) + 0.7 * SITE[:, None]
OUTLIER = (np.arange(ROWS) == 4)[:, None]
LATENTS = {
    "of order 1": BASE,
    "1e-30": 1e-30 * BASE,
    "1e-10": 1e-10 * BASE,
    "1e10": 1e10 * BASE,
    "1e20": 1e20 * BASE,
    "1e30": 1e30 * BASE,
    "1e4 off": BASE + 1e4,
    "1e6 off": BASE + 1e6,
    "off in another way in each coordinate": BASE + np.array([1e6, 0, -1e4, 3, 1e5]),
    "one row at 1e6": np.where(OUTLIER, 1e6, BASE),
    "one row at 1e30": np.where(OUTLIER, 1e30, BASE),
    "two clusters": BASE + np.where(np.arange(ROWS)[:, None] < ROWS // 2, -1e5, 1e5),
    "sites 1e6 apart": BASE + 1e6 * SITE[:, None],
}


def mmd_float64(latent: np.ndarray, kernel: str, bandwidth: float | str) -> float:
    latent = np.asarray(latent, np.float32).astype(np.float64)
    distance = np.sqrt(np.sum((latent[:, None] - latent[None]) ** 2, axis=-1))
    p = np.median(distance[np.triu_indices(ROWS, 1)]) if bandwidth == "median" else bandwidth
    # Less the value at 0, which changes no MMD, so that float64 does not lose small distances either.
    values = {
        "laplacian": np.expm1(-distance / p),
        "gaussian": np.expm1(-(distance**2) / (2 * p**2)),
        "energy": -distance / p,
    }[kernel]
    means = np.array([[values[np.ix_(a == SITE, b == SITE)].mean() for b in range(SITES)] for a in range(SITES)])
    return float(sum(means[a, a] + means[b, b] - 2 * means[a, b] for a, b in itertools.combinations(range(SITES), 2)))


def gradient_float64(latent: np.ndarray, kernel: str) -> np.ndarray:
    """Of `mmd_float64` at bandwidth 1, in closed form."""
    latent = np.asarray(latent, np.float32).astype(np.float64)
    steps = latent[:, None] - latent[None]
    distance = np.sqrt(np.sum(steps**2, axis=-1))
    directions = steps / np.where(distance > 0, distance, 1)[..., None]
    slope = {"laplacian": -np.exp(-distance), "gaussian": -distance * np.exp(-(distance**2) / 2)}[kernel]
    same = SITE[:, None] == SITE[None]
    weight = np.where(same, SITES - 1, -1) * 2 / (ROWS / SITES) ** 2
    return np.einsum("ij,ij,ijd->id", weight, slope, directions)


# A call compiles the slow way besides the fast one: one program serves all latents.
compiled = jax.jit(
    lambda latent, kernel, bandwidth: mmd(latent, SITE, num_sites=SITES, kernel=kernel, bandwidth=bandwidth),
    static_argnums=(1, 2),
)
compiled_gradient = jax.jit(
    jax.grad(lambda latent, kernel: mmd(latent, SITE, num_sites=SITES, kernel=kernel)), static_argnums=1
)


@pytest.mark.parametrize("name", list(LATENTS))
@pytest.mark.parametrize("bandwidth", [1.0, "median"])
@pytest.mark.parametrize("kernel", ["laplacian", "gaussian", "energy"])
def test_mmd_has_its_true_value(name, kernel, bandwidth):
    value = compiled(jnp.asarray(LATENTS[name], jnp.float32), kernel, bandwidth)
    expected = mmd_float64(LATENTS[name], kernel, bandwidth)
    # Beside the rounding of float32 at the size of a kernel's values: those of two clusters nearly cancel.
    # At the median, which is that of the clusters, distances within them are negligible.
    size = 2e5 if (kernel, bandwidth) == ("energy", 1.0) else 20.0 if bandwidth == "median" else 1.0
    atol = 1e-6 * size if name == "two clusters" else 1e-37
    np.testing.assert_allclose(value, expected, rtol=1e-3, atol=atol)


@pytest.mark.parametrize("name", list(LATENTS))
@pytest.mark.parametrize("kernel", ["laplacian", "gaussian"])
def test_the_gradient_of_mmd_is_right(name, kernel):
    gradient = compiled_gradient(jnp.asarray(LATENTS[name], jnp.float32), kernel)
    expected = gradient_float64(LATENTS[name], kernel)
    chex.assert_tree_all_finite(gradient)
    chex.assert_trees_all_close(gradient, expected.astype(np.float32), rtol=2e-3, atol=2e-6)


@pytest.mark.parametrize("name", [name for name in LATENTS if name not in ("1e20", "1e30", "one row at 1e30")])
def test_matched_distance_has_its_true_value(name):
    latent, group = np.asarray(LATENTS[name], np.float32), (np.arange(ROWS) // 12).astype(np.int32)
    wide = latent.astype(np.float64)
    pairs = [(i, j) for i in range(ROWS) for j in range(ROWS) if group[i] == group[j] and SITE[i] != SITE[j]]
    expected = np.mean([np.sum((wide[i] - wide[j]) ** 2) for i, j in pairs])
    value = jax.jit(lambda x: matched_distance(x, SITE, group, num_sites=SITES))(latent)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-37)


def test_a_matched_distance_beyond_float32_is_infinite_and_that_of_equal_rows_is_not():
    group = np.zeros(ROWS, np.int32)
    far = matched_distance(np.float32(1e30) * BASE.astype(np.float32), SITE, group, num_sites=SITES)
    assert far == np.inf
    assert matched_distance(np.full((ROWS, 3), 1e30, np.float32), SITE, group, num_sites=SITES) == 0


def losses():
    covariate, group = np.linspace(0, 1, ROWS).astype(np.float32), (np.arange(ROWS) % 2).astype(np.int32)
    options, at = {"num_sites": SITES}, {"site": SITE, "covariate": covariate}
    for kernel, bandwidth, estimator in (
        ("laplacian", 1.0, "biased"),
        ("gaussian", (0.5, 2.0), "unbiased"),
        ("energy", "median", "biased"),
    ):
        more = {"kernel": kernel, "bandwidth": bandwidth, "estimator": estimator}
        yield f"mmd, {kernel}", partial(mmd, site=SITE, **options, **more)
        yield f"conditional, {kernel}", partial(conditional_mmd, covariate_bandwidth=0.3, **at, **options, **more)
    yield "grouped", partial(grouped_mmd, site=SITE, group=group, num_groups=2, **options)
    yield "matched", partial(matched_distance, site=SITE, group=group, **options)


@pytest.mark.parametrize(("name", "loss"), list(losses()))
def test_a_latent_that_is_not_finite_is_never_no_difference(name, loss):
    masked = jax.jit(jax.value_and_grad(lambda latent, mask: loss(latent, mask=mask)))
    latent, all_count = jnp.asarray(BASE, jnp.float32), jnp.ones(ROWS)
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        spoilt = latent.at[3, 1].set(bad)
        value, _ = masked(spoilt, all_count)
        assert np.isnan(value), f"{name} of a latent {bad}"
        # Dropped, it may be anything.
        without = all_count.at[3].set(0)
        value, gradient = masked(spoilt, without)
        expected, expected_gradient = masked(latent, without)
        chex.assert_trees_all_close((value, gradient), (expected, expected_gradient))
        chex.assert_tree_all_finite((value, gradient))
        assert np.abs(gradient).max() > 1e-4


def test_a_covariate_that_is_not_finite_is_not_dropped_in_silence():
    latent, covariate = jnp.asarray(BASE, jnp.float32), jnp.linspace(0, 1, ROWS)
    loss = jax.jit(partial(conditional_mmd, num_sites=SITES))
    for bad in (jnp.nan, jnp.inf):
        assert np.isnan(loss(latent, SITE, covariate.at[2].set(bad)))
        assert np.isfinite(loss(latent, SITE, covariate.at[2].set(bad), mask=jnp.arange(ROWS) != 2))


def test_a_traced_bandwidth_that_is_not_positive_gives_nan():
    loss = jax.jit(lambda bandwidth: mmd(jnp.asarray(BASE, jnp.float32), SITE, num_sites=SITES, bandwidth=bandwidth))
    assert np.isfinite(loss(1.0))
    for bad in (0.0, -1.0, jnp.nan):
        assert np.isnan(loss(bad))


def test_the_slow_way_is_taken_only_where_digits_would_be_lost():
    @jax.jit
    def lossy(latent, unit=None):
        rows, scale = as_scaled_points(jnp.asarray(latent, jnp.float32), jnp.ones(len(latent)))
        unit = None if unit is None else unit / scale
        return kernels._where_digits_are_lost(lambda *_: jnp.float32(1), jnp.float32(0), rows, rows, unit) == 1

    many = np.random.default_rng(1).normal(size=(300, 8))
    assert not lossy(many) and not lossy(many, 1.0) and not lossy(1e3 * many, 1.0)
    on_sphere = many / np.linalg.norm(many, axis=1, keepdims=True)
    twice = np.repeat(on_sphere[:60], 5, axis=0)
    assert not lossy(twice, 0.05)  # rows that are equal, as a code makes them, at the default mixture's least bandwidth
    many[7] = 1e6  # near none of the others, which stay near the origin
    assert not lossy(many)
    many[:100] += 1e5
    assert lossy(many) and lossy(many, 1.0) and not lossy(many, 1e5)


def test_one_member_of_a_batch_that_loses_digits_does_not_change_the_others():
    latents = jnp.asarray(np.stack([BASE, np.where(OUTLIER, 1e6, BASE)]), jnp.float32)
    loss = partial(mmd, site=SITE, num_sites=SITES)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss)))(latents)
    for latent, value, gradient in zip(latents, values, gradients, strict=True):
        chex.assert_trees_all_close((value, gradient), jax.value_and_grad(loss)(latent), rtol=1e-5, atol=1e-6)
    assert jax.vmap(any_of_batch)(jnp.array([False, True])).tolist() == [True, True]


class OnEveryBackend(chex.TestCase):
    """chex runs the same numbers without jit, with it, with the data on a device, and under pmap."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True, with_pmap=True)
    @parameterized.parameters("of order 1", "1e30", "one row at 1e6")
    def test_mmd(self, name):
        with jax.numpy_dtype_promotion("standard"):
            loss = self.variant(partial(mmd, num_sites=SITES))
            value = loss(jnp.asarray(LATENTS[name], jnp.float32), jnp.asarray(SITE))
        np.testing.assert_allclose(value, mmd_float64(LATENTS[name], "laplacian", 1.0), rtol=1e-3)


if __name__ == "__main__":
    absltest.main()
