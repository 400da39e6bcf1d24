import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.ops import rows


def test_masked_sums_and_means():
    values, mask = jnp.array([1.0, jnp.nan, 5.0]), jnp.array([1, 0, 1])
    total, count = rows.masked_sum_and_count(values, mask)
    assert (total, count) == (6, 2)
    assert rows.masked_mean(values, mask) == 3
    assert rows.masked_mean(values, jnp.zeros(3)) == 0
    assert rows.masked_mean(values[::2]) == 3
    np.testing.assert_array_equal(jax.grad(lambda v: rows.masked_mean(v, mask))(values), [0.5, 0, 0.5])
    with pytest.raises(ValueError, match=r"mask has shape \(2,\), expected \(3,\)"):
        rows.masked_mean(values, jnp.ones(2))


def test_masked_mean_over_devices_is_not_a_mean_of_means():
    values, mask = jnp.arange(8.0).reshape(4, 2), jnp.array([[1, 1], [1, 0], [0, 0], [0, 0]])
    means = jax.vmap(lambda v, m: rows.masked_mean(v, m, axis_name="data"), axis_name="data")(values, mask)
    np.testing.assert_array_equal(means, 1)


@pytest.mark.parametrize("count", [3, 4, 10])
def test_row_tiles_add_up(count):
    x = jnp.arange(2.0 * count).reshape(count, 2)

    def total(x):
        return rows.sum_over_row_tiles(lambda x: {"squares": jnp.sum(x**2, axis=0)}, x, tile_size=4)["squares"]

    np.testing.assert_allclose(total(x), jnp.sum(x**2, axis=0))
    np.testing.assert_allclose(jax.grad(lambda x: total(x).sum())(x), 2 * x)
