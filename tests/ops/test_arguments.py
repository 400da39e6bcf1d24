"""A bad argument is named with what was found and what was expected, under jit as well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.ops import arguments
from eqpool.ops.finite import check_finite, non_finite_rows


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((0, 3), ("N", "n")),
        ((5, 4, 4), ("N", "n", "n")),
        ((7, 8, 5, 5), (..., "n", "n")),
        ((2, 9, 9, 3), (2, ..., 3)),
        ((), ()),
        ((6,), (6,)),
    ],
)
def test_shapes_that_pass(shape, expected):
    arguments.check_shape("x", jnp.zeros(shape), expected)
    jax.jit(lambda x: arguments.check_shape("x", x, expected))(jnp.zeros(shape))


@pytest.mark.parametrize(
    ("shape", "expected", "message"),
    [
        ((24,), ("N", "n"), r"x has shape \(24,\), expected \(N, n\)"),
        ((3, 0), ("N", "n"), r"x has shape \(3, 0\), expected \(N, n\)"),
        ((3, 4, 5), ("N", "n", "n"), r"x has shape \(3, 4, 5\), expected \(N, n, n\)"),
        ((4, 5), (..., "n", "n"), r"x has shape \(4, 5\), expected \(\.\.\., n, n\)"),
        ((), (..., "n"), r"x has shape \(\), expected \(\.\.\., n\)"),
        ((3, 1), (3,), r"x has shape \(3, 1\), expected \(3,\), one for each row"),
    ],
)
def test_shapes_that_do_not(shape, expected, message):
    because = ", one for each row" if expected == (3,) else ""
    with pytest.raises(ValueError, match=message + "$"):
        arguments.check_shape("x", jnp.zeros(shape), expected, because)
    with pytest.raises(ValueError, match=message):  # to which jax may add a line
        jax.eval_shape(lambda x: arguments.check_shape("x", x, expected, because), jnp.zeros(shape))


def test_integers_counts_and_names():
    arguments.check_integers("site", jnp.zeros(3, jnp.uint8))
    with pytest.raises(ValueError, match="site has dtype float32, expected integers"):
        arguments.check_integers("site", jnp.zeros(3))
    assert arguments.check_count("count", np.int64(3)) == 3
    for wrong in (0, -1, 1.0, "3", None, True):
        with pytest.raises(ValueError, match="count is .*, expected (a whole number, |)at least 1"):
            arguments.check_count("count", wrong)
    with pytest.raises(ValueError, match="kernel is 'cosine', expected 'laplacian', 'gaussian' or 'energy'"):
        arguments.check_one_of("kernel", "cosine", ("laplacian", "gaussian", "energy"))


def test_positive_numbers():
    arguments.check_positive("width", np.float32(0.1))
    arguments.check_positive("width", (1, 2.0), max_rank=1)
    jax.jit(lambda width: arguments.check_positive("width", width))(-1.0)  # not known before it runs
    for wrong in (0, -1.0, np.nan, np.inf, (1.0, 2.0), "wide", None):
        with pytest.raises(ValueError, match="width is .*, expected a positive number$"):
            arguments.check_positive("width", wrong)
    for wrong in ((), (1.0, 0.0), (1.0, np.nan), ((1.0,),)):
        with pytest.raises(ValueError, match="width is .*, expected a positive number or a sequence of them"):
            arguments.check_positive("width", wrong, max_rank=1)


def test_rows_that_are_not_finite_are_named():
    values = np.zeros((6, 2, 2))
    assert non_finite_rows("tau", values) == non_finite_rows("tau", values[:0]) == ""
    values[1, 0, 1], values[4, 1, 1] = np.nan, -np.inf
    assert non_finite_rows("tau", values) == "tau is not finite in 2 of 6 rows (row 1, row 4)"
    values[:] = np.nan
    expected = "tau is not finite in 6 of 6 rows (sub-0, sub-1, sub-2, ...), expected finite numbers"
    with pytest.raises(ValueError, match=expected.replace("(", r"\(").replace(")", r"\)")):
        check_finite("tau", values, [f"sub-{row}" for row in range(6)])
