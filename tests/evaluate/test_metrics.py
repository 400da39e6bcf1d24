import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool import equivariance_loss_pairwise
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.equivariance_gap(np.ones(3), np.ones(3)), r"vectors has shape \(3,\), expected"),
        (lambda: metrics.equivariance_gap(np.ones((3, 2)), np.ones((3, 1))), r"covariate has shape \(3, 1\), expected"),
    ],
)
def test_errors_name_the_argument_and_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


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
