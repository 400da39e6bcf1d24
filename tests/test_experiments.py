"""The experiments' own arithmetic: which setting is chosen, what the tables show, and where their numbers are from."""

import argparse
import dataclasses
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import nibabel
import numpy as np
import pandas as pd
import pytest

from eqpool.data.cohort import SPLITS, Cohort
from eqpool.data.sources.simulated import SPECIFICATIONS, build_simulated_cohort, scanner_free_path
from eqpool.data.volumes.grids import named_grid
from eqpool.engine.loop import TrainingDiverged
from eqpool.errors import InputError
from experiments import (
    comparison,
    folds,
    image_level,
    istn_brain,
    istn_identity,
    istn_oracle,
    istn_table1,
    provenance,
    recovery,
    runner,
)
from experiments.__main__ import main, without_paths
from experiments.flags import parse_settings
from experiments.registry import EXPERIMENTS, HERE, experiment_of
from experiments.runner import Task, before_second_stage, config_of, folder_name, run_all, stored, take_first_stage
from experiments.tables import blocks, index, joined, put_table, without_blocks
from tests.volume_inputs import volume_inputs

RESULTS = sorted((HERE / "results").glob("*.json"))


def test_folder_names_tell_the_setting():
    assert folder_name({}) == "default"
    assert (
        folder_name({"stage_two.mmd_weight": 5.0, "istn.learning_rate": 1e-4}) == "mmd_weight=5.0_learning_rate=0.0001"
    )


def test_a_run_that_fails_is_named_and_ends_the_experiment(tmp_path):
    tasks = [Task("german", "", {"data.raw_dir": "/nowhere"}, tmp_path / name) for name in ("first", "second")]
    with pytest.raises(InputError, match=f"{tmp_path}/first: .*/nowhere"):
        run_all(tasks, 1, "two runs")


