"""The ISTN's step: who teaches whom, what never reaches training, and a run from the command's own door."""

import dataclasses
import html
import json
import pathlib

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pandas as pd
import pytest

from eqpool.commands.run import run
from eqpool.config import DataConfig, EvaluateConfig, IstnConfig, RunConfig, TaskConfig
from eqpool.config.check import from_config_dict
from eqpool.data.cohort import Cohort
from eqpool.data.shape import DataShape
from eqpool.data.volumes.grids import named_grid
from eqpool.engine import data_parallel
from eqpool.engine.image_table import make_image_epoch
from eqpool.engine.pairs import pairs_in_order, pick_pairs
from eqpool.engine.selected import selected_variables
from eqpool.engine.state import create_state
from eqpool.errors import InputError
from eqpool.methods.istn import Istn, check_images
from eqpool.objectives.istn import make_game_optimizer, make_istn, transform
from eqpool.objectives.istn_networks import TASK_MODELS
from eqpool.objectives.task import make_task
from eqpool.report.workfolder import read_workfolder
from eqpool.storage.run_folder import RunFolder
from tests.config.test_schema import load
from tests.conftest import REPOSITORY
from tests.volume_inputs import volume_inputs

pytestmark = pytest.mark.usefixtures("quick_compile")

SHAPE = (20, 20)


def config(**istn) -> RunConfig:
    settings = {
        "encoder": (4, 8),
        "bottleneck": (8,),
        "decoder": (4,),
        "discriminator": (4, 8),
        "dropout": 0.0,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "validate_every_epochs": 1,
        "checkpoint_every_epochs": 1,
        "image_weight": 1.0,
    }
    return RunConfig(
        name="test",
        method="istn",
        devices=1,
        data=DataConfig(dataset="morpho_mnist"),
        task=TaskConfig(model="morpho_classifier", epochs=2, batch_size=8, validate_every_epochs=1),
        istn=IstnConfig(**(settings | istn)),
        evaluate=EvaluateConfig(
            permutations=9, bootstraps=10, adversary_epochs=2, probe_seeds=1, probe_folds=2, scorecard=False,
            scorecard_permutations=0,
        ),
    )  # fmt: skip


def batch(rows: int = 6, seed: int = 0) -> dict[str, jax.Array]:
    generator = np.random.default_rng(seed)
    images = np.tanh(generator.normal(size=(2, rows, *SHAPE))).astype(np.float32)
    return {
        "inputs": jnp.asarray(images[0]),
        "site": jnp.zeros(rows, jnp.int32),
        "target": jnp.asarray(generator.integers(0, 3, rows), jnp.int32),
        "target_known": jnp.ones(rows),
        "mask": jnp.ones(rows),
        "reference_inputs": jnp.asarray(images[1]),
        "reference_site": jnp.ones(rows, jnp.int32),
    }


def stage_and_variables(settings: RunConfig, sites: int = 2):
    pretrained = make_task(settings, DataShape(SHAPE, 1, 2, 3)).initialise(jax.random.key(5))
    stage = make_istn(settings, DataShape(SHAPE, 1, sites, 3), pretrained)
    return stage, stage.initialise(jax.random.key(1))


def gradients_of(settings: RunConfig, *batches: dict[str, jax.Array]):
    stage, variables = stage_and_variables(settings)

    def total(params, rows):
        return stage.loss(variables | {"params": params}, rows, jax.random.key(2), jnp.int32(0)).total

    gradient = jax.jit(jax.grad(total))
    return [gradient(variables["params"], rows) for rows in batches]


def size(tree) -> float:
    return float(sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)))


def test_source_labels_teach_the_task_models_alone_unless_end_to_end():
    rows = batch()
    other = rows | {"target": (rows["target"] + 1) % 3}
    for weight, reaches in ((0.0, False), (1.0, True)):
        a, b = gradients_of(config(task_weight=weight), rows, other)
        changed = {name: size(jax.tree.map(jnp.subtract, a[name], b[name])) > 1e-6 for name in a}
        assert changed == {name: name in TASK_MODELS or (reaches and name == "to_reference") for name in a}


