"""`config.method = "istn"`: trains the task model and the ISTN on a cohort, and says what they are worth (paper B)."""

import functools
import pathlib
from typing import Any

import numpy as np
import pandas as pd

from eqpool.config import RunConfig
from eqpool.data.cohort import SPLITS, Cohort, Scaling
from eqpool.data.volumes.prepare import PreparedScan
from eqpool.engine.pairs import Pairs
from eqpool.engine.session import Columns, Session, forward_on_images, train_on_images, train_on_pairs
from eqpool.engine.state import of_network
from eqpool.errors import InputError
from eqpool.evaluate.evaluation import only_finite
from eqpool.evaluate.harmonisation import look_metrics, task_metrics
from eqpool.methods.istn_steps import EXAMPLES, istn_steps
from eqpool.methods.istn_volumes import make_harmonise, write_harmonised
from eqpool.objectives.istn import TASK_MODELS, make_istn
from eqpool.objectives.task import make_task
from eqpool.storage.files import write_arrays, write_atomically
from eqpool.storage.run_folder import append_to_log

MOST_COMPARED = 2000  # images of each site whose distance is told


def harmonise(session: Session, folder: pathlib.Path, cohort: Cohort, scaling: Scaling) -> tuple[dict[str, Any], int]:
    """Trains both; writes predictions.tsv, images/examples.npz, and of a cohort of volumes the harmonised ones.

    Returns the metrics and 0 dropped rows.

    Raises:
      InputError: no such reference site, or a split of either side without rows.
    """
    config, num_classes = session.config, len(cohort.target_classes)
    check_images(config, cohort)
    rows = rows_of_sides(config, cohort)
    columns = scaling.columns(cohort) | {"inputs": np.asarray(cohort.inputs)}

    task = make_task(config, cohort.inputs.shape[1:], num_classes)
    task_state = train_on_images(session, task, columns, rows["source", "train"], rows["source", "validation"])
    of_task = task_state.best_variables
    stage = make_istn(config, cohort.inputs.shape[1:], len(cohort.site_names), num_classes, of_task)
    unlabelled = {name: columns[name] for name in ("inputs", "site")}
    pairs = Pairs(*(rows[side, split] for split in ("train", "validation") for side in ("source", "reference")))
    state = train_on_pairs(session, stage, columns, unlabelled, pairs)

    def predict(variables: Any, side: str) -> np.ndarray:
        return forward_on_images(session, task, variables, _take(columns, rows[side, "test"]))["prediction"]

    predictions = {"source": predict(of_task, "source"), "before": predict(of_task, "reference")}
    for name in TASK_MODELS:
        predictions[name] = predict(of_network(state.best_variables, name), "reference")
    judged = {name: rows["source" if name == "source" else "reference", "test"] for name in predictions}
    compared = [rows[side, "test"][:MOST_COMPARED] for side in ("source", "reference")]
    source = _take(columns, compared[0])
    made = forward_on_images(session, stage, state.best_variables, source)
    target_images = columns["inputs"][compared[1]]
    images, sites = (source[name][:EXAMPLES] for name in ("inputs", "site"))
    steps = istn_steps(config, state.best_variables, images, sites, len(cohort.site_names))
    names = cohort.participant_id[compared[0][:EXAMPLES]].astype(np.str_)
    steps |= {"reference": target_images[:EXAMPLES], "name": names}
    write_arrays(folder / "images" / "examples.npz", steps)
    _write_predictions(folder, cohort, predictions, judged)
    subject = cohort.participant_id[np.concatenate(compared)]
    look = look_metrics(source["inputs"], made["image"], target_images, subject, config.evaluate, config.seed)
    if cohort.grid is not None and config.output.harmonised != "none":
        _write_volumes(session, folder, cohort, state.best_variables)
    look["selection_score"] = float(state.best_score)
    look |= {name: float(made[name].mean()) for name in ("folded_voxels", "mean_displacement")}
    return only_finite(task_metrics(cohort, scaling, predictions, judged, config.evaluate, config.seed) | look), 0


