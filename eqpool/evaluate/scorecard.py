"""Scores what is handed back against the raw input and ComBat, on held-out rows.

All versions of the same rows are read by the same models: how well site, first covariate and target are predictable
from them, how much of their variance these explain, and where the truth is known their error. Versions are compared on
the same draws of subjects.
"""

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np

from eqpool.config import EvaluateConfig
from eqpool.evaluate.components import Components
from eqpool.evaluate.intervals import chance_level, percentile_interval
from eqpool.evaluate.outputs import only_finite
from eqpool.evaluate.scored_rows import ScoredRows
from eqpool.evaluate.shares import SharesOfVariance, subtract, summarise
from eqpool.evaluate.site_probes import predict_sites
from eqpool.evaluate.version_scores import Scores, VersionScores, covariate_scores, score_version, site_scores
from eqpool.evaluate.weighted import bootstrap_weights, difference, estimate, mean_of
from eqpool.ops.finite import check_finite
from eqpool.storage.progress import track
from eqpool.storage.run_folder import NON_FINITE_ROWS

COMPONENTS = 100  # most principal components of voxels
RAW, COMBAT, TRUTH = "raw", "combat", "truth"
Numbers = dict[str, Any]
TruthIs = Literal["scanner_free", "as_reference"]


def make_scorecard(
    rows: ScoredRows,
    versions: Mapping[str, np.ndarray],
    *,
    handed_back: str,
    on_voxels: bool,
    config: EvaluateConfig,
    seed: int,
    truth_is: TruthIs = "scanner_free",
    unit: str = "z-scores",
) -> Numbers:
    """Scores all versions on the held-out rows.

    Args:
      rows: who the N rows are.
      versions: (N, F) features of the rows by the version's name. "raw" is the input as it came. "truth", where it is
        known, is what the rows should be. Of a version that is not finite in some rows only their number is reported.
      handed_back: name of the version that users get, which is compared with the others; "" if there is none.
      on_voxels: whether the features are voxels, which are read through their principal components.
      config: folds and bootstraps.
      seed: seed of bootstrap and jackknife.
      truth_is: what the truth is: the rows without any scanner, or the same people as the reference site shows them.
      unit: unit of the features.

    Returns:
      The scorecard of results.json (docs/metrics.md).

    Raises:
      ValueError: the raw input or the truth is not finite in some rows.
    """
    broken = {name: int(np.sum(~np.isfinite(values).all(axis=1))) for name, values in versions.items()}
    for name in {RAW, TRUTH} & {*versions}:
        check_finite(name, versions[name], rows.subject)
    versions = {name: values for name, values in versions.items() if not broken[name]}
    components = COMPONENTS if on_voxels else 0
    weights = bootstrap_weights(len(rows.test), config.bootstraps, seed, rows.subject[rows.test])
    shares = SharesOfVariance.of(rows.site, rows.covariates, rows.target, rows.target_classes, rows.test)
    same, shown = _equal_versions(versions), (RAW, handed_back)
    scored = _score_versions(rows, versions, same, shown, components, config)
    measured = {name: shares.measure(versions[name], rows.subject, seed) for name in set(same.values())}
    parts = {name: measured[first] for name, first in same.items()}
    scores = {name: one.scores for name, one in scored.items()}
    numbers = {
        name: _with_intervals(one.scores, weights)
        | one.names
        | summarise(parts[name])
        | (_by_chance(one.shuffled) if name in shown else {})
        for name, one in scored.items()
    }
    if TRUTH in versions:
        _add_shares_of_raw(numbers)
    compared = [name for name in versions if name not in (handed_back, TRUTH)] if handed_back in versions else []
    numbers |= {name: {NON_FINITE_ROWS: count} for name, count in broken.items() if count}
    differences = {
        other: _differences(scores[handed_back], scores[other], weights)
        | summarise(subtract(parts[handed_back], parts[other]))
        for other in compared
    }
    return {
        "rows": {"train": len(rows.train), "test": len(rows.test)},
        "features": versions[RAW].shape[1],
        "components": components,
        "covariate": rows.covariate_name,
        "target": rows.target_name if rows.scores_target else "",
        "handed_back": handed_back,
        "reference": rows.reference_name,
        "truth_is": truth_is if TRUTH in versions else "",
        "unit": unit,
        "permutations": config.scorecard_permutations,
        "levels": only_finite(_levels(rows, weights, config) | shares.by_chance()),
        "versions": {name: only_finite(values) for name, values in numbers.items()},
        "differences": {name: only_finite(values) for name, values in differences.items()},
    }


