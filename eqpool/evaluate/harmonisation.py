"""What an ISTN is worth: the task model on the reference site before and after, and what was done to the images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqpool.config import EvaluateConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.evaluate.evaluation import distance_metrics, target_metrics
from eqpool.evaluate.intervals import number_subjects
from eqpool.evaluate.metrics import mmd_permutation_test

Metrics = dict[str, Any]


def task_metrics(
    cohort: Cohort,
    scaling: Scaling,
    predictions: dict[str, np.ndarray],
    rows: dict[str, np.ndarray],
    config: EvaluateConfig,
    seed: int,
) -> Metrics:
    """Accuracy (percent) or MAE of each task model on the rows it is judged by (Robinson et al. 2020, section 2,
    Downstream Tasks).

    Args:
      cohort: with its targets.
      scaling: of a numeric target.
      predictions: name -> (len(rows[name]), outputs): "source" is T_S on the source, "before" T_S on the reference,
        "scratch" and "finetuned" T_S2T on the reference, whose images are never altered.
      rows: name -> row indices of the cohort.
      config: of the intervals.
      seed: of the bootstrap.

    Returns:
      `<name>_accuracy` or `<name>_mae` and so on, each with `_interval`; `accuracy` (`mae`) is that of "scratch", and
      `gain_scratch`, `gain_finetuned` are what it is better by than "before". `majority_accuracy` and the like are
      those of the reference's rows.
    """
    result: Metrics = {}
    for name, prediction in predictions.items():
        scores = target_metrics(cohort, scaling, prediction, rows[name], config, seed)
        result |= {f"{name}_{key}": value for key, value in scores.items()}
    key, sign = ("accuracy", 1) if cohort.target_classes else ("mae", -1)
    for name in ("scratch", "finetuned"):
        result[f"gain_{name}"] = sign * (result[f"{name}_{key}"] - result[f"before_{key}"])
    shared = (key, f"{key}_interval", "majority_accuracy", "target_chance", "constant_mae")
    return result | {name: result[f"scratch_{name}"] for name in shared if f"scratch_{name}" in result}


def look_metrics(
    source: np.ndarray,
    transformed: np.ndarray,
    reference: np.ndarray,
    subject: np.ndarray,
    config: EvaluateConfig,
    seed: int,
) -> Metrics:
    """100 MMD^2 between the images of both sites, before and after, each with its permutation p-value.

    Args:
      source, transformed: (N, *shape), the source's held-out images and what the ISTN makes of them.
      reference: (M, *shape), the reference's held-out images.
      subject: (N + M,), whose each image is.
      config: of the permutations.
      seed: of the permutations.
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
