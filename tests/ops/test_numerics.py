import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.ops import numerics


def test_safe_norm_has_a_finite_gradient_everywhere():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(numerics.safe_norm(x), [0, 5])
    np.testing.assert_allclose(numerics.safe_norm(x, axis=0, keepdims=True), [[3, 4]])
    np.testing.assert_allclose(jax.grad(lambda x: numerics.safe_norm(x).sum())(x), [[0, 0], [0.6, 0.8]], rtol=1e-6)
    np.testing.assert_array_equal(numerics.safe_sqrt(jnp.array([-1.0, 0.0, 4.0])), [0, 0, 2])


def test_as_float():
    for dtype in (jnp.bfloat16, jnp.float16, jnp.int32, bool):
        assert numerics.as_float(jnp.ones(2, dtype)).dtype == jnp.float32
    with pytest.raises(ValueError, match="expected a real array"):
        numerics.as_float(1j)


def test_importing_eqpool_is_light_and_opens_the_geometry():
    code = (
        "import sys, eqpool\n"
        "assert callable(eqpool.geometry.so.cayley) and callable(eqpool.geometry.sphere.normalize)\n"
        "assert all(hasattr(eqpool, name) for name in eqpool.__all__) and eqpool.__version__\n"
        "heavy = 'flax grain orbax tensorflow_datasets tensorflow sklearn pandas matplotlib nilearn nibabel'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1.0, 1e20, 5e37])
def test_safe_norm_at_any_scale(scale):
    x = np.float32(scale) * np.array([[3.0, 4.0, 0.0], [-1.0, 0.5, 2.0], [0.0, 0.0, 0.0]], np.float32)
    expected = np.linalg.norm(x.astype(np.float64), axis=1)
    np.testing.assert_allclose(numerics.safe_norm(x), expected, rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(numerics.safe_norm(x)))(jnp.asarray(x))
    directions = x.astype(np.float64) / np.where(expected > 0, expected, 1)[:, None]
    np.testing.assert_allclose(gradient, directions, rtol=1e-6, atol=1e-7)


def test_what_is_not_finite_has_no_norm_of_zero():
    assert np.isnan(numerics.safe_sqrt(jnp.float32(jnp.nan)))
    assert np.isnan(numerics.safe_norm(jnp.array([jnp.nan, 1.0])))
    assert not np.isfinite(numerics.safe_norm(jnp.array([jnp.inf, 1.0])))


def test_powers_of_two():
    x = jnp.array([1.0, 1.5, 2.0, 3e38, 1e-30, 0.0, jnp.inf, jnp.nan])
    powers = np.asarray(numerics.power_of_two_below(x), np.float64)
    np.testing.assert_array_equal(powers[:5], [1, 1, 2, 2.0**126, 2.0**-100])
    np.testing.assert_array_equal(powers[5:], 1)
