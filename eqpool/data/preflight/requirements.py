"""Requirements for pooling a cohort: at least two sites, covariates that vary and a target that can be learned."""

import numpy as np

from eqpool.data.cohort import SPLITS, Cohort
from eqpool.errors import InputError


def check_cohort(cohort: Cohort, source: str, *, site_column: str) -> None:
    """Raises `InputError` if a split cohort cannot be trained on. `source` (a file) starts the message."""
    training = cohort.rows("train")
    if training.size < 2:
        raise InputError(f"{source}: {training.size} training rows, expected at least 2")
    _check_sites(cohort, training, f"{source}, column {site_column}")
    for index, name in enumerate(cohort.covariate_names):
        values = cohort.covariates[training, index]
        if values.max() == values.min():
            raise InputError(
                f"{source}, column {name}: constant ({values[0]:g}) over the training rows, "
                "expected a covariate that varies"
            )
    _check_target(cohort, training, f"{source}, column {cohort.target_name}")


def check_splits(cohort: Cohort) -> None:
    """Raises `InputError` if a split has fewer than two rows, since metrics compare rows with one another."""
    for split in SPLITS:
        if len(cohort.rows(split)) < 2:
            raise InputError(
                f"{cohort.name}: {len(cohort.rows(split))} rows in the {split} split, expected at least 2; set "
                "config.data.validation_fraction, config.data.test_fraction or a split column"
            )


def _check_sites(cohort: Cohort, training: np.ndarray, where: str) -> None:
    present = np.unique(cohort.site[cohort.site >= 0])
    if present.size < 2:
        found = ", ".join(cohort.site_names[index] for index in present) or "none"
        raise InputError(f"{where}: {present.size} site ({found}), expected at least two to pool")
    trained = set(cohort.site[training].tolist())
    for split in ("validation", "test"):
        for row in cohort.rows(split):
            if cohort.site[row] >= 0 and cohort.site[row] not in trained:
                name = cohort.site_names[cohort.site[row]]
                raise InputError(
                    f'{where}: unknown site label "{name}" at {split} time ({cohort.participant_id[row]}), '
                    "expected a site that training rows have"
                )


def _check_target(cohort: Cohort, training: np.ndarray, where: str) -> None:
    target = cohort.target[training]
    if not cohort.target_classes:
        known = target[np.isfinite(target)]
        if known.size < 2 or known.min() == known.max():
            raise InputError(
                f"{where}: fewer than two different numbers in training rows, expected a target that varies"
            )
        return
    if len(cohort.target_classes) < 2:
        raise InputError(f'{where}: a single class ("{cohort.target_classes[0]}"), expected at least two')
    absent = sorted(set(range(len(cohort.target_classes))) - set(target.tolist()))
    if absent:
        raise InputError(
            f'{where}: no training row of class "{cohort.target_classes[absent[0]]}", expected some of each'
        )
