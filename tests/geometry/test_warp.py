import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
import scipy.ndimage
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from scipy.spatial.transform import Rotation

from eqpool.geometry import warp
from eqpool.geometry.resample import _cells

# Compiled once a shape: quicker than one operation at a time.
affine_matrix, invert_affine, compose_affine = map(
    jax.jit, (warp.affine_matrix, warp.invert_affine, warp.compose_affine)
)
affine_displacement = jax.jit(warp.affine_displacement, static_argnums=1)
resample, warp_affine, warp_displacement = map(jax.jit, (warp.resample, warp.warp_affine, warp.warp_displacement))
jacobian_determinant, bending_energy = map(jax.jit, (warp.jacobian_determinant, warp.bending_energy))

# Odd, even and single: few, so that most tests find their functions compiled.
SHAPES = ((5, 8), (1, 4), (4, 5, 7), (3, 1, 4))
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
dimensions = pytest.mark.parametrize("shape", [(5, 8), (4, 5, 7)], ids=["2D", "3D"])


def images_of(shape, *, seed: int = 0, count: int = 2, channels: int = 2, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *shape, channels)).astype(dtype)


def fields_of(shape, *, seed: int = 1, size: float = 2.0, batch: tuple[int, ...] = (2,), dtype=np.float32):
    return np.random.default_rng(seed).normal(scale=size, size=(*batch, *shape, len(shape))).astype(dtype)


def smooth_images(shape, *, width: float) -> np.ndarray:
    """Float32 noise of the given width, of size 1, one channel."""
    noise = np.random.default_rng(3).normal(size=(2, *shape, 1))
    images = scipy.ndimage.gaussian_filter(noise, (0, *(width,) * len(shape), 0))
    return (images / np.abs(images).max()).astype(np.float32)


def parameters_of(dimensions: int, *, seed: int = 2, batch: tuple[int, ...] = (2,), size: float = 0.3) -> tuple:
    """Translation, rotation, log_scale and shear."""
    num_angles = 1 if dimensions == 2 else 3
    sizes = (dimensions, num_angles, dimensions, num_angles)
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(scale=size, size=(*batch, k)).astype(np.float32) for k in sizes)


def matrices_of(dimensions: int, **options) -> jax.Array:
    return affine_matrix(*parameters_of(dimensions, **options))


def homogeneous(matrix) -> np.ndarray:
    """(..., D, D + 1) as float64 (..., D + 1, D + 1)."""
    matrix = np.asarray(matrix, np.float64)
    last = np.broadcast_to(np.eye(matrix.shape[-1])[-1:], (*matrix.shape[:-2], 1, matrix.shape[-1]))
    return np.concatenate([matrix, last], axis=-2)


def voxel_grid_float64(shape) -> np.ndarray:
    return np.moveaxis(np.indices(shape), 0, -1).astype(np.float64)


def resample_float64(images, coordinates, fill: float) -> np.ndarray:
    images, coordinates = np.asarray(images, np.float64), np.asarray(coordinates, np.float64)
    return np.stack(
        [
            np.stack(
                [
                    scipy.ndimage.map_coordinates(channel, np.moveaxis(at, -1, 0), None, 1, "grid-constant", fill)
                    for channel in np.moveaxis(image, -1, 0)
                ],
                axis=-1,
            )
            for image, at in zip(images, coordinates, strict=True)
        ]
    )


# Affine maps


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_affine_matrix_is_the_product_of_its_parts(dimensions, batch):
    translation, rotation, log_scale, shear = parameters_of(dimensions, batch=batch)
    matrix = affine_matrix(translation, rotation, log_scale, shear)
    assert matrix.shape == (*batch, dimensions, dimensions + 1)
    for index in np.ndindex(batch):
        turn, axes = (rotation_float64(angles[index]) for angles in (rotation, shear))
        offset = np.eye(dimensions + 1)
        offset[:-1, -1] = translation[index]
        linear = axes @ np.diag(np.exp(log_scale[index].astype(np.float64))) @ axes.T @ turn
        parts = homogeneous(np.concatenate([linear, np.zeros((dimensions, 1))], axis=1))
        np.testing.assert_allclose(homogeneous(matrix[index]), parts @ offset, atol=1e-6)


