"""Cache of a cohort's site floor, which is computed once for all runs on the same cohort."""

import importlib.metadata
import pathlib
from typing import Any

from eqpool import __version__
from eqpool.config import EvaluateConfig
from eqpool.data.cohort import Cohort
from eqpool.data.fingerprint import rows_digest
from eqpool.evaluate.outputs import only_finite
from eqpool.evaluate.site_metrics import site_floor_metrics
from eqpool.storage import files


def cached_site_floor(cohort: Cohort, config: EvaluateConfig, cache: pathlib.Path) -> dict[str, Any]:
    """Returns `site_floor_metrics`, cached in the folder `cache` for runs with the same rows, split and settings."""
    digest = rows_digest(cohort)
    digest.update(f"{__version__} {importlib.metadata.version('scikit-learn')} {config}".encode())
    path = cache / "site_floor" / f"{digest.hexdigest()[:16]}.json"
    if path.exists():
        return files.read_json(path)
    metrics = only_finite(site_floor_metrics(cohort, config))
    files.write_json(path, metrics)
    return metrics
