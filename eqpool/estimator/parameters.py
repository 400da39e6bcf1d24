"""Checks the parameters of `eqpool.estimator.EquivariantPooling` and converts them to plain Python values."""

import dataclasses
import math
from typing import Any, Literal

import numpy as np
from ml_collections import ConfigDict
from sklearn.utils import check_random_state

from eqpool.config import RunConfig, default_config
from eqpool.config.check import build, from_config_dict, plain
from eqpool.data.tables.calibration import METHODS
from eqpool.data.tables.coding import to_label
from eqpool.errors import InputError

_NAME = "EquivariantPooling"


def _range(minimum: float = 0.0, maximum: float = math.inf) -> dict[str, float]:
    return {"minimum": minimum, "maximum": maximum}


@dataclasses.dataclass(frozen=True)
class _Checked:
    """The parameters that are a single number, choice or switch, with their ranges."""

    latent_dim: int = dataclasses.field(metadata=_range(2))
    hidden_units: int = dataclasses.field(metadata=_range(1))
    tau: Literal["free", "covariate"]
    epochs: int = dataclasses.field(metadata=_range(0))
    batch_size: int = dataclasses.field(metadata=_range(2))
    learning_rate: float = dataclasses.field(metadata=_range())
    equivariance_weight: float = dataclasses.field(metadata=_range())
    reconstruction_weight: float = dataclasses.field(metadata=_range())
    prediction_weight: float = dataclasses.field(metadata=_range())
    mmd_weight: float = dataclasses.field(metadata=_range())
    mmd_match: Literal["phi", "covariate_free", "conditional"]
    target_type: Literal["auto", "classes", "number"]
    class_weights: Literal["equal", "balanced"]
    validation_fraction: float = dataclasses.field(metadata=_range(0.0, 0.9))
    erase_site: bool
    keep_sign: bool