def test_the_generator_does_not_learn_from_the_discriminators_loss_nor_the_reverse():
    """With the identity loss away, hard labels and both logits' labels swapped, each side's gradient changes sign."""
    settings = config(image_weight=0.0, shape="none")
    stage, variables = stage_and_variables(settings)

    def term(name):
        def value(params):
            return stage.loss(variables | {"params": params}, batch(), jax.random.key(2), jnp.int32(0)).terms[name]

        return jax.grad(value)(variables["params"])

    of_generator, of_discriminator = jax.jit(lambda: (term("generator"), term("discriminator")))()
    assert size(of_generator["to_reference"]) > 0 and size(of_generator["reference_judge"]) == 0
    assert size(of_discriminator["reference_judge"]) > 0 and size(of_discriminator["to_reference"]) == 0


def test_noise_and_gradient_penalty_reach_the_judge_alone():
    def terms(**istn):
        stage, variables = stage_and_variables(config(shape="none", **istn))

        def value(params):
            return stage.loss(variables | {"params": params}, batch(), jax.random.key(2), jnp.int32(0)).terms[
                "discriminator"
            ]

        return jax.jit(jax.value_and_grad(value))(variables["params"])

    plain, _ = terms()
    penalised, gradient = terms(gradient_penalty=10.0)
    noisy, _ = terms(instance_noise=0.5)
    assert penalised > plain and noisy != plain
    assert {name for name in gradient if size(gradient[name])} == {"reference_judge"}


def test_momentum_is_the_games_and_not_the_task_models():
    """A second step without a gradient goes on by momentum alone."""
    params = {"to_reference": jnp.ones(3), "scratch": jnp.ones(3)}

    def second_step(momentum: float):
        optimizer = make_game_optimizer(config(momentum=momentum).istn, 1)
        state = optimizer.init(params)
        _, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        return optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)[0]

    without, with_it = second_step(0.0), second_step(0.5)
    assert size(without["to_reference"]) == 0 < size(with_it["to_reference"])
    assert size(without["scratch"]) == size(with_it["scratch"]) > 0


@pytest.mark.parametrize("direction", ["one_way", "two_way"])
def test_the_loss_is_the_papers_sum(direction):
    settings = config(
        direction=direction, image_weight=7.0, shape="bspline", spacing=6, bending_weight=2.0, change_weight=3.0
    )
    stage, variables = stage_and_variables(settings)
    value = jax.jit(stage.loss)(variables, batch(), jax.random.key(2), jnp.int32(0))
    terms = {name: float(term) for name, term in value.terms.items()}
    expected = terms["generator"] + terms["discriminator"] + terms["scratch"] + terms["finetuned"]
    expected += 7.0 * terms["identity"] / 2 + 2.0 * terms["bending"] + 3.0 * terms["change"]
    if direction == "two_way":
        expected += terms["generator_back"] + terms["discriminator_back"]
        expected += 7.0 * (terms["identity_back"] / 2 + terms["cycle"]) + 3.0 * terms["change_back"]
        expected += 2.0 * terms["bending_back"]
        assert terms["cycle"] > 0 and terms["change_back"] > 0
    np.testing.assert_allclose(value.total, expected, rtol=1e-5)


def test_bending_holds_both_ways():
    held = {}
    for weight in (0.0, 1e5):
        stage, variables = stage_and_variables(
            config(direction="two_way", shape="bspline", spacing=6, bending_weight=weight)
        )
        random = np.random.default_rng(0)  # off the identity, which does not bend
        params = jax.tree.map(
            lambda leaf, random=random: leaf + 0.1 * random.normal(size=leaf.shape), variables["params"]
        )

        def total(params, stage=stage, variables=variables):
            return stage.loss(variables | {"params": params}, batch(), jax.random.key(2), jnp.int32(0)).total

        held[weight] = jax.jit(jax.grad(total))(params)
    for name in ("to_reference", "to_source"):
        assert size(held[1e5][name]["stn"]) > 2 * size(held[0.0][name]["stn"]), name


