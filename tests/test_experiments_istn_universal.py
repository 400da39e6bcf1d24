"""experiments/istn_universal.py: which scans teach whom, and the errors that need no network."""

import pathlib

import numpy as np
import pandas as pd
import pytest

from eqpool.config import DataConfig
from eqpool.data.load import load_cohort
from eqpool.data.site_effects.combat import Combat
from eqpool.data.sources.simulated import build_simulated_cohort
from eqpool.data.sources.simulated_view import ScannerView
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.read import prepare_volume
from experiments import istn_universal
from experiments.registry import EXPERIMENTS

EDGE = 0.9999  # tanh beyond it is not inverted


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(specification, participants.tsv) of eight people a scanner."""
    specification = istn_universal.make_specification(8)
    folder = build_simulated_cohort(
        tmp_path_factory.mktemp("universal"), specification, named_grid("16x20x16"), progress=False
    )
    return specification, folder / "participants.tsv"


def test_no_scored_scan_teaches_and_the_scanner_is_left_out(made):
    frame = pd.read_csv(made[1], sep="\t").set_index("participant_id")
    tables = istn_universal.write_tables(made[1], "E")
    names = frame.index.to_numpy()
    rows = istn_universal.split_of(names, frame["site"].to_numpy(), "E")
    universal, one_way = (pd.read_csv(tables[key], sep="\t") for key in ("universal", "one_way"))
    assert set(universal["site"]) == {"A", "B", "C", "D", "F"} and len(universal) == 40
    assert one_way["site"].value_counts().to_dict() == {"C": 8, "E": 4}
    assert set(names[rows.learnt]) == set(one_way["participant_id"][one_way["site"] == "E"])
    assert not set(names[rows.scored]) & set(one_way["participant_id"]) and len(rows.scored) == 4


def test_errors_are_those_to_the_references_view_of_the_same_people(made):
    specification, participants = made
    data = DataConfig(
        dataset="participants",
        participants=str(participants),
        covariates="age",
        target="sex",
        grid="16x20x16",
        squash=True,
    )
    cohort = load_cohort(data, participants.parent / "cache", progress=False)
    found = istn_universal.score(cohort, specification, "E", {})
    grid, site = cohort.volumes.grid, cohort.site_labels
    rows = istn_universal.split_of(cohort.participant_id, site, "E")

    def z_scores(some):
        return np.stack([np.arctanh(np.clip(cohort.inputs[row][grid.mask], -EDGE, EDGE)) for row in some])

    view = ScannerView(specification, "C", grid, 0)
    paths = [pathlib.Path(cohort.volumes.image_path[row]) for row in rows.scored]
    folder = participants.parent / "views"
    folder.mkdir()
    truth = []
    for path in paths:
        view.of(path).to_filename(folder / path.name)
        z = prepare_volume(folder / path.name, grid)[0][grid.mask]
        truth.append(np.clip(z, -np.arctanh(EDGE), np.arctanh(EDGE)))
    errors = found["errors"]
    np.testing.assert_allclose(errors["raw"], np.sqrt(((z_scores(rows.scored) - truth) ** 2).mean(axis=1)), rtol=1e-3)
    learnt = np.concatenate([np.flatnonzero(site == "C"), rows.learnt])
    combat = Combat.fit(z_scores(learnt), site[learnt], cohort.covariates[learnt], reference="C")
    harmonised = combat.apply(z_scores(rows.scored), site[rows.scored], cohort.covariates[rows.scored])
    np.testing.assert_allclose(errors["combat"], np.sqrt(((harmonised - truth) ** 2).mean(axis=1)), rtol=1e-3)


def test_the_table_has_a_column_for_each_scanner_left_out():
    errors = {"raw": [0.5, 0.6], "combat": [0.3, 0.7], "universal": [0.2, 0.3], "one_way": [0.1, 0.2]}
    content = {"left_out": {"E": {"scans": 2, "errors": errors}, "F": {"scans": 2, "errors": errors}}}
    stamp = {"commit": None, "commits_of_runs": [], "date": "2026-11-28", "device": "cpu", "versions": {}}
    text = istn_universal.markdown(EXPERIMENTS["istn_universal"], content | stamp)
    assert "| universal ISTN, which never saw it | 0.250 (0.071) | 0.250 (0.071) | 100, 100 |" in text
    assert "| ComBat from 10 scans of it | 0.500 (0.283) | 0.500 (0.283) | 50, 50 |" in text
    assert "| as scanned | 0.550 (0.071) | 0.550 (0.071) |  |" in text
