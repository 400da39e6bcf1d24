"""`SiteCalibrator` and the calibration of `EquivariantPooling` on made-up scanners whose effects are known."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from eqpool.errors import InputError
from eqpool.estimator import EquivariantPooling, FailedColumnWarning, SiteCalibrator, UnseenSiteWarning
from eqpool.storage.files import read_arrays, write_arrays

SCALE = np.array([1.3, 1.0, 1.6])
SHIFT = np.array([0.3, -0.2, 0.5])


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=check.func.__name__)
        for _, check in estimator_checks_generator(SiteCalibrator(), legacy=True)
    ],
)
def test_scikit_learns_checks(check):
    check(clone(SiteCalibrator()))


def table(rows: int = 800, seed: int = 0):
    """Thickness in mm of people of two scanners, of which B shifts and stretches, and the truth as A sees it."""
    generator = np.random.default_rng(seed)
    number, age = np.arange(rows) % 2, generator.uniform(20, 80, rows)
    truth = 2.5 + 0.2 * generator.normal(size=(rows, 3)) - 0.01 * (age - 50)[:, None]
    seen = np.where(number[:, None] == 1, 2.5 + SHIFT + SCALE * (truth - 2.5), truth)
    return pd.DataFrame(seen, columns=["left", "right", "mid"]), np.array(["A", "B"])[number], age, truth


def error(calibrated, truth, here) -> float:
    return float(np.sqrt(np.mean((np.asarray(calibrated) - truth)[here] ** 2)))


def test_rows_of_the_reference_stay_and_the_others_take_its_look():
    X, site, age, truth = table()
    calibrator = SiteCalibrator(reference="A").fit(X, site=site, covariates=age)
    new, new_site, _, new_truth = table(seed=1)
    calibrated = calibrator.transform(new, new_site)
    at_b = new_site == "B"
    pd.testing.assert_frame_equal(calibrated[~at_b], new[~at_b])
    assert error(calibrated, new_truth, at_b) < 0.05 * error(new, new_truth, at_b)
    assert calibrator.calibration_.describe()["reference"] == "A"
    average = SiteCalibrator().fit_transform(X, site=site, covariates=age)
    gaps = [np.abs(values[site == "B"].mean() - values[site == "A"].mean()).max() for values in (average, X)]
    assert gaps[0] < 0.1 * gaps[1] and not np.allclose(average[site == "A"], X[site == "A"], atol=0.01)


def test_the_networks_leave_rows_of_the_reference_too():
    X, site, age, _ = table(60)
    pooling = EquivariantPooling(latent_dim=4, hidden_units=8, epochs=1, reference="A").fit(
        X, site=site, covariates=age
    )
    harmonised = pooling.harmonise(X, site)
    pd.testing.assert_frame_equal(harmonised[site == "A"], X[site == "A"])
    assert not np.allclose(harmonised[site == "B"], X[site == "B"], atol=0.05)


def test_effects_of_controls_are_applied_to_patients():
    X, site, age, truth = table()
    ill = (site == "B") & (np.arange(len(X)) % 4 == 1)
    X[ill] -= 0.4 * SCALE
    truth[ill] -= 0.4
    known, blind = (
        SiteCalibrator(reference="A").fit(X, site=site, covariates=age, fit_on=fit_on).transform(X, site)
        for fit_on in (~ill, None)
    )
    assert error(known, truth, ill) < 0.03 and error(blind, truth, ill) > 0.1


def test_people_scanned_twice_sharpen_the_estimates():
    """Site A has the young and B the old. Eight people who are scanned at both show what is the scanner's."""
    generator = np.random.default_rng(0)
    person = np.r_[np.arange(60), np.arange(56, 64)]
    site = np.r_[np.repeat(["A", "B"], 30), np.repeat("A", 8)]
    age = np.where(np.arange(64) < 30, 30.0, 70.0)[person] + generator.normal(size=64)[person]
    people = 2.5 + 0.3 * generator.normal(size=(64, 3))
    X = (
        people[person]
        - 0.01 * (age - 50)[:, None]
        + 0.02 * generator.normal(size=(68, 3))
        + 0.3 * (site == "B")[:, None]
    )
    errors = []
    for subject in (None, person):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the design is doubtful indeed
            fitted = SiteCalibrator("location").fit(X, site=site, covariates=age, subject=subject)
        effects, deviation = fitted.calibration_.sites, fitted.scaling_.deviation
        errors.append(np.abs(deviation * (effects["B"].shift - effects["A"].shift) - 0.3).mean())
    assert errors[1] < 0.05 and errors[1] < 0.5 * errors[0]


def test_tables_of_partly_other_sites_go_through_one_saved_model(tmp_path):
    X, site, age, truth = table()
    SiteCalibrator(reference="A").fit(X, site=site, covariates=age).save(tmp_path / "sites.npz")
    calibrator = SiteCalibrator.load(tmp_path / "sites.npz")
    assert calibrator.get_params() == SiteCalibrator(reference="A").get_params()
    generator = np.random.default_rng(5)
    scanned = 2.5 + 0.2 * generator.normal(size=(300, 3))
    new = pd.DataFrame(np.r_[scanned[:100] * SCALE + 2.5 + SHIFT - 2.5 * SCALE, scanned[100:] + 1.5], columns=X.columns)
    names = np.repeat(["B", "C"], [100, 200])
    with pytest.warns(UnseenSiteWarning, match="site C: not seen in fit"):
        before = calibrator.transform(new, names)
    assert error(before, scanned, names == "B") < 0.03
    with_c = calibrator.calibrate(new[100:150], "C", covariates=np.full(50, 50.0))
    after = with_c.transform(new, names)
    np.testing.assert_array_equal(after[names == "B"], before[names == "B"])
    assert error(after, scanned, names == "C") < 0.15 < error(before, scanned, names == "C")
    assert list(calibrator.calibration_.sites) == ["A", "B"]


