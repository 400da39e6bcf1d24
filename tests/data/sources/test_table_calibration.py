"""The site calibration that a config asks for: training rows alone, a reference, controls, repeated scans."""

import dataclasses

import numpy as np
import pytest

from eqpool.config import default_config
from eqpool.config.check import from_config_dict
from eqpool.data.cohort import Cohort
from eqpool.data.load import load_cohort
from eqpool.data.sources.table_calibration import with_combat
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.inputs import TableInputs
from eqpool.errors import InputError
from tests.data.tables.test_participants import config, write

HEADER = "participant_id\tsite\tage\tdx\tthickness\tvolume\tsplit"


def rows(count=120, seed=0, split=lambda row: "train" if row < 90 else "test"):
    """Site B adds 3 to the thickness and doubles the volume. Patients, all of them at B, lose 1 of both."""
    random, lines = np.random.default_rng(seed), []
    for row in range(count):
        at_b, ill = row % 2, row % 6 == 1
        thickness, volume = random.normal(size=2) - ill
        lines.append(
            f"sub-{row}\t{'AB'[at_b]}\t{random.uniform(20, 80):.1f}\t{'ill' if ill else 'well'}"
            f"\t{thickness + 3 * at_b:.5f}\t{100 + volume * (1 + at_b):.5f}\t{split(row)}"
        )
    return lines


def cohort_of(folder, lines, **changes):
    return load_cohort(config(write(folder, lines, header=HEADER), features="thickness,volume", **changes), folder)


def test_training_rows_alone_are_used(tmp_path):
    lines = rows()
    changed = [line.replace("\t10", "\t90").replace("\t9", "\t80") if line.endswith("test") else line for line in lines]
    assert changed != lines
    first, second = (cohort_of(tmp_path, given, site_calibration="auto") for given in (lines, changed))
    train = first.rows("train")
    np.testing.assert_array_equal(first.inputs[train], second.inputs[train])
    assert not np.array_equal(first.inputs, second.inputs)
    plain = cohort_of(tmp_path, lines)
    assert not np.array_equal(plain.inputs[train], first.inputs[train])


def test_what_is_corrected_is_said(tmp_path):
    cohort = cohort_of(tmp_path, rows(), site_calibration="auto", reference="A")
    (note,) = [note for note in cohort.notes if note.startswith("site calibration (auto): location, scale (A ")]
    assert note.endswith("shared covariance; A is the reference")
    failed = [line.replace("sub-", "s-") for line in rows()]
    failed = ["\t".join([*(c := line.split("\t"))[:4], "0" if c[1] == "B" else c[4], *c[5:]]) for line in failed]
    notes = cohort_of(tmp_path, failed, site_calibration="location_scale").notes
    assert "site B: thickness have one value there and stay unchanged" in notes


def test_rows_of_one_participant_share_a_random_effect(tmp_path):
    """Site B is 3 thicker. Two of three people are scanned at both sites, and differ more than their scans do."""
    random, lines, person, site = np.random.default_rng(0), [], [], []
    for one in range(90):
        own, age = 3 * random.normal(size=2), random.uniform(20, 80)
        for visit in range(2):
            at_b = (one + visit) % 2 if one % 3 else one % 2
            thickness, volume = own + random.normal(size=2)
            lines.append(
                f"sub-{one}\t{'AB'[at_b]}\t{age:.1f}\t{'ill' if one % 4 < 2 else 'well'}"
                f"\t{thickness + 3 * at_b:.5f}\t{volume:.5f}\ttrain\tses-{visit}"
            )
            person.append(one), site.append("AB"[at_b])
    path = write(tmp_path, lines, header=f"{HEADER}\tsession_id")
    cohort = load_cohort(config(path, features="thickness,volume", site_calibration="location"), tmp_path)
    calibration = cohort.table.calibration
    assert calibration.correlation == pytest.approx(0.9, abs=0.05)
    assert any("of a person's rows" in note for note in cohort.notes)
    named = SiteCalibration.fit(
        cohort.table.encoded, np.array(site), cohort.covariates, cohort.target_columns,
        method="location", subject=np.array(person),
    )  # fmt: skip
    np.testing.assert_allclose(calibration.apply(cohort.table.encoded, np.array(site)), cohort.inputs)
    np.testing.assert_allclose(named.apply(cohort.table.encoded, np.array(site)), cohort.inputs, atol=1e-6)
    shift = (calibration.sites["B"].shift - calibration.sites["A"].shift) * _deviation(lines)
    np.testing.assert_allclose(shift, [3, 0], atol=0.4)  # people alone would have a standard error of 0.5


