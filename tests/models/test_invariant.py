"""Phi is equivariant wherever tau is (docs/method.md, section 3), and tau sees the latent alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from eqpool.geometry import so, sphere
from eqpool.models.invariant import Invariant, StageTwo
from eqpool.models.tau import CovariateTau, Tau

DIMENSION = 6


def covariate_rotation(t: float) -> jax.Array:
    return so.expm(jnp.asarray(t * so.generator(DIMENSION, rotation_range=2.0), jnp.float32))


def tau_of_the_first_plane(latent: jax.Array) -> jax.Array:
    """R(t) for the angle t of l in the generator's first plane: by construction tau(R(t) l) = R(t) tau(l)."""
    generator = so.generator(DIMENSION, rotation_range=1.0)
    first = np.zeros(DIMENSION)
    first[0] = 1.0
    second = generator @ first  # the uniform generator turns every vector e towards B e
    angle = jnp.arctan2(latent @ second.astype(np.float32), latent @ first.astype(np.float32))
    return jax.vmap(lambda a: so.expm(a * jnp.asarray(generator, jnp.float32)))(angle)


@pytest.mark.parametrize("on_sphere", [True, False])
@pytest.mark.parametrize("t", [-0.9, 0.3, 1.0])
def test_phi_turns_as_the_latent_does(t, on_sphere):
    latent = sphere.normalize(jax.random.normal(jax.random.key(0), (20, DIMENSION)))
    rotation = covariate_rotation(t)
    turned = latent @ rotation.T
    model = StageTwo(outputs=2, num_sites=2, on_sphere=on_sphere)
    variables = model.init(jax.random.key(1), latent, tau_of_the_first_plane(latent))

    np.testing.assert_allclose(tau_of_the_first_plane(turned), rotation @ tau_of_the_first_plane(latent), atol=2e-6)
    before = model.apply(variables, latent, tau_of_the_first_plane(latent))
    after = model.apply(variables, turned, tau_of_the_first_plane(turned))
    np.testing.assert_allclose(after.phi, before.phi @ rotation.T, atol=5e-6)
    np.testing.assert_allclose(after.covariate_free, before.covariate_free, atol=5e-6)
    assert np.abs(after.phi - before.phi).max() > 0.1  # the turn is not trivial


def an_erasure() -> dict:
    """Constants that erase one direction, as `eqpool.data.site_effects.erasure` fits them: an oblique projection."""
    generator = np.random.default_rng(3)
    direction, reader = generator.normal(size=(2, DIMENSION))
    projection = np.eye(DIMENSION) - np.outer(direction, reader) / (reader @ direction)
    mean = 0.3 * generator.normal(size=DIMENSION)
    return {"erasure": {"mean": np.float32(mean), "projection": np.float32(projection)}}


def test_an_erasure_of_tau_inverse_l_leaves_phi_equivariant_and_one_of_l_does_not():
    latent = sphere.normalize(jax.random.normal(jax.random.key(0), (20, DIMENSION)))
    rotation = covariate_rotation(0.7)
    turned = latent @ rotation.T
    model, constants = StageTwo(outputs=2, num_sites=0), an_erasure()
    plain = model.init(jax.random.key(1), latent, tau_of_the_first_plane(latent))
    erasing = plain | {"constants": constants}

    def phi(variables, rows) -> np.ndarray:
        return np.asarray(model.apply(variables, rows, tau_of_the_first_plane(rows)).phi)

    np.testing.assert_allclose(phi(erasing, turned), phi(erasing, latent) @ rotation.T, atol=2e-5)
    assert np.abs(phi(erasing, latent) - phi(plain, latent)).max() > 0.1  # the erasure acts

    def of_erased_latent(rows) -> np.ndarray:
        mean, projection = constants["erasure"]["mean"], constants["erasure"]["projection"]
        return phi(plain, sphere.normalize(mean + (rows - mean) @ projection.T))

    assert np.abs(of_erased_latent(turned) - of_erased_latent(latent) @ rotation.T).max() > 0.1


def test_phi_is_blind_to_what_is_erased():
    latent = sphere.normalize(jax.random.normal(jax.random.key(0), (20, DIMENSION)))
    tau = tau_of_the_first_plane(latent)
    model, constants = StageTwo(outputs=2, num_sites=0), an_erasure()
    variables = dict(model.init(jax.random.key(1), latent, tau)) | {"constants": constants}
    kernel = scipy.linalg.null_space(constants["erasure"]["projection"], rcond=1e-4)[:, 0].astype(np.float32)
    moved = latent + 0.5 * jnp.einsum("nij,j->ni", tau, kernel)
    before, after = (model.apply(variables, rows, tau).phi for rows in (latent, moved))
    np.testing.assert_allclose(before, after, atol=2e-5)


