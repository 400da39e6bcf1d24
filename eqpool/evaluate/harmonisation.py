"""Metrics of an ISTN: accuracy of the task models on the reference site, and MMD between the sites' images."""

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import EvaluateConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.evaluate.distances import distance_metrics
from eqpool.evaluate.intervals import number_subjects
from eqpool.evaluate.outputs import Metrics
from eqpool.evaluate.predictions import target_metrics
from eqpool.evaluate.two_sample import mmd_permutation_test


def task_metrics(
    cohort: Cohort,
    scaling: Scaling,
    predictions: dict[str, np.ndarray],
    rows: dict[str, np.ndarray],
    config: EvaluateConfig,
    seed: int,
) -> Metrics:
    """Computes the accuracy (percent) or MAE of each task model (Robinson et al. 2020, section 2, Downstream Tasks).

    Args:
      cohort: cohort with its targets.
      scaling: scaling of a numeric target.
      predictions: (len(rows[name]), outputs) by name. "source" is T_S on the source site, "before" is T_S on the
        reference site, and "scratch" and "finetuned" are T_S2T on the reference site. The images of the reference site
        are never altered.
      rows: row indices of the cohort by name.
      config: configuration of the intervals.
      seed: seed of the bootstrap.

    Returns:
      `<name>_accuracy`, `<name>_mae` and so on, each with `_interval`. `accuracy` (or `mae`) is that of "scratch".
      `gain_scratch` and `gain_finetuned` are the improvements over "before". `majority_accuracy`, `target_chance`,
      `constant_mae` and `mae_skill` are those of the reference site's rows.
    """
    result: Metrics = {}
    for name, prediction in predictions.items():
        scores = target_metrics(cohort, scaling, prediction, rows[name], config, seed)
        result |= {f"{name}_{key}": value for key, value in scores.items()}
    key, sign = ("accuracy", 1) if cohort.target_classes else ("mae", -1)
    for name in ("scratch", "finetuned"):
        result[f"gain_{name}"] = sign * (result[f"{name}_{key}"] - result[f"before_{key}"])
    shared = (
        key,
        f"{key}_interval",
        "majority_accuracy",
        "target_chance",
        "constant_mae",
        "mae_skill",
        "mae_skill_interval",
    )
    return result | {name: result[f"scratch_{name}"] for name in shared if f"scratch_{name}" in result}


def look_metrics(
    source: np.ndarray,
    transformed: np.ndarray,
    reference: np.ndarray,
    subject: np.ndarray,
    config: EvaluateConfig,
    seed: int,
) -> Metrics:
    """Computes 100 MMD^2 between the images of both sites before and after the ISTN, with permutation p-values.

    Args:
      source: (N, *shape), held-out images of the source site.
      transformed: (N, *shape), the same images transformed by the ISTN.
      reference: (M, *shape), held-out images of the reference site.
      subject: (N + M,), subject of each image, first of the source site and then of the reference site.
      config: configuration of the permutations.
      seed: seed of the permutations.
    """
    result: Metrics = {}
    for name, images in (("before", source), ("after", transformed)):
        flat = jnp.asarray(np.concatenate([images, reference]).reshape(len(images) + len(reference), -1))
        side = jnp.asarray(np.repeat([0, 1], [len(images), len(reference)]), jnp.int32)
        test = mmd_permutation_test(
            jax.random.key(seed),
            flat,
            side,
            num_sites=2,
            num_permutations=config.permutations,
            kernel="gaussian",
            bandwidth="median",
            estimator="unbiased",
            subject=number_subjects(subject),
        )
        result |= distance_metrics(f"image_mmd_{name}", test)
    return result
