import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from eqpool import conditional_mmd, mmd
from eqpool.losses.weighted_mmd import weighted_mmd

KERNELS = {
    "laplacian": lambda d, p: np.exp(-d / p),
    "gaussian": lambda d, p: np.exp(-(d**2) / (2 * p**2)),
    "energy": lambda d, p: -d / p,
}


def kernel_float64(latent: np.ndarray, kernel: str, bandwidths: tuple[float, ...]) -> np.ndarray:
    latent = np.asarray(latent, np.float64)
    distances = np.linalg.norm(latent[:, None] - latent[None], axis=-1)
    return np.mean([KERNELS[kernel](distances, bandwidth) for bandwidth in bandwidths], axis=0)


def mmd_loops(latent, site, *, kernel="laplacian", bandwidths=(1.0,), estimator="biased") -> float:
    """Pairs of sites, pairs of rows, no algebra."""
    K = kernel_float64(latent, kernel, bandwidths)
    groups = [np.flatnonzero(site == s) for s in np.unique(site)]
    groups = [g for g in groups if estimator == "biased" or len(g) >= 2]

    def within(g):
        pairs = [(i, j) for i in g for j in g if estimator == "biased" or i != j]
        return np.mean([K[i, j] for i, j in pairs])

    def between(a, b):
        return np.mean([K[i, j] for i in a for j in b])

    return sum(within(a) + within(b) - 2 * between(a, b) for a, b in itertools.combinations(groups, 2))