def rotation_float64(angles: np.ndarray) -> np.ndarray:
    if len(angles) == 3:
        return Rotation.from_euler("XYZ", angles).as_matrix()
    cosine, sine = np.cos(np.float64(angles[0])), np.sin(np.float64(angles[0]))
    return np.array([[cosine, -sine], [sine, cosine]])


@pytest.mark.parametrize("dimensions", [2, 3])
def test_zero_parameters_and_shear_alone_give_exactly_the_identity(dimensions):
    translation, rotation, log_scale, shear = (np.zeros_like(p) for p in parameters_of(dimensions))
    for turned in (shear, shear + np.float32(0.7)):
        matrix = affine_matrix(translation, rotation, log_scale, turned)
        np.testing.assert_array_equal(homogeneous(matrix), np.stack(2 * [np.eye(dimensions + 1)]))


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_inverse_and_composition(dimensions, batch):
    matrix, other = (matrices_of(dimensions, seed=seed, batch=batch) for seed in (5, 6))
    inverse = invert_affine(matrix)
    np.testing.assert_allclose(homogeneous(inverse), np.linalg.inv(homogeneous(matrix)), atol=2e-6)
    product = compose_affine(matrix, other)
    np.testing.assert_allclose(homogeneous(product), homogeneous(matrix) @ homogeneous(other), atol=2e-6)
    for round_trip in (compose_affine(matrix, inverse), compose_affine(inverse, matrix)):
        expected = np.broadcast_to(np.eye(dimensions, dimensions + 1), matrix.shape)
        np.testing.assert_allclose(round_trip, expected, atol=2e-6)


def test_the_inverse_of_a_singular_map_is_not_finite():
    assert not np.isfinite(invert_affine(np.ones((3, 4), np.float32))).any()


@shapes
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_affine_displacement_moves_normalised_coordinates(shape, batch):
    matrix = matrices_of(len(shape), batch=batch)
    displacement = affine_displacement(matrix, shape)
    assert displacement.shape == (*batch, *shape, len(shape))
    half = (np.array(shape) - 1) / 2
    positions = np.stack(
        np.meshgrid(*[np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape], indexing="ij"), axis=-1
    )
    for index in np.ndindex(batch):
        linear, offset = homogeneous(matrix[index])[:-1, :-1], homogeneous(matrix[index])[:-1, -1]
        expected = (positions @ linear.T + offset - positions) * half
        np.testing.assert_allclose(displacement[index], expected, atol=3e-6)


