"""Computes M = 100 MMD^2 between the latents of the sites (docs/method.md, section 6)."""

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import EvaluateConfig
from eqpool.data.cohort import Cohort
from eqpool.data.splits import target_levels
from eqpool.evaluate.intervals import number_subjects
from eqpool.evaluate.metrics import TwoSampleTest, minmax_normalize, mmd_permutation_test
from eqpool.evaluate.outputs import Embeddings, Metrics
from eqpool.losses.mmd import mmd


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
    normalised = minmax_normalize(latent)
    test = mmd_permutation_test(
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


def distance_metrics(name: str, test: TwoSampleTest) -> Metrics:
    """Returns 100 MMD^2 and its p-value. Both are NaN if the test compares nothing."""
    statistic, p_value = float(test.statistic), float(test.p_value)
    return {name: 100 * statistic if np.isfinite(p_value) else float("nan"), f"{name}_p_value": p_value}
