"""docs/metrics.md names every metric that a run writes, and none that no run writes.

The keys are collected from the functions that make them, on cohorts of a few rows and with networks left untrained.
"""

import dataclasses
import pathlib
import re
import types

import numpy as np
import pytest

from eqpool.commands.make_maps import make_maps
from eqpool.config import EvaluateConfig, RunConfig, TaskConfig, to_dict
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.load import load_cohort
from eqpool.evaluate.evaluation import evaluate
from eqpool.evaluate.outputs import Embeddings
from eqpool.evaluate.probes import ProbeScore
from eqpool.evaluate.scorecard import make_scorecard
from eqpool.evaluate.scored_rows import ScoredRows
from eqpool.evaluate.site_metrics import site_floor_metrics
from eqpool.geometry import so
from eqpool.methods.crossfit import Decodes, deal_folds
from eqpool.methods.decoding import Pooled
from eqpool.methods.harmonised_volumes import measure, summarise
from eqpool.methods.istn import Istn
from eqpool.objectives.istn_networks import TASK_MODELS
from eqpool.storage import files
from eqpool.storage.logs import MemoryLog
from eqpool.storage.run_folder import RunFolder
from tests.conftest import tiny_config

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "metrics.md"
NAMES = {"covariate": ["age"], "nuisance": ["sex"], "regressor": ["site", "dx", "age"]}  # of the cohorts below
SCORECARD = "The scorecard"
POOLING, ISTN, MAPS = "A pooling run", "An ISTN's run", "`maps/maps.json`"
ROWS = 48
QUICK = EvaluateConfig(bootstraps=3, permutations=3, probe_permutations=19, scorecard_permutations=2)


def documented(section: str) -> tuple[set[str], set[str]]:
    """(keys, those of them with an interval) that the tables of one section name, patterns filled in by `NAMES`."""
    text = next(part for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE) if part.startswith(section))
    keys, with_interval = set(), set()
    for line in text.splitlines():
        cells = line.strip("| ").split(" | ")
        found = {filled for name in re.findall(r"`([^`]+)`", cells[0]) for filled in fill(name)}
        if line.startswith("| `"):
            keys |= found
            with_interval |= set() if line.endswith("no interval |") else found
    return keys, with_interval


def fill(name: str) -> list[str]:
    pattern = re.search("<([a-z]+)>", name)
    return [name] if pattern is None else [name.replace(pattern[0], value) for value in NAMES[pattern[1]]]


def compare(metrics: set[str], section: str) -> None:
    keys, with_interval = documented(section)
    intervals = {name for name in metrics if name.endswith("_interval")}
    assert metrics - intervals - keys == set(), "written, but not in docs/metrics.md"
    assert keys - metrics == set(), "in docs/metrics.md, but not written"
    assert {name.removesuffix("_interval") for name in intervals} == with_interval


