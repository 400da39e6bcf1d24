import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool import equivariance_loss_pairwise, mmd
from eqpool.evaluate import metrics
from eqpool.geometry import so
from eqpool.losses.equivariance import equivariance_error

gap = jax.jit(metrics.equivariance_gap)
gap_ratio = jax.jit(metrics.equivariance_gap_ratio, static_argnames="num_permutations")


def normalised_float64(vector: np.ndarray) -> np.ndarray:
    vector = np.asarray(vector, np.float64)
    return (vector - vector.min()) / (vector.max() - vector.min())


def gap_loops(vectors: np.ndarray, ages: np.ndarray, maximum: float | None = None) -> float:
    """Eq. (8), pair by pair; rotations column by column."""
    if vectors.ndim == 3:
        return float(np.mean([gap_loops(vectors[:, :, k], ages, maximum) for k in range(vectors.shape[2])]))
    levels = np.floor(10 * ages / (maximum or ages.max()))
    points = [normalised_float64(vector) for vector in vectors]
    count = len(points)
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    return float(np.mean([abs(levels[i] - levels[j]) * np.sum((points[i] - points[j]) ** 2) for i, j in pairs]))


def ages_and_vectors(seed: int = 0, count: int = 23) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    ages, vectors = generator.integers(18, 91, size=count), generator.normal(size=(count, 6))
    return ages.astype(np.float32), vectors.astype(np.float32)


