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


def test_masked_sums_and_means():
    values, mask = jnp.array([1.0, jnp.nan, 5.0]), jnp.array([1, 0, 1])
    total, count = numerics.masked_sum_and_count(values, mask)
    assert (total, count) == (6, 2)
    assert numerics.masked_mean(values, mask) == 3
    assert numerics.masked_mean(values, jnp.zeros(3)) == 0
    assert numerics.masked_mean(values[::2]) == 3
    np.testing.assert_array_equal(jax.grad(lambda v: numerics.masked_mean(v, mask))(values), [0.5, 0, 0.5])
    with pytest.raises(ValueError, match=r"mask has shape \(2,\), expected \(3,\)"):
        numerics.masked_mean(values, jnp.ones(2))


def test_masked_mean_over_devices_is_not_a_mean_of_means():
    values, mask = jnp.arange(8.0).reshape(4, 2), jnp.array([[1, 1], [1, 0], [0, 0], [0, 0]])
    means = jax.vmap(lambda v, m: numerics.masked_mean(v, m, axis_name="data"), axis_name="data")(values, mask)
    np.testing.assert_array_equal(means, 1)


@pytest.mark.parametrize("rows", [3, 4, 10])
def test_row_tiles_add_up(rows):
    x = jnp.arange(2.0 * rows).reshape(rows, 2)

    def total(x):
        return numerics.sum_over_row_tiles(lambda x: {"squares": jnp.sum(x**2, axis=0)}, x, tile_size=4)["squares"]

    np.testing.assert_allclose(total(x), jnp.sum(x**2, axis=0))
    np.testing.assert_allclose(jax.grad(lambda x: total(x).sum())(x), 2 * x)


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
