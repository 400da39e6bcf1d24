"""Computes the accuracy with which probes predict the site, or a nuisance, from frozen features."""

import dataclasses
import functools

import numpy as np

from eqpool.config import EvaluateConfig
from eqpool.data.cohort import Cohort
from eqpool.data.splits import target_levels
from eqpool.evaluate.intervals import chance_level, percentile_interval
from eqpool.evaluate.outputs import Embeddings, Metrics
from eqpool.evaluate.probes import (
    ADVERSARY,
    LIBRARY_PROBES,
    ProbeScore,
    probe_panel,
    site_floor_features,
    strongest,
    strongest_by_chance,
)


def probe_metrics(cohort: Cohort, embeddings: Embeddings, config: EvaluateConfig) -> Metrics:
    """Computes the accuracy of the paper's adversary on Phi, and of the strongest probe on Phi, tau^-1 Phi and l.

    `selection_probe` is the strongest probe on the validation split, for choosing among settings.
    """
    of_phi = _panel(cohort, embeddings.phi, config)
    if not of_phi:
        return _nuisance_metrics(cohort, embeddings, config)
    panels = {"strongest_probe": of_phi}
    if embeddings.covariate_free is not None:
        panels["strongest_probe_covariate_free"] = _panel(cohort, embeddings.covariate_free, config)
        panels["strongest_probe_before"] = _panel(cohort, embeddings.latent, config, within=False)
    adversary = next(score for score in of_phi if score.probe == "mlp" and score.design == "transfer")
    selection = _panel(cohort, embeddings.phi, config, "validation", within=False)
    result: Metrics = {
        "adversary": 100 * adversary.accuracy,
        "adversary_auc": adversary.auc,
        "site_chance": chance_level(cohort.site[_rows_for_probes(cohort, "test")[1]]),
        "selection_probe": strongest(selection).balanced_accuracy if selection else float("nan"),
    }
    for name, scores in panels.items():
        result |= _strongest_metrics(name, scores)
    if embeddings.covariate_free is not None and config.probe_permutations:
        result |= _chance_metrics(cohort, embeddings.covariate_free, config, result["strongest_probe_covariate_free"])
    return result | _nuisance_metrics(cohort, embeddings, config)


def _nuisance_metrics(cohort: Cohort, embeddings: Embeddings, config: EvaluateConfig) -> Metrics:
    """Computes `nuisance_<name>`, the accuracy of the strongest probe from tau^-1 Phi, with its chance level."""
    result: Metrics = {}
    for index, name in enumerate(cohort.nuisance_names):
        assert cohort.nuisance is not None and embeddings.covariate_free is not None
        label = cohort.nuisance[:, index]
        train, test = (np.flatnonzero((cohort.split == split) & (label >= 0)) for split in ("train", "test"))
        scores = probe_panel(
            embeddings.covariate_free,
            label,
            cohort.participant_id,
            train,
            test,
            config=config,
            num_sites=len(cohort.nuisance_levels[index]),
        )
        if not scores:
            continue
        best = strongest(scores)
        result |= {
            f"nuisance_{name}": best.balanced_accuracy,
            f"nuisance_{name}_interval": best.balanced_accuracy_interval,
            f"nuisance_{name}_chance": chance_level(label[test]),
        }
    return result


def site_floor_metrics(cohort: Cohort, config: EvaluateConfig) -> Metrics:
    """Computes the accuracy of the strongest probe for the site from covariates and target alone.

    Only rows with a known site and target are used. The result depends on the cohort, but not on the method.
    """
    known = (cohort.site >= 0) & cohort.target_known
    floor = np.zeros((len(known), cohort.covariates.shape[1] + max(len(cohort.target_classes), 1)), np.float32)
    floor[known] = site_floor_features(cohort.covariates[known], cohort.target[known], cohort.target_classes)
    labelled = dataclasses.replace(cohort, site=np.where(known, cohort.site, -1).astype(cohort.site.dtype))
    return _strongest_metrics("site_floor", _panel(labelled, floor, config))


def _panel(
    cohort: Cohort, features: np.ndarray, config: EvaluateConfig, split: str = "test", within: bool = True
) -> list[ProbeScore]:
    return probe_panel(
        features,
        cohort.site,
        cohort.participant_id,
        *_rows_for_probes(cohort, split),
        config=config,
        num_sites=len(cohort.site_names),
        within=within,
    )


def _chance_metrics(cohort: Cohort, covariate_free: np.ndarray, config: EvaluateConfig, observed: float) -> Metrics:
    """Computes the accuracy of the strongest probe after shuffling the sites within the levels of the target.

    The p-value is the share of accuracies, including the observed one, that are at least as high as the observed one.
    """
    quick = dataclasses.replace(config, bootstraps=1)  # the intervals of the shuffled probes are not used
    train, test = _rows_for_probes(cohort, "test")
    of_library, of_adversary = (
        functools.partial(
            probe_panel, covariate_free, subject=cohort.participant_id, train=train, test=test, config=quick,
            num_sites=len(cohort.site_names), probes=probes,
        )
        for probes in (LIBRARY_PROBES, (ADVERSARY,))
    )  # fmt: skip
    level = target_levels(cohort.target, cohort.target_classes)
    chance = strongest_by_chance(
        of_library, of_adversary, cohort.site, cohort.participant_id, level, (train, test), config.probe_permutations
    )
    return {
        "strongest_probe_covariate_free_shuffled": float(chance.mean()),
        "strongest_probe_covariate_free_shuffled_interval": percentile_interval(chance),
        "strongest_probe_covariate_free_p_value": float((1 + np.sum(chance >= observed)) / (1 + len(chance))),
    }


def _rows_for_probes(cohort: Cohort, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training rows and the rows of `split` with a known site."""
    known = cohort.site >= 0
    return np.flatnonzero((cohort.split == "train") & known), np.flatnonzero((cohort.split == split) & known)


def _strongest_metrics(name: str, scores: list[ProbeScore]) -> Metrics:
    if not scores:
        return {}
    best = strongest(scores)
    return {
        name: best.balanced_accuracy,
        f"{name}_interval": best.balanced_accuracy_interval,
        f"{name}_name": f"{best.probe}, {best.design}",
        f"{name}_auc": max(score.auc for score in scores),
    }
