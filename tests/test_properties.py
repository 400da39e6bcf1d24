"""What holds for every input: shapes, dtypes, masks, the order of rows, the names of sites, turning Phi with tau."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eqpool
from eqpool.geometry import so, sphere
from eqpool.losses.mmd import conditional_mmd
from eqpool.models.invariant import StageTwo
from eqpool.ops.numerics import safe_norm
from eqpool.ops.rows import masked_mean

# Few shapes, so that few programs are compiled; the same examples every time, so that a failure is met again.
often = settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
N, SITES = 10, 4
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([0.0, 1e-6, 1.0, 1e3])
estimators = st.sampled_from(["biased", "unbiased"])


def rows(seed: int, dimension: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=(N, dimension))).astype(np.float32)


def labels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, SITES, N).astype(np.int32)


@often
@given(seeds, scales, estimators, st.permutations(range(N)), st.permutations(range(SITES)))
def test_mmd_ignores_the_order_of_subjects_and_the_names_of_sites(seed, scale, estimator, order, names):
    latent, site = rows(seed, 3, scale), labels(seed + 1)
    options = {"num_sites": SITES, "estimator": estimator, "bandwidth": (0.5, 1.0)}
    value = eqpool.mmd(latent, site, **options)
    renamed = np.where(site >= 0, np.array(names, np.int32)[site], -1).astype(np.int32)
    assert value.shape == () and value.dtype == jnp.float32 and np.isfinite(value)
    assert estimator == "unbiased" or value >= -1e-5
    np.testing.assert_allclose(eqpool.mmd(latent[order], site[order], **options), value, atol=1e-5)
    np.testing.assert_allclose(eqpool.mmd(latent, renamed, **options), value, atol=1e-5)


@jax.jit
@partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
def _masked(latent, tau, covariate, site, mask):
    generator = so.generator(3, rotation_range=1.0)
    losses = jnp.stack([
        eqpool.mmd(latent, site, num_sites=SITES, mask=mask),
        conditional_mmd(latent, site, covariate, num_sites=SITES, mask=mask),
        eqpool.equivariance_loss(tau, covariate, generator=generator, mask=mask),
        masked_mean(latent[:, 0], mask),
    ])  # fmt: skip
    return losses.sum(), losses


@often
@given(seeds, st.lists(st.booleans(), min_size=N, max_size=N), st.sampled_from([np.nan, np.inf, 1e30]))
def test_a_masked_row_may_hold_anything(seed, mask, filler):
    site, mask = labels(seed + 1), np.array(mask)
    tau = np.linalg.qr(np.random.default_rng(seed).normal(size=(N, 3, 3)))[0].astype(np.float32)
    whole = [rows(seed, 3), tau, rows(seed + 2, 1)[:, 0]]
    spoilt = [np.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, filler).astype(np.float32) for x in whole]
    (value, losses), gradient = _masked(*spoilt, site, mask)
    np.testing.assert_allclose(losses, _masked(*whole, site, mask)[0][1], rtol=1e-4, atol=1e-5)
    assert np.isfinite(value)
    for array in gradient:
        assert np.isfinite(array).all() and not np.any(np.asarray(array)[~mask])


@often
@given(seeds, st.permutations(range(N)), st.floats(-2, 2), st.sampled_from(["expm", "cayley"]))
def test_the_equivariance_loss_ignores_order_and_origin(seed, order, shift, group_map):
    tau = np.linalg.qr(np.random.default_rng(seed).normal(size=(N, 4, 4)))[0].astype(np.float32)
    covariate = np.random.default_rng(seed + 1).random(N).astype(np.float32)
    options = {"generator": so.generator(4, rotation_range=2.0), "group_map": group_map}
    value = eqpool.equivariance_loss(tau, covariate, **options)
    assert value.shape == () and value.dtype == jnp.float32 and value >= 0
    np.testing.assert_allclose(eqpool.equivariance_loss(tau[order], covariate[order], **options), value, rtol=1e-4)
    shifted = eqpool.equivariance_loss(tau, covariate + np.float32(shift), **options)
    np.testing.assert_allclose(shifted, value, rtol=2e-3, atol=1e-4)


@often
@given(seeds, st.sampled_from([0.0, 1e-4, 1.0, 20.0]), st.sampled_from(["expm", "cayley"]))
def test_images_of_skew_matrices_are_rotations(seed, scale, group_map):
    skew = so.skew(rows(seed, 6, scale))
    turned = so.group_map_named(group_map)(skew)
    assert turned.shape == (N, 4, 4) and turned.dtype == jnp.float32
    identity = np.einsum("nij,nik->njk", turned, turned)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(4), identity.shape), atol=1e-4)
    np.testing.assert_allclose(np.linalg.det(np.asarray(turned)), 1, atol=1e-4)
    np.testing.assert_allclose(so.coordinates(skew), rows(seed, 6, scale), rtol=1e-6)


@often
@given(seeds, scales)
def test_what_is_normalised_has_length_one_and_a_finite_gradient(seed, scale):
    vectors = rows(seed, 5, scale)
    unit = sphere.normalize(vectors)
    assert unit.shape == vectors.shape and unit.dtype == jnp.float32
    np.testing.assert_allclose(safe_norm(unit), 1, rtol=1e-5)
    assert np.isfinite(jax.grad(lambda v: sphere.normalize(v).sum())(vectors)).all()


@pytest.fixture(scope="module")
def stage_two():
    model = StageTwo(outputs=2, num_sites=0, hidden_units=8)
    return model, model.init(jax.random.key(0), jnp.zeros((N, 4)), jnp.zeros((N, 4, 4)))


@often
@given(seeds, st.permutations(range(N)))
def test_phi_turns_with_tau(stage_two, seed, order):
    """A rotation R of both the latent and tau turns Phi by R and leaves the covariate-free latent
    (Lokhande et al. 2022, eq. (4)).
    """
    model, variables = stage_two
    latent = np.asarray(sphere.normalize(rows(seed, 4)))
    tau = np.asarray(so.expm(so.skew(rows(seed + 1, 6))))
    rotation = np.asarray(so.expm(so.skew(rows(seed + 2, 6)[0])))
    output = model.apply(variables, latent, tau)
    turned = model.apply(variables, latent @ rotation.T, rotation @ tau)
    np.testing.assert_allclose(turned.phi, output.phi @ rotation.T, atol=2e-5)
    np.testing.assert_allclose(turned.covariate_free, output.covariate_free, atol=2e-5)
    assert output.phi.shape == (N, 4) and output.phi.dtype == jnp.float32
    np.testing.assert_allclose(
        model.apply(variables, latent[order], tau[order]).phi, output.phi[np.array(order)], atol=1e-6
    )
