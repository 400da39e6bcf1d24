"""The keys of a config with their defaults and meanings, which `eqpool.config.schema` and its parts define."""

from eqpool.config.schema import EvaluateConfig, OutputConfig, RunConfig, default_config, differing_keys, to_dict
from eqpool.config.schema_data import COHORTS, DataConfig, Dataset, Domain
from eqpool.config.schema_images import ImageTrainingConfig, IstnConfig, TaskConfig
from eqpool.config.schema_pooling import (
    BaselineConfig,
    KernelConfig,
    ModelConfig,
    PoolingTrainingConfig,
    StageOneConfig,
    StageTwoConfig,
    TrainingConfig,
)
from eqpool.config.values import keeps_sign, parse_bandwidth, parse_change_scale, rotation_ranges

__all__ = [
    "BaselineConfig",
    "COHORTS",
    "DataConfig",
    "Dataset",
    "Domain",
    "EvaluateConfig",
    "ImageTrainingConfig",
    "IstnConfig",
    "KernelConfig",
    "ModelConfig",
    "OutputConfig",
    "PoolingTrainingConfig",
    "RunConfig",
    "StageOneConfig",
    "StageTwoConfig",
    "TaskConfig",
    "TrainingConfig",
    "default_config",
    "differing_keys",
    "keeps_sign",
    "parse_bandwidth",
    "parse_change_scale",
    "rotation_ranges",
    "to_dict",
]