def test_rare_classes_count_as_much_where_asked_for():
    rows = batch() | {"target": jnp.array([0, 0, 0, 0, 1, 2], jnp.int32)}
    plain = config(shape="none")
    balanced = dataclasses.replace(plain, class_weights="balanced")
    (first_stage, variables), (second_stage, _) = (stage_and_variables(one) for one in (plain, balanced))
    first, second = (
        jax.jit(stage.loss)(variables, rows, jax.random.key(2), jnp.int32(0)).terms
        for stage in (first_stage, second_stage)
    )
    for name in TASK_MODELS:
        assert abs(first[name] - second[name]) > 1e-3
    tasks = [make_task(one, DataShape(SHAPE, 1, 2, 3)) for one in (plain, balanced)]
    losses = [float(task.loss(task.initialise(jax.random.key(5)), rows, jax.random.key(2), 0).total) for task in tasks]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_several_sites_go_to_the_reference_by_one_conditioned_network():
    settings = config(shape="none")
    stage, variables = stage_and_variables(settings, sites=3)
    rows = batch()
    first = stage.forward(variables, rows)["image"]
    second = stage.forward(variables, rows | {"site": jnp.full(6, 2, jnp.int32)})["image"]
    assert np.abs(first - second).max() > 1e-4
    with pytest.raises(ValueError, match="two ways between 3 sites"):
        stage_and_variables(config(direction="two_way"), sites=3)


def test_padding_of_either_side_changes_nothing():
    settings = config(shape="affine")
    stage, variables = stage_and_variables(settings)
    filler = batch(2, seed=9)
    padded = {name: jnp.concatenate([column, filler[name]]) for name, column in batch().items()}
    padded["mask"] = padded["mask"].at[6:].set(0)
    # Dropout and soft labels draw by shape, so the terms without either are compared.
    short, long = (
        jax.jit(stage.loss)(variables, rows, jax.random.key(2), jnp.int32(0)).terms for rows in (batch(), padded)
    )
    np.testing.assert_allclose(short["identity"], long["identity"], rtol=1e-5)
    settings = config(shape="bspline", spacing=6, bending_weight=1.0)
    stage, variables = stage_and_variables(settings)
    random = np.random.default_rng(0)  # off the identity
    variables["params"] = jax.tree.map(
        lambda weight: weight + 0.1 * random.normal(size=weight.shape), variables["params"]
    )
    short, long = (
        jax.jit(stage.loss)(variables, rows, jax.random.key(2), jnp.int32(0)).terms for rows in (batch(), padded)
    )
    np.testing.assert_allclose(short["bending"], long["bending"], rtol=1e-4)
    assert short["bending"] > 0


def test_as_many_of_the_reference_count_as_of_the_source():
    """Nine sources in batches of eight: the second batch is normalised by four images of either side, not of eight."""
    order = pairs_in_order(9, 7, 8, data_parallel.make_mesh(1))(jax.random.key(0))
    settings = config(shape="none")
    stage, variables = stage_and_variables(settings)
    rows = batch(9)
    source = {name: column for name, column in rows.items() if not name.startswith("reference") and name != "mask"}
    reference = {"inputs": rows["reference_inputs"], "site": rows["reference_site"]}
    last = pick_pairs((source, reference), jax.tree.map(lambda column: column[1], order))
    np.testing.assert_array_equal(last["mask"], [1] * 4 + [0] * 4)
    alone = {name: column[:4] for name, column in last.items()}
    for ragged, single in zip(
        *(
            jax.tree.leaves(
                jax.jit(stage.loss)(variables, one, jax.random.key(2), jnp.int32(0)).batch_stats["batch_stats"]
            )
            for one in (last, alone)
        ),
        strict=True,
    ):
        np.testing.assert_allclose(ragged, single, rtol=1e-4, atol=1e-5)