def cohort(classes: tuple[str, ...]) -> Cohort:
    """Images of 8 x 8 of two sites, with a covariate, a nuisance and a target: classes, or a number where none."""
    generator = np.random.default_rng(0)
    site = (np.arange(ROWS) % 2).astype(np.int32)
    number = generator.normal(size=ROWS).astype(np.float32)
    return Cohort(
        name="few",
        simulated=True,
        participant_id=np.array([f"sub-{row}" for row in range(ROWS)]),
        inputs=(generator.uniform(-1, 1, (ROWS, 8, 8)) + site[:, None, None]).astype(np.float32),
        site=site,
        site_names=("A", "B"),
        covariates=generator.uniform(50, 80, (ROWS, 1)),
        covariate_names=("age",),
        target=(np.arange(ROWS) // 2 % 2).astype(np.int32) if classes else number,
        target_name="dx",
        target_classes=classes,
        split=np.repeat(["train", "validation", "test"], ROWS // 3),
        nuisance=(np.arange(ROWS) // 4 % 2).astype(np.int32)[:, None],
        nuisance_names=("sex",),
        nuisance_levels=(("F", "M"),),
    )


def a_score(*arguments, within=True, **options) -> list[ProbeScore]:
    """In place of the panel, which takes most of a run's evaluation."""
    del arguments, within, options
    return [ProbeScore("mlp", "transfer", 0.5, 0.5, (0.4, 0.6), 0.5)]


def of_pooling(classes: tuple[str, ...]) -> set[str]:
    few, generator = cohort(classes), np.random.default_rng(1)
    latent, phi, free = generator.normal(size=(3, ROWS, 4)).astype(np.float32)
    embeddings = Embeddings(
        latent=latent,
        tau=np.linalg.qr(generator.normal(size=(ROWS, 4, 4)))[0].astype(np.float32),
        phi=phi,
        covariate_free=free,
        prediction=generator.normal(size=(ROWS, len(classes) or 1)).astype(np.float32),
    )
    generators = np.asarray(so.generator(4, rotation_range=1.0))[None]
    metrics = evaluate(few, Scaling.fit(few), embeddings, generators, "expm", QUICK, 0)
    return set(metrics | site_floor_metrics(few, QUICK))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """(config, cohort): 18 simulated volumes with their truth."""
    config = tiny_config(tmp_path_factory.mktemp("volumes"))
    return config, load_cohort(config.data, pathlib.Path(config.cache_dir), progress=False)


def of_scorecard(classes: tuple[str, ...]) -> set[str]:
    few = cohort(classes)
    rows = ScoredRows(
        site=few.site,
        covariates=few.covariates,
        target=few.target,
        target_classes=classes,
        subject=few.participant_id,
        is_training=few.split == "train",
        covariate_name="age",
        target_name="dx",
    )
    raw = few.inputs.reshape(ROWS, -1)
    versions = {"raw": raw, "combat": np.full_like(raw, np.nan), "eqpool": raw / 2, "truth": raw / 3}
    card = make_scorecard(rows, versions, handed_back="eqpool", on_voxels=True, config=QUICK, seed=0)
    keys = set(card["levels"]).union(*card["versions"].values(), *card["differences"].values())
    return set(card) | keys


def test_every_score_of_the_scorecard():
    compare(of_scorecard(("a", "b")) | of_scorecard(()), SCORECARD)


def test_every_metric_of_a_pooling_run(volumes, monkeypatch):
    monkeypatch.setattr("eqpool.evaluate.site_metrics.probe_panel", a_score)
    config, scans = volumes
    brain = np.asarray(scans.inputs[0])
    measured = [measure(scans, Pooled(0, brain, {}, brain + 0.1, brain + 0.2, brain + 0.3), brain)]
    of_volumes = set(summarise(measured, scans.participant_id[:1], config.evaluate, 0)) | {"change_scale"}
    compare(of_pooling(("a", "b")) | of_pooling(()) | of_volumes, POOLING)


def of_istn(classes: tuple[str, ...], folder: pathlib.Path) -> set[str]:
    """What `Istn.fit` says of networks that are never trained; its stages are stubs by then."""
    few = cohort(classes)
    config = RunConfig(method="istn", task=TaskConfig(model="sex_classifier" if classes else "age_regressor"))
    quick = dataclasses.replace(QUICK, scorecard=False)  # it has networks to apply, and a test of its own
    config = dataclasses.replace(config, evaluate=quick, istn=dataclasses.replace(config.istn, discriminator=(4, 4)))
    session = types.SimpleNamespace(config=config, log=MemoryLog())
    return set(Istn().fit(session, few, Scaling.fit(few), folder).metrics)


def test_every_metric_of_an_istn(monkeypatch, tmp_path):
    generator = np.random.default_rng(2)
    state = types.SimpleNamespace(best_variables={"params": dict.fromkeys(TASK_MODELS, {})}, best_score=0.1)

    def forward(session, stage, variables, columns):
        rows = len(columns["inputs"])
        outputs = generator.normal(size=(rows, 2)).astype(np.float32)
        summary = {name: np.zeros(rows) for name in ("folded_voxels", "mean_displacement")}
        return {"prediction": outputs, "image": columns["inputs"]} | summary

    for name in ("train_on_images", "train_on_pairs"):
        monkeypatch.setattr(f"eqpool.methods.istn.{name}", lambda *_: state)
    monkeypatch.setattr("eqpool.methods.istn.forward_on_images", forward)
    monkeypatch.setattr("eqpool.methods.istn.istn_steps", lambda *_: {})
    compare(of_istn(("a", "b"), RunFolder(tmp_path)) | of_istn((), RunFolder(tmp_path)), ISTN)


def test_every_number_of_the_maps(volumes, monkeypatch, tmp_path):
    config, scans = volumes
    mask = scans.volumes.grid.mask
    inputs = np.stack([np.asarray(scans.inputs[row])[mask] for row in range(len(scans.site))])
    noise = np.random.default_rng(3).normal(0, 0.1, (3, *inputs.shape))
    decodes = Decodes(np.concatenate([inputs[None], inputs + noise]).astype(np.float32), deal_folds(config, scans, 2))
    monkeypatch.setattr("eqpool.commands.make_maps.cross_fitted_decodes", lambda *_: decodes)
    files.write_json(tmp_path / "config.json", to_dict(config))
    facts = make_maps(tmp_path, folds=2)
    forms = {key for form in facts.pop("forms").values() for key in form}
    compare(forms | set(facts), MAPS)


def test_a_new_key_and_a_key_without_its_interval_are_noticed():
    keys, with_interval = documented(ISTN)
    intervals = {f"{name}_interval" for name in with_interval}
    compare(keys | intervals, ISTN)
    for metrics in (keys | intervals | {"brand_new"}, (keys | intervals) - {"gain_scratch"}, keys):
        with pytest.raises(AssertionError):
            compare(metrics, ISTN)
