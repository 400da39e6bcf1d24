import json
import pathlib
import warnings

import numpy as np
import pytest
import statsmodels.api

from eqpool.data.site_effects.combat import Combat
from eqpool.storage.files import read_arrays, write_arrays

EXPECTED = pathlib.Path(__file__).parent / "neurocombat.json"  # make_neurocombat.py makes it


def expected():
    made = {name: np.array(values) for name, values in json.loads(EXPECTED.read_text()).items()}
    return made | {"covariates": made["age"][:, None], "target": np.eye(2)[made["dx"]]}


@pytest.mark.parametrize(("name", "reference"), [("plain", ""), ("reference", "B")])
def test_harmonised_rows_equal_those_of_neurocombat(name, reference):
    table = expected()
    combat = Combat.fit(table["inputs"], table["sites"], table["covariates"], table["target"], reference=reference)
    made = combat.apply(table["inputs"], table["sites"], table["covariates"], table["target"])
    np.testing.assert_allclose(made, table[name], atol=5e-6)


def test_without_covariates_they_equal_those_of_neurocombat():
    table = expected()
    combat = Combat.fit(table["inputs"], table["sites"], table["covariates"][:, :0])
    np.testing.assert_allclose(combat.apply(table["inputs"], table["sites"]), table["no_covariates"], atol=5e-6)


def test_new_rows_equal_those_of_neurocombat_from_training():
    table = expected()
    combat = Combat.fit(table["inputs"], table["sites"], table["covariates"], table["target"])
    np.testing.assert_allclose(combat.apply(table["new_inputs"], table["new_sites"]), table["new_rows"], atol=5e-6)


def posterior_by_loop(values, sites, site, rounds=3000):
    """The equations of Johnson et al. 2007 for one site without covariates, feature by feature, row by row."""
    names, counts = np.unique(sites, return_counts=True)
    means = np.array([values[sites == name].mean(axis=0) for name in names])
    grand = sum(count * mean for count, mean in zip(counts, means, strict=True)) / len(values)
    pooled = np.zeros(values.shape[1])
    for row, name in zip(values, sites, strict=True):
        pooled += (row - means[list(names).index(name)]) ** 2 / len(values)
    standard = ((values - grand) / np.sqrt(pooled))[sites == site]
    count, gammas = len(standard), standard.mean(axis=0)
    deltas = standard.var(axis=0, ddof=1)
    theta = (deltas.mean() ** 2 + 2 * deltas.var(ddof=1)) / deltas.var(ddof=1)
    lam = (deltas.mean() ** 3 + deltas.mean() * deltas.var(ddof=1)) / deltas.var(ddof=1)
    location, variance = [], []
    for feature in range(values.shape[1]):
        gamma, delta = gammas[feature], deltas[feature]
        for _ in range(rounds):
            tau = gammas.var(ddof=1)
            gamma = (count * tau * gammas[feature] + delta * gammas.mean()) / (count * tau + delta)
            delta = (lam + 0.5 * sum((value - gamma) ** 2 for value in standard[:, feature])) / (count / 2 + theta - 1)
        location.append(gamma)
        variance.append(delta)
    return np.array(location), np.array(variance)


def test_estimates_equal_a_slow_loop_over_the_published_equations():
    table = expected()
    combat = Combat.fit(table["inputs"], table["sites"], table["covariates"][:, :0])
    location, variance = posterior_by_loop(table["inputs"], table["sites"], "C", rounds=200)
    np.testing.assert_allclose(combat.location[2], location, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(combat.scale[2] ** 2, variance, rtol=1e-5)


def test_streamed_estimates_equal_those_in_memory():
    table = expected()
    order = np.random.default_rng(0).permutation(len(table["sites"]))

    def stream():
        return ((order[i : i + 4], table["inputs"][order[i : i + 4]]) for i in range(0, len(order), 4))

    given = table["sites"], table["covariates"], table["target"]
    one, other = Combat.fit(table["inputs"], *given), Combat.fit_stream(stream, *given)
    for name, values in one.to_arrays().items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, other.to_arrays()[name], rtol=1e-6, atol=1e-9)