def batch(seed: int = 0, count: int = 24, sites: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    site = generator.integers(0, sites, size=count).astype(np.int32)
    return (generator.normal(size=(count, 5)) + 0.3 * site[:, None]).astype(np.float32), site


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("bandwidths", [(1.0,), (0.5, 2.0, 8.0)])
def test_mmd_agrees_with_loops(kernel, estimator, bandwidths):
    latent, site = batch(sites=4)
    options = {"num_sites": 4, "kernel": kernel, "bandwidth": bandwidths, "estimator": estimator}
    value = jax.jit(lambda latent: mmd(latent, site, **options))(latent)
    expected = mmd_loops(latent, site, kernel=kernel, bandwidths=bandwidths, estimator=estimator)
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_masks_unknown_sites_empty_sites_and_lonely_rows(estimator):
    latent, site = batch()
    site = np.where(site == 2, 5, site).astype(np.int32)  # sites 2, 3, 4 and 6 are empty
    site[0], site[1] = -1, 3  # unknown; alone in its site
    mask = np.ones(24, bool)
    mask[[4, 7]] = False
    kept = mask & (site >= 0)
    expected = mmd_loops(latent[kept], site[kept], estimator=estimator)
    spoilt = latent.copy()
    spoilt[~kept] = np.nan

    def loss(latent):
        return mmd(latent, site, num_sites=7, estimator=estimator, mask=mask)

    value, gradient = jax.jit(jax.value_and_grad(loss))(spoilt)
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(np.asarray(gradient)[~kept], 0)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-3


def test_one_site_or_none_gives_zero():
    latent, site = batch()
    assert mmd(latent, np.zeros_like(site), num_sites=3) == pytest.approx(0, abs=1e-6)
    assert mmd(latent, site, num_sites=3, mask=np.zeros(24)) == 0
    gradient = jax.grad(lambda x: mmd(x, site, num_sites=3, mask=np.zeros(24), estimator="unbiased"))(latent)
    np.testing.assert_array_equal(gradient, 0)


def test_median_bandwidth_is_free_of_scale_and_a_constant_in_the_gradient():
    latent, site = batch()
    distances = np.linalg.norm(latent[:, None].astype(np.float64) - latent[None], axis=-1)[np.triu_indices(24, 1)]
    median = float(np.median(distances))

    def loss(latent, bandwidth):
        return mmd(latent, site, num_sites=3, bandwidth=bandwidth)

    np.testing.assert_allclose(loss(latent, "median"), mmd_loops(latent, site, bandwidths=(median,)), rtol=2e-5)
    np.testing.assert_allclose(loss(1e-3 * latent, "median"), loss(latent, "median"), rtol=1e-4)
    gradients = [jax.grad(loss)(jnp.asarray(latent), bandwidth) for bandwidth in ("median", median)]
    np.testing.assert_allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_gradient(estimator):
    latent, site = batch(count=10)
    options = {"num_sites": 3, "kernel": "gaussian", "bandwidth": (1.0, 3.0), "estimator": estimator}
    check_grads(
        jax.jit(lambda x: mmd(x, site, **options)),
        (jnp.asarray(latent),),
        order=1,
        modes=("fwd", "rev"),
        atol=1e-2,
        rtol=1e-2,
        eps=1e-2,
    )


@pytest.mark.parametrize("kernel", ["laplacian", "energy"])
def test_gradient_is_finite_where_latents_coincide(kernel):
    site = np.arange(8, dtype=np.int32) % 2
    latent = jnp.asarray(np.repeat(batch(count=4)[0], 2, axis=0))
    value, gradient = jax.jit(jax.value_and_grad(lambda x: mmd(x, site, num_sites=2, kernel=kernel)))(latent)
    assert value == pytest.approx(0, abs=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_order_of_rows_names_of_sites_and_row_tiles_change_nothing(estimator, monkeypatch):
    latent, site = batch()
    value, gradient = jax.value_and_grad(lambda x: mmd(x, site, num_sites=3, estimator=estimator))(latent)
    order = np.random.default_rng(1).permutation(24)
    renamed = np.array([2, 0, 1], np.int32)[site]
    np.testing.assert_allclose(mmd(latent[order], renamed[order], num_sites=3, estimator=estimator), value, atol=2e-6)
    weight = jax.nn.one_hot(site, 3)[:, None]

    def tiled(x):
        return weighted_mmd(x, weight, kernel="laplacian", bandwidths=jnp.ones(1), estimator=estimator, tile_size=7)[0][
            0
        ]

    tiled_value, tiled_gradient = jax.value_and_grad(tiled)(jnp.asarray(latent))
    np.testing.assert_allclose(tiled_value, value, atol=2e-6)
    np.testing.assert_allclose(tiled_gradient, gradient, atol=2e-6)


def test_half_precision_is_computed_in_float32():
    latent, site = batch()
    latent = jnp.asarray(latent, jnp.bfloat16)
    value, gradient = jax.value_and_grad(lambda x: mmd(x, site, num_sites=3))(latent)
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, mmd_loops(np.asarray(latent, np.float32), site), rtol=2e-5)


def conditional_loops(
    latent, site, covariate, *, anchors, h, minimum=1.0, kernel="laplacian", bandwidths=(1.0,), estimator="biased"
) -> float:
    K = kernel_float64(latent, kernel, bandwidths)
    minimum = max(minimum, 2.0) if estimator == "unbiased" else minimum
    values = []
    for anchor in anchors:
        closeness = np.exp(-np.sum((np.asarray(covariate, np.float64) - anchor) ** 2, axis=-1) / (2 * h**2))
        weights = [np.where(site == s, closeness, 0) for s in np.unique(site[site >= 0])]
        weights = [w / w.sum() for w in weights if w.sum() >= minimum]
        if len(weights) < 2:
            continue

        def within(w):
            if estimator == "biased":
                return w @ K @ w
            return sum(w[i] * w[j] * K[i, j] for i in range(len(w)) for j in range(len(w)) if i != j) / (1 - w @ w)

        values.append(sum(within(a) + within(b) - 2 * a @ K @ b for a, b in itertools.combinations(weights, 2)))
    return float(np.mean(values)) if values else 0.0


@pytest.mark.parametrize(
    ("estimator", "kernel", "minimum"),
    [("biased", "laplacian", 1.0), ("unbiased", "laplacian", 3.5), ("unbiased", "energy", 1.0)],
)
def test_conditional_mmd_agrees_with_loops(estimator, kernel, minimum):
    latent, site = batch(count=40)
    covariate = np.random.default_rng(5).uniform(size=40).astype(np.float32)
    value = conditional_mmd(
        latent,
        site,
        covariate,
        num_sites=4,
        estimator=estimator,
        kernel=kernel,
        minimum_rows=minimum,
        bandwidth=(1.0, 2.0),
    )
    expected = conditional_loops(
        latent,
        site,
        covariate[:, None],
        anchors=np.linspace(0, 1, 11)[:, None],
        h=0.1,
        minimum=minimum,
        kernel=kernel,
        bandwidths=(1.0, 2.0),
        estimator=estimator,
    )
    assert expected != 0
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=3e-6)


def test_conditional_mmd_of_two_covariates_masked_at_the_covariates_of_the_batch():
    latent, site = batch(count=30)
    covariate = np.random.default_rng(5).uniform(size=(30, 2)).astype(np.float32)
    mask = np.arange(30) % 5 > 0
    expected = conditional_loops(latent[mask], site[mask], covariate[mask], anchors=covariate[mask], h=0.3)
    spoilt, lost = latent.copy(), covariate.copy()
    spoilt[~mask], lost[~mask] = np.nan, np.nan
    value, gradient = jax.jit(
        jax.value_and_grad(
            lambda x: conditional_mmd(x, site, lost, num_sites=3, covariate_bandwidth=(0.3, 0.3), mask=mask)
        )
    )(spoilt)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-3