def test_a_reference_site_comes_back_unchanged_and_the_others_take_its_look(tmp_path):
    lines = rows(600, split=lambda row: "train" if row < 500 else "test")
    cohort, plain = (
        cohort_of(tmp_path, lines, **given) for given in ({"site_calibration": "auto", "reference": "A"}, {})
    )
    at_a, well = cohort.site == 0, cohort.target == cohort.target_classes.index("well")
    np.testing.assert_array_equal(cohort.inputs[at_a], plain.inputs[at_a])
    for moment in (np.mean, np.std):
        np.testing.assert_allclose(
            moment(cohort.inputs[~at_a & well], axis=0), moment(plain.inputs[at_a], axis=0), atol=0.12
        )


def test_effects_are_learnt_from_the_controls_that_a_column_names(tmp_path):
    """Nothing but `fit_on` shows that a third of site B is ill, because the target is another column."""
    lines = [f"{line}\t{'xy'[row // 2 % 2]}" for row, line in enumerate(rows(600, split=lambda row: "train"))]
    path = write(tmp_path, lines, header=f"{HEADER}\tgroup")
    base = config(path, features="thickness,volume", target="group", site_calibration="auto", reference="A")
    of_controls, of_all = (
        load_cohort(dataclasses.replace(base, fit_on=fit_on), tmp_path) for fit_on in ("dx:well", "")
    )
    ill = np.arange(600) % 6 == 1
    shifts = [
        (one.inputs[ill] - one.inputs[one.site == 0].mean(axis=0)).mean(axis=0) * deviation
        for one, deviation in ((of_controls, _deviation(lines)), (of_all, _deviation(lines)))
    ]
    np.testing.assert_allclose(shifts[0], -1.0, atol=0.25)  # the disease
    assert np.all(shifts[1] > -0.8)  # of which a third passes for the scanner's doing


def _deviation(lines):
    return np.array([line.split("\t")[4:6] for line in lines], float).std(axis=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fit_on": "dx"}, 'config.data.fit_on = "dx": expected column:label, such as dx:CN'),
        ({"fit_on": "dx:CN"}, 'config.data.fit_on = "dx:CN": no row has CN in dx, expected one of ill, well'),
        ({"fit_on": "group:CN"}, "group"),
        ({"reference": "C"}, 'config.data.reference = "C": expected a site of training rows: A, B'),
        ({"reference": "A", "fit_on": "dx:ill"}, 'config.data.reference = "A": expected a site of training rows: B'),
    ],
)
def test_keys_that_cannot_be_met_are_refused_in_one_line(tmp_path, changes, message):
    with pytest.raises(InputError) as caught:
        cohort_of(tmp_path, rows(), **({"site_calibration": "auto"} | changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("method", "chosen"), [("ours", "auto"), ("naive", "none"), ("mmd", "none")])
def test_a_method_calibrates_by_itself_or_not(method, chosen):
    given = default_config()
    given.method, given.data.participants, given.data.site_calibration = method, "x.tsv", "by_method"
    assert from_config_dict(given).data.site_calibration == chosen
    given.data.site_calibration = "location"  # asked for
    assert from_config_dict(given).data.site_calibration == "location"


def test_combat_of_a_public_table_learns_from_training_rows_and_needs_no_target_of_others():
    random, count = np.random.default_rng(0), 400
    site, target = np.arange(count, dtype=np.int32) % 2, (np.arange(count, dtype=np.int32) // 2) % 2
    age = random.uniform(20, 80, count)
    noise = random.normal(size=(count, 6))
    inputs = 0.2 * target[:, None] + age[:, None] / 200 + (1 + site)[:, None] * noise + 3 * site[:, None]
    made = Cohort(
        name="made up", simulated=True, participant_id=np.arange(count).astype(str), inputs=inputs.astype(np.float32),
        site=site, site_names=("A", "B"), covariates=age[:, None], covariate_names=("age",), target=target,
        target_name="y", target_classes=("no", "yes"), split=np.where(np.arange(count) < 300, "train", "test"),
        table=TableInputs(tuple("abcdef"), inputs.astype(np.float32)),
    )  # fmt: skip
    corrected = with_combat(made)
    test = made.rows("test")
    means = [corrected.inputs[test][site[test] == one].mean() for one in (0, 1)]
    deviations = [corrected.inputs[test][site[test] == one].std() for one in (0, 1)]
    assert abs(means[0] - means[1]) < 0.2 and abs(deviations[0] / deviations[1] - 1) < 0.1
    np.testing.assert_array_equal(corrected.uncalibrated, made.inputs)
    others = dataclasses.replace(made, target=np.where(made.split == "test", 1 - target, target).astype(np.int32))
    np.testing.assert_array_equal(with_combat(others).inputs, corrected.inputs)


def test_combat_of_a_participants_table_is_a_method_of_its_own(tmp_path):
    with pytest.raises(InputError, match='site_calibration = "combat": expected another value .* config.method = comb'):
        cohort_of(tmp_path, rows(), site_calibration="combat")
