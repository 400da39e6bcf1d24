"""Every key of a config, its default and its meaning: here, once.

A file in `configs/` starts from `default_config()` and changes what its data set needs, so that every key can also be
set on the command line (`--config.seed=3`); `eqpool.config.check` checks and freezes the result.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

from ml_collections import ConfigDict

from eqpool.config.methods import METHODS
from eqpool.errors import InputError

Dataset = Literal[
    "adni",
    "adni_small_support",
    "adcp",
    "brain_sex",
    "brain_age",
    "german",
    "adult",
    "morpho_mnist",
    "fcon1000",
    "abide1",
    "ixi_thickness",
    "participants",
]
COHORTS = ("fcon1000", "abide1", "ixi_thickness")  # real tables that cannot be downloaded
Domain = Literal["thin", "thick", "slanted", "thick_slanted"]


def _number(default: float, minimum: float = -math.inf, maximum: float = math.inf) -> Any:
    return dataclasses.field(default=default, metadata={"minimum": minimum, "maximum": maximum})


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is pooled. An empty string means "not given"."""

    dataset: Dataset = "participants"  # adni*, adcp and brain_* are simulated unless participants is given
    raw_dir: str = ""  # local folder with the raw public files, instead of downloading; a cohort has no download
    participants: str = ""  # participants.tsv (or .csv): one row a scan
    root: str = ""  # where the images are; default: the folder of participants
    outside_root: Literal["refuse", "allow"] = "refuse"  # paths in the table that lead out of root, as ../ and / do
    site_column: str = "site"
    # Comma-separated; numbers, or categories where so marked: age,sex:categorical. Here, in nuisances, described and
    # features a name with a comma or a colon stands in double quotes: "age, years",sex:categorical
    covariates: str = "age"
    nuisances: str = ""  # comma-separated categorical columns, such as sex: further things Phi is not to tell
    target: str = "dx"
    target_type: Literal["auto", "classes", "number"] = "auto"
    described: str = ""  # comma-separated numeric columns, such as mmse: shown by site in the report, never trained on
    features: str = ""  # comma-separated columns or glob patterns; given, the cohort is a table and not volumes
    site_calibration: Literal["none", "location", "covariance"] = "none"  # of a table's features, before training
    # Named grid (mni_4mm, mni_2mm, 64) or a shape such as 32x32x32, 32x32x32@6 in mm, 32x40x32@1@-26,-20,-14 for crops
    grid: str = "mni_4mm"
    on_bad_volume: Literal["stop", "skip"] = "stop"
    align: Literal["none", "affine"] = "none"  # affine: register each volume to the template first (the extra "align")
    squash: bool = False  # volumes: tanh of the z-scores, for networks whose output lies in [-1, 1]
    split: Literal["raw", "published"] = "raw"  # german, adult: from the raw files, or as published
    source_domain: Domain = "thin"  # morpho_mnist: whose labels are known
    target_domain: Domain = "thick"  # morpho_mnist: whose labels are for evaluation only
    train_digits: int = _number(60_000, 20)  # morpho_mnist: half for each domain, a tenth of them for validation
    test_digits: int = _number(10_000, 10)  # morpho_mnist: each stands in both domains
    split_seed: int = 0  # the split is part of the data; it does not follow config.seed
    balance: Literal["site_and_target", "site"] = "site_and_target"  # of splits; "site" lets no target into them
    test_fraction: float = _number(0.2, 0.0, 0.9)
    validation_fraction: float = _number(0.1, 0.0, 0.9)
    simulated_fraction: float = _number(1.0, 0.0, 1.0)  # share of each simulated site that is built (tests use little)
    workers: int = _number(0, 0)  # threads that prepare volumes, processes that draw digits; 0: one a core


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Networks of both stages; volumes get a 3D ResNet, tables a fully connected encoder."""

    latent_dim: int = _number(30, 2)
    hidden_units: int = _number(64, 1)
    channels: tuple[int, ...] = (16, 16, 32, 64)  # of the ResNet's stages
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    decoder_channels: tuple[int, ...] = (64, 32, 16, 8)
    decoder_ridge: float = _number(1.0, 0.0)  # volumes: penalty of D's linear part, fitted after training; 0: none
    dropout: float = _number(0.0, 0.0, 0.95)
    centre_latent: bool = False  # the published sphere projection subtracts the latent's mean coordinate first
    rotation_range: float = _number(3.0, 0.0, math.pi)  # radians over the covariate's training range
    rotation_ranges: str = ""  # the same, one a covariate, comma-separated; "": rotation_range for each
    spectrum: Literal["uniform", "paper"] = "uniform"  # paper: skew(1_m) as printed; rotation_range unused
    tau: Literal["free", "covariate"] = "free"  # covariate: tau carries the covariates alone, and no site
    tau_steps: int = _number(0, 0)  # tau "covariate": rounded to so many steps over the training range; 0: continuous
    group_map: Literal["expm", "cayley"] = "expm"
    phi: Literal["sphere", "free"] = "sphere"  # sphere: b is normalised, so MMD cannot shrink it
    code_dim: int = _number(0, 0)  # b speaks through so many numbers, laid on the sphere; 0: through latent_dim
    code_levels: int = _number(0, 0)  # evenly spaced values each of them takes; 0: continuous
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False  # recompute residual blocks in the backward pass: less memory, more time


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Adam over epochs; common to every stage."""

    epochs: int = _number(100, 0)
    # Rows of a step. A remainder is spread over the epoch's steps: 81 rows in batches of 16 are three of 14 rows and
    # three of 13. No step has fewer than min(4, batch_size) rows; below 7 some may have a row more for that.
    batch_size: int = _number(128, 2)
    learning_rate: float = _number(1e-3, 0.0)
    learning_rate_decay: float = _number(0.65, 0.0, 1.0)
    decay_every_epochs: int = _number(10, 1)
    weight_decay: float = _number(0.0, 0.0)  # decoupled, as in AdamW
    checkpoint_every_epochs: int = _number(50, 1)  # a kill loses at most these; the last epoch is always saved


