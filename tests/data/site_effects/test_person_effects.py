"""The random effect of the person against statsmodels, dense matrices and other optimisers."""

import warnings

import numpy as np
import pytest
import scipy.optimize
import statsmodels.api

from eqpool.data.site_effects.person_effects import (
    PersonDesign,
    PersonSums,
    person_weights,
    residuals_within,
    whole_people,
)

SPREADS = np.array([0.7, 1.0, 2.0, 5.0])  # of persons, where rows of a person have 1


def scans(seed=0, people=60):
    """From one to five rows a person, in any order: (design (N, 4), values (N, 4), person (N,))."""
    random = np.random.default_rng(seed)
    person = random.permutation(np.repeat(np.arange(people), random.integers(1, 6, people)))
    rows = len(person)
    design = np.column_stack([np.eye(3)[random.integers(0, 3, rows)], random.normal(size=rows)])
    own = SPREADS * random.normal(size=(people, len(SPREADS)))
    return design, own[person] + random.normal(size=(rows, len(SPREADS))) + design @ random.normal(size=(4, 4)), person


def summed(design, values, person):
    prepared = PersonDesign.of(design, person)
    sums = PersonSums(prepared, values.shape[1])
    sums.add(np.arange(len(values)), values)
    return prepared, sums


def restricted(ratio, design, values, person):
    """Twice the negative restricted log likelihood of one feature, by dense matrices (Harville 1977)."""
    covariance = np.eye(len(person)) + ratio * (person[:, None] == person)
    inverse = np.linalg.inv(covariance)
    information = design.T @ inverse @ design
    left = values - design @ np.linalg.solve(information, design.T @ inverse @ values)
    logs = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(information)[1]
    return logs + (len(values) - design.shape[1]) * np.log(left @ inverse @ left)


def test_fixed_effects_and_variances_are_those_of_statsmodels():
    design, values, person = scans()
    prepared, sums = summed(design, values, person)
    ratio = sums.likeliest_ratio(shared=False)
    found = prepared.solution @ sums.coefficients(ratio)
    for feature in range(len(SPREADS)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = statsmodels.api.MixedLM(values[:, feature], design, groups=person).fit(reml=True, method="powell")
        assert ratio[feature] == pytest.approx(fitted.cov_re.item() / fitted.scale, rel=2e-3)
        np.testing.assert_allclose(found[:, feature], fitted.fe_params, atol=2e-3 * fitted.bse_fe.min())


def test_a_shared_ratio_maximises_the_likelihood_of_all_features():
    design, values, person = scans(1, people=25)
    shared = summed(design, values, person)[1].likeliest_ratio(shared=True)

    def score(log_ratio):
        return sum(restricted(np.exp(log_ratio), design, column, person) for column in values.T)

    best = scipy.optimize.minimize_scalar(score, bounds=(-4, 6), method="bounded", options={"xatol": 1e-8}).x
    assert shared.shape == (1,) and shared[0] == pytest.approx(np.exp(best), rel=2e-3)


def test_persons_who_do_not_resemble_themselves_have_no_effect():
    """Rows of a person lie on both sides of the mean, so that no variance is left between persons."""
    random = np.random.default_rng(0)
    person, noise = np.repeat(np.arange(30), 2), random.normal(size=(30, 3))
    values = np.stack([noise, -noise], axis=1).reshape(60, 3)
    prepared, sums = summed(np.ones((60, 1)), values, person)
    ratio = sums.likeliest_ratio(shared=False)
    np.testing.assert_array_equal(ratio, 0)
    np.testing.assert_allclose(prepared.solution @ sums.coefficients(ratio), values.mean(axis=0)[None], atol=1e-12)


def test_constant_features_are_told_apart_from_the_others():
    design, values, person = scans()
    values = np.column_stack([values, np.full(len(values), 7.0)])
    sums = summed(design, values, person)[1]
    ratio = sums.likeliest_ratio(shared=False)
    assert ratio[-1] == 0 and (ratio[:-1] > 0).all()
    without = summed(design, values[:, :-1], person)[1].likeliest_ratio(shared=True)
    np.testing.assert_allclose(sums.likeliest_ratio(shared=True), without)


def test_collinear_columns_share_their_effect():
    design, values, person = scans()
    prepared, sums = summed(np.column_stack([design, design[:, 3]]), values, person)
    plain, plain_sums = summed(design, values, person)
    found, expected = (
        one.solution @ some.coefficients(np.ones(1)) for one, some in ((prepared, sums), (plain, plain_sums))
    )
    np.testing.assert_allclose(found[3], found[4])
    np.testing.assert_allclose(found[3] + found[4], expected[3])
    np.testing.assert_allclose(found[:3], expected[:3], atol=1e-10)


def test_residuals_within_are_those_of_the_expected_random_effects():
    """Henderson's mixed-model equations, solved for the random effects themselves."""
    design, values, person = scans(2, people=20)
    prepared, sums = summed(design, values, person)
    ratio = np.array([0.3, 1.0, 4.0, 30.0])
    fitted = prepared.solution @ sums.coefficients(ratio)
    left = values - design @ fitted
    within = residuals_within(left, person, person_weights(prepared.sizes, ratio)[prepared.size_of_row])
    member = np.eye(20)[person]
    for feature, one in enumerate(ratio):
        whole = np.column_stack([design, member])
        penalty = np.diag([0] * 4 + [1 / one] * 20)
        solved = np.linalg.solve(whole.T @ whole + penalty, whole.T @ values[:, feature])
        np.testing.assert_allclose(solved[:4], fitted[:, feature], atol=1e-10)
        np.testing.assert_allclose(within[:, feature], values[:, feature] - whole @ solved, atol=1e-10)


def test_rows_of_a_person_come_together_whatever_the_chunks():
    person = np.array([0, 1, -1, 0, 2, 1, 0])
    values = np.arange(7.0)[:, None]
    order = np.array([4, 0, 1, 2, 3, 5, 6])
    stream = [(order[start : start + 2], values[order[start : start + 2]]) for start in range(0, 7, 2)]
    chunks = list(whole_people(stream, person))
    for rows, given in chunks:
        np.testing.assert_array_equal(given[:, 0], rows)
        for one in np.unique(person[rows]):
            assert (person[rows] == one).sum() == (person == one).sum()
    assert sorted(np.concatenate([rows for rows, _ in chunks])) == [0, 1, 3, 4, 5, 6]
