"""The image-and-spatial transformer network of Robinson et al. 2020: appearance, then shape."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from eqpool.models.itn import ITN
from eqpool.models.stn import AffineSTN, BSplineSTN, Deformation

Appearance = Literal["itn", "none"]
Shape = Literal["none", "affine", "bspline"]


class IstnOutput(NamedTuple):
    """What an ISTN makes of N images.

    Attributes:
      image: (N, *shape, C) float32 in [-1, 1], after both.
      appearance: (N, *shape, C) float32 in [-1, 1], after the ITN alone; the input where there is none.
      deformation: what the STN did to `appearance`, or None.
    """

    image: jax.Array
    appearance: jax.Array
    deformation: Deformation | None


class ISTN(nn.Module):
    """Image to ITN to STN, which sees the ITN's output, to the warped image; trained as one.

    Either may be left out, as in Table 1's rows, but not both. Affine and B-spline are alternatives, as published.

    Attributes:
      appearance: "itn" or "none".
      shape: "none", "affine" or "bspline".
      encoder, bottleneck, decoder, dropout, residual: the ITN's.
      widths: the STN's.
      spacing, max_displacement: the B-spline STN's.
      fill: value outside the image: -1 for digits, 0 for brains.
      dtype: of the computation; parameters, batch statistics, maps and images are float32.
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
        """Builds the networks that are asked for."""
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
    ) -> IstnOutput:
        """Transforms (N, *shape, C) float32 in [-1, 1]; arguments and errors as in `ITN`, both get `condition`."""
        options: dict[str, Any] = {"train": train, "condition": condition, "mask": mask}
        appearance = images if self.appearance == "none" else self.itn(images, **options)
        if self.shape == "none":
            return IstnOutput(appearance, appearance, None)
        deformation = self.stn(appearance, **options)
        return IstnOutput(deformation.warp(appearance, fill=self.fill), appearance, deformation)