def test_units_of_a_feature_do_not_matter():
    table = expected()
    given = table["sites"], table["covariates"], table["target"]
    plain = Combat.fit(table["inputs"], *given).apply(table["inputs"], *given)
    other = Combat.fit(1e4 + 1e-3 * table["inputs"], *given).apply(1e4 + 1e-3 * table["inputs"], *given)
    np.testing.assert_allclose((other - 1e4) * 1e3, plain, atol=1e-5)


def longitudinal(seed, people=60, features=30, noise=(1.0, 1.0), gain=(1.0, 1.0)):
    """People of sites A and B, each scanned twice, two of three also at the other site, and the shift of B.

    The variance between persons is nine times that within a person. The older people are at B, so that the difference
    of the sites hangs on the slope of age, unless a person shows it.
    """
    random = np.random.default_rng(seed)
    home = np.arange(people) % 2
    travelling = np.flatnonzero(np.arange(people) % 3 < 2)
    person = np.concatenate([np.repeat(np.arange(people), 2), travelling])
    site = np.concatenate([np.repeat(home, 2), 1 - home[travelling]])
    age = (random.uniform(40, 60, people) + 18 * home)[person] + random.uniform(0, 2, len(person))
    shift, slope = np.linspace(-1, 1, features), 0.05 * np.linspace(-1, 1, features)
    own = 3 * random.normal(size=(people, features))[person]
    scans = own + np.array(noise)[site, None] * random.normal(size=(len(person), features))
    values = np.outer(age - 60, slope) + np.outer(site, shift) + np.array(gain)[site, None] * scans
    return values, np.array(["A", "B"])[site], age[:, None], person, shift


def shift_of(combat):
    return combat.deviation * (combat.location[1] - combat.location[0])


def test_people_scanned_at_two_sites_sharpen_the_sites_effects():
    errors = []
    for seed in range(6):
        values, site, age, person, shift = longitudinal(seed)
        for subject in (None, person):
            combat = Combat.fit(values, site, age, subject=subject)
            errors.append(np.sqrt(np.mean((shift_of(combat) - shift) ** 2)))
    ignored, known = np.reshape(errors, (6, 2)).T
    assert (known < ignored).all() and known.mean() < 0.7 * ignored.mean()
    assert combat.correlation.mean() == pytest.approx(0.9, abs=0.03)


def test_the_deviation_is_that_within_a_person():
    values, site, age, person, _ = longitudinal(0, people=300)
    combat = Combat.fit(values, site, age, subject=person)
    blind = Combat.fit(values, site, age)
    assert combat.deviation.mean() == pytest.approx(1, abs=0.03) and blind.deviation.mean() > 3
    noisy = longitudinal(0, people=300, noise=(1.0, 2.0))
    within, whole = (Combat.fit(*noisy[:3], subject=subject).scale for subject in (noisy[3], None))
    # 2 and sqrt(13 / 10) in truth. Of people who were at both sites, each row has the noise of both.
    assert np.median(within[1] / within[0]) > 1.4 > 1.2 > np.median(whole[1] / whole[0])


@pytest.mark.parametrize("change", [{"noise": (1.0, 2.0)}, {"gain": (1.0, 1.5)}])
def test_rows_of_all_sites_vary_alike_afterwards(change):
    """Whether a scanner adds noise or stretches all that it sees, which a single row does not show."""
    values, site, age, person, _ = longitudinal(1, people=400, **change)
    made = Combat.fit(values, site, age, subject=person).apply(values, site, age)
    design = np.column_stack([site == "A", site == "B", age])
    left = made - design @ np.linalg.lstsq(design, made, rcond=None)[0]
    ratio = left[site == "B"].std(axis=0) / left[site == "A"].std(axis=0)
    assert np.median(ratio) == pytest.approx(1, abs=0.05)


