"""Stores the fields of a `SiteCalibration` as plain arrays and JSON, without pickle."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from eqpool.data.tables.calibration.covariance import CovarianceChoice, Whitening
from eqpool.data.tables.calibration.effect import SiteEffect
from eqpool.data.tables.calibration.shared import SharedEstimates
from eqpool.data.tables.calibration.shrinkage import ShiftPrior, VariancePrior
from eqpool.data.tables.calibration.unknown import Population
from eqpool.data.tables.levels import same_labels
from eqpool.data.tables.splines import CovariateDesign
from eqpool.errors import InputError

VERSION = 2  # files of version 1, which lacked the key "version", had locations and covariances alone
_PLAIN, _ARRAYS = ("correction", "reference", "correlation"), ("effects", "target_mean", "level")


def pack(fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the fields as plain arrays, ready for an npz file. `unpack` is the inverse."""
    shared, design, sites = fields["shared"], fields["design"], fields["sites"]
    header = {name: fields[name] for name in _PLAIN} | {"choice": dataclasses.asdict(shared.choice)}
    arrays = {
        "version": np.asarray(VERSION),
        "header": np.array(json.dumps(header)),
        "names": np.array(list(sites), np.str_),
        "covariate_mean": design.mean,
        "covariate_scale": design.scale,
    }
    arrays |= {name: fields[name] for name in _ARRAYS}
    arrays |= {f"knots/{index}": knots for index, knots in enumerate(design.knots)}
    population = {name: value for name, value in vars(fields["population"]).items() if name != "shifts"}
    parts = {
        "whitening": vars(shared.whitening),
        "shift_prior": vars(shared.shift_prior),
        "scale_prior": vars(shared.scale_prior),
        "direction_prior": vars(shared.direction_prior),
        "population": population,
    }
    parts |= {f"sites/{index}": vars(effect) for index, effect in enumerate(sites.values())}
    return arrays | {
        f"{part}/{name}": np.asarray(one) for part, values in parts.items() for name, one in values.items()
    }


def unpack(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of the `SiteCalibration` that `pack` returned as arrays.

    Raises:
      InputError: another version of eqpool wrote the arrays.
    """
    if int(arrays.get("version", 1)) != VERSION:
        raise InputError(
            f"site calibration: version {int(arrays.get('version', 1))}, expected {VERSION}; another version of eqpool "
            "wrote the model, train it again"
        )
    header, shifts = json.loads(str(arrays["header"])), _part(ShiftPrior, "shift_prior", arrays)
    mean = arrays["covariate_mean"]
    sites = same_labels(arrays["names"], "site_calibration")
    return {
        **{name: header[name] for name in _PLAIN},
        **{name: arrays[name] for name in _ARRAYS},
        "design": CovariateDesign(
            mean, arrays["covariate_scale"], tuple(arrays[f"knots/{index}"] for index in range(len(mean)))
        ),
        "shared": SharedEstimates(
            _part(Whitening, "whitening", arrays),
            shifts,
            _part(VariancePrior, "scale_prior", arrays),
            _part(VariancePrior, "direction_prior", arrays),
            CovarianceChoice(**header["choice"]),
        ),
        "population": _part(Population, "population", arrays, shifts=shifts),
        "sites": {name: _part(SiteEffect, f"sites/{index}", arrays) for index, name in enumerate(sites)},
    }


def _part(kind: Any, prefix: str, arrays: Mapping[str, Any], **given: Any) -> Any:
    """Returns a dataclass from the arrays under a prefix. Arrays without axes become numbers."""
    names = [field.name for field in dataclasses.fields(kind) if field.name not in given]
    values = {name: arrays[f"{prefix}/{name}"] for name in names}
    return kind(**given, **{name: value.item() if value.ndim == 0 else value for name, value in values.items()})