def test_a_translation_counts_in_halves_of_the_image_along_the_axis_of_its_place():
    image = images_of((5, 9))[:1]
    zero = jnp.zeros((1, 1))
    matrix = affine_matrix(jnp.array([[0.0, 0.25]]), zero, jnp.zeros((1, 2)), zero)
    expected = np.concatenate([image[:, :, 1:], np.full((1, 5, 1, 2), 7.0)], axis=2)  # 0.25 * (9 - 1) / 2 = 1 voxel
    np.testing.assert_allclose(warp_affine(image, matrix, fill=7.0), expected, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_quarter_turn_about_each_axis(axis):
    image = images_of((5, 5, 5))[:1]
    angles = jnp.zeros((1, 3)).at[0, axis].set(jnp.pi / 2)
    matrix = affine_matrix(jnp.zeros((1, 3)), angles, jnp.zeros((1, 3)), jnp.zeros((1, 3)))
    source, target = [(1, 2), (2, 0), (0, 1)][axis]
    # Pull-back: the output at e_source is the image at e_target, so the image turns from target to source.
    expected = np.rot90(image, axes=(1 + target, 1 + source))
    np.testing.assert_allclose(warp_affine(image, matrix), expected, atol=2e-6)


def test_a_positive_log_scale_shrinks_the_image():
    image = np.zeros((1, 9, 9, 1), np.float32)
    image[0, 2:7] = 1
    zero = jnp.zeros((1, 1))
    matrix = affine_matrix(jnp.zeros((1, 2)), zero, jnp.log(jnp.array([[2.0, 1.0]])), zero)
    np.testing.assert_allclose(warp_affine(image, matrix)[0, :, 4, 0], [0, 0, 0, 1, 1, 1, 0, 0, 0], atol=1e-6)


def test_warping_by_a_composition_is_warping_by_the_outer_map_first():
    image = images_of((7, 7))[:1]
    zero = jnp.zeros((1, 1))
    turn = affine_matrix(jnp.zeros((1, 2)), zero + jnp.pi / 2, jnp.zeros((1, 2)), zero)
    shift = affine_matrix(jnp.array([[1 / 3, 0.0]]), zero, jnp.zeros((1, 2)), zero)
    in_turn = warp_affine(warp_affine(image, turn), shift)
    np.testing.assert_allclose(warp_affine(image, compose_affine(turn, shift)), in_turn, atol=3e-6)
    assert np.abs(warp_affine(image, compose_affine(shift, turn)) - in_turn).max() > 0.1


@dimensions
def test_a_warp_and_its_inverse_give_a_smooth_image_back(shape):
    shape = tuple(5 * n for n in shape)
    images = smooth_images(shape, width=4.0)
    matrix = matrices_of(len(shape), size=0.08)
    moved = warp_affine(images, matrix)
    returned = warp_affine(moved, warp.invert_affine(matrix))
    inside = (slice(None), *(slice(n // 4, -(n // 4)) for n in shape))
    assert np.abs(np.asarray(returned) - images)[inside].max() < 0.02
    assert np.abs(np.asarray(moved) - images)[inside].max() > 0.15


# Resampling


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *[(shape, jnp.float32) for shape in (*SHAPES, (64, 49), (64, 10, 8))],
        *[((5, 8), dtype) for dtype in (jnp.bfloat16, jnp.float16)],
    ],
    ids=str,
)
def test_the_identity_returns_the_image_bit_for_bit(shape, dtype):
    images = jnp.asarray(images_of(shape), dtype)
    matrix = affine_matrix(*(np.zeros_like(p) for p in parameters_of(len(shape))))
    control_points = jnp.zeros((2, *warp.bspline_control_shape(shape, 3), len(shape)))
    spline = warp.bspline_displacement(control_points, shape, spacing=3)
    np.testing.assert_array_equal(spline, np.zeros((2, *shape, len(shape))))
    np.testing.assert_array_equal(affine_displacement(matrix, shape), spline)
    result = warp_affine(images, matrix, fill=-3.0)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, images)


def test_warps_outside_of_a_jit_and_under_vmap():
    images, matrices = images_of((5, 8), count=6), matrices_of(2, batch=(6,))
    expected = warp_affine(images, matrices)
    np.testing.assert_allclose(warp.warp_affine(images, matrices), expected, atol=1e-5)
    mapped = jax.jit(jax.vmap(warp.warp_affine))(images.reshape(3, 2, 5, 8, 2), matrices.reshape(3, 2, 2, 3))
    np.testing.assert_allclose(mapped.reshape(expected.shape), expected, atol=1e-5)


@shapes
def test_resample_agrees_with_scipy(shape):
    images = images_of(shape)
    rng = np.random.default_rng(4)
    for out_shape, fill in (((), 0.0), ((3, 2, 4, 5), 4.0)):
        coordinates = rng.uniform(-3, np.array(shape) + 2, size=(2, *out_shape, len(shape))).astype(np.float32)
        result = resample(images, coordinates, fill=fill)
        assert result.shape == (2, *out_shape, 2)
        expected = resample_float64(images, coordinates.reshape(2, -1, len(shape)), fill)
        np.testing.assert_allclose(result, expected.reshape(result.shape), atol=1e-5)


@dimensions
def test_resample_agrees_with_scipy_in_float64(shape):
    with jax.enable_x64(True):
        images = images_of(shape, dtype=np.float64)
        coordinates = voxel_grid_float64(shape) + fields_of(shape, dtype=np.float64)
        result = resample(images, coordinates, fill=0.5)
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, resample_float64(images, coordinates, 0.5), atol=1e-12)
        half = resample(images.astype(np.float32), coordinates)
        assert half.dtype == np.float32


