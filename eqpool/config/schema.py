"""Defines every key of a config, its default and its meaning.

A file in `configs/` starts from `default_config()` and changes only what its data set needs. Every key can also be set
on the command line (`--config.seed=3`). `eqpool.config.check` checks and freezes the result.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

from ml_collections import ConfigDict

from eqpool.config.methods import METHODS

Dataset = Literal[
    "adni",
    "adni_small_support",
    "adni_matched",
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
COHORTS = ("fcon1000", "abide1", "ixi_thickness")  # real tables without a download
Domain = Literal["thin", "thick", "slanted", "thick_slanted"]


def _number(default: float, minimum: float = -math.inf, maximum: float = math.inf) -> Any:
    return dataclasses.field(default=default, metadata={"minimum": minimum, "maximum": maximum})


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data to pool. An empty string means "not given"."""

    dataset: Dataset = "participants"  # adni*, adcp and brain_* are simulated unless participants is given
    raw_dir: str = ""  # local folder with the raw files; fcon1000, abide1 and ixi_thickness have no download
    participants: str = ""  # participants.tsv (or .csv): one row a scan
    root: str = ""  # folder of the images, by default the folder of participants
    outside_root: Literal["refuse", "allow"] = "refuse"  # paths in the table that leave root, such as ../ or /
    site_column: str = "site"  # column of the scanner or site
    # Comma-separated numeric columns, or categorical columns if marked so: age,sex:categorical. Here and in nuisances,
    # described and features, put a name with a comma or a colon in double quotes: "age, years",sex:categorical
    covariates: str = "age"
    nuisances: str = ""  # comma-separated categorical columns, such as sex, that Phi should not predict either
    target: str = "dx"  # column that is predicted, such as a diagnosis
    # Auto: text, and whole numbers of at most 10 levels, are classes
    target_type: Literal["auto", "classes", "number"] = "auto"
    described: str = ""  # comma-separated numeric columns, such as mmse: shown by site in the report, never trained on
    features: str = ""  # comma-separated columns or glob patterns. If given, the cohort is a table instead of volumes
    # Correction of each site before training (docs/own_data.md): location; location_scale; covariance, which for tables
    # adds the sites' covariances; auto, which for tables adds them as far as held-out training rows support it, and for
    # volumes is location_scale; combat, for volumes, german and adult: ComBat fitted with covariates and target kept.
    # by_method: auto for ours, none for the other methods
    site_calibration: Literal["none", "location", "location_scale", "covariance", "auto", "combat", "by_method"] = (
        "none"
    )
    reference: str = ""  # site whose features the calibration leaves alone, and whose look the others take, "" for none
    # Rows that the calibration learns from, as column:label, such as dx:CN. It is applied to all rows. Rows of one
    # participant_id, at several times or scanners, are one person's: they share a random effect in every estimate of
    # sites, and are in one split
    fit_on: str = ""
    # Named grid (mni_4mm, mni_2mm, 64) or a shape such as 32x32x32, 32x32x32@6 in mm, 32x40x32@1@-26,-20,-14 for crops
    grid: str = "mni_4mm"
    on_bad_volume: Literal["stop", "skip"] = "stop"  # what to do with a volume that cannot be used
    # Registration of each volume to the template before all else: affine; none; auto, which is affine if more than a
    # tenth of the volumes overlap the template's brain mask by a Dice below 0.85
    align: Literal["none", "affine", "auto"] = "none"
    squash: bool = False  # volumes: tanh of the z-scores, for networks with outputs in [-1, 1]
    split: Literal["raw", "published"] = "raw"  # german, adult: split of the raw files, or the published one
    source_domain: Domain = "thin"  # morpho_mnist: domain with known labels
    target_domain: Domain = "thick"  # morpho_mnist: domain with labels for evaluation only
    train_digits: int = _number(60_000, 20)  # morpho_mnist: half for each domain, a tenth of them for validation
    test_digits: int = _number(10_000, 10)  # morpho_mnist: each appears in both domains
    split_seed: int = 0  # part of the data, so it does not follow config.seed
    balance: Literal["site_and_target", "site"] = "site_and_target"  # strata of the splits ("site" ignores the target)
    test_fraction: float = _number(0.2, 0.0, 0.9)  # share of people that are held out for all scores
    validation_fraction: float = _number(0.1, 0.0, 0.9)  # share of people on which epochs and settings are chosen
    simulated_fraction: float = _number(1.0, 0.0, 1.0)  # share of each simulated site to build (tests use little)
    workers: int = _number(0, 0)  # threads that prepare volumes, processes that draw digits, 0 for one a core


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The networks of both stages. Volumes use a 3D ResNet, tables a fully connected encoder."""

    latent_dim: int = _number(30, 2)  # dimension n of the latent
    hidden_units: int = _number(64, 1)  # units of the hidden layers of fully connected networks
    channels: tuple[int, ...] = (16, 16, 32, 64)  # channels of the ResNet's stages
    blocks: tuple[int, ...] = (2, 2, 2, 2)  # residual blocks of each stage
    decoder_channels: tuple[int, ...] = (64, 32, 16, 8)  # channels of the decoder of volumes, from coarse to fine
    decoder_ridge: float = _number(1.0, 0.0)  # volumes: penalty of D's linear part, fitted after training, 0 for none
    dropout: float = _number(0.0, 0.0, 0.95)  # share of units dropped in the auxiliary head
    centre_latent: bool = False  # subtract the mean coordinate before the projection to the sphere, as published
    rotation_range: float = _number(3.0, 0.0, math.pi)  # radians over the covariate's training range
    rotation_ranges: str = ""  # comma-separated ranges, one for each covariate, "" for rotation_range
    spectrum: Literal["uniform", "paper"] = "uniform"  # paper: skew(1_m) as printed, without rotation_range
    tau: Literal["free", "covariate"] = "free"  # covariate: tau depends on the covariates alone, not on the site
    tau_steps: int = _number(0, 0)  # tau "covariate": steps over the training range to round tau to, 0 for continuous
    group_map: Literal["expm", "cayley"] = "expm"  # map from generators to rotations
    phi: Literal["sphere", "free"] = "sphere"  # sphere: b is normalised, so that the MMD cannot shrink it
    code_dim: int = _number(0, 0)  # numbers in b's code, which is mapped to the sphere, 0 for latent_dim
    code_levels: int = _number(0, 0)  # evenly spaced values of each number of the code, 0 for continuous
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of convolutions and dense layers; weights stay float32
    remat: bool = False  # recompute residual blocks in the backward pass: less memory, more time


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Adam and epochs, common to every stage."""

    epochs: int = _number(100, 0)  # passes over the training rows
    # Rows of a step. A remainder is spread over the epoch's steps: 81 rows in batches of 16 give three steps of 14 rows
    # and three of 13. Each step has at least min(4, batch_size) rows, so with a batch size below 7 some steps may have
    # one row more.
    batch_size: int = _number(128, 2)
    learning_rate: float = _number(1e-3, 0.0)  # of Adam, at the first step
    learning_rate_decay: float = _number(0.65, 0.0, 1.0)  # factor on the learning rate every decay_every_epochs
    decay_every_epochs: int = _number(10, 1)  # epochs between two decays
    weight_decay: float = _number(0.0, 0.0)  # decoupled, as in AdamW
    checkpoint_every_epochs: int = _number(50, 1)  # a killed run loses at most these (the last epoch is always saved)