def test_estimates_with_persons_are_those_of_a_slow_loop():
    """Longitudinal ComBat (Beer et al. 2020), feature by feature, each variance over its degrees of freedom."""
    values, site, age, person, _ = longitudinal(2, features=4)
    combat = Combat.fit(values, site, age, subject=person)
    design = np.column_stack([site == "A", site == "B", age - age.mean()]).astype(float)
    same, share = person[:, None] == person, np.bincount(site == "B") / len(site)
    means, variances, known, free, deviations = [], [], [], [], []
    for feature in range(4):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = statsmodels.api.MixedLM(values[:, feature], design, groups=person).fit(reml=True, method="powell")
        inverse = np.linalg.inv(np.eye(len(site)) + fitted.cov_re.item() / fitted.scale * same)
        within = inverse @ (values[:, feature] - design @ fitted.fe_params)
        deviation = np.sqrt(within @ within / np.trace(inverse))
        deviations.append(deviation)
        means.append((fitted.fe_params[:2] - share @ fitted.fe_params[:2]) / deviation)
        for name in "AB":
            here = site == name
            kept = 1 / (1 + fitted.cov_re.item() / fitted.scale * same.sum(axis=0)[here])
            free.append(np.diag(inverse)[here].sum() - (kept**2).sum() / kept.sum())
            variances.append(within[here] @ within[here] / free[-1] / deviation**2)
            known.append(inverse[np.ix_(here, here)].sum())
    np.testing.assert_allclose(combat.deviation, deviations, rtol=1e-3)
    means, variances, known, free = (np.array(one).reshape(4, 2).T for one in (means, variances, known, free))
    for index in range(2):
        theta = (variances[index].mean() ** 2 + 2 * variances[index].var(ddof=1)) / variances[index].var(ddof=1)
        lam = variances[index].mean() * (theta - 1)
        location, squared = means[index].copy(), variances[index].copy()
        for _ in range(500):
            precision = known[index] / squared, 1 / means[index].var(ddof=1)
            location = (precision[0] * means[index] + precision[1] * means[index].mean()) / sum(precision)
            squares = free[index] * variances[index] + known[index] * (means[index] - location) ** 2
            squared = (lam + squares / 2) / ((free[index] + 1) / 2 + theta - 1)
        np.testing.assert_allclose(combat.location[index], location, rtol=2e-3, atol=2e-4)
        np.testing.assert_allclose(combat.scale[index] ** 2, squared, rtol=2e-3)


@pytest.mark.parametrize("given", [{}, {"reference": "B"}, {"location_only": True}])
def test_people_of_one_scan_change_no_digit(given):
    table = expected()
    columns = table["inputs"], table["sites"], table["covariates"], table["target"]
    plain = Combat.fit(*columns, **given).to_arrays()
    named = Combat.fit(*columns, subject=np.array([f"p{row}" for row in range(41)]), **given).to_arrays()
    for name, values in plain.items():
        np.testing.assert_array_equal(named[name], values, err_msg=name)
    np.testing.assert_array_equal(plain["spread"], plain["scale"])


@pytest.mark.parametrize("shared_ratio", [False, True])
def test_streamed_estimates_with_persons_equal_those_in_memory(shared_ratio):
    values, site, age, person, _ = longitudinal(3)
    order = np.random.default_rng(0).permutation(len(site))

    def stream():
        return ((order[i : i + 4], values[order[i : i + 4]]) for i in range(0, len(order), 4))

    given = {"subject": person, "shared_ratio": shared_ratio, "fit_on": np.arange(len(site)) % 7 > 0}
    one, other = Combat.fit(values, site, age, **given), Combat.fit_stream(stream, site, age, **given)
    for name, array in one.to_arrays().items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, other.to_arrays()[name], rtol=1e-6, atol=1e-9)


def test_rows_of_a_known_person_ask_for_nothing_and_move_as_others_do():
    values, site, age, person, _ = longitudinal(4)
    later = person % 2 == 1
    combat = Combat.fit(values, site, age, subject=person, fit_on=~later, reference="A")
    one_by_one = [combat.apply(values[row : row + 1], site[row : row + 1]) for row in np.flatnonzero(later)]
    np.testing.assert_array_equal(np.concatenate(one_by_one), combat.apply(values, site)[later])
    np.testing.assert_array_equal(combat.apply(values, site)[site == "A"], values[site == "A"])


def test_a_site_of_one_person_has_no_variance_of_its_own():
    values, site, age, person, _ = longitudinal(5)
    site = np.where(person == 0, "C", site)
    combat = Combat.fit(values, site, age, subject=person)
    np.testing.assert_array_equal(combat.spread[2], 1)
    assert np.isfinite(combat.apply(values, site)).all()


