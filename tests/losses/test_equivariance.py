import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from eqpool import equivariance_loss, equivariance_loss_pairwise
from eqpool.geometry import so


def rotations(seed: int, count: int, n: int) -> jax.Array:
    entries = np.random.default_rng(seed).normal(size=(count, n, n))
    return so.expm(jnp.asarray(entries - np.swapaxes(entries, 1, 2), jnp.float32))


def problem(n: int, covariates: int, spectrum: str = "uniform", count: int = 9):
    """tau (N, n, n), covariate (N,) or (N, C), and the keyword arguments of the loss."""
    shape = (count, covariates) if covariates else (count,)
    covariate = jnp.asarray(np.random.default_rng(n).uniform(size=shape), jnp.float32)
    ranges = tuple(np.linspace(3.0, 1.0, covariates)) if covariates else 3.0
    return rotations(n, count, n), covariate, {"generator": so.generator(n, rotation_range=ranges, spectrum=spectrum)}


def loop_float64(tau, covariate, *, generator, group_map="expm", mask=None):
    """Both terms of eq. (3), pair by pair."""
    tau, covariate = np.asarray(tau, np.float64), np.asarray(covariate, np.float64)
    rows = range(len(tau)) if mask is None else np.flatnonzero(mask)
    terms = []
    for i in rows:
        for j in rows:
            if i != j:
                A = np.tensordot(covariate[i] - covariate[j], generator, axes=np.ndim(covariate[i]))
                identity = np.eye(len(A))
                G = scipy.linalg.expm(A) if group_map == "expm" else np.linalg.solve(identity - A / 2, identity + A / 2)
                first = np.sum((G @ tau[i] - tau[j]) ** 2)
                second = np.sum((G.T @ tau[j] - tau[i]) ** 2)
                assert first == pytest.approx(second, rel=1e-9)  # G is orthogonal
                terms.append(first + second)
    return np.mean(terms) if terms else 0.0


CASES = pytest.mark.parametrize(
    ("n", "covariates", "spectrum", "group_map"),
    [
        (5, 0, "uniform", "expm"),
        (8, 0, "paper", "expm"),
        (7, 2, "uniform", "expm"),
        (6, 1, "uniform", "cayley"),
        (8, 0, "paper", "cayley"),
        (7, 2, "uniform", "cayley"),
    ],
)
MAPS = pytest.mark.parametrize("group_map", ["expm", "cayley"])


@CASES
def test_value_and_gradient_agree_with_the_reference_and_float64(n, covariates, spectrum, group_map):
    tau, covariate, options = problem(n, covariates, spectrum)
    mask = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1], bool)
    options |= {"group_map": group_map, "mask": mask}
    fast = jax.jit(jax.value_and_grad(lambda *arrays: equivariance_loss(*arrays, **options), argnums=(0, 1)))
    slow = jax.jit(jax.value_and_grad(lambda *arrays: equivariance_loss_pairwise(*arrays, **options), argnums=(0, 1)))
    value, (gradient_tau, gradient_covariate) = fast(tau, covariate)
    reference, (reference_tau, reference_covariate) = slow(tau, covariate)
    np.testing.assert_allclose(value, loop_float64(tau, covariate, **options), rtol=5e-6)
    np.testing.assert_allclose(reference, value, rtol=5e-6)
    np.testing.assert_allclose(gradient_tau, reference_tau, atol=3e-5)
    np.testing.assert_allclose(gradient_covariate, reference_covariate, atol=3e-4, rtol=1e-4)
    np.testing.assert_array_equal(gradient_tau[~mask], 0)


@pytest.mark.parametrize("covariates", [0, 2])
def test_the_optimum_is_a_common_frame_turned_back(covariates):
    _, covariate, options = problem(6, covariates)
    zero = jnp.zeros_like(covariate)
    tau = jnp.matmul(so.relative_rotation(zero, covariate, **options), rotations(3, 1, 6))
    value, gradient = jax.jit(jax.value_and_grad(lambda tau: equivariance_loss(tau, covariate, **options)))(tau)
    # Absolute, for |tau|^2 = 6: the squares of float32 rounding, and not the rounding of the squares.
    assert 0 <= value < 1e-10
    np.testing.assert_allclose(gradient, 0, atol=1e-5)
    assert equivariance_loss(tau, zero, **options) > 1


def test_cayley_loses_no_digits_near_its_optimum():
    # A range small enough for the Cayley maps to compose but for 1e-4: the loss is 1e-9 of |tau|^2.
    generator = so.generator(6, rotation_range=0.05)
    covariate = jnp.linspace(0, 1, 8)
    tau = jnp.matmul(so.relative_rotation(jnp.zeros(8), covariate, generator=generator), rotations(3, 1, 6))
    tau = jnp.asarray(tau)
    value = equivariance_loss(tau, covariate, generator=generator, group_map="cayley")
    expected = loop_float64(tau, covariate, generator=generator, group_map="cayley")
    assert expected < 1e-9
    np.testing.assert_allclose(value, expected, rtol=0.02, atol=1e-12)