@dataclasses.dataclass(frozen=True)
class KernelConfig:
    """The kernel of an MMD."""

    kernel: Literal["laplacian", "gaussian"] = "laplacian"  # kernel of the MMD
    bandwidth: str = "0.05,0.1,0.25,0.5,1.0"  # one number, several (mixture), or "median"
    estimator: Literal["biased", "unbiased"] = "unbiased"  # unbiased leaves the pairs of a row with itself out


@dataclasses.dataclass(frozen=True)
class PoolingTrainingConfig(KernelConfig, TrainingConfig):
    """Settings common to the stages of Lokhande et al. 2022 and of the baselines."""

    keep_epoch: Literal["best", "last"] = "best"  # best by validation loss (noisy with few rows: then use last)


@dataclasses.dataclass(frozen=True)
class StageOneConfig(PoolingTrainingConfig):
    """Stage one: E, tau and D (Lokhande et al. 2022, Algorithm 1 and appendix A.7)."""

    equivariance_weight: float = _number(1.0, 0.0)  # of the equivariance loss (eq. (3))
    # printed: eq. (3), least where tau's angle is age regressed to the mean. unbiased: relative to how far tau rotates,
    # least where tau's angle is age on average
    equivariance_form: Literal["printed", "unbiased"] = "printed"
    reconstruction_weight: float = _number(0.02, 0.0)  # of the error of D(l)
    prediction_weight: float = _number(0.0, 0.0)  # weight of the published code's cross-entropy on the target
    mmd_weight: float = _number(0.0, 0.0)  # of tau's MMD across sites, as Phi carries any site information in tau


