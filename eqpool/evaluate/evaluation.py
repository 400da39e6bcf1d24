"""Computation of all metrics of a run on its held-out split (docs/method.md, section 6)."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import mean_absolute_error, r2_score

from eqpool.config import EvaluateConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.splits import target_levels
from eqpool.evaluate import metrics
from eqpool.evaluate.intervals import (
    balanced_accuracy,
    bootstrap_interval,
    jackknife_interval,
    jackknife_masks,
    number_subjects,
)
from eqpool.evaluate.probes import ProbeScore, probe_panel, site_floor_features, strongest, strongest_by_chance
from eqpool.evaluate.readout import read_covariate
from eqpool.geometry.so import GroupMap
from eqpool.losses.equivariance import equivariance_error
from eqpool.losses.mmd import mmd
from eqpool.ops.finite import check_finite
from eqpool.storage.progress import track
from eqpool.storage.run_folder import NON_FINITE_ROWS

Metrics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Outputs of the trained stages for all N rows of a cohort, as float32 arrays on the host.

    Attributes:
      latent: (N, n), the latents l.
      tau: (N, n, n), or None for a baseline, which has no such map.
      phi: (N, n), the pooled latents.
      covariate_free: (N, n), tau^-1 Phi, or None for a baseline.
      prediction: (N, outputs), logits, or the standardised target.
    """

    latent: np.ndarray
    tau: np.ndarray | None
    phi: np.ndarray
    covariate_free: np.ndarray | None
    prediction: np.ndarray


def evaluate(
    cohort: Cohort,
    scaling: Scaling,
    embeddings: Embeddings,
    generators: np.ndarray,
    group_map: GroupMap,
    config: EvaluateConfig,
    seed: int,
) -> Metrics:
    """Computes all metrics of the test split except the site floor.

    An estimate `x` comes with `x_interval`, its 95% interval over subjects. If some rows have outputs that are not
    finite, the only metric is `non_finite_rows`, the number of these rows, because any other metric would cover the
    remaining rows only.

    Args:
      cohort: cohort with its split.
      scaling: scaling fitted on the cohort's training rows.
      embeddings: outputs for all rows of the cohort.
      generators: (C, n, n), generators of the covariates.
      group_map: "expm" or "cayley".
      config: configuration of the metrics.
      seed: seed of bootstraps, jackknife groups and permutations.

    Returns:
      The metrics by name. A metric that is not defined on the held-out rows is None.
    """
    broken = non_finite_rows(embeddings)
    if broken:
        return {NON_FINITE_ROWS: broken}
    test = cohort.rows("test")
    parts = (
        lambda: equivariance_metrics(cohort, scaling, embeddings, generators, group_map, seed),
        lambda: site_distance_metrics(cohort, embeddings, config, seed),
        lambda: probe_metrics(cohort, embeddings, config),
        lambda: target_metrics(cohort, scaling, embeddings.prediction[test], test, config, seed),
        lambda: kept_metrics(cohort, embeddings, config, seed),
        lambda: selection_metrics(cohort, embeddings.prediction),
    )
    result: Metrics = {}
    for compute in track(parts, "Evaluating", unit="part"):
        result |= compute()
    return only_finite(result)


def non_finite_rows(embeddings: Embeddings) -> int:
    """Counts the rows with a latent, a rotation or a prediction that has a value that is not finite."""
    columns = [value for value in vars(embeddings).values() if value is not None]
    return int(np.sum(~np.all([np.isfinite(value.reshape(len(value), -1)).all(axis=1) for value in columns], axis=0)))


