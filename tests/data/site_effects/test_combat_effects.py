import json
import pathlib

import numpy as np
import pytest

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
    read = Combat.from_arrays(read_arrays(tmp_path / "combat.npz"))
    everyone = table["inputs"], table["sites"], table["covariates"]
    np.testing.assert_array_equal(combat.apply(*everyone), read.apply(*everyone))
    assert read.sites == combat.sites and read.reference == "B"


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
