"""The parts of the calibration against explicit forms: generalised least squares, restricted likelihood, folds."""

import numpy as np
import pytest
import scipy.optimize
import statsmodels.api

from eqpool.data.tables.calibration.covariance import Whitening, choose_covariance
from eqpool.data.tables.calibration.regression import fit_sites
from eqpool.data.tables.calibration.shrinkage import ShiftPrior, VariancePrior, feature_variances, log_variances


def test_the_regression_is_generalised_least_squares_with_a_random_effect_of_the_person():
    generator = np.random.default_rng(0)
    person = np.sort(generator.integers(0, 25, 60))
    person = np.unique(person, return_inverse=True)[1]
    number, age = generator.integers(0, 3, 60), generator.normal(size=(60, 1))
    rows = generator.normal(size=(25, 4))[person] + 0.5 * generator.normal(size=(60, 4)) + age
    rows[:, 1] += generator.normal(size=25)[person]
    fitted = fit_sites(age, number, person, rows)
    assert fitted.correlation.min() > 0.5 and fitted.correlation.max() < 0.98  # 0.8 and 0.89 were planted
    design, contrast = np.column_stack([age, number[:, None] == np.arange(3)]), np.eye(3) - np.bincount(number) / 60
    for feature, correlation in enumerate(fitted.correlation):
        covariance = (1 - correlation) * np.eye(60) + correlation * (person[:, None] == person)
        expected = statsmodels.api.GLS(rows[:, feature], design, sigma=covariance).fit()
        found = np.append(fitted.effects[:, feature], fitted.means[:, feature])
        np.testing.assert_allclose(found, expected.params, atol=1e-9)
        spread = contrast @ expected.normalized_cov_params[1:, 1:] @ contrast.T
        np.testing.assert_allclose(fitted.errors[:, feature], np.diag(spread), rtol=1e-6)


def test_without_repeats_it_is_least_squares():
    generator = np.random.default_rng(1)
    number, age, rows = np.arange(40) % 2, generator.normal(size=(40, 1)), generator.normal(size=(40, 3))
    fitted = fit_sites(age, number, np.arange(40), rows)
    expected = np.linalg.lstsq(np.column_stack([age, number == 0, number == 1]), rows, rcond=None)[0]
    np.testing.assert_allclose(np.concatenate([fitted.effects, fitted.means]), expected)
    assert not fitted.correlation.any() and fitted.rows.tolist() == [20, 20]


def test_between_site_variances_maximise_the_restricted_likelihood():
    generator = np.random.default_rng(2)
    errors = generator.uniform(0.01, 0.3, (12, 1))
    effects = 0.7 + np.sqrt(0.25 + errors) * generator.normal(size=(12, 1))

    def negative(log_variance: float) -> float:
        total = np.exp(log_variance) + errors[:, 0]
        mean = np.sum(effects[:, 0] / total) / np.sum(1 / total)
        return 0.5 * (np.sum(np.log(total) + (effects[:, 0] - mean) ** 2 / total) + np.log(np.sum(1 / total)))

    best = scipy.optimize.minimize_scalar(negative, bounds=(-10, 4), method="bounded").x
    found = feature_variances(effects, errors)
    assert np.log(found[0]) == pytest.approx(best, abs=0.3)  # steps of the grid
    prior = ShiftPrior.fit(effects, errors)
    weights = 1 / (found + errors)
    np.testing.assert_allclose(prior.centre, np.sum(weights * effects, axis=0) / weights.sum())


@pytest.mark.parametrize(("spread", "kept"), [(0.0, 0.3), (0.5, 0.8)])
def test_log_variances_are_kept_as_far_as_sites_differ(spread, kept):
    """Half of the planted spread is shared by all features of a site."""
    generator = np.random.default_rng(3)
    truth = spread * (generator.normal(size=(30, 1)) + generator.normal(size=(30, 40)))
    number = np.repeat(np.arange(30), 25)
    rows = generator.normal(size=(750, 40)) * np.exp(truth / 2)[number]
    for site in range(30):
        rows[number == site] -= rows[number == site].mean(axis=0)
    logs = log_variances(rows, number, 30)
    prior = VariancePrior.fit(logs, np.full(30, 25.0), rows)
    shrunk = np.stack([prior.shrink(one, 25.0) for one in logs])
    truth = truth - truth.mean(axis=0)
    error, before = (np.mean((one - one.mean(axis=0) - truth) ** 2) for one in (shrunk, logs))
    assert error < kept * before
    np.testing.assert_array_equal(prior.shrink(logs[0], 1.0), 0)  # a single row shows no variance


@pytest.mark.parametrize("kind", ["none", "directions", "turned"])
def test_the_covariance_is_as_free_as_held_out_rows_support(kind):
    generator = np.random.default_rng(4)
    number = np.repeat([0, 1], 400)
    rows = generator.normal(size=(800, 12)) * np.linspace(0.5, 3, 12)
    if kind == "directions":
        rows[400:] *= np.linspace(2, 0.5, 12)
    if kind == "turned":
        basis = np.linalg.qr(generator.normal(size=(12, 12)))[0]
        rows[400:] = (rows[400:] / np.linspace(0.5, 3, 12)) @ basis * np.geomspace(0.3, 3, 12) @ basis.T
        rows[400:] *= rows[:400].std(axis=0) / rows[400:].std(axis=0)
    rows[:400] -= rows[:400].mean(axis=0)
    rows[400:] -= rows[400:].mean(axis=0)
    chosen = choose_covariance(rows, number, np.arange(800))
    assert chosen.directions == (kind != "none")
    assert chosen.prior_rows <= 2.4 * 12 if kind == "turned" else chosen.prior_rows >= 8 * 12
    assert (max(chosen.gains.values()) > 0.1) == (kind != "none")


def test_a_persons_rows_share_a_fold():
    """Copies of a person in other folds would make any covariance of a site look good."""
    generator = np.random.default_rng(5)
    person = np.tile(np.arange(40), 4)
    number, rows = person % 2, generator.normal(size=(40, 15))[person]
    for site in (0, 1):
        rows[number == site] -= rows[number == site].mean(axis=0)
    blind, knowing = (choose_covariance(rows, number, one) for one in (np.arange(160), person))
    assert blind.any and not knowing.any


def test_the_whitening_of_some_features_is_that_of_their_covariance():
    generator = np.random.default_rng(6)
    rows, effects = generator.normal(size=(200, 5)) @ generator.normal(size=(5, 5)), generator.normal(size=(1, 5))
    columns = np.array([True, False, True, True, True])
    part, whole = Whitening.fit(rows, effects).take(columns), Whitening.fit(rows[:, columns], effects[:, columns])
    for name in ("covariance", "whitening", "unwhitening"):
        np.testing.assert_allclose(getattr(part, name), getattr(whole, name), atol=1e-9)
    np.testing.assert_allclose(np.abs(part.kept), np.abs(whole.kept), atol=1e-9)
