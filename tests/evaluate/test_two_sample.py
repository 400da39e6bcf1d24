import jax
import numpy as np
import pytest

from eqpool import conditional_mmd, mmd, mmd_permutation_test


def samples(seed: int, count: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    site = generator.integers(0, 3, size=count).astype(np.int32)
    return (generator.normal(size=(count, 4)) + shift * (site == 1)[:, None]).astype(np.float32), site


def test_the_statistic_is_mmd_and_tiles_change_nothing():
    latent, site = samples(0, 50, 1.0)
    site[:4] = -1
    latent[:4] = np.nan
    options = {"num_sites": 3, "num_permutations": 200, "estimator": "unbiased", "bandwidth": 2.0}
    test = mmd_permutation_test(jax.random.key(0), latent, site, **options)
    tiled = mmd_permutation_test(jax.random.key(0), latent, site, tile_size=16, **options)
    value = mmd(latent, site, num_sites=3, estimator="unbiased", bandwidth=2.0)
    np.testing.assert_allclose(test.statistic, value, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(tiled.statistic, value, rtol=1e-5, atol=1e-7)
    assert test.p_value == tiled.p_value
    assert 1 / 201 <= test.p_value < 0.05


def test_p_values_under_the_null_are_uniform_and_a_shift_is_seen():
    def p_value(seed, shift):
        latent, site = samples(seed, 40, shift)
        key = jax.random.key(seed)
        return mmd_permutation_test(key, latent, site, num_sites=3, num_permutations=99).p_value

    null = np.sort([p_value(seed, 0.0) for seed in range(60)])
    # Kolmogorov-Smirnov distance to the uniform distribution, at the 1% level.
    assert np.max(np.abs(null - (np.arange(60) + 0.5) / 60)) < 1.63 / np.sqrt(60)
    shifted = [p_value(seed, 1.5) for seed in range(5)]
    np.testing.assert_allclose(shifted, 0.01, atol=1e-6)


def test_p_value_is_exact_where_all_permutations_tie():
    site = np.arange(10, dtype=np.int32) % 2
    test = mmd_permutation_test(jax.random.key(0), np.ones((10, 3)), site, num_sites=2, num_permutations=50)
    assert test.p_value == 1


def test_p_value_of_the_most_extreme_of_all_splits():
    # Of the 70 splits of 8 rows in halves, only the observed one and its mirror image are this far apart.
    latent = np.concatenate([np.zeros((4, 1)), 5 * np.ones((4, 1))]) + 0.1 * np.arange(8)[:, None]
    site = (np.arange(8) >= 4).astype(np.int32)
    test = mmd_permutation_test(jax.random.key(1), latent, site, num_sites=2, num_permutations=7000)
    assert test.p_value == pytest.approx(2 / 70, abs=4 * np.sqrt(2 / 70 / 7000))


def test_no_permutations_are_refused():
    with pytest.raises(ValueError, match="num_permutations is 0, expected"):
        mmd_permutation_test(jax.random.key(0), np.ones((4, 2)), np.zeros(4, np.int32), num_sites=2, num_permutations=0)


def test_sites_of_subjects_who_were_all_at_both_are_told_apart():
    """Thirty people scanned by two scanners: exchanging people alone would leave every scan where it was."""
    random = np.random.default_rng(0)
    subject, site = np.repeat(np.arange(30), 2), np.tile([0, 1], 30)
    person = random.normal(size=(30, 5))[subject]
    small = []
    for shift in (0.0, 1.0):
        latent = person + 0.3 * random.normal(size=(60, 5)) + shift * site[:, None]
        options = {"num_sites": 2, "num_permutations": 199, "estimator": "unbiased", "subject": subject}
        small.append(float(mmd_permutation_test(jax.random.key(0), latent, site, **options).p_value))
    assert small[0] > 0.05 and small[1] == pytest.approx(1 / 200)


def test_a_class_that_sites_have_in_other_shares_does_not_make_them_differ_within_it():
    generator = np.random.default_rng(0)
    small = []
    for seed in range(40):
        site = np.arange(80) % 2
        level = (generator.random(80) < np.where(site == 1, 0.8, 0.2)).astype(int)
        latent = generator.normal(size=(80, 3)) + 3 * level[:, None]
        options = {"num_sites": 2, "num_permutations": 99, "estimator": "unbiased"}
        within = mmd_permutation_test(jax.random.key(seed), latent, site, stratum=level, **options)
        among_all = mmd_permutation_test(jax.random.key(seed), latent, site, **options)
        small.append((float(within.p_value), float(among_all.p_value)))
    within, among_all = np.array(small).T
    assert np.max(np.abs(np.sort(within) - (np.arange(40) + 0.5) / 40)) < 1.63 / np.sqrt(40)
    assert np.mean(among_all <= 0.05) > 0.5


@pytest.mark.parametrize(("scale", "kernel"), [(1e-30, "laplacian"), (1e-10, "gaussian"), (1e30, "energy")])
def test_the_permutation_test_sees_a_shift_at_any_scale(scale, kernel):
    latent, site = samples(2, 40, 3.0)
    test = mmd_permutation_test(
        jax.random.key(0), np.float32(scale) * latent, site, num_sites=3, num_permutations=99, kernel=kernel
    )
    assert test.p_value == pytest.approx(0.01)


def test_a_latent_that_is_not_finite_gives_no_p_value_and_is_named():
    latent, site = samples(0, 30, 1.0)
    latent[[3, 8], 1] = np.nan, np.inf
    options = {"num_sites": 3, "num_permutations": 19}
    line = r"latent is not finite in 2 of 30 rows \(row 3, row 8\): the statistic and its p-value are NaN"
    with pytest.warns(RuntimeWarning, match=line):
        test = mmd_permutation_test(jax.random.key(0), latent, site, **options)
    assert np.isnan(test.statistic) and np.isnan(test.p_value)
    traced = jax.jit(lambda latent: mmd_permutation_test(jax.random.key(0), latent, site, **options))(latent)
    assert np.isnan(traced.statistic) and np.isnan(traced.p_value)
    kept = np.isfinite(latent).all(axis=1)
    masked = mmd_permutation_test(jax.random.key(0), latent, site, mask=kept, **options)
    np.testing.assert_allclose(masked.statistic, mmd(latent[kept], site[kept], num_sites=3), rtol=1e-5)


@pytest.mark.parametrize(("rows", "estimator"), [(0, "biased"), (6, "biased"), (2, "unbiased")])
def test_where_no_two_sites_are_compared_there_is_no_p_value(rows, estimator):
    latent, site = np.random.default_rng(0).normal(size=(rows, 3)), np.arange(rows, dtype=np.int32) * (rows == 2)
    test = mmd_permutation_test(
        jax.random.key(0), latent.astype(np.float32), site, num_sites=2, num_permutations=9, estimator=estimator
    )
    assert test.statistic == 0 and np.isnan(test.p_value)


def ages_of_two_sites(seed: int, count: int, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents that depend on the age, sites of different mean age, and a shift of one site at equal ages."""
    random = np.random.default_rng(seed)
    site = np.arange(count) % 2
    age = np.clip(random.normal(0.4 + 0.2 * site, 0.2), 0, 1)
    latent = random.normal(scale=0.3, size=(count, 3))
    latent[:, 0] += 3 * age
    latent[:, 1] += shift * site
    return latent, site.astype(np.int32), age


def test_the_conditional_statistic_is_conditional_mmd():
    latent, site, age = ages_of_two_sites(0, 60, 0.3)
    options = {"num_sites": 2, "estimator": "unbiased", "covariate_bandwidth": 0.15, "minimum_rows": 3.0}
    test = mmd_permutation_test(jax.random.key(0), latent, site, num_permutations=50, covariate=age, **options)
    np.testing.assert_allclose(test.statistic, conditional_mmd(latent, site, age, **options), rtol=1e-5, atol=1e-7)
    tiled = mmd_permutation_test(
        jax.random.key(0), latent, site, num_permutations=50, covariate=age, tile_size=16, **options
    )
    np.testing.assert_allclose(tiled.statistic, test.statistic, rtol=1e-5, atol=1e-7)
    assert tiled.p_value == test.p_value


def test_ages_that_differ_between_sites_are_no_difference_at_equal_ages():
    def p_values(seed: int, shift: float) -> tuple[float, float]:
        latent, site, age = ages_of_two_sites(seed, 80, shift)
        stratum = np.searchsorted(np.quantile(age, np.arange(1, 8) / 8), age)
        options = {"num_sites": 2, "num_permutations": 99, "estimator": "unbiased"}
        plain = mmd_permutation_test(jax.random.key(seed), latent, site, **options)
        at_equal_ages = mmd_permutation_test(
            jax.random.key(seed), latent, site, covariate=age, stratum=stratum, **options
        )
        return float(plain.p_value), float(at_equal_ages.p_value)

    plain, at_equal_ages = np.array([p_values(seed, 0.0) for seed in range(40)]).T
    assert np.mean(plain <= 0.05) > 0.5
    assert np.mean(at_equal_ages <= 0.05) <= 0.15  # 6 of 40: at a rate of 0.05 more happens once in 70 times
    _, shifted = np.array([p_values(seed, 0.5) for seed in range(5)]).T
    assert (shifted <= 0.05).all()


def test_sites_that_share_no_age_are_not_compared():
    latent, site, _ = ages_of_two_sites(0, 40, 1.0)
    test = mmd_permutation_test(
        jax.random.key(0),
        latent,
        site,
        num_sites=2,
        num_permutations=19,
        covariate=site * 1.0,
        covariate_bandwidth=0.02,
    )
    assert test.statistic == 0 and np.isnan(test.p_value)
