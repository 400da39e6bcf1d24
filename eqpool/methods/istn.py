"""`config.method = "istn"`: the image-and-spatial transformer network of Robinson et al. 2020, and its task models."""

import pathlib
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from eqpool.config import RunConfig
from eqpool.data.cohort import SPLITS, Cohort, Scaling
from eqpool.data.reference_view import reference_views
from eqpool.data.shape import DataShape
from eqpool.data.volumes.intensity_scale import CommonScale
from eqpool.data.volumes.preparation import PreparedScan
from eqpool.engine.image_training import forward_on_images, train_on_images, train_on_pairs
from eqpool.engine.pairs import REFERENCE_COLUMNS, Pairs
from eqpool.engine.selected import selected_variables
from eqpool.engine.session import Columns, Session, take_rows
from eqpool.engine.state import Stage, Variables, of_network
from eqpool.errors import InputError
from eqpool.evaluate.collapse import describe_collapse
from eqpool.evaluate.harmonisation import look_metrics, task_metrics
from eqpool.evaluate.outputs import only_finite
from eqpool.methods.base import Outcome, PlannedStage
from eqpool.methods.facts import ModelFacts
from eqpool.methods.istn_model import IstnModel
from eqpool.methods.istn_scorecard import score_istn
from eqpool.methods.istn_steps import EXAMPLES, istn_steps
from eqpool.methods.istn_volumes import make_harmonise, write_harmonised
from eqpool.objectives.istn import look_distance, make_istn
from eqpool.objectives.istn_networks import TASK_MODELS
from eqpool.objectives.task import make_task
from eqpool.storage.files import write_arrays, write_table
from eqpool.storage.run_folder import RunFolder

MOST_COMPARED = 2000  # images of each site for the image distance


class Istn:
    """The ISTN method: trains the task model on the source, then the ISTN together with two task models."""

    decodes: ClassVar[bool] = False

    def scaling(self, config: RunConfig, cohort: Cohort) -> Scaling:
        """Scales the target by the source's training rows only, without the reference's labels.

        Raises:
          InputError: the networks do not match the cohort, or a side has too few rows.
        """
        check_images(config, cohort)
        return Scaling.fit(cohort, labelled=rows_of_sides(config, cohort)["source", "train"])

    def reference(self, config: RunConfig, cohort: Cohort) -> str:
        """Returns the site whose appearance the others are given.

        Raises:
          InputError: `config.istn.reference` is no site of the cohort.
        """
        return cohort.site_names[reference_site(config, cohort)]

    def stages(self, config: RunConfig, shape: DataShape) -> tuple[Stage, ...]:
        """Returns the stages of the task model and the ISTN. Zeros stand in for the pretrained model."""
        task = make_task(config, shape)
        made = jax.eval_shape(task.initialise, jax.random.key(0))
        return task, make_istn(config, shape, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), made))

    def plan(self, config: RunConfig, cohort: Cohort) -> list[PlannedStage]:
        """Returns the stages that `fit` would train."""
        columns = self.scaling(config, cohort).columns(cohort) | {"inputs": cohort.inputs}
        paired = columns | {f"reference_{name}": columns[name] for name in REFERENCE_COLUMNS}
        rows = len(rows_of_sides(config, cohort)["source", "train"])
        task, stage = self.stages(config, DataShape.of(cohort))
        return [PlannedStage.of(task, columns, rows), PlannedStage.of(stage, paired, rows)]

    def fit(self, session: Session, cohort: Cohort, scaling: Scaling, folder: RunFolder) -> Outcome:
        """Trains both stages and writes predictions.tsv, images/examples.npz and, for volumes, the harmonised volumes.

        Raises:
          InputError: the reference site is unknown, or a split of either side has too few rows.
        """
        config, shape = session.config, DataShape.of(cohort)
        rows = rows_of_sides(config, cohort)
        columns = scaling.columns(cohort) | {"inputs": np.asarray(cohort.inputs)}
        task = make_task(config, shape)
        of_task = train_on_images(
            session, task, columns, rows["source", "train"], rows["source", "validation"]
        ).best_variables
        stage = make_istn(config, shape, of_task)
        unlabelled = {name: columns[name] for name in REFERENCE_COLUMNS}
        pairs = Pairs(*(rows[side, split] for split in ("train", "validation") for side in ("source", "reference")))
        state = train_on_pairs(session, stage, columns, unlabelled, pairs)
        of_istn = state.best_variables

        predictions = _predictions(session, task, columns, rows, of_task, of_istn)
        judged = {name: rows["source" if name == "source" else "reference", "test"] for name in predictions}
        _write_predictions(folder, cohort, predictions, judged)
        metrics = task_metrics(cohort, scaling, predictions, judged, config.evaluate, config.seed)
        metrics |= _compare_images(session, stage, cohort, columns, rows, of_istn)
        metrics |= {"selection_score": float(state.best_score), "selection_score_before": _untouched(columns, pairs)}
        _write_examples(config, cohort, columns, rows, of_istn, folder)
        if cohort.volumes is not None and config.output.harmonised != "none":
            _write_volumes(config, folder, cohort, of_istn, ModelFacts.read(folder).output_scale(config.output))
        warning = describe_collapse(session.log.records(), config.istn, metrics["selection_score_before"])
        return Outcome(only_finite(metrics), scorecard=_score(config, cohort, of_istn, folder), warning=warning)

    def load(self, folder: RunFolder, config: RunConfig | None = None) -> IstnModel:
        """Loads the networks of a trained run at the selected epoch.

        Raises:
          InputError: the checkpoint is missing or damaged.
        """
        facts, config = ModelFacts.read(folder), config or folder.read_config()
        stage = self.stages(config, facts.shape)[-1]
        return IstnModel(config, facts, selected_variables(stage, folder.checkpoints, config.seed))