@shapes
def test_warps_agree_with_scipy(shape):
    images, displacement, matrix = images_of(shape), fields_of(shape), matrices_of(len(shape))
    for result, field in (
        (warp_displacement(images, displacement, fill=2.0), displacement),
        (warp_affine(images, matrix, fill=2.0), np.asarray(affine_displacement(matrix, shape))),
    ):
        expected = resample_float64(images, voxel_grid_float64(shape) + field, 2.0)
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_at_the_border_the_image_fades_to_the_fill():
    image = np.full((1, 3, 3, 1), 2.0, np.float32)
    rows = np.array([-1.5, -1.0, -0.75, 0.0, 2.0, 2.25, 3.0, 9.0], np.float32)
    coordinates = np.stack([rows, np.ones_like(rows)], axis=-1)[None]
    result = resample(image, coordinates, fill=10.0)[0, :, 0]
    np.testing.assert_allclose(result, [10, 10, 8, 2, 2, 4, 10, 10], atol=1e-6)


@dimensions
def test_far_and_undefined_coordinates(shape):
    images = images_of(shape)
    value_and_gradients = jax.jit(
        jax.value_and_grad(lambda *arguments: jnp.sum(warp.resample(*arguments, fill=3.0)), argnums=(0, 1))
    )
    for far in (-1e30, -np.inf, 1e9, np.inf):
        coordinates = np.full((2, 1, len(shape)), 1.0, np.float32)
        coordinates[..., -1] = far
        value, (by_image, by_coordinates) = value_and_gradients(images, coordinates)
        assert value == pytest.approx(4 * 3.0)
        np.testing.assert_array_equal(by_image, np.zeros_like(images))
        np.testing.assert_array_equal(by_coordinates, np.zeros_like(coordinates))
    coordinates = np.full((2, 2, len(shape)), 1.0, np.float32)
    coordinates[:, 0, 0] = np.nan
    result = np.asarray(resample(images, coordinates))
    assert np.isnan(result[:, 0]).all()
    np.testing.assert_array_equal(result[:, 1], images[(slice(None), *(1,) * len(shape))])


def points_inside_cells(shape) -> np.ndarray:
    """Float64 coordinates (2, 15, D) off the grid lines, some in the cells that fade to the fill."""
    rng = np.random.default_rng(5)
    cells = rng.integers(-1, shape, size=(2, 15, len(shape)))
    return cells + rng.uniform(0.1, 0.9, size=cells.shape)


@dimensions
def test_gradients_of_resample_are_the_differences_of_scipys(shape):
    rng = np.random.default_rng(6)
    points = images_of(shape, dtype=np.float64), points_inside_cells(shape)
    tangents = tuple(rng.normal(size=x.shape) for x in points)
    weight = rng.normal(size=(2, 15, 2))

    def value(images, coordinates):
        return jnp.sum(warp.resample(images, coordinates, fill=0.7) * weight)

    with jax.enable_x64(True):
        gradients = jax.jit(jax.grad(value, argnums=(0, 1)))(*points)
        _, pushed = jax.jit(lambda *both: jax.jvp(value, *both))(points, tangents)
    steps = ((1.0, 0.0), (0.0, 1e-4))  # linear in the images, of degree D in the coordinates
    expected = []
    for scales in steps:
        ahead, behind = (
            resample_float64(*(x + sign * h * t for x, t, h in zip(points, tangents, scales, strict=True)), 0.7)
            for sign in (1, -1)
        )
        expected.append(np.sum((ahead - behind) * weight) / (2 * max(scales)))
    for gradient, tangent, difference in zip(gradients, tangents, expected, strict=True):
        assert np.sum(np.asarray(gradient) * tangent) == pytest.approx(difference, rel=1e-6)
    assert float(pushed) == pytest.approx(sum(expected), rel=1e-6)


def test_gradients_of_resample_in_both_modes_and_to_second_order(shape=(5, 8)):
    with jax.enable_x64(True):
        points = jnp.asarray(images_of(shape, dtype=np.float64)), jnp.asarray(points_inside_cells(shape))

        def value(images, coordinates):
            return jnp.sum(warp.resample(images, coordinates, fill=0.7) ** 2)

        check_grads(jax.jit(value), points, order=1, eps=1e-5, atol=1e-6, rtol=1e-6)
        gradient = jax.jit(jax.grad(value, argnums=(0, 1)))
        check_grads(gradient, points, order=1, modes=("fwd",), eps=1e-5, atol=1e-6, rtol=1e-6)