def test_the_way_back_leaves_the_running_averages_to_images_as_later_ones_will_be():
    averages = []
    for direction in ("one_way", "two_way"):
        stage, variables = stage_and_variables(config(shape="affine", direction=direction))
        found = jax.jit(stage.loss)(variables, batch(), jax.random.key(2), jnp.int32(0))
        averages.append(jax.tree.leaves(found.batch_stats["batch_stats"]["to_reference"]))
        before = jax.tree.leaves(variables["batch_stats"]["to_reference"])
        assert any(np.abs(new - old).max() > 1e-3 for new, old in zip(averages[-1], before, strict=True))
    for one_way, two_way in zip(*averages, strict=True):
        np.testing.assert_allclose(one_way, two_way, rtol=1e-5, atol=1e-6)


def test_every_row_of_the_reference_comes_once_before_any_comes_again():
    mesh = data_parallel.make_mesh(1)
    order = pairs_in_order(20, 7, 4, mesh)(jax.random.key(0))
    drawn = np.asarray(order.drawn).reshape(-1)
    assert sorted(drawn[:7]) == sorted(drawn[7:14]) == list(range(7))
    assert sorted(np.asarray(order.source.rows).reshape(-1)) == list(range(20))


@pytest.mark.parametrize(("rows", "size"), [(81, 16), (81, 4), (17, 16)])
def test_a_spread_epoch_skips_no_row_of_the_reference(rows, size):
    """Of slots without a source row no image of the reference is used up: each comes once before any comes again."""
    order = pairs_in_order(rows, 20, size, data_parallel.make_mesh(8))(jax.random.key(0))
    used = np.asarray(order.drawn)[np.asarray(order.source.mask) > 0]
    assert len(used) == rows
    for start in range(0, rows - 19, 20):
        assert sorted(used[start : start + 20]) == list(range(20))


def test_eight_devices_make_the_epoch_of_one():
    settings = config(shape="none", learning_rate=1e-5)
    stage, _ = stage_and_variables(settings)
    optimizer = make_game_optimizer(settings.istn, 1)
    rows = batch(8)
    source = {name: rows[name] for name in ("inputs", "site", "target", "target_known")}
    reference = {"inputs": rows["reference_inputs"], "site": rows["reference_site"]}
    terms = []
    for devices in (1, 8):
        mesh = data_parallel.make_mesh(devices)
        epoch = make_image_epoch(stage, optimizer, pairs_in_order(8, 8, 8, mesh), pick_pairs, mesh)
        state = data_parallel.put_replicated(create_state(stage, optimizer, jax.random.key(3)), mesh)
        tables = data_parallel.put_replicated((source, reference), mesh)
        terms.append(epoch(state, tables, jax.random.key(4))[1])
    for name in terms[0]:
        np.testing.assert_allclose(terms[0][name], terms[1][name], rtol=1e-4, atol=1e-5, err_msg=name)


