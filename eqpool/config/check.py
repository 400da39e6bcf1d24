"""Converts a `ml_collections.ConfigDict` to the frozen dataclasses of `eqpool.config` and checks every key.

Every error is an `InputError` that names the key, the value and the expected values.
"""

import dataclasses
import difflib
import math
import typing
from typing import Any, Literal

import numpy as np
from ml_collections import ConfigDict

from eqpool.config import ModelConfig, RunConfig, parse_bandwidth, parse_change_scale
from eqpool.config.methods import METHODS, makes_images
from eqpool.errors import InputError, check_is_path


def from_config_dict(config: ConfigDict) -> RunConfig:
    """Checks a `ConfigDict` and freezes it.

    Raises:
      InputError: a key is unknown (with the nearest known one), or a value has another type, is out of range or is not
        among the choices.
    """
    checked = build(RunConfig, config.to_dict(), "config")
    parse_bandwidth(checked.stage_one.bandwidth, "config.stage_one.bandwidth")
    parse_bandwidth(checked.stage_two.bandwidth, "config.stage_two.bandwidth")
    parse_bandwidth(checked.baseline.bandwidth, "config.baseline.bandwidth")
    parse_change_scale(checked.output.change_scale)
    _check_together(checked)
    return _resolved(checked)


def _resolved(config: RunConfig) -> RunConfig:
    """Returns a config in which the method has chosen the site calibration if it is left to the method."""
    if config.data.site_calibration != "by_method":
        return config
    chosen: Literal["auto", "none"] = "auto" if METHODS[config.method].calibrates else "none"
    return dataclasses.replace(config, data=dataclasses.replace(config.data, site_calibration=chosen))


def _check_together(config: RunConfig) -> None:
    if len(config.model.channels) != len(config.model.blocks):
        raise InputError(
            f"config.model.blocks = {config.model.blocks}: expected as many entries as config.model.channels "
            f"{config.model.channels}"
        )
    held_out = config.data.test_fraction + config.data.validation_fraction
    if held_out >= 1:
        raise InputError(f"config.data.test_fraction + config.data.validation_fraction = {held_out}: expected below 1")
    _check_code(config.model)
    _check_istn(config)
    if config.stage_two.stretch_tau != "none" and config.model.spectrum != "uniform":
        raise InputError(
            f'config.stage_two.stretch_tau = "{config.stage_two.stretch_tau}": expected "none" unless '
            'config.model.spectrum = "uniform", whose planes rotate at one speed'
        )
    if not config.model.rotation_ranges and config.model.rotation_range <= 0:
        raise InputError(f"config.model.rotation_range = {config.model.rotation_range}: expected above 0")
    if 0 < config.evaluate.probe_permutations < 19:
        raise InputError(
            f"config.evaluate.probe_permutations = {config.evaluate.probe_permutations}: expected 0, or at least 19, "
            "since of fewer no p-value reaches 0.05"
        )
    if config.data.nuisances and not METHODS[config.method].takes_nuisances:
        taking = " or ".join(name for name, entry in METHODS.items() if entry.takes_nuisances)
        raise InputError(
            f'config.data.nuisances = "{config.data.nuisances}": expected "" unless config.method is {taking}'
        )
    if METHODS[config.method].makes != "latents" and config.data.site_calibration not in ("none", "by_method"):
        raise InputError(
            f'config.data.site_calibration = "{config.data.site_calibration}": expected "none" for config.method = '
            f'"{config.method}", which corrects the sites itself and has to read the data as they are'
        )
    if config.data.dataset == "participants" and not config.data.participants:
        raise InputError('config.data.participants = "": expected the path of a participants.tsv')