def equivariance_metrics(
    cohort: Cohort,
    scaling: Scaling,
    embeddings: Embeddings,
    generators: np.ndarray,
    group_map: GroupMap,
    seed: int,
) -> Metrics:
    """Computes delta_eq on the first covariate, its ratio to permuted covariates, and the equivariance error.

    These metrics are means over pairs of rows. Their intervals use the jackknife, because a bootstrap would pair a row
    with its own copies. A baseline has no tau, so its delta_eq is computed from the latent vector, and it has no
    equivariance error.
    """
    test = cohort.rows("test")
    vectors = jnp.asarray((embeddings.latent if embeddings.tau is None else embeddings.tau)[test])
    age = jnp.asarray(cohort.covariates[test, 0], jnp.float32)
    scaled = jnp.asarray(scaling.covariates.apply(cohort.covariates[test]))
    largest = cohort.covariates[:, 0].max()

    def gap(vectors: jax.Array, mask: jax.Array) -> jax.Array:
        return metrics.equivariance_gap(vectors, age, maximum=largest, mask=mask)

    def error(vectors: jax.Array, mask: jax.Array) -> jax.Array:
        return equivariance_error(vectors, scaled, generator=generators, group_map=group_map, mask=mask)

    ratio = metrics.equivariance_gap_ratio(jax.random.key(seed), vectors, age, maximum=largest)
    scores = {"delta_eq": gap} | ({} if embeddings.tau is None else {"equivariance_error": error})
    masks = jnp.asarray(jackknife_masks(len(test), seed, subject=cohort.participant_id[test]))
    result: Metrics = {"delta_eq_ratio_to_permuted": float(ratio)}
    for name, score in scores.items():
        each = jax.jit(lambda vectors, masks, score=score: jax.lax.map(partial(score, vectors), masks))
        whole, *without_group = np.asarray(each(vectors, masks)).tolist()
        result |= {name: whole, f"{name}_interval": jackknife_interval(whole, np.array(without_group))}
    return result


def site_distance_metrics(cohort: Cohort, embeddings: Embeddings, config: EvaluateConfig, seed: int) -> Metrics:
    """Computes M = 100 MMD^2 between the sites, from Phi and from tau^-1 Phi.

    Age is predictable from Phi, so M of Phi is large if the ages of the sites differ. The target is predictable from
    tau^-1 Phi, so its p-value uses permutations within the levels of the target.
    """
    result = _site_distance("mmd", cohort, embeddings.phi, None, config, seed)
    if embeddings.covariate_free is not None:
        level = target_levels(cohort.target, cohort.target_classes)
        result |= _site_distance("mmd_covariate_free", cohort, embeddings.covariate_free, level, config, seed)
    return result


def _site_distance(
    name: str, cohort: Cohort, features: np.ndarray, level: np.ndarray | None, config: EvaluateConfig, seed: int
) -> Metrics:
    """Computes M = 100 MMD^2 by two estimators.

    `<name>` is the unbiased estimate on normalised features, with a p-value from permutations over subjects.
    `<name>_published` is the biased estimate on the features as they are. The result is empty if the held-out rows have
    fewer than two known sites.
    """
    rows = np.flatnonzero((cohort.split == "test") & (cohort.site >= 0))
    if len(np.unique(cohort.site[rows])) < 2:
        return {}
    latent, label = jnp.asarray(features[rows]), jnp.asarray(cohort.site[rows], jnp.int32)
    num_sites = len(cohort.site_names)
    normalised = metrics.minmax_normalize(latent)
    test = metrics.mmd_permutation_test(
        jax.random.key(seed),
        normalised,
        label,
        num_sites=num_sites,
        num_permutations=config.permutations,
        kernel="laplacian",
        bandwidth=1.0,
        estimator="unbiased",
        subject=number_subjects(cohort.participant_id[rows]),
        stratum=None if level is None else level[rows],
    )
    published = mmd(latent, label, num_sites=num_sites, kernel="laplacian", bandwidth=1.0, estimator="biased")
    return distance_metrics(name, test) | {f"{name}_published": 100 * float(published)}


def distance_metrics(name: str, test: metrics.TwoSampleTest) -> Metrics:
    """100 MMD^2 and its p-value; neither is defined where the test is not, since nothing is compared."""
    statistic, p_value = float(test.statistic), float(test.p_value)
    return {name: 100 * statistic if np.isfinite(p_value) else float("nan"), f"{name}_p_value": p_value}


