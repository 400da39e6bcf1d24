"""Calibration on planted scanner effects: undone on rows that were not seen, covariates and target kept."""

import numpy as np
import pytest
import scipy.linalg

from eqpool.data.tables.calibration import SiteCalibration

FEATURES = 6


def planted(rows: int = 3000, seed: int = 0, ages=((20, 50), (40, 80))):
    """Two scanners, one of which shifts, scales and mixes features; ages that differ between them."""
    generator = np.random.default_rng(seed)
    number = np.arange(rows) % 2
    low, high = np.array(ages).T
    age = generator.uniform(low[number], high[number])
    effect = np.linspace(-1, 1, FEATURES)
    truth = generator.normal(size=(rows, FEATURES)) + np.outer((age - 45) / 20, effect)
    mixing = np.eye(FEATURES) + 0.3 * np.random.default_rng(9).normal(size=(FEATURES, FEATURES))
    noise = truth - np.outer((age - 45) / 20, effect)
    seen = np.where(number[:, None] == 1, truth + noise @ (mixing - np.eye(FEATURES)) + 0.8, truth)
    return seen, np.array(["A", "B"])[number], age[:, None], truth


def left_over(features, age):
    design = np.column_stack([np.ones(len(age)), age])
    return features - design @ np.linalg.lstsq(design, features, rcond=None)[0]


def test_new_rows_of_both_sites_look_alike():
    seen, site, age, _ = planted()
    calibration = SiteCalibration.fit(seen, site, age, prior_rows=1.0)
    new, new_site, new_age, _ = planted(seed=1)
    calibrated = calibration.apply(new, new_site)
    assert calibrated.dtype == np.float32
    rest = left_over(calibrated.astype(np.float64), new_age)
    before = left_over(new, new_age)
    for name in ("A", "B"):
        assert np.abs(rest[new_site == name].mean(axis=0)).max() < 0.12
    gap, gap_before = (
        np.abs(np.cov(values[new_site == "A"].T) - np.cov(values[new_site == "B"].T)).max() for values in (rest, before)
    )
    assert gap < 0.35 * gap_before
    means = [
        np.abs(values[new_site == "A"].mean(0) - values[new_site == "B"].mean(0)).max() for values in (rest, before)
    ]
    assert means[0] < 0.4 * means[1]


def test_the_age_effect_stays_and_is_that_of_the_truth():
    seen, site, age, truth = planted()
    calibrated = SiteCalibration.fit(seen, site, age, prior_rows=1.0).apply(seen, site)
    design = np.column_stack([np.ones(len(age)), age])
    slopes = [np.linalg.lstsq(design, values, rcond=None)[0][1] for values in (calibrated, truth)]
    np.testing.assert_allclose(slopes[0], slopes[1], atol=0.01)


def test_the_discriminant_of_the_covariate_is_moved_but_not_turned():
    seen, site, age, _ = planted()
    calibration = SiteCalibration.fit(seen, site, age, prior_rows=1.0)
    assert calibration.kept.shape == (FEATURES, 1)
    for effect in calibration.sites.values():
        turn = calibration.unwhitening @ effect.transport @ calibration.whitening
        np.testing.assert_allclose(turn @ calibration.kept, calibration.kept, atol=1e-8)
        np.testing.assert_allclose(turn, turn.T, atol=1e-8)


def test_the_transport_is_the_optimal_one_between_gaussians():
    generator = np.random.default_rng(0)
    site = np.repeat(["A", "B"], 500)
    rows = generator.normal(size=(1000, 3)) @ np.diag([1, 2, 3])
    rows[500:] = rows[500:] @ scipy.linalg.expm(generator.normal(size=(3, 3)) / 3)
    calibration = SiteCalibration.fit(rows, site, np.zeros((1000, 0)), prior_rows=0.0)
    calibrated = calibration.apply(rows, site)
    target = calibration.unwhitening @ calibration.unwhitening
    for name in ("A", "B"):
        np.testing.assert_allclose(np.cov(calibrated[site == name].T), target, rtol=1e-4, atol=1e-4)
    # In whitened space it is the symmetric root, Monge's map between Gaussians (Dowson and Landau 1982).
    whitened = rows[site == "A"] @ calibration.whitening
    expected = np.linalg.inv(scipy.linalg.sqrtm(np.cov(whitened.T)))
    found = calibration.unwhitening @ calibration.sites["A"].transport @ calibration.whitening
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_infinite_prior_rows_correct_means_alone():
    seen, site, age, _ = planted(400)
    calibration = SiteCalibration.fit(seen, site, age, prior_rows=np.inf)
    change = calibration.apply(seen, site) - seen
    for name in ("A", "B"):
        np.testing.assert_allclose(
            change[site == name], np.broadcast_to(change[site == name][0], (200, FEATURES)), atol=1e-5
        )


