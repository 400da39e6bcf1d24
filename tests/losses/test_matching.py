"""SS and RM against plain loops, and the reversed gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool import mmd
from eqpool.losses.matching import grouped_mmd, matched_distance


def sample(rows: int = 30, seed: int = 0):
    generator = np.random.default_rng(seed)
    latent = generator.normal(size=(rows, 4)).astype(np.float32)
    site = generator.integers(-1, 3, rows).astype(np.int32)
    group = generator.integers(0, 4, rows).astype(np.int32)
    group[site == 2] = 3  # so that some groups lack a site
    return latent, site, group, (generator.random(rows) > 0.2).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_matched_distance_is_the_mean_over_partners(seed):
    latent, site, group, mask = sample(seed=seed)
    distances = [
        np.sum((latent[i].astype(np.float64) - latent[j]) ** 2)
        for i in range(len(site))
        for j in range(len(site))
        if mask[i] and mask[j] and site[i] >= 0 and site[j] >= 0 and site[i] != site[j] and group[i] == group[j]
    ]
    value = matched_distance(latent, site, group, num_sites=3, mask=mask)
    np.testing.assert_allclose(value, np.mean(distances), rtol=1e-5)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_grouped_mmd_is_the_mean_of_the_groups_mmd(estimator):
    latent, site, group, mask = sample(rows=60)
    least = 1 if estimator == "biased" else 2
    values = []
    for number in range(4):
        here = (group == number) & (mask > 0) & (site >= 0)
        counts = np.bincount(site[here], minlength=3)
        if np.sum(counts >= least) >= 2:
            values.append(float(mmd(latent[here], site[here], num_sites=3, estimator=estimator)))
    value = grouped_mmd(latent, site, group, num_sites=3, num_groups=5, estimator=estimator, mask=mask)
    np.testing.assert_allclose(value, np.mean(values), rtol=1e-4, atol=1e-6)


def test_without_partners_both_are_zero_with_finite_gradients():
    latent, site, group = np.ones((6, 3), np.float32), np.zeros(6, np.int32), np.arange(6, dtype=np.int32)

    def total(latent):
        groups = {"num_groups": 6, "num_sites": 2}
        return grouped_mmd(latent, site, group, **groups) + matched_distance(latent, site, group, num_sites=2)

    value, gradient = jax.value_and_grad(total)(jnp.asarray(latent))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