def test_many_points_in_one_voxel_add_up_in_the_gradient():
    images, coordinates = jnp.zeros((1, 3, 3, 1)), jnp.full((1, 1000, 2), 1.0)
    gradient = jax.grad(lambda images: jnp.sum(resample(images, coordinates)))(images)
    np.testing.assert_array_equal(gradient[0, :, :, 0], 1000 * np.eye(3)[1] * np.eye(3)[1][:, None])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_images_are_interpolated_in_float32(dtype, shape=(5, 8)):
    images, displacement = jnp.asarray(images_of(shape), dtype), fields_of(shape)
    result, pull = jax.vjp(lambda images: warp_displacement(images, displacement), images)
    single, pull_single = jax.vjp(lambda images: warp_displacement(images, displacement), images.astype(jnp.float32))
    np.testing.assert_array_equal(result, single.astype(dtype))
    (gradient,), (gradient_single,) = pull(result), pull_single(result.astype(jnp.float32))
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(gradient, gradient_single.astype(dtype))


def test_half_precision_displacements_are_added_to_the_grid_in_float32():
    image = np.arange(1000.0, dtype=np.float32).reshape(1, 1000, 1, 1)
    displacement = jnp.zeros((1, 1000, 1, 2), jnp.bfloat16).at[..., 0].set(-0.5)
    np.testing.assert_allclose(warp_displacement(image, displacement)[0, 1:, 0, 0], np.arange(999) + 0.5)


def test_whole_numbers_come_back_as_float32():
    labels = np.arange(12).reshape(1, 3, 4, 1)
    result = resample(labels, np.array([[[0.5, 1.0]]], np.float32))
    assert result.dtype == jnp.float32 and result[0, 0, 0] == 3.0


def all_of_it(images, displacement, parameters, control_points):
    """One number of all that the module computes."""
    shape = images.shape[1:-1]
    matrix = warp.affine_matrix(*parameters)
    returned = warp.compose_affine(warp.invert_affine(matrix), warp.compose_affine(matrix, matrix))
    field = displacement + warp.bspline_displacement(control_points, shape, spacing=2)
    terms = (
        warp.warp_displacement(images, field + warp.affine_displacement(returned, shape), fill=0.3),
        warp.jacobian_determinant(field),
        warp.bending_energy(field),
        warp.folding_count(field).astype(jnp.float32),
    )
    return sum(jnp.sum(term**2) for term in terms)


@pytest.mark.parametrize("shape", [(5, 8), (3, 1, 4)], ids=str)
def test_gradients_under_jit_and_vmap_are_finite(shape):
    """At the identity, near it, and where everything lies far outside."""
    sizes = np.array([0.0, 0.3, 1e4], np.float32)
    control_shape = (*warp.bspline_control_shape(shape, 2), len(shape))
    translation, *others = parameters_of(len(shape), batch=(3, 2), size=1.0)
    arguments = (
        images_of((2, *shape), count=3),
        sizes.reshape(3, *(1,) * (len(shape) + 2)) * fields_of(shape, batch=(3, 2)),
        (sizes[:, None, None] * translation, *(np.minimum(sizes, 1)[:, None, None] * other for other in others)),
        sizes.reshape(3, *(1,) * (len(shape) + 2)) * images_of((2, *control_shape[:-1]), count=3, channels=len(shape)),
    )
    mapped = jax.jit(jax.vmap(jax.value_and_grad(all_of_it, argnums=(0, 1, 2, 3))))(*arguments)
    for leaf in jax.tree.leaves(mapped):
        assert np.isfinite(leaf).all()


def test_no_coordinate_reads_outside_of_memory():
    """`_resample_padded` promises that to the gather: the first corner at least 0, the last within the padded image."""
    extremes = np.array([-np.inf, -3e38, -1.0, -0.5, 2.0, 3.0, 3.999, 4.0, 5.0, 3e38, np.inf, np.nan], np.float32)
    coordinates = np.array(list(itertools.product(extremes, extremes)))
    padded, strides = (6, 5), np.array([5, 1], np.int32)
    index, fractions = _cells(jnp.asarray(coordinates), list(padded), strides)
    rows, columns = np.divmod(index, 5)
    assert rows.min() == 0 and rows.max() == padded[0] - 2
    assert columns.min() == 0 and columns.max() == padded[1] - 2
    for fraction, values in zip(fractions, coordinates.T, strict=True):
        np.testing.assert_array_equal(np.isnan(fraction), np.isnan(values))
        assert np.nanmin(fraction) == 0 and np.nanmax(fraction) == 1


