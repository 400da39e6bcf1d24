"""Calibration on planted scanner effects: undone on rows that were not seen, covariates and target kept."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from eqpool.data.tables.calibration import SiteCalibration
from eqpool.errors import InputError

FEATURES = 6
SHIFT = np.linspace(0.4, 1.2, FEATURES)
SCALE = np.linspace(1.1, 1.6, FEATURES)


def planted(rows: int = 2000, seed: int = 0, ages=((20, 60), (40, 80))):
    """Two scanners, the second of which shifts and scales features; ages that differ between them."""
    generator = np.random.default_rng(seed)
    number = np.arange(rows) % 2
    low, high = np.array(ages).T
    age = generator.uniform(low[number], high[number])
    noise = generator.normal(size=(rows, FEATURES)) + 0.7 * generator.normal(size=(rows, 1))
    truth = noise + np.outer((age - 50) / 20, np.linspace(-1, 1, FEATURES))
    seen = np.where(number[:, None] == 1, SHIFT + SCALE * truth, truth)
    return seen, np.array(["A", "B"])[number], age[:, None], truth


def left_over(features, age):
    design = np.column_stack([np.ones(len(age)), age])
    return features - design @ np.linalg.lstsq(design, features, rcond=None)[0]


@pytest.mark.parametrize("method", ["auto", "covariance", "location_scale"])
def test_new_rows_come_back_as_the_reference_would_have_measured_them(method):
    seen, site, age, _ = planted()
    calibration = SiteCalibration.fit(seen, site, age, method=method, reference="A")
    new, new_site, _, truth = planted(seed=1)
    calibrated = calibration.apply(new, new_site)
    assert calibrated.dtype == np.float32
    np.testing.assert_array_equal(calibrated[new_site == "A"], new[new_site == "A"].astype(np.float32))
    error, before = (np.sqrt(np.mean((values - truth)[new_site == "B"] ** 2)) for values in (calibrated, new))
    assert before > 1.0 and error < 0.15
    np.testing.assert_allclose(
        calibration.sites["B"].scale / calibration.sites["A"].scale, SCALE, rtol=0.08
    )  # slopes and noise show one scale


def test_auto_does_not_turn_what_is_only_shifted_and_scaled():
    seen, site, age, _ = planted()
    told = SiteCalibration.fit(seen, site, age).describe()
    assert told["covariance"] == "shared covariance" and told["covariance_gains"]["shared covariance"] == 0
    assert told["scale"]["B"] / told["scale"]["A"] == pytest.approx(np.exp(np.log(SCALE).mean()), rel=0.05)


def test_auto_finds_variances_of_directions_where_rows_show_them():
    generator = np.random.default_rng(0)
    site = np.repeat(["A", "B"], 300)
    rows = generator.normal(size=(600, 30)) + 2.0 * generator.normal(size=(600, 1))
    rows[300:] += 0.9 * generator.normal(size=(300, 30))  # noise that features do not share
    calibration = SiteCalibration.fit(rows, site, np.zeros((600, 0)))
    assert calibration.shared.choice.directions
    assert "a variance a direction" in calibration.summary()
    new = generator.normal(size=(4000, 30)) + 2.0 * generator.normal(size=(4000, 1))
    noisy = new + 0.9 * generator.normal(size=(4000, 30))
    plain = SiteCalibration.fit(rows, site, np.zeros((600, 0)), method="location_scale")
    gaps = []
    for one in (calibration, plain):
        first, second = one.apply(new, np.full(4000, "A")), one.apply(noisy, np.full(4000, "B"))
        own = [np.var(values - values.mean(axis=1, keepdims=True)) for values in (first, second)]
        gaps.append(abs(np.log(own[1] / own[0])))
    assert gaps[1] > 0.3 and gaps[0] < 0.3 * gaps[1]


def test_the_age_effect_stays_and_is_that_of_the_truth():
    seen, site, age, truth = planted()
    calibrated = SiteCalibration.fit(seen, site, age, reference="A").apply(seen, site)
    design = np.column_stack([np.ones(len(age)), age])
    slopes = [np.linalg.lstsq(design, values, rcond=None)[0][1] for values in (calibrated, truth)]
    np.testing.assert_allclose(slopes[0], slopes[1], atol=0.004)  # of 0.05 a year


def test_the_direction_of_the_covariate_is_scaled_but_not_turned():
    seen, site, age, _ = planted()
    calibration = SiteCalibration.fit(seen, site, age, method="covariance", prior_rows=1.0)
    whitening = calibration.shared.whitening
    assert whitening.kept.shape == (FEATURES, 1)
    for effect in calibration.sites.values():
        turn = whitening.unwhitening @ (effect.scale[:, None] * effect.transport) @ whitening.whitening
        np.testing.assert_allclose(turn @ whitening.kept, whitening.kept, atol=1e-8)
        np.testing.assert_allclose(turn, turn.T, atol=1e-8)


def test_the_transport_is_the_optimal_one_between_gaussians():
    generator = np.random.default_rng(0)
    site = np.repeat(["A", "B"], 500)
    rows = generator.normal(size=(1000, 3)) @ np.diag([1, 2, 3])
    rows[500:] = rows[500:] @ scipy.linalg.expm(generator.normal(size=(3, 3)) / 3)
    calibration = SiteCalibration.fit(rows, site, np.zeros((1000, 0)), method="covariance", prior_rows=0.0)
    calibrated = calibration.apply(rows, site)
    whitening, effect = calibration.shared.whitening, calibration.sites["A"]
    for name in ("A", "B"):
        covariance = np.cov(calibrated[site == name].T, bias=True)
        np.testing.assert_allclose(covariance, whitening.covariance, rtol=1e-4, atol=1e-4)
    # In whitened space it is the symmetric root, Monge's map between Gaussians (Dowson and Landau 1982).
    whitened = rows[site == "A"] / effect.scale @ whitening.whitening
    expected = np.linalg.inv(scipy.linalg.sqrtm(np.cov(whitened.T, bias=True)))
    found = whitening.unwhitening @ (effect.scale[:, None] * effect.transport) @ whitening.whitening
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_location_corrects_means_alone():
    seen, site, age, _ = planted(400)
    calibration = SiteCalibration.fit(seen, site, age, method="location")
    change = calibration.apply(seen, site) - seen
    for name in ("A", "B"):
        np.testing.assert_allclose(
            change[site == name], np.broadcast_to(change[site == name][0], (200, FEATURES)), atol=1e-5
        )


def test_a_site_of_one_row_is_moved_by_the_posterior_mean():
    seen, site, age, _ = planted(400)
    calibration = SiteCalibration.fit(seen, site, age)
    row, row_age = seen[7:8] + 1.5, age[7:8]
    effect = calibration.with_site("C", row, row_age).sites["C"]
    assert effect.rows == 1
    np.testing.assert_allclose(effect.transport, np.eye(FEATURES), atol=1e-12)
    shared = calibration.shared
    residual = (row - calibration.expected(row_age))[0]
    # The posterior of a normal mean, from precisions (Gelman et al. 2013, eq. 3.13).
    precisions = [np.linalg.inv(one) for one in (shared.shift_prior.covariance, shared.whitening.covariance)]
    weighted = precisions[0] @ shared.shift_prior.centre + precisions[1] @ residual
    np.testing.assert_allclose(effect.shift, np.linalg.solve(sum(precisions), weighted), rtol=1e-6)
    assert np.abs(effect.shift - shared.shift_prior.centre).max() < np.abs(residual).max()


def test_a_new_site_is_learnt_from_one_to_hundreds_of_rows():
    seen, site, age, _ = planted()
    calibration = SiteCalibration.fit(seen, site, age, reference="A")
    _, _, new_age, truth = planted(800, seed=3, ages=((60, 80), (60, 80)))
    new = 0.8 + 1.3 * truth
    errors = []
    for count in (1, 20, 400):
        updated = calibration.with_site("C", new[:count], new_age[:count])
        assert list(calibration.sites) == ["A", "B"] and list(updated.sites) == ["A", "B", "C"]
        errors.append(np.sqrt(np.mean((updated.apply(new[400:], np.full(400, "C")) - truth[400:]) ** 2)))
    assert errors[2] < 0.12 and errors[2] < errors[1] < errors[0]
    assert errors[0] < np.sqrt(np.mean((new[400:] - truth[400:]) ** 2))


def test_a_new_site_like_the_others_is_left_almost_alone():
    generator = np.random.default_rng(0)
    site = np.repeat(list("ABCDEFGH"), 100)
    rows = generator.normal(size=(800, 20))  # no scanner has an effect
    calibration = SiteCalibration.fit(rows, site, np.zeros((800, 0)))
    for count in (1, 10):
        new = generator.normal(size=(count, 20))
        effect = calibration.with_site("new", new, np.zeros((count, 0))).sites["new"]
        assert np.abs(effect.shift).max() < 0.1 * np.abs(new.mean(axis=0)).max()
        assert np.abs(np.log(effect.scale)).max() < 0.1


def test_rows_without_a_known_site_get_the_correction_of_the_one_they_look_like():
    seen, site, age, _ = planted(ages=((20, 80), (20, 80)))
    seen[site == "B"] += 9.0
    calibration = SiteCalibration.fit(seen, site, age)
    unknown = np.full(len(site), "")
    weights = calibration.posterior(seen)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert np.median(weights[site == "B", 1]) > 0.99
    apart, before = (
        np.abs(values - calibration.apply(seen, site)) for values in (calibration.apply(seen, unknown), seen)
    )
    assert apart.mean() < 0.02 * before.mean()


def test_the_posterior_is_that_of_normal_densities():
    seen, site, age, _ = planted(600)
    calibration = SiteCalibration.fit(seen, site, age, method="location_scale")
    population, shared = calibration.population, calibration.shared
    for covariates in (None, age[:5]):
        found = calibration.posterior(seen[:5], covariates)
        for row in range(5):
            mean = population.mean if covariates is None else calibration.expected(age[row : row + 1])[0]
            covariance = population.covariance + (population.terms if covariates is None else 0)
            logs = []
            for effect in calibration.sites.values():  # the density of scaled and shifted rows
                spread = covariance * np.outer(effect.scale, effect.scale)
                centre = effect.centre + effect.scale * (mean - effect.target)
                logs.append(scipy.stats.multivariate_normal(centre, spread).logpdf(seen[row]))
            prior = shared.shift_prior
            logs.append(
                scipy.stats.multivariate_normal(mean + prior.centre, covariance + prior.covariance).logpdf(seen[row])
            )
            expected = scipy.special.softmax(np.array(logs) / population.temperature + np.log([0.45, 0.45, 0.1]))
            np.testing.assert_allclose(found[row], expected, atol=1e-6)


def test_old_people_are_not_taken_for_rows_of_the_older_site():
    """The sites' scanners are alike and their ages are not, so that nothing but age could point to a site."""
    generator = np.random.default_rng(0)
    number = np.arange(1000) % 2
    age = generator.uniform(20, 45, 1000) + 35 * number
    rows = generator.normal(size=(1000, FEATURES)) - 2 * np.outer((age - 50) / 20, np.ones(FEATURES))
    calibration = SiteCalibration.fit(rows, np.array(["young", "old"])[number], age[:, None])
    old = age > 60
    weights = calibration.posterior(rows[old])
    known = weights[:, :2] / weights[:, :2].sum(axis=1, keepdims=True)
    assert abs(known[:, 0].mean() - 0.5) < 0.1
    moved = calibration.apply(rows, np.full(1000, "")) - rows
    slope = np.polyfit(age, moved.mean(axis=1), 1)[0]
    assert abs(slope) < 0.1 * 2 / 20  # of the age effect itself