@dataclasses.dataclass(frozen=True)
class Parameters(_Checked):
    """All parameters of the estimator as plain values.

    Attributes:
      rotation_range: angle in radians, or one angle per covariate.
      calibrate_sites: method of the site calibration, "none" for no calibration.
      prior_rows: None, or a number of rows, which may be infinite.
      reference: name of the reference site, or None.
      random_state: seed.
      change_scale: factor on the networks' change, or "auto".
    """

    rotation_range: float | tuple[float, ...]
    calibrate_sites: bool | str
    prior_rows: float | None
    reference: str | None
    random_state: int
    change_scale: float | str

    @classmethod
    def check(cls, given: dict[str, Any]) -> "Parameters":
        """Checks the values that `get_params` returned: Python's values, or NumPy's numbers and arrays.

        Raises:
          InputError: a value is invalid. The one-line message names the parameter, its value and the expected values.
        """
        special: dict[str, Any] = {
            "rotation_range": _rotation_range(plain(given["rotation_range"])),
            "calibrate_sites": calibration_method(given["calibrate_sites"], f"{_NAME}.calibrate_sites"),
            "prior_rows": prior_rows(given["prior_rows"], _NAME),
            "reference": reference_site(given["reference"], _NAME),
            "random_state": _seed(given["random_state"]),
            "change_scale": _change_scale(plain(given["change_scale"])),
        }
        checked = build(_Checked, {name: value for name, value in given.items() if name not in special}, _NAME)
        return cls(**vars(checked), **special)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, ready for JSON except for an infinity, which Python's json can read back."""
        return dataclasses.asdict(self)

    def check_covariates(self, count: int) -> None:
        """Raises `InputError` if the number of ranges in `rotation_range` differs from the number of covariates."""
        ranges = self.rotation_range
        if isinstance(ranges, tuple) and len(ranges) != count:
            raise InputError(
                f"{_NAME}.rotation_range = {ranges}: {len(ranges)} numbers, expected {count}, one a covariate"
            )

    def to_config(self) -> RunConfig:
        """Returns the configuration of a run that trains the same networks."""
        config: ConfigDict = default_config()
        config.seed, config.devices, config.class_weights = self.random_state, 1, self.class_weights
        config.data.participants = "X"  # placeholder for a table in memory
        config.model.update(latent_dim=self.latent_dim, hidden_units=self.hidden_units, tau=self.tau)
        if isinstance(self.rotation_range, tuple):
            config.model.rotation_ranges = ",".join(map(repr, self.rotation_range))
        else:
            config.model.rotation_range = self.rotation_range
        config.stage_one.update(
            batch_size=self.batch_size,
            equivariance_weight=self.equivariance_weight,
            reconstruction_weight=self.reconstruction_weight,
        )
        config.stage_two.update(batch_size=4 * self.batch_size, mmd_match=self.mmd_match)
        config.stage_two.erase_site = "conditional" if self.erase_site else "none"
        config.stage_two.reconstruction_weight = 10.0 * self.reconstruction_weight
        for stage in (config.stage_one, config.stage_two):
            stage.update(
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                decay_every_epochs=max(1, self.epochs // 8),
                checkpoint_every_epochs=max(1, self.epochs),
                mmd_weight=self.mmd_weight,
                prediction_weight=self.prediction_weight,
                bandwidth="0.1,0.3,1.0",
            )
        return from_config_dict(config)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _rotation_range(value: Any) -> float | tuple[float, ...]:
    several = isinstance(value, list | tuple)
    ranges = tuple(value) if several else (value,)
    if not ranges or not all(_is_number(one) and 0 < one <= math.pi for one in ranges):
        raise InputError(
            f"{_NAME}.rotation_range = {value!r}: expected radians above 0 and at most pi, a number or one a covariate"
        )
    return tuple(map(float, ranges)) if several else float(value)


def calibration_method(value: Any, parameter: str) -> bool | str:
    """Returns a checked value of `calibrate_sites`, or of the calibrator's `method`, as `parameter` names it."""
    value = plain(value)
    if not isinstance(value, bool) and value not in ("none", *METHODS):
        raise InputError(f"{parameter} = {value!r}: expected True, False, none or {', '.join(METHODS)}")
    return value


def method_of(calibrate_sites: bool | str) -> str:
    """Returns the method of the calibration that a checked value of `calibrate_sites` stands for."""
    return calibrate_sites if isinstance(calibrate_sites, str) else {True: "auto", False: "none"}[calibrate_sites]


def prior_rows(value: Any, owner: str) -> float | None:
    """Returns a checked value of `prior_rows`."""
    value = plain(value)
    if value is None:
        return None
    if not _is_number(value) or value < 0:
        raise InputError(f"{owner}.prior_rows = {value!r}: expected None, or a number of rows of at least 0")
    return float(value)


def reference_site(value: Any, owner: str) -> str | None:
    """Returns the label of a reference site by the rules of `eqpool.data.tables.coding`."""
    if value is None:
        return None
    try:
        label = to_label(plain(value))
    except InputError as error:
        raise InputError(f"{owner}.reference = {value!r}: {error}") from None
    if not label:
        raise InputError(f"{owner}.reference = {value!r}: expected the name of a site, or None")
    return label


def _change_scale(value: Any) -> float | str:
    if value == "auto":
        return "auto"
    if not _is_number(value) or not 0 <= value <= 1:
        raise InputError(f'{_NAME}.change_scale = {value!r}: expected "auto", or a number from 0 to 1')
    return float(value)


def _seed(random_state: Any) -> int:
    value = plain(random_state)
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise InputError(f"{_NAME}.random_state = {value}: expected at least 0")
        return value
    if isinstance(value, np.random.Generator):
        return int(value.integers(2**31 - 1))
    try:
        return int(check_random_state(value).randint(2**31 - 1))
    except ValueError:
        raise InputError(
            f"{_NAME}.random_state = {value!r}: expected a whole number, None or a random state of NumPy"
        ) from None
