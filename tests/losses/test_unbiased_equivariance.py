"""The unbiased form of the equivariance loss, against loops over pairs in float64 and known noisy readings of age."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from eqpool import equivariance_loss
from eqpool.geometry import so
from eqpool.losses.equivariance import equivariance_error, unbiased_equivariance_loss
from tests.losses.test_equivariance import MAPS, loop_float64, problem, rotations

N_AGES = 3000


def noisy_reading(r_squared: float, bound: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Ages in [0, bound], and the best prediction of them from a measurement with noise, which has this R^2."""
    random = np.random.default_rng(0)
    age = random.uniform(0, bound, size=N_AGES)
    measured = age + random.normal(size=N_AGES) * np.sqrt(age.var() * (1 - r_squared) / r_squared)
    slope = np.cov(age, measured)[0, 1] / measured.var(ddof=1)
    return age, age.mean() + slope * (measured - measured.mean())


def turned_by(angle: np.ndarray, generator: np.ndarray) -> jax.Array:
    return so.relative_rotation(jnp.zeros_like(angle, jnp.float32), jnp.float32(angle), generator=generator)


def slope_at_the_minimum(loss, age: np.ndarray, reading: np.ndarray, generator: np.ndarray) -> float:
    """The slope of tau's angle on age, for the multiple of the reading at which `loss` is least."""
    value = jax.jit(lambda tau: loss(tau, jnp.float32(age), generator=generator))
    found = minimize_scalar(lambda stretch: float(value(turned_by(stretch * reading, generator))), bounds=(0.2, 8))
    return float(np.polyfit(age, found.x * reading, 1)[0])


@pytest.mark.parametrize("r_squared", [0.3, 0.5, 0.8])
def test_the_printed_loss_shrinks_ages_by_r_squared_and_this_form_does_not(r_squared):
    generator = so.generator(4, rotation_range=0.3)  # small rotations, for which the slopes are exact
    age, reading = noisy_reading(r_squared)
    printed = slope_at_the_minimum(equivariance_loss, age, reading, generator)
    unbiased = slope_at_the_minimum(unbiased_equivariance_loss, age, reading, generator)
    assert printed == pytest.approx(np.corrcoef(age, reading)[0, 1] ** 2, abs=0.02)
    assert unbiased == pytest.approx(1, abs=0.02)


def test_the_value_at_the_minimum_is_the_error_of_the_best_reading():
    generator = so.generator(4, rotation_range=0.3)
    age, reading = noisy_reading(0.5)
    tau, still = turned_by(reading / 0.5, generator), turned_by(np.zeros(N_AGES), generator)
    required = equivariance_loss(still, jnp.float32(age), generator=generator)
    value = unbiased_equivariance_loss(tau, jnp.float32(age), generator=generator)
    error = equivariance_error(tau, jnp.float32(age), generator=generator)
    np.testing.assert_allclose(value, required * error, rtol=1e-4)
    assert error == pytest.approx(1 - np.corrcoef(age, reading)[0, 1] ** 2, abs=0.02)


def test_each_of_two_covariates_is_unbiased_whatever_the_other_is_read_with():
    generator = so.generator(6, rotation_range=(0.3, 0.3))
    first, poor = noisy_reading(0.3)
    second, good = noisy_reading(0.9)
    second, good = second[::-1], good[::-1]
    covariate = jnp.float32(np.column_stack([first, second]))

    def value(stretch: jax.Array) -> jax.Array:
        angles = jnp.stack([stretch[0] * jnp.float32(poor), stretch[1] * jnp.float32(good)], axis=1)
        tau = so.relative_rotation(jnp.zeros_like(angles), angles, generator=generator)
        return unbiased_equivariance_loss(tau, covariate, generator=generator)

    best = jnp.array([1 / 0.3, 1 / 0.9], jnp.float32)
    for changed in (best * jnp.array([1.2, 1.0]), best * jnp.array([0.8, 1.0]), best * jnp.array([1.0, 1.2])):
        assert value(changed) > value(best)
    assert value(best * jnp.array([1.0, 0.8])) > value(best)


