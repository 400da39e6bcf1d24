"""The linear part of a trained decoder: ridge regression of the network's residuals on the training volumes.

A few hundred steps teach a 3D decoder little beyond the mean volume, and then pooling does not change its decodes. With
configs/adni.py the held-out error was 0.897 z-scores, and that of the mean volume alone 0.897. The best linear map from
a latent to voxels needs no steps: one pass over the training rows fits the ridge regression of the residuals X - D(l)
on l.
"""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from eqpool.data.cohort import Cohort
from eqpool.methods.decoding import padded_batches
from eqpool.methods.latent_model import LatentModel
from eqpool.storage import files
from eqpool.storage.progress import track
from eqpool.storage.run_folder import RunFolder


class LinearPart(NamedTuple):
    """The linear model residual = latent @ weight + offset, at V voxels.

    Attributes:
      weight: (n, V) float64.
      offset: (V,) float64.
    """

    weight: np.ndarray
    offset: np.ndarray


def fit_ridge(batches: Iterable[tuple[np.ndarray, np.ndarray]], penalty: float) -> LinearPart:
    """Fits ridge regression with an unpenalised intercept, from running sums.

    Args:
      batches: (latents (B, n), residuals (B, V)) pairs, each read once.
      penalty: number added to the diagonal of the latents' scatter matrix.
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


def with_linear_part_of(folder: RunFolder, model: LatentModel) -> LatentModel:
    """Returns the model with the linear part from its run folder, or the model itself if there is none yet."""
    path = folder.linear_decoder_file
    return with_linear_part(model, **files.read_arrays(path)) if path.is_file() else model


def with_linear_part(model: LatentModel, weight: np.ndarray, offset: np.ndarray) -> LatentModel:
    """Returns a model with latent @ `weight` (n, V) + `offset` (V,) added to its decode at the mask's V voxels."""
    network, grid = model.decode, model.grid
    assert network is not None and grid is not None

    def decode(latent: np.ndarray) -> np.ndarray:
        volumes = np.array(network(latent))
        volumes[:, grid.mask] += latent @ weight + offset
        return volumes

    return dataclasses.replace(model, decode=decode)


def complete_decoder(folder: RunFolder, model: LatentModel, cohort: Cohort) -> LatentModel:
    """Fits the linear part on the cohort's training rows if the run folder lacks it, and returns the complete model."""
    penalty = model.config.model.decoder_ridge
    if not penalty or folder.linear_decoder_file.exists() or model.decode is None or cohort.volumes is None:
        return model
    part = fit_ridge(_residuals(model, cohort, cohort.volumes.grid.mask), penalty)
    arrays = {"weight": part.weight.astype(np.float32), "offset": part.offset.astype(np.float32)}
    files.write_arrays(folder.linear_decoder_file, arrays)
    return with_linear_part(model, **arrays)


def _residuals(model: LatentModel, cohort: Cohort, mask: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Yields (latents, X - D(l) inside the mask) of the training rows, a few rows at a time."""
    assert model.decode is not None
    train = track(cohort.rows("train").tolist(), "Completing the decoder", unit="volume")
    for rows, inputs in padded_batches((row, cohort.inputs[row]) for row in train):
        latent = model.encode(inputs)["latent"]
        residual = (inputs - model.decode(latent))[:, mask]
        yield latent[: len(rows)], residual[: len(rows)]
