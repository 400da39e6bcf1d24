import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.ops import custom_rules


def test_rounding_has_the_gradient_of_its_input():
    x = jnp.array([-1.6, -0.4, 0.2, 2.7])
    np.testing.assert_array_equal(custom_rules.round_straight_through(x), [-2, 0, 0, 3])
    gradient = jax.grad(lambda x: jnp.sum(jnp.square(custom_rules.round_straight_through(x))))(x)
    np.testing.assert_array_equal(gradient, [-4, 0, 0, 6])  # 2 round(x)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_gradient_is_reversed_and_the_value_is_not(scale):
    x = jnp.array([[1.0, -2.0], [3.0, 0.5]])
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(x * custom_rules.reverse_gradient(x, scale)))(x)
    assert value == jnp.sum(jnp.square(x))
    np.testing.assert_array_equal(gradient, x - scale * x)


def test_a_condition_under_vmap_holds_if_it_holds_for_any():
    conditions = jnp.array([[False, True], [False, False]])
    over_rows = jax.vmap(custom_rules.any_of_batch, out_axes=None)
    assert [bool(over_rows(row)) for row in conditions] == [True, False]
    assert not custom_rules.any_of_batch(jnp.array(False))