def probe_metrics(cohort: Cohort, embeddings: Embeddings, config: EvaluateConfig) -> Metrics:
    """Computes the accuracy of the paper's adversary on Phi, and of the strongest probe on Phi, tau^-1 Phi and l.

    `selection_probe` is the strongest probe on the validation split, for choosing among settings.
    """
    of_phi = _panel(cohort, embeddings.phi, config)
    if not of_phi:
        return nuisance_metrics(cohort, embeddings, config)
    panels = {"strongest_probe": of_phi}
    if embeddings.covariate_free is not None:
        panels["strongest_probe_covariate_free"] = _panel(cohort, embeddings.covariate_free, config)
        panels["strongest_probe_before"] = _panel(cohort, embeddings.latent, config, within=False)
    adversary = next(score for score in of_phi if score.probe == "mlp" and score.design == "transfer")
    selection = _panel(cohort, embeddings.phi, config, "validation", within=False)
    result: Metrics = {
        "adversary": 100 * adversary.accuracy,
        "adversary_auc": adversary.auc,
        "site_chance": _chance(cohort.site[_rows_for_probes(cohort, "test")[1]]),
        "selection_probe": strongest(selection).balanced_accuracy if selection else float("nan"),
    }
    for name, scores in panels.items():
        result |= _strongest_metrics(name, scores)
    if embeddings.covariate_free is not None and config.probe_permutations:
        result |= _chance_metrics(cohort, embeddings.covariate_free, config, result["strongest_probe_covariate_free"])
    return result | nuisance_metrics(cohort, embeddings, config)


def nuisance_metrics(cohort: Cohort, embeddings: Embeddings, config: EvaluateConfig) -> Metrics:
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
            f"nuisance_{name}_chance": _chance(label[test]),
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


def _chance_metrics(cohort: Cohort, covariate_free: np.ndarray, config: EvaluateConfig, told: float) -> Metrics:
    """Computes the accuracy of the strongest probe after shuffling the sites within the levels of the target.

    The p-value is the share of accuracies, including the observed one, that are at least as high as the observed one.
    """
    quick = dataclasses.replace(config, bootstraps=1)  # the intervals of the shuffled probes are not used

    def panel(site: np.ndarray) -> list[ProbeScore]:
        return _panel(dataclasses.replace(cohort, site=site), covariate_free, quick)

    splits = _rows_for_probes(cohort, "test")
    level = target_levels(cohort.target, cohort.target_classes)
    chance = strongest_by_chance(panel, cohort.site, cohort.participant_id, level, splits, config.probe_permutations)
    low, high = np.quantile(chance, (0.025, 0.975)).tolist()
    return {
        "strongest_probe_covariate_free_shuffled": float(chance.mean()),
        "strongest_probe_covariate_free_shuffled_interval": (low, high),
        "strongest_probe_covariate_free_p_value": float((1 + np.sum(chance >= told)) / (1 + len(chance))),
    }


