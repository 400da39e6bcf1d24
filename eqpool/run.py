"""One run, from a checked config to a full work directory. Every step is skipped if its result is already there."""

import importlib.metadata
import pathlib
import time
from typing import Any

import jax
import numpy as np
import pandas as pd

from eqpool import __version__, parallel, workdir
from eqpool.config import RunConfig
from eqpool.data.cohort import SPLITS, Cohort, Scaling
from eqpool.data.pipeline import load_cohort
from eqpool.evaluate.evaluation import Embeddings, evaluate
from eqpool.report.page import write_report
from eqpool.summary import describe_cohort, describe_results
from eqpool.train.stage_one import covariate_generators, make_stage_one
from eqpool.train.stage_two import make_stage_two
from eqpool.train.stages import Columns, Session, forward_on_table, forward_on_volumes, train_on_table, train_on_volumes

REPORTED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")


def run(config: RunConfig, folder: pathlib.Path) -> dict[str, Any]:
    """Trains, evaluates and writes the work directory `folder`; returns what results.json holds.

    Raises:
      InputError: bad data, or a work directory of another config or in use.
      TrainingDiverged, Preempted: see `eqpool.train.loop.fit`.
    """
    with workdir.locked(folder):
        workdir.claim(folder, config)
        results_path = folder / "results.json"
        if results_path.exists():
            print(f"{folder} is finished; remove it or name another --workdir to run again.\n")
            results = workdir.read_json(results_path)
        else:
            results = _compute(config, folder)
            workdir.write_json(results_path, results)
        if not (folder / "report.html").exists():
            write_report(folder)
        print(describe_results(results, folder))
        return results


def _compute(config: RunConfig, folder: pathlib.Path) -> dict[str, Any]:
    started = time.monotonic()
    cache = pathlib.Path(config.cache_dir) if config.cache_dir else folder.parent / "cache"
    jax.config.update("jax_compilation_cache_dir", str((cache / "compiled").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

    cohort = load_cohort(config.data, cache)
    description = describe_cohort(cohort)
    print(description)
    workdir.write_text(folder / "log.txt", description + "\n")
    scaling = Scaling.fit(cohort)
    workdir.write_json(folder / "scaling.json", scaling.to_dict())

    embeddings = train(config, folder, cohort, scaling)
    workdir.write_atomically(
        folder / "embeddings.tsv", lambda path: embeddings_table(cohort, embeddings).to_csv(path, sep="\t", index=False)
    )
    generators = covariate_generators(config.model, cohort.covariates.shape[1])
    metrics = evaluate(cohort, scaling, embeddings, generators, config.model.group_map, config.evaluate, config.seed)
    return {
        "dataset": cohort.name,
        "simulated": cohort.simulated,
        "method": config.method,
        "seed": config.seed,
        "metrics": metrics,
        "counts": count_rows(cohort),
        "versions": {"eqpool": __version__} | {name: importlib.metadata.version(name) for name in REPORTED_PACKAGES},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "wall_seconds": round(time.monotonic() - started, 1),
        "notes": list(cohort.notes),
    }


def train(config: RunConfig, folder: pathlib.Path, cohort: Cohort, scaling: Scaling) -> Embeddings:
    """Both stages, and what the selected checkpoints make of every row."""
    log = workdir.MetricsLog(folder / "metrics.jsonl")
    session = Session(
        config=config,
        mesh=parallel.make_mesh(config.devices),
        checkpoints=folder / "checkpoints",
        log=log,
        key=jax.random.key(config.seed),
    )
    columns = scaling.columns(cohort)
    latents = _run_stage_one(session, cohort, columns)
    stage_two_columns = {
        "latent": latents["latent"],
        "tau": latents["tau"],
        **{name: columns[name] for name in ("site", "covariate", "target", "target_known")},
    }
    stage = make_stage_two(config, len(cohort.site_names), len(cohort.target_classes))
    state = train_on_table(session, stage, stage_two_columns, cohort.rows("train"), cohort.rows("validation"))
    outputs = forward_on_table(session, stage, state.best_variables, stage_two_columns, config.stage_two.batch_size)
    return Embeddings(
        latent=latents["latent"],
        tau=latents["tau"],
        phi=outputs["phi"],
        covariate_free=outputs["covariate_free"],
        prediction=outputs["prediction"],
    )


def _run_stage_one(session: Session, cohort: Cohort, columns: Columns) -> Columns:
    config = session.config
    stage = make_stage_one(config, cohort.inputs.shape[1:], cohort.covariates.shape[1], len(cohort.target_classes))
    train_rows, validation_rows = cohort.rows("train"), cohort.rows("validation")
    if cohort.grid is None:
        with_inputs = columns | {"inputs": cohort.inputs}
        state = train_on_table(session, stage, with_inputs, train_rows, validation_rows)
        return forward_on_table(session, stage, state.best_variables, with_inputs, config.stage_one.batch_size)
    state = train_on_volumes(session, stage, cohort, columns, train_rows, validation_rows)
    return forward_on_volumes(session, stage, state.best_variables, cohort, columns)


def embeddings_table(cohort: Cohort, embeddings: Embeddings) -> pd.DataFrame:
    """embeddings.tsv: participant_id, split, site, covariates, l_*, phi_*."""
    sites = np.array([*cohort.site_names, "n/a"])[cohort.site]
    table = pd.DataFrame({"participant_id": cohort.participant_id, "split": cohort.split, "site": sites})
    covariates = pd.DataFrame(cohort.covariates, columns=list(cohort.covariate_names))
    latent = pd.DataFrame(embeddings.latent).add_prefix("l_")
    phi = pd.DataFrame(embeddings.phi).add_prefix("phi_")
    return pd.concat([table, covariates, latent, phi], axis=1)


def count_rows(cohort: Cohort) -> dict[str, Any]:
    """Rows in all, by split, and by site and class."""
    by_site: dict[str, Any] = {}
    for index, name in enumerate(cohort.site_names):
        here = cohort.site == index
        by_site[name] = {"rows": int(here.sum())} | {
            label: int(np.sum(here & (cohort.target == number))) for number, label in enumerate(cohort.target_classes)
        }
    return {
        "rows": len(cohort.site),
        "by_split": {split: len(cohort.rows(split)) for split in SPLITS},
        "by_site": by_site,
    }
