"""Defines every key of a config, its default and its meaning.

A file in `configs/` starts from `default_config()` and changes only what its data set needs. Every key can also be set
on the command line (`--config.seed=3`). `eqpool.config.check` checks and freezes the result. The comments of the fields
are the descriptions in `--help` and in docs/config.md.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from ml_collections import ConfigDict

from eqpool.config.methods import METHODS
from eqpool.config.schema_data import DataConfig
from eqpool.config.schema_fields import number
from eqpool.config.schema_images import IstnConfig, TaskConfig
from eqpool.config.schema_pooling import BaselineConfig, ModelConfig, StageOneConfig, StageTwoConfig


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    """The output of a run in addition to its metrics."""

    # Form of the harmonised volumes, from the decoder chain D(Psi(Phi(l))). change: the input plus the change of its
    # decode by pooling. decoded: the decode itself, which a small latent blurs. none: no volumes
    harmonised: Literal["change", "decoded", "none"] = "change"
    # Factor on the networks' change D(Psi(Phi)) - D(l), from 0 to 1. auto: chosen on the validation rows, where the
    # change should remove more of the site than it alters within sites (docs/method.md, section 4)
    change_scale: str = "auto"
    # Clip harmonised values at 0 if no input value is negative, and count the clipped ones. auto: on for volumes and
    # off for tables, so that skewed positive features of tables may become negative
    keep_sign: Literal["auto", "on", "off"] = "auto"
    # Intensity scale of harmonised volumes. common: one for all scanners, on which tissue has the median mean and
    # deviation of the training rows, or of those of the reference site. as_scanned: the units of each scan
    scale: Literal["common", "as_scanned"] = "common"
    # Write metrics.jsonl as TensorBoard events too, into the folder tensorboard/ (needs the extra "tensorboard")
    tensorboard: bool = False


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Metrics on the held-out split (docs/method.md, section 6)."""

    adversary_epochs: int = number(200, 1)  # Epochs of the adversary that predicts the site of held-out rows
    adversary_learning_rate: float = number(1e-3, 0.0)  # Learning rate of the adversary's Adam
    adversary_batch_size: int = number(128, 2)  # Rows of a step of the adversary
    probe_seeds: int = number(3, 1)  # Trainings of the adversary. Their mean is the score
    probe_folds: int = number(5, 2)  # Folds of the held-out rows in which probes predict the site
    # Permutations of the sites, for the chance level of the strongest probe of tau^-1 Phi
    probe_permutations: int = number(0, 0)
    permutations: int = number(500, 1)  # Permutations of the sites, for the p-values of MMDs
    bootstraps: int = number(500, 1)  # Bootstrap draws of people, for 95% intervals
    scorecard: bool = True  # Score the output beside the raw input and ComBat
    # Permutations of the sites, for the chance level of the scorecard's strongest probe. Each takes up to some seconds.
    # Tables may have more of them. 0: no chance level
    scorecard_permutations: int = number(20, 0)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run, which is a pure function of this config, the data and the seed."""

    name: str = "participants"  # Name of the run, and of its folder in runs/
    seed: int = number(0, 0)  # Seed of the weights, the order of rows, bootstraps and permutations
    # Method that is trained: ours (Lokhande et al. 2022), one of its baselines, combat, or istn (Robinson et al. 2020)
    method: str = dataclasses.field(default="ours", metadata={"choices": lambda: tuple(METHODS)})
    # Weights in the target's loss. equal: all rows weigh the same. balanced: all classes weigh the same
    class_weights: Literal["equal", "balanced"] = "equal"
    # Folder of prepared volumes, simulated cohorts, site floors and compiled programs. Default: beside workdir
    cache_dir: str = ""
    devices: int = number(0, 0)  # Local devices (GPUs, TPU cores) to train on. 0: all
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    stage_one: StageOneConfig = dataclasses.field(default_factory=StageOneConfig)
    stage_two: StageTwoConfig = dataclasses.field(default_factory=StageTwoConfig)
    baseline: BaselineConfig = dataclasses.field(default_factory=BaselineConfig)
    task: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    istn: IstnConfig = dataclasses.field(default_factory=IstnConfig)
    output: OutputConfig = dataclasses.field(default_factory=OutputConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)


def default_config() -> ConfigDict:
    """Returns every key with its default value, as the `ConfigDict` that files in `configs/` start from."""
    return ConfigDict(to_dict(RunConfig()))


def to_dict(config: Any) -> dict[str, Any]:
    """Converts a dataclass config to nested plain dicts, ready for JSON."""
    return dataclasses.asdict(config)


def differing_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "config") -> Iterator[str]:
    """Yields the dotted keys at which two `to_dict` results differ, each with both values."""
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        name = f"{prefix}.{key}"
        if isinstance(before, dict) and isinstance(after, dict):
            yield from differing_keys(before, after, name)
        elif _plain(before) != _plain(after):
            yield f"{name} ({before!r} there, {after!r} now)"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