def _score_versions(
    rows: ScoredRows,
    versions: Mapping[str, np.ndarray],
    same: Mapping[str, str],
    shown: Collection[str],
    components: int,
    config: EvaluateConfig,
) -> dict[str, VersionScores]:
    """Scores each version, and those that are the `same` once. The sites are shuffled for the versions in `shown`."""
    shuffled = {same[name] for name in versions if name in shown}
    scored: dict[str, VersionScores] = {}
    for name, values in track(versions.items(), "Scoring what is handed back", unit="version"):
        first = same[name]
        scored[name] = scored.get(first) or score_version(
            rows,
            values,
            versions[RAW],
            versions.get(TRUTH),
            components=components,
            num_folds=config.probe_folds,
            permutations=config.scorecard_permutations if first in shuffled else 0,
        )
    return scored


def _equal_versions(versions: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the first version with the same values for each version, which is itself for most.

    Where the networks' change was scaled to nothing, two versions are one, and would be scored twice.
    """
    return {
        name: next(other for other, others in versions.items() if np.array_equal(values, others))
        for name, values in versions.items()
    }


def _with_intervals(scores: Scores, weights: np.ndarray) -> Numbers:
    result: Numbers = {}
    for name, score in scores.items():
        result[name], result[f"{name}_interval"] = estimate(score, weights)
    return result


def _by_chance(shuffled: Mapping[str, np.ndarray]) -> Numbers:
    """Returns the mean accuracy on shuffled sites and the range of 95% of the shuffles, by the name of the score."""
    result: Numbers = {}
    for name, values in shuffled.items():
        result |= {f"{name}_shuffled": float(values.mean()), f"{name}_shuffled_interval": percentile_interval(values)}
    return result


def _differences(scores: Scores, others: Scores, weights: np.ndarray) -> Numbers:
    """Returns each score less that of another version, with its interval over the same draws."""
    shared = {name: difference(score, others[name]) for name, score in scores.items() if name in others}
    return _with_intervals(shared, weights)


def _add_shares_of_raw(numbers: dict[str, Numbers]) -> None:
    """Adds the error to the truth as a share of the raw input's."""
    raw = numbers[RAW]["error_to_truth"]
    for values in numbers.values():
        values["error_to_truth_share_of_raw"] = values["error_to_truth"] / raw if raw else float("nan")


def _levels(rows: ScoredRows, weights: np.ndarray, config: EvaluateConfig) -> Numbers:
    """Computes what needs no features: chance, the site floor, and the errors of a constant."""
    train, test = rows.train, rows.test
    site, target = rows.site[test], rows.target[test][rows.target_known[test]]
    levels: Numbers = {"site_chance": chance_level(site[site >= 0])}
    scores, names = _floor(rows, config.probe_folds)
    if scores:
        value, interval = estimate(scores["site"], weights)
        levels |= {"site_floor": value, "site_floor_interval": interval, "site_floor_name": names["site_name"]}
    if rows.scores_covariate:
        age = rows.covariates[:, 0]
        constant = covariate_scores(np.median(age[train]) - age[test], site)
        levels |= {f"constant_{name}": estimate(score, weights)[0] for name, score in constant.items()}
    if rows.scores_target and rows.target_classes:
        levels["target_chance"] = chance_level(target)
    elif rows.scores_target:
        middle = np.nanmedian(rows.target[train])
        levels["constant_target_mae"] = estimate(mean_of(np.abs(middle - rows.target[test])), weights)[0]
    return levels


def _floor(rows: ScoredRows, num_folds: int) -> tuple[Scores, dict[str, str]]:
    """Returns the scores of the site from covariates and target alone, none if there are neither."""
    floor, train, test = rows.floor_features(), rows.train, rows.test
    if not floor.shape[1]:
        return {}, {}
    predictions = predict_sites(
        floor[train],
        rows.site[train],
        floor[test],
        rows.site[test],
        rows.subject[test],
        across=Components.fit(floor[train], 0),
        components=0,
        num_folds=num_folds,
    )
    return site_scores(predictions)
