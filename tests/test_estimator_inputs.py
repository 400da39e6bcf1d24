"""What `EquivariantPooling` takes: labels, numbers, frames and parameters of every form, and the design check.

Most tests replace the networks by the identity, since they are about what goes in and comes out.
"""

import json
import warnings

import jax
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from eqpool.commands.preflight import preflight
from eqpool.config import DataConfig, RunConfig
from eqpool.data.tables.arrays import encode_covariates
from eqpool.errors import InputError
from eqpool.estimator import DesignWarning, EquivariantPooling, LabelWarning
from eqpool.estimator.parameters import Parameters
from eqpool.storage.files import read_arrays, write_arrays

ROWS = 60
SMALL = {"latent_dim": 4, "hidden_units": 8, "batch_size": 32, "epochs": 0, "change_scale": 1.0}


class Identity:
    """Networks that give their inputs back, and whose decoder moves every feature by `change` z-scores."""

    def __init__(self, change: float):
        self.change = change

    def on_host(self):
        return self

    def apply(self, inputs):
        rows = np.asarray(inputs, np.float32)
        outputs = {"phi": rows, "latent": rows, "covariate_free": rows, "prediction": rows[:, :2]}
        return outputs | {"pooled_latent": rows + self.change}

    def decode(self, latent):
        return latent


@pytest.fixture
def untrained(request, monkeypatch):
    networks = Identity(getattr(request, "param", 0.1))
    monkeypatch.setattr("eqpool.estimator.training.train_networks", lambda *_: (networks, None))