# Several devices


def warped_square(images, displacement):
    return jnp.sum(warp_displacement(images, displacement, fill=0.5) ** 2)


@pytest.fixture(scope="module")
def sharded_case():
    """A mesh, images and displacements for `warped_square`, and its value and gradients on one device."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    arguments = images_of((4, 5), count=8), fields_of((4, 5), batch=(8,))
    return mesh, arguments, jax.jit(jax.value_and_grad(warped_square, argnums=(0, 1)))(*arguments)


def assert_trees_close(result, expected):
    for leaf, other in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-5)


def test_a_batch_split_over_devices_is_warped_where_it_lies(sharded_case):
    mesh, arguments, expected = sharded_case
    split = NamedSharding(mesh, P("data"))
    step = jax.jit(jax.value_and_grad(warped_square, argnums=(0, 1)), out_shardings=(None, (split, split)))
    arguments = jax.device_put(arguments, split)
    compiled = step.lower(*arguments).compile()
    assert not re.search("all-gather|all-to-all|collective-permute", compiled.as_text())
    assert_trees_close(compiled(*arguments), expected)


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(sharded_case, check_vma):
    mesh, arguments, expected = sharded_case

    def step(images, displacement):
        value, gradients = jax.value_and_grad(warped_square, argnums=(0, 1))(images, displacement)
        return jax.lax.psum(value, "data"), gradients

    mapped = jax.shard_map(step, mesh=mesh, in_specs=P("data"), out_specs=(P(), P("data")), check_vma=check_vma)
    assert_trees_close(jax.jit(mapped)(*arguments), expected)


# B-splines


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [((64, 64, 64), 16, (7, 7, 7)), ((65, 1), 16, (7, 3)), ((28, 29), 4, (10, 10)), ((28, 30), (7, 1), (7, 32))],
)
def test_bspline_control_shape(shape, spacing, expected):
    assert warp.bspline_control_shape(shape, spacing) == expected


@pytest.mark.parametrize(
    ("shape", "spacing"), [((9, 13), 4), ((12, 8), (5, 3)), ((7, 9, 6), (3, 4, 1)), ((5, 1, 9), 8)], ids=str
)
@pytest.mark.parametrize("batch", [(), (2, 1)])
def test_bspline_displacement_is_the_tensor_product_spline(shape, spacing, batch):
    control_shape = warp.bspline_control_shape(shape, spacing)
    with jax.enable_x64(True):
        points = fields_of(control_shape, batch=batch, dtype=np.float64)
        result = np.asarray(warp.bspline_displacement(points, shape, spacing=spacing))
    assert result.shape == (*batch, *shape, len(shape))
    expected = points
    for axis, (size, step) in enumerate(zip(shape, np.broadcast_to(spacing, len(shape)), strict=True), len(batch)):
        expected = spline_float64(expected, step, axis)(np.arange(size))
    np.testing.assert_allclose(result, expected, atol=1e-13)
    single = warp.bspline_displacement(points.astype(np.float32), shape, spacing=spacing)
    np.testing.assert_allclose(single, expected, atol=3e-6)


def spline_float64(points: np.ndarray, spacing: int, axis: int) -> scipy.interpolate.BSpline:
    """The spline along one axis: the cubic that peaks at (k - 1) spacing has its knots from two spacings before on."""
    one_more = [
        (0, int(k == axis)) for k in range(points.ndim)
    ]  # scipy wants four points, of which a voxel needs three
    knots = (np.arange(points.shape[axis] + 5) - 3.0) * spacing
    return scipy.interpolate.BSpline(knots, np.pad(points, one_more), 3, axis=axis)


@dimensions
def test_equal_control_points_move_everything_alike_and_none_is_idle(shape):
    control_shape = (*warp.bspline_control_shape(shape, 3), len(shape))
    field = warp.bspline_displacement(jnp.full(control_shape, 2.5), shape, spacing=3)
    np.testing.assert_allclose(field, 2.5, rtol=1e-6)
    gradient = jax.grad(lambda points: jnp.sum(warp.bspline_displacement(points, shape, spacing=3)))
    assert (np.asarray(gradient(jnp.zeros(control_shape))) > 0).all()


# What a field does to space


def affine_field(dimensions: int, shape) -> tuple[np.ndarray, np.ndarray]:
    """A float32 field x -> B x + c and B."""
    linear = np.random.default_rng(7).normal(scale=0.4, size=(dimensions, dimensions))
    field = voxel_grid_float64(shape) @ linear.T + 1.5
    return field.astype(np.float32), linear


@dimensions
def test_jacobian_determinant_of_an_affine_field_is_exact_up_to_the_border(shape):
    field, linear = affine_field(len(shape), shape)
    result = jacobian_determinant(np.stack([field, 0 * field]))
    assert result.shape == (2, *shape)
    np.testing.assert_allclose(result[0], np.linalg.det(np.eye(len(shape)) + linear), atol=5e-6)
    np.testing.assert_array_equal(result[1], np.ones(shape))


@dimensions
def test_jacobian_determinant_agrees_with_numpy(shape):
    field = fields_of(shape, batch=(), size=0.5)
    gradients = np.gradient(field.astype(np.float64), axis=tuple(range(len(shape))))
    jacobian = np.stack(gradients, axis=-1) + np.eye(len(shape))
    np.testing.assert_allclose(jacobian_determinant(field), np.linalg.det(jacobian), atol=5e-6)


def test_along_an_axis_of_one_voxel_nothing_changes():
    field = np.zeros((4, 1, 5, 3), np.float32)
    field[..., 0] = 0.5 * np.arange(4)[:, None, None]
    np.testing.assert_allclose(jacobian_determinant(field), 1.5, rtol=1e-6)
    assert bending_energy(field) == 0


@dimensions
def test_folding_count(shape):
    grid = voxel_grid_float64(shape).astype(np.float32)
    mirrored, squashed, same = np.zeros((3, *grid.shape), np.float32)
    mirrored[..., 0] = -2 * grid[..., 0]
    squashed[0], squashed[1] = 1, 0  # the first two rows fall on one plane
    squashed = squashed * (np.arange(len(shape)) == 0)
    counts = warp.folding_count(np.stack([mirrored, squashed, same]))
    assert counts.dtype == jnp.int32
    expected = [np.prod(shape), np.sum(jacobian_determinant(squashed) <= 0), 0]
    np.testing.assert_array_equal(counts, expected)
    assert counts[1] == np.prod(shape[1:])


@dimensions
def test_bending_energy_agrees_with_loops(shape):
    field = fields_of(shape, batch=(2,))
    for u, energy in zip(field.astype(np.float64), np.asarray(bending_energy(field)), strict=True):
        assert energy == pytest.approx(bending_energy_by_loops(u), rel=1e-5)


def bending_energy_by_loops(u: np.ndarray) -> float:
    shape = u.shape[:-1]
    energy = 0.0
    for i, j in itertools.product(range(len(shape)), repeat=2):
        squares = []
        for x in np.ndindex(shape):
            e, f = np.eye(len(shape), dtype=int)[[i, j]]
            if np.any(x + e + f >= shape):
                continue
            second = u[tuple(x + e + f)] - u[tuple(x + e)] - u[tuple(x + f)] + u[x]
            squares.append(np.sum(second**2))
        energy += np.mean(squares)
    return energy


def test_bending_energy_of_a_spline_agrees_with_its_second_derivatives():
    shape, spacing = (97, 121), 24
    points = fields_of(warp.bspline_control_shape(shape, spacing), batch=(), size=3.0, dtype=np.float64)
    field = warp.bspline_displacement(points.astype(np.float32), shape, spacing=spacing)
    expected = 0.0
    for orders, times in (((2, 0), 1), ((1, 1), 2), ((0, 2), 1)):
        derivative = points
        for axis, order in enumerate(orders):
            spline = spline_float64(derivative, spacing, axis)
            derivative = spline.derivative(order)(np.arange(shape[axis]))
        expected += times * np.mean(np.sum(derivative**2, axis=-1))
    assert bending_energy(field) == pytest.approx(expected, rel=0.02)


@dimensions
def test_affine_fields_do_not_bend(shape):
    field, _ = affine_field(len(shape), shape)
    assert bending_energy(field) < 1e-11
    translation = np.ones_like(field)
    assert bending_energy(translation) == 0


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: warp.rotation_matrix(jnp.ones(2)), r"angles has shape \(2,\), expected \(..., 1\)"),
        (lambda: warp.rotation_matrix(1.0), r"angles has shape \(\)"),
        (lambda: warp.affine_matrix(*np.ones((4, 4))), r"translation has shape \(4,\), expected \(..., 2\)"),
        (
            lambda: warp.affine_matrix(np.ones(2), np.ones(3), np.ones(2), np.ones(1)),
            r"rotation has shape \(3,\), expected \(1,\)",
        ),
        (
            lambda: warp.affine_matrix(np.ones((5, 3)), np.ones((5, 3)), np.ones((5, 2)), np.ones((5, 3))),
            r"log_scale has shape \(5, 2\), expected \(5, 3\)",
        ),
        (
            lambda: warp.affine_matrix(np.ones((5, 2)), np.ones((5, 1)), np.ones((5, 2)), np.ones((4, 1))),
            r"shear has shape \(4, 1\), expected \(5, 1\)",
        ),
        (lambda: warp.invert_affine(np.ones((3, 3))), r"matrix has shape \(3, 3\), expected \(..., 2, 3\)"),
        (lambda: warp.compose_affine(np.ones(3), np.ones((2, 3))), r"outer has shape \(3,\), expected"),
        (lambda: warp.compose_affine(np.ones((2, 3)), np.ones((3, 4))), r"inner has shape \(3, 4\), expected \(2, 3\)"),
        (lambda: warp.affine_displacement(np.ones((2, 3)), (4, 4, 4)), r"shape is \(4, 4, 4\), expected 2 axes"),
        (
            lambda: warp.warp_affine(np.ones((2, 4, 4, 1)), np.ones((3, 2, 3))),
            r"matrix has shape \(3, 2, 3\), expected \(2, 2, 3\)",
        ),
        (lambda: warp.warp_affine(np.ones((4, 4, 1)), np.ones((2, 3))), r"images has shape \(4, 4, 1\), expected"),
        (
            lambda: warp.warp_displacement(np.ones((2, 4, 4, 1)), np.ones((2, 4, 4, 3))),
            r"displacement has shape \(2, 4, 4, 3\), expected \(2, 4, 4, 2\)",
        ),
        (lambda: warp.resample(np.ones((2, 4, 1)), np.ones((2, 1))), r"images has shape \(2, 4, 1\), expected"),
        (
            lambda: warp.resample(np.ones((2, 4, 4, 1)), np.ones((2, 7, 3))),
            r"coordinates has shape \(2, 7, 3\), expected \(2, ..., 2\)",
        ),
        (lambda: warp.resample(np.ones((2, 4, 4, 1)), np.ones((1, 7, 2))), r"coordinates has shape \(1, 7, 2\)"),
        (
            lambda: warp.resample(np.ones((2, 4, 4, 1)), np.ones((2, 7, 2)), fill=np.zeros(2)),
            r"fill has shape \(2,\), expected a scalar",
        ),
        (lambda: warp.bspline_control_shape((4, 4), 0), "spacing is 0, expected a positive whole number"),
        (lambda: warp.bspline_control_shape((4, 4), 1.5), "spacing is 1.5, expected"),
        (lambda: warp.bspline_control_shape((4, 4), (1, 2, 3)), r"spacing is \(1, 2, 3\), expected .* or 2 of them"),
        (
            lambda: warp.bspline_displacement(np.ones((4, 4, 2)), (9, 9), spacing=4),
            r"control_points has shape \(4, 4, 2\), expected \(..., 5, 5, 2\)",
        ),
        (lambda: warp.bspline_displacement(np.ones((4, 1)), (9,), spacing=4), r"shape is \(9,\), expected two or"),
        (lambda: warp.jacobian_determinant(np.ones((4, 3))), r"displacement has shape \(4, 3\), expected"),
        (lambda: warp.folding_count(np.ones((4, 4, 4))), r"displacement has shape \(4, 4, 4\), expected"),
        (lambda: warp.bending_energy(1.0), r"displacement has shape \(\), expected"),
    ],
)
def test_errors_name_the_argument_and_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