def _check_code(model: ModelConfig) -> None:
    if model.tau_steps and model.tau != "covariate":
        raise InputError(
            f'config.model.tau_steps = {model.tau_steps}: expected 0 unless config.model.tau = "covariate"'
        )
    if model.code_dim >= model.latent_dim:
        raise InputError(
            f"config.model.code_dim = {model.code_dim}: expected below config.model.latent_dim = {model.latent_dim}"
        )
    if model.code_dim and model.phi != "sphere":
        raise InputError(f'config.model.code_dim = {model.code_dim}: expected 0 unless config.model.phi = "sphere"')
    if model.code_levels and (model.code_levels == 1 or not model.code_dim):
        raise InputError(
            f"config.model.code_levels = {model.code_levels}: expected 0, or at least 2 with config.model.code_dim set"
        )


def _check_istn(config: RunConfig) -> None:
    skips = tuple(config.istn.encoder[-2::-1])
    if config.istn.appearance == "itn" and config.istn.decoder != skips:
        raise InputError(
            f"config.istn.decoder = {config.istn.decoder}: expected {skips}, as wide as the layers of "
            "config.istn.encoder that are added to it"
        )
    if config.istn.appearance == config.istn.shape == "none":
        raise InputError('config.istn.appearance and config.istn.shape are both "none": expected one of them to act')
    if config.data.dataset == "morpho_mnist" and not makes_images(config.method):
        raise InputError(f'config.method = "{config.method}": morpho_mnist has no covariate, expected "istn"')
    if config.data.source_domain == config.data.target_domain:
        raise InputError(
            f'config.data.target_domain = "{config.data.target_domain}": expected another than source_domain'
        )


def plain(value: Any) -> Any:
    """Converts NumPy's and JAX's numbers, bools, strings and arrays to Python's. Any other value stays as it is.

    An array with one entry becomes that entry, a longer one a tuple.
    """
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else value
    if isinstance(value, str | bytes) and not isinstance(value, np.generic) or not hasattr(value, "__array__"):
        return value
    entries = np.asarray(value)
    return entries.reshape(()).item() if entries.size == 1 else tuple(map(plain, entries.tolist()))


def build(cls: type, values: dict[str, Any], prefix: str) -> Any:
    """Builds a frozen dataclass from checked values, after `plain` has converted each.

    Raises:
      InputError: names `prefix`.key, the value and the expected values.
    """
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            nearest = difflib.get_close_matches(key, hints, n=1)
            hint = f"; did you mean {prefix}.{nearest[0]}?" if nearest else ""
            raise InputError(f"{prefix}.{key}: no such key{hint}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    return cls(
        **{key: _value(hints[key], plain(value), fields[key], f"{prefix}.{key}") for key, value in values.items()}
    )


def _value(hint: Any, value: Any, field: dataclasses.Field, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise InputError(f"{name} = {value!r}: expected a group of keys")
        return build(typing.cast(type, hint), value, name)
    if hint == tuple[int, ...]:
        return _integers(value, name)
    return _scalar(hint, value, field, name)


def _integers(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not value or not all(type(v) is int and v > 0 for v in value):
        raise InputError(f"{name} = {value!r}: expected positive whole numbers")
    return tuple(value)


def _scalar(hint: Any, value: Any, field: dataclasses.Field, name: str) -> Any:
    if isinstance(value, str):
        check_is_path(f"{name} = {value}")
    choices = typing.get_args(hint) or field.metadata.get("choices", tuple)()
    hint = str if choices else hint
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        expected = {int: "a whole number", float: "a number", str: "a string", bool: "True or False"}[hint]
        raise InputError(f"{name} = {value!r}: expected {expected}")
    if choices and value not in choices:
        nearest = difflib.get_close_matches(value, choices, n=1)
        hint_text = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise InputError(f"{name} = {value!r}: expected one of {', '.join(choices)}{hint_text}")
    minimum, maximum = field.metadata.get("minimum", -math.inf), field.metadata.get("maximum", math.inf)
    if hint in (int, float) and not (math.isfinite(value) and minimum <= value <= maximum):
        upper = f" and at most {maximum:g}" if maximum < math.inf else ""
        raise InputError(f"{name} = {value!r}: expected at least {minimum:g}{upper}")
    return value