def cohort(seed: int = 0, sites: int = 2) -> Cohort:
    """Sites of blobs: the class is the blob's place, the reference shows it dark on grey, a third site pale."""
    generator = np.random.default_rng(seed)
    count = 96
    target = generator.integers(0, 3, count).astype(np.int32)
    site = np.repeat(np.arange(sites), count // sites).astype(np.int32)
    grid = np.stack(np.meshgrid(*(np.arange(side) for side in SHAPE), indexing="ij"), axis=-1)
    centres = np.array([[5, 5], [14, 6], [10, 15]])[target] + generator.normal(size=(count, 2))
    blobs = np.exp(-np.square(grid[None] - centres[:, None, None]).sum(axis=-1) / 12)
    looks = np.stack([2 * blobs - 1, 0.5 - blobs, 0.5 * blobs])
    images = looks[site, np.arange(count)]
    split = np.tile(np.array(["train"] * 4 + ["validation", "test"]), count // 6)
    return Cohort(
        name="blobs",
        simulated=True,
        participant_id=np.array([f"sub-{row}" for row in range(count)]),
        inputs=images.astype(np.float32),
        site=site,
        site_names=("bright", "dark", "pale")[:sites],
        covariates=np.zeros((count, 0)),
        covariate_names=(),
        target=target,
        target_name="place",
        target_classes=("a", "b", "c"),
        split=split,
    )


def run_on(made: Cohort, settings: RunConfig, folder):
    return run(settings, folder, quiet=True, load=lambda *_: made)


def test_a_game_that_runs_away_ends_with_the_setting_to_change(tmp_path, capsys):
    """A discriminator without restraint against an ITN that hardly learns: the line is in every place people look."""
    settings = config(shape="none", epochs=24, learning_rate=0.02, image_weight=1000.0)
    settings = dataclasses.replace(settings, cache_dir=str(tmp_path / "cache"))
    warning = run(settings, tmp_path / "run", load=lambda *_: cohort())["training_warning"]
    assert warning.startswith("The ISTN") and "config.istn." in warning
    assert f"WARNING: {warning}" in capsys.readouterr().out.rstrip().splitlines()[-6:]  # before verdict and report
    assert f"WARNING: {warning}" in (tmp_path / "run" / "log.txt").read_text()
    assert f"{warning}.</p>" in html.unescape((tmp_path / "run" / "report.html").read_text())


def test_labels_of_the_reference_change_no_prediction(tmp_path):
    made = cohort()
    settings = dataclasses.replace(config(shape="affine"), cache_dir=str(tmp_path / "cache"))
    run_on(made, settings, tmp_path / "a")
    permuted = np.where(made.site == 1, (made.target + 1) % 3, made.target).astype(np.int32)
    run_on(dataclasses.replace(made, target=permuted), settings, tmp_path / "b")
    first, second = (pd.read_csv(tmp_path / side / "predictions.tsv", sep="\t") for side in "ab")
    assert (first["target"] != second["target"]).any()
    pd.testing.assert_frame_equal(first.drop(columns="target"), second.drop(columns="target"))
    a, b = (dict(np.load(tmp_path / side / "images" / "examples.npz")) for side in "ab")
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_numbers_of_an_unlabelled_reference_change_no_prediction_and_end_no_run(tmp_path):
    """A number is standardised, which has to look at the source alone."""
    made = cohort()
    age = np.random.default_rng(3).uniform(50, 80, len(made.site)).astype(np.float32)
    made = dataclasses.replace(made, target=age, target_classes=())
    settings = dataclasses.replace(config(shape="none"), cache_dir=str(tmp_path / "cache"))
    settings = dataclasses.replace(settings, task=dataclasses.replace(settings.task, model="age_regressor"))
    known = run_on(made, settings, tmp_path / "a")["metrics"]
    unlabelled = dataclasses.replace(made, target=np.where(made.site == 1, np.nan, age).astype(np.float32))
    blind = run_on(unlabelled, settings, tmp_path / "b")["metrics"]
    assert known["before_mae"] > 0 and known["source_mae"] == blind["source_mae"]
    assert blind["before_mae"] is None and blind["gain_scratch"] is None
    first, second = (pd.read_csv(tmp_path / side / "predictions.tsv", sep="\t") for side in "ab")
    pd.testing.assert_frame_equal(first.drop(columns="target"), second.drop(columns="target"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "task.model",
            "age_regressor",
            'config.task.model = "age_regressor": config.data.target = "place" is 3 classes',
        ),
        (
            "istn.discriminator",
            (4,) * 7,
            r"config.istn.discriminator = \(4, .*of 20x20, expected an axis of at least 65",
        ),
    ],
)
def test_networks_that_do_not_go_with_the_images_are_named_before_training(tmp_path, key, value, message):
    group, name = key.split(".")
    settings = dataclasses.replace(config(), cache_dir=str(tmp_path / "cache"))
    settings = dataclasses.replace(settings, **{group: dataclasses.replace(getattr(settings, group), **{name: value})})
    with pytest.raises(InputError, match=message):
        run_on(cohort(), settings, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(("direction", "sites"), [("one_way", 2), ("two_way", 2), ("one_way", 3), ("universal", 3)])
def test_a_run_fills_its_work_directory_and_resumes(tmp_path, direction, sites):
    settings = config(epochs=2, direction=direction, reference="dark", average_decay=0.9)
    scored = dataclasses.replace(settings.evaluate, scorecard=True)
    settings = dataclasses.replace(settings, cache_dir=str(tmp_path / "cache"), evaluate=scored)
    folder, made = tmp_path / "run", cohort(sites=sites)
    results = run_on(made, settings, folder)
    for name in ("source_accuracy", "before_accuracy", "scratch_accuracy", "finetuned_accuracy", "accuracy"):
        assert 0 <= results["metrics"][name] <= 100
        low, high = results["metrics"][f"{name}_interval"]
        assert low <= high
    assert results["metrics"]["image_mmd_before"] > 1 and np.isfinite(results["metrics"]["image_mmd_after"])
    card = results["scorecard"]
    assert card["handed_back"] == "istn" and list(card["versions"]) == ["raw", "combat", "istn"]
    assert card["reference"] == "dark" and card["truth_is"] == card["target"] == card["covariate"] == ""
    assert not [key for key in card["versions"]["istn"] if "target" in key or "covariate" in key]
    assert card["versions"]["raw"]["site"] > 0.9 and "site_floor" not in card["levels"]
    examples = dict(np.load(folder / "images" / "examples.npz"))
    assert examples["displacement"].shape == (6, *SHAPE, 2) and examples["jacobian"].shape == (6, *SHAPE)

    from eqpool.report.page import write_report

    write_report(folder)
    assert (folder / "report.html").stat().st_size > 20_000 and (folder / "figures" / "transformations.png").is_file()

    # Killed after the first epoch of the ISTN, the same command comes to the same end.
    predictions = (folder / "predictions.tsv").read_bytes()
    (folder / "results.json").unlink()
    for late in (folder / "checkpoints" / "istn").glob("2"):
        for path in sorted(late.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        late.rmdir()
    run_on(made, settings, folder)
    assert (folder / "predictions.tsv").read_bytes() == predictions
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if record["stage"] == "istn"] == [1, 2]

    kept = Istn().load(RunFolder(folder)).variables
    sources = np.flatnonzero((made.site != 1) & (made.split == "test"))[:6]
    again = transform(settings, kept, jnp.asarray(made.inputs[sources]), jnp.asarray(made.site[sources]), sites)
    np.testing.assert_allclose(examples["image"], again.image[..., 0], atol=1e-5)


def test_volumes_are_squashed_and_split_without_labels_of_the_reference():
    """As configs/brain_*.py have it, and others do not."""
    volumes = np.zeros((96, 20, 20, 20), np.float32)
    made = dataclasses.replace(cohort(), inputs=volumes, volumes=volume_inputs(named_grid("20x20x20"), 96))
    settings = config()
    with pytest.raises(InputError, match='config.data.squash = False: expected True for method "istn"'):
        check_images(settings, made)
    settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, squash=True))
    with pytest.raises(InputError, match='config.data.balance = "site_and_target": expected "site" for method "istn"'):
        check_images(settings, made)
    check_images(dataclasses.replace(settings, data=dataclasses.replace(settings.data, balance="site")), made)


