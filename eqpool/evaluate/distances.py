"""Computes M = 100 MMD^2 between the latents of the sites (docs/method.md, section 6)."""

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import EvaluateConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.splits import target_levels
from eqpool.evaluate.intervals import number_subjects
from eqpool.evaluate.metrics import minmax_normalize
from eqpool.evaluate.outputs import Embeddings, Metrics
from eqpool.evaluate.two_sample import TwoSampleTest, mmd_permutation_test
from eqpool.geometry.planes import invariant_planes, rotations
from eqpool.losses.kernels import Kernel
from eqpool.losses.mmd import mmd
from eqpool.losses.weighted_mmd import Estimator

# Rows of a stratum in which sites are permuted, and the most ranges of a covariate. Fewer rows leave few permutations,
# and in wider ranges the covariate differs more between sites.
_ROWS_PER_STRATUM, _MOST_RANGES = 8, 10
_MOST_ANCHORS = 64  # of several covariates
_KERNEL: Kernel = "laplacian"
_BANDWIDTH = 1.0
_DIRECTIONS = 8  # random latents that the covariates alone turn, over which the floor of M is averaged


def site_distance_metrics(
    cohort: Cohort, scaling: Scaling, embeddings: Embeddings, generators: np.ndarray, config: EvaluateConfig, seed: int
) -> Metrics:
    """Computes M = 100 MMD^2 between the sites of the held-out rows: from Phi, at equal covariates, from tau^-1 Phi.

    Age is predictable from Phi, so M of Phi is large if the ages of the sites differ. `mmd_floor` is M of a latent that
    depends on the covariates alone. `mmd_conditional` compares Phi at equal covariates, as Lokhande et al. 2022, eq.
    (1), asks. Its permutations exchange sites within ranges of the covariates and levels of the target. The target is
    predictable from tau^-1 Phi, so its p-value uses permutations within the levels of the target.

    The result is empty if the held-out rows have fewer than two known sites.

    Args:
      cohort: cohort with its split.
      scaling: scaling fitted on the cohort's training rows.
      embeddings: outputs for all rows of the cohort.
      generators: (C, n, n), generators of the covariates.
      config: configuration of the metrics.
      seed: seed of the permutations.
    """
    rows = np.flatnonzero((cohort.split == "test") & (cohort.site >= 0))
    if len(np.unique(cohort.site[rows])) < 2:
        return {}
    distances = _Distances(cohort, rows, config, seed)
    level = target_levels(cohort.target, cohort.target_classes)[rows]
    scaled = scaling.covariates.apply(cohort.covariates[rows]).astype(np.float32)
    alike = covariate_strata(scaled, level)
    result = distances.plain("mmd", embeddings.phi[rows], None)
    result |= distances.conditional("mmd_conditional", embeddings.phi[rows], scaled, alike)
    result |= distances.floor("mmd_floor", scaled, generators)
    if embeddings.covariate_free is not None:
        result |= distances.plain("mmd_covariate_free", embeddings.covariate_free[rows], level)
    return result


class _Distances:
    """Distances between the sites of some rows, by the kernel of the paper."""

    def __init__(self, cohort: Cohort, rows: np.ndarray, config: EvaluateConfig, seed: int):
        self._label = jnp.asarray(cohort.site[rows], jnp.int32)
        self._subject = number_subjects(cohort.participant_id[rows])
        self._num_permutations, self._key = config.permutations, jax.random.key(seed)
        self._num_sites = len(cohort.site_names)

    def plain(self, name: str, features: np.ndarray, stratum: np.ndarray | None) -> Metrics:
        """Computes M by two estimators.

        `<name>` is the unbiased estimate on normalised features, with a p-value from permutations over subjects.
        `<name>_published` is the biased estimate on the features as they are.
        """
        test = self._test(features, stratum)
        return distance_metrics(name, test) | {f"{name}_published": self._distance(jnp.asarray(features), "biased")}

    def conditional(self, name: str, features: np.ndarray, covariates: np.ndarray, stratum: np.ndarray) -> Metrics:
        """Computes the unbiased M of normalised features at equal covariates, its p-value and its level by chance.

        Covariates are equal up to a bandwidth only. `<name>_by_chance` is the mean over the permutations, which keep
        the difference of the covariates that is left.
        """
        anchors = None
        if covariates.shape[1] > 1:  # by default one a row, of which time and memory would grow with the square
            chosen = np.random.default_rng(0).permutation(len(covariates))[:_MOST_ANCHORS]
            anchors = covariates[chosen]
        test = self._test(features, stratum, covariates, anchors)
        return distance_metrics(name, test) | {f"{name}_by_chance": 100 * float(test.null_mean)}

    def floor(self, name: str, covariates: np.ndarray, generators: np.ndarray) -> Metrics:
        """Computes both estimates of M for latents that the covariates alone turn, as the mean over random ones."""
        turned = rotations(invariant_planes(generators), -jnp.asarray(covariates))
        directions = np.random.default_rng(0).normal(size=(_DIRECTIONS, turned.shape[-1])).astype(np.float32)
        latents = [turned @ (one / np.linalg.norm(one)) for one in directions]
        unbiased = [self._distance(minmax_normalize(one), "unbiased") for one in latents]
        published = [self._distance(one, "biased") for one in latents]
        return {name: float(np.mean(unbiased)), f"{name}_published": float(np.mean(published))}

    def _distance(self, latent: jax.Array, estimator: Estimator) -> float:
        value = mmd(
            latent, self._label, num_sites=self._num_sites, kernel=_KERNEL, bandwidth=_BANDWIDTH, estimator=estimator
        )
        return 100 * float(value)

    def _test(
        self,
        features: np.ndarray,
        stratum: np.ndarray | None,
        covariate: np.ndarray | None = None,
        anchors: np.ndarray | None = None,
    ) -> TwoSampleTest:
        return mmd_permutation_test(
            self._key,
            minmax_normalize(jnp.asarray(features)),
            self._label,
            num_sites=self._num_sites,
            num_permutations=self._num_permutations,
            kernel=_KERNEL,
            bandwidth=_BANDWIDTH,
            estimator="unbiased",
            subject=self._subject,
            stratum=stratum,
            covariate=covariate,
            anchors=anchors,
        )


def covariate_strata(covariates: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Returns the stratum of each row, (N,) int: rows of like covariates and of one level.

    Each covariate is divided at its quantiles into as many ranges as leave about eight rows in a stratum, at most ten.

    Args:
      covariates: (N, C).
      level: (N,) integers, such as a class.
    """
    count, columns = covariates.shape
    share = count / (_ROWS_PER_STRATUM * max(1, len(np.unique(level))))
    ranges = int(np.clip(share ** (1 / max(1, columns)), 1, _MOST_RANGES))
    edges = np.quantile(covariates, np.arange(1, ranges) / ranges, axis=0) if count else np.empty((0, columns))
    place = [np.searchsorted(edges[:, column], covariates[:, column], side="right") for column in range(columns)]
    return np.unique(np.column_stack([level, *place]), axis=0, return_inverse=True)[1].reshape(-1)


def distance_metrics(name: str, test: TwoSampleTest) -> Metrics:
    """Returns 100 MMD^2 and its p-value. Both are NaN if the test compares nothing."""
    statistic, p_value = float(test.statistic), float(test.p_value)
    return {name: 100 * statistic if np.isfinite(p_value) else float("nan"), f"{name}_p_value": p_value}
