"""Stores a fitted `EquivariantPooling` or `SiteCalibrator` in one .npz file of plain arrays and JSON."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from eqpool.config.check import plain
from eqpool.data.cohort import CovariateScaling
from eqpool.data.shape import DataShape
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.covariate_coding import CovariateCoding
from eqpool.data.tables.levels import same_labels
from eqpool.data.tables.scaling import ColumnScaling
from eqpool.data.tables.targets import TargetCoding
from eqpool.errors import InputError
from eqpool.estimator.parameters import Parameters
from eqpool.methods.networks import PoolingNetworks
from eqpool.storage.files import read_arrays, write_arrays

_FORMAT = 3
_STAGES = ("stage_one", "stage_two")
# Format 1 lacks reference levels and the flags `constant` and `nonnegative`. `SiteCalibration.from_arrays` refuses the
# calibrations of formats 1 and 2.
_READABLE = (1, 2, 3)
# Parameters that older files lack, with the values that give what the estimator gave then.
_OLDER_PARAMETERS = {"keep_sign": False, "reference": None, "erase_site": False, "change_scale": 1.0}
_POOLING, _CALIBRATOR = "EquivariantPooling", "SiteCalibrator"


class Archive(NamedTuple):
    """The functions that store one kind of estimator.

    Attributes:
      write: writes a fitted estimator to a file.
      read: reads the parameters of an estimator and its fitted attributes, by name.
    """

    write: Callable[[Any, pathlib.Path], None]
    read: Callable[[pathlib.Path], tuple[dict[str, Any], dict[str, Any]]]


def write_estimator(estimator: Any, path: pathlib.Path) -> None:
    """Writes a fitted `eqpool.estimator.EquivariantPooling`."""
    pooling = estimator.pooling_
    header = {
        "kind": _POOLING,
        "parameters": estimator.parameters_.to_dict() | {"keep_sign": bool(estimator.keep_sign)},
        "nuisance_names": estimator.nuisance_names_,
        "change_scale": estimator.change_scale_,
        "shape": _plain_shape(pooling.shape),
    }
    arrays = {
        "covariate_minimum": estimator.covariate_scaling_.minimum,
        "covariate_maximum": estimator.covariate_scaling_.maximum,
    }
    arrays |= _stage_arrays("stage_one", pooling.stage_one) | _stage_arrays("stage_two", pooling.stage_two)
    _write(estimator, path, header, arrays)


def write_calibrator(calibrator: Any, path: pathlib.Path) -> None:
    """Writes a fitted `eqpool.estimator.SiteCalibrator`."""
    parameters = {name: plain(value) for name, value in calibrator.get_params(deep=False).items()}
    _write(calibrator, path, {"kind": _CALIBRATOR, "parameters": parameters}, {})


def read_estimator(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the parameters of an `EquivariantPooling` and its fitted attributes, by name.

    Raises:
      InputError: the file does not exist, `write_estimator` did not write it, or its format is unknown.
    """
    header, arrays = _read(path, _POOLING)
    shape = _read_shape(header["shape"])
    parameters = Parameters.check(_OLDER_PARAMETERS | header["parameters"])
    stage_one, stage_two = (unflatten_dict(_under(stage, arrays), sep="/") for stage in _STAGES)
    return parameters.to_dict(), _attributes(path, header, arrays) | {
        "parameters_": parameters,
        "nuisance_names_": tuple(header.get("nuisance_names", ())),
        "covariate_scaling_": CovariateScaling(arrays["covariate_minimum"], arrays["covariate_maximum"]),
        "pooling_": PoolingNetworks(parameters.to_config(), shape, stage_one, stage_two),
        "change_scale_": header.get("change_scale", 1.0),
        "_n_features_out": parameters.latent_dim,
    }


def read_calibrator(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the parameters of a `SiteCalibrator` and its fitted attributes, by name.

    Raises:
      InputError: the file does not exist, `write_calibrator` did not write it, or its format is unknown.
    """
    header, arrays = _read(path, _CALIBRATOR)
    return header["parameters"], _attributes(path, header, arrays)


def _write(estimator: Any, path: pathlib.Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Writes what the estimators share, with a header and arrays of their own."""
    target, scaling, calibration = estimator.target_, estimator.scaling_, estimator.calibration_
    header |= {
        "format": _FORMAT,
        "covariates": estimator.covariates_.levels,
        "target": {"kind": target.kind, "mean": target.mean, "deviation": target.deviation},
        "columns": estimator._columns,
        "feature_names": list(getattr(estimator, "feature_names_in_", [])),
        "findings": estimator.findings_,
    }
    arrays |= {
        "classes": target.classes,
        "sites": estimator.sites_,
        "feature_mean": scaling.mean,
        "feature_scale": scaling.deviation,
        "feature_constant": scaling.constant,
    }
    arrays |= {} if scaling.nonnegative is None else {"feature_nonnegative": scaling.nonnegative}
    arrays |= {} if calibration is None else _prefixed("calibration", calibration.to_arrays())
    write_arrays(path, arrays | {"header": np.array(json.dumps(header))})


def _read(path: pathlib.Path, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays = read_arrays(path)
    try:
        header = json.loads(str(arrays.pop("header")))
        version, found = header["format"], header.get("kind", _POOLING)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected a file that {kind}.save wrote ({error})") from None
    if version not in _READABLE:
        raise InputError(f"{path}: format {version}, expected {_FORMAT}; another version of eqpool wrote it")
    if found != kind:
        raise InputError(f"{path}: a {found}, expected a {kind}; read it with {found}.load")
    return header, arrays


def _attributes(path: pathlib.Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    calibration, names = _under("calibration", arrays), tuple(header["feature_names"])
    mean = arrays["feature_mean"]
    constant = arrays.get("feature_constant", np.zeros(mean.shape, bool))
    try:
        fitted = SiteCalibration.from_arrays(calibration) if calibration else None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    attributes = {
        "covariates_": _covariates(header),
        "target_": TargetCoding(classes=arrays["classes"], **header["target"]),
        "sites_": np.array(same_labels(arrays["sites"], f"{path}, sites"), np.str_),
        "unseen_sites_": (),
        "clipped_": np.zeros(len(mean), np.int64),
        "findings_": header.get("findings", []),
        "scaling_": ColumnScaling(mean, arrays["feature_scale"], constant, arrays.get("feature_nonnegative")),
        "calibration_": fitted,
        "n_features_in_": len(mean),
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