@dataclasses.dataclass(frozen=True)
class KernelConfig:
    """The kernel of an MMD."""

    kernel: Literal["laplacian", "gaussian"] = "laplacian"
    bandwidth: str = "0.05,0.1,0.25,0.5,1.0"  # one number, several (mixture), or "median"
    estimator: Literal["biased", "unbiased"] = "unbiased"


@dataclasses.dataclass(frozen=True)
class PoolingTrainingConfig(KernelConfig, TrainingConfig):
    """Common to the stages of Lokhande et al. 2022 and of the baselines."""

    keep_epoch: Literal["best", "last"] = "best"  # by the validation loss, which is noise of few rows: then the last


@dataclasses.dataclass(frozen=True)
class StageOneConfig(PoolingTrainingConfig):
    """Stage one: E, tau and D (Lokhande et al. 2022, Algorithm 1 and appendix A.7)."""

    equivariance_weight: float = _number(1.0, 0.0)
    reconstruction_weight: float = _number(0.02, 0.0)
    prediction_weight: float = _number(0.0, 0.0)  # the published code's cross-entropy on the target
    mmd_weight: float = _number(0.0, 0.0)  # of an MMD of tau across sites; Phi tells what tau tells


@dataclasses.dataclass(frozen=True)
class StageTwoConfig(PoolingTrainingConfig):
    """Stage two: b, h and Psi, with E and tau frozen (eqs. 5-7)."""

    prediction_weight: float = _number(1.0, 0.0)
    reconstruction_weight: float = _number(0.1, 0.0)
    mmd_weight: float = _number(0.1, 0.0)
    mmd_ramp_start: float = _number(1.0, 0.0)  # the weight is mmd_weight x min(start x growth^epoch, ceiling)
    mmd_ramp_growth: float = _number(1.0, 0.0)
    mmd_ramp_ceiling: float = _number(1.0, 0.0)
    adversary_weight: float = _number(0.0, 0.0)  # of an adversary on the covariate-free latent, beside the MMD
    mmd_match: Literal["phi", "covariate_free", "conditional"] = "covariate_free"


@dataclasses.dataclass(frozen=True)
class BaselineConfig(PoolingTrainingConfig):
    """The one stage of the baselines naive, mmd, cai, ss and rm (Lokhande et al. 2022, section 4)."""

    prediction_weight: float = _number(1.0, 0.0)
    reconstruction_weight: float = _number(0.1, 0.0)
    site_weight: float = _number(0.1, 0.0)  # of the term that the method names; naive has none


@dataclasses.dataclass(frozen=True)
class ImageTrainingConfig(TrainingConfig):
    """Common to the stages of Robinson et al. 2020."""

    validate_every_epochs: int = _number(5, 1)
    patience: int = _number(10, 0)  # validations without a lower score after which training stops; 0: never
    # Of the running mean of all weights and batch statistics, which is what is validated and kept; 0: those of the last
    # step, as published. Small batches need it: their game goes round in circles, whose middle the mean is.
    average_decay: float = _number(0.0, 0.0, 0.9999)


@dataclasses.dataclass(frozen=True)
class TaskConfig(ImageTrainingConfig):
    """The task model that is trained on the source before the ISTN, and beside it on what the ISTN makes
    (Robinson et al. 2020).
    """

    model: Literal["morpho_classifier", "sex_classifier", "age_regressor"] = "sex_classifier"


