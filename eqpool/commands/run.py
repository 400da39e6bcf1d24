"""One run, from a checked config to a complete work directory. Steps with an existing result are skipped."""

import dataclasses
import datetime
import importlib.metadata
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from eqpool import __version__
from eqpool.config import DataConfig, RunConfig
from eqpool.data.cohort import SPLITS, Cohort
from eqpool.data.fingerprint import data_hash
from eqpool.data.load import load_cohort
from eqpool.data.preflight.finding import refuse
from eqpool.data.preflight.findings import examine
from eqpool.data.preflight.requirements import check_splits
from eqpool.data.volumes.read import VERSION
from eqpool.engine.compilation import standard_promotion, use_compilation_cache
from eqpool.engine.session import Session
from eqpool.methods.base import method_named
from eqpool.methods.calibration import write_calibration
from eqpool.methods.dry_run import describe_plan
from eqpool.methods.facts import ModelFacts
from eqpool.methods.run_tables import pooled_table
from eqpool.report.drawing import has_failed
from eqpool.report.page import write_report
from eqpool.report.summary import describe_data, describe_results
from eqpool.storage import files
from eqpool.storage.run_folder import RunFolder

_REPORTED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")


@standard_promotion()
def run(
    config: RunConfig,
    folder: pathlib.Path,
    quiet: bool = False,
    command: str = "",
    load: Callable[[DataConfig, pathlib.Path], Cohort] = load_cohort,
) -> dict[str, Any]:
    """Trains, evaluates and writes the work directory `folder`, and returns the content of results.json.

    Args:
      config: checked config.
      folder: work directory, created if needed.
      quiet: whether to suppress terminal output and the report, for the many runs of an experiment.
      command: the user's command for the report, or "" for calls from a program.
      load: reads the cohort from `config.data` and the cache folder.

    Raises:
      InputError: the data are bad, or the work directory has another config or is in use.
      TrainingDiverged, Preempted: see `eqpool.engine.loop.fit`.
    """
    say = (lambda text: None) if quiet else print
    run_folder = RunFolder(folder)
    with run_folder.locked():
        given, config = config, run_folder.claim(config)
        if config != given and not run_folder.is_finished:
            say(f'{folder} was begun before config.output.scale was there: it goes on with "{config.output.scale}"')
        if run_folder.is_finished:
            say(f"{folder} is finished; remove it or name another --workdir to run again.\n")
            results = files.read_json(run_folder.results_file)
        else:
            results = _compute(config, run_folder, say, load) | {"command": command}
            files.write_json(run_folder.results_file, results)
        if not quiet and (has_failed(run_folder) or not run_folder.report_file.exists()):
            write_report(folder)
        say(describe_results(results, folder))
        return results


def dry_run(config: RunConfig, folder: pathlib.Path) -> None:
    """Prints the data and the expected cost of `run`. Writes only to the cache.

    Raises:
      InputError: the data are bad, as in `run`.
    """
    cohort = load_cohort(config.data, use_compilation_cache(config, RunFolder(folder)))
    print(describe_data(cohort, examine(cohort)))
    print(describe_plan(config, cohort))


def _compute(
    config: RunConfig,
    folder: RunFolder,
    say: Callable[[str], None],
    load: Callable[[DataConfig, pathlib.Path], Cohort],
) -> dict[str, Any]:
    started = time.monotonic()
    cache = use_compilation_cache(config, folder)
    session = Session.start(config, folder)  # before hours of preparing data, as devices or packages may be missing
    cohort = load(config.data, cache)
    findings = examine(cohort)
    description = describe_data(cohort, findings)
    say(description)
    files.write_text(folder.log_file, f"{description}\n")
    refuse(findings)
    check_splits(cohort)
    fingerprint = data_hash(cohort)
    preparation = VERSION if cohort.volumes is not None else 0
    folder.claim_data(fingerprint, pooled_table(cohort).to_csv(sep="\t", index=False), preparation)
    method = method_named(config.method)
    scaling = method.scaling(config, cohort)
    ModelFacts.of(cohort, scaling, method.reference(config, cohort)).write(folder)
    write_calibration(cohort, folder)
    outcome = method.fit(dataclasses.replace(session, names=cohort.participant_id), cohort, scaling, folder)
    if outcome.warning:
        folder.append_to_log(f"WARNING: {outcome.warning}")
    return {
        "dataset": cohort.name,
        "simulated": cohort.simulated,
        "method": config.method,
        "seed": config.seed,
        "metrics": outcome.metrics,
        **({} if outcome.scorecard is None else {"scorecard": outcome.scorecard}),
        **({"training_warning": outcome.warning} if outcome.warning else {}),
        "counts": _count_rows(cohort) | {"dropped_without_partner": outcome.dropped},
        **made_with(),
        "wall_seconds": round(time.monotonic() - started, 1),
        "data_hash": fingerprint,
        "notes": list(cohort.notes),
        "preflight": [finding.to_dict() for finding in findings],
    }


def made_with() -> dict[str, Any]:
    """Returns the date, the devices, and the versions of the packages that affect the results."""
    return {
        "date": datetime.date.today().isoformat(),
        "versions": {"eqpool": __version__} | {name: importlib.metadata.version(name) for name in _REPORTED_PACKAGES},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _count_rows(cohort: Cohort) -> dict[str, Any]:
    """Counts all rows, and rows by split and by site and class."""
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