def check_images(config: RunConfig, cohort: Cohort) -> None:
    """Checks that the networks of `config` match the cohort's images and target, and its scaling and split of volumes.

    Raises:
      InputError: names the key that does not match.
    """
    shape, model, settings = cohort.inputs.shape[1:], config.task.model, config.istn
    if len(shape) < 2:
        raise InputError('config.method = "istn": expected images, found a table')
    if (model == "age_regressor") == bool(cohort.target_classes):
        kind = f"{len(cohort.target_classes)} classes" if cohort.target_classes else "a number"
        raise InputError(f'config.task.model = "{model}": config.data.target = "{cohort.target_name}" is {kind}')
    if cohort.volumes is not None and not config.data.squash:
        raise InputError('config.data.squash = False: expected True for method "istn", whose images lie in [-1, 1]')
    if cohort.volumes is not None and config.data.balance != "site":
        raise InputError(
            f'config.data.balance = "{config.data.balance}": expected "site" for method "istn", so that no label of '
            "the reference chooses which of its images train it"
        )
    least = 2 ** (len(settings.discriminator) - 1) + 1
    if max(shape) < least:
        raise InputError(
            f"config.istn.discriminator = {settings.discriminator}: halves too often for images of "
            f"{'x'.join(map(str, shape))}, expected an axis of at least {least}"
        )


def reference_site(config: RunConfig, cohort: Cohort) -> int:
    """Returns the index of the site that `config.istn.reference` names, or of the last site if it is empty.

    Raises:
      InputError: the site does not exist, or `direction` is two_way with other than two sites.
    """
    name = config.istn.reference or cohort.site_names[-1]
    if name not in cohort.site_names:
        raise InputError(f'config.istn.reference = "{name}": expected one of {", ".join(cohort.site_names)}')
    if config.istn.direction == "two_way" and len(cohort.site_names) != 2:
        raise InputError(f'config.istn.direction = "two_way": expected 2 sites, found {len(cohort.site_names)}')
    return cohort.site_names.index(name)


def rows_of_sides(config: RunConfig, cohort: Cohort) -> dict[tuple[str, str], np.ndarray]:
    """Returns row indices by ("source" or "reference", split).

    Raises:
      InputError: the reference site is unknown, or a split of either side has fewer than two rows.
    """
    reference = reference_site(config, cohort)
    sides = {"source": (cohort.site >= 0) & (cohort.site != reference), "reference": cohort.site == reference}
    rows = {
        (side, split): np.flatnonzero(here & (cohort.split == split))
        for side, here in sides.items()
        for split in SPLITS
    }
    for (side, split), found in rows.items():
        if len(found) < 2:
            raise InputError(f"{cohort.name}: {len(found)} {split} images of the {side} side, expected at least 2")
    return rows


