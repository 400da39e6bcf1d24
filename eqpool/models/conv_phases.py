"""Strided 3D convolutions of few channels on a CPU, such as the encoder's 7^3 stem, and their kernel's gradient.

`eqpool.models.conv_planes` has the plain form, in which two innermost axes as narrow as one channel make every copy
slow. Here channels come first. A volume is split into its phases, the voxels that share a remainder modulo the stride
in height and in width. Strides of the convolution are then steps of one voxel, so that whole rows are copied. Each
output plane takes one matrix product: depth and height taps are unfolded in the input, and width taps are further rows
of the output, or of the cotangent. Unfolding on both sides copies a fraction of what unfolding all taps would.
"""

import jax
import jax.numpy as jnp
from jax import lax


def phases_forward(x, kernel, *, strides, pads):
    """Computes the convolution, with three numbers in `strides` and three pairs in `pads`."""
    depth, height, width = _output_size(x, kernel, strides, pads)
    phases = _phases(x, strides, pads)
    folded = _phases_of_kernel(kernel, strides)
    taps_h, taps_w, features = folded.shape[2], folded.shape[3], folded.shape[4]
    rows = folded.transpose(3, 4, 0, 2, 1).reshape(taps_w * features, -1)

    def plane(index):
        under = _under_taps(phases, index * strides[0], kernel.shape[0], taps_h, height)
        maps = (rows @ under).reshape(taps_w, features, len(x), height, -1)
        return sum(maps[tap, ..., tap : tap + width] for tap in range(taps_w))

    return lax.map(plane, jnp.arange(depth)).transpose(2, 0, 3, 4, 1)


def phases_kernel_gradient(x, kernel, cotangent, *, strides, pads):
    """Computes the kernel's gradient."""
    phases = _phases(x, strides, pads)
    taps_d, channels, taps_h, taps_w, features = _phases_of_kernel(kernel, strides).shape
    height, width = cotangent.shape[2:4]
    columns = phases.shape[-1]
    cotangent = jnp.pad(cotangent, ((0, 0), (0, 0), (0, 0), (taps_w - 1, columns - width), (0, 0)))

    def add_plane(total, index):
        plane = lax.dynamic_index_in_dim(cotangent, index, axis=1, keepdims=False)
        starts = range(taps_w - 1, -1, -1)
        shifted = jnp.concatenate([lax.slice_in_dim(plane, at, at + columns, axis=2) for at in starts], axis=-1)
        under = _under_taps(phases, index * strides[0], taps_d, taps_h, height)
        return total + under @ shifted.reshape(-1, taps_w * features), None

    nothing = jnp.zeros((taps_d * taps_h * channels, taps_w * features), x.dtype)
    total, _ = lax.scan(add_plane, nothing, jnp.arange(cotangent.shape[1]))
    total = total.reshape(taps_d, taps_h, channels, taps_w, features).transpose(0, 2, 1, 3, 4)
    return _kernel_of_phases(total, kernel.shape, strides)


def _phases(x: jax.Array, strides, pads) -> jax.Array:
    """Splits padded (N, D, H, W, C) into phases: (D, phases C, N, ceil(H / stride), ceil(W / stride))."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    batch, depth, height, width, channels = x.shape
    rows, columns = -(-height // strides[1]), -(-width // strides[2])
    beyond = ((0, rows * strides[1] - height), (0, columns * strides[2] - width))
    x = jnp.pad(x, ((0, 0), (0, 0), *beyond, (0, 0)))
    x = x.reshape(batch, depth, rows, strides[1], columns, strides[2], channels).transpose(1, 3, 5, 6, 0, 2, 4)
    return x.reshape(depth, -1, batch, rows, columns)


def _phases_of_kernel(kernel: jax.Array, strides) -> jax.Array:
    """Splits a kernel likewise: (k_D, phases C, ceil(k_H / stride), ceil(k_W / stride), features)."""
    depth, height, width, channels, features = kernel.shape
    rows, columns = -(-height // strides[1]), -(-width // strides[2])
    beyond = ((0, rows * strides[1] - height), (0, columns * strides[2] - width))
    kernel = jnp.pad(kernel, ((0, 0), *beyond, (0, 0), (0, 0)))
    kernel = kernel.reshape(depth, rows, strides[1], columns, strides[2], channels, features)
    return kernel.transpose(0, 2, 4, 5, 1, 3, 6).reshape(depth, -1, rows, columns, features)


def _kernel_of_phases(folded: jax.Array, shape, strides) -> jax.Array:
    depth, height, width, channels, features = shape
    _, _, rows, columns, _ = folded.shape
    kernel = folded.reshape(depth, strides[1], strides[2], channels, rows, columns, features)
    kernel = kernel.transpose(0, 4, 1, 5, 2, 3, 6)
    kernel = kernel.reshape(depth, rows * strides[1], columns * strides[2], channels, features)
    return kernel[:, :height, :width]


def _under_taps(phases, first, taps_d, taps_h, height):
    """Gathers what is under the depth and height taps of an output plane: (k_D k_H channels, N height columns)."""
    planes = lax.dynamic_slice_in_dim(phases, first, taps_d)
    shifted = [planes[d, :, :, h : h + height] for d in range(taps_d) for h in range(taps_h)]
    under = jnp.concatenate(shifted)
    return under.reshape(len(under), -1)


def _output_size(x, kernel, strides, pads):
    sizes = zip(x.shape[1:4], kernel.shape[:3], strides, pads, strict=True)
    return [(size + low + high - taps) // stride + 1 for size, taps, stride, (low, high) in sizes]
