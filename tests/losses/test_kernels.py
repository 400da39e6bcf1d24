import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.losses import kernels


def latents(seed: int, count: int, n: int = 6, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, n)) + shift).astype(np.float32)


def distances_float64(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rows.astype(np.float64)[:, None] - columns.astype(np.float64)[None], axis=-1)


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_squared_distances_far_from_the_origin(shift):
    rows, columns = latents(0, 7, shift=shift), latents(1, 9, shift=shift)
    expected = distances_float64(rows, columns) ** 2
    np.testing.assert_allclose(kernels.squared_distances(rows, columns), expected, rtol=1e-4)


def test_equal_rows_are_at_distance_zero_with_gradient_zero():
    rows = jnp.asarray(np.repeat(latents(0, 3), 4, axis=0))
    squared, pull = jax.vjp(lambda x: kernels.kernel_matrix(x, x, kernel="laplacian", bandwidths=jnp.ones(1)), rows)
    same = np.repeat(np.arange(3), 4)[:, None] == np.repeat(np.arange(3), 4)[None]
    np.testing.assert_array_equal(np.asarray(squared)[same], 0)
    np.testing.assert_array_equal(pull(jnp.asarray(same, jnp.float32))[0], 0)
    assert np.abs(pull(jnp.asarray(~same & np.triu(np.ones_like(same)), jnp.float32))[0]).max() > 0.01


@pytest.mark.parametrize(
    ("kernel", "oracle"),
    [
        ("laplacian", lambda d, p: np.expm1(-d / p)),
        ("gaussian", lambda d, p: np.expm1(-(d**2) / (2 * p**2))),
        ("energy", lambda d, p: -d / p),
    ],
)
def test_kernels_and_their_mixtures(kernel, oracle):
    rows, columns = latents(0, 7), latents(1, 9)
    distances = distances_float64(rows, columns)
    values = kernels.kernel_matrix(rows, columns, kernel=kernel, bandwidths=jnp.array([0.7, 3.0]))
    expected = (oracle(distances, 0.7) + oracle(distances, 3.0)) / 2
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)
    own = kernels.kernel_matrix(rows, rows, kernel=kernel, bandwidths=jnp.ones(1))
    np.testing.assert_array_equal(np.diagonal(own), 0)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_median_distance_of_the_rows_that_count(count):
    rows = latents(2, count + 2)
    rows[1], rows[-1] = 1e6, -1e6
    weight = np.ones(count + 2, np.float32)
    weight[[1, -1]] = 0
    kept = distances_float64(rows, rows)[np.ix_(weight > 0, weight > 0)][np.triu_indices(count, 1)]
    # The rows that do not count are zeroed by the callers; here they stay, to be seen if they leak.
    masked = np.where(weight[:, None] > 0, rows, 0)
    median = kernels.median_distance(jnp.asarray(masked), jnp.asarray(weight))
    np.testing.assert_allclose(median, np.median(kept), rtol=1e-5)


def test_median_of_many_rows_and_of_degenerate_ones():
    rows = latents(3, 1500)
    weight = (np.arange(1500) % 2).astype(np.float32)
    kept = rows[weight > 0]
    expected = np.median(distances_float64(kept, kept)[np.triu_indices(len(kept), 1)])
    assert kernels.median_distance(jnp.asarray(rows), jnp.asarray(weight)) == pytest.approx(expected, rel=0.03)
    few = (np.arange(1500) < 3).astype(np.float32)
    exact = np.median(distances_float64(rows[:3], rows[:3])[np.triu_indices(3, 1)])
    assert kernels.median_distance(jnp.asarray(rows), jnp.asarray(few)) == pytest.approx(exact, rel=1e-5)
    for count, weight in ((4, jnp.ones(4)), (4, jnp.zeros(4)), (1, jnp.ones(1))):
        assert kernels.median_distance(jnp.ones((count, 2)), weight) == 1


def test_resolve_bandwidths():
    latent, weight = jnp.asarray(latents(0, 5)), jnp.ones(5)
    np.testing.assert_array_equal(kernels.resolve_bandwidths(2.0, latent, weight), np.float32([2.0]))
    np.testing.assert_array_equal(kernels.resolve_bandwidths((1, 2.5), latent, weight), np.float32([1.0, 2.5]))
    traced = jax.jit(lambda p: kernels.resolve_bandwidths(p, latent, weight))(jnp.float32(3.0))
    np.testing.assert_array_equal(traced, np.float32([3.0]))
    for wrong in (0.0, -1.0, (), (1.0, np.nan), "mean", ((1.0,),)):
        with pytest.raises(ValueError, match="bandwidth is"):
            kernels.resolve_bandwidths(wrong, latent, weight)
