"""Defines the keys of Robinson et al. 2020: `config.task` and `config.istn`."""

import dataclasses
from typing import Literal

from eqpool.config.schema_fields import number
from eqpool.config.schema_pooling import TrainingConfig


@dataclasses.dataclass(frozen=True)
class ImageTrainingConfig(TrainingConfig):
    """Settings common to the stages of Robinson et al. 2020."""

    validate_every_epochs: int = number(5, 1)  # Epochs between two validations
    # Validations without a lower score after which training stops. 0: never
    patience: int = number(10, 0)
    # Decay of the running mean of all weights and batch statistics, which is then validated and kept. With 0 the
    # weights of the last step are used, as published. Small batches need the mean, because their adversarial game
    # oscillates around it
    average_decay: float = number(0.0, 0.0, 0.9999)


@dataclasses.dataclass(frozen=True)
class TaskConfig(ImageTrainingConfig):
    """The task model of Robinson et al. 2020.

    It is trained on the source before the ISTN, and then together with the ISTN on the ISTN's images.
    """

    # Network of the task, and its target
    model: Literal["morpho_classifier", "sex_classifier", "age_regressor"] = "sex_classifier"


@dataclasses.dataclass(frozen=True)
class IstnConfig(ImageTrainingConfig):
    """The image-and-spatial transformer network (Robinson et al. 2020, section 2; docs/method.md, section 9)."""

    # Site whose appearance the scans of the other sites are given. Its labels are not used. Default: the last site
    reference: str = ""
    # Image transformer. itn: it changes intensities. none: intensities stay
    appearance: Literal["itn", "none"] = "itn"
    shape: Literal["none", "affine", "bspline"] = "affine"  # Spatial transformer, which follows the image transformer
    # one_way: to the reference. two_way: both ways, as a CycleGAN of two sites. universal: one transformer that does
    # not see the site, so that it takes scans of unseen scanners too, with a discriminator for each site
    direction: Literal["one_way", "two_way", "universal"] = "one_way"
    # Channels of the ITN's encoder, as in Table 6 for brains (Table 5, digits: (16, 32, 64))
    encoder: tuple[int, ...] = (8, 16, 32, 64)
    bottleneck: tuple[int, ...] = (64, 64)  # Channels of the ITN's bottleneck (Table 5: (128, 64))
    decoder: tuple[int, ...] = (32, 16, 8)  # Channels of the ITN's decoder (Table 5: (32, 16))
    # Channels of the discriminators (Table 5: (32, 64, 128, 256))
    discriminator: tuple[int, ...] = (32, 64, 128, 256, 256)
    # Normalisation in the discriminators. instance: as published, which hides the contrast of an image
    discriminator_norm: Literal["instance", "none"] = "instance"
    discriminator_dropout: float = number(0.5, 0.0, 0.95)  # Dropout of the discriminators (published: 0.5)
    dropout: float = number(0.5, 0.0, 0.95)  # Dropout of the ITN's decoder
    residual: bool = False  # Let the ITN start as the identity and learn a change (published: False)
    spacing: int = number(8, 1)  # Voxels between two control points of the B-spline
    # Largest displacement of a control point, as a share of the image
    max_displacement: float = number(0.1, 0.0, 1.0)
    fill: float = 0.0  # Value outside the image: 0 for brains, -1 for digits
    image_weight: float = number(50.0, 0.0)  # Weight lambda of the identity and cycle losses (eqs. (2) and (3))
    bending_weight: float = number(0.0, 0.0)  # Weight of the deformation's bending energy
    # universal: weight of the error between S2T of images as random scanners show them and S2T of the images, or the
    # images themselves if they are of the reference
    consistency_weight: float = number(20.0, 0.0)
    # Weight of |ITN(S) - S|, which limits the change of appearance (published: 0)
    change_weight: float = number(0.0, 0.0)
    task_weight: float = number(0.0, 0.0)  # Weight of the task model's end-to-end loss on S2T
    softness: float = number(0.03, 0.0, 0.5)  # Softness of the discriminators' labels
    instance_noise: float = number(0.0, 0.0)  # Standard deviation of the noise on the discriminators' inputs
    # Weight of the discriminators' R1 gradient penalty, without which a short game may diverge
    gradient_penalty: float = number(0.0, 0.0)
    momentum: float = number(0.9, 0.0, 0.999)  # Momentum (beta1) of Adam for transformers and discriminators
    # Learning rate of the two task models that are trained with the ISTN
    task_learning_rate: float = number(1e-3, 0.0)
