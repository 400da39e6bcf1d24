"""Defines the keys of Lokhande et al. 2022: `config.model`, `stage_one`, `stage_two` and `baseline`."""

import dataclasses
import math
from typing import Literal

from eqpool.config.schema_fields import number


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The networks of both stages. Volumes use a 3D ResNet, tables a fully connected encoder."""

    latent_dim: int = number(30, 2)  # Dimension n of the latent
    hidden_units: int = number(64, 1)  # Units of each hidden layer of the fully connected networks
    channels: tuple[int, ...] = (16, 16, 32, 64)  # Channels of the ResNet's stages
    blocks: tuple[int, ...] = (2, 2, 2, 2)  # Residual blocks of each stage
    decoder_channels: tuple[int, ...] = (64, 32, 16, 8)  # Channels of the decoder of volumes, from coarse to fine
    # Volumes: ridge penalty of the decoder's linear part, which is fitted after training. 0: no linear part
    decoder_ridge: float = number(1.0, 0.0)
    dropout: float = number(0.0, 0.0, 0.95)  # Share of the units of stage one's target head that is dropped
    # Subtract the latent's mean coordinate before it is projected to the sphere, as published
    centre_latent: bool = False
    # Angle in radians by which tau rotates over the covariate's training range
    rotation_range: float = number(3.0, 0.0, math.pi)
    # Angles as in rotation_range, one for each covariate, separated by commas. Default: rotation_range for all
    rotation_ranges: str = ""
    # Rotation speeds of tau's planes. paper: the generator skew(1_m) as printed, without rotation_range
    spectrum: Literal["uniform", "paper"] = "uniform"
    # What tau is a function of: free, of the input; covariate, of the covariates alone and therefore not of the site
    tau: Literal["free", "covariate"] = "free"
    # Steps over the training range to which the covariate tau is rounded. 0: continuous
    tau_steps: int = number(0, 0)
    group_map: Literal["expm", "cayley"] = "expm"  # Map from generators to rotations
    # Range of b. sphere: b is normalised, so that the MMD cannot shrink it. free: as published
    phi: Literal["sphere", "free"] = "sphere"
    code_dim: int = number(0, 0)  # Numbers in b's code, which is mapped to the sphere. 0: latent_dim
    code_levels: int = number(0, 0)  # Evenly spaced values of each number in b's code. 0: continuous
    # Precision of convolutions and dense layers. Weights stay in float32
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False  # Recompute residual blocks in the backward pass, which takes less memory and more time


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Adam and epochs, common to every stage."""

    epochs: int = number(100, 0)  # Passes over the training rows
    # Rows of a step. A remainder is spread over the epoch's steps: 81 rows in batches of 16 give three steps of 14 rows
    # and three of 13. Each step has at least min(4, batch_size) rows, so that with a batch size below 7 a step may have
    # one row more
    batch_size: int = number(128, 2)
    learning_rate: float = number(1e-3, 0.0)  # Learning rate of Adam at the first step
    # Factor by which the learning rate falls every decay_every_epochs epochs
    learning_rate_decay: float = number(0.65, 0.0, 1.0)
    decay_every_epochs: int = number(10, 1)  # Epochs between two decays of the learning rate
    weight_decay: float = number(0.0, 0.0)  # Decoupled weight decay, as in AdamW
    # Epochs between two checkpoints. A run that is killed loses at most these. The last epoch is always saved
    checkpoint_every_epochs: int = number(50, 1)


@dataclasses.dataclass(frozen=True)
class KernelConfig:
    """The kernel of an MMD."""

    kernel: Literal["laplacian", "gaussian"] = "laplacian"  # Kernel of the MMD
    # Bandwidth of the kernel: a number, several for a mixture, or "median"
    bandwidth: str = "0.05,0.1,0.25,0.5,1.0"
    # Estimator of the MMD. unbiased: the pairs of a row with itself are left out
    estimator: Literal["biased", "unbiased"] = "unbiased"