def fit_scaling(config: RunConfig, cohort: Cohort) -> Scaling:
    """Covariates of all training rows, the target of the source's alone: the reference's labels are not looked at.

    Raises:
      InputError: as `rows_of_sides`.
    """
    return Scaling.fit(cohort, labelled=rows_of_sides(config, cohort)["source", "train"])


def check_images(config: RunConfig, cohort: Cohort) -> None:
    """Whether the networks of `config` go with a cohort's images and target, and volumes are scaled and split for them.

    Raises:
      InputError: naming the key that does not.
    """
    shape, model, settings = cohort.inputs.shape[1:], config.task.model, config.istn
    if len(shape) < 2:
        raise InputError('config.method = "istn": expected images, found a table')
    if (model == "age_regressor") == bool(cohort.target_classes):
        kind = f"{len(cohort.target_classes)} classes" if cohort.target_classes else "a number"
        raise InputError(f'config.task.model = "{model}": config.data.target = "{cohort.target_name}" is {kind}')
    if cohort.grid is not None and not config.data.squash:
        raise InputError('config.data.squash = False: expected True for method "istn", whose images lie in [-1, 1]')
    if cohort.grid is not None and config.data.balance != "site":
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
    """The index of the site that `config.istn.reference` names; the last one where it is empty.

    Raises:
      InputError: there is no such site.
    """
    name = config.istn.reference or cohort.site_names[-1]
    if name not in cohort.site_names:
        raise InputError(f'config.istn.reference = "{name}": expected one of {", ".join(cohort.site_names)}')
    if config.istn.direction == "two_way" and len(cohort.site_names) != 2:
        raise InputError(f'config.istn.direction = "two_way": expected 2 sites, found {len(cohort.site_names)}')
    return cohort.site_names.index(name)


def rows_of_sides(config: RunConfig, cohort: Cohort) -> dict[tuple[str, str], np.ndarray]:
    """Row indices of ("source" or "reference", split).

    Raises:
      InputError: no such reference site, or fewer than two rows of one.
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


def _take(columns: Columns, rows: np.ndarray) -> Columns:
    return {name: column[rows] for name, column in columns.items()}


def _write_volumes(session: Session, folder: pathlib.Path, cohort: Cohort, variables: Any) -> None:
    """S2T of every scan that is not the reference's, under `folder`/derivatives/eqpool."""
    config = session.config
    other = np.flatnonzero((cohort.site >= 0) & (cohort.site != reference_site(config, cohort)))
    scans = (PreparedScan(row, cohort.inputs[row], cohort.alignment_of(row)) for row in other.tolist())
    write_harmonised(
        folder,
        config,
        make_harmonise(config, variables, len(cohort.site_names)),
        scans,
        len(other),
        cohort.site,
        [pathlib.Path(path) for path in cohort.image_path],
        pathlib.Path(cohort.image_root),
        cohort.scan_name.tolist(),
        cohort.simulated,
        functools.partial(append_to_log, folder),
    )


def _write_predictions(
    folder: pathlib.Path, cohort: Cohort, predictions: dict[str, np.ndarray], judged: dict[str, np.ndarray]
) -> None:
    tables = []
    for name, prediction in predictions.items():
        rows = judged[name]
        table = pd.DataFrame({"model": name, "participant_id": cohort.participant_id[rows]})
        table["site"] = np.array([*cohort.site_names, "n/a"])[cohort.site[rows]]
        table["target"] = cohort.target[rows]
        outputs = pd.DataFrame(prediction, index=table.index).add_prefix("output_")
        tables.append(pd.concat([table, outputs], axis=1))
    whole = pd.concat(tables)
    write_atomically(folder / "predictions.tsv", lambda path: whole.to_csv(path, sep="\t", index=False))