@pytest.mark.slow
def test_settings_of_stage_two_share_a_stage_one_and_end_where_they_would_alone(tmp_path):
    random = np.random.default_rng(0)
    table = pd.DataFrame({"participant_id": [f"p{row}" for row in range(90)], "site": ["A", "B", "B"] * 30})
    table = table.assign(age=random.uniform(20, 80, 90), sex=["F", "M"] * 45, x_1=random.normal(size=90))
    table.assign(x_2=random.normal(size=90)).to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    fixed = {"data.participants": str(tmp_path / "participants.tsv"), "data.features": "x_*", "stage_one.epochs": 2}
    fixed |= {"stage_two.epochs": 2, "evaluate.permutations": 9, "evaluate.bootstraps": 5}
    fixed |= {"evaluate.scorecard_permutations": 0}
    fixed |= {"evaluate.adversary_epochs": 2, "cache_dir": str(tmp_path / "cache")}

    def tasks(folder: str) -> list[Task]:
        weights = (1.0, 50.0)
        settings = [fixed | {"stage_two.mmd_weight": weight} for weight in weights]
        return [Task("ixi_thickness", "", one, tmp_path / folder / f"{number}") for number, one in enumerate(settings)]

    shared = run_all(tasks("shared"), 1, "two runs")
    alone = [run_all([task], 1, "one run")[0] for task in tasks("alone")]
    for one, other in zip(shared, alone, strict=True):
        assert json.dumps(one["metrics"]) == json.dumps(other["metrics"])
    assert shared[0]["metrics"] != shared[1]["metrics"]

    def log(folder: str, stage: str) -> list[str]:
        lines = (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
        return [line for line in lines if json.loads(line)["stage"] == stage]

    assert len(log("shared/0", "stage_one")) == 2 and len(log("shared/1", "stage_two")) == 2
    assert log("shared/0", "stage_one") == log("shared/1", "stage_one")  # to the second: trained once
    assert log("alone/0", "stage_one") != log("alone/1", "stage_one")


def test_what_is_finished_or_has_no_stage_one_is_left_alone(tmp_path):
    take_first_stage(tmp_path / "none", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    for name, epoch in (("leader", "3"), ("own", "1")):
        (tmp_path / name / "checkpoints" / "stage_one" / epoch).mkdir(parents=True)
    (tmp_path / "leader" / "metrics.jsonl").write_text('{"stage": "stage_one", "epoch": 1}\n{"stage": "stage_two"}\n')
    for name in ("data.json", "pooled.tsv"):
        (tmp_path / "leader" / name).write_text(name)
    take_first_stage(tmp_path / "leader", tmp_path / "own")
    assert not (tmp_path / "own" / "metrics.jsonl").exists()
    (tmp_path / "new" / "stage_one.copy" / "half").mkdir(parents=True)  # of a copy that was cut short
    take_first_stage(tmp_path / "leader", tmp_path / "new")
    assert [path.name for path in (tmp_path / "new" / "checkpoints" / "stage_one").iterdir()] == ["3"]
    assert (tmp_path / "new" / "metrics.jsonl").read_text() == '{"stage": "stage_one", "epoch": 1}\n'
    assert (tmp_path / "new" / "data.json").read_text() == "data.json"


def test_the_task_model_of_an_istn_is_taken_without_the_data_of_its_target(tmp_path):
    (tmp_path / "leader" / "checkpoints" / "task" / "20").mkdir(parents=True)
    (tmp_path / "leader" / "metrics.jsonl").write_text('{"stage": "task", "epoch": 20}\n{"stage": "istn"}\n')
    (tmp_path / "leader" / "data.json").write_text("{}")
    take_first_stage(tmp_path / "leader", tmp_path / "new")
    assert [path.name for path in (tmp_path / "new" / "checkpoints" / "task").iterdir()] == ["20"]
    assert (tmp_path / "new" / "metrics.jsonl").read_text() == '{"stage": "task", "epoch": 20}\n'
    assert not (tmp_path / "new" / "data.json").exists()


def test_networks_of_an_istn_share_a_task_model_unless_the_source_differs():
    one = {"istn.shape": "none", "istn.reference": "UKBB", "data.source_domain": "thin", "data.target_domain": "thick"}
    other = one | {"istn.shape": "affine", "data.target_domain": "slanted"}
    assert before_second_stage(one) == before_second_stage(other)
    assert before_second_stage(one) != before_second_stage(one | {"istn.reference": "CamCAN"})
    assert before_second_stage(one) != before_second_stage(one | {"data.source_domain": "slanted"})
    assert before_second_stage(one) != before_second_stage(one | {"task.epochs": 3})


def test_stage_one_is_shared_by_what_it_does_not_read_alone():
    alike = [
        {"stage_two.mmd_weight": 1.0, "seed": 1},
        {"seed": 1, "stage_two.mmd_weight": 2.0, "evaluate.bootstraps": 3},
    ]
    assert len({before_second_stage(setting) for setting in alike}) == 1
    assert before_second_stage({"seed": 2}) != before_second_stage(alike[0])
    assert before_second_stage(alike[0] | {"stage_one.epochs": 3}) != before_second_stage(alike[0])


PARENT = """
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import getpid
from experiments.runner import prepare_worker

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), prepare_worker, (True,)) as pool:
        print(pool.submit(getpid).result(), flush=True)
        time.sleep(600)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="no /proc to look for processes in")
def test_the_processes_of_a_killed_experiment_end(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parent.parent)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        child = int(parent.stdout.readline())
        assert _is_alive(child)
        parent.kill()
    until = time.monotonic() + 30
    while _is_alive(child) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _is_alive(child)


def _is_alive(process: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # a zombie where nobody reaps orphans


def test_no_table_names_a_folder_of_the_machine_that_made_it():
    assert RESULTS
    for table in [*RESULTS, *(HERE / "pages").glob("*.md")]:
        assert not re.findall(r'[ "=]/\w+/\S*', table.read_text()), table


def test_table_1_sets_the_papers_numbers_beside_ours():
    metrics = {f"{name}_accuracy": 50.0 for name in istn_table1.SCORES}
    metrics |= {f"{name}_accuracy_interval": [40.0, 60.0] for name in istn_table1.SCORES}
    results = {"metrics": metrics, "wall_seconds": 12.3, "versions": {"jax": "1"}, "device": "1 x cpu", "seed": 0}
    row = {"row": 6, "setting": (1e-4, 10.0), "results": results}
    ways = [row | {"way": ("thin", "slanted")}, row | {"way": ("slanted", "thin")}]
    experiment = EXPERIMENTS["istn_table1"]
    text = istn_table1.markdown(experiment, {"task_weight": 1.0, "rows": ways})
    without = istn_table1.markdown(experiment, {"task_weight": 0.0, "rows": ways})
    assert "future work" in text and "future work" not in without
    there, back = (line for line in text.splitlines() if line.startswith("| itn | B-spline (8) |"))
    assert "50.0 [40.0, 60.0]" in there and there.endswith("| 0.0001, 10 | 12 | 45.7, 91.8 / 93.4 |")
    assert back.endswith("| 12 |  |")


def test_the_tables_of_brains_set_the_papers_numbers_beside_ours():
    def results(key: str):
        metrics = {key: 1.0} | {f"{name}_{key}": 50.0 for name in istn_brain.SCORES}
        metrics |= {f"{name}_{key}_interval": [40.0, 60.0] for name in istn_brain.SCORES}
        return {"metrics": metrics, "wall_seconds": 12.3, "versions": {"jax": "1"}, "device": "1 x cpu", "seed": 0}

    table = [
        {"cell": ("brain_sex", "two_way", 1, 3), "results": results("accuracy")},
        {"cell": ("brain_age", "one_way", 0, 1), "results": results("mae")},
    ]
    content = {"sites": list(istn_brain.SITES), "set": [], "rows": table}
    text = istn_brain.markdown(EXPERIMENTS["istn_brain"], content)
    sex, age = (line for line in text.splitlines() if line.startswith("| itn |"))
    assert sex.startswith("| itn | B-spline (16) | 50.0 [40.0, 60.0]") and sex.endswith("| 12 | 64.3, 67.8 / 68.6 |")
    assert age.startswith("| itn | affine | 50.00 [40.00, 60.00]") and age.endswith("| 12 | 5.13, 4.58 |")
    assert "from CamCAN to UKBB" in text and "SIMULATED" in text
    of_own = {"sites": ["Guys", "simulated_scanner"], "set": ["istn.epochs=60"], "participants": "a hash"}
    own = istn_brain.markdown(EXPERIMENTS["istn_brain"], content | of_own)
    assert "67.8" not in own and "Beside the config: istn.epochs=60." in own and "Beside" not in text
    assert "SIMULATED" not in own
    measured = {"image_mmd_before": 10.72, "image_mmd_after": 2.49, "image_mmd_after_p_value": 0.002}
    assert istn_brain.image_distance(measured) == "10.7 to 2.49 (p 0.002)" and istn_brain.image_distance({}) == ""


def test_a_setting_that_diverges_does_not_end_the_grid(tmp_path):
    def diverge(config, folder, quiet):
        raise TrainingDiverged("istn diverged in epoch 3")

    task = Task("morpho_mnist", "", {}, tmp_path)
    assert runner._run(task, True, diverge) == {"diverged": "istn diverged in epoch 3"}
    with pytest.raises(InputError, match="istn diverged in epoch 3"):
        runner._run(task, False, diverge)


def test_table_1_takes_the_nearest_images_among_settings_that_came_to_an_end():
    grid = [(1e-4, 1.0), (1e-4, 10.0), (3e-4, 1.0)]
    near, far = ({"metrics": {"selection_score": score}} for score in (0.1, 0.2))
    chosen = istn_table1.choose(grid, [far, near, {"diverged": "istn diverged"}])
    assert chosen == {"setting": (1e-4, 10.0), "results": near, "diverged": 1}
    assert istn_table1.choose(grid, [{"diverged": "istn diverged"}] * 3) is None


def test_cells_of_brains_that_are_run_apart_join_one_table(tmp_path, capsys):
    def row(config: str, number: int, made: str):
        return {"cell": [config, "one_way", 0, number], "results": made}

    path, facts = tmp_path / "table.json", {"sites": ["UKBB", "CamCAN"], "set": [], "fraction": 1.0}
    first = [row("brain_sex", 0, "old"), row("brain_age", 0, "old")]
    assert joined(path, facts, first, ["cell"]) == first
    path.write_text(json.dumps(facts | {"date": "2026-11-22", "rows": first}))
    new = [row("brain_sex", 1, "new"), row("brain_age", 0, "new")]
    assert joined(path, facts, new, ["cell"]) == [first[0], new[1], new[0]]
    assert capsys.readouterr().err == ""
    assert joined(path, facts | {"set": ["istn.epochs=60"]}, new, ["cell"]) == new
    assert "its 2 rows are of another set and go" in capsys.readouterr().err
    again = [{"cell": ("brain_age", "one_way", 0, 0), "results": "tuples are lists in JSON"}]
    assert joined(path, facts, again, ["cell"]) == [first[0], *again]


def test_the_oracle_scans_the_sources_own_brains_by_the_references_scanner(tmp_path):
    task = istn_oracle._task("brain_age", 0.01, tmp_path)
    alike = pathlib.Path(task.setting["data.participants"]).parent
    specification = SPECIFICATIONS["brain_age"]
    plain = build_simulated_cohort(tmp_path / "plain", specification, named_grid("32x32x32"), fraction=0.01)
    assert (alike / "participants.tsv").read_text() == (plain / "participants.tsv").read_text()
    for row in pd.read_csv(plain / "participants.tsv", sep="\t").itertuples():
        image = pathlib.Path(row.participant_id, "anat", f"{row.participant_id}_T1w.nii.gz")
        before, after = (nibabel.load(folder / image).get_fdata() for folder in (plain, alike))
        free = [nibabel.load(scanner_free_path(folder / image)).get_fdata() for folder in (plain, alike)]
        np.testing.assert_array_equal(*free)
        assert np.array_equal(before, after) == (row.site == "CamCAN")
    result = {"metrics": {"source_mae": 3.5, "before_mae": 4.25, "before_mae_interval": (3.5, 5.0)}, "seed": 0}
    result |= {"versions": {"jax": "1"}, "device": "1 x cpu"}
    content = {"rows": [{"config": "brain_age", "results": result}]}
    text = istn_oracle.markdown(EXPERIMENTS["istn_oracle"], content)
    assert "| brain_age | 3.50 | 4.25 [3.50, 5.00] |" in text and "SIMULATED" in text


def test_the_scanner_probe_finds_what_is_planted_and_nothing_else():
    random = np.random.default_rng(0)
    grid = named_grid("12x14x12")
    site = np.arange(90) % 3
    plain = random.normal(size=(90, *grid.shape)).astype(np.float32)
    along = np.indices(grid.shape) / 14  # sites 0 and 1 each brighten along an axis of their own
    planted = plain + np.einsum("ns,sxyz->nxyz", (site[:, None] == [0, 1]).astype(float), along[:2])
    blank = np.zeros(90)
    cohort = Cohort(
        "made", True, np.arange(90).astype(str), plain, site, ("a", "b", "c"), blank[:, None], ("age",), blank,
        "dx", ("x", "y"), np.full(90, "train"), volumes=volume_inputs(grid, 90),
    )  # fmt: skip
    low, high = recovery.scanner_from_voxels(cohort)["scanner_from_voxels_interval"]
    assert low < 100 / 3 < high
    found = recovery.scanner_from_voxels(dataclasses.replace(cohort, inputs=planted.astype(np.float32)))
    assert found["scanner_from_voxels"] > 90


def test_the_table_of_recovery_says_simulated_and_what_was_asked():
    form = {key: 0.5 for key, _ in recovery.ROWS} | {"rows": 18}
    facts = {
        "date": "2026-01-01",
        "calibration": {name: 80.0 for name in recovery.TARGETS} | {"naive_accuracy_interval": [70.0, 90.0]},
        "maps": {"folds": 3, "forms": {"before": form, "after": form}},
        "ours": {"versions": {"jax": "1"}, "device": "1 x cpu", "seed": 0, "dataset": "adni"},
    }
    text = recovery.markdown(EXPERIMENTS["recovery"], facts)
    assert "SIMULATED" in text and "80.0 [70.0, 90.0] | 75 to 90" in text and "of the unaffected left alone" in text
    assert "| error to the scanner-free volume, z-scores | 0.5 | 0.5 |" in text


def test_imaging_chooses_in_each_split_and_tabulates_all(tmp_path):
    asked = []

    def run_all(tasks, jobs, label):
        asked.extend(tasks)
        return [made(task) for task in tasks]

    def made(task):
        weight = task.setting.get("stage_two.mmd_weight", 0.0)
        metrics = {
            "mmd": 3.0 + weight + task.setting["data.split_seed"],
        }
        return {"metrics": metrics, "versions": {"jax": "1"}, "device": "1 x cpu", "simulated": True}

    jobs = []

    def score(given, processes, label):
        """The best weight is another one in each split."""
        jobs.extend(given)
        return [[scored(task) for task in job.tasks] for job in given]

    def scored(task):
        best = (5.0, 20.0, 20.0)[task.setting["data.split_seed"]]
        accuracy = 80.0 - abs(task.setting["stage_two.mmd_weight"] - best)
        return {"balanced_accuracy": accuracy, "probe": 0.3, "floor": 0.3, "chance": 0.3}

    options = argparse.Namespace(
        paper=False, methods=["naive", "ours"], splits=3, set=["stage_one.epochs=2"], jobs=1, runs=tmp_path,
        participants=None, folds=2,
    )  # fmt: skip
    experiment = EXPERIMENTS["small_support"]
    measured = comparison.run(experiment, options, run_all, score)
    table = measured.content["rows"]
    assert [[one.get("stage_two.mmd_weight") for one in row["settings"]] for row in table] == [
        [None, None, None],
        [5.0, 20.0, 20.0],
    ]
    assert len(jobs) == 3 * 2 and all(len(job.tasks) == 3 for job in jobs)
    assert {task.setting["data.site_calibration"] for task in asked} == {"auto"}  # of naive and of ours
    assert [len(row["results"]) for row in table] == [3, 3]
    assert all(task.setting["data.dataset"] == "adni_small_support" for task in asked)
    assert all(task.setting["stage_one.epochs"] == "2" for task in asked)
    assert len({task.folder for task in asked}) == len(asked) == 3 + 3
    tried = table[1]["tried"]["2"]
    assert [one["balanced_accuracy"] for one in tried] == [[65.0, 65.0], [80.0, 80.0], [20.0, 20.0]]
    assert len(measured.runs) == 6
    text = comparison.markdown(experiment, measured.content)
    assert "inside the training rows, by 2 folds" in text
    assert "stage_two.mmd_weight 20.0 (2); stage_two.mmd_weight 5.0 (1)" in text
    assert "SIMULATED" in text and "| 4.00 (1.00) [4.00] |" in text and text.rstrip().endswith("M 16 |")
    jobs.clear()
    unchosen = comparison.run(experiment, argparse.Namespace(**vars(options) | {"folds": 0}), run_all, score)
    assert not jobs and unchosen.content["rows"][1]["settings"] == [{"stage_two.mmd_weight": 20.0}] * 3
    assert "the middle one of its settings" in comparison.markdown(experiment, unchosen.content)


def test_tables_are_compared_on_both_splits_over_seeds(tmp_path):
    asked = []

    def run_all(tasks, jobs, label):
        asked.extend(tasks)
        results = {"metrics": {}, "versions": {"jax": "1"}, "device": "1 x cpu"}
        return [results | {"counts": {"dropped_without_partner": 3}} for _ in tasks]

    options = argparse.Namespace(
        methods=["naive", "combat_naive"], set=[], jobs=1, runs=tmp_path, raw_dir=pathlib.Path("uci"),
        published_dir=tmp_path / "npz", folds=5,
    )  # fmt: skip
    measured = comparison.run(EXPERIMENTS["table2_german"], options, run_all, lambda jobs, *_: jobs)
    assert [row["split"] for row in measured.content["rows"]] == ["raw", "raw", "published", "published"]
    assert [task.setting["seed"] for task in asked] == 4 * [685, 648, 535]
    naive, corrected = (task.setting for task in asked[:4:3])
    assert naive["method"] == corrected["method"] == "naive"
    assert "data.site_calibration" not in naive and corrected["data.site_calibration"] == "combat"
    folders = {task.setting["data.split"]: task.setting["data.raw_dir"] for task in asked}
    assert folders == {"raw": "uci", "published": str(tmp_path / "npz")}
    text = comparison.markdown(EXPERIMENTS["table2_german"], measured.content)
    assert "Split: raw." in text and "Split: published." in text and "| 3 | default | 4.6 (0.7)" in text
    options.published_dir = None
    raw_alone = comparison.run(EXPERIMENTS["table2_german"], options, run_all, lambda jobs, *_: jobs)
    assert [row["split"] for row in raw_alone.content["rows"]] == ["raw", "raw"]


def test_several_splits_of_a_table_with_its_own_are_refused(tmp_path):
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tsite\tage\tsplit\na\tA\t50\ttrain\n")
    with pytest.raises(InputError, match="participants.tsv, column split: every run would have this one split"):
        comparison.check_splits(table, 5)
    comparison.check_splits(table, 1)
    comparison.check_splits(None, 5)


def test_keys_of_every_run():
    texts = ["istn.epochs=3", "istn.residual=False", "istn.discriminator=(8,16)", "istn.spacing=4", "istn.dropout=0.25"]
    texts += ["data.grid=24x28x24", "data.site_column=1", "stage_one.bandwidth=0.05,0.1"]
    config = config_of(Task("brain_sex", "", parse_settings(texts), pathlib.Path()))
    assert config.istn.epochs == 3 and config.istn.residual is False and config.istn.discriminator == (8, 16)
    assert config.istn.spacing == 4 and config.istn.dropout == 0.25
    assert config.data.grid == "24x28x24" and config.data.site_column == "1"
    assert config.stage_one.bandwidth == "0.05,0.1"
    with pytest.raises(InputError, match="--set=x: expected KEY=VALUE"):
        parse_settings(["x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("istn.epochs=abc", "config.istn.epochs = 'abc': expected a whole number"),
        ("istn.epochs=1e2", "config.istn.epochs = 100.0: expected a whole number"),
        ("istn.epoch=1", "config.istn.epoch: no such key; did you mean config.istn.epochs"),
        ("nothing.epochs=1", "config.nothing.epochs: no such key"),
        ("seed.x=1", "config.seed.x: no such key"),
        ("evaluate.probe_permutations=5", "probe_permutations = 5: expected 0, or at least 19"),
        ("model.rotation_range=0.0", "config.model.rotation_range = 0.0: expected above 0"),
        ("istn.decoder=(16,8)", r"config.istn.decoder = \(16, 8\): expected \(32, 16, 8\)"),
    ],
)
def test_a_key_that_does_not_go_is_named(text, message):
    with pytest.raises(InputError, match=message):
        config_of(Task("brain_sex", "", parse_settings([text]), pathlib.Path()))


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("istn_brain", ["--rows=7"], 'argument --rows: 7: "7", expected some of 0, 1, 2, 3'),
        ("istn_brain", ["--configs=brain"], "expected some of brain_sex, brain_age"),
        ("istn_brain", ["--configs=brain_age", "--directions=two_way"], "brain_age goes one_way"),
        ("istn_brain", ["--set=x"], "--set=x: expected KEY=VALUE"),
        ("istn_table1", ["--targets=thik"], "expected some of thick, slanted, thick_slanted"),
        ("small_support", ["--methods=nave"], "expected some of naive, combat_naive, mmd, cai, ss, rm, ours"),
        ("rescanned", [], "--participants"),
        ("table2_german", ["--methods=ours,"], "expected some of naive, combat_naive, mmd, cai, ss, rm, ours"),
        ("table2_german", ["--splits=3"], "--splits: no such flag"),
        ("cohorts", [], "--cohorts"),
        ("folds", ["--config=germ"], "invalid choice: 'germ'"),
        ("folds", ["--config=german", "--seeds=a"], 'argument --seeds: "a", expected whole numbers'),
        ("recovery", ["--folds=0"], "expected a whole number of at least 1"),
        ("table2_german", ["--folds=1"], '"1", expected a whole number of at least 2'),
        ("table2_germen", [], "table2_germen: no such experiment; did you mean table2_german?"),
    ],
)
def test_bad_flags_of_experiments_are_one_line_and_exit_code_two(module, arguments, message, capsys):
    try:
        code = main([module, *arguments])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().err
    assert code == 2 and message in said and said.count("\n") == 1


def test_image_level_tables_keep_the_split_and_replace_the_other_sites_images_alone(tmp_path):
    names = np.array(["a", "b", "c", "d"])
    scans = np.array([f"sub-{name}/anat/sub-{name}" for name in names])
    cohort = Cohort(
        name="two", simulated=True, participant_id=names, inputs=np.zeros((4, 1), np.float32),
        site=np.array([0, 1, 0, 1], np.int32), site_names=("GE", "Siemens"),
        covariates=np.array([[50.0], [60], [70], [80]]), covariate_names=("age",),
        target=np.array([0, 1, 1, 0], np.int32), target_name="sex", target_classes=("F", "M"),
        split=np.array(["train", "test", "validation", "train"]), session=np.full(4, ""),
        volumes=dataclasses.replace(volume_inputs(named_grid("12x14x12"), 4, tmp_path), scan_name=scans),
    )  # fmt: skip
    with pytest.raises(InputError, match="sub-a_desc-harmonized_T1w.nii.gz: not found"):
        image_level.write_tables(cohort, 1, tmp_path / "istn", tmp_path)
    for name in "ac":
        path = tmp_path / f"istn/derivatives/eqpool/sub-{name}/anat/sub-{name}_desc-harmonized_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        path.touch()
    tables = image_level.write_tables(cohort, 1, tmp_path / "istn", tmp_path)
    with pytest.raises(InputError, match="sub-b_desc-harmonized_T1w.nii.gz: not found"):
        image_level.write_tables(cohort, 0, tmp_path / "istn", tmp_path)  # the other way: b and d are to be harmonised
    stranger = dataclasses.replace(cohort, site=np.array([0, -1, 0, -1], np.int32))
    image_level.write_tables(stranger, 1, tmp_path / "istn", tmp_path / "stranger")
    original, harmonised = (pd.read_csv(tables[name], sep="\t") for name in ("original", "harmonised"))
    assert original["path"].tolist() == cohort.volumes.image_path.tolist()
    pd.testing.assert_frame_equal(original.drop(columns="path"), harmonised.drop(columns="path"))
    assert original["sex"].tolist() == ["F", "M", "M", "F"] and original["split"].tolist() == cohort.split.tolist()
    moved = original["path"] != harmonised["path"]
    assert moved.tolist() == [True, False, True, False] and harmonised["path"][0].endswith(
        "sub-a_desc-harmonized_T1w.nii.gz"
    )


def test_the_table_of_image_level_has_a_row_a_method_and_leaves_out_what_is_not_there():
    istn = {"simulated": True, "seed": 0, "versions": {"jax": "1"}, "device": "1 x cpu", "counts": {"rows": 40}}
    result = {"metrics": {"accuracy": 81.26, "accuracy_interval": [70.0, 90.0]}, "counts": {"by_split": {"test": 8}}}
    rows = [{"row": row._asdict(), "results": result} for row in image_level.ROWS]
    content = {"istn": istn, "rows": rows, "shape": "none", "set": []}
    text = image_level.markdown(EXPERIMENTS["image_level"], content)
    assert "SIMULATED" in text and "40 subjects, 8 of them held out" in text
    assert [line.split(" | ")[5] for line in text.splitlines() if line.startswith("| ")][1:] == [
        "81.3 [70.0, 90.0]"
    ] * 4


def test_runs_of_image_level_stand_on_the_istns_grid(tmp_path):
    data = config_of(Task("brain_sex", "", {}, tmp_path)).data
    tables = {"original": tmp_path / "original.tsv", "harmonised": tmp_path / "harmonised.tsv"}
    for row in image_level.ROWS:
        config = config_of(Task("adni", "", image_level.setting(row, tables, data), tmp_path))
        assert config.method == row.method and config.data.participants == str(tables[row.images])
        assert config.data.grid == data.grid == "32x32x32" and config.data.target == "sex" and not config.data.squash


def test_folds_are_balanced_and_hold_out_every_row_once():
    generator = np.random.default_rng(0)
    site, target = generator.integers(0, 2, 100).astype(np.int32), generator.integers(0, 2, 100).astype(np.int32)
    cohort = Cohort(
        name="table", simulated=False, participant_id=np.arange(100).astype(str), inputs=np.zeros((100, 1), np.float32),
        site=site, site_names=("A", "B"), covariates=np.zeros((100, 1)), covariate_names=("age",),
        target=target, target_name="dx", target_classes=("0", "1"), split=np.full(100, "train"),
    )  # fmt: skip
    dealt = list(folds.folds(cohort))
    assert np.sort(np.concatenate([fold.rows("test") for fold in dealt])).tolist() == list(range(100))
    for fold in dealt:
        assert {split: len(fold.rows(split)) for split in SPLITS} == {"train": 67, "validation": 13, "test": 20}
        assert abs(site[fold.rows("test")].mean() - site.mean()) < 0.06


def test_folds_are_read_again_and_say_which_commit_computed_them(tmp_path):
    path = tmp_path / "fold.npz"
    assert str(stored(path, lambda: {"x": np.arange(2)})["commit"]) == (provenance.commit() or "")
    np.savez(path, **dict(np.load(path)) | {"commit": "first"})  # computed at an earlier commit
    again = stored(path, lambda: pytest.fail("computed again"))
    assert str(again["commit"]) == "first" and again["x"].tolist() == [0, 1]
    np.savez(tmp_path / "old.npz", x=np.arange(3))
    assert str(stored(tmp_path / "old.npz", dict)["commit"]) == ""


def test_the_table_of_folds_has_a_row_a_setting():
    row = {"setting": "", "method": "ours", "split": "raw", "seeds": [0], "accuracy": [70.0, 74.0]}
    row |= {"phi_site_balanced_accuracy": {"logistic": 0.5, "trees": 0.625}, "equivariance_error": [0.5, 0.75]}
    row |= {"phi_site_auc": {"logistic": 0.25, "trees": 0.5}, "floor_site_auc": {"logistic": 0.125, "trees": 0.25}}
    row |= {"floor_site_balanced_accuracy": {"logistic": 0.75, "trees": 1.0}}
    naive = {key: value for key, value in row.items() if key != "equivariance_error"} | {"method": "naive"}
    text = folds.markdown(EXPERIMENTS["folds"], {"folds": 5, "rows": [row, naive]})
    shared = "72.0 (1.4) | 0.500 / 0.625 | 0.250 / 0.500 | 0.750 / 1.000 | 0.125 / 0.250 |"
    assert f"| ours | default | raw | 0 | {shared} 0.62 (0.09) |" in text
    assert f"| naive | default | raw | 0 | {shared}  |" in text


def test_the_table_of_identity_sets_the_papers_numbers_beside_ours():
    rows = [{"epochs": epochs, "accuracy": {"thick": 33.0 + epochs, "thick_slanted": 30.0}} for epochs in (5, 20)]
    text = istn_identity.markdown(EXPERIMENTS["istn_identity"], {"digits": 8000, "tested": 1000, "rows": rows})
    assert "| thick | 38.0 | 53.0 | 41.2 |" in text and "| thick slanted | 30.0 | 30.0 | 32.8 |" in text


def test_a_stamp_has_everything_that_a_number_depends_on():
    first = {"seed": 1, "commit": "a" * 40, "config_hash": "1", "device": "1 x cpu", "versions": {"jax": "1"}}
    stamp = provenance.stamp("folds", [first, first], 12.34)
    assert (
        stamp["commit"] == provenance.commit()
        and stamp["commits_of_runs"] == ["a" * 40]
        and stamp["config_hash"] == "1"
    )
    assert stamp["seeds"] == [1] and stamp["wall_seconds"] == 12.3 and re.match(r"\d{4}-\d\d-\d\d$", stamp["date"])
    other = first | {"seed": 0, "commit": None, "config_hash": "2", "device": "8 x TPU", "versions": {"jax": "2"}}
    both = provenance.stamp("folds", [first, other], 1.0)
    assert both["device"] == "1 x cpu and 8 x TPU" and both["versions"] == {"jax": "1 and 2"}
    assert both["seeds"] == [0, 1]
    assert both["commits_of_runs"] == ["a" * 40, "not recorded"] and both["config_hash"] not in ("1", "2")
    assert provenance.stamp("folds", [other, first], 1.0) == both
    text = provenance.written_by("folds", both | {"commit": "c" * 40})
    assert "commit cccccccccccc (runs: aaaaaaaaaaaa, not recorded), 1 x cpu and 8 x TPU, jax 1 and 2." in text
    assert "commit not recorded" in provenance.written_by("folds", {"date": "2026-11-22"})


def test_a_config_hash_sees_every_value_and_no_folder(tmp_path):
    def hash_of(**setting):
        return provenance.config_hash(config_of(Task("german", "", setting, tmp_path)))

    plain = hash_of()
    assert plain == hash_of(**{"data.raw_dir": "/elsewhere", "cache_dir": "/cache"}) and len(plain) == 16
    assert len({plain, hash_of(seed=1), hash_of(**{"stage_two.mmd_weight": 3.0}), hash_of(method="naive")}) == 4


@pytest.fixture
def checkout(tmp_path):
    """A checkout of one commit."""
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "table.json").write_text("{}")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def test_the_commit_is_that_of_the_checkout_and_says_where_code_was_changed(checkout):
    done = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    head = done.stdout.strip()
    assert len(head) == 40 and provenance.commit_of(checkout) == head
    (checkout / "table.json").write_text("a table that the command before this one wrote")
    assert provenance.commit_of(checkout) == head
    (checkout / "a.py").write_text("2")
    assert provenance.commit_of(checkout) == f"{head}-dirty"
    assert provenance.commit() == provenance.commit_of(provenance.ROOT)


def test_without_a_checkout_of_its_own_there_is_no_commit(checkout, monkeypatch):
    (checkout / "unpacked").mkdir()
    assert provenance.commit_of(checkout / "unpacked") is None  # inside another project's checkout
    monkeypatch.setenv("PATH", "")  # no git
    assert provenance.commit_of(checkout) is None


def test_a_run_keeps_the_commit_that_finished_it(tmp_path):
    def finish(config, folder, quiet):
        folder.mkdir(exist_ok=True)
        (folder / "results.json").write_text("{}")
        return {"metrics": {}, "notes": ["of a folder"]}

    task, record = Task("german", "", {}, tmp_path / "run"), tmp_path / "run" / runner.PROVENANCE_FILE
    first = runner._run(task, False, finish)
    assert first["commit"] == provenance.commit()
    assert first["config_hash"] == provenance.config_hash(config_of(task))
    record.write_text(json.dumps(json.loads(record.read_text()) | {"commit": "earlier"}))
    assert runner._run(task, False, finish) == first | {"commit": "earlier"}
    record.unlink()  # finished before commits were kept
    assert runner._run(task, False, finish)["commit"] is None


def test_every_experiment_has_a_page_with_its_parts():
    pages = {path.stem for path in (HERE / "pages").glob("*.md")}
    assert pages == set(EXPERIMENTS)
    for name, experiment in EXPERIMENTS.items():
        page = (HERE / "pages" / f"{name}.md").read_text()
        headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
        assert headings == ["What it asks", "Command", "Table", "What it shows", "What it does not show"], name
        assert experiment.command in page, name


def test_the_readme_has_the_index_of_the_registry():
    assert "\n".join(index()) in (HERE / "README.md").read_text()


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_table_of_a_page_is_what_its_json_says(path):
    experiment = experiment_of(path)
    module = importlib.import_module(f"experiments.{experiment.module}")
    page = (HERE / "pages" / f"{experiment.name}.md").read_text()
    assert blocks(page)[path.stem] == module.markdown(experiment, json.loads(path.read_text()))


def test_no_page_has_a_table_without_a_json():
    for page in (HERE / "pages").glob("*.md"):
        text = page.read_text()
        assert set(blocks(text)) <= {path.stem for path in RESULTS if experiment_of(path).name == page.stem}
        assert not re.search(r"^\|", without_blocks(text), re.MULTILINE), page


def test_a_file_belongs_to_the_experiment_of_the_longest_name():
    assert experiment_of(pathlib.Path("istn_brain_own_small.json")).name == "istn_brain"
    assert experiment_of(pathlib.Path("table2_german.json")).name == "table2_german"
    for name in ("table2_germany.json", "istn.json", "x.json"):
        with pytest.raises(KeyError):
            experiment_of(pathlib.Path(name))


def test_a_table_replaces_its_own_block_and_leaves_the_rest(tmp_path):
    page, experiment = tmp_path / "folds.md", EXPERIMENTS["folds"]
    put_table(page, experiment, "folds_german", "| a |")
    put_table(page, experiment, "folds_adult", r"| \1 |")
    page.write_text(page.read_text() + "\nRead it so.\n")
    put_table(page, experiment, "folds_german", "| b |")
    assert blocks(page.read_text()) == {"folds_german": "| b |", "folds_adult": r"| \1 |"}
    assert page.read_text().startswith(f"# {experiment.question}\n") and page.read_text().endswith("\nRead it so.\n")


def test_the_command_that_a_table_names_has_no_folder():
    options = argparse.Namespace(raw_dir=pathlib.Path("/a"), runs=pathlib.Path("/b"), splits=3, published_dir=None)
    arguments = ["--raw_dir=/a", "--runs", "/b", "--splits=3", "--set=x=/1", "--splits", "4"]
    assert without_paths(arguments, options) == ["--raw_dir=...", "--splits=3", "--set=x=/1", "--splits", "4"]
    assert without_paths(["--raw_dir", "/a", "--runs=/b"], options) == ["--raw_dir=..."]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_of_every_experiment_says_what_it_asks_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and EXPERIMENTS[name].question in said and EXPERIMENTS[name].command in said


def test_without_a_name_every_experiment_is_listed(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(f"{name} " in said and one.question in said for name, one in EXPERIMENTS.items())
