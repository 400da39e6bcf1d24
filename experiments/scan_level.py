"""Tries corrections of each scan, beside those of its site, on simulated volumes whose truth is known.

All start from volumes whose location and scale are corrected for each site and voxel, beside age and diagnosis.

"own site's effect": a scan gets more or less of its site's mean effect, as far as this amplitude varies more within its
site than within the others (generalised least squares with the others' covariance).

"undo": a linear network, blind to the site, that has seen the training volumes after random changes of appearance and
has learnt to read the change's coefficients. The changes are a polynomial of intensity and a quadratic field, with
normal coefficients of one deviation, the amplitude. The simulator uses a power curve, a bump and another kind of field.
What is read from a scan is taken back.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from eqpool.data.cohort import Cohort
from eqpool.data.site_effects.kept import kept_columns
from eqpool.methods.scored_voxels import scanner_free_brain
from experiments.flags import numbers
from experiments.provenance import written_by
from experiments.registry import Experiment
from experiments.splits import add_split_flags, measure_splits
from experiments.tables import Measured, mean_and_deviation, table

_COMPONENTS, _COPIES = 150, 3
_PENALTIES = np.logspace(0, 7, 15)


class _Scans(NamedTuple):
    """Volumes inside the mask in z-scores, their truth, and the places of the voxels."""

    values: np.ndarray
    truth: np.ndarray
    places: np.ndarray


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    add_split_flags(parser)
    parser.add_argument("--amplitudes", type=numbers, default=(0.02, 0.04, 0.08), help="of the changes to undo")


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Computes the error of each correction on the test rows of every split."""

    def measure(cohort: Cohort) -> list[dict[str, Any]]:
        found = _errors(cohort, _scans(cohort), options.amplitudes)
        return [{"correction": name, "error": error} for name, error in found]

    return measure_splits(options, measure)


def _scans(cohort: Cohort) -> _Scans:
    assert cohort.volumes is not None
    mask, rows = cohort.volumes.grid.mask, range(len(cohort.site))
    values = np.stack([cohort.inputs[row][mask] for row in rows])
    truth = np.stack([scanner_free_brain(cohort, row) for row in rows])
    places = np.argwhere(mask).astype(np.float64)
    return _Scans(values, truth, ((places - places.mean(axis=0)) / places.std(axis=0)).T)


def _errors(cohort: Cohort, scans: _Scans, amplitudes: tuple[float, ...]) -> Iterator[tuple[str, float]]:
    test = cohort.rows("test")

    def error(values: np.ndarray) -> float:
        return float(np.sqrt(np.mean((values - scans.truth[test]) ** 2, axis=1)).mean())

    yield "none", error(scans.values[test])
    corrected, site_effect = location_and_scale(cohort, scans.values)
    yield "location and scale of the site", error(corrected[test])
    yield "and own site's effect", error(own_site_effect(cohort, corrected, site_effect)[test])
    for amplitude in amplitudes:
        undone, _ = undo(cohort, corrected, fields(scans.places), amplitude)
        yield f"and undo, amplitude {amplitude:g}", error(undone)
    basis = fields(scans.places)
    best = [_closest(scan, truth, basis) for scan, truth in zip(corrected[test], scans.truth[test], strict=True)]
    yield "and the best change of the family, by the truth", error(np.stack(best))


