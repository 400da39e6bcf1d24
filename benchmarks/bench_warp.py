"""Benchmarks of the warps, forward and gradient: `pytest benchmarks/bench_warp.py --benchmark-enable`.

They are not part of the test run. Every call is compiled and warmed up first, and each result is waited for. The test
names contain the sizes.

The way in which `resample` reads the eight corners of a cell was chosen by measurement. The table shows the fastest of
12 interleaved rounds in ms, measured on 2026-11-21 with jax 0.10.2 on one CPU device, with 64^3 voxels, batch 2, one
channel and float32. The 2 cores of a shared x86-64 machine were kept busy by other work. On a quiet machine `resample`
needs 23 ms. The last column is the temporary memory of "both", which costs page faults at every call:

                                              forward  by image  by coordinates  both
    a gather for each corner                      3.2        60              96   261   113 MiB
    the same, each corner under checkpoint        5.4        76              68   223    99 MiB
    one gather of (points, 8)                   108.9        60              46   187   118 MiB
    one gather of 2 x 2 x 2 windows               7.8        58             199   284    80 MiB
    rows that hold a voxel's 8 neighbours        18.4        45             372   319    88 MiB
    custom_jvp, gradient through such rows        6.1        11              21   172    66 MiB
    custom_vjp, one scatter of windows           14.1        21              50   114    46 MiB
    shifted copies, optimization_barrier          2.5        24               9   113    57 MiB
    scan over corners, checkpoint: `resample`     6.6        10              13    35    24 MiB
"""

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness import timed
from eqpool.geometry import warp

_BATCH, _SIDE = 2, 64
_SHAPE = (_SIDE,) * 3


def measure(benchmark, function: Callable, *arguments: jax.Array) -> None:
    compiled = jax.jit(function).lower(*arguments).compile()
    temporary_mib = compiled.memory_analysis().temp_size_in_bytes / 2**20
    timed(benchmark, functools.partial(compiled, *arguments), rounds=15, temporary_mib=temporary_mib)


def _resample_all_corners_at_once(images: jax.Array, coordinates: jax.Array) -> jax.Array:
    """Resamples in the plain form, with one gather per corner and all derivatives left to JAX."""
    padded = jnp.pad(images, ((0, 0), *((1, 1),) * 3, (0, 0)))
    sizes = np.array(images.shape[1:-1], np.float32)
    position = jnp.clip(coordinates, -1, sizes)
    lower = jnp.minimum(jnp.floor(position), sizes - 1)
    fraction = position - jax.lax.stop_gradient(lower)
    read = jax.vmap(lambda image, index: image[tuple(jnp.moveaxis(index, -1, 0))])
    total = jnp.zeros(())
    for corner in itertools.product((0, 1), repeat=3):
        weight = math.prod(fraction[..., d] if up else 1 - fraction[..., d] for d, up in enumerate(corner))
        total = total + weight[..., None] * read(padded, lower.astype(jnp.int32) + 1 + np.array(corner))
    return total


def problem() -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns images, smooth displacements of a few voxels, and a cotangent."""
    images, cotangent = jax.random.normal(jax.random.key(0), (2, _BATCH, *_SHAPE, 1))
    control_points = 3 * jax.random.normal(jax.random.key(1), (_BATCH, *warp.bspline_control_shape(_SHAPE, 16), 3))
    return images, warp.bspline_displacement(control_points, _SHAPE, spacing=16), cotangent


@pytest.mark.parametrize("gradient", ["forward", "by image", "by coordinates", "by both"])
@pytest.mark.parametrize("resample", [warp.resample, _resample_all_corners_at_once], ids=["ours", "all at once"])
def test_resample(benchmark, resample, gradient):
    images, displacement, cotangent = problem()
    coordinates = warp.voxel_grid(_SHAPE) + displacement
    if gradient == "forward":
        return measure(benchmark, resample, images, coordinates)
    by = {"by image": 0, "by coordinates": 1, "by both": (0, 1)}[gradient]
    loss = jax.value_and_grad(lambda *arguments: jnp.vdot(resample(*arguments), cotangent), argnums=by)
    measure(benchmark, loss, images, coordinates)


@pytest.mark.parametrize("kind", ["affine", "bspline of spacing 8", "bspline of spacing 16"])
def test_transformer_with_gradient(benchmark, kind):
    """Times the computation from the parameters on, which an STN adds to a training step."""
    images, _, cotangent = problem()
    if kind == "affine":
        parameters = 0.1 * jax.random.normal(jax.random.key(2), (4, _BATCH, 3))

        def transform(images, parameters):
            return warp.warp_affine(images, warp.affine_matrix(*parameters))
    else:
        spacing = int(kind.split()[-1])
        control_shape = warp.bspline_control_shape(_SHAPE, spacing)
        parameters = jax.random.normal(jax.random.key(2), (_BATCH, *control_shape, 3))

        def transform(images, parameters):
            return warp.warp_displacement(images, warp.bspline_displacement(parameters, _SHAPE, spacing=spacing))

    loss = jax.value_and_grad(lambda *arguments: jnp.vdot(transform(*arguments), cotangent), argnums=(0, 1))
    measure(benchmark, loss, images, parameters)


@pytest.mark.parametrize("spacing", [8, 16])
def test_bspline_displacement_with_gradient(benchmark, spacing):
    points = jax.random.normal(jax.random.key(2), (_BATCH, *warp.bspline_control_shape(_SHAPE, spacing), 3))
    loss = jax.value_and_grad(lambda points: jnp.sum(warp.bspline_displacement(points, _SHAPE, spacing=spacing) ** 2))
    measure(benchmark, loss, points)


@pytest.mark.parametrize("measure_of", [warp.jacobian_determinant, warp.bending_energy], ids=lambda f: f.__name__)
@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "with_gradient"])
def test_measures_of_a_field(benchmark, measure_of, gradient):
    _, displacement, _ = problem()
    loss = jax.value_and_grad(lambda displacement: jnp.sum(measure_of(displacement)))
    measure(benchmark, loss if gradient else measure_of, displacement)