def cohort() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features of two sites, the site as 1 or 2, age, and sex as 0 or 1."""
    generator, number = np.random.default_rng(0), np.arange(ROWS)
    site, age, sex = number % 2 + 1, generator.uniform(20, 80, ROWS).round(2), number // 2 % 2
    return generator.normal(size=(ROWS, 3)) - age[:, None] / 30 + 0.7 * (site == 1)[:, None], site, age, sex


def fitted(X, **arguments) -> EquivariantPooling:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DesignWarning)
        return EquivariantPooling(**SMALL).fit(X, **arguments)


SITES = {
    "int8": lambda site: site.astype(np.int8),
    "float": lambda site: site.astype(float),
    "float32": lambda site: site.astype(np.float32),
    "text": lambda site: site.astype(str),
    "text of floats": lambda site: site.astype(float).astype(str),
    "bytes": lambda site: site.astype("S2"),
    "blanks": lambda site: np.char.add(site.astype(str), " "),
    "objects": lambda site: np.array([int(s) if i % 2 else float(s) for i, s in enumerate(site)], object),
    "list": lambda site: site.tolist(),
    "Series": lambda site: pd.Series(site, index=range(100, 100 + ROWS)),
    "Int64": lambda site: pd.Series(site, dtype="Int64"),
    "categorical": lambda site: pd.Categorical(site),
    "categorical Series": lambda site: pd.Series(site).astype("category"),
    "mixed text and numbers": lambda site: np.array([s if i % 3 else f"{s}.0" for i, s in enumerate(site)], object),
}


@pytest.mark.parametrize("form", list(SITES))
@pytest.mark.filterwarnings("ignore::eqpool.estimator.LabelWarning")
def test_a_site_of_every_form_is_the_same_site(untrained, form):
    X, site, age, _ = cohort()
    expected = fitted(X, site=site, covariates=age).transform(X, site)
    estimator = fitted(X, site=SITES[form](site), covariates=age)
    assert estimator.sites_.tolist() == ["1", "2"]
    np.testing.assert_array_equal(estimator.transform(X, SITES[form](site)), expected)
    np.testing.assert_array_equal(estimator.transform(X, site), expected)


@pytest.mark.parametrize(
    "gap", [None, np.nan, pd.NA, pd.NaT, "", " ", "n/a", b"", np.float32("nan")], ids=lambda gap: repr(gap)
)
def test_a_gap_does_not_change_the_other_sites(untrained, gap):
    X, site, age, _ = cohort()
    given = site.astype(object)
    given[7] = gap
    estimator = fitted(X, site=given, covariates=age)
    assert estimator.sites_.tolist() == ["1", "2"] and estimator.calibration_.sites["2"].rows == 29
    with_float = pd.Series(site).astype(float)
    with_float[7] = np.nan
    np.testing.assert_array_equal(estimator.transform(X, with_float), estimator.transform(X, given))
    masked = np.ma.array(site, mask=np.arange(ROWS) == 7)
    np.testing.assert_array_equal(estimator.transform(X, masked), estimator.transform(X, given))


def test_a_site_called_na_is_not_lost_without_a_word(untrained):
    X, site, age, _ = cohort()
    names = np.where(site == 1, "NA", np.where(np.arange(ROWS) % 4 == 1, "EU", "AS"))
    with pytest.warns(LabelWarning, match=r'site: "NA" \(30\) read as missing'):
        assert fitted(X, site=names, covariates=age).sites_.tolist() == ["AS", "EU"]


@pytest.mark.parametrize(
    ("site", "problem"),
    [
        (pd.date_range("2020-01-01", periods=ROWS), "site, row 0: 2020-01-01 00:00:00 is a date"),
        (np.ones(ROWS) * 1j, "site, row 0: 1j is a complex number"),
        (np.r_[np.inf, np.ones(ROWS - 1)], "site, row 0: inf, expected a name"),
        ([["A"]] * ROWS, "site has shape"),
        (np.array([{"a": 1}] * ROWS, object), "site, row 0: .* is a dict"),
        ("A", r"site has shape \(\)"),
    ],
)
def test_what_is_no_site(untrained, site, problem):
    X, _, age, _ = cohort()
    with pytest.raises(InputError, match=problem):
        fitted(X, site=site, covariates=age)


COVARIATES = {
    "object frame": lambda age, sex: pd.DataFrame({"age": pd.Series(age, dtype=object), "sex": sex}),
    "text frame": lambda age, sex: pd.DataFrame({"age": age.astype(str), "sex": sex.astype(str)}),
    "nullable": lambda age, sex: pd.DataFrame({"age": pd.Series(age, dtype="Float64"), "sex": sex.astype(bool)}),
    "other order": lambda age, sex: pd.DataFrame({"sex": sex, "age": age}),
    "records": lambda age, sex: np.array(list(zip(age, sex, strict=True)), dtype=[("age", float), ("sex", int)]),
    "bytes": lambda age, sex: pd.DataFrame({"age": age.astype("S8"), "sex": sex}),
}


@pytest.mark.parametrize("form", list(COVARIATES))
def test_covariates_of_every_form_are_the_same_numbers(untrained, form):
    X, site, age, sex = cohort()
    expected = fitted(X, site=site, covariates=pd.DataFrame({"age": age, "sex": sex}))
    estimator = fitted(X, site=site, covariates=COVARIATES[form](age, sex))
    assert set(estimator.covariate_names_) == {"age", "sex"}
    np.testing.assert_allclose(estimator.transform(X, site), expected.transform(X, site), rtol=1e-6)
    new = COVARIATES[form](age, sex)[:20]
    calibrated = estimator.calibrate(X[:20], "3", new if form != "other order" else new[["age", "sex"]])
    assert "3" in calibrated.calibration_.sites and "3" not in estimator.calibration_.sites


def test_columns_stacked_with_text(untrained):
    X, site, age, sex = cohort()
    stacked = np.column_stack([age, np.where(sex == 1, "M", "F")])
    estimator = fitted(X, site=site, covariates=stacked)
    assert estimator.covariate_names_ == ("covariate_0", "covariate_1=M")
    as_frame = pd.DataFrame({"covariate_0": age, "covariate_1": pd.Categorical(np.where(sex == 1, "M", "F"))})
    np.testing.assert_array_equal(fitted(X, site=site, covariates=as_frame).transform(X), estimator.transform(X))
    codes = pd.DataFrame({"age": age, "sex": pd.Categorical(sex + 1)})
    assert fitted(X, site=site, covariates=codes).covariate_names_ == ("age", "sex=2")


@pytest.mark.parametrize(
    ("covariates", "problem"),
    [
        (lambda age, sex: np.where(np.arange(ROWS) == 3, "2,5", age.astype(str)), 'row 3, column covariate_0: "2,5"'),
        (lambda age, sex: np.ma.array(age, mask=np.arange(ROWS) == 3), "row 3, column covariate_0: nan, expected"),
        (lambda age, sex: np.char.replace(age.astype(str), ".", ","), 'row 0, column covariate_0: ".*,.*", expected'),
        (lambda age, sex: age + 1j, "is a complex number"),
        (lambda age, sex: pd.date_range("1950-01-01", periods=ROWS), "is a date"),
        (lambda age, sex: np.full(ROWS, 70), r"covariate covariate_0 is constant \(70\)"),
        (lambda age, sex: ["M"] * ROWS, "column covariate_0: 1 categories"),
        (lambda age, sex: pd.DataFrame(np.c_[age, sex], columns=["a", "a"]), "covariates: 2 columns are named a"),
        (lambda age, sex: pd.DataFrame(np.c_[age, sex], columns=[1, "1"]), "covariates: 2 columns are named 1"),
        (lambda age, sex: np.where(np.arange(ROWS) == 3, 1e31, age), "row 3, column covariate_0: "),
        (lambda age, sex: np.zeros((ROWS, 2, 2)), "covariates has shape"),
    ],
)
def test_covariates_that_are_refused(untrained, covariates, problem):
    X, site, age, sex = cohort()
    with pytest.raises(InputError, match=problem) as caught:
        fitted(X, site=site, covariates=covariates(age, sex))
    assert "\n" not in str(caught.value)


def test_categories_that_fit_did_not_see_are_refused(untrained, tmp_path):
    X, site, age, sex = cohort()
    who = pd.DataFrame({"age": age, "sex": np.where(sex == 1, "M", "F")})
    estimator = EquivariantPooling(**SMALL).fit(X, site=site, covariates=who)
    for new in (["male"], ["M", "m", "F"], ["f"]):
        rows = who[: len(new)].assign(sex=new)
        with pytest.raises(InputError, match='column sex: ".*" in 1 rows .*, expected one of F, M as in training'):
            estimator.calibrate(X[: len(new)], "new", rows)
    np.testing.assert_array_equal(
        encode_covariates(estimator.covariates_, who[:4].assign(sex=["M ", "F", b"M", "F"]), 4)[:, 1], [1, 0, 1, 0]
    )


FRAMES = {
    "objects": lambda X: pd.DataFrame(X).astype(object).to_numpy(),
    "text": lambda X: X.astype(str),
    "lists of text": lambda X: X.astype(str).tolist(),
    "bytes": lambda X: X.astype("S25"),
    "stacked with text": lambda X: np.column_stack([X[:, 0].astype(str), X[:, 1:]]),
    "frame of text": lambda X: pd.DataFrame(X.astype(str), columns=list("abc")),
    "nullable frame": lambda X: pd.DataFrame(X, columns=list("abc")).astype("Float64"),
}


@pytest.mark.parametrize("form", list(FRAMES))
def test_features_of_every_form_are_the_same_numbers(untrained, form):
    X, site, age, _ = cohort()
    expected = fitted(X, site=site, covariates=age).transform(X, site)
    given = FRAMES[form](X)
    np.testing.assert_allclose(fitted(given, site=site, covariates=age).transform(given, site), expected, rtol=1e-6)


def test_masked_and_missing_features_are_the_mean(untrained):
    X, site, age, _ = cohort()
    gaps = X.copy()
    gaps[4, 1] = np.nan
    expected = fitted(gaps, site=site, covariates=age).transform(gaps, site)
    text = gaps.astype(str).astype(object)
    for given in (
        np.ma.masked_invalid(gaps),
        text,
        np.where(text == "nan", "NA", text),
        np.where(text == "nan", None, text),
    ):
        np.testing.assert_array_equal(fitted(given, site=site, covariates=age).transform(given, site), expected)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda X: np.where(np.arange(ROWS)[:, None] == 2, "thick", X.astype(str)), 'X, row 2, column 0: "thick"'),
        (lambda X: X * 1e32, "X, column 0: a value above 1e[+]30"),
        (lambda X: X.astype("datetime64[s]"), "dates or times"),
        (lambda X: pd.DataFrame(X, columns=["a", "a", "b"]), "X: 2 columns are named a"),
        (lambda X: pd.DataFrame(X, columns=[0, "0", 1]), "X: 2 columns are named 0"),
        (lambda X: pd.DataFrame(X).assign(when=pd.Timestamp(0)), "X, row 0, column when: "),
        (lambda X: np.c_[X, np.full(ROWS, np.nan)], "feature 3 has no value in any row"),
    ],
)
def test_features_that_are_refused(untrained, change, problem):
    X, site, age, _ = cohort()
    with pytest.raises(InputError, match=problem):
        fitted(change(X), site=site, covariates=age)


def test_a_frame_without_columns_is_refused_by_scikit_learn(untrained):
    with pytest.raises(ValueError, match="0 feature"):
        fitted(pd.DataFrame(index=range(ROWS)))


@pytest.mark.parametrize("names", [[0, 1, 2], [7, "x", 3.5], list("abc"), [("a", 1), ("a", 2), ("b", 1)]])
def test_columns_of_any_name_are_taken_in_any_order(untrained, names):
    X, site, age, _ = cohort()
    frame = pd.DataFrame(dict(enumerate(X.T)))
    frame.columns = pd.Index(names, tupleize_cols=False)
    estimator = fitted(frame, site=site, covariates=age)
    turned = frame.iloc[:, [2, 0, 1]]
    np.testing.assert_array_equal(estimator.transform(turned, site), estimator.transform(frame, site))
    harmonised = estimator.harmonise(turned, site)
    assert list(harmonised.columns) == names
    with pytest.raises(InputError, match=f"X: no column {names[1]}".replace("(", r"\(").replace(")", r"\)")):
        estimator.transform(frame.iloc[:, [0, 2]], site)


CONSTANT = {"zero": 0.0, "small": 1e-3, "large": 1e8, "negative": -5.0}


def test_constant_features_come_back_as_they_are(untrained):
    X, site, age, _ = cohort()
    frame = pd.DataFrame(X, columns=list("abc")).assign(**CONSTANT, tiny=1e-13 * X[:, 0])
    with pytest.warns(DesignWarning, match="nearly_empty_features: 1 features are 0 in all rows .zero."):
        estimator = EquivariantPooling(**SMALL).fit(frame, site=site, covariates=age)
    harmonised = estimator.harmonise(frame, site)
    pd.testing.assert_frame_equal(harmonised[list(CONSTANT)], frame[list(CONSTANT)], check_exact=True)
    change = (harmonised - frame) / estimator.feature_scale_
    np.testing.assert_allclose(change["tiny"], change["a"], rtol=1e-3, atol=1e-5)
    assert estimator.feature_scale_[-1] < 1e-12


@pytest.mark.parametrize("untrained", [-0.5], indirect=True)
def test_signs_are_kept_where_that_is_asked_for(untrained):
    X, site, age, _ = cohort()
    skewed = np.c_[np.random.default_rng(1).exponential(size=ROWS) * np.where(site == 1, 3, 1), X]
    plain = fitted(skewed, site=site, covariates=age)
    free = plain.harmonise(skewed, site)
    assert (free[:, 0] < 0).any() and plain.clipped_.tolist() == [0, 0, 0, 0]
    kept = clone(plain).set_params(keep_sign=np.bool_(True)).fit(skewed, site=site, covariates=age)
    np.testing.assert_array_equal(kept.harmonise(skewed, site), np.c_[np.maximum(free[:, 0], 0), free[:, 1:]])
    assert kept.clipped_.tolist() == [(free[:, 0] < 0).sum(), 0, 0, 0]


NUMPY = {
    "latent_dim": (8, [np.int64(8), np.int8(8), np.array(8), np.array([8])]),
    "epochs": (0, [np.uint8(0), np.arange(1)[0]]),
    "batch_size": (16, [np.int32(16), np.array([[16]])]),
    "learning_rate": (0.5, [np.float32(0.5), np.float16(0.5), np.logspace(-1, 1, 3, base=2)[0], np.array(0.5)]),
    "mmd_weight": (2.0, [2, np.int64(2), np.float64(2)]),
    "rotation_range": (1.0, [1, np.int64(1), np.float32(1), np.array(1), np.array([1.0])]),
    "prior_rows": (np.inf, [np.inf, np.float32("inf"), np.array(np.inf)]),
    "calibrate_sites": (True, [np.True_, np.array(True)]),
    "reference": ("2", [2, np.int64(2), 2.0, "2", np.str_("2")]),
    "tau": ("free", [np.str_("free"), np.array("free")]),
    "random_state": (3, [np.int64(3), np.array([3])]),
}


def config_of(estimator: EquivariantPooling) -> RunConfig:
    """The configuration of a run that trains the same networks."""
    return Parameters.check(estimator.get_params(deep=False)).to_config()


@pytest.mark.parametrize("name", list(NUMPY))
def test_numpys_values_are_the_parameters_of_python(name):
    expected, forms = NUMPY[name]
    for form in forms:
        estimator = EquivariantPooling(**{name: form})
        assert estimator.get_params()[name] is form
        assert config_of(estimator) == config_of(EquivariantPooling(**{name: expected}))
        parameters = Parameters.check(clone(estimator).get_params())
        assert getattr(parameters, name) == expected and type(getattr(parameters, name)) is type(expected)
    assert config_of(EquivariantPooling(rotation_range=np.array([1, 2], np.float32))).model.rotation_ranges == "1.0,2.0"


@pytest.mark.parametrize(
    ("name", "value"),
    [("latent_dim", 2.5), ("latent_dim", "3"), ("latent_dim", True), ("latent_dim", 1), ("latent_dim", None),
     ("epochs", -1), ("epochs", np.int64(-1)), ("batch_size", np.array([8, 16])), ("learning_rate", "fast"),
     ("learning_rate", np.nan), ("learning_rate", -1e-3), ("learning_rate", 1j), ("mmd_match", "both"), ("tau", 3),
     ("calibrate_sites", 1), ("calibrate_sites", "scale"), ("reference", ""), ("reference", [1]),
     ("validation_fraction", 1.5), ("rotation_range", -1), ("rotation_range", "3"),
     ("rotation_range", ()), ("rotation_range", (1, np.nan)), ("rotation_range", 4), ("prior_rows", -1),
     ("prior_rows", np.nan), ("prior_rows", "many"), ("random_state", "seed"), ("random_state", -1),
     ("random_state", 1.5), ("keep_sign", "on"), ("class_weights", "none"), ("hidden_units", np.zeros(0))],
)  # fmt: skip
def test_a_wrong_parameter_is_named_in_one_line(untrained, name, value):
    X, site, age, _ = cohort()
    with pytest.raises(InputError, match=rf"^EquivariantPooling\.{name} = .*: ") as caught:
        EquivariantPooling(**{name: value}).fit(X, site=site, covariates=age)
    assert "\n" not in str(caught.value)


def test_what_is_matched_reaches_the_training():
    assert config_of(EquivariantPooling(mmd_match="phi")).stage_two.mmd_match == "phi"


@pytest.mark.parametrize(
    "state", [None, np.random.RandomState(0), np.random.default_rng(0)], ids=["None", "old", "new"]
)
def test_a_random_state_gives_one_seed_a_fit(untrained, state):
    X, site, age, _ = cohort()
    seed = EquivariantPooling(random_state=state, **SMALL).fit(X, site=site, covariates=age).parameters_.random_state
    assert isinstance(seed, int) and seed >= 0


@pytest.mark.filterwarnings("ignore::eqpool.estimator.DesignWarning")
def test_fit_transform_is_fit_and_transform_with_the_same_sites(untrained):
    X, site, age, sex = cohort()
    options = {"site": site, "covariates": age, "nuisances": np.arange(ROWS) // 4 % 2}
    both = EquivariantPooling(**SMALL).fit_transform(X, sex, **options)
    np.testing.assert_array_equal(both, EquivariantPooling(**SMALL).fit(X, sex, **options).transform(X, site))
    assert not np.array_equal(both, EquivariantPooling(**SMALL).fit(X, sex, **options).transform(X))
    pipeline = make_pipeline(EquivariantPooling(**SMALL), LogisticRegression())
    pipeline.fit(X, sex, equivariantpooling__site=site, equivariantpooling__covariates=age)
    expected = EquivariantPooling(**SMALL).fit(X, sex, site=site, covariates=age).transform(X, site)
    np.testing.assert_array_equal(pipeline[-1].coef_, LogisticRegression().fit(expected, sex).coef_)


@pytest.mark.filterwarnings("ignore::eqpool.estimator.DesignWarning")
def test_a_grid_search_routes_sites_to_fit_and_transform(untrained):
    """scikit-learn's metadata routing: each fold is fitted and transformed with its own rows' sites."""
    X, site, age, sex = cohort()
    with sklearn.config_context(enable_metadata_routing=True):
        pooling = EquivariantPooling(**SMALL).set_fit_request(site=True, covariates=True, nuisances=False)
        pooling.set_transform_request(site=True)
        pipeline = make_pipeline(pooling, LogisticRegression())
        grid = {
            "equivariantpooling__latent_dim": np.arange(4, 7),
            "equivariantpooling__prior_rows": np.logspace(0, 2, 2),
        }
        search = GridSearchCV(pipeline, grid, cv=3, error_score="raise")
        search.fit(X, sex, site=site, covariates=age)
        assert isinstance(search.best_params_["equivariantpooling__latent_dim"], np.integer)
        best = clone(search.best_estimator_[0])
        expected = best.fit(X, sex, site=site, covariates=age).transform(X, site)
        np.testing.assert_array_equal(search.best_estimator_[-1].coef_, LogisticRegression().fit(expected, sex).coef_)
        predicted = search.best_estimator_.predict(X, site=site)
        np.testing.assert_array_equal(predicted, LogisticRegression().fit(expected, sex).predict(expected))


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({}, False),
        ({"age": lambda t: np.where(t.site == "A", 30.0, 70.0)}, True),
        ({"age": lambda t: np.where(t.site == "A", 30.0, 70.0) + np.arange(ROWS) % 3}, False),
        ({"dx": lambda t: np.where(t.site == "A", "ill", "well")}, True),
        ({"age": 50.0}, True),
        ({"age": lambda t: t.age.where(t.index != 4, -999)}, False),
        ({"site": "A"}, True),
        ({"sex": lambda t: t.dx}, True),
        ({"a": 0.0}, False),
        ({"a": lambda t: t.a.where(t.index == 4)}, False),
        ({"a": lambda t: t.a.where(t.index != 4, 999)}, False),
        ({"a": np.nan}, True),
    ],
)
def test_the_estimator_finds_what_preflight_finds(untrained, tmp_path, change, refused):
    X, site, age, sex = cohort()
    table = pd.DataFrame(
        {"participant_id": [f"row {row}" for row in range(ROWS)], "site": np.array(["A", "B"])[site - 1]}
    )
    table = table.assign(age=age, sex=sex, dx=np.where(np.arange(ROWS) // 4 % 2, "ill", "well"), a=X[:, 0], b=X[:, 1])
    table = table.assign(**change)
    table.to_csv(tmp_path / "participants.tsv", sep="\t", index=False, na_rep="n/a")
    config = DataConfig(participants=str(tmp_path / "participants.tsv"), nuisances="sex", features="a,b")
    # The estimator holds nobody out.
    findings = [finding.to_dict() for finding in preflight(config)[1] if finding.check != "held_out_people"]
    assert any(finding["severity"] == "refusal" for finding in findings) is refused

    def fit() -> EquivariantPooling:
        options = {"site": table.site, "covariates": table.age, "nuisances": table[["sex"]]}
        return EquivariantPooling(**SMALL).fit(table[["a", "b"]], table.dx, **options)

    if refused:
        messages = [finding["message"] for finding in findings if finding["severity"] == "refusal"]
        with pytest.raises(InputError) as caught:
            fit()
        assert str(caught.value) == messages[0]
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert fit().findings_ == findings
    warned = [str(one.message) for one in seen if one.category is DesignWarning]
    expected = [f"{finding['check']}: {finding['message']}" for finding in findings if finding["severity"] == "warning"]
    assert warned == expected


def test_without_sites_only_the_rest_of_the_design_is_examined(untrained):
    X, _, age, _ = cohort()
    with pytest.warns(DesignWarning, match=r"covariate covariate_0: -9 in 1 rows \(row 3\)"):
        estimator = EquivariantPooling(**SMALL).fit(X, covariates=np.where(np.arange(ROWS) == 3, -9, age))
    assert [finding["check"] for finding in estimator.findings_] == ["implausible_values"]


def test_classes_of_every_form(untrained):
    X, site, age, sex = cohort()
    for y in (
        sex,
        sex.astype(float),
        sex.astype(str),
        sex.astype(bool),
        np.where(sex == 1, "1.0", "0"),
        pd.Series(sex, dtype="Int64"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator = EquivariantPooling(**SMALL).fit(X, y, site=site, covariates=age)
        assert estimator.target_.num_classes == 2 and set(estimator.target_.class_names) <= {"0", "1", "True", "False"}
        predicted = estimator.predict(X, site)
        assert set(predicted.tolist()) <= set(estimator.target_.classes.tolist())
        expected = np.mean((np.argmax(estimator.transform(X, site)[:, :2], axis=1)) == sex)
        assert estimator.score(X, y, site) == expected


@pytest.fixture(scope="module")
def trained():
    """Real networks, untrained, whose parameters are NumPy's."""
    X, site, age, sex = cohort()
    estimator = EquivariantPooling(
        latent_dim=np.int64(4), hidden_units=np.int32(8), epochs=np.int64(0), learning_rate=np.float32(2e-3),
        rotation_range=np.array([1.0, 2.0]), prior_rows=np.float64(np.inf), random_state=np.int64(1),
    )  # fmt: skip
    covariates = pd.DataFrame({"age": age, "sex": np.where(sex == 1, "M", "F")})
    return estimator.fit(pd.DataFrame(X), site=site, covariates=covariates)