def location_and_scale(cohort: Cohort, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns values (N, V) with the location and scale of each site corrected, and the sites' effects (K, V)."""
    train, age = cohort.rows("train"), cohort.covariates[:, :1]
    scaled = (age - age[train].mean(axis=0)) / age[train].std(axis=0)
    known, classes = cohort.target_known, len(cohort.target_classes)
    kept = kept_columns(np.column_stack([scaled, scaled**2]), cohort.target, known, classes)
    kept -= kept[train].mean(axis=0)
    sites = np.eye(len(cohort.site_names))[cohort.site]
    count = sites.shape[1]
    coefficients = np.linalg.lstsq(np.column_stack([sites, kept])[train], values[train], rcond=None)[0]
    residual = values - sites @ coefficients[:count] - kept @ coefficients[count:]
    weights = sites[train].sum(axis=0)
    variance = (sites[train].T @ residual[train] ** 2) / (weights - 1)[:, None]
    pooled = weights @ variance / weights.sum()
    mean = weights @ coefficients[:count] / weights.sum()
    scale = np.sqrt(pooled / np.maximum(variance, 1e-12))[cohort.site]
    corrected = kept @ coefficients[count:] + mean + residual * scale
    return corrected.astype(np.float32), coefficients[:count] - mean


def own_site_effect(cohort: Cohort, values: np.ndarray, effects: np.ndarray, rank: int = 60) -> np.ndarray:
    """Takes the excess of a scan's own site's effect (K, V) back, shrunk by its variance in the other sites."""
    train, changed = cohort.split == "train", values.copy()
    for site, effect in enumerate(effects):
        own, others = cohort.site == site, train & (cohort.site != site)
        centred = values[others] - values[others].mean(axis=0)
        _, singular, vectors = np.linalg.svd(centred, full_matrices=False)
        variances = singular**2 / len(centred)
        noise = variances[rank:].sum() / (values.shape[1] - rank)
        first = vectors[:rank]
        weights = effect / noise - first.T @ ((1 / noise - 1 / (variances[:rank] + noise)) * (first @ effect))
        scores = (values - values[train & own].mean(axis=0)) @ weights / (effect @ weights)
        beyond = (values[others] - values[others].mean(axis=0)) @ weights / (effect @ weights)
        share = max(0.0, 1 - beyond.var() / scores[own & train].var())
        changed[own] -= share * np.outer(scores[own], effect)
    return changed


def fields(places: np.ndarray) -> np.ndarray:
    """Returns the nine polynomials of degree 1 and 2 of the places (3, V), each with mean 0 and deviation 1."""
    x, y, z = places
    basis = np.stack([x, y, z, x * y, x * z, y * z, x * x, y * y, z * z])
    basis -= basis.mean(axis=1, keepdims=True)
    return (basis / basis.std(axis=1, keepdims=True)).astype(np.float32)


def directions(scan: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Returns the effects (11, V) of a change's coefficients on a scan: intensity squared and cubed, and the fields.

    The effects are freed of what the scan's z-scoring takes away, an offset and a gain.
    """
    bounded = np.clip(scan, -3, 2)
    effects = np.concatenate([np.stack([bounded**2, bounded**3]), basis * (scan + 3) / 3])
    effects = effects - effects.mean(axis=1, keepdims=True)
    centred = scan - scan.mean()
    return effects - np.outer(effects @ centred / (centred @ centred), centred)


def undo(cohort: Cohort, values: np.ndarray, basis: np.ndarray, amplitude: float) -> tuple[np.ndarray, float]:
    """Returns the test rows without the change that the network reads from them, and its R^2 on validation rows."""
    train, validation, test = (cohort.rows(split) for split in ("train", "validation", "test"))
    random, mean = np.random.default_rng(0), values[train].mean(axis=0)
    _, vectors = np.linalg.eigh((values[train] - mean) @ (values[train] - mean).T)
    components = vectors[:, ::-1][:, :_COMPONENTS].T @ (values[train] - mean)
    readers = np.concatenate([components, directions(mean, basis)])
    readers = (readers / np.linalg.norm(readers, axis=1, keepdims=True)).astype(np.float32)

    def changed(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drawn = amplitude * random.normal(size=(len(rows), 11))
        scans = [values[row] + own @ directions(values[row], basis) for row, own in zip(rows, drawn, strict=True)]
        return np.stack([readers @ (scan - mean) for scan in scans]), drawn

    features, drawn = changed(np.repeat(train, _COPIES))
    held_out, truth = changed(np.repeat(validation, _COPIES))
    centre, scale = features.mean(axis=0), features.std(axis=0)
    features, held_out = (features - centre) / scale, (held_out - centre) / scale
    gram, shared = features.T @ features, features.T @ drawn
    networks = [np.linalg.solve(gram + penalty * np.eye(len(gram)), shared) for penalty in _PENALTIES]
    losses = [float(np.mean((held_out @ network - truth) ** 2)) for network in networks]
    network = networks[int(np.argmin(losses))]
    read = ((values[test] - mean) @ readers.T - centre) / scale @ network
    undone = [values[row] - own @ directions(values[row], basis) for row, own in zip(test, read, strict=True)]
    return np.stack(undone), 1 - min(losses) / float(np.mean(truth**2))


def _closest(scan: np.ndarray, truth: np.ndarray, basis: np.ndarray) -> np.ndarray:
    design = np.column_stack([np.ones(len(scan)), scan, directions(scan, basis).T])
    return design @ np.linalg.lstsq(design, truth, rcond=None)[0]


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table, with a row for each correction."""
    rows, splits = content["rows"], {row["split"] for row in content["rows"]}
    cells = []
    for name in dict.fromkeys(row["correction"] for row in rows):
        errors = [row["error"] for row in rows if row["correction"] == name]
        cells.append([name, mean_and_deviation(errors, 4)])
    return "\n".join(
        [
            f"SIMULATED data, configs/{content['config']}.py. {written_by(experiment.name, content)}",
            f"Mean (standard deviation) over {len(splits)} splits.",
            "",
            *table(["correction", "error to the truth, RMS z-scores, test rows"], cells),
        ]
    )
