"""One run, from a checked config to a full work directory. Every step is skipped if its result is already there."""

import dataclasses
import datetime
import functools
import importlib.metadata
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd

from eqpool import __version__
from eqpool.config import EvaluateConfig, RunConfig
from eqpool.data.cohort import SPLITS, Cohort, Scaling
from eqpool.data.fingerprint import data_hash, rows_digest
from eqpool.data.load import load_cohort
from eqpool.data.preflight.findings import examine, refuse
from eqpool.data.preflight.requirements import check_splits
from eqpool.data.volumes.read import VERSION
from eqpool.engine.session import Columns, Session, forward_on_table, train_on_cohort, train_on_table
from eqpool.evaluate.evaluation import Embeddings, evaluate, only_finite, site_floor_metrics
from eqpool.methods.decoding import harmonise_cohort
from eqpool.methods.dry_run import describe_plan
from eqpool.methods.istn import fit_scaling, harmonise
from eqpool.methods.linear_decoder import complete_decoder
from eqpool.methods.pooling_chain import standard_promotion
from eqpool.methods.trained import CALIBRATION_FILE, ModelFacts
from eqpool.objectives.baselines import covariate_deciles, make_baseline, match_groups, rows_with_partner
from eqpool.objectives.stage_one import covariate_generators, make_stage_one
from eqpool.objectives.stage_two import make_stage_two
from eqpool.report.drawing import has_failed
from eqpool.report.page import write_report
from eqpool.report.summary import describe_data, describe_results
from eqpool.report.workfolder import OVERLAP_COLUMN
from eqpool.storage import files, run_folder

MOST_DRAWN = 1000  # rows whose tau is kept for the report
REPORTED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")


@standard_promotion()
def run(config: RunConfig, folder: pathlib.Path, quiet: bool = False, command: str = "") -> dict[str, Any]:
    """Trains, evaluates and writes the work directory `folder`; returns what results.json holds.

    `quiet` leaves out what it says on the terminal and the report: for many runs of an experiment. `command` is what
    the user typed, for the report; "" where a program called.

    Raises:
      InputError: bad data, or a work directory of another config or in use.
      TrainingDiverged, Preempted: see `eqpool.engine.loop.fit`.
    """
    say = (lambda text: None) if quiet else print
    with run_folder.locked(folder):
        run_folder.claim(folder, config)
        results_path = folder / "results.json"
        if results_path.exists():
            say(f"{folder} is finished; remove it or name another --workdir to run again.\n")
            results = files.read_json(results_path)
        else:
            results = _compute(config, folder, say) | {"command": command}
            files.write_json(results_path, results)
        if not quiet and (has_failed(folder) or not (folder / "report.html").exists()):
            write_report(folder)
        say(describe_results(results, folder))
        return results


def dry_run(config: RunConfig, folder: pathlib.Path) -> None:
    """Says what `run` would train on, and what it would cost; writes nothing but what the cache keeps.

    Raises:
      InputError: bad data, as `run` would say.
    """
    cohort = load_cohort(config.data, use_compilation_cache(config, folder))
    print(describe_data(cohort, examine(cohort)))
    print(describe_plan(config, cohort))