def test_conditional_mmd_is_blind_to_age_where_plain_mmd_is_not():
    # Two sites of different ages whose latent is the age itself, and a site effect beside it.
    generator = np.random.default_rng(0)
    site = np.repeat(np.arange(2, dtype=np.int32), 200)
    age = np.clip(generator.normal(0.35 + 0.3 * site, 0.15), 0, 1).astype(np.float32)
    options = {"num_sites": 2, "bandwidth": "median", "estimator": "unbiased"}
    narrow = options | {"covariate_bandwidth": 0.03}
    innocent = np.stack([age, 0.1 * generator.normal(size=400).astype(np.float32)], axis=1)
    at_equal_age = jax.jit(lambda latent: conditional_mmd(latent, site, age, **narrow))
    plain = jax.jit(lambda latent: mmd(latent, site, **options))(innocent)
    assert plain > 0.1 and at_equal_age(innocent) < 0.1 * plain
    guilty = innocent + np.float32(0.2) * site[:, None].astype(np.float32)
    assert at_equal_age(guilty) > 5 * at_equal_age(innocent)


def test_sites_that_never_meet_give_zero():
    latent, site = batch(sites=2)
    value, gradient = jax.value_and_grad(
        lambda x: conditional_mmd(x, site, site.astype(np.float32), num_sites=2, covariate_bandwidth=0.05)
    )(latent)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent": np.ones(24)}, r"latent has shape \(24,\), expected"),
        ({"site": np.zeros(23, np.int32)}, r"site has shape \(23,\)"),
        ({"site": np.zeros(24, np.float32)}, "dtype float32, expected"),
        ({"num_sites": 0}, "num_sites is 0, expected"),
        ({"kernel": "cosine"}, "kernel is 'cosine', expected"),
        ({"estimator": "exact"}, "estimator is 'exact', expected"),
        ({"bandwidth": -1.0}, "bandwidth is -1.0, expected"),
        ({"mask": np.ones(3)}, r"mask has shape \(3,\), expected"),
        ({"covariate": np.ones(23)}, r"covariate has shape \(23,\), expected"),
        ({"covariate_bandwidth": (0.1, 0.1)}, r"covariate_bandwidth has shape \(2,\), expected"),
        ({"anchors": 0}, "anchors is 0"),
        ({"anchors": "grid"}, "anchors is 'grid', expected"),
        ({"anchors": np.ones((3, 2))}, r"anchors has shape \(3, 2\), expected \(A, 1\)"),
        ({"covariate": np.ones((24, 2)), "anchors": 5}, "anchors is 5 for 2 covariates"),
    ],
)
def test_errors_name_the_argument_and_what_was_expected(change, message):
    latent, site = batch()
    options = {"latent": latent, "site": site, "covariate": np.ones(24), "num_sites": 3, **change}
    with pytest.raises(ValueError, match=message):
        conditional_mmd(options.pop("latent"), options.pop("site"), options.pop("covariate"), **options)
    if not {"covariate", "covariate_bandwidth", "anchors"} & set(change):
        options = {"latent": latent, "site": site, "num_sites": 3, **change}
        with pytest.raises(ValueError, match=message):
            mmd(options.pop("latent"), options.pop("site"), **options)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_strata_are_compared_one_by_one(estimator):
    latent, site = batch(3, 60)
    stratum = np.arange(60) % 3 - 1  # rows of stratum -1 are dropped
    covariate = np.random.default_rng(0).uniform(size=60)
    options = {"num_sites": 3, "estimator": estimator}
    each = {k: np.flatnonzero(stratum == k) for k in (0, 1)}
    plain = [float(mmd(latent[rows], site[rows], **options)) for rows in each.values()]
    weights = [len(rows) for rows in each.values()]
    value = mmd(latent, site, stratum=stratum, num_strata=4, **options)
    np.testing.assert_allclose(value, np.average(plain, weights=weights), rtol=1e-5, atol=1e-7)
    wide = options | {"covariate_bandwidth": 1.0}  # all sites are present at all anchors
    near = [float(conditional_mmd(latent[rows], site[rows], covariate[rows], **wide)) for rows in each.values()]
    value = conditional_mmd(latent, site, covariate, stratum=stratum, num_strata=2, **wide)
    np.testing.assert_allclose(value, np.average(near, weights=weights), rtol=1e-5, atol=1e-6)


def test_a_class_that_sites_have_in_other_shares_is_no_distance_within_it():
    generator = np.random.default_rng(0)
    site = np.arange(400) % 2
    level = (generator.random(400) < np.where(site == 1, 0.8, 0.2)).astype(int)
    latent = generator.normal(size=(400, 3)) + 3 * level[:, None]
    options = {"num_sites": 2, "estimator": "unbiased"}
    within = float(mmd(latent, site, stratum=level, num_strata=2, **options))
    assert abs(within) < 0.1 * float(mmd(latent, site, **options))
    assert float(mmd(latent, np.zeros_like(site), stratum=level, num_strata=2, **options)) == 0


def test_strata_that_are_no_integers_are_refused():
    latent, site = batch(0)
    with pytest.raises(ValueError, match="stratum"):
        mmd(latent, site, num_sites=3, stratum=np.linspace(0, 1, 24), num_strata=2)
    with pytest.raises(ValueError, match="num_strata is 0"):
        mmd(latent, site, num_sites=3, stratum=np.zeros(24, int), num_strata=0)