@dataclasses.dataclass(frozen=True)
class StageTwoConfig(PoolingTrainingConfig):
    """Stage two: b, h and Psi, with E and tau frozen (Lokhande et al. 2022, eqs. (5) to (7))."""

    prediction_weight: float = _number(1.0, 0.0)  # of the loss of h(Phi) on the target
    reconstruction_weight: float = _number(0.1, 0.0)  # of the error of Psi(Phi)
    mmd_weight: float = _number(0.1, 0.0)  # of the MMD across sites (eq. (7))
    mmd_ramp_start: float = _number(1.0, 0.0)  # the weight is mmd_weight x min(start x growth^epoch, ceiling)
    mmd_ramp_growth: float = _number(1.0, 0.0)  # see mmd_ramp_start
    mmd_ramp_ceiling: float = _number(1.0, 0.0)  # see mmd_ramp_start
    adversary_weight: float = _number(0.0, 0.0)  # weight of an adversary on the covariate-free latent, beside the MMD
    # Latent whose sites are compared; conditional: Phi at equal covariates
    mmd_match: Literal["phi", "covariate_free", "conditional"] = "covariate_free"
    # Compare sites only within a class of the target; the adversary receives covariates and class. A class whose
    # share differs between sites then need not be removed. Without effect for a numeric target
    within_classes: bool = False
    # Linear site effect on tau^-1 l, given covariates and target, erased in closed form before b
    erase_site: Literal["none", "conditional"] = "none"
    # Factor on tau's angles, one for each covariate, from 1 to 5: tau is read from images, which regresses ages to the
    # mean. validation: the factor with the least equivariance error on the validation rows (1 with fewer than 10)
    stretch_tau: Literal["none", "validation"] = "none"


@dataclasses.dataclass(frozen=True)
class BaselineConfig(PoolingTrainingConfig):
    """The one stage of the baselines naive, mmd, cai, ss and rm (Lokhande et al. 2022, section 4)."""

    prediction_weight: float = _number(1.0, 0.0)  # of the loss on the target
    reconstruction_weight: float = _number(0.1, 0.0)  # of the error of the decoder
    site_weight: float = _number(0.1, 0.0)  # weight of the method's site term, which naive lacks
    # Rows of earlier batches with which mmd, ss, rm and the adversary of cai compare a batch, 0 for none. Their latents
    # are constants
    queue_rows: int = _number(512, 0)
    adversary_steps: int = _number(5, 1)  # cai: steps of the adversary in each step of the encoder
    adversary_learning_rate: float = _number(1e-3, 0.0)  # cai: of the adversary's own Adam


@dataclasses.dataclass(frozen=True)
class ImageTrainingConfig(TrainingConfig):
    """Settings common to the stages of Robinson et al. 2020."""

    validate_every_epochs: int = _number(5, 1)  # epochs between two validations
    patience: int = _number(10, 0)  # validations without a lower score after which training stops, 0 for never
    # Decay of the running mean of all weights and batch statistics, which is then validated and kept. With 0 the
    # weights of the last step are used, as published. Small batches need the mean, because their adversarial game
    # oscillates around it.
    average_decay: float = _number(0.0, 0.0, 0.9999)


@dataclasses.dataclass(frozen=True)
class TaskConfig(ImageTrainingConfig):
    """The task model of Robinson et al. 2020.

    It is trained on the source before the ISTN, and then together with the ISTN on the ISTN's images.
    """

    # Network and target of the task
    model: Literal["morpho_classifier", "sex_classifier", "age_regressor"] = "sex_classifier"


