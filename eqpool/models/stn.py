"""Spatial transformer networks (STN), which change shape by an affine map or by a B-spline field.

See Robinson et al. 2020, section 2, and docs/method.md, section 9.
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
from eqpool.ops.devices import AxisName

_WIDTHS = (8, 16, 32, 64, 64)


class Deformation(NamedTuple):
    """The deformation of each of N images, in one of two forms. The other form is None.

    Attributes:
      matrix: (N, D, D+1) float32 from `eqpool.geometry.warp.affine_matrix`.
      field: (N, *shape, D) float32 displacement in voxels.
    """

    matrix: jax.Array | None
    field: jax.Array | None

    def warp(self, images: jax.Array, *, fill: float = 0.0) -> jax.Array:
        """Warps images (N, *shape, C) with linear interpolation. Points outside an image have the value `fill`."""
        if self.matrix is not None:
            return warp_affine(images, self.matrix, fill=fill)
        assert self.field is not None
        return warp_displacement(images, self.field, fill=fill)

    def displacement(self, shape: Sequence[int]) -> jax.Array:
        """Returns the displacement (N, *shape, D) float32 in voxels, computed for `shape` if the map is affine."""
        if self.matrix is not None:
            return affine_displacement(self.matrix, tuple(shape))
        assert self.field is not None
        return self.field


class AffineSTN(nn.Module):
    """A network from images to one affine map each, initialised with the identity.

    The parameters are the tanh of a linear layer, times the caps below.

    Attributes:
      widths: channels of the trunk's convolutions. The paper lists none.
      max_translation: cap on the translation along each axis, in units of half the image.
      max_rotation, max_shear: caps in radians on one angle in 2D and on three in 3D.
      max_log_scale: cap on the log scale of each axis.
      dtype: dtype of the trunk. Parameters, batch statistics and the map are float32.
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
        axis_name: AxisName = None,
    ) -> Deformation:
        """Maps (N, *shape, C) float32 to N matrices. Arguments and errors are those of `eqpool.models.itn.ITN`."""
        rank = images.ndim - 2
        angles = rank * (rank - 1) // 2
        caps = (self.max_translation, self.max_rotation, self.max_log_scale, self.max_shear)
        sizes = (rank, angles, rank, angles)
        trunk = Trunk(sum(sizes), self.widths, self.dtype, name="trunk")
        bounded = jnp.tanh(trunk(images, train=train, condition=condition, mask=mask, axis_name=axis_name))
        parts = jnp.split(bounded, [sum(sizes[:end]) for end in range(1, len(sizes))], axis=-1)
        return Deformation(affine_matrix(*(cap * part for cap, part in zip(caps, parts, strict=True))), None)


class BSplineSTN(nn.Module):
    """A network from images to one cubic B-spline displacement field each, initialised with the identity.

    Attributes:
      spacing: distance between control points in voxels.
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
        axis_name: AxisName = None,
    ) -> Deformation:
        """Maps (N, *shape, C) float32 to N fields. Arguments and errors are those of `eqpool.models.itn.ITN`."""
        shape = images.shape[1:-1]
        control_shape = bspline_control_shape(shape, self.spacing)
        trunk = Trunk(math.prod(control_shape) * len(shape), self.widths, self.dtype, name="trunk")
        bounded = jnp.tanh(trunk(images, train=train, condition=condition, mask=mask, axis_name=axis_name))
        cap = self.max_displacement * jnp.asarray(shape, jnp.float32)
        control_points = bounded.reshape(-1, *control_shape, len(shape)) * cap
        return Deformation(None, bspline_displacement(control_points, shape, spacing=self.spacing))


class Trunk(nn.Module):
    """Convolutions of 3 taps with batch norm and ReLU and strides 1, 2, 2, ..., then a linear layer initialised with 0.

    While the linear layer is 0, the layers below it have no gradient, but its own gradient is not 0.

    Attributes:
      outputs: number of outputs for each image.
      widths: channels of each convolution.
      dtype: dtype of the convolutions.
    """

    outputs: int
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
        axis_name: AxisName = None,
    ) -> jax.Array:
        """Maps (N, *shape, C) to (N, outputs) float32."""
        x = with_condition(images, condition).astype(self.dtype)
        for index, features in enumerate(self.widths):
            block = ConvBlock(features, stride=1 if index == 0 else 2, dtype=self.dtype, name=f"layer{index}")
            x = block(x, train=train, mask=mask, axis_name=axis_name)
        # Flattened instead of pooled, because the deformation depends on positions in the image.
        flat = x.reshape(x.shape[0], -1).astype(jnp.float32)
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros, name="parameters")(flat)