def test_a_site_of_one_row_is_moved_a_quarter_of_the_way():
    seen, site, age, _ = planted(401)
    site = site.astype(object)
    site[400] = "C"
    calibration = SiteCalibration.fit(seen, site.astype(str), age)
    effect = calibration.sites["C"]
    assert effect.rows == 1
    np.testing.assert_allclose(effect.transport, np.eye(FEATURES), atol=1e-12)
    residual = seen[400] - calibration.design.apply(age[400:])[0] @ calibration.effects - calibration.level
    np.testing.assert_allclose(effect.shift, residual / 4, atol=1e-9)


def test_rows_without_a_known_site_get_that_of_the_nearest():
    seen, site, age, _ = planted(ages=((20, 80), (20, 80)))
    seen[site == "B"] += 6.0
    calibration = SiteCalibration.fit(seen, site, age)
    unknown = np.full(len(site), "")
    np.testing.assert_array_equal(calibration.nearest(seen), site)
    np.testing.assert_array_equal(calibration.apply(seen, unknown), calibration.apply(seen, site))


def test_training_rows_without_a_site_are_left_out_of_the_fit():
    seen, site, age, _ = planted(200)
    hidden = np.where(np.arange(200) < 20, "", site)
    with_hidden, without = SiteCalibration.fit(seen, hidden, age), SiteCalibration.fit(seen[20:], site[20:], age[20:])
    np.testing.assert_array_equal(with_hidden.apply(seen, site), without.apply(seen, site))


def test_a_new_site_is_learnt_from_a_few_rows():
    seen, site, age, _ = planted()
    calibration = SiteCalibration.fit(seen, site, age)
    new, _, new_age, truth = planted(400, seed=3, ages=((60, 80), (60, 80)))
    new = truth + 2.5
    updated = calibration.with_site("C", new[:30], new_age[:30])
    assert list(calibration.sites) == ["A", "B"] and list(updated.sites) == ["A", "B", "C"]
    calibrated = updated.apply(new[30:], np.full(370, "C"))
    expected = calibration.level + calibration.design.apply(new_age[30:]) @ calibration.effects
    assert np.abs((calibrated - expected).mean(axis=0)).max() < 0.6  # of 2.5 and of ages that no site had alone
    assert np.abs((new[30:] - expected).mean(axis=0)).min() > 1.5


def test_the_target_is_kept():
    generator = np.random.default_rng(0)
    site = np.repeat(["A", "B"], 500)
    ill = generator.random(1000) < np.where(site == "A", 0.8, 0.2)
    rows = generator.normal(size=(1000, 4)) + 2.0 * ill[:, None]
    target = ill[:, None].astype(float)
    target[::10] = np.nan
    calibration = SiteCalibration.fit(rows, site, np.zeros((1000, 0)), target)
    calibrated = calibration.apply(rows, site)
    for name in ("A", "B"):
        here = site == name
        gap = calibrated[here & ill].mean(axis=0) - calibrated[here & ~ill].mean(axis=0)
        np.testing.assert_allclose(gap, 2.0, atol=0.3)
    without = SiteCalibration.fit(rows, site, np.zeros((1000, 0))).apply(rows, site)
    moved = [np.abs((values - rows)[site == "A"].mean(axis=0)).mean() for values in (calibrated, without)]
    assert moved[0] < 0.3 * moved[1]  # without it, the target's share at a site would be taken for the scanner's doing


def test_arrays_carry_all_of_it():
    seen, site, age, _ = planted(300)
    calibration = SiteCalibration.fit(seen, site, age)
    again = SiteCalibration.from_arrays(calibration.to_arrays())
    np.testing.assert_array_equal(again.apply(seen, site), calibration.apply(seen, site))
    np.testing.assert_array_equal(again.nearest(seen), calibration.nearest(seen))


def test_without_any_known_site():
    with pytest.raises(ValueError, match="every row's site is unknown"):
        SiteCalibration.fit(np.zeros((3, 2)), np.array(["", "", ""]), np.zeros((3, 0)))