def test_numpys_parameters_are_saved_and_loaded(trained, tmp_path):
    X, site, age, _ = cohort()
    trained.save(tmp_path / "pooling.npz")
    again = EquivariantPooling.load(tmp_path / "pooling.npz")
    parameters = again.get_params()
    assert parameters["rotation_range"] == (1.0, 2.0) and parameters["latent_dim"] == 4
    assert parameters["learning_rate"] == float(np.float32(2e-3)) and parameters["random_state"] == 1
    turned = pd.DataFrame(X)[[2, 0, 1]]
    np.testing.assert_array_equal(again.transform(turned, site), trained.transform(X, site))
    np.testing.assert_array_equal(again.harmonise(X, site), trained.harmonise(X, site))
    with pytest.raises(InputError, match='column sex: "m" in 1 rows .0., expected one of F, M'):
        again.calibrate(X[:1], "new", pd.DataFrame({"age": [30], "sex": ["m"]}))


def test_a_file_of_the_first_format_is_read(trained, tmp_path):
    X, site, age, _ = cohort()
    trained.save(tmp_path / "pooling.npz")
    arrays = read_arrays(tmp_path / "pooling.npz")
    header = json.loads(str(arrays.pop("header")))
    header |= {"format": 1, "covariate_names": ["age", "sex=M"], "feature_names": []}
    for name in ("covariates", "columns", "findings"):
        del header[name]
    del header["parameters"]["keep_sign"], arrays["feature_constant"], arrays["feature_nonnegative"]
    arrays["sites"] = arrays["calibration/names"] = np.array(["1.0", "2.0"])
    write_arrays(tmp_path / "old.npz", arrays | {"header": np.array(json.dumps(header))})
    old = EquivariantPooling.load(tmp_path / "old.npz")
    assert old.sites_.tolist() == ["1", "2"] and old.covariate_names_ == ("age", "sex=M")
    np.testing.assert_array_equal(old.transform(X, site), trained.transform(X, site))
    rows = pd.DataFrame({"age": [30, 40, 50], "sex": ["F", "M", "F"]})
    old.calibrate(X[:3], "new", rows)  # which level was the reference is not known: one that is new may be it
    with pytest.raises(InputError, match='column sex: "F" in 1 rows .0., expected one of M'):
        old.calibrate(X[:3], "new", rows.assign(sex=["F", "f", "M"]))
    with pytest.raises(InputError, match="keep_sign: the model is of an earlier version"):
        old.set_params(keep_sign=True).harmonise(X, site)
    arrays["sites"] = np.array(["1", "1.0"])
    write_arrays(tmp_path / "two.npz", arrays | {"header": np.array(json.dumps(header))})
    with pytest.raises(InputError, match="sites: 1 and 1.0 are one label, 1, now; train the model again"):
        EquivariantPooling.load(tmp_path / "two.npz")


def test_strict_promotion_of_the_callers_jax():
    X, site, age, sex = cohort()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = EquivariantPooling(**SMALL | {"epochs": 1}).fit(X, sex, site=site, covariates=age)
        assert np.isfinite(estimator.transform(X, site)).all()
        assert np.isfinite(estimator.harmonise(X, site)).all()
        assert np.isfinite(estimator.inverse_transform(estimator.transform(X, site))).all()
        assert jax.config.jax_numpy_dtype_promotion == "strict"