def equivariant_tau(count: int, n: int = 6) -> tuple[jax.Array, jax.Array, np.ndarray]:
    generator = so.generator(n, rotation_range=3.0)
    covariate = jnp.linspace(0, 1, count)
    frame = so.expm(so.skew(jax.random.normal(jax.random.key(0), (n * (n - 1) // 2,))))
    turned_back = so.relative_rotation(jnp.zeros(count), covariate, generator=generator)
    return jnp.matmul(turned_back, frame), covariate, generator


def test_minmax_normalize():
    vectors = np.array([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]], np.float32)
    np.testing.assert_allclose(metrics.minmax_normalize(vectors), [[0, 1, 0.5], [0, 0, 0]])
    tau = np.random.default_rng(0).normal(size=(2, 4, 3))
    by_column = metrics.minmax_normalize(tau, axis=1)
    np.testing.assert_allclose(by_column[1, :, 2], normalised_float64(tau[1, :, 2]), rtol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 50.0])
def test_gap_of_vectors_agrees_with_a_double_loop(shift):
    ages, vectors = ages_and_vectors()
    value = gap(vectors + np.float32(shift), ages)
    np.testing.assert_allclose(value, gap_loops(vectors + np.float32(shift), ages), rtol=2e-5)
    capped = gap(vectors, ages, maximum=120.0)
    np.testing.assert_allclose(capped, gap_loops(vectors, ages, maximum=120.0), rtol=2e-5)


def test_gap_of_rotations_averages_the_columns():
    ages, _ = ages_and_vectors()
    tau = so.expm(so.skew(jax.random.normal(jax.random.key(1), (23, 10))))
    np.testing.assert_allclose(gap(tau, ages), gap_loops(np.asarray(tau), ages), rtol=2e-5)


def test_gap_of_the_rows_that_count():
    ages, vectors = ages_and_vectors()
    mask = np.arange(23) % 4 > 0
    expected = gap_loops(vectors[mask], ages[mask])
    vectors[~mask], ages[~mask] = np.nan, 1e6
    np.testing.assert_allclose(gap(vectors, ages, mask=mask), expected, rtol=2e-5)
    assert gap(vectors, ages, mask=np.arange(23) == 1) == 0


def test_ratio_is_one_for_noise_and_larger_for_an_equivariant_tau():
    count = 60
    tau, covariate, _ = equivariant_tau(count)
    assert gap_ratio(jax.random.key(0), tau, 80 * covariate) > 1.4
    noise = so.expm(3 * so.skew(jax.random.normal(jax.random.key(1), (count, 15))))
    assert gap_ratio(jax.random.key(0), noise, 80 * covariate) == pytest.approx(1, abs=0.05)


def test_ratio_is_to_the_mean_over_permutations():
    # Over all permutations the mean gap is the mean step times the mean squared distance.
    ages, vectors = ages_and_vectors()
    levels = np.floor(10 * ages / ages.max())
    step = np.abs(levels[:, None] - levels[None]).sum() / (23 * 22)
    points = np.stack([normalised_float64(vector) for vector in vectors])
    distance = np.sum((points[:, None] - points[None]) ** 2) / (23 * 22)
    ratio = gap_ratio(jax.random.key(2), vectors, ages, num_permutations=2000)
    assert ratio == pytest.approx(gap_loops(vectors, ages) / (step * distance), rel=0.01)


@pytest.mark.parametrize("group_map", ["expm", "cayley"])
def test_equivariance_error_is_the_loss_over_the_loss_at_rest(group_map):
    generator = so.generator(4, rotation_range=(2.0, 1.0))
    tau = so.expm(so.skew(jax.random.normal(jax.random.key(3), (8, 6))))
    covariate = jax.random.uniform(jax.random.key(4), (8, 2))
    error = jax.jit(lambda *arrays: equivariance_error(*arrays, generator=generator, group_map=group_map))(
        tau, covariate
    )
    moved = equivariance_loss_pairwise(tau, covariate, generator=generator, group_map=group_map)
    still = equivariance_loss_pairwise(tau, 0 * covariate, generator=generator)
    np.testing.assert_allclose(error, moved / still, rtol=1e-5)


def test_equivariance_error_of_a_perfect_tau_is_zero():
    tau, covariate, generator = equivariant_tau(12)
    assert equivariance_error(tau, covariate, generator=generator) < 1e-9


def samples(seed: int, count: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    site = generator.integers(0, 3, size=count).astype(np.int32)
    return (generator.normal(size=(count, 4)) + shift * (site == 1)[:, None]).astype(np.float32), site


def test_the_statistic_is_mmd_and_tiles_change_nothing():
    latent, site = samples(0, 50, 1.0)
    site[:4] = -1
    latent[:4] = np.nan
    options = {"num_sites": 3, "num_permutations": 200, "estimator": "unbiased", "bandwidth": 2.0}
    test = metrics.mmd_permutation_test(jax.random.key(0), latent, site, **options)
    tiled = metrics.mmd_permutation_test(jax.random.key(0), latent, site, tile_size=16, **options)
    value = mmd(latent, site, num_sites=3, estimator="unbiased", bandwidth=2.0)
    np.testing.assert_allclose(test.statistic, value, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(tiled.statistic, value, rtol=1e-5, atol=1e-7)
    assert test.p_value == tiled.p_value
    assert 1 / 201 <= test.p_value < 0.05


def test_p_values_under_the_null_are_uniform_and_a_shift_is_seen():
    def p_value(seed, shift):
        latent, site = samples(seed, 40, shift)
        key = jax.random.key(seed)
        return metrics.mmd_permutation_test(key, latent, site, num_sites=3, num_permutations=99).p_value

    null = np.sort([p_value(seed, 0.0) for seed in range(60)])
    # Kolmogorov-Smirnov distance to the uniform distribution, at the 1% level.
    assert np.max(np.abs(null - (np.arange(60) + 0.5) / 60)) < 1.63 / np.sqrt(60)
    shifted = [p_value(seed, 1.5) for seed in range(5)]
    np.testing.assert_allclose(shifted, 0.01, atol=1e-6)


def test_p_value_is_exact_where_all_permutations_tie():
    site = np.arange(10, dtype=np.int32) % 2
    test = metrics.mmd_permutation_test(jax.random.key(0), np.ones((10, 3)), site, num_sites=2, num_permutations=50)
    assert test.p_value == 1


def test_p_value_of_the_most_extreme_of_all_splits():
    # Of the 70 splits of 8 rows in halves, only the observed one and its mirror image are this far apart.
    latent = np.concatenate([np.zeros((4, 1)), 5 * np.ones((4, 1))]) + 0.1 * np.arange(8)[:, None]
    site = (np.arange(8) >= 4).astype(np.int32)
    test = metrics.mmd_permutation_test(jax.random.key(1), latent, site, num_sites=2, num_permutations=7000)
    assert test.p_value == pytest.approx(2 / 70, abs=4 * np.sqrt(2 / 70 / 7000))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.equivariance_gap(np.ones(3), np.ones(3)), r"vectors has shape \(3,\), expected"),
        (lambda: metrics.equivariance_gap(np.ones((3, 2)), np.ones((3, 1))), r"covariate has shape \(3, 1\), expected"),
        (
            lambda: metrics.mmd_permutation_test(
                jax.random.key(0), np.ones((4, 2)), np.zeros(4, np.int32), num_sites=2, num_permutations=0
            ),
            "num_permutations is 0, expected",
        ),
    ],
)
def test_errors_name_the_argument_and_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_sites_of_subjects_who_were_all_at_both_are_told_apart():
    """Thirty people scanned by two scanners: exchanging people alone would leave every scan where it was."""
    random = np.random.default_rng(0)
    subject, site = np.repeat(np.arange(30), 2), np.tile([0, 1], 30)
    person = random.normal(size=(30, 5))[subject]
    small = []
    for shift in (0.0, 1.0):
        latent = person + 0.3 * random.normal(size=(60, 5)) + shift * site[:, None]
        options = {"num_sites": 2, "num_permutations": 199, "estimator": "unbiased", "subject": subject}
        small.append(float(metrics.mmd_permutation_test(jax.random.key(0), latent, site, **options).p_value))
    assert small[0] > 0.05 and small[1] == pytest.approx(1 / 200)


def test_a_class_that_sites_have_in_other_shares_does_not_make_them_differ_within_it():
    generator = np.random.default_rng(0)
    small = []
    for seed in range(40):
        site = np.arange(80) % 2
        level = (generator.random(80) < np.where(site == 1, 0.8, 0.2)).astype(int)
        latent = generator.normal(size=(80, 3)) + 3 * level[:, None]
        options = {"num_sites": 2, "num_permutations": 99, "estimator": "unbiased"}
        within = metrics.mmd_permutation_test(jax.random.key(seed), latent, site, stratum=level, **options)
        among_all = metrics.mmd_permutation_test(jax.random.key(seed), latent, site, **options)
        small.append((float(within.p_value), float(among_all.p_value)))
    within, among_all = np.array(small).T
    assert np.max(np.abs(np.sort(within) - (np.arange(40) + 0.5) / 40)) < 1.63 / np.sqrt(40)
    assert np.mean(among_all <= 0.05) > 0.5


def turned(share: float, noise: float = 0.0, count: int = 12) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """A tau that turns by a share of what the covariate asks for, and in every other way by `noise` radians or so."""
    _, covariate, generator = equivariant_tau(count)
    tau = so.relative_rotation(jnp.zeros(count), share * covariate, generator=generator)
    return so.expm(so.skew(noise * jax.random.normal(jax.random.key(5), (count, 15)))) @ tau, covariate, generator


@pytest.mark.parametrize(
    ("share", "noise", "defined"),
    [(1, 0, True), (0.5, 0, True), (-1, 0, True), (0.2, 0, True), (0, 0.3, True), (0.02, 0, False)]
    + [(0, noise, False) for noise in (0.0, 1e-7, 1e-6, 1e-3)],
)
def test_the_equivariance_error_of_a_tau_that_does_not_turn_is_not_defined(share, noise, defined):
    tau, covariate, generator = turned(share, noise)
    error = jax.jit(lambda *arrays: equivariance_error(*arrays, generator=generator))(tau, covariate)
    wide = np.asarray(tau, np.float64)
    angle = 3.0 * np.asarray(covariate, np.float64)
    asked = np.mean([6 * 2 * (1 - np.cos(a - b)) for i, a in enumerate(angle) for j, b in enumerate(angle) if i != j])
    still = np.mean([np.sum((a - b) ** 2) for i, a in enumerate(wide) for j, b in enumerate(wide) if i != j])
    assert defined == (still > asked / 100)  # the rule, by loops
    assert np.isfinite(error) == defined
    if noise == 0 and 0 < share < 1:
        ratio = ((1 - share) / share) ** 2  # of small angles, so roughly
        assert not defined or 0.3 * ratio < error < 3 * ratio


def test_the_equivariance_error_is_not_defined_where_the_covariate_is_constant_or_rows_are_not_finite():
    tau, covariate, generator = turned(1.0)
    error = jax.jit(lambda tau, covariate, mask: equivariance_error(tau, covariate, generator=generator, mask=mask))
    all_count = jnp.ones(12)
    assert error(tau, covariate, all_count) < 1e-9
    for constant in (0 * covariate, 0 * covariate + 0.3, 0.3 + 1e-7 * covariate):
        assert np.isnan(error(tau, constant, all_count))
    assert np.isnan(error(tau.at[2, 0, 0].set(jnp.nan), covariate, all_count))
    assert np.isnan(error(tau, covariate.at[2].set(jnp.inf), all_count))
    assert error(tau.at[2].set(jnp.nan), covariate.at[2].set(jnp.inf), all_count.at[2].set(0)) < 1e-9
    assert np.isnan(error(tau, covariate, jnp.arange(12) < 1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gap_with_a_row_that_is_not_finite_is_nan_and_without_it_is_not(bad):
    ages, vectors = ages_and_vectors()
    spoilt, lost, kept = vectors.copy(), ages.copy(), np.arange(23) != 4
    spoilt[4, 2], lost[4] = bad, bad
    for arguments in ((spoilt, ages), (vectors, lost)):
        assert np.isnan(gap(*arguments)) and np.isnan(gap_ratio(jax.random.key(0), *arguments))
        np.testing.assert_allclose(gap(*arguments, mask=kept), gap(vectors[kept], ages[kept]), rtol=1e-5)


def test_the_gap_of_equal_vectors_or_ages_has_no_ratio():
    ages, vectors = ages_and_vectors()
    for constant in (np.full_like(vectors, 0.1), np.repeat(vectors[:1], 23, axis=0)):
        assert gap(constant, ages) < 1e-9 and np.isnan(gap_ratio(jax.random.key(0), constant, ages))
    assert gap(vectors, 0 * ages + 50) == 0 and np.isnan(gap_ratio(jax.random.key(0), vectors, 0 * ages + 50))


@pytest.mark.parametrize("scale", [1e-30, 1e30, 3e37])
def test_minmax_normalize_at_any_scale(scale):
    vectors = np.random.default_rng(0).uniform(-5, 5, size=(3, 4)).astype(np.float32)
    expected = [normalised_float64(vector) for vector in vectors]
    np.testing.assert_allclose(metrics.minmax_normalize(np.float32(scale) * vectors), expected, atol=1e-6)
    vectors[1, 2] = np.inf
    assert np.isnan(metrics.minmax_normalize(vectors)[1]).all()


@pytest.mark.parametrize(("scale", "kernel"), [(1e-30, "laplacian"), (1e-10, "gaussian"), (1e30, "energy")])
def test_the_permutation_test_sees_a_shift_at_any_scale(scale, kernel):
    latent, site = samples(2, 40, 3.0)
    test = metrics.mmd_permutation_test(
        jax.random.key(0), np.float32(scale) * latent, site, num_sites=3, num_permutations=99, kernel=kernel
    )
    assert test.p_value == pytest.approx(0.01)


def test_a_latent_that_is_not_finite_gives_no_p_value_and_is_named():
    latent, site = samples(0, 30, 1.0)
    latent[[3, 8], 1] = np.nan, np.inf
    options = {"num_sites": 3, "num_permutations": 19}
    line = r"latent is not finite in 2 of 30 rows \(row 3, row 8\): the statistic and its p-value are NaN"
    with pytest.warns(RuntimeWarning, match=line):
        test = metrics.mmd_permutation_test(jax.random.key(0), latent, site, **options)
    assert np.isnan(test.statistic) and np.isnan(test.p_value)
    traced = jax.jit(lambda latent: metrics.mmd_permutation_test(jax.random.key(0), latent, site, **options))(latent)
    assert np.isnan(traced.statistic) and np.isnan(traced.p_value)
    kept = np.isfinite(latent).all(axis=1)
    masked = metrics.mmd_permutation_test(jax.random.key(0), latent, site, mask=kept, **options)
    np.testing.assert_allclose(masked.statistic, mmd(latent[kept], site[kept], num_sites=3), rtol=1e-5)


@pytest.mark.parametrize(("rows", "estimator"), [(0, "biased"), (6, "biased"), (2, "unbiased")])
def test_where_no_two_sites_are_compared_there_is_no_p_value(rows, estimator):
    latent, site = np.random.default_rng(0).normal(size=(rows, 3)), np.arange(rows, dtype=np.int32) * (rows == 2)
    test = metrics.mmd_permutation_test(
        jax.random.key(0), latent.astype(np.float32), site, num_sites=2, num_permutations=9, estimator=estimator
    )
    assert test.statistic == 0 and np.isnan(test.p_value)
