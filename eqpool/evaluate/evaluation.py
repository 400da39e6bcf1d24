"""Computation of all metrics of a run on its held-out split (docs/method.md, section 6)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import EvaluateConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.evaluate import metrics
from eqpool.evaluate.distances import site_distance_metrics
from eqpool.evaluate.equivariance_floor import equivariance_floor_metrics
from eqpool.evaluate.intervals import jackknife_interval, jackknife_masks
from eqpool.evaluate.outputs import Embeddings, Metrics, non_finite_rows, only_finite
from eqpool.evaluate.predictions import kept_metrics, selection_metrics, target_metrics
from eqpool.evaluate.site_metrics import probe_metrics
from eqpool.geometry.so import GroupMap
from eqpool.losses.equivariance import equivariance_error
from eqpool.storage.progress import track
from eqpool.storage.run_folder import NON_FINITE_ROWS


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
        lambda: {} if embeddings.tau is None else equivariance_floor_metrics(cohort, scaling, generators, seed),
        lambda: site_distance_metrics(cohort, scaling, embeddings, generators, config, seed),
        lambda: probe_metrics(cohort, embeddings, config),
        lambda: target_metrics(cohort, scaling, embeddings.prediction[test], test, config, seed),
        lambda: kept_metrics(cohort, embeddings, config, seed),
        lambda: selection_metrics(cohort, embeddings.prediction),
    )
    result: Metrics = {}
    for compute in track(parts, "Evaluating", unit="part"):
        result |= compute()
    return only_finite(result | ratio_to_floor(result))


def ratio_to_floor(metrics: Metrics) -> Metrics:
    """Returns the equivariance error over its floor, and its interval; nothing if either is not defined."""
    floor, name = metrics.get("equivariance_error_floor"), "equivariance_error"
    if not floor or metrics.get(name) is None:
        return {}
    interval = metrics[f"{name}_interval"]
    ratio = None if interval is None else (interval[0] / floor, interval[1] / floor)
    return {f"{name}_ratio_to_floor": metrics[name] / floor, f"{name}_ratio_to_floor_interval": ratio}


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