@dataclasses.dataclass(frozen=True)
class IstnConfig(ImageTrainingConfig):
    """The image-and-spatial transformer network (Robinson et al. 2020, section 2; docs/method.md, section 9)."""

    reference: str = ""  # site whose appearance the others are given, with its labels unused, "" for the last one
    appearance: Literal["itn", "none"] = "itn"  # itn changes intensities, none leaves them
    shape: Literal["none", "affine", "bspline"] = "affine"  # spatial transformer after the ITN
    # two_way: CycleGAN, for two sites. universal: one transformer that does not see the site, so that scans of scanners
    # without training images go through it, with a discriminator for each site
    direction: Literal["one_way", "two_way", "universal"] = "one_way"
    encoder: tuple[int, ...] = (8, 16, 32, 64)  # of the ITN, as in Table 6 for brains (Table 5, digits: (16, 32, 64))
    bottleneck: tuple[int, ...] = (64, 64)  # Table 5: (128, 64)
    decoder: tuple[int, ...] = (32, 16, 8)  # Table 5: (32, 16)
    discriminator: tuple[int, ...] = (32, 64, 128, 256, 256)  # Table 5: (32, 64, 128, 256)
    discriminator_norm: Literal["instance", "none"] = "instance"  # as published, hides an image's own contrast
    discriminator_dropout: float = _number(0.5, 0.0, 0.95)  # as published
    dropout: float = _number(0.5, 0.0, 0.95)  # dropout of the ITN's decoder
    residual: bool = False  # the ITN starts as the identity and learns a change, False as published
    spacing: int = _number(8, 1)  # voxels between a B-spline's control points
    max_displacement: float = _number(0.1, 0.0, 1.0)  # limit for a control point, as a share of the image
    fill: float = 0.0  # value outside the image: 0 for brains, -1 for digits
    image_weight: float = _number(50.0, 0.0)  # lambda, weight of identity and cycle losses (eqs. (2) and (3))
    bending_weight: float = _number(0.0, 0.0)  # weight of the deformation's bending energy
    # Of universal: weight of the error of S2T of images as random scanners show them, to S2T of the images, or to the
    # images themselves if they are the reference's
    consistency_weight: float = _number(20.0, 0.0)
    change_weight: float = _number(0.0, 0.0)  # weight of |ITN(S) - S|, which limits the change of appearance (paper: 0)
    task_weight: float = _number(0.0, 0.0)  # weight of the task model's end-to-end loss on S2T
    softness: float = _number(0.03, 0.0, 0.5)  # softness of the discriminators' labels
    instance_noise: float = _number(0.0, 0.0)  # standard deviation of the noise on the discriminators' inputs
    gradient_penalty: float = _number(0.0, 0.0)  # R1 of the discriminators, without which a short game may diverge
    momentum: float = _number(0.9, 0.0, 0.999)  # Adam's beta1 for transformers and discriminators
    task_learning_rate: float = _number(1e-3, 0.0)  # learning rate of the two task models trained with the ISTN


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    """The output of a run in addition to its metrics."""

    # Form of the harmonised volumes, from the decoder chain D(Psi(Phi(l))). change: the input plus the change of its
    # decode by pooling. decoded: the decode itself, which a small latent blurs. none: no volumes
    harmonised: Literal["change", "decoded", "none"] = "change"
    # Factor on the networks' change D(Psi(Phi)) - D(l), from 0 to 1. auto: chosen on the validation rows, where the
    # change should remove more of the site than it alters within sites (docs/method.md, section 4)
    change_scale: str = "auto"
    # Clips harmonised values at 0 if no input value is negative, and counts the clipped ones. auto: on for volumes and
    # off for tables, so that skewed positive features of tables may become negative
    keep_sign: Literal["auto", "on", "off"] = "auto"
    # Intensity scale of harmonised volumes. common: one for all scanners, on which tissue has the median mean and
    # deviation of the training rows, or of those of the reference site. as_scanned: the units of each scan
    scale: Literal["common", "as_scanned"] = "common"
    tensorboard: bool = False  # metrics.jsonl also as TensorBoard events in tensorboard/ (the extra "tensorboard")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Metrics on the held-out split (docs/method.md, section 6)."""

    adversary_epochs: int = _number(200, 1)  # epochs of the adversary that probes for the site
    adversary_learning_rate: float = _number(1e-3, 0.0)  # of the adversary's Adam
    adversary_batch_size: int = _number(128, 2)  # rows of a step of the adversary
    probe_seeds: int = _number(3, 1)  # trainings of the adversary, of which the mean is scored
    probe_folds: int = _number(5, 2)  # folds of probes within the held-out rows
    probe_permutations: int = _number(0, 0)  # of sites, for the chance level of the strongest probe on tau^-1 Phi
    permutations: int = _number(500, 1)  # of sites, for the p-values of MMDs
    bootstraps: int = _number(500, 1)  # draws of people for 95% intervals
    scorecard: bool = True  # score what is handed back against the raw input and ComBat
    # Of sites, for what the scorecard's strongest probe reads by chance. Each takes as long as the site rows of one
    # version, some seconds at most; tables may have more of them, and 0 leaves them out
    scorecard_permutations: int = _number(20, 0)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run, which is a pure function of this config, the data and the seed."""

    name: str = "participants"  # name of the run, and of its folder in runs/
    seed: int = _number(0, 0)  # seed of weights, order of rows, bootstraps and permutations
    # What is trained: ours, a baseline, combat, or istn
    method: str = dataclasses.field(default="ours", metadata={"choices": lambda: tuple(METHODS)})
    class_weights: Literal["equal", "balanced"] = "equal"  # in the target's loss; balanced weighs each class equally
    cache_dir: str = ""  # prepared volumes, simulated cohorts, site floors, compiled programs (default: beside workdir)
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