def test_phi_is_on_the_sphere():
    latent = sphere.normalize(jax.random.normal(jax.random.key(0), (9, DIMENSION)))
    tau = Tau().init_with_output(jax.random.key(2), latent)[0]
    output, _ = StageTwo(outputs=3, num_sites=2).init_with_output(jax.random.key(1), latent, tau)
    np.testing.assert_allclose(np.linalg.norm(output.phi, axis=1), 1, atol=1e-5)
    assert output.prediction.shape == (9, 3) and output.reconstruction.shape == latent.shape


@pytest.mark.parametrize("dimension", [2, 5, 30, 64])
def test_tau_is_a_rotation(dimension):
    latent = sphere.normalize(jax.random.normal(jax.random.key(0), (7, dimension)))
    model = Tau(hidden_units=16)
    variables = model.init(jax.random.key(1), latent)
    variables = jax.tree.map(lambda leaf: 5 * leaf, variables)  # far from the identity
    tau = np.asarray(model.apply(variables, latent), np.float64)
    np.testing.assert_allclose(tau @ tau.swapaxes(1, 2), np.broadcast_to(np.eye(dimension), tau.shape), atol=2e-5)
    np.testing.assert_allclose(np.linalg.det(tau), 1, atol=1e-4)


@pytest.mark.parametrize("covariates", [1, 2])
def test_a_covariate_tau_is_the_exponential_of_what_it_reads(covariates):
    latent = sphere.normalize(jax.random.normal(jax.random.key(0), (7, 9)))
    model = CovariateTau((2.5,) * covariates, hidden_units=16)
    variables = model.init(jax.random.key(1), latent)
    tau, state = model.apply(variables, latent, capture_intermediates=True)
    read = np.asarray(state["intermediates"]["covariate"]["__call__"][0], np.float64)
    generators = so.generator(9, rotation_range=(2.5,) * covariates)
    expected = [scipy.linalg.expm(-np.einsum("c,cij->ij", row, generators)) for row in read]
    np.testing.assert_allclose(tau, expected, atol=2e-6)
    assert np.abs(read).max() > 0.01


@pytest.mark.parametrize(("code_dim", "levels"), [(1, 2), (1, 8), (2, 5)])
def test_a_code_takes_its_levels_and_no_other_value_and_still_learns(code_dim, levels):
    latent = 5 * jax.random.normal(jax.random.key(0), (400, DIMENSION))
    model = Invariant(hidden_units=16, code_dim=code_dim, code_levels=levels)
    variables = jax.tree.map(lambda leaf: 3 * leaf, model.init(jax.random.key(1), latent))
    free = np.asarray(model.apply(variables, latent), np.float64)
    np.testing.assert_allclose(np.linalg.norm(free, axis=1), 1, atol=1e-5)
    code = free[:, :code_dim] / (1 + free[:, code_dim : code_dim + 1])
    nearest = np.round((code + 1) / 2 * (levels - 1)) / (levels - 1) * 2 - 1
    np.testing.assert_allclose(code, nearest, atol=1e-5)
    assert all(2 <= len(np.unique(column.round(3))) <= levels for column in code.T)
    weight = jax.random.normal(jax.random.key(2), (DIMENSION,))
    gradient = jax.grad(lambda v: jnp.sum(model.apply(v, latent) @ weight))(variables)
    assert all(np.abs(leaf).max() > 0 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_covariate_tau_in_steps_turns_by_whole_steps():
    latent = sphere.normalize(jax.random.normal(jax.random.key(0), (50, DIMENSION)))
    model = CovariateTau((2.0,), hidden_units=16, steps=16)
    variables = jax.tree.map(lambda leaf: 2 * leaf, model.init(jax.random.key(1), latent))
    tau = np.asarray(model.apply(variables, latent))
    generator = so.generator(DIMENSION, rotation_range=2.0)
    turns = np.stack([scipy.linalg.expm(-step / 16 * generator) for step in range(-80, 81)])
    distance = np.abs(tau[:, None] - turns[None]).max(axis=(2, 3))
    np.testing.assert_allclose(distance.min(axis=1), 0, atol=1e-5)
    assert len(np.unique(distance.argmin(axis=1))) > 2