@dataclasses.dataclass(frozen=True)
class PoolingTrainingConfig(KernelConfig, TrainingConfig):
    """Settings common to the stages of Lokhande et al. 2022 and of the baselines."""

    # Epoch that is kept. best: of the lowest validation loss, which is noisy with few rows. last: the last one
    keep_epoch: Literal["best", "last"] = "best"


@dataclasses.dataclass(frozen=True)
class StageOneConfig(PoolingTrainingConfig):
    """Stage one: E, tau and D (Lokhande et al. 2022, Algorithm 1 and appendix A.7)."""

    equivariance_weight: float = number(1.0, 0.0)  # Weight of the equivariance loss (eq. (3))
    # Form of the equivariance loss. printed: eq. (3), which is least where tau's angle is age regressed to the mean.
    # unbiased: relative to how far tau rotates, which is least where tau's angle is age on average
    equivariance_form: Literal["printed", "unbiased"] = "printed"
    reconstruction_weight: float = number(0.02, 0.0)  # Weight of the reconstruction error of D(l)
    # Weight of the cross-entropy of the target, which the published code adds to stage one
    prediction_weight: float = number(0.0, 0.0)
    # Weight of tau's MMD across sites. Phi = tau . b carries any site information that tau has
    mmd_weight: float = number(0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class StageTwoConfig(PoolingTrainingConfig):
    """Stage two: b, h and Psi, with E and tau frozen (Lokhande et al. 2022, eqs. (5) to (7))."""

    prediction_weight: float = number(1.0, 0.0)  # Weight of the loss of h(Phi) on the target
    reconstruction_weight: float = number(0.1, 0.0)  # Weight of the reconstruction error of Psi(Phi)
    # Weight of the MMD across sites (eq. (7)), times min(mmd_ramp_start * mmd_ramp_growth^epoch, mmd_ramp_ceiling)
    mmd_weight: float = number(0.1, 0.0)
    mmd_ramp_start: float = number(1.0, 0.0)  # Factor on mmd_weight at the first epoch
    mmd_ramp_growth: float = number(1.0, 0.0)  # Growth of the factor on mmd_weight in each epoch
    mmd_ramp_ceiling: float = number(1.0, 0.0)  # Largest factor on mmd_weight
    # Weight of an adversary that predicts the site from the covariate-free latent, beside the MMD
    adversary_weight: float = number(0.0, 0.0)
    # What the MMD compares between sites. phi: Phi. covariate_free: tau^-1 Phi. conditional: Phi at equal covariates
    mmd_match: Literal["phi", "covariate_free", "conditional"] = "covariate_free"
    # Compare sites only within a class of the target, and give covariates and class to the adversary. A class whose
    # share differs between sites then need not be removed. Without effect for a numeric target
    within_classes: bool = False
    # conditional: the linear effect of the site on tau^-1 l, given covariates and target, is erased before b
    erase_site: Literal["none", "conditional"] = "none"
    # Factor on tau's angles, one for each covariate, from 1 to 5. tau is read from images, which regresses ages to the
    # mean. validation: the factor with the least equivariance error on the validation rows (1 with fewer than 10)
    stretch_tau: Literal["none", "validation"] = "none"


@dataclasses.dataclass(frozen=True)
class BaselineConfig(PoolingTrainingConfig):
    """The one stage of the baselines naive, mmd, cai, ss and rm (Lokhande et al. 2022, section 4)."""

    prediction_weight: float = number(1.0, 0.0)  # Weight of the loss on the target
    reconstruction_weight: float = number(0.1, 0.0)  # Weight of the decoder's reconstruction error
    site_weight: float = number(0.1, 0.0)  # Weight of the method's site term. naive has none
    # Rows of earlier batches with which mmd, ss, rm and the adversary of cai compare a batch. Their latents are
    # constants. 0: none
    queue_rows: int = number(512, 0)
    adversary_steps: int = number(5, 1)  # cai: steps of the adversary for each step of the encoder
    adversary_learning_rate: float = number(1e-3, 0.0)  # cai: learning rate of the adversary's own Adam