@MAPS
def test_masked_rows_may_hold_anything(group_map):
    tau, covariate, options = problem(5, 2)
    mask = jnp.array([1, 1, 1, 0, 1, 0, 1, 1, 1], jnp.float32)
    kept = np.flatnonzero(mask)
    options |= {"group_map": group_map}

    def loss(tau, covariate):
        return equivariance_loss(tau, covariate, mask=mask, **options)

    value, gradient = jax.jit(jax.value_and_grad(loss))(tau.at[3].set(jnp.nan), covariate.at[5].set(jnp.inf))
    np.testing.assert_allclose(value, equivariance_loss(tau[kept], covariate[kept], **options), rtol=2e-6)
    assert np.isfinite(gradient).all()


@MAPS
@pytest.mark.parametrize("valid", [0, 1])
def test_fewer_than_two_rows_give_zero_and_no_gradient(group_map, valid):
    tau, covariate, options = problem(5, 0)
    mask = jnp.arange(9) < valid
    options |= {"group_map": group_map, "mask": mask}
    loss = jax.value_and_grad(lambda *arrays: equivariance_loss(*arrays, **options), argnums=(0, 1))
    value, gradients = jax.jit(loss)(tau, covariate)
    assert value == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@MAPS
def test_half_precision_is_computed_in_float32(group_map):
    tau, covariate, options = problem(6, 0)
    tau = tau.astype(jnp.bfloat16)
    options |= {"group_map": group_map}
    value, gradient = jax.value_and_grad(lambda tau: equivariance_loss(tau, covariate, **options))(tau)
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    expected = loop_float64(tau.astype(jnp.float32), covariate, **options)
    np.testing.assert_allclose(value, expected, rtol=5e-6)


def test_the_loss_ignores_the_order_of_rows_and_a_shift_of_the_covariate():
    tau, covariate, options = problem(6, 0)
    order = np.random.default_rng(0).permutation(9)
    for group_map in ("expm", "cayley"):
        value = equivariance_loss(tau, covariate, group_map=group_map, **options)
        moved = equivariance_loss(tau[order], covariate[order] + 0.3, group_map=group_map, **options)
        np.testing.assert_allclose(moved, value, rtol=1e-5)


@MAPS
def test_row_tiles_change_nothing(group_map, monkeypatch):
    tau, covariate, options = problem(5, 0)

    def loss(tau):
        return jax.value_and_grad(lambda tau: equivariance_loss(tau, covariate, group_map=group_map, **options))(tau)

    value, gradient = jax.jit(loss)(tau)
    monkeypatch.setattr("eqpool.losses.plane_sums._TILE_SIZE", 4)
    tiled_value, tiled_gradient = jax.jit(lambda tau: loss(tau))(tau)
    np.testing.assert_allclose(tiled_value, value, rtol=2e-6)
    np.testing.assert_allclose(tiled_gradient, gradient, atol=2e-6)


def test_under_vmap():
    tau, covariate, options = problem(5, 0, count=8)
    batched = jax.vmap(lambda tau, covariate: equivariance_loss(tau, covariate, **options))
    values = batched(tau.reshape(2, 4, 5, 5), covariate.reshape(2, 4))
    for half, value in enumerate(values):
        rows = slice(4 * half, 4 * half + 4)
        np.testing.assert_allclose(value, equivariance_loss(tau[rows], covariate[rows], **options), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": jnp.ones((9, 5))}, r"tau has shape \(9, 5\), expected"),
        ({"covariate": jnp.ones((9, 1))}, r"covariate has shape \(9, 1\), expected \(9,\)"),
        ({"covariate": jnp.ones(8)}, r"covariate has shape \(8,\), expected \(9,\)"),
        ({"generator": so.generator(4, rotation_range=1.0)}, r"generator has shape \(4, 4\), expected"),
        ({"generator": so.generator(5, rotation_range=(1.0, 1.0))}, r"covariate has shape \(9,\), expected \(9, 2\)"),
        ({"group_map": "log"}, "group_map is 'log', expected"),
        ({"mask": jnp.ones(8)}, r"mask has shape \(8,\), expected \(9,\)"),
    ],
)
@pytest.mark.parametrize("loss", [equivariance_loss, equivariance_loss_pairwise])
def test_errors_name_the_argument_and_what_was_expected(loss, change, message):
    tau, covariate, options = problem(5, 0)
    options = {"tau": tau, "covariate": covariate, **options, **change}
    with pytest.raises(ValueError, match=message):
        loss(options.pop("tau"), options.pop("covariate"), **options)
