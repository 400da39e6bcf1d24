"""Stores a fitted `EquivariantPooling` in one .npz file of plain arrays and JSON."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from eqpool.data.cohort import CovariateScaling
from eqpool.data.shape import DataShape
from eqpool.data.tables.arrays import CovariateCoding
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.coding import same_labels
from eqpool.data.tables.scaling import ColumnScaling
from eqpool.data.tables.targets import TargetCoding
from eqpool.errors import InputError
from eqpool.estimator.parameters import Parameters
from eqpool.methods.networks import PoolingNetworks
from eqpool.storage.files import read_arrays, write_arrays

_FORMAT = 2
_STAGES = ("stage_one", "stage_two")
_READABLE = (1, 2)  # format 1 lacks reference levels and the flags `constant` and `nonnegative`


def write_estimator(estimator: Any, path: pathlib.Path) -> None:
    """Writes a fitted `eqpool.estimator.EquivariantPooling`."""
    pooling, target, scaling = estimator.pooling_, estimator.target_, estimator.scaling_
    header = {
        "format": _FORMAT,
        "parameters": estimator.parameters_.to_dict() | {"keep_sign": bool(estimator.keep_sign)},
        "covariates": estimator.covariates_.levels,
        "nuisance_names": estimator.nuisance_names_,
        "target": {"kind": target.kind, "mean": target.mean, "deviation": target.deviation},
        "shape": _plain_shape(pooling.shape),
        "columns": estimator._columns,
        "feature_names": list(getattr(estimator, "feature_names_in_", [])),
        "findings": estimator.findings_,
    }
    arrays = {
        "classes": target.classes,
        "sites": estimator.sites_,
        "feature_mean": scaling.mean,
        "feature_scale": scaling.deviation,
        "feature_constant": scaling.constant,
        "covariate_minimum": estimator.covariate_scaling_.minimum,
        "covariate_maximum": estimator.covariate_scaling_.maximum,
    }
    arrays |= {} if scaling.nonnegative is None else {"feature_nonnegative": scaling.nonnegative}
    calibration = estimator.calibration_
    arrays |= {} if calibration is None else _prefixed("calibration", calibration.to_arrays())
    arrays |= _stage_arrays("stage_one", pooling.stage_one) | _stage_arrays("stage_two", pooling.stage_two)
    write_arrays(path, arrays | {"header": np.array(json.dumps(header))})


def read_estimator(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the parameters of an estimator and its fitted attributes, by name.

    Raises:
      InputError: the file does not exist, `write_estimator` did not write it, or its format is unknown.
    """
    arrays = read_arrays(path)
    try:
        header = json.loads(str(arrays.pop("header")))
        version = header["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected a file that EquivariantPooling.save wrote ({error})") from None
    if version not in _READABLE:
        raise InputError(f"{path}: format {version}, expected {_FORMAT}; another version of eqpool wrote it")
    given = {"keep_sign": False} | header["parameters"]
    parameters = Parameters.check(given)
    return parameters.to_dict(), _attributes(path, header, arrays, parameters)


def _attributes(
    path: pathlib.Path, header: dict[str, Any], arrays: dict[str, np.ndarray], parameters: Parameters
) -> dict[str, Any]:
    shape = _read_shape(header["shape"])
    stage_one, stage_two = (unflatten_dict(_under(stage, arrays), sep="/") for stage in _STAGES)
    calibration, names = _under("calibration", arrays), tuple(header["feature_names"])
    constant = arrays.get("feature_constant", np.zeros(shape.inputs, bool))
    sites = np.array(same_labels(arrays["sites"], f"{path}, sites"), np.str_)
    attributes = {
        "parameters_": parameters,
        "covariates_": _covariates(header),
        "nuisance_names_": tuple(header.get("nuisance_names", ())),
        "target_": TargetCoding(classes=arrays["classes"], **header["target"]),
        "sites_": sites,
        "unseen_sites_": (),
        "findings_": header.get("findings", []),
        "scaling_": ColumnScaling(
            arrays["feature_mean"], arrays["feature_scale"], constant, arrays.get("feature_nonnegative")
        ),
        "covariate_scaling_": CovariateScaling(arrays["covariate_minimum"], arrays["covariate_maximum"]),
        "calibration_": SiteCalibration.from_arrays(calibration) if calibration else None,
        "pooling_": PoolingNetworks(parameters.to_config(), shape, stage_one, stage_two),
        "n_features_in_": shape.inputs[0],
        "_n_features_out": parameters.latent_dim,
        "_columns": tuple(header.get("columns") or ()) or names or None,
    }
    return attributes | ({"feature_names_in_": np.array(names, object)} if names else {})


def _covariates(header: dict[str, Any]) -> CovariateCoding:
    if "covariates" not in header:
        return CovariateCoding.from_names(tuple(header["covariate_names"]))
    return CovariateCoding({name: tuple(levels) for name, levels in header["covariates"].items()})


def _plain_shape(shape: DataShape) -> dict[str, Any]:
    """Returns a shape as plain values. Every format of the file stores a table's only axis as "features"."""
    plain = dataclasses.asdict(shape)
    return {"features": plain.pop("inputs")[0]} | plain


def _read_shape(plain: dict[str, Any]) -> DataShape:
    inputs, nuisances = (plain["features"],), tuple(plain["nuisances"])
    return DataShape(inputs, plain["covariates"], plain["sites"], plain["classes"], nuisances)


def _stage_arrays(stage: str, variables: dict[str, Any]) -> dict[str, np.ndarray]:
    return _prefixed(stage, flatten_dict(variables, sep="/"))


def _prefixed(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def _under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}