def loop_of_the_unbiased_form(tau, covariate, *, generator, group_map="expm", mask=None) -> float:
    """sum_c A_c L_c(c) / L_c(0) and the printed loss of fixed directions, each a loop over pairs in float64."""
    generators = np.reshape(generator, (-1, *np.shape(generator)[-2:]))
    kept = slice(None) if mask is None else mask
    tau = np.asarray(tau, np.float64)[kept]
    covariate = np.asarray(covariate, np.float64)[kept].reshape(len(tau), -1)
    total, rest = 0.0, np.eye(tau.shape[1])
    for matrix, values in zip(generators, covariate.T, strict=True):
        own = matrix @ np.linalg.pinv(matrix)  # projection on the planes that the covariate rotates
        rest = rest - own
        equal = np.broadcast_to(own, tau.shape)
        parts = [(own @ tau, values), (own @ tau, 0 * values), (equal, values)]
        moved, still, required = (
            loop_float64(rotated, angle, generator=matrix, group_map=group_map) for rotated, angle in parts
        )
        total += required * moved / max(still, 0.01 * required)
    return total + loop_float64(rest @ tau, 0 * covariate[:, 0], generator=generators[0])


@pytest.mark.parametrize(
    ("n", "covariates", "spectrum", "group_map"),
    [(6, 0, "uniform", "expm"), (5, 0, "paper", "expm"), (7, 2, "uniform", "expm"), (7, 2, "uniform", "cayley")],
)
@pytest.mark.parametrize("mask", [None, np.array([1, 1, 0, 1, 1, 1, 0, 1, 1], bool)])
def test_the_value_agrees_with_loops_over_pairs_in_float64(n, covariates, spectrum, group_map, mask):
    tau, covariate, options = problem(n, covariates, spectrum)
    options |= {"group_map": group_map, "mask": mask}
    value = jax.jit(lambda *arrays: unbiased_equivariance_loss(*arrays, **options))(tau, covariate)
    np.testing.assert_allclose(value, loop_of_the_unbiased_form(tau, covariate, **options), rtol=2e-5)


@MAPS
def test_the_gradient_agrees_with_finite_differences_of_the_loop(group_map):
    tau, covariate, options = problem(5, 2)
    options |= {"group_map": group_map}
    gradient = jax.jit(jax.grad(lambda tau: unbiased_equivariance_loss(tau, covariate, **options)))(tau)
    for seed in range(3):
        direction = np.random.default_rng(seed).normal(size=tau.shape)
        ahead, behind = (
            loop_of_the_unbiased_form(np.asarray(tau, np.float64) + step * direction, covariate, **options)
            for step in (1e-5, -1e-5)
        )
        np.testing.assert_allclose(np.sum(np.asarray(gradient) * direction), (ahead - behind) / 2e-5, rtol=1e-3)


def test_a_tau_that_does_not_rotate_has_a_hundred_times_the_printed_loss_and_its_gradient():
    covariate = jnp.linspace(0, 1, 8)
    generator = so.generator(4, rotation_range=2.0)
    still = jnp.broadcast_to(rotations(0, 1, 4), (8, 4, 4))
    value, gradient = jax.value_and_grad(lambda tau: unbiased_equivariance_loss(tau, covariate, generator=generator))(
        still
    )
    printed, its_gradient = jax.value_and_grad(lambda tau: equivariance_loss(tau, covariate, generator=generator))(
        still
    )
    np.testing.assert_allclose(value, 100 * printed, rtol=1e-5)
    np.testing.assert_allclose(gradient, 100 * its_gradient, rtol=1e-4, atol=1e-4)


@MAPS
def test_masked_rows_may_hold_anything(group_map):
    tau, covariate, options = problem(5, 2)
    mask = jnp.array([1, 1, 1, 0, 1, 0, 1, 1, 1], jnp.float32)
    kept = np.flatnonzero(mask)
    options |= {"group_map": group_map}
    loss = jax.jit(jax.value_and_grad(lambda *arrays: unbiased_equivariance_loss(*arrays, mask=mask, **options)))
    value, gradient = loss(tau.at[3].set(jnp.nan), covariate.at[5].set(jnp.inf))
    np.testing.assert_allclose(value, unbiased_equivariance_loss(tau[kept], covariate[kept], **options), rtol=5e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_rows_whose_covariates_require_no_rotation_give_zero_and_no_gradient(rows):
    tau, _, options = problem(6, 0)
    options |= {"mask": jnp.arange(9) < rows}
    loss = jax.value_and_grad(lambda tau: unbiased_equivariance_loss(tau, jnp.full(9, 0.3), **options))
    value, gradient = jax.jit(loss)(tau)
    np.testing.assert_allclose(value, 0, atol=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


def test_generators_that_share_a_plane_are_refused():
    tau, covariate, _ = problem(6, 2)
    one = so.generator(6, rotation_range=1.0)
    with pytest.raises(ValueError, match="two matrices rotate the same plane"):
        unbiased_equivariance_loss(tau, covariate, generator=np.stack([one, 2 * one]))
