"""The estimator: scikit-learn's own checks, every bad input, unseen sites, and that it pools what was planted."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

from eqpool.errors import InputError
from eqpool.estimator import EquivariantPooling, UnseenSiteWarning
from tests.conftest import quickly_compiled

pytestmark = pytest.mark.usefixtures("quick_compile")

# No epoch: the checks are about the interface, and each data set of theirs has a shape of its own to compile for.
CHECKED = EquivariantPooling(latent_dim=4, hidden_units=8, batch_size=32, epochs=0)
# The others compile for many shapes and run with `-m slow`. All of them pass; none is expected to fail.
QUICK = {
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_no_attributes_set_in_init",
    "check_complex_data",
    "check_estimators_empty_data_messages",
    "check_estimators_unfitted",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_fit2d_1sample",
    "check_fit1d",
    "check_n_features_in",
    "check_do_not_raise_errors_in_init_or_set_param",
}


def _checks():
    for _, check in estimator_checks_generator(CHECKED, legacy=True):
        name = check.func.__name__
        yield pytest.param(check, id=name, marks=[] if name in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("check", list(_checks()))
def test_scikit_learns_checks(check):
    check(clone(CHECKED))


def table(rows: int = 120, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Features of three scanners, of which C adds 3 to all, and who they are of: site, age, sex, dx."""
    generator = np.random.default_rng(seed)
    number = np.arange(rows)
    who = pd.DataFrame(
        {
            "site": np.array(list("ABC"))[number % 3],
            "age": generator.uniform(20, 80, rows),
            "sex": np.array(["F", "M"])[number // 3 % 2],
            "dx": np.array(["ill", "well"])[number // 6 % 2],
        }
    )
    truth = generator.normal(size=(rows, 6)) + np.outer((who.age - 50) / 20, np.linspace(-1, 1, 6))
    truth[:, 2] += 2.0 * (who.dx == "ill")
    features = pd.DataFrame(truth + 3.0 * (who.site == "C").to_numpy()[:, None], columns=list("uvwxyz"))
    return features, who, truth


@pytest.fixture(scope="module")
def fitted():
    with quickly_compiled():
        yield _fit_a_table()


def _fit_a_table() -> EquivariantPooling:
    features, who, _ = table()
    features.iloc[3, 2] = np.nan
    target = who.dx.where(np.arange(len(who)) % 10 != 0)  # some unknown
    site = who.site.where(np.arange(len(who)) % 11 != 0)
    estimator = EquivariantPooling(latent_dim=6, hidden_units=32, batch_size=32, epochs=8)
    return estimator.fit(features, target, site=site, covariates=who[["age", "sex"]])


def test_what_it_learns_is_said(fitted):
    assert fitted.sites_.tolist() == ["A", "B", "C"]
    assert fitted.covariate_names_ == ("age", "sex=M")
    assert fitted.feature_names_in_.tolist() == list("uvwxyz")
    assert fitted.get_feature_names_out().tolist() == [f"equivariantpooling{index}" for index in range(6)]


def test_new_rows_need_neither_site_nor_target_and_give_no_nan(fitted):
    features, who, _ = table(40, seed=1)
    features.iloc[5] = np.nan
    for site in (None, who.site, who.site.where(who.site != "A")):
        phi = fitted.transform(features, site)
        np.testing.assert_allclose(np.linalg.norm(phi, axis=1), 1, atol=1e-5)
        harmonised = fitted.harmonise(features, site)
        assert np.isfinite(harmonised.to_numpy()).all() and list(harmonised) == list("uvwxyz")


def test_harmonised_features_lose_the_scanner_and_keep_age_and_diagnosis(fitted):
    features, who, truth = table(600, seed=2)
    harmonised = fitted.harmonise(features, who.site)
    at_c = (who.site == "C").to_numpy()
    gap, before = (np.abs(values[at_c].mean() - values[~at_c].mean()).max() for values in (harmonised, features))
    assert before > 2.5 and gap < 0.6
    ages = np.corrcoef(harmonised["z"] - harmonised["u"], who.age)[0, 1]
    assert ages > 0.9 * np.corrcoef(truth[:, 5] - truth[:, 0], who.age)[0, 1]
    ill = (who.dx == "ill").to_numpy()
    assert harmonised["w"][ill].mean() - harmonised["w"][~ill].mean() > 1.3


def test_columns_are_taken_by_name(fitted):
    features, who, _ = table(20, seed=3)
    expected = fitted.transform(features, who.site)
    np.testing.assert_array_equal(fitted.transform(features[list("zyxwvu")].assign(more=1), who.site), expected)
    with pytest.raises(InputError, match="X: no column w, expected the 6 columns of fit"):
        fitted.transform(features.drop(columns="w"))
    with pytest.raises(InputError, match='X, row 4, column v: "2,5", expected a number'):
        fitted.transform(
            features.astype(object).where(lambda f: (f.index != 4).reshape(-1, 1) | (f.columns != "v"), "2,5")
        )


def test_phi_goes_back_to_features(fitted):
    features, who, _ = table(30, seed=4)
    phi = fitted.transform(features, who.site)
    decoded = fitted.inverse_transform(phi)
    outputs = fitted.pooling_.apply(fitted._prepared(features, who.site)[1])
    before, pooled = (fitted.pooling_.decode(outputs[name]) for name in ("latent", "pooled_latent"))
    np.testing.assert_allclose(decoded, pooled * fitted.feature_scale_ + fitted.feature_mean_, atol=1e-4, rtol=1e-4)
    harmonised = fitted._prepared(features, who.site)[1] + fitted.change_scale_ * (pooled - before)
    expected = harmonised * fitted.feature_scale_ + fitted.feature_mean_
    np.testing.assert_allclose(fitted.harmonise(features, who.site).to_numpy(), expected, atol=1e-4)


def test_predictions_and_scores(fitted):
    features, who, _ = table(90, seed=5)
    predicted = fitted.predict(features, who.site)
    assert set(predicted) <= {"ill", "well"}
    assert fitted.score(features, who.dx, who.site) == np.mean(predicted == who.dx.to_numpy())
    half = who.dx.where(np.arange(90) < 45)
    assert fitted.score(features, half, who.site) == np.mean(predicted[:45] == who.dx.to_numpy()[:45])
    assert fitted.score(features, site=who.site) < 1


def test_saved_and_loaded_it_is_the_same(fitted, tmp_path):
    features, who, _ = table(30, seed=6)
    fitted.save(tmp_path / "pooling.npz")
    again = EquivariantPooling.load(tmp_path / "pooling.npz")
    assert again.get_params() == fitted.get_params()
    for method in ("transform", "predict", "harmonise"):
        np.testing.assert_array_equal(getattr(again, method)(features), getattr(fitted, method)(features))
    with np.load(tmp_path / "pooling.npz", allow_pickle=False) as archive:  # what holds an object would need a pickle
        assert all(archive[name].dtype != object for name in archive.files)
    (tmp_path / "other.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="other.npz: expected an npz file of plain arrays"):
        EquivariantPooling.load(tmp_path / "other.npz")


def test_a_site_never_seen_is_said_and_can_be_calibrated(fitted, tmp_path):
    fitted.save(tmp_path / "pooling.npz")
    estimator = EquivariantPooling.load(tmp_path / "pooling.npz")
    features, who, truth = table(300, seed=7)
    new = pd.DataFrame(truth - 4.0, columns=list("uvwxyz"))  # a scanner that no training site is like
    site = np.full(300, "D")
    with pytest.warns(UnseenSiteWarning, match="site D: not seen in fit"):
        before = estimator.harmonise(new, site)
    assert estimator.unseen_sites_ == ("D",)
    calibrated = estimator.calibrate(new[:25], "D", who[["age", "sex"]][:25], who.dx[:25])
    assert list(calibrated.calibration_.sites) == ["A", "B", "C", "D"]
    assert list(estimator.calibration_.sites) == ["A", "B", "C"]  # calibrate changes a copy
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = calibrated.harmonise(new[25:], site[25:])
    expected = fitted.harmonise(features[who.site == "A"], who.site[who.site == "A"]).mean()
    gaps = [np.abs(values.mean() - expected).max() for values in (before[25:], after)]
    assert gaps[1] < 0.8 and gaps[0] > 2 * gaps[1]


@pytest.mark.slow
def test_a_nuisance_is_one_more_thing_not_to_be_told(tmp_path):
    features, who, _ = table(1500, seed=8)
    features["v"] += 3.0 * (who.sex == "M")
    unknown = np.arange(1500) % 7 == 0

    def told(nuisances) -> float:
        """Balanced accuracy of a logistic regression that reads sex from tau^-1 Phi of new rows."""
        estimator = EquivariantPooling(
            latent_dim=6, hidden_units=16, batch_size=64, epochs=50, mmd_weight=100.0, reconstruction_weight=0.1
        )
        estimator.fit(features, site=who.site, covariates=who.age, nuisances=nuisances)
        assert estimator.nuisance_names_ == (() if nuisances is None else ("sex",))
        estimator.save(tmp_path / "pooling.npz")
        new, other, _ = table(1500, seed=9)
        new["v"] += 3.0 * (other.sex == "M")
        again = EquivariantPooling.load(tmp_path / "pooling.npz")
        assert again.nuisance_names_ == estimator.nuisance_names_
        free = [
            one.embed(rows, one_who.site)["covariate_free"]
            for one, rows, one_who in ((again, features, who), (again, new, other))
        ]
        return LogisticRegression(C=100.0).fit(free[0], who.sex).score(free[1], other.sex)

    assert told(None) > 0.8
    assert told(who.sex.where(~unknown)) < 0.65


BAD = {
    "nuisance": (lambda X, w: (X, {"nuisances": ["one"] * 120}), "column nuisance_0: 1 levels, expected two or more"),
    "nuisances": (lambda X, w: (X, {"nuisances": w.sex[:100]}), "nuisances has 100 rows, expected 120"),
    "all-NaN column": (lambda X, w: (X.assign(w=np.nan), {}), "feature w has no value in any row"),
    "text": (lambda X, w: (X.assign(v="thick"), {}), 'X, row 0, column v: "thick", expected a number'),
    "sites": (lambda X, w: (X, {"site": list("AB")}), r"site has shape \(2,\), expected \(120,\)"),
    "covariate": (lambda X, w: (X, {"covariates": w.age.where(w.age > 30)}), "column age: nan, expected a finite"),
    "category": (
        lambda X, w: (X, {"covariates": w[["sex"]].replace("F", None)}),
        "column sex: missing, expected a cat",
    ),
    "ranges": (
        lambda X, w: (X, {"covariates": w.age, "parameters": {"rotation_range": (1.0, 2.0)}}),
        r"EquivariantPooling.rotation_range = \(1.0, 2.0\): 2 numbers, expected 1",
    ),
    "tau": (lambda X, w: (X, {"parameters": {"tau": "fixed"}}), "EquivariantPooling.tau = 'fixed': expected one of"),
    "target": (lambda X, w: (X, {"y": [None] * 120}), "y: every value is missing"),
    "too many covariates": (
        lambda X, w: (X, {"covariates": np.random.default_rng(0).random((120, 3)), "parameters": {"latent_dim": 4}}),
        "config.model.latent_dim = 4: 3 covariates need a plane each",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_told_in_one_line(name):
    features, who, _ = table()
    change, message = BAD[name]
    changed, options = change(features, who)
    parameters = options.pop("parameters", {})
    with pytest.raises(InputError, match=message) as caught:
        EquivariantPooling(**parameters).fit(changed, options.pop("y", None), **options)
    assert "\n" not in str(caught.value)


def test_a_site_of_one_row_is_kept_and_said():
    features, who, _ = table(31)
    site = who.site.where(np.arange(31) != 30, "lone")
    with pytest.warns(UserWarning, match="site lone: a single row, which is kept"):
        estimator = clone(CHECKED).fit(features, site=site, covariates=who.age)
    assert "lone" in estimator.sites_
    assert np.isfinite(estimator.transform(features, site)).all()


def test_calling_it_wrongly_after_fit(fitted):
    features, who, _ = table(20)
    with pytest.raises(InputError, match="covariates: None, expected age, sex=M as in fit"):
        fitted.calibrate(features, "D")
    with pytest.raises(InputError, match="site: A, B, C, expected the one name"):
        fitted.calibrate(features, who.site, who[["age", "sex"]])
    with pytest.raises(InputError, match="X has 5 columns, expected the 6 of Phi"):
        fitted.inverse_transform(np.zeros((2, 5)))
    with pytest.raises(InputError, match="y: class 'dead', expected one of ill, well"):
        fitted.score(features, ["dead"] * 20)


def test_in_a_pipeline():
    features, who, _ = table(31)
    pipeline = make_pipeline(FunctionTransformer(np.asarray), clone(CHECKED))
    options = {"site": who.site.where(np.arange(31) != 30, "lone"), "covariates": who.age}
    with pytest.warns(UserWarning, match="site lone"):
        pipeline.fit(features, **{f"equivariantpooling__{name}": value for name, value in options.items()})
    assert pipeline.transform(features).shape == (31, 4)
