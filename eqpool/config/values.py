"""Interprets the values of a config that are text, or that depend on the data."""

import math

from eqpool.config.schema import OutputConfig
from eqpool.config.schema_pooling import ModelConfig
from eqpool.errors import InputError


def parse_bandwidth(text: str, key: str = "bandwidth") -> float | tuple[float, ...] | str:
    """Parses `"1.0"` to a number and `"0.5,1"` to a mixture, while `"median"` stays as it is."""
    if text == "median":
        return text
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise InputError(f'{key} = "{text}": expected positive numbers separated by commas, or "median"')
    return values[0] if len(values) == 1 else values


def parse_change_scale(text: str) -> float | None:
    """Parses "0.5" to a number in [0, 1], and "auto" to None.

    Raises:
      InputError: it is neither.
    """
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(f'config.output.change_scale = "{text}": expected "auto", or a number from 0 to 1')
    return value


def keeps_sign(config: OutputConfig, *, on_volumes: bool) -> bool:
    """Returns whether harmonised values are clipped at 0 if no input value is negative."""
    return on_volumes if config.keep_sign == "auto" else config.keep_sign == "on"


def rotation_ranges(config: ModelConfig, num_covariates: int) -> tuple[float, ...]:
    """Returns the radians over each covariate's training range. The covariates divide the latent's planes of rotation.

    Raises:
      InputError: the numbers of ranges and covariates differ, a range is not in (0, pi], or there are more covariates
        than planes.
    """
    if num_covariates > config.latent_dim // 2:
        raise InputError(
            f"config.model.latent_dim = {config.latent_dim}: {num_covariates} covariates need a plane each, expected "
            f"at least {2 * num_covariates}"
        )
    if not config.rotation_ranges:
        return (config.rotation_range,) * num_covariates
    try:
        ranges = tuple(float(part) for part in config.rotation_ranges.split(","))
    except ValueError:
        ranges = ()
    if len(ranges) != num_covariates or not all(0 < value <= math.pi for value in ranges):
        raise InputError(
            f'config.model.rotation_ranges = "{config.rotation_ranges}": expected {num_covariates} numbers above 0 and '
            "at most pi, one a covariate, separated by commas"
        )
    return ranges