def _compute(config: RunConfig, folder: pathlib.Path, say: Callable[[str], None]) -> dict[str, Any]:
    started = time.monotonic()
    cache = use_compilation_cache(config, folder)
    session = Session.start(config, folder)  # before hours of preparing data: it may lack devices or packages
    cohort = load_cohort(config.data, cache)
    findings = examine(cohort)
    description = describe_data(cohort, findings)
    say(description)
    files.write_text(folder / run_folder.LOG_FILE, f"{description}\n")
    refuse(findings)
    check_splits(cohort)
    fingerprint = data_hash(cohort)
    preparation = VERSION if cohort.grid is not None else 0
    run_folder.claim_data(folder, fingerprint, pooled_table(cohort).to_csv(sep="\t", index=False), preparation)
    scaling = fit_scaling(config, cohort) if config.method == "istn" else Scaling.fit(cohort)
    ModelFacts.of(cohort, scaling).write(folder)
    if cohort.calibration is not None:
        files.write_arrays(folder / CALIBRATION_FILE, cohort.calibration.to_arrays())

    work = harmonise if config.method == "istn" else pool
    session = dataclasses.replace(session, names=cohort.participant_id)
    metrics, dropped = work(session, folder, cohort, scaling)
    return {
        "dataset": cohort.name,
        "simulated": cohort.simulated,
        "method": config.method,
        "seed": config.seed,
        "metrics": metrics,
        "counts": count_rows(cohort) | {"dropped_without_partner": dropped},
        **made_with(),
        "wall_seconds": round(time.monotonic() - started, 1),
        "data_hash": fingerprint,
        "notes": list(cohort.notes),
        "preflight": [finding.to_dict() for finding in findings],
    }


