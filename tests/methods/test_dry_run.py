"""The dry run, and that every config's steps lower for a TPU from a machine without one."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from eqpool.config import RunConfig
from eqpool.config.check import from_config_dict
from eqpool.data.cohort import Cohort
from eqpool.data.volumes.grids import named_grid
from eqpool.engine import data_parallel
from eqpool.engine.state import create_state
from eqpool.engine.stream import make_stream_step
from eqpool.methods.base import method_named
from eqpool.methods.dry_run import describe_plan, measure
from tests.config.test_schema import CONFIGS, load
from tests.volume_inputs import volume_inputs

TABLE_FEATURES = {"german": 58, "adult": 99}


def cohort_like(config: RunConfig, rows: int = 60) -> Cohort:
    """A cohort of the config's shape without its data: inputs are zeros that take no memory."""
    generator = np.random.default_rng(0)
    grid = None
    if config.data.dataset == "morpho_mnist":
        shape: tuple[int, ...] = (28, 28)
    elif config.data.features or config.data.dataset in TABLE_FEATURES:
        shape = (TABLE_FEATURES.get(config.data.dataset, 20),)
    else:
        grid = named_grid(config.data.grid)
        shape = grid.shape
    number = config.data.target_type == "number"
    classes = () if number else ("a", "b", "c")[: 3 if config.data.dataset == "morpho_mnist" else 2]
    target = (
        generator.normal(size=rows).astype(np.float32) if number else np.arange(rows, dtype=np.int32) % len(classes)
    )
    return Cohort(
        name=config.name,
        simulated=True,
        participant_id=np.array([f"sub-{row}" for row in range(rows)]),
        inputs=np.broadcast_to(np.float32(0), (rows, *shape)),
        site=(np.arange(rows) // 6 % 2).astype(np.int32),
        site_names=("A", "B"),
        covariates=generator.uniform(20, 80, (rows, 1)),
        covariate_names=("age",),
        target=target,
        target_name="target",
        target_classes=classes,
        split=np.tile(["train", "train", "train", "train", "validation", "test"], rows // 6),
        volumes=None if grid is None else volume_inputs(grid, rows),
    )


# Baselines share their step's form across data sets of a kind: volumes and tables are tried once each.
ALIKE = ("adcp", "fcon1000", "abide1")  # adni and ixi_thickness stand for them
CASES = [(path, variant, "") for path in CONFIGS for variant in ("", "paper") if path.stem not in ALIKE]
CASES += [(path, "", method) for path in CONFIGS if path.stem in ("adni", "german") for method in ("mmd", "cai")]


@pytest.mark.parametrize(("path", "variant", "method"), CASES, ids=lambda value: getattr(value, "stem", value) or "-")
def test_every_step_lowers_for_a_tpu(path, variant, method):
    config = from_config_dict(load(path, variant))
    config = dataclasses.replace(config, method=method or config.method)
    for planned in method_named(config.method).plan(config, cohort_like(config)):
        key, optimizer = jax.eval_shape(lambda: jax.random.key(0)), planned.stage.make_optimizer(planned.steps)
        state = jax.eval_shape(lambda key: create_state(planned.stage, optimizer, key), key)  # noqa: B023
        step = make_stream_step(planned.stage, optimizer, data_parallel.make_mesh(1))
        text = jax.export.export(step, platforms=["tpu"])(state, planned.batch, key).mlir_module()
        assert not re.search(r"f64|callback", text), f"{planned.stage.name}: float64 or a host callback"
        custom = set(re.findall(r"custom_call @(\w+)", text))
        assert not [name for name in custom if re.search("eig|lapack|schur", name)], custom


def test_a_plan_counts_what_training_would_make():
    config = from_config_dict(load(next(path for path in CONFIGS if path.stem == "german")))
    cohort = cohort_like(config)
    first, second = method_named(config.method).plan(config, cohort)
    assert first.stage.name == "stage_one" and second.stage.name == "stage_two"
    assert (
        first.steps == 1 and first.stage.settings.epochs == config.stage_one.epochs and len(first.batch["mask"]) == 40
    )
    cost = measure(first, data_parallel.make_mesh(2))
    by_hand = sum(leaf.size for leaf in jax.tree.leaves(first.stage.initialise(jax.random.key(0))["params"]))
    assert cost.parameters == by_hand and cost.step_seconds > 0
    # At the least the parameters, Adam's two moments and the best epoch's copy, in float32.
    assert cost.memory_bytes >= 4 * 4 * by_hand


def test_the_description_has_a_line_a_stage():
    config = from_config_dict(load(next(path for path in CONFIGS if path.stem == "german")))
    lines = describe_plan(dataclasses.replace(config, method="mmd", devices=1), cohort_like(config)).splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "baseline", "Not"]