def _rows_for_probes(cohort: Cohort, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training rows and the rows of `split` with a known site."""
    known = cohort.site >= 0
    return np.flatnonzero((cohort.split == "train") & known), np.flatnonzero((cohort.split == split) & known)


def _chance(labels: np.ndarray) -> float:
    """Returns the balanced accuracy of a guess, which is one over the number of labels that occur."""
    return 1 / max(1, len(np.unique(labels)))


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


def target_metrics(
    cohort: Cohort, scaling: Scaling, prediction: np.ndarray, test: np.ndarray, config: EvaluateConfig, seed: int
) -> Metrics:
    """Computes the accuracy of the predicted target, with levels that need no features.

    For classes these are accuracy and balanced accuracy (percent). Their levels are `majority_accuracy`, that of always
    predicting the most common class, and `target_chance`, the balanced accuracy of a guess. For a numeric target they
    are MAE, in the target's units, and R^2. The level of the MAE is `constant_mae`, that of always predicting the
    median.
    """
    known = cohort.target_known[test]
    truth, prediction = cohort.target[test][known], prediction[known]
    check_finite("prediction", prediction, cohort.participant_id[test][known])
    score = partial(_with_interval, subject=cohort.participant_id[test][known], config=config, seed=seed)
    if cohort.target_classes:
        predicted = prediction.argmax(axis=1)
        return {
            **score("accuracy", lambda t, p: 100 * float(np.mean(t == p)), truth, predicted),
            **score("balanced_accuracy", lambda t, p: 100 * balanced_accuracy(t, p), truth, predicted),
            "majority_accuracy": 100 * float(np.bincount(truth).max() / len(truth)) if len(truth) else float("nan"),
            "target_chance": 100 * _chance(truth),
        }
    if not len(truth):
        return dict.fromkeys(("mae", "r_squared", "constant_mae"), float("nan"))
    predicted = prediction[:, 0] * scaling.target_deviation + scaling.target_mean
    return {
        **score("mae", mean_absolute_error, truth, predicted),
        **score("r_squared", r2_score, truth, predicted),
        "constant_mae": float(np.mean(np.abs(truth - np.median(truth)))),
    }


def kept_metrics(cohort: Cohort, embeddings: Embeddings, config: EvaluateConfig, seed: int) -> Metrics:
    """Computes how well a ridge regression predicts each covariate from Phi on the test split.

    `kept_<covariate>_r_squared_before` is the same R^2 from the latent l. A baseline lacks it. `<covariate>_range` is
    the covariate's range in the whole cohort.
    """
    train, test = cohort.rows("train"), cohort.rows("test")
    subject = cohort.participant_id[test]
    result: Metrics = {}
    for column, name in enumerate(cohort.covariate_names):
        values = cohort.covariates[:, column]
        score = partial(_with_interval, truth=values[test], subject=subject, config=config, seed=seed)
        after = read_covariate(embeddings.phi[train], values[train], embeddings.phi[test])
        result |= score(f"kept_{name}_mae", mean_absolute_error, predicted=after)
        result |= score(f"kept_{name}_r_squared", r2_score, predicted=after)
        if embeddings.tau is not None:
            before = read_covariate(embeddings.latent[train], values[train], embeddings.latent[test])
            result |= score(f"kept_{name}_r_squared_before", r2_score, predicted=before)
        result[f"{name}_range"] = (float(values.min()), float(values.max()))
    return result


def _with_interval(
    name: str,
    score: Callable[[np.ndarray, np.ndarray], float],
    truth: np.ndarray,
    predicted: np.ndarray,
    subject: np.ndarray,
    config: EvaluateConfig,
    seed: int,
) -> Metrics:
    """Returns score(truth, predicted) as `name`, and its bootstrap interval over subjects as `name_interval`."""

    def drawn(rows: np.ndarray) -> float:
        return score(truth[rows], predicted[rows])

    interval = bootstrap_interval(drawn, len(truth), config.bootstraps, seed, subject)
    return {name: float(score(truth, predicted)), f"{name}_interval": interval}


def selection_metrics(cohort: Cohort, prediction: np.ndarray) -> Metrics:
    """Computes the accuracy (percent) on the validation split, for comparing settings.

    The result is empty for a numeric target.
    """
    if not cohort.target_classes:
        return {}
    rows = np.flatnonzero((cohort.split == "validation") & cohort.target_known)
    return {"selection_accuracy": 100 * float(np.mean(prediction[rows].argmax(axis=1) == cohort.target[rows]))}


def only_finite(values: Metrics) -> Metrics:
    """Replaces numbers and intervals that are not finite by None, because JSON cannot represent them.

    Such a metric is not defined on these rows.
    """
    numbers = {name: value for name, value in values.items() if isinstance(value, float | tuple)}
    undefined = {name for name, value in numbers.items() if not np.isfinite(value).all()}
    return {name: None if name in undefined else value for name, value in values.items()}