def test_columns_that_are_not_asked_for_stay_and_change_none_of_the_others():
    table = expected()
    given = table["sites"], table["covariates"], table["target"]
    category = np.eye(3)[np.arange(41) % 3]
    both = np.concatenate([table["inputs"], category], axis=1)
    combat = Combat.fit(both, *given, columns=np.arange(13) < 10)
    made = combat.apply(both, *given)
    np.testing.assert_allclose(made[:, :10], table["plain"], atol=5e-6)  # neuroCombat's, of the numbers alone
    np.testing.assert_array_equal(made[:, 10:], category)


def test_a_known_shift_and_gain_are_removed_and_the_effect_of_age_is_kept():
    random = np.random.default_rng(0)
    age = random.uniform(40, 80, 4000)[:, None]
    site = np.where(random.uniform(size=4000) < (age[:, 0] - 30) / 60, "B", "A")  # the older people are at site B
    slopes, noise = 0.05 * np.linspace(0, 1, 6), random.normal(size=(4000, 6))
    at_b = (site == "B")[:, None]
    shift, gain = np.where(at_b, np.linspace(-1, 1, 6), 0), np.where(at_b, 1.5, 1)
    seen = slopes * (age - 60) + shift + gain * noise
    made = Combat.fit(seen, site, age).apply(seen, site, age)
    of_a, of_b = (np.polyfit(age[site == name, 0] - 60, made[site == name], 1) for name in "AB")
    np.testing.assert_allclose(of_a[0], slopes, atol=0.006)
    np.testing.assert_allclose(of_b[0], slopes, atol=0.006)
    np.testing.assert_allclose(of_a[1], of_b[1], atol=0.08)
    left_over = made - slopes * (age - 60)
    np.testing.assert_allclose(left_over[site == "A"].std(axis=0), left_over[site == "B"].std(axis=0), rtol=0.03)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_reference_of_one_person_has_no_variance_to_give(rows):
    """Its pooled variance would be 0, and every feature would count as constant and stay as it is."""
    values = np.random.default_rng(5).normal(size=(20, 4))
    site = np.array(["GE"] * rows + ["Siemens"] * (20 - rows))
    person = np.array(["one"] * rows + [f"other {row}" for row in range(20 - rows)])
    with pytest.raises(ValueError, match="reference: fewer than two people of GE"):
        Combat.fit(values, site, np.zeros((20, 0)), reference="GE", subject=person)


def test_rows_of_the_reference_stay_bit_by_bit():
    table = expected()
    combat = Combat.fit(table["inputs"], table["sites"], table["covariates"], reference="A")
    made = combat.apply(table["inputs"], table["sites"])
    here = table["sites"] == "A"
    np.testing.assert_array_equal(made[here], table["inputs"][here])
    assert np.abs(made[~here] - table["inputs"][~here]).min() > 0


def test_effects_learnt_from_controls_are_those_of_the_controls_alone():
    table = expected()
    controls = table["dx"] == 0
    some = Combat.fit(table["inputs"], table["sites"], table["covariates"], fit_on=controls)
    alone = Combat.fit(table["inputs"][controls], table["sites"][controls], table["covariates"][controls])
    everyone = table["inputs"], table["sites"], table["covariates"]
    np.testing.assert_allclose(some.apply(*everyone), alone.apply(*everyone), rtol=1e-9)


def scanned(seed=0, rows=900, sites="ABC"):
    """Features as scanner A sees them, as each row's own scanner does, the sites, ages, and who is ill at B alone."""
    random = np.random.default_rng(seed)
    site, age = np.array(list(sites))[random.integers(0, len(sites), rows)], random.uniform(40, 80, (rows, 1))
    ill = (site == "B") & (random.uniform(size=rows) < 0.4)
    middle = 5 + np.outer(age - 60, np.linspace(-0.03, 0.03, 8)) - 1.5 * ill[:, None]
    truth = middle + random.normal(size=(rows, 8))
    gain, shift = {"A": 1.0, "B": 1.4, "C": 0.8, "D": 1.2}, {"A": 0.0, "B": 1.0, "C": -0.5, "D": 2.0}
    seen = np.stack(
        [one + shift[name] + gain[name] * (row - one) for row, one, name in zip(truth, middle, site, strict=True)]
    )
    return truth, seen, site, age, ill