def test_validation_comes_every_few_epochs_and_training_stops_after_patience_of_them(monkeypatch, tmp_path):
    """Looks are made equally far apart at every epoch, so that the first one that is validated is kept."""
    monkeypatch.setattr("eqpool.objectives.istn.look_distance", lambda images, reference: jnp.ones(()))
    settings = config(epochs=9, validate_every_epochs=2, patience=1)
    settings = dataclasses.replace(settings, cache_dir=str(tmp_path / "cache"))
    run_on(cohort(), settings, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["stage"] == "istn"]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    assert ["validation_score" in record for record in records] == [False, True, False, True]


def test_each_task_model_is_kept_at_its_lowest_loss_on_what_the_kept_istn_makes(tmp_path):
    """Computed anew from the checkpoint; rates so high that losses rise and fall."""
    made, settings = cohort(), config(epochs=12, task_learning_rate=0.1, learning_rate=0.003)
    settings = dataclasses.replace(settings, cache_dir=str(tmp_path / "cache"))
    run_on(made, settings, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["stage"] == "istn"]
    best = int(np.argmin([record["validation_score"] for record in records]))
    stage, _ = stage_and_variables(settings)
    kept = selected_variables(stage, tmp_path / "run" / "checkpoints")
    rows = (made.site == 0) & (made.split == "validation")
    batch = {"inputs": made.inputs[rows], "site": made.site[rows], "target": made.target[rows]}
    batch |= {"target_known": np.ones(rows.sum(), np.float32), "reference_inputs": made.inputs[rows]}
    measured = stage.validate(stage.forward(kept, batch), batch)
    for name in TASK_MODELS:
        loss, epoch = float(measured[name]), int(records[-1][f"validation_{name}_epoch"])
        since = [record[f"validation_{name}"] for record in records[best:]]  # before, of another ISTN's images
        assert loss <= min(since) * (1 + 1e-4)
        if epoch > best:
            assert loss == pytest.approx(min(since), rel=1e-4) == pytest.approx(since[epoch - 1 - best], rel=1e-4)
    assert any(records[-1][f"validation_{name}"] != pytest.approx(float(measured[name])) for name in TASK_MODELS)