def test_training_rows_without_a_site_are_left_out_of_the_fit():
    seen, site, age, _ = planted(200)
    hidden = np.where(np.arange(200) < 20, "", site)
    with_hidden, without = SiteCalibration.fit(seen, hidden, age), SiteCalibration.fit(seen[20:], site[20:], age[20:])
    np.testing.assert_array_equal(with_hidden.apply(seen, site), without.apply(seen, site))


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


def test_effects_are_learnt_from_controls_and_applied_to_all():
    """Patients are at one site alone and their diagnosis is not given, so that it would pass for a scanner's effect."""
    seen, site, age, truth = planted(ages=((20, 80), (20, 80)))
    ill = (site == "B") & (np.arange(len(site)) % 4 == 1)
    seen[ill] += 2.0 * SCALE
    truth[ill] += 2.0
    of_controls = SiteCalibration.fit(seen, site, age, reference="A", fit_on=~ill)
    np.testing.assert_array_equal(
        of_controls.apply(seen, site),
        SiteCalibration.fit(seen[~ill], site[~ill], age[~ill], reference="A").apply(seen, site),
    )
    error, of_all = (
        np.abs((one.apply(seen, site) - truth)[ill].mean(axis=0)).max()
        for one in (of_controls, SiteCalibration.fit(seen, site, age, reference="A"))
    )
    assert error < 0.15 and of_all > 0.5


