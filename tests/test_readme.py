"""The README is short, its example runs, its numbers are those that the experiments wrote, and its files exist."""

import json
import pathlib
import re
import statistics

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
(TABLE,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def results(name: str) -> dict:
    return json.loads((ROOT / "experiments" / "results" / f"{name}.json").read_text())


def row(start: str) -> str:
    (found,) = [line for line in README.splitlines() if line.startswith(f"| {start}")]
    return found.replace("*", "")


def test_the_front_page_is_read_in_a_few_minutes():
    words = [word for word in README.split() if any(letter.isalnum() for letter in word)]
    assert len(words) <= 700


def test_the_example_pools_a_table():
    generator = np.random.default_rng(0)
    site, age = np.array(["GE", "Siemens"])[np.arange(60) % 2], generator.uniform(20, 80, 60)
    X = generator.normal(size=(60, 8)) + age[:, None] / 50 + (site == "GE")[:, None]
    names: dict = {"X": X, "site": site, "age": age, "X_new": X[:5]}
    exec(compile(TABLE, "README.md", "exec"), names)
    harmonised = names["harmonised"]
    gap = np.abs(harmonised[site == "GE"].mean(axis=0) - harmonised[site != "GE"].mean(axis=0))
    assert names["phi"].shape == (5, 30) and gap.mean() < 0.4


def test_the_errors_of_real_brains_are_the_experiments():
    scores = results("rescanned_volumes")["scores"]
    error, site = (
        {name: statistics.fmean(split[name][key] for split in scores) for name in ("none", "combat", "location_scale")}
        for key in ("error", "site")
    )
    said = row("real brains")
    assert f"raw {error['none']:.3f}, ComBat {error['combat']:.3f}, eqpool {error['location_scale']:.3f}" in said
    assert f"found in {site['location_scale']:.2f} of scans" in said


@pytest.mark.parametrize(("cohort", "start", "rivals"), [("abide1", "ABIDE", "raw"), ("fcon1000", "1000 C", "ComBat")])
def test_the_scores_of_real_tables_are_the_experiments(cohort, start, rivals):
    scores = {
        entry["representation"]: entry["scores"] for entry in results("cohorts")["rows"] if entry["cohort"] == cohort
    }
    raw, combat, ours = (scores[name] for name in ("raw", "ComBat", "ours, harmonised"))
    site = [version["site_transfer_strongest"] for version in (raw, combat, ours)]
    said = row(start)
    assert "raw {:.3f}, ComBat {:.3f}, eqpool {:.3f}".format(*site) in said
    assert f"age error {ours['age_mae']:.2f} years, {rivals} {scores[rivals]['age_mae']:.2f}" in said
    alone = scores["ours, calibration alone"]  # "the networks added nothing to the calibration of sites"
    assert all(alone[name] == pytest.approx(ours[name], rel=1e-3) for name in ("site_transfer_strongest", "age_mae"))


def test_the_scores_of_adult_are_the_experiments():
    said = row("Adult")
    raw = {entry["method"]: entry["metrics"] for entry in results("table2_adult")["rows"] if entry["split"] == "raw"}
    (naive_site, site), (naive, ours) = (
        [statistics.fmean(raw[method][name]) for method in ("naive", "ours")]
        for name in ("strongest_probe", "accuracy")
    )
    assert f"without pooling {naive_site:.3f}, eqpool {site:.3f}" in said
    assert f"accuracy {ours:.1f} %, without {naive:.1f} %" in said
    assert statistics.fmean(raw["ours"]["equivariance_error"]) > 1 and "latents do not follow age" in said


def test_the_distances_where_ages_hardly_overlap_are_the_experiments():
    mmd = {entry["method"]: entry["results"][0]["metrics"]["mmd"] for entry in results("small_support")["rows"]}
    assert f"without pooling {mmd['naive']:.1f}, eqpool {mmd['ours']:.0f}" in row("simulated ADNI, ages")


def test_the_commands_and_links_name_files_that_exist():
    for path in set(re.findall(r"configs/\w+\.py|docs/[\w.]+|experiments/\w+\.md|examples/\w+\.py|\w+\.cff", README)):
        assert (ROOT / path).exists(), path
    assert (ROOT / "docs" / "before_after.png").stat().st_size < 300_000