def test_a_reference_that_is_no_site_is_named(tmp_path):
    settings = dataclasses.replace(config(reference="grey"), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(InputError, match='config.istn.reference = "grey": expected one of bright, dark'):
        run_on(cohort(), settings, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("brain_sex", "affine"), ("brain_age", "bspline")])
def test_the_brain_configs_shrunk_run_and_fill_their_work_directory(name, shape, tmp_path):
    shipped = from_config_dict(load(REPOSITORY / "configs" / f"{name}.py"))
    small = dataclasses.replace(
        shipped,
        cache_dir=str(tmp_path / "cache"),
        devices=1,
        data=dataclasses.replace(shipped.data, simulated_fraction=0.03, grid="16x18x16", validation_fraction=0.2),
        task=dataclasses.replace(shipped.task, epochs=1),
        istn=dataclasses.replace(
            config(shape=shape, spacing=6, epochs=1).istn, reference="UKBB", residual=shipped.istn.residual
        ),
        evaluate=EvaluateConfig(
            permutations=9, bootstraps=10, adversary_epochs=2, probe_seeds=1, probe_folds=2, scorecard_permutations=0
        ),
    )
    results = run(small, tmp_path / "run", quiet=True)
    assert results["simulated"] and list(results["counts"]["by_site"]) == ["CamCAN", "UKBB"]
    metrics = results["metrics"]
    key = "accuracy" if name == "brain_sex" else "mae"
    assert all(np.isfinite(metrics[f"{model}_{key}"]) for model in ("source", "before", "scratch", "finetuned"))
    examples = dict(np.load(tmp_path / "run" / "images" / "examples.npz"))
    assert examples["displacement"].shape[1:] == (16, 18, 16, 3) and np.abs(examples["image"]).max() <= 1
    rows = pd.read_csv(tmp_path / "run" / "predictions.tsv", sep="\t")
    work = read_workfolder(tmp_path / "run")
    assert len(work.pooled) == results["counts"]["rows"] and "age" in work.spreads
    written = check_derivatives(tmp_path / "run" / "derivatives" / "eqpool")
    assert not written & set(rows["participant_id"][rows["site"] == "UKBB"]), "the reference stays as it is"
    assert len(written) == results["counts"]["by_site"]["CamCAN"]["rows"]


def check_derivatives(folder: pathlib.Path) -> set[str]:
    """Every S2T and Jacobian of a simulated run stands on its input's voxels; returns the participants."""
    assert "SIMULATED" in json.loads((folder / "dataset_description.json").read_text())["Name"]
    subjects = set()
    for path in sorted(folder.rglob("*_desc-harmonized_T1w.nii.gz")):
        image, jacobian = nibabel.load(path), nibabel.load(str(path).replace("_T1w", "_jacobian"))
        (source,) = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())["Sources"]
        (source,) = folder.parents[2].rglob(source)
        given = nibabel.load(source)
        for made in (image, jacobian):
            np.testing.assert_array_equal(made.affine, given.affine)
            assert made.shape == given.shape and made.get_data_dtype() == np.float32
        assert np.isfinite(image.get_fdata()).all() and 0.2 < jacobian.get_fdata().mean() < 5
        assert not np.array_equal(image.get_fdata(), given.get_fdata())
        subjects.add(path.name.split("_")[0])
    return subjects
