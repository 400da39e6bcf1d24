import tracemalloc

import numpy as np
import pytest
import statsmodels.api

from eqpool.data.site_effects.moments import by_person, fit_site_model


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


def repeated(seed=0, people=40):
    """Up to three rows a person, some of them at another site."""
    random = np.random.default_rng(seed)
    subject = random.permutation(np.repeat([f"p{one}" for one in range(people)], random.integers(1, 4, people)))
    values, terms, site = table(len(subject), seed=seed)
    own = {one: 2 * random.normal(size=4) for one in np.unique(subject)}
    return values + np.stack([own[one] for one in subject]), terms, site, subject


def test_repeated_rows_are_fitted_by_generalised_least_squares():
    values, terms, site, subject = repeated()
    model = fit_site_model(chunks(values, 9), terms, site, 3, subject)
    design, same = np.column_stack([np.eye(3)[site], terms]), subject[:, None] == subject
    for feature, ratio in enumerate(model.ratio):
        covariance = np.eye(len(site)) + ratio * same
        expected = statsmodels.api.GLS(values[:, feature], design, sigma=covariance).fit()
        np.testing.assert_allclose(model.constants[:, feature], expected.params[:3], atol=1e-9)
        np.testing.assert_allclose(model.coefficients[:, feature], expected.params[3:], atol=1e-9)
        left = values[:, feature] - design @ expected.params
        within = np.linalg.solve(covariance, left)  # less the expected random effects
        for index in range(3):
            here = site == index
            np.testing.assert_allclose(model.residual_squares[index, feature], left[here] @ left[here])
            np.testing.assert_allclose(model.within_squares[index, feature], within[here] @ within[here])
            shown = np.diag(np.linalg.inv(covariance))[here].sum()
            np.testing.assert_allclose(model.within_rows[index, feature], shown)
            known = np.linalg.inv(covariance)[np.ix_(here, here)].sum()
            np.testing.assert_allclose(model.information[index, feature], known)


def test_what_squares_are_expected_is_what_they_are_on_average():
    """Rows of one to three a person within a site, whose variances between and within persons are 4 and 1."""
    random = np.random.default_rng(0)
    counts = random.integers(1, 4, 30)
    subject, site = np.repeat(np.arange(30), counts), np.repeat(np.arange(30) % 2, counts)
    own = 2 * random.normal(size=(30, 4000))
    values = own[subject] + random.normal(size=(len(subject), 4000))
    model = fit_site_model(chunks(values, 8), np.zeros((len(site), 0)), site, 2, subject, shared_ratio=True)
    assert model.ratio[0] == pytest.approx(4, rel=0.03)
    np.testing.assert_allclose(model.within_squares.mean(axis=1), model.freedom[:, 0], rtol=0.03)
    np.testing.assert_allclose(model.residual_squares.mean(axis=1), 5 * model.expected_squares[:, 0], rtol=0.05)


def test_persons_of_one_row_change_nothing():
    values, terms, site = table()
    plain = fit_site_model(chunks(values, 7), terms, site, 3)
    named = fit_site_model(chunks(values, 7), terms, site, 3, np.array([f"p{row}" for row in range(60)]))
    for one, other in zip(plain, named, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(plain.freedom[:, 0], plain.rows - 1)
    np.testing.assert_array_equal(plain.expected_squares[:, 0], plain.rows - 1)


@pytest.mark.parametrize("shared_ratio", [False, True])
def test_repeated_rows_in_chunks_of_any_order_give_the_same_fit(shared_ratio):
    values, terms, site, subject = repeated()
    site[3] = -1
    rows = len(site)
    whole = fit_site_model(chunks(values, rows), terms, site, 3, subject, shared_ratio=shared_ratio)
    for order in (np.random.default_rng(1).permutation(rows), by_person(np.arange(rows), subject)):
        parts = fit_site_model(chunks(values, 5, order), terms, site, 3, subject, shared_ratio=shared_ratio)
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-10)
    with pytest.raises(ValueError, match="row 7 0 times, expected once"):
        fit_site_model(chunks(values, 5, np.delete(np.arange(rows), 7)), terms, site, 3, subject)
    with pytest.raises(ValueError, match="row 0 2 times"):
        fit_site_model(chunks(values, 5, np.append(np.arange(rows), 0)), terms, site, 3, subject)
    with pytest.raises(ValueError, match="row 0 0 times"):
        fit_site_model(lambda: [], terms, site, 3, subject)


def test_an_offset_costs_no_digits():
    values, terms, site, subject = repeated()
    plain = fit_site_model(chunks(values, 7), terms, site, 3, subject)
    moved = fit_site_model(chunks(1e6 + values, 7), terms, site, 3, subject)
    np.testing.assert_allclose(moved.ratio, plain.ratio, rtol=1e-5)
    np.testing.assert_allclose(moved.constants - 1e6, plain.constants, atol=1e-6)


def test_the_rows_of_a_person_are_put_in_sequence():
    subject = np.array(["b", "a", "b", "c", "a"])
    assert by_person(np.array([0, 1, 2, 4]), subject).tolist() == [0, 2, 1, 4]
    assert by_person(np.array([3, 1]), None).tolist() == [3, 1]


def peak_bytes(rows, voxels=20_000, subject=None):
    random = np.random.default_rng(0)
    site, terms = np.arange(rows) % 2, random.normal(size=(rows, 1))

    def stream():
        for row in range(rows):
            yield np.array([row]), np.full((1, voxels), row * row % 7, np.float32)

    tracemalloc.start()
    fit_site_model(stream, terms, site, 2, subject, shared_ratio=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_rows():
    assert peak_bytes(200) < 1.1 * peak_bytes(20)
    many, few = (peak_bytes(rows, subject=np.arange(rows) // 2) for rows in (200, 20))
    assert many < 1.1 * few
