"""The image-and-spatial transformer network (ISTN) of Robinson et al. 2020, which changes appearance and then shape."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from eqpool.models.itn import ITN
from eqpool.models.stn import AffineSTN, BSplineSTN, Deformation
from eqpool.ops.devices import AxisName

Appearance = Literal["itn", "none"]
Shape = Literal["none", "affine", "bspline"]


class IstnOutput(NamedTuple):
    """The outputs of an ISTN for N images.

    Attributes:
      image: (N, *shape, C) float32 in [-1, 1], after ITN and STN.
      appearance: (N, *shape, C) float32 in [-1, 1], after the ITN, or the input without an ITN.
      deformation: deformation of `appearance` by the STN, or None without an STN.
    """

    image: jax.Array
    appearance: jax.Array
    deformation: Deformation | None


class ISTN(nn.Module):
    """An ITN followed by an STN, which sees the output of the ITN and warps it. Both are trained together.

    One of the two may be left out, as in the rows of Table 1. Affine and B-spline STN are alternatives, as published.

    Attributes:
      appearance: "itn" or "none".
      shape: "none", "affine" or "bspline".
      encoder, bottleneck, decoder, dropout, residual: settings of the ITN.
      widths: setting of the STN.
      spacing, max_displacement: settings of the B-spline STN.
      fill: value outside the image, -1 for digits and 0 for brains.
      dtype: dtype of the computation. Parameters, batch statistics, maps and images are float32.
    """

    appearance: Appearance = "itn"
    shape: Shape = "affine"
    encoder: Sequence[int] = (16, 32, 64)
    bottleneck: Sequence[int] = (128, 64)
    decoder: Sequence[int] = (32, 16)
    dropout: float = 0.0
    residual: bool = False
    widths: Sequence[int] = (8, 16, 32, 64, 64)
    spacing: int | Sequence[int] = 8
    max_displacement: float = 0.1
    fill: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Builds the networks that `appearance` and `shape` name."""
        if self.appearance not in ("itn", "none") or self.shape not in ("none", "affine", "bspline"):
            raise ValueError(
                'appearance must be "itn" or "none" and shape "none", "affine" or "bspline", '
                f"got {self.appearance!r} and {self.shape!r}"
            )
        if self.appearance == self.shape == "none":
            raise ValueError('appearance and shape are both "none", which leaves nothing to train')
        if self.appearance == "itn":
            self.itn = ITN(self.encoder, self.bottleneck, self.decoder, self.dropout, self.residual, self.dtype)
        if self.shape == "affine":
            self.stn: nn.Module = AffineSTN(self.widths, dtype=self.dtype)
        elif self.shape == "bspline":
            self.stn = BSplineSTN(self.spacing, self.max_displacement, self.widths, self.dtype)

    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool,
        condition: jax.Array | None = None,
        mask: jax.Array | None = None,
        axis_name: AxisName = None,
    ) -> IstnOutput:
        """Transforms (N, *shape, C) float32 in [-1, 1].

        Arguments and errors are those of `ITN`. ITN and STN both receive `condition`.
        """
        options: dict[str, Any] = {"train": train, "condition": condition, "mask": mask, "axis_name": axis_name}
        appearance = images if self.appearance == "none" else self.itn(images, **options)
        if self.shape == "none":
            return IstnOutput(appearance, appearance, None)
        deformation = self.stn(appearance, **options)
        return IstnOutput(deformation.warp(appearance, fill=self.fill), appearance, deformation)
