"""A fitted `EquivariantPooling` as one .npz file of plain arrays and JSON."""

import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from eqpool.data.cohort import CovariateScaling
from eqpool.data.tables.arrays import CovariateCoding
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.coding import same_labels
from eqpool.data.tables.scaling import ColumnScaling
from eqpool.data.tables.targets import TargetCoding
from eqpool.errors import InputError
from eqpool.estimator.parameters import Parameters
from eqpool.methods.table_pooling import TablePooling, TableShape
from eqpool.storage.files import read_arrays, write_arrays

if TYPE_CHECKING:  # the estimator imports this module
    from eqpool.estimator import EquivariantPooling

_FORMAT = 2
_READABLE = (1, 2)  # 1 lacks the categories' reference levels, which features are constant, and their signs


def write_estimator(estimator: "EquivariantPooling", path: pathlib.Path) -> None:
    """Writes a fitted estimator."""
    pooling, target, scaling = estimator.pooling_, estimator.target_, estimator.scaling_
    header = {
        "format": _FORMAT,
        "parameters": estimator.parameters_.to_dict() | {"keep_sign": bool(estimator.keep_sign)},
        "covariates": estimator.covariates_.levels,
        "nuisance_names": estimator.nuisance_names_,
        "target": {"kind": target.kind, "mean": target.mean, "deviation": target.deviation},
        "shape": dataclasses.asdict(pooling.shape),
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
    arrays |= _prefixed("stage_one", _flat(pooling.stage_one)) | _prefixed("stage_two", _flat(pooling.stage_two))
    write_arrays(path, arrays | {"header": np.array(json.dumps(header))})


def read_estimator(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the parameters of an estimator and its fitted attributes, by name.

    Raises:
      InputError: no such file, one that `write_estimator` did not write, or one of an unknown version.
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
    if isinstance(given["rotation_range"], list):
        given["rotation_range"] = tuple(given["rotation_range"])
    parameters = Parameters.check(given)
    return parameters.to_dict(), _attributes(path, header, arrays, parameters)


def _attributes(
    path: pathlib.Path, header: dict[str, Any], arrays: dict[str, np.ndarray], parameters: Parameters
) -> dict[str, Any]:
    shape = TableShape(**header["shape"] | {"nuisances": tuple(header["shape"]["nuisances"])})
    stage_one, stage_two = (_nested(_under(stage, arrays)) for stage in ("stage_one", "stage_two"))
    calibration, names = _under("calibration", arrays), tuple(header["feature_names"])
    constant = arrays.get("feature_constant", np.zeros(shape.features, bool))
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
        "pooling_": TablePooling(parameters.to_config(), shape, stage_one, stage_two),
        "n_features_in_": shape.features,
        "_n_features_out": parameters.latent_dim,
        "_columns": tuple(header.get("columns") or ()) or names or None,
    }
    return attributes | ({"feature_names_in_": np.array(names, object)} if names else {})


def _covariates(header: dict[str, Any]) -> CovariateCoding:
    if "covariates" not in header:
        return CovariateCoding.from_names(tuple(header["covariate_names"]))
    return CovariateCoding({name: tuple(levels) for name, levels in header["covariates"].items()})


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": np.asarray(value)}
    return flat


def _nested(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = value
    return tree


def _prefixed(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def _under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}