def test_people_scanned_at_two_sites_sharpen_the_estimate():
    """Ten people are scanned at both sites. Beside them the sites share no age, so that the shift is hard to see."""
    errors = []
    for seed in range(5):
        generator = np.random.default_rng(seed)
        person = np.concatenate([np.arange(60), np.arange(10) + 50])  # 50 to 59 are scanned again at B
        site = np.array(["A"] * 30 + ["B"] * 20 + ["A"] * 10 + ["B"] * 10)
        age = np.where(np.arange(60) < 30, 30.0, 60.0)[person] + generator.normal(size=60)[person]
        people = 1.5 * generator.normal(size=(60, FEATURES)) - (age[:60, None] - 45) / 10
        rows = people[person] + 0.1 * generator.normal(size=(70, FEATURES)) + SHIFT * (site == "B")[:, None]
        for subject in (None, person):
            fitted = SiteCalibration.fit(rows, site, age[:, None], method="location", subject=subject)
            shift = fitted.sites["B"].shift - fitted.sites["A"].shift
            errors.append(np.abs(shift - SHIFT).mean())
        assert fitted.correlation > 0.9
    alone, together = np.reshape(errors, (5, 2)).mean(axis=0)
    assert together < 0.1 and together < 0.3 * alone


def test_repeated_rows_do_not_count_as_independent():
    seen, site, age, _ = planted(60)
    again = np.repeat(np.arange(60), 4)
    noise = 1e-3 * np.random.default_rng(0).normal(size=(240, FEATURES))
    rows = seen[again] + noise
    once = SiteCalibration.fit(seen, site, age, method="location_scale")
    repeated = SiteCalibration.fit(rows, site[again], age[again], method="location_scale", subject=again)
    blind = SiteCalibration.fit(rows, site[again], age[again], method="location_scale")
    for name in ("A", "B"):
        gaps = [np.abs(one.sites[name].shift - once.sites[name].shift).max() for one in (repeated, blind)]
        assert gaps[0] < 0.02 and gaps[1] > 2 * gaps[0]
        assert once.with_site("C", seen[:5], age[:5]).sites["C"].rows == 5
    few = once.with_site("C", seen[:1], age[:1]).sites["C"].shift
    copies = repeated.with_site("C", rows[:4], age[again][:4], subject=again[:4]).sites["C"].shift
    np.testing.assert_allclose(copies, few, atol=0.03)