def _predictions(
    session: Session,
    task: Stage,
    columns: Columns,
    rows: dict[tuple[str, str], np.ndarray],
    of_task: Variables,
    of_istn: Variables,
) -> dict[str, np.ndarray]:
    """Predicts held-out images: the source's, and the reference's before and after retraining."""

    def predict(variables: Variables, side: str) -> np.ndarray:
        return forward_on_images(session, task, variables, take_rows(columns, rows[side, "test"]))["prediction"]

    predictions = {"source": predict(of_task, "source"), "before": predict(of_task, "reference")}
    return predictions | {name: predict(of_network(of_istn, name), "reference") for name in TASK_MODELS}


def _compare_images(
    session: Session,
    stage: Stage,
    cohort: Cohort,
    columns: Columns,
    rows: dict[tuple[str, str], np.ndarray],
    of_istn: Variables,
) -> dict[str, Any]:
    """Measures the distance of held-out source images to the reference's, before and after, and the deformation."""
    compared = [rows[side, "test"][:MOST_COMPARED] for side in ("source", "reference")]
    source = take_rows(columns, compared[0])
    made = forward_on_images(session, stage, of_istn, source)
    subject, config = cohort.participant_id[np.concatenate(compared)], session.config
    look = look_metrics(
        source["inputs"], made["image"], columns["inputs"][compared[1]], subject, config.evaluate, config.seed
    )
    return look | {name: float(made[name].mean()) for name in ("folded_voxels", "mean_displacement")}


def _score(config: RunConfig, cohort: Cohort, variables: Variables, folder: RunFolder) -> dict[str, Any] | None:
    """Makes the scorecard, None if the config leaves it out."""
    if not config.evaluate.scorecard:
        return None
    harmonise = make_harmonise(config, variables, len(cohort.site_names))
    return score_istn(cohort, config, folder.cache(config), harmonise, reference_site(config, cohort))


def _untouched(columns: Columns, pairs: Pairs) -> float:
    """Returns the distance that selects the epoch between both sides' validation images as they are, without S2T."""
    inputs = columns["inputs"]
    return float(
        look_distance(*(jnp.asarray(inputs[rows]) for rows in (pairs.source_validation, pairs.reference_validation)))
    )


def _write_examples(
    config: RunConfig,
    cohort: Cohort,
    columns: Columns,
    rows: dict[tuple[str, str], np.ndarray],
    of_istn: Variables,
    folder: RunFolder,
) -> None:
    """Writes images/examples.npz: a few held-out source images, step by step, and as many of the reference."""
    source, reference = (rows[side, "test"][:EXAMPLES] for side in ("source", "reference"))
    steps = istn_steps(config, of_istn, columns["inputs"][source], columns["site"][source], len(cohort.site_names))
    name = cohort.site_names[reference_site(config, cohort)]
    views = reference_views(cohort, config.data, source, name, folder.cache(config))
    if views is not None:
        steps["truth"] = np.stack(list(views))
    names = cohort.participant_id[source].astype(np.str_)
    write_arrays(folder.examples_file, steps | {"reference": columns["inputs"][reference], "name": names})


def _write_volumes(
    config: RunConfig, folder: RunFolder, cohort: Cohort, variables: Variables, scale: CommonScale | None
) -> None:
    """Writes S2T of all scans from other sites than the reference, under `folder`/derivatives/eqpool."""
    other = np.flatnonzero((cohort.site >= 0) & (cohort.site != reference_site(config, cohort)))
    assert cohort.volumes is not None
    volumes = cohort.volumes
    scans = (PreparedScan(row, cohort.inputs[row], volumes.facts_of(row)) for row in other.tolist())
    write_harmonised(
        folder,
        config,
        make_harmonise(config, variables, len(cohort.site_names)),
        scans,
        len(other),
        cohort.site,
        [pathlib.Path(path) for path in volumes.image_path],
        pathlib.Path(volumes.image_root),
        volumes.scan_name.tolist(),
        cohort.simulated,
        scale,
        folder.append_to_log,
    )


def _write_predictions(
    folder: RunFolder, cohort: Cohort, predictions: dict[str, np.ndarray], judged: dict[str, np.ndarray]
) -> None:
    tables = []
    for name, prediction in predictions.items():
        rows = judged[name]
        table = pd.DataFrame({"model": name, "participant_id": cohort.participant_id[rows]})
        table["site"] = np.array([*cohort.site_names, "n/a"])[cohort.site[rows]]
        table["target"] = cohort.target[rows]
        outputs = pd.DataFrame(prediction, index=table.index).add_prefix("output_")
        tables.append(pd.concat([table, outputs], axis=1))
    write_table(folder.predictions_file, pd.concat(tables))
