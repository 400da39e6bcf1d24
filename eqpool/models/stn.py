"""Spatial transformer networks: shape, by an affine map or by a B-spline field (Robinson et al. 2020, section 2;
docs/method.md, section 9).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from eqpool.geometry.warp import (
    affine_displacement,
    affine_matrix,
    bspline_control_shape,
    bspline_displacement,
    warp_affine,
    warp_displacement,
)
from eqpool.models.layers import ConvBlock, with_condition

_WIDTHS = (8, 16, 32, 64, 64)


class Deformation(NamedTuple):
    """Where each of N images is to be read: one of the two forms, the other None.

    Attributes:
      matrix: (N, D, D+1) float32, of `eqpool.geometry.warp.affine_matrix`.
      field: (N, *shape, D) float32, displacement in voxels.
    """

    matrix: jax.Array | None
    field: jax.Array | None

    def warp(self, images: jax.Array, *, fill: float = 0.0) -> jax.Array:
        """The images (N, *shape, C) read there, linearly; `fill` where that is outside."""
        if self.matrix is not None:
            return warp_affine(images, self.matrix, fill=fill)
        assert self.field is not None
        return warp_displacement(images, self.field, fill=fill)

    def displacement(self, shape: Sequence[int]) -> jax.Array:
        """(N, *shape, D) float32 in voxels; of an affine map it is computed only here, for images of this shape."""
        if self.matrix is not None:
            return affine_displacement(self.matrix, tuple(shape))
        assert self.field is not None
        return self.field


class AffineSTN(nn.Module):
    """Images to one affine map each, the identity at the start: tanh of a linear layer, times the caps below.

    Attributes:
      widths: channels of the trunk's convolutions; the paper lists none.
      max_translation: of each axis, in units of half the image.
      max_rotation, max_shear: in radians; one angle in 2D, three in 3D.
      max_log_scale: of each axis.
      dtype: of the trunk; parameters, batch statistics and the map are float32.
    """

    widths: Sequence[int] = _WIDTHS
    max_translation: float = 0.1
    max_rotation: float = math.pi / 4
    max_log_scale: float = 0.2
    max_shear: float = math.pi / 4
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool,
        condition: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> Deformation:
        """(N, *shape, C) float32 to N matrices; arguments and errors as in `eqpool.models.itn.ITN`."""
        rank = images.ndim - 2
        angles = rank * (rank - 1) // 2
        caps = (self.max_translation, self.max_rotation, self.max_log_scale, self.max_shear)
        sizes = (rank, angles, rank, angles)
        trunk = Trunk(sum(sizes), self.widths, self.dtype, name="trunk")
        bounded = jnp.tanh(trunk(images, train=train, condition=condition, mask=mask))
        parts = jnp.split(bounded, [sum(sizes[:end]) for end in range(1, len(sizes))], axis=-1)
        return Deformation(affine_matrix(*(cap * part for cap, part in zip(caps, parts, strict=True))), None)


class BSplineSTN(nn.Module):
    """Images to one cubic B-spline displacement field each, the identity at the start.

    Attributes:
      spacing: voxels between control points.
      max_displacement: cap on a control point's displacement along an axis, as a fraction of the image's size.
      widths, dtype: as in `AffineSTN`.
    """

    spacing: int | Sequence[int] = 8
    max_displacement: float = 0.1
    widths: Sequence[int] = _WIDTHS
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool,
        condition: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> Deformation:
        """(N, *shape, C) float32 to N fields; arguments and errors as in `eqpool.models.itn.ITN`."""
        shape = images.shape[1:-1]
        control_shape = bspline_control_shape(shape, self.spacing)
        trunk = Trunk(math.prod(control_shape) * len(shape), self.widths, self.dtype, name="trunk")
        bounded = jnp.tanh(trunk(images, train=train, condition=condition, mask=mask))
        cap = self.max_displacement * jnp.asarray(shape, jnp.float32)
        control_points = bounded.reshape(-1, *control_shape, len(shape)) * cap
        return Deformation(None, bspline_displacement(control_points, shape, spacing=self.spacing))


class Trunk(nn.Module):
    """Convolutions of 3 taps with batch norm and ReLU, strides 1, 2, 2, ..., then a linear layer that starts at 0.

    While that is 0 nothing below it has a gradient; its own gradient is not 0.

    Attributes:
      outputs: numbers an image.
      widths: channels of each convolution.
      dtype: of the convolutions.
    """

    outputs: int
    widths: Sequence[int] = _WIDTHS
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, condition: jax.Array | None = None, mask: jax.Array | None = None
    ) -> jax.Array:
        """(N, *shape, C) to (N, outputs) float32."""
        x = with_condition(images, condition).astype(self.dtype)
        for index, features in enumerate(self.widths):
            block = ConvBlock(features, stride=1 if index == 0 else 2, dtype=self.dtype, name=f"layer{index}")
            x = block(x, train=train, mask=mask)
        # Flattened, not pooled: where something is tells how to move it.
        flat = x.reshape(x.shape[0], -1).astype(jnp.float32)
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros, name="parameters")(flat)
