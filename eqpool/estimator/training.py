"""Trains the networks of `EquivariantPooling` on the encoded arguments of `fit`."""

from typing import NamedTuple

import numpy as np

from eqpool.data.cohort import CovariateScaling
from eqpool.data.shape import DataShape
from eqpool.data.splits import assign_splits
from eqpool.data.tables.scaling import decoded_change
from eqpool.engine.compilation import standard_promotion
from eqpool.engine.session import Session, TrainingData
from eqpool.estimator.fit_rows import FitRows
from eqpool.estimator.parameters import Parameters
from eqpool.methods.change import chosen_on_splits
from eqpool.methods.networks import PoolingNetworks, train_networks


class Trained(NamedTuple):
    """The result of training.

    Attributes:
      networks: networks of both stages, on the host.
      covariate_scaling: scaling of the covariates that tau reads.
      change_scale: factor on the networks' change.
    """

    networks: PoolingNetworks
    covariate_scaling: CovariateScaling
    change_scale: float


def train_on_rows(parameters: Parameters, rows: FitRows, inputs: np.ndarray, unchanged: np.ndarray) -> Trained:
    """Trains both stages and chooses the scale of their change.

    Args:
      parameters: parameters of the estimator.
      rows: N rows of `fit`.
      inputs: (N, F) float32 calibrated z-scores.
      unchanged: (N, F) bool, values that `harmonise` returns as they are, so that they do not bear on the scale.
    """
    # tau needs a covariate. A constant one makes it the same rotation for all rows.
    values = rows.covariates if rows.covariates.shape[1] else np.zeros((len(inputs), 1))
    scaling = CovariateScaling.fit(values)
    shape = DataShape(
        inputs.shape[1:], values.shape[1], max(len(rows.sites), 1), rows.target_coding.num_classes,
        tuple(map(len, rows.nuisance_levels)),
    )  # fmt: skip
    train, validation = _split(parameters, rows)
    data = TrainingData(inputs, _columns(rows, scaling.apply(values)), train, validation)
    with standard_promotion():
        networks, _ = train_networks(Session.start(parameters.to_config()), shape, data)
    networks = networks.on_host()
    return Trained(networks, scaling, _change_scale(parameters, networks, data, shape.classes, unchanged))


def decode_twice(networks: PoolingNetworks, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns D(l) and D(Psi(Phi)) of (N, F) calibrated rows."""
    outputs = networks.apply(inputs)
    return networks.decode(outputs["latent"]), networks.decode(outputs["pooled_latent"])


def _change_scale(
    parameters: Parameters, networks: PoolingNetworks, data: TrainingData, classes: int, unchanged: np.ndarray
) -> float:
    if isinstance(parameters.change_scale, float):
        return parameters.change_scale

    def measure(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.asarray(data.inputs)[rows]
        change = decoded_change(*decode_twice(networks, inputs), 1.0)
        return inputs, np.where(unchanged[rows], 0.0, change)

    splits = {"validation": data.validation, "train": data.train}
    return chosen_on_splits(measure, data.columns, classes, splits).scale


def _columns(rows: FitRows, covariates: np.ndarray) -> dict[str, np.ndarray]:
    columns = {
        "site": rows.site_code,
        "covariate": covariates,
        "target": rows.target,
        "target_known": rows.target_known,
    }
    return columns | ({} if rows.nuisance is None else {"nuisance": rows.nuisance})


def _split(parameters: Parameters, rows: FitRows) -> tuple[np.ndarray, np.ndarray]:
    """Returns the training rows and the validation rows, by person and balanced over sites and classes."""
    levels = rows.target.astype(int) if rows.target_coding.num_classes else np.zeros(len(rows.site), int)
    split = assign_splits(
        rows.persons,
        list(zip(rows.site.tolist(), levels.tolist(), strict=True)),
        validation_fraction=parameters.validation_fraction,
        test_fraction=0.0,
        seed=parameters.random_state,
    )
    train, validation = (np.flatnonzero(split == name) for name in ("train", "validation"))
    return train, validation if validation.size else train
