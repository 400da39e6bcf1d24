"""The linear part of a trained decoder: least squares on what its network leaves of the training volumes.

A few hundred steps teach a 3D decoder little beyond the mean volume (configs/adni.py: held-out error 0.897 z-scores, of
the mean volume alone 0.897), and then pooling changes nothing in its decodes. The best linear map from a latent to
voxels needs no steps: ridge regression of the residuals X - D(l) on l, in one pass over the training rows.
"""

import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from eqpool.data.cohort import Cohort
from eqpool.methods.trained import LINEAR_DECODER, TrainedRun, load_trained, padded_batches, with_linear_part
from eqpool.storage import files
from eqpool.storage.progress import track


class LinearPart(NamedTuple):
    """residual = latent @ weight + offset, at V voxels.

    Attributes:
      weight: (n, V) float64.
      offset: (V,) float64.
    """

    weight: np.ndarray
    offset: np.ndarray


def fit_ridge(batches: Iterable[tuple[np.ndarray, np.ndarray]], penalty: float) -> LinearPart:
    """Ridge regression with an intercept that is not penalised, from sums alone.

    Args:
      batches: (latents (B, n), residuals (B, V)); each is looked at once.
      penalty: added to the diagonal of the latents' scatter matrix.
    """
    count = 0
    sums: list[np.ndarray] = []
    for latent, residual in batches:
        latent, residual = latent.astype(np.float64), residual.astype(np.float64)
        parts = [latent.sum(axis=0), residual.sum(axis=0), latent.T @ latent, latent.T @ residual]
        sums = parts if not sums else [total + part for total, part in zip(sums, parts, strict=True)]
        count += len(latent)
    latent_mean, residual_mean = sums[0] / count, sums[1] / count
    scatter = sums[2] - count * np.outer(latent_mean, latent_mean)
    shared = sums[3] - count * np.outer(latent_mean, residual_mean)
    weight = np.linalg.solve(scatter + penalty * np.eye(len(scatter)), shared)
    return LinearPart(weight, residual_mean - latent_mean @ weight)


def complete_decoder(folder: pathlib.Path, cohort: Cohort) -> TrainedRun:
    """The run in `folder` with its linear part, fitted on the cohort's training rows where it is not there yet."""
    trained = load_trained(folder)
    penalty = trained.config.model.decoder_ridge
    if not penalty or (folder / LINEAR_DECODER).exists() or trained.decode is None or cohort.grid is None:
        return trained
    part = fit_ridge(_residuals(trained, cohort, cohort.grid.mask), penalty)
    arrays = {"weight": part.weight.astype(np.float32), "offset": part.offset.astype(np.float32)}
    files.write_arrays(folder / LINEAR_DECODER, arrays)
    return with_linear_part(trained, **arrays)


def _residuals(trained: TrainedRun, cohort: Cohort, mask: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """(latents, X - D(l) inside the mask) of the training rows, a few at a time."""
    assert trained.decode is not None
    train = track(cohort.rows("train").tolist(), "Completing the decoder", unit="volume")
    for rows, inputs in padded_batches((row, cohort.inputs[row]) for row in train):
        latent = trained.encode(inputs)["latent"]
        residual = (inputs - trained.decode(latent))[:, mask]
        yield latent[: len(rows)], residual[: len(rows)]