def test_other_sites_come_back_as_the_reference_would_have_seen_them():
    _, seen, site, age, ill = scanned()
    combat = Combat.fit(seen, site, age, ill[:, None].astype(float), reference="A")
    truth, others, their_site, their_age, their_ill = scanned(seed=1)
    made = combat.apply(others, their_site, their_age, their_ill[:, None].astype(float))
    np.testing.assert_array_equal(made[their_site == "A"], others[their_site == "A"])
    for name in "BC":
        here = their_site == name
        errors = [np.sqrt(np.mean((values - truth)[here] ** 2)) for values in (made, others)]
        assert errors[0] < 0.35 * errors[1]


def test_a_disease_that_nobody_named_is_kept_if_effects_are_learnt_from_controls():
    _, seen, site, age, ill = scanned()
    loss = []
    for fit_on in (~ill, None):
        combat = Combat.fit(seen, site, age, reference="A", fit_on=fit_on, location_only=True)
        made = combat.apply(seen, site)
        loss.append((made[ill] - made[site == "A"].mean(axis=0)).mean())
    assert loss[0] == pytest.approx(-1.5, abs=0.15) and loss[1] > -1.3


def test_a_table_of_partly_other_sites_goes_through_one_saved_model(tmp_path):
    _, seen, site, age, ill = scanned()
    fitted = Combat.fit(seen, site, age, ill[:, None].astype(float), reference="A")
    write_arrays(tmp_path / "combat.npz", fitted.to_arrays())
    combat = Combat.from_arrays(read_arrays(tmp_path / "combat.npz"))
    truth, others, their_site, their_age, _ = scanned(seed=2, sites="CD")
    made = combat.apply(others, their_site, their_age)
    known = their_site == "C"
    np.testing.assert_array_equal(made[~known], others[~known])
    errors = [np.sqrt(np.mean((values - truth)[known] ** 2)) for values in (made, others)]
    assert errors[0] < 0.35 * errors[1]
    alone = combat.apply(others[known], their_site[known], their_age[known])
    np.testing.assert_array_equal(made[known], alone)


def test_constant_features_unknown_sites_and_single_rows_are_left_alone():
    random = np.random.default_rng(0)
    inputs = random.normal(size=(21, 5))
    inputs[:, 1], inputs[:, 3] = 0.1, 0
    site = np.array(["A"] * 10 + ["B"] * 8 + [""] + ["C"] + ["A"])
    combat = Combat.fit(inputs, site, np.zeros((21, 0)))
    made = combat.apply(inputs, np.append(site[:-1], "new"))
    np.testing.assert_array_equal(made[:, [1, 3]], inputs[:, [1, 3]])
    np.testing.assert_array_equal(made[[18, 20]], inputs[[18, 20]])
    np.testing.assert_array_equal(combat.scale[2], 1)
    assert np.isfinite(made).all()


def test_location_alone_leaves_the_scale():
    table = expected()
    combat = Combat.fit(table["inputs"], table["sites"], table["covariates"], location_only=True)
    made = combat.apply(table["inputs"], table["sites"], table["covariates"])
    for site in "ABC":
        here = table["sites"] == site
        np.testing.assert_allclose(made[here].std(axis=0), table["inputs"][here].std(axis=0), rtol=1e-10)


def test_estimates_are_the_same_after_a_file(tmp_path):
    table = expected()
    combat = Combat.fit(table["inputs"], table["sites"], table["covariates"], table["target"], reference="B")
    write_arrays(tmp_path / "combat.npz", combat.to_arrays())
    arrays = read_arrays(tmp_path / "combat.npz")
    read = Combat.from_arrays(arrays)
    everyone = table["inputs"], table["sites"], table["covariates"]
    np.testing.assert_array_equal(combat.apply(*everyone), read.apply(*everyone))
    assert read.sites == combat.sites and read.reference == "B"
    older = Combat.from_arrays({name: arrays[name] for name in arrays.keys() - {"spread", "correlation"}})
    np.testing.assert_array_equal(older.apply(*everyone), read.apply(*everyone))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": np.full(41, "")}, "no row with a known site"),
        ({"fit_on": np.zeros(41, bool)}, "no row with a known site"),
        ({"reference": "Z"}, "reference: no row of Z to learn from, expected one of A, B, C"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, message):
    table = expected()
    given = {"inputs": table["inputs"], "site": table["sites"], "covariates": table["covariates"]} | change
    with pytest.raises(ValueError, match=message):
        Combat.fit(**given)
