from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from jax.test_util import check_grads

from eqpool.geometry import so, sphere


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_normalize_at_any_scale(scale):
    x = np.random.default_rng(0).normal(size=(4, 3, 7)).astype(np.float32)
    expected = x / np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)
    np.testing.assert_allclose(sphere.normalize(scale * x), expected, atol=3e-7)


def test_zero_goes_to_the_first_basis_vector_with_gradient_zero():
    x = jnp.zeros((2, 3)).at[1].set(jnp.array([0.0, 3.0, 4.0]))
    np.testing.assert_allclose(sphere.normalize(x), [[1, 0, 0], [0, 0.6, 0.8]], atol=1e-7)
    gradient = jax.grad(lambda x: jnp.sum(sphere.normalize(x) * jnp.arange(3.0)[None]))(x)
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.isfinite(gradient).all() and np.abs(gradient[1]).max() > 0.01


def test_gradient():
    x = jax.random.normal(jax.random.key(0), (3, 5))
    check_grads(jax.jit(sphere.normalize), (x,), order=1, modes=("fwd", "rev"), atol=1e-2, rtol=1e-2, eps=1e-2)
    # The sphere does not move along the radius.
    _, radial = jax.jvp(sphere.normalize, (x,), (x,))
    np.testing.assert_allclose(radial, 0, atol=1e-6)


def test_half_precision_and_errors():
    assert sphere.normalize(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.float32
    for shape in ((), (3, 0)):
        with pytest.raises(ValueError, match="x has shape"):
            sphere.normalize(jnp.ones(shape))


@pytest.mark.parametrize(("count", "dimension"), [(1, 2), (2, 5), (3, 4)])
def test_from_plane_is_the_inverse_stereographic_projection(count, dimension):
    x = np.random.default_rng(0).normal(size=(6, count)).astype(np.float32)
    point = np.asarray(sphere.from_plane(x, dimension), np.float64)
    np.testing.assert_allclose(np.linalg.norm(point, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(point[:, count + 1 :], 0)
    # Back from the pole opposite to the origin's: x = p / (1 + height).
    np.testing.assert_allclose(point[:, :count] / (1 + point[:, count : count + 1]), x, rtol=2e-4, atol=1e-5)
    origin = sphere.from_plane(np.zeros(count, np.float32), dimension)
    np.testing.assert_array_equal(origin, np.eye(dimension)[count])
    for shape in ((), (3, dimension), (3, 0)):
        with pytest.raises(ValueError, match="x has shape"):
            sphere.from_plane(jnp.ones(shape), dimension)


@pytest.mark.parametrize("scale", [1e-30, 1e20, 1e30, 3e38])
def test_from_plane_at_any_scale(scale):
    x = np.float32(scale) * np.array([[1, 0, 0], [-0.3, 0.8, 0.1]], np.float32)
    wide = x.astype(np.float64)
    square = np.sum(wide**2, axis=1, keepdims=True)
    expected = np.concatenate([2 * wide, 1 - square], axis=1) / (1 + square)
    np.testing.assert_allclose(sphere.from_plane(x, 4), expected, rtol=1e-5, atol=1e-37)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(sphere.from_plane(x, 4)[:, :3])))(x)
    chex.assert_tree_all_finite(gradient)


def test_what_is_not_finite_stays_so():
    x = jnp.array([[1.0, 2.0], [jnp.nan, 1.0], [1.0, -jnp.inf]])
    for project in (sphere.normalize, lambda x: sphere.from_plane(x, 3)):
        finite = np.isfinite(project(x)).all(axis=1)
        np.testing.assert_array_equal(finite, [True, False, False])


class OnEveryBackend(chex.TestCase):
    """Without jit, with it, with the data on a device, and under pmap."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True, with_pmap=True)
    @parameterized.parameters("normalize", "from_plane", "cayley")
    def test_maps(self, name):
        x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
        function, expected = {
            "normalize": (sphere.normalize, x / np.linalg.norm(x, axis=1, keepdims=True)),
            "from_plane": (partial(sphere.from_plane, dimension=7), None),
            "cayley": (lambda x: so.cayley(so.skew(x)), None),
        }[name]
        with jax.numpy_dtype_promotion("standard"):
            found = np.asarray(self.variant(function)(x), np.float64)
        if name == "cayley":
            A = np.zeros((4, 4, 4))
            A[:, *np.triu_indices(4, 1)] = x
            A -= np.swapaxes(A, 1, 2)
            expected = np.linalg.solve(np.eye(4) - A / 2, np.eye(4) + A / 2)
        if name == "from_plane":
            square = np.sum(x**2, axis=1, keepdims=True)
            expected = np.concatenate([2 * x, 1 - square], axis=1) / (1 + square)
        chex.assert_trees_all_close(found, np.asarray(expected, np.float64), atol=2e-6)