@dataclasses.dataclass(frozen=True)
class IstnConfig(ImageTrainingConfig):
    """The image-and-spatial transformer network (Robinson et al. 2020, section 2; docs/method.md, section 9)."""

    reference: str = ""  # the site whose images the others are made to look like, its labels unseen; "": the last one
    appearance: Literal["itn", "none"] = "itn"
    shape: Literal["none", "affine", "bspline"] = "affine"
    direction: Literal["one_way", "two_way"] = "one_way"  # two_way: CycleGAN, for two sites
    encoder: tuple[int, ...] = (8, 16, 32, 64)  # of the ITN: Table 6, brains; Table 5, digits: (16, 32, 64)
    bottleneck: tuple[int, ...] = (64, 64)  # (128, 64)
    decoder: tuple[int, ...] = (32, 16, 8)  # (32, 16)
    discriminator: tuple[int, ...] = (32, 64, 128, 256, 256)  # (32, 64, 128, 256)
    discriminator_norm: Literal["instance", "none"] = "instance"  # as published it hides an image's own contrast
    dropout: float = _number(0.5, 0.0, 0.95)  # of the ITN's decoder
    residual: bool = False  # the ITN starts as the identity and learns a change; False: as published
    spacing: int = _number(8, 1)  # voxels between a B-spline's control points
    max_displacement: float = _number(0.1, 0.0, 1.0)  # of a control point, as a share of the image
    fill: float = 0.0  # outside the image: 0 for brains, -1 for digits
    image_weight: float = _number(50.0, 0.0)  # lambda, of identity and cycle losses (eqs. 2 and 3)
    bending_weight: float = _number(0.0, 0.0)  # of the deformation's bending energy
    change_weight: float = _number(0.0, 0.0)  # of |ITN(S) - S|: how far an image's appearance may go; paper: 0
    task_weight: float = _number(0.0, 0.0)  # of the task model's own loss on S2T in the ISTN's objective: end to end
    softness: float = _number(0.03, 0.0, 0.5)  # of the discriminators' labels
    instance_noise: float = _number(0.0, 0.0)  # deviation of the noise on what the discriminators see
    gradient_penalty: float = _number(0.0, 0.0)  # R1 of the discriminators; without it a short game may run away
    momentum: float = _number(0.9, 0.0, 0.999)  # Adam's beta1, of transformers and discriminators
    task_learning_rate: float = _number(1e-3, 0.0)  # of the two task models that are trained beside the ISTN


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    """What a run writes beside its metrics."""

    # Harmonised volumes, through the decoder chain D(Psi(Phi(l))). change: the input plus what pooling changes in its
    # decode; decoded: the decode itself, which a small latent blurs; none: write no volumes
    harmonised: Literal["change", "decoded", "none"] = "change"
    # Harmonised values are clipped at 0 where no input value is negative, and the clipped ones are counted. auto: on
    # for volumes, off for tables, whose skewed positive features may then come back negative
    keep_sign: Literal["auto", "on", "off"] = "auto"
    tensorboard: bool = False  # metrics.jsonl as TensorBoard events too, in tensorboard/ (the extra "tensorboard")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Metrics on the held-out split (docs/method.md, section 6)."""

    adversary_epochs: int = _number(200, 1)
    adversary_learning_rate: float = _number(1e-3, 0.0)
    adversary_batch_size: int = _number(128, 2)
    probe_seeds: int = _number(3, 1)
    probe_folds: int = _number(5, 2)
    probe_permutations: int = _number(0, 0)  # of sites: what the strongest probe reads by chance from tau^-1 Phi
    permutations: int = _number(500, 1)
    bootstraps: int = _number(500, 1)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run: a pure function of this, the data and the seed."""

    name: str = "participants"
    seed: int = _number(0, 0)
    method: str = dataclasses.field(default="ours", metadata={"choices": lambda: tuple(METHODS)})
    class_weights: Literal["equal", "balanced"] = "equal"  # of the target's loss; balanced: each class weighs the same
    cache_dir: str = ""  # prepared volumes, simulated cohorts, site floors, compiled programs; default: beside workdir
    devices: int = _number(0, 0)  # 0: all local devices
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
    """Every key with its default value, as the `ConfigDict` that files in `configs/` start from."""
    return ConfigDict(to_dict(RunConfig()))


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass config as nested plain dicts, ready for JSON."""
    return dataclasses.asdict(config)


def parse_bandwidth(text: str, key: str = "bandwidth") -> float | tuple[float, ...] | str:
    """`"1.0"` to a number, `"0.5,1"` to a mixture, `"median"` as it stands."""
    if text == "median":
        return text
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise InputError(f'{key} = "{text}": expected positive numbers separated by commas, or "median"')
    return values[0] if len(values) == 1 else values


def keeps_sign(config: OutputConfig, *, on_volumes: bool) -> bool:
    """Returns whether harmonised values are clipped at 0 where no input value is negative."""
    return on_volumes if config.keep_sign == "auto" else config.keep_sign == "on"


def rotation_ranges(config: ModelConfig, num_covariates: int) -> tuple[float, ...]:
    """Radians over each covariate's training range; several covariates share the latent's planes of rotation.

    Raises:
      InputError: another number of ranges than of covariates, one that is not in (0, pi], or more covariates than the
        latent has planes.
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


def differing_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "config") -> Iterator[str]:
    """The dotted keys under which two `to_dict` results differ, each with both values."""
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        name = f"{prefix}.{key}"
        if isinstance(before, dict) and isinstance(after, dict):
            yield from differing_keys(before, after, name)
        elif _plain(before) != _plain(after):
            yield f"{name} ({before!r} there, {after!r} now)"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