def made_with() -> dict[str, Any]:
    """The day, the versions of the packages that numbers depend on, and the devices."""
    return {
        "date": datetime.date.today().isoformat(),
        "versions": {"eqpool": __version__} | {name: importlib.metadata.version(name) for name in REPORTED_PACKAGES},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def use_compilation_cache(config: RunConfig, folder: pathlib.Path) -> pathlib.Path:
    """Where prepared data is kept, beside the work directory unless the config says so; compiled programs go there."""
    cache = run_folder.cache_folder(config, folder)
    jax.config.update("jax_compilation_cache_dir", str((cache / "compiled").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return cache


def pool(session: Session, folder: pathlib.Path, cohort: Cohort, scaling: Scaling) -> tuple[dict[str, Any], int]:
    """Trains the two stages or a baseline; returns the metrics and how many rows it dropped.

    Writes embeddings.tsv, and for our method on volumes the harmonised ones.
    """
    config = session.config
    embeddings, train_rows = train(session, cohort, scaling)
    files.write_atomically(
        folder / "embeddings.tsv", lambda path: embeddings_table(cohort, embeddings).to_csv(path, sep="\t", index=False)
    )
    if embeddings.tau is not None:
        rows = cohort.rows("test")[:MOST_DRAWN]
        files.write_arrays(folder / "images" / "tau.npz", {"rows": rows, "tau": embeddings.tau[rows]})
    generators = covariate_generators(config.model, cohort.covariates.shape[1])
    metrics = evaluate(cohort, scaling, embeddings, generators, config.model.group_map, config.evaluate, config.seed)
    metrics |= _site_floor(cohort, config.evaluate, run_folder.cache_folder(config, folder))
    if config.method == "ours" and cohort.grid is not None and "non_finite_rows" not in metrics:
        metrics |= only_finite(
            harmonise_cohort(
                complete_decoder(folder, cohort),
                cohort,
                folder,
                config.output.harmonised,
                say=functools.partial(run_folder.append_to_log, folder),
            )
        )
    return metrics, len(cohort.rows("train")) - len(train_rows)


def _site_floor(cohort: Cohort, config: EvaluateConfig, cache: pathlib.Path) -> dict[str, Any]:
    """The site floor, probed once for all runs that share a cohort, its split and the probes' settings."""
    digest = rows_digest(cohort)
    digest.update(f"{__version__} {importlib.metadata.version('scikit-learn')} {config}".encode())
    path = cache / "site_floor" / f"{digest.hexdigest()[:16]}.json"
    if path.exists():
        return files.read_json(path)
    metrics = only_finite(site_floor_metrics(cohort, config))
    files.write_json(path, metrics)
    return metrics


def train(session: Session, cohort: Cohort, scaling: Scaling) -> tuple[Embeddings, np.ndarray]:
    """Trains `config.method`; returns what its selected epochs make of every row, and the rows it trained on."""
    columns = scaling.columns(cohort)
    method = session.config.method
    if method == "ours":
        return _train_two_stages(session, cohort, columns), cohort.rows("train")
    train_rows = rows_with_partner(cohort, method)
    return _train_baseline(session, cohort, columns, train_rows), train_rows


def _train_two_stages(session: Session, cohort: Cohort, columns: Columns) -> Embeddings:
    num_sites, num_classes = len(cohort.site_names), len(cohort.target_classes)
    num_covariates, nuisances = cohort.covariates.shape[1], tuple(map(len, cohort.nuisance_levels))
    stage_one = make_stage_one(
        session.config, cohort.inputs.shape[1:], num_covariates, num_sites, num_classes, nuisances
    )
    first = train_on_cohort(session, stage_one, cohort, columns, cohort.rows("train"))
    latents = columns | {"latent": first["latent"], "tau": first["tau"]}
    stage_two = make_stage_two(session.config, num_sites, num_classes, nuisances)
    state = train_on_table(session, stage_two, latents, cohort.rows("train"), cohort.rows("validation"))
    second = forward_on_table(session, stage_two, state.best_variables, latents)
    return Embeddings(
        latent=first["latent"],
        tau=first["tau"],
        phi=second["phi"],
        covariate_free=second["covariate_free"],
        prediction=second["prediction"],
    )


def _train_baseline(session: Session, cohort: Cohort, columns: Columns, train_rows: np.ndarray) -> Embeddings:
    groups = {"decile": covariate_deciles(cohort), "match": match_groups(cohort)}
    stage = make_baseline(session.config, cohort.inputs.shape[1:], len(cohort.site_names), len(cohort.target_classes))
    outputs = train_on_cohort(session, stage, cohort, columns | groups, train_rows)
    latent = outputs["latent"]
    return Embeddings(latent=latent, tau=None, phi=latent, covariate_free=None, prediction=outputs["prediction"])


def pooled_table(cohort: Cohort) -> pd.DataFrame:
    """pooled.tsv, one row a scan: participant_id, session_id, split, site, covariates, target, described columns.

    Without session_id where a cohort has no sessions. Volumes have mask_overlap too, how they lie on the template.
    """
    sites = np.array([*cohort.site_names, "n/a"])[cohort.site]
    table = pd.DataFrame({"participant_id": cohort.participant_id, "split": cohort.split, "site": sites})
    if (cohort.session != "").any():
        table.insert(1, "session_id", np.where(cohort.session == "", "n/a", cohort.session))
    table[list(cohort.covariate_names)] = cohort.covariates
    classes = np.array([*cohort.target_classes, "n/a"])
    table[cohort.target_name] = classes[cohort.target] if cohort.target_classes else cohort.target
    if cohort.described is not None:
        table[list(cohort.described_names)] = cohort.described
    if len(cohort.mask_overlap) and OVERLAP_COLUMN not in table:  # the user's own column of that name stays
        table[OVERLAP_COLUMN] = cohort.mask_overlap.round(4)
    return table


def embeddings_table(cohort: Cohort, embeddings: Embeddings) -> pd.DataFrame:
    """embeddings.tsv: participant_id, session_id where there are sessions, split, site, covariates, l_*, phi_*."""
    pooled = pooled_table(cohort)
    names = ["participant_id", "session_id", "split", "site", *cohort.covariate_names]
    who = pooled[[name for name in names if name in pooled]]
    latent = pd.DataFrame(embeddings.latent).add_prefix("l_")
    phi = pd.DataFrame(embeddings.phi).add_prefix("phi_")
    return pd.concat([who, latent, phi], axis=1)


def count_rows(cohort: Cohort) -> dict[str, Any]:
    """Rows in all, by split, and by site and class."""
    by_site: dict[str, Any] = {}
    for index, name in enumerate(cohort.site_names):
        here = cohort.site == index
        classes = {
            label: int(np.sum(here & (cohort.target == number))) for number, label in enumerate(cohort.target_classes)
        }
        by_site[name] = {"rows": int(here.sum()), "classes": classes}
    return {
        "rows": len(cohort.site),
        "by_split": {split: len(cohort.rows(split)) for split in SPLITS},
        "by_site": by_site,
    }
