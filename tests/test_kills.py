"""Killed at any moment, the same command goes on and ends with the same bits; SIGTERM saves first."""

import dataclasses
import pathlib
import signal
import time

import numpy as np
import pytest

from eqpool.config import DataConfig, EvaluateConfig, IstnConfig, ModelConfig, RunConfig, TaskConfig
from tests.conftest import tiny_config
from tests.killing import MOMENTS, Child, check_whole, finished_epochs, fresh, outcome

pytestmark = pytest.mark.slow
QUICK_EVALUATION = EvaluateConfig(
    adversary_epochs=1, probe_seeds=1, probe_folds=2, permutations=9, bootstraps=9, scorecard_permutations=0
)
RANDOM_KILLS = {"table": 8, "volumes": 6, "istn": 6}


def volumes_config(folder: pathlib.Path) -> RunConfig:
    config = tiny_config(folder)
    stages = {
        name: dataclasses.replace(getattr(config, name), epochs=3, checkpoint_every_epochs=1)
        for name in ("stage_one", "stage_two")
    }
    return dataclasses.replace(config, **stages)


def table_config(folder: pathlib.Path) -> RunConfig:
    generator = np.random.default_rng(0)
    rows = ["participant_id\tsite\tage\tdx\tx_1\tx_2\tx_3"]
    for number in range(90):
        features = "\t".join(f"{value:.4f}" for value in generator.normal(size=3) + number % 2)
        rows.append(f"s{number}\t{'AB'[number % 2]}\t{generator.uniform(20, 80):.1f}\t{number // 2 % 2}\t{features}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    config = volumes_config(folder)
    stages = {
        name: dataclasses.replace(getattr(config, name), epochs=8, checkpoint_every_epochs=1)
        for name in ("stage_one", "stage_two")
    }
    data = DataConfig(participants=str(folder / "participants.tsv"), features="x_*", validation_fraction=0.2)
    return dataclasses.replace(config, data=data, model=ModelConfig(latent_dim=8, hidden_units=8), **stages)


def istn_config(folder: pathlib.Path) -> RunConfig:
    often = {"checkpoint_every_epochs": 1, "validate_every_epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
    return RunConfig(
        name="istn",
        method="istn",
        devices=1,
        cache_dir=str(folder / "cache"),
        data=DataConfig(
            dataset="brain_age", target="age", covariates="sex:categorical", simulated_fraction=0.03, grid="16x18x16",
            validation_fraction=0.2, squash=True, balance="site", workers=2,
        ),
        task=TaskConfig(model="age_regressor", epochs=3, **often),
        istn=IstnConfig(
            encoder=(4, 8), bottleneck=(8,), decoder=(4,), discriminator=(4, 8), reference="UKBB", shape="bspline",
            spacing=6, epochs=3, image_weight=1.0, **often,
        ),
        evaluate=QUICK_EVALUATION,
    )  # fmt: skip


KINDS = {"table": table_config, "volumes": volumes_config, "istn": istn_config}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A config, how long its warm run takes, and what it comes to."""

    config: RunConfig
    seconds: float
    outcome: dict
    compiled: pathlib.Path


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request, tmp_path_factory) -> Kind:
    """Runs once for the compiled programs, and once more, uninterrupted, with them."""
    folder = tmp_path_factory.mktemp(request.param)
    config = dataclasses.replace(KINDS[request.param](folder), name=request.param)
    (folder / "none").mkdir()
    fresh(config, folder / "first", folder / "none")
    first = Child(config, folder / "first")
    assert first.wait() == 0, first.said()
    compiled = pathlib.Path(config.cache_dir) / "compiled"
    kept = compiled.rename(folder / "compiled")
    fresh(config, folder / "second", kept)
    started = time.monotonic()
    second = Child(config, folder / "second")
    assert second.wait() == 0, second.said()
    seconds = time.monotonic() - started
    assert outcome(folder / "first") == outcome(folder / "second")  # the same bits twice
    return Kind(config, seconds, outcome(folder / "second"), kept)


def interrupted(kind: Kind, folder: pathlib.Path, interrupt, most: int = 50) -> tuple[int, str]:
    """Interrupts run after run in `folder` until one ends; returns how many were and what the last one said."""
    before: dict[str, int] = {}
    for met in range(most):
        child = Child(kind.config, folder)
        if not interrupt(child, met):
            assert child.wait() == 0, child.said()
            return met, child.said()
        check_whole([folder, pathlib.Path(kind.config.cache_dir)])
        after = finished_epochs(folder)
        assert all(after[stage] >= epoch for stage, epoch in before.items()), (before, after)
        before = after
    raise AssertionError(f"not finished after {most} runs")


def test_killed_at_random(kind, tmp_path):
    """Kills at uniform moments of what a whole run takes, until so many have met a living run."""
    generator = np.random.default_rng(7)
    wanted, total, chains = RANDOM_KILLS[kind.config.name], 0, 0
    while total < wanted:
        folder = tmp_path / f"run_{chains}"
        fresh(kind.config, folder, kind.compiled)

        def kill(child: Child, met: int, before: int = total) -> bool:
            last = before + met >= wanted or met >= wanted // 2  # then it may run to its end
            return not last and child.kill_after(generator.uniform(0.3, kind.seconds))

        met, said = interrupted(kind, folder, kill)
        assert outcome(folder) == kind.outcome
        assert "cannot be restored" not in said
        total, chains = total + met, chains + 1
    assert total >= wanted


OF_THE_ISTN = ["while examples are written", "while predictions are written", "while looks are compared"]
NAMED = {
    "table": ["before model.json", "between an epoch and its record", "between file and name", "while evaluating"],
    "volumes": [name for name in MOMENTS if name not in OF_THE_ISTN],
    "istn": ["while a volume is prepared", "before a checkpoint", *OF_THE_ISTN],
}


def test_killed_at_every_named_moment(kind, tmp_path):
    """One run through all its moments: killed at the first, gone on and killed at the second, and so to the end."""
    folder = tmp_path / "run"
    fresh(kind.config, folder, kind.compiled)
    before: dict[str, int] = {}
    for moment in NAMED[kind.config.name]:
        child = Child(kind.config, folder, moment, quiet="report" not in moment)
        assert child.wait() == -signal.SIGKILL, f"{moment} did not come: {child.said()}"
        check_whole([folder, pathlib.Path(kind.config.cache_dir)])
        after = finished_epochs(folder)
        assert all(after[stage] >= epoch for stage, epoch in before.items()), (moment, before, after)
        before = after
    child = Child(kind.config, folder, quiet=False)
    assert child.wait() == 0, child.said()
    assert outcome(folder) == kind.outcome
    check_whole([folder, pathlib.Path(kind.config.cache_dir)])
    assert (folder / "report.html").exists()


def test_sigterm_saves_first(kind, tmp_path):
    """Sent while it trains it ends by itself with a checkpoint of the epoch it was in; elsewhere nothing is lost."""
    generator, folder = np.random.default_rng(3), tmp_path / "run"
    fresh(kind.config, folder, kind.compiled)
    saved = []

    def terminate(child: Child, met: int) -> bool:
        if met >= 3 or not child.kill_after(generator.uniform(0.4, 0.8) * kind.seconds, signal.SIGTERM):
            return False
        saved.append("which is saved" in child.said())
        assert child.wait() == (143 if saved[-1] else -signal.SIGTERM), child.said()
        return True

    interrupted(kind, folder, terminate)
    assert outcome(folder) == kind.outcome


def test_enough_kills():
    assert sum(RANDOM_KILLS.values()) + sum(map(len, NAMED.values())) >= 30