def test_a_failed_column_of_a_site_is_left_alone():
    seen, site, age, _ = planted()
    failed = seen.copy()
    failed[site == "B", 2] = -12.0
    calibration, whole = (SiteCalibration.fit(rows, site, age, method="covariance") for rows in (failed, seen))
    assert calibration.describe()["unchanged"] == {"B": [2]}
    calibrated = calibration.apply(failed, site)
    np.testing.assert_array_equal(calibrated[site == "B", 2], np.float32(-12.0))
    rest = np.delete(np.arange(FEATURES), 2)
    apart = np.abs(calibrated - whole.apply(seen, site))[site == "B"][:, rest]
    assert apart.mean() < 0.1  # one column fewer to estimate the covariance with
    new = whole.with_site("C", failed[site == "B"][:50], age[site == "B"][:50])
    np.testing.assert_array_equal(new.apply(failed[site == "B"], np.full(1000, "C"))[:, 2], np.float32(-12.0))


def test_arrays_carry_all_of_it():
    seen, site, age, _ = planted(300)
    calibration = SiteCalibration.fit(seen, site, age, reference="B", subject=np.arange(300) // 2)
    arrays = calibration.to_arrays()
    again = SiteCalibration.from_arrays(arrays)
    assert again.describe() == calibration.describe() and again.summary().endswith("; B is the reference")
    for names in (site, np.full(300, "")):
        np.testing.assert_array_equal(again.apply(seen, names), calibration.apply(seen, names))
    for one, other in zip(
        *(value.with_site("C", seen[:9], age[:9]).to_arrays().values() for value in (again, calibration)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    del arrays["version"]
    with pytest.raises(InputError, match="site calibration: version 1, expected 2; another version of eqpool"):
        SiteCalibration.from_arrays(arrays)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(InputError, match="every row's site is unknown"):
        SiteCalibration.fit(np.zeros((3, 2)), np.array(["", "", ""]), np.zeros((3, 0)))
    with pytest.raises(InputError, match="reference: C, expected one of A, B"):
        SiteCalibration.fit(np.eye(4), np.array(list("AABB")), np.zeros((4, 0)), reference="C")
