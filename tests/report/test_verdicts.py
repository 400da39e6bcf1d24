"""What is said of a number follows from its interval, and never goes beyond it."""

import pytest

from eqpool.report.formatting import format_metric
from eqpool.report.judgement import compare
from eqpool.report.verdicts import read_metrics

SITES = {"site_chance": 0.25, "site_floor": 0.4, "site_floor_interval": (0.35, 0.45)}


def read(metrics: dict, name: str):
    return next(reading for reading in read_metrics(metrics) if reading.metric == name)


@pytest.mark.parametrize(
    ("interval", "level", "higher", "expected"),
    [
        ((0.6, 0.8), 0.5, True, "good"),
        ((0.6, 0.8), 0.5, False, "bad"),
        ((0.1, 0.4), 0.5, True, "bad"),
        ((0.1, 0.4), 0.5, False, "good"),
        ((0.4, 0.6), 0.5, True, "open"),
        ((0.5, 0.6), 0.5, True, "open"),  # the level itself is inside
        (None, 0.5, True, "plain"),
        ((0.4, 0.6), None, True, "plain"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(interval, level, higher, expected):
    assert compare(interval, level, higher_is_better=higher) == expected


@pytest.mark.parametrize(
    ("interval", "verdict", "said"),
    [
        ((0.50, 0.60), "bad", "can still be predicted"),
        ((0.42, 0.60), "open", "intervals overlap"),
        ((0.30, 0.50), "open", "up to 0.5 cannot be ruled out"),
        ((0.10, 0.20), "open", "cannot be ruled out"),
    ],
)
def test_the_site_is_held_against_the_floor_and_its_interval(interval, verdict, said):
    metrics = SITES | {"strongest_probe": 0.5, "strongest_probe_interval": interval}
    reading = read(metrics, "strongest_probe")
    assert reading.verdict == verdict and said in reading.text
    assert "before" not in reading.text  # there is none


@pytest.mark.parametrize(
    ("high", "said"), [(0.7, ". Clearly lower than before pooling"), (0.85, ". Not clearly lower")]
)
def test_less_than_before_only_where_the_intervals_are_apart(high, said):
    metrics = SITES | {"strongest_probe_covariate_free": 0.6, "strongest_probe_covariate_free_interval": (0.2, high)}
    metrics |= {"strongest_probe_before": 0.9, "strongest_probe_before_interval": (0.8, 1.0)}
    assert said in read(metrics, "strongest_probe_covariate_free").text


@pytest.mark.parametrize(
    ("p", "verdict", "said"), [(0.048, "bad", "above the accuracy on shuffled"), (0.33, "open", "not clearly above")]
)
def test_without_the_covariate_shuffled_sites_are_the_chance_level(p, verdict, said):
    name = "strongest_probe_covariate_free"
    metrics = SITES | {name: 0.4, f"{name}_interval": (0.35, 0.45)}
    assert read(metrics, name).verdict == "bad" and "can still be predicted" in read(metrics, name).text
    near = read(metrics | {name: 0.3, f"{name}_interval": (0.26, 0.34)}, name)  # 1 / sites is 0.25
    assert near.verdict == "open" and "the best of several classifiers may lie there by luck" in near.text
    reading = read(metrics | {f"{name}_shuffled": 0.385, f"{name}_p_value": p}, name)
    assert reading.verdict == verdict
    assert said in reading.text and "0.385" in reading.text


def test_removal_is_never_called_proven():
    metrics = SITES | {
        "strongest_probe_covariate_free": 0.25,
        "strongest_probe_covariate_free_interval": (0.2, 0.3),
        "mmd": 0.1,
        "mmd_p_value": 0.6,
    }
    assert {reading.verdict for reading in read_metrics(metrics)} == {"open"}
    assert "does not prove that there is none" in read(metrics, "mmd").text


def test_a_small_p_is_reported():
    assert read({"mmd": 3.0, "mmd_p_value": 0.002}, "mmd").verdict == "bad"


@pytest.mark.parametrize(
    ("metrics", "name", "verdict"),
    [
        ({"accuracy": 80.0, "accuracy_interval": (71, 89), "majority_accuracy": 70.0}, "accuracy", "good"),
        ({"accuracy": 80.0, "accuracy_interval": (69, 89), "majority_accuracy": 70.0}, "accuracy", "open"),
        ({"mae": 4.0, "mae_interval": (3.0, 5.0), "constant_mae": 9.0}, "mae", "good"),
        ({"mae": 4.0}, "mae", "plain"),
        ({"equivariance_error": 1.2, "equivariance_error_interval": (1.1, 1.3)}, "equivariance_error", "bad"),
        (
            {"delta_eq": 2.0, "delta_eq_interval": (1.5, 2.5), "delta_eq_ratio_to_permuted": 2.0},
            "delta_eq",
            "good",
        ),
        ({"delta_eq": 2.0, "delta_eq_interval": (1.5, 2.5), "delta_eq_ratio_to_permuted": 1.1}, "delta_eq", "open"),
        ({"kept_age_r_squared": 0.3, "kept_age_r_squared_interval": (-0.1, 0.6)}, "kept_age_r_squared", "open"),
        (
            {"nuisance_sex": 0.6, "nuisance_sex_interval": (0.55, 0.7), "nuisance_sex_chance": 0.5},
            "nuisance_sex",
            "bad",
        ),
        (
            {
                "before_mae": 6.0,
                "before_mae_interval": (5.5, 6.5),
                "scratch_mae": 4.0,
                "scratch_mae_interval": (3.5, 4.5),
                "gain_scratch": 2.0,
            },
            "scratch_mae",
            "good",
        ),
        (
            {
                "before_accuracy": 70.0,
                "before_accuracy_interval": (65, 75),
                "finetuned_accuracy": 60.0,
                "finetuned_accuracy_interval": (55, 64),
                "gain_finetuned": -10.0,
            },
            "finetuned_accuracy",
            "bad",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_kind_of_number(metrics, name, verdict):
    assert read(metrics, name).verdict == verdict


@pytest.mark.parametrize(
    ("before", "p", "verdict", "said", "unsaid"),
    [
        (3.0, 0.002, "bad", "the images still differ", "further apart"),
        (1.0, 0.002, "bad", "further apart than before (1; permutation p = 0.002)", "still"),
        (3.0, 0.4, "open", "no difference is found any more", "further apart"),
        (1.0, 0.4, "open", "further apart than before (1), but no difference is found", "any more"),
        (None, 0.002, "bad", "the images still differ", "further apart"),
    ],
)
def test_images_that_moved_apart_are_said_to_have(before, p, verdict, said, unsaid):
    metrics = {"image_mmd_before": before, "image_mmd_before_p_value": 0.01}
    reading = read(metrics | {"image_mmd_after": 2.0, "image_mmd_after_p_value": p}, "image_mmd_after")
    assert reading.verdict == verdict and said in reading.text and unsaid not in reading.text


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("equivariance_error", "tau does not turn"),
        ("accuracy", "no held-out row has a known target"),
        ("scratch_mae", "no held-out row has a known target"),
        ("kept_age_r_squared", "the held-out rows have one value"),
        ("mmd", "held-out rows of two sites"),
        ("strongest_probe", "on these held-out rows"),
    ],
)
def test_a_metric_that_is_not_defined_says_so_and_why(name, said, value):
    metrics = {name: value, f"{name}_interval": (-840.0, 6040.0), f"{name}_p_value": 0.5, "site_chance": 0.5}
    reading = read(metrics, name)
    assert (reading.value, reading.verdict) == ("not defined", "plain") and said in reading.text


def test_a_metric_that_a_method_has_not_is_left_out():
    assert read_metrics({"site_chance": 0.5}) == []


def test_values_carry_their_interval():
    assert format_metric({"x": 0.12345, "x_interval": [0.1, 0.2]}, "x") == "0.123 [0.1, 0.2]"
    assert format_metric({"x": 3.0, "x_interval": None}, "x") == "3"


EVERY_LINE = {
    "before_accuracy": 60.0, "scratch_accuracy": 50.0, "gain_scratch": -10.0, "before_mae": 4.0, "finetuned_mae": 5.0,
    "gain_finetuned": -1.0, "image_mmd_before": 3.0, "image_mmd_before_p_value": 0.01, "image_mmd_after": 1.0,
    "image_mmd_after_p_value": 0.3, "site_chance": 0.5, "site_floor": 0.6, "strongest_probe_before": 0.9,
    "strongest_probe": 0.7, "strongest_probe_covariate_free": 0.6, "strongest_probe_covariate_free_p_value": 0.2,
    "strongest_probe_covariate_free_shuffled": 0.5, "adversary": 60.0, "mmd": 1.0, "mmd_p_value": 0.2,
    "mmd_covariate_free": 1.0, "mmd_covariate_free_p_value": 0.2, "delta_eq": 2.0, "delta_eq_ratio_to_permuted": 1.5,
    "equivariance_error": 0.5, "balanced_accuracy": 70.0, "target_chance": 50.0, "majority_accuracy": 50.0, "mae": 3.0,
    "constant_mae": 4.0, "r_squared": 0.2, "kept_age_r_squared": 0.5, "kept_age_r_squared_before": 0.6,
    "kept_age_mae": 3.0, "nuisance_sex": 0.6, "nuisance_sex_chance": 0.5, "ssim_change": 0.9, "psnr_change": 30.0,
    "ssim_decoded": 0.8, "psnr_decoded": 20.0, "recovery_error_change": 0.3, "recovery_error_input": 0.4,
}  # fmt: skip
EVERY_LINE |= {f"{name}_interval": (value - 1, value + 1) for name, value in EVERY_LINE.items()}


@pytest.mark.parametrize("undefined", [*EVERY_LINE, "all"])
def test_no_line_fails_or_shows_a_number_where_another_is_not_defined(undefined):
    gone = EVERY_LINE if undefined == "all" else [undefined]
    for value in (None, float("nan"), (float("nan"), 1.0)):
        readings = read_metrics(EVERY_LINE | dict.fromkeys(gone, value))
        assert {reading.metric for reading in readings} == {reading.metric for reading in read_metrics(EVERY_LINE)}
        assert not any("nan" in text or "None" in text for one in readings for text in (one.value, one.text))
    absent = {name: value for name, value in EVERY_LINE.items() if name not in gone}
    assert undefined not in {reading.metric for reading in read_metrics(absent)}


def test_a_latent_that_is_not_finite_never_reads_as_pooled():
    (reading,) = read_metrics({"non_finite_rows": 3})
    assert (reading.value, reading.verdict) == ("3", "bad")
    assert "not finite" in reading.text and "no pooling result can be read" in reading.text


def test_what_an_istn_says_by_two_names_is_told_once():
    metrics = {"scratch_accuracy": 50.0, "accuracy": 50.0, "accuracy_interval": (40, 60), "majority_accuracy": 50.0}
    assert [reading.metric for reading in read_metrics(metrics)] == ["scratch_accuracy"]


@pytest.mark.parametrize(("low", "said"), [(0.7, ", clearly more"), (0.5, "")])
def test_a_covariate_is_held_against_what_could_be_read_before_pooling(low, said):
    metrics = {"kept_age_r_squared": 0.5, "kept_age_r_squared_interval": (0.4, 0.6)}
    assert read(metrics, "kept_age_r_squared").text == "age can still be predicted from Phi"
    metrics |= {"kept_age_r_squared_before": 0.8, "kept_age_r_squared_before_interval": (low, 0.9)}
    assert (
        read(metrics, "kept_age_r_squared").text
        == f"age can still be predicted from Phi. Before pooling it was 0.80{said}"
    )