def test_a_failed_column_passes_and_is_named():
    X, site, age, _ = table()
    calibrator = SiteCalibrator().fit(X, site=site, covariates=age)
    failed = X[:50].assign(mid=0.0)
    with pytest.warns(FailedColumnWarning, match="column mid: constant, or 0 where it should be positive"):
        calibrated = calibrator.transform(failed, site[:50])
    assert (calibrated["mid"] == 0).all()
    expected = calibrator.transform(X[:50].assign(mid=np.nan), site[:50])  # for the others it is a missing value
    np.testing.assert_array_equal(calibrated[["left", "right"]], expected[["left", "right"]])
    for count in (1, 30):
        with pytest.warns(FailedColumnWarning, match="site new, column mid"):
            added = calibrator.calibrate(failed[:count] + [0.5, 0.5, 0.0], "new", age[:count])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(added.transform(X[:9], np.full(9, "new"))["mid"], X["mid"][:9])


def test_a_column_with_one_value_in_all_rows_passes():
    X, site, age, _ = table()
    calibrator = SiteCalibrator().fit(X, site=site, covariates=age)
    with pytest.warns(FailedColumnWarning, match="column left: constant"):
        calibrated = calibrator.transform(X[:12].assign(left=2.2), site[:12])
    np.testing.assert_array_equal(calibrated["left"], 2.2)


def test_one_method_for_the_estimator_and_the_calibrator():
    X, site, age, _ = table(60)
    pooling = EquivariantPooling(latent_dim=4, hidden_units=8, epochs=0).fit(X, site=site, covariates=age)
    calibrator = SiteCalibrator().fit(X, site=site, covariates=age)
    assert pooling.calibration_.describe() == calibrator.calibration_.describe()
    none = EquivariantPooling(latent_dim=4, hidden_units=8, epochs=0, calibrate_sites=False).fit(X, site=site)
    assert none.calibration_ is None
    with pytest.raises(InputError, match=r"predict: fit had no target, expected fit\(X, y, ...\)"):
        pooling.predict(X, site)


def test_without_sites_the_features_stay():
    X, *_ = table(40)
    pd.testing.assert_frame_equal(SiteCalibrator().fit_transform(X), X)
    assert make_pipeline(StandardScaler(), SiteCalibrator()).fit_transform(X).shape == X.shape


@pytest.mark.parametrize(
    ("parameters", "options", "message"),
    [
        ({"method": "all"}, {}, "SiteCalibrator.method = 'all': expected True, False, none or location"),
        ({"reference": "C"}, {}, "reference: C, expected one of A, B"),
        ({"prior_rows": -1}, {}, "SiteCalibrator.prior_rows = -1"),
        ({}, {"fit_on": [1] * 40}, "fit_on: 1, expected True or False a row"),
        ({}, {"fit_on": [False] * 40}, "fit_on: no row is True"),
        ({}, {"fit_on": [True] * 3}, r"fit_on has shape \(3,\), expected \(40,\)"),
        ({}, {"subject": ["a"] * 3}, r"subject has shape \(3,\), expected \(40,\)"),
    ],
)
def test_bad_input_is_one_line(parameters, options, message):
    X, site, age, _ = table(40)
    with pytest.raises(InputError, match=message) as caught:
        SiteCalibrator(**parameters).fit(X, site=site, covariates=age, **options)
    assert "\n" not in str(caught.value)


def test_models_of_before_are_refused_in_one_line(tmp_path):
    X, site, age, _ = table(40)
    path = tmp_path / "sites.npz"
    SiteCalibrator().fit(X, site=site, covariates=age).save(path)
    with pytest.raises(InputError, match="a SiteCalibrator, expected a EquivariantPooling; read it with SiteCalib"):
        EquivariantPooling.load(path)
    arrays = read_arrays(path)
    del arrays["calibration/version"]
    write_arrays(path, arrays)
    with pytest.raises(
        InputError, match="sites.npz: site calibration: version 1, expected 2; another version"
    ) as caught:
        SiteCalibrator.load(path)
    assert "\n" not in str(caught.value)


def test_rows_of_one_person_are_calibrated_without_a_covariance():
    random = np.random.default_rng(0)
    site = np.array(["GE", "Siemens"])[np.arange(60) % 2]
    features = random.normal(size=(60, 4)) + 2.0 * (site == "GE")[:, None]
    calibrator = SiteCalibrator().fit(features, site=site, subject=np.full(60, "sub-1"))
    after = calibrator.transform(features, site)
    assert np.abs(after[site == "GE"].mean(axis=0) - after[site == "Siemens"].mean(axis=0)).max() < 0.1
