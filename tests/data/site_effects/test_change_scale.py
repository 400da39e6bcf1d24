"""The scale of the networks' change, on data whose truth is known."""

import numpy as np
import pytest
import statsmodels.api as sm

from eqpool.data.site_effects.change_scale import (
    MOST_FEATURES,
    choose_change_scale,
    given_change_scale,
    is_measurable,
    measured_features,
)

FEATURES = 60


def made_up(rows=90, sites=3, effect=0.8, seed=0):
    """Returns truth, site effect (N, F), site (N,) and kept columns (N, 2): age, which differs, and diagnosis."""
    generator = np.random.default_rng(seed)
    site = np.arange(rows) % sites
    age, diagnosis = generator.normal(size=rows) + 0.5 * site, generator.integers(0, 2, rows)
    kept = np.column_stack([age, diagnosis]).astype(float)
    truth = generator.normal(size=(rows, FEATURES)) + kept @ generator.normal(size=(2, FEATURES)) * 0.5
    offsets = effect * generator.normal(size=(sites, FEATURES))
    return truth, (offsets - offsets.mean(axis=0))[site], site, kept


def error(truth: np.ndarray, values: np.ndarray) -> float:
    difference = values - truth
    return float(np.mean((difference - difference.mean(axis=0)) ** 2))


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_a_change_that_removes_the_site_is_kept(share):
    truth, effect, site, kept = made_up()
    chosen = choose_change_scale(truth + effect, -share * effect, site, kept)
    assert chosen.scale > 0.95
    assert chosen.site_after < 0.3 * chosen.site_before
    assert error(truth, truth + effect - chosen.scale * share * effect) < error(truth, truth + effect)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["noise", "age", "diagnosis", "shrinking", "site"])
def test_a_harmful_change_is_scaled_to_nothing(kind, seed):
    truth, effect, site, kept = made_up(effect=0.0 if kind != "site" else 0.8, seed=seed)
    generator = np.random.default_rng(seed + 100)
    change = {
        "noise": 0.3 * generator.normal(size=truth.shape),
        "age": -0.3 * kept[:, :1] * generator.normal(size=FEATURES),
        "diagnosis": -0.3 * kept[:, 1:] * generator.normal(size=FEATURES),
        "shrinking": -0.5 * (truth - truth.mean(axis=0)),
        "site": 0.5 * effect,
    }[kind]
    chosen = choose_change_scale(truth + effect, change, site, kept)
    assert chosen.scale == 0
    assert "not applied" in chosen.note


@pytest.mark.parametrize("seed", range(3))
def test_the_scale_is_near_the_best_for_the_truth(seed):
    """A change that removes the site and adds noise within sites: the error to the truth is a parabola, known here."""
    truth, effect, site, kept = made_up(rows=300, seed=seed)
    noise = np.random.default_rng(seed + 7).normal(size=truth.shape)
    change = -effect + 0.8 * noise
    chosen = choose_change_scale(truth + effect, change, site, kept).scale
    scales = np.linspace(0, 1, 101)
    best = scales[np.argmin([error(truth, truth + effect + scale * change) for scale in scales])]
    assert 0.2 < best < 0.8
    assert abs(chosen - best) < 0.07


def test_the_mean_squares_are_unbiased():
    """Over many draws without a site effect, "site before" is 0 on average, and with one it is the effect's own."""
    for size in (0.0, 0.6):
        draws = [made_up(rows=40, effect=size, seed=seed) for seed in range(60)]
        found = [choose_change_scale(t + e, -e, site, kept).site_before for t, e, site, kept in draws]
        true = [np.mean((e - e.mean(axis=0)) ** 2) for _, e, _, _ in draws]
        assert abs(np.mean(found) - np.mean(true)) < 4 * np.std(found) / np.sqrt(60) + 1e-3


def test_mean_squares_against_a_regression_of_one_feature():
    truth, effect, site, kept = made_up()
    values = (truth + effect)[:, :1]
    fitted = sm.OLS(values[:, 0], np.column_stack([site[:, None] == [0, 1, 2], kept])).fit()
    offsets = fitted.params[:3][site]
    covariance = fitted.cov_params()[:3, :3]
    centred = np.eye(3)[site] - np.eye(3)[site].mean(axis=0)
    bias = np.trace(centred @ covariance @ centred.T) / len(site)
    expected = np.var(offsets) - bias
    assert choose_change_scale(values, np.zeros_like(values), site, kept).site_before == pytest.approx(expected)


def test_rows_of_unknown_site_do_not_count():
    truth, effect, site, kept = made_up()
    whole = choose_change_scale(truth + effect, -effect, site, kept)
    more = [np.concatenate([part, 1e6 + part[:4]]) for part in (truth + effect, -effect)]
    widened = choose_change_scale(*more, np.append(site, [-1] * 4), np.concatenate([kept, kept[:4]]))
    assert widened.scale == whole.scale and widened.rows == whole.rows == 90


@pytest.mark.parametrize(
    ("site", "kept"),
    [
        (np.zeros(20, int), np.zeros((20, 1))),  # one site
        (np.full(20, -1), np.zeros((20, 1))),  # none known
        (np.arange(3), np.zeros((3, 1))),  # nothing left to estimate the noise with
        (np.repeat([0, 1], 10), np.repeat([0.0, 1.0], 10)[:, None]),  # age is the site
    ],
)
def test_rows_that_measure_nothing(site, kept):
    assert not is_measurable(site, kept)
    with pytest.raises(ValueError, match="fewer than two sites"):
        choose_change_scale(np.zeros((len(site), 2)), np.zeros((len(site), 2)), site, kept)


def test_a_given_scale_is_only_noted():
    assert given_change_scale(0.5).scale == 0.5 and "0.5" in given_change_scale(0.5).note


def test_few_voxels_of_many_are_measured():
    assert np.array_equal(measured_features(7), np.arange(7))
    many = measured_features(200_000)
    assert len(many) == MOST_FEATURES and many[0] == 0 and many[-1] == 199_999
