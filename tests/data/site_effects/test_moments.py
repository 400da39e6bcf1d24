import tracemalloc

import numpy as np
import pytest
import statsmodels.api

from eqpool.data.site_effects.moments import fit_site_model


def table(rows=60, features=4, seed=0):
    random = np.random.default_rng(seed)
    site = random.integers(0, 3, rows)
    terms = random.normal(size=(rows, 2))
    values = terms @ random.normal(size=(2, features)) + site[:, None] + random.normal(size=(rows, features))
    return values, terms, site


def chunks(values, size, order=None):
    order = np.arange(len(values)) if order is None else order
    return lambda: ((rows, values[rows]) for rows in (order[i : i + size] for i in range(0, len(order), size)))


def test_the_fit_is_that_of_least_squares():
    values, terms, site = table()
    model = fit_site_model(chunks(values, 60), terms, site, 3)
    design = np.column_stack([np.eye(3)[site], terms])
    for feature in range(values.shape[1]):
        expected = statsmodels.api.OLS(values[:, feature], design).fit()
        np.testing.assert_allclose(model.constants[:, feature], expected.params[:3], rtol=1e-10)
        np.testing.assert_allclose(model.coefficients[:, feature], expected.params[3:], rtol=1e-10)
        squares = [np.sum(expected.resid[site == index] ** 2) for index in range(3)]
        np.testing.assert_allclose(model.residual_squares[:, feature], squares, rtol=1e-10)


@pytest.mark.parametrize("size", [1, 7, 60])
def test_chunks_in_any_order_give_the_same_fit(size):
    values, terms, site = table()
    whole = fit_site_model(chunks(values, 60), terms, site, 3)
    parts = fit_site_model(chunks(values, size, np.random.default_rng(1).permutation(60)), terms, site, 3)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_rows_without_a_site_do_not_count():
    values, terms, site = table()
    values[5], site[5] = 1e6, -1
    kept = np.flatnonzero(site >= 0)
    model = fit_site_model(chunks(values, 8), terms, site, 3)
    without = fit_site_model(chunks(values[kept], 60), terms[kept], site[kept], 3)
    np.testing.assert_allclose(model.constants, without.constants, rtol=1e-9)
    assert model.rows.sum() == 59


def test_a_row_that_is_missing_or_repeated_is_refused():
    values, terms, site = table()
    with pytest.raises(ValueError, match="row 59 0 times, expected once"):
        fit_site_model(chunks(values, 8, np.arange(59)), terms, site, 3)
    with pytest.raises(ValueError, match="row 0 2 times"):
        fit_site_model(chunks(values, 8, np.append(np.arange(60), 0)), terms, site, 3)


def peak_bytes(rows, voxels=20_000):
    random = np.random.default_rng(0)
    site, terms = np.arange(rows) % 2, random.normal(size=(rows, 1))

    def stream():
        for row in range(rows):
            yield np.array([row]), np.full((1, voxels), row, np.float32)

    tracemalloc.start()
    fit_site_model(stream, terms, site, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_rows():
    assert peak_bytes(200) < 1.1 * peak_bytes(20)
