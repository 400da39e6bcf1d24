"""The calibration of volumes against float64 loops, and against scanners whose effects are known."""

import numpy as np
import pytest
from scipy import ndimage

from eqpool.data.site_effects import shading as shadings
from eqpool.data.site_effects import voxel_estimates
from eqpool.data.site_effects.noise_contrasts import noise_weights
from eqpool.data.site_effects.shading import Shading
from eqpool.data.site_effects.smoothing import BrainSmoother
from eqpool.data.site_effects.voxelwise import VoxelCalibration
from eqpool.errors import InputError

SHAPE = (8, 9, 7)
VOXEL_MM = np.array([4.0, 4.0, 5.0])
ROWS = 120


def brain_mask():
    points = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij"))
    return (points**2).sum(axis=0) < 1


MASK = brain_mask()
VOXELS = int(MASK.sum())
SMOOTH = np.cos(np.argwhere(MASK) / 4).prod(axis=1)
LOCAL = ndimage.gaussian_filter(np.eye(1, VOXELS, VOXELS // 3)[0], 12)  # a few voxels along the mask
LOCAL /= LOCAL.max()


def people(rows=ROWS, seed=0, sites=("a", "b", "c")):
    """Volumes (N, V) without a scanner and with their site's offset and scale, and what else is known of them."""
    random = np.random.default_rng(seed)
    site = np.array([sites[index] for index in random.integers(0, len(sites), rows)])
    age = random.uniform(50, 80, rows) + 4 * (site == sites[0])
    ill = random.integers(0, 2, rows).astype(float)
    own = random.normal(0, 0.4, (rows, VOXELS))
    truth = np.linspace(-1, 2, VOXELS) + np.outer(age - 65, -0.04 * LOCAL) + np.outer(ill, 0.5 * LOCAL) + own
    offset, scale = {"a": 0.8, "b": -0.5, "c": 0.1, "new": 1.2}, {"a": 1.4, "b": 0.8, "c": 1.0, "new": 1.3}
    middle = np.linspace(-1, 2, VOXELS)
    scanned = np.stack(
        [middle + (row - middle) * scale[name] + offset[name] * SMOOTH for row, name in zip(truth, site, strict=True)]
    )
    return truth, scanned.astype(np.float32), site, age[:, None], ill[:, None]


def stream(values, rows=None, chunk=7):
    rows = np.arange(len(values)) if rows is None else rows
    return lambda: (
        (rows[start : start + chunk], values[rows[start : start + chunk]]) for start in range(0, len(rows), chunk)
    )


def fit(scanned, site, age, ill, *, open_stream=None, **settings):
    settings = {"mask": MASK, "voxel_mm": VOXEL_MM, "zero": -3.0} | settings
    return VoxelCalibration.fit_stream(open_stream or stream(scanned), site, age, ill, **settings)


def on_grid(values):
    volume = np.zeros(SHAPE, np.float32)
    volume[MASK] = values
    return volume


def applied(calibration, scanned, site):
    return np.stack([calibration.apply(on_grid(row), name)[MASK] for row, name in zip(scanned, site, strict=True)])


def loop_of_location_and_scale(scanned, site, age, ill):
    """Location and log-scale in float64 loops over voxels, by another least-squares solver."""
    names = np.unique(site)
    member = np.stack([site == name for name in names], axis=1).astype(float)
    design = np.concatenate([member, age - age.mean(), ill - ill.mean()], axis=1)
    counts = member.sum(axis=0)
    location, log_scale = np.zeros((2, len(names), VOXELS))
    mean = np.zeros(VOXELS)
    squares, pooled = np.zeros((len(names), VOXELS)), np.zeros(VOXELS)
    for voxel in range(VOXELS):
        values = scanned[:, voxel].astype(float)
        found = np.linalg.lstsq(design, values, rcond=None)[0]
        left = values - design @ found
        mean[voxel] = counts @ found[: len(names)] / counts.sum()
        location[:, voxel] = found[: len(names)] - mean[voxel]
        squares[:, voxel] = [np.sum(left[site == name] ** 2) for name in names]
        pooled[voxel] = squares[:, voxel].sum() / (counts - 1).sum()
    least = 1e-3 * pooled.mean()
    for index, count in enumerate(counts):
        log_scale[index] = np.log((squares[index] / (count - 1) + least) / (pooled + least)) / 2

    def smooth(values, width=4.0):
        volume = np.zeros(SHAPE)
        volume[MASK] = values
        weight = ndimage.gaussian_filter(MASK.astype(float), width / VOXEL_MM, mode="constant")
        return (ndimage.gaussian_filter(volume, width / VOXEL_MM, mode="constant") / weight)[MASK]

    def left(values):
        return values - smooth(values)

    def kept(values, noise):
        """The smooth part, and of the rest the share of its square around each voxel that is not noise."""
        share = 1 - noise / smooth(left(values) ** 2, 12.0)
        return smooth(values) + np.where(share > 0, share, 0) * left(values)

    contrasts = noise_weights(design[:, len(names) :], np.searchsorted(names, site), len(names)) @ scanned.astype(float)
    of_row = [smooth((left(first) ** 2 + left(second) ** 2) / 2, 12.0) for first, second in contrasts]
    of_mean = [sum((n / len(site)) ** 2 * row / n for n, row in zip(counts, of_row, strict=True)) for _ in names]
    for index, count in enumerate(counts):
        unsure = of_row[index] / count * (1 - 2 * count / len(site)) + of_mean[index]
        location[index] = kept(location[index], unsure) * count / (count + voxel_estimates.LOCATION_PRIOR_ROWS)
        first, second = contrasts[index] / np.sqrt(smooth((contrasts[index] ** 2).mean(axis=0), 12.0))
        of_log = smooth(left((first**2 - second**2) / 2) ** 2, 12.0) / (2 * (count - 1))
        log_scale[index] = kept(log_scale[index], of_log) * count / (count + voxel_estimates.SCALE_PRIOR_ROWS)
    return mean, location, log_scale


def test_location_and_scale_equal_a_float64_loop(monkeypatch):
    monkeypatch.setattr(shadings, "SHARE", 0.0)  # what shading leaves is tested by itself
    _, scanned, site, age, ill = people()
    calibration = fit(scanned, site, age, ill)
    mean, location, log_scale = loop_of_location_and_scale(scanned, site, age, ill)
    np.testing.assert_allclose(calibration.mean, mean, atol=1e-9)
    np.testing.assert_allclose(calibration.location, location, atol=1e-6)
    np.testing.assert_allclose(calibration.log_scale, log_scale, atol=1e-6)
    row = 3
    index = calibration.sites.index(site[row])
    by_hand = mean + (scanned[row] - location[index] - mean) / np.exp(log_scale[index])
    np.testing.assert_allclose(calibration.apply(on_grid(scanned[row]), site[row])[MASK], by_hand, atol=1e-5)


def test_noise_contrasts_have_no_effect_of_terms_and_the_variance_of_a_row():
    random = np.random.default_rng(0)
    site, terms = np.append(np.repeat([0, 1], 40), [2, 2, -1]), random.normal(size=(83, 2))
    weights = noise_weights(terms, site, 3)
    assert weights.shape == (3, 2, 83) and not weights[2].any() and not weights[:, :, -1].any()
    for index in (0, 1):
        here = site == index
        assert not weights[index][:, ~here].any()
        np.testing.assert_allclose(weights[index] @ np.column_stack([here, terms * here[:, None]]), 0, atol=1e-12)
        np.testing.assert_allclose((weights[index] ** 2).sum(axis=1), 1)


@pytest.mark.parametrize("rows", [60, 600])
def test_an_effect_of_single_voxels_is_removed_as_far_as_the_rows_show_it(rows):
    """Each voxel has an offset of its own. Few rows show little of it, and then less is removed than is noise."""
    effect = np.random.default_rng(5).normal(0, 0.15, VOXELS)
    random = np.random.default_rng(rows)
    site = np.resize(["a", "b"], rows)
    scanned = random.normal(size=(rows, VOXELS)) + np.where(site == "a", 1, -1)[:, None] * effect
    found = fit(scanned.astype(np.float32), site, np.zeros((rows, 0)), None, scales=False).location[0]
    plain = (scanned[site == "a"].mean(axis=0) - scanned[site == "b"].mean(axis=0)) / 2
    errors = [np.mean((values - effect) ** 2) for values in (found, plain, np.zeros(VOXELS))]
    assert errors[0] < {60: 0.8, 600: 0.97}[rows] * errors[1] and errors[0] < {60: 0.9, 600: 0.2}[rows] * errors[2]


def test_pure_noise_is_hardly_taken_for_an_effect_of_single_voxels():
    random = np.random.default_rng(6)
    site = np.resize(["a", "b", "c"], 90)
    calibration = fit(random.normal(size=(90, VOXELS)).astype(np.float32), site, np.zeros((90, 0)), None)
    assert np.mean(calibration.location**2) < 0.3 / 30
    assert np.mean(calibration.log_scale**2) < 0.3 / 60


def travellers(seed, rows=60):
    """People who differ much more than their scans do, a third of whom are scanned at both sites."""
    random = np.random.default_rng(seed)
    person = np.append(np.arange(rows), np.arange(0, rows, 3))
    at_c = np.append(np.arange(rows) % 2 == 1, np.arange(0, rows, 3) % 2 == 0)
    own, noise = random.normal(0, 2.4, (rows, VOXELS)), random.normal(0, 0.4, (len(person), VOXELS))
    scanned = own[person] + noise + np.where(at_c, 0.3, -0.3)[:, None] * SMOOTH
    age, ill = random.uniform(50, 80, (rows, 1)), random.integers(0, 2, (rows, 1)).astype(float)
    return scanned.astype(np.float32), np.where(at_c, "c", "b"), age[person], ill[person], person


def test_people_scanned_at_two_sites_sharpen_the_effects_of_voxels():
    errors = []
    for seed in range(4):
        scanned, site, age, ill, person = travellers(seed)
        for subject in (None, person):
            calibration = fit(scanned, site, age, ill, scales=False, subject=subject)
            difference = calibration.location[1] - calibration.location[0]
            errors.append(np.sqrt(np.mean((difference - 0.6 * SMOOTH) ** 2)))
    ignored, known = np.reshape(errors, (4, 2)).mean(axis=0)
    assert known < 0.6 * ignored


@pytest.mark.parametrize("scales", [False, True])
def test_volumes_of_travellers_may_come_in_any_order(scales):
    scanned, site, age, ill, person = travellers(0)
    given = {"subject": person, "scales": scales}
    whole = fit(scanned, site, age, ill, open_stream=lambda: [(np.arange(len(site)), scanned)], **given)
    shuffled = np.random.default_rng(1).permutation(len(site))
    chunked = fit(scanned, site, age, ill, open_stream=stream(scanned, shuffled), **given)
    for name in ("mean", "variance", "location", "log_scale", "coefficients"):
        np.testing.assert_allclose(getattr(chunked, name), getattr(whole, name), atol=1e-7, err_msg=name)


def test_people_of_one_volume_change_no_digit():
    _, scanned, site, age, ill = people()
    plain, named = (fit(scanned, site, age, ill, subject=one) for one in (None, np.arange(ROWS).astype(str)))
    for name, values in plain.to_arrays().items():
        np.testing.assert_array_equal(named.to_arrays()[name], values, err_msg=name)


def test_the_scale_is_that_of_whole_scans_also_of_people_scanned_twice():
    """The same people at the same site twice: as many people, and so the same scale as from one scan of each."""
    _, scanned, site, age, ill = people(200)
    random = np.random.default_rng(0)
    twice = np.repeat(np.arange(200), 2)
    again = scanned[twice] + random.normal(0, 0.02, (400, VOXELS))
    once = fit(scanned, site, age, ill)
    known, blind = (fit(again, site[twice], age[twice], ill[twice], subject=one) for one in (twice, None))
    gaps = [np.abs(one.log_scale - once.log_scale).mean() for one in (known, blind)]
    assert gaps[0] < 0.004 and gaps[0] < 0.15 * gaps[1]


def test_controls_scanned_twice_count_once():
    _, scanned, site, age, ill = people()
    calibration = fit(scanned, site, age, ill)
    _, controls, _, their_age, their_ill = people(12, seed=3, sites=("new",))
    once = calibration.with_site("new", controls, their_age, their_ill)
    twice = np.repeat(np.arange(12), 2)
    again = calibration.with_site("new", controls[twice], their_age[twice], their_ill[twice], twice.astype(str))
    np.testing.assert_allclose(again.location, once.location, atol=1e-9)
    np.testing.assert_allclose(again.log_scale, once.log_scale, atol=1e-9)
    blind = calibration.with_site("new", controls[twice], their_age[twice], their_ill[twice])
    assert not np.allclose(blind.location, once.location, atol=1e-5)


@pytest.mark.parametrize("scales", [False, True])
def test_streamed_equals_in_memory_whatever_the_chunks_and_their_order(scales):
    _, scanned, site, age, ill = people()
    whole = fit(scanned, site, age, ill, open_stream=lambda: [(np.arange(ROWS), scanned)], scales=scales)
    shuffled = np.random.default_rng(1).permutation(ROWS)
    chunked = fit(scanned, site, age, ill, open_stream=stream(scanned, shuffled), scales=scales)
    for name in ("mean", "variance", "location", "log_scale", "coefficients"):
        np.testing.assert_allclose(getattr(chunked, name), getattr(whole, name), atol=1e-8, err_msg=name)
    volume = on_grid(scanned[0])
    np.testing.assert_allclose(chunked.predict_site(volume), whole.predict_site(volume), atol=1e-6)


def test_known_scanners_are_undone_in_people_who_were_not_fitted():
    _, scanned, site, age, ill = people(300)
    calibration = fit(scanned, site, age, ill)
    truth, others, their_site, *_ = people(90, seed=1)
    error = [np.sqrt(np.mean((values - truth) ** 2)) for values in (others, applied(calibration, others, their_site))]
    assert error[1] < 0.6 * error[0]


def test_location_alone_leaves_the_scale_and_the_shading():
    _, scanned, site, age, ill = people()
    calibration = fit(scanned, site, age, ill, scales=False)
    assert calibration.shading is None and not calibration.log_scale.any()
    changes = applied(calibration, scanned, site) - scanned
    for name in calibration.sites:
        here = changes[site == name]
        np.testing.assert_allclose(here - here[0], 0, atol=1e-5)


def test_the_effects_of_age_and_target_are_kept():
    truth, scanned, site, age, ill = people(300)
    made = applied(fit(scanned, site, age, ill), scanned, site)
    design = np.concatenate([np.ones((len(age), 1)), age, ill], axis=1)
    slopes = [np.linalg.lstsq(design, values, rcond=None)[0][1:] @ LOCAL / (LOCAL @ LOCAL) for values in (made, truth)]
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=0.2)


def test_the_reference_comes_back_as_it_is_and_the_others_take_its_look():
    _, scanned, site, age, ill = people(300)
    calibration = fit(scanned, site, age, ill, reference="a")
    own = on_grid(scanned[site == "a"][0])
    assert calibration.apply(own, "a").tobytes() == own.tobytes()
    made = applied(calibration, scanned, site)
    for name in ("b", "c"):
        before, after = (
            np.abs(values[site == name].mean(axis=0) - scanned[site == "a"].mean(axis=0)).mean()
            for values in (scanned, made)
        )
        assert after < 0.5 * before
    with pytest.raises(ValueError, match="reference: no row of z to learn from, expected one of a, b, c"):
        fit(scanned, site, age, ill, reference="z")


def test_rows_without_a_site_are_not_learnt_from_and_need_not_be_streamed():
    _, scanned, site, age, ill = people()
    known = np.arange(0, ROWS, 2)
    half = np.where(np.isin(np.arange(ROWS), known), site, "")
    few = fit(scanned[known], site[known], age[known], ill[known])
    some = fit(scanned, half, age, ill, open_stream=stream(scanned, known))
    every = fit(scanned, half, age, ill)
    for other in (some, every):
        np.testing.assert_allclose(other.location, few.location, atol=1e-9)
        np.testing.assert_allclose(other.mean, few.mean, atol=1e-9)
    with pytest.raises(ValueError, match="no row with a known site"):
        fit(scanned, np.full(ROWS, ""), age, ill)


def test_a_disease_that_nobody_named_is_kept_if_effects_are_learnt_from_controls():
    """Half of site b is ill, which is known but not given. Rows that are not learnt from have no site in the fit."""
    _, scanned, site, age, _ = people(300)
    ill = (site == "b") & (np.arange(300) % 2 == 1)
    scanned = scanned - np.float32(0.5) * ill[:, None] * SMOOTH
    kept = []
    for learnt in (np.where(ill, "", site), site):
        made = applied(fit(scanned, learnt, age, None, scales=False), scanned, site)
        difference = made[ill].mean(axis=0) - made[site == "c"].mean(axis=0)
        kept.append(difference @ SMOOTH / (SMOOTH @ SMOOTH))
    assert kept[0] < -0.45 and kept[1] > -0.4  # half of the -0.5 passes for the scanner's doing if all are learnt from


def test_volumes_of_partly_other_sites_go_through_one_saved_calibration(tmp_path):
    _, scanned, site, age, ill = people(300)
    np.savez(tmp_path / "calibration.npz", **fit(scanned, site, age, ill).to_arrays())
    stored = VoxelCalibration.from_arrays(dict(np.load(tmp_path / "calibration.npz")))
    _, controls, _, their_age, their_ill = people(30, seed=3, sites=("new",))
    calibration = stored.with_site("new", controls, their_age, their_ill)
    truth, others, names, *_ = people(90, seed=4, sites=("b", "new"))
    made = applied(calibration, others, names)
    for name in ("b", "new"):
        here = names == name
        errors = [np.sqrt(np.mean((values - truth)[here] ** 2)) for values in (made, others)]
        assert errors[0] < 0.7 * errors[1]
    np.testing.assert_array_equal(made[names == "b"], applied(stored, others, names)[names == "b"])


def test_the_site_of_an_unknown_row_is_predicted_and_its_effects_removed():
    _, scanned, site, age, ill = people(300)
    calibration = fit(scanned, site, age, ill)
    truth, others, their_site, *_ = people(60, seed=2)
    odds = np.stack([calibration.predict_site(on_grid(row)) for row in others])
    np.testing.assert_allclose(odds.sum(axis=1), 1)
    assert np.mean(np.array(calibration.sites)[odds.argmax(axis=1)] == their_site) > 0.9
    for name in ("", "never seen"):
        made = applied(calibration, others, np.full(len(others), name))
        assert np.mean((made - truth) ** 2) < 0.4 * np.mean((others - truth) ** 2)


def test_pure_noise_predicts_no_site_with_confidence():
    """The directions are fitted without the sites, so that many voxels and few rows do not make the odds too sure."""
    random = np.random.default_rng(0)
    noise = random.normal(size=(60, VOXELS)).astype(np.float32)
    site = np.resize(["a", "b"], 60)
    calibration = fit(noise, site, np.zeros((60, 0)), None)
    odds = np.stack([calibration.predict_site(on_grid(row)) for row in random.normal(size=(40, VOXELS))])
    assert np.median(odds.max(axis=1)) < 0.9


@pytest.mark.parametrize("count", [1, 4, 12, 40])
def test_a_few_controls_of_a_new_scanner_bring_it_closer_to_the_truth(count):
    _, scanned, site, age, ill = people(300)
    calibration = fit(scanned, site, age, ill)
    _, controls, _, their_age, their_ill = people(count, seed=3, sites=("new",))
    added = calibration.with_site("new", controls, their_age, their_ill)
    assert added.sites == ("a", "b", "c", "new") and calibration.sites == ("a", "b", "c")
    np.testing.assert_array_equal(added.location[:3], calibration.location)
    truth, others, names, *_ = people(60, seed=4, sites=("new",))
    error = [np.mean((values - truth) ** 2) for values in (others, applied(added, others, names))]
    assert error[1] < {1: 0.8, 4: 0.5, 12: 0.35, 40: 0.3}[count] * error[0]


def test_controls_of_a_known_site_replace_it_and_a_missing_target_is_the_mean():
    _, scanned, site, age, ill = people()
    calibration = fit(scanned, site, age, ill)
    again = calibration.with_site("b", scanned[:9], age[:9])
    assert again.sites == calibration.sites and again.rows[1] == 9
    np.testing.assert_array_equal(again.location[[0, 2]], calibration.location[[0, 2]])
    unknown = calibration.with_site("b", scanned[:9], age[:9], np.full((9, 1), np.nan))
    np.testing.assert_array_equal(unknown.location, again.location)


def test_arrays_bring_the_calibration_back(tmp_path):
    _, scanned, site, age, ill = people()
    for settings in ({}, {"scales": False}, {"reference": "c"}):
        calibration = fit(scanned, site, age, ill, **settings)
        np.savez(tmp_path / "calibration.npz", **calibration.to_arrays())
        back = VoxelCalibration.from_arrays(dict(np.load(tmp_path / "calibration.npz")))
        assert back.sites == calibration.sites and back.reference == calibration.reference
        for name in ("a", "", "c"):
            volume = on_grid(scanned[0])
            np.testing.assert_allclose(back.apply(volume, name), calibration.apply(volume, name), atol=2e-4)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda arrays: arrays.pop("location"), "here: .*lacks or misnames 'location'"),
        (lambda arrays: arrays.update(location=arrays["location"][:, :-1]), "here: effects of shape .*, expected"),
        (lambda arrays: arrays.pop("discriminant/means"), "here: .*lacks or misnames .*means"),
    ],
)
def test_damaged_arrays_are_refused_in_one_line(change, expected):
    _, scanned, site, age, ill = people(40)
    arrays = fit(scanned, site, age, ill).to_arrays()
    change(arrays)
    with pytest.raises(InputError, match=expected) as caught:
        VoxelCalibration.from_arrays(arrays, "here")
    assert "\n" not in str(caught.value)


def test_shading_is_found_and_anatomy_that_varies_much_is_hardly_touched():
    random = np.random.default_rng(0)
    points = np.argwhere(MASK) * VOXEL_MM
    x = (points[:, 0] - points[:, 0].mean()) / points[:, 0].std()
    mean, deviation = np.full(VOXELS, 1.0), np.where(x > 0.5, 0.8, 0.02)
    brains = mean + random.normal(size=(200, VOXELS)) * deviation
    shading = Shading.fit(brains.mean(axis=0), brains.var(axis=0), points, zero=-3.0)
    field = 0.1 * x * (mean + 3.0)
    found = (brains[:1] + field - shading.remove(brains[:1] + field)) / shadings.SHARE
    calm = x <= 0.5
    np.testing.assert_allclose(found[0, calm], field[calm], atol=0.05)
    effect = random.normal(size=(1, VOXELS)) + x
    kept = Shading.fit(brains.mean(axis=0), brains.var(axis=0), points, zero=-3.0, kept=effect)
    np.testing.assert_allclose(kept.remove(brains[:1] + 3 * effect), kept.remove(brains[:1]) + 3 * effect, atol=1e-8)
    left = shading.remove(brains) - brains
    assert np.sqrt(np.mean(left**2)) < 0.2 * deviation.max()


def test_smoothing_keeps_a_constant_and_does_not_look_outside_the_brain():
    smoother = BrainSmoother(MASK, np.full(3, 1.5))
    np.testing.assert_allclose(smoother.apply(np.full(VOXELS, 2.5)), 2.5)
    values = np.random.default_rng(0).normal(size=VOXELS)
    assert smoother.apply(values).std() < 0.5 * values.std()


def test_constant_voxels_and_a_site_of_two_rows_stay_finite():
    _, scanned, site, age, ill = people(30)
    scanned[:, :5] = -3.0
    site = np.where(np.arange(30) < 2, "rare", site)
    calibration = fit(scanned, site, age, ill)
    assert not calibration.log_scale[calibration.sites.index("rare")].any()
    made = applied(calibration, scanned, site)
    assert np.isfinite(made).all() and np.isfinite(calibration.log_scale).all()
