"""Anti-aliasing: against nilearn, a float64 loop, hand-computed widths and what white noise must become."""

import itertools

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nilearn.image import resample_img
from scipy.spatial.transform import Rotation

from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.resampling import lay_on_grid, match_resolution, resample, smoothing_deviations

GRID = named_grid("mni_4mm")
FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian of deviation 1


def finer(times, turn=None):
    """Voxels `times` finer than the grid's along each axis over the same field of view; turned about its middle."""
    times = np.broadcast_to(times, 3).astype(float)
    shape = tuple(np.round(np.array(GRID.shape) * times).astype(int))
    affine = GRID.affine @ np.diag([*(1 / times), 1.0])
    middle = apply_affine(GRID.affine, (np.array(GRID.shape) - 1) / 2)
    if turn is not None:
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, shape


@pytest.mark.parametrize("degrees", [0, 31])
def test_the_width_makes_up_the_difference_of_the_voxels(degrees):
    turn = Rotation.from_euler("xyz", [degrees, -degrees / 2, degrees / 3], degrees=True).as_matrix()
    source = np.eye(4)
    source[:3, :3] = turn @ np.diag([1.0, 2.0, 6.0])
    found = smoothing_deviations(source, np.diag([4.0, 4, 4, 1]))
    np.testing.assert_allclose(found * [1, 2, 6] * FWHM, [np.sqrt(16 - 1), np.sqrt(16 - 4), 0], atol=1e-9)


def test_a_grid_of_unequal_sides_is_measured_along_the_sources_axes():
    swapped = np.array([[0, 0, 1.0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])  # axes y, z, x of 1 mm
    found = smoothing_deviations(swapped, np.diag([2.0, 3, 5, 1]))
    np.testing.assert_allclose(found * FWHM, np.sqrt(np.array([9, 25, 4]) - 1.0))
    diagonal = Rotation.from_euler("z", 45, degrees=True).as_matrix()
    oblique = np.eye(4)
    oblique[:3, :3] = diagonal
    found = smoothing_deviations(oblique, np.diag([2.0, 4, 1, 1]))
    np.testing.assert_allclose(found * FWHM, np.sqrt([10 - 1, 10 - 1, 0]), atol=1e-9)  # (2^2 + 4^2) / 2


def test_voxels_of_one_size_are_not_smoothed():
    for turn in (None, Rotation.from_euler("xyz", [12, 5, -7], degrees=True).as_matrix()):
        assert not smoothing_deviations(finer(1, turn)[0].astype(np.float32).astype(float), GRID.affine).any()
        assert not smoothing_deviations(finer(0.5, turn)[0], GRID.affine).any()


def smoothed_slowly(values, deviations):
    """The kernel written out: a float64 loop over voxels and taps, the image continued by its outermost voxels."""
    result = values.astype(np.float64)
    for axis, deviation in enumerate(deviations):
        if not deviation:
            continue
        radius = int(4 * deviation + 0.5)
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
        before, result = result, np.zeros_like(result)
        for index in itertools.product(*map(range, values.shape)):
            for tap, weight in zip(range(-radius, radius + 1), weights / weights.sum(), strict=True):
                there = list(index)
                there[axis] = min(max(index[axis] + tap, 0), values.shape[axis] - 1)
                result[index] += weight * before[tuple(there)]
    return result


def test_smoothing_is_the_gaussian_of_a_slow_loop():
    values = np.random.default_rng(0).normal(50, 20, (7, 8, 5)).astype(np.float32)
    image = nibabel.Nifti1Image(values, np.diag([1.0, 2, 4, 1]))
    made = match_resolution(image, np.diag([4.0, 4, 4, 1]))
    deviations = [np.sqrt(15) / FWHM, np.sqrt(12) / FWHM / 2, 0]
    np.testing.assert_allclose(np.asarray(made.dataobj), smoothed_slowly(values, deviations), rtol=2e-6)


@pytest.mark.parametrize("times", [2, 3, 4])
@pytest.mark.parametrize("phase", [0.0, 0.5])
def test_white_noise_loses_what_a_gaussian_takes(times, phase):
    affine, shape = finer(times)
    affine[:3, 3] += phase * 4 / times
    noise = np.random.default_rng(times).normal(size=shape).astype(np.float32)
    left = lay_on_grid(nibabel.Nifti1Image(noise, affine), GRID)[4:-4, 4:-4, 4:-4].std()
    deviation = np.sqrt(times**2 - 1) / FWHM
    expected = (2 * np.sqrt(np.pi) * deviation) ** -1.5  # of a white-noise field under a Gaussian, in three dimensions
    # Interpolation between voxels takes some more, at most a third here; a box over the same voxels leaves times^-1.5.
    assert 0.65 * expected < left < 1.1 * expected and left < times**-1.5


def test_a_wave_that_the_grid_cannot_hold_does_not_fold_into_one_that_it_can():
    affine, shape = finer(4)
    place_mm = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))[..., 0]
    for period_mm, least, most in ((32, 0.88, 1.0), (16, 0.6, 0.85), (5, 0, 0.15)):
        wave = np.sin(2 * np.pi * place_mm / period_mm).astype(np.float32)
        amplitude = lay_on_grid(nibabel.Nifti1Image(wave, affine), GRID)[4:-4, 4:-4, 4:-4].std() * np.sqrt(2)
        assert least <= amplitude <= most, (period_mm, amplitude)


def smooth_head(affine, shape):
    place = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    return (100 + 40 * np.sin(place / [9, 11, 13]).sum(axis=-1)).astype(np.float32)


def test_how_the_source_is_turned_does_not_matter():
    turn = Rotation.from_euler("xyz", [17, -9, 24], degrees=True).as_matrix()
    upright, oblique = (
        lay_on_grid(nibabel.Nifti1Image(smooth_head(*finer(2, way)), finer(2, way)[0]), GRID) for way in (None, turn)
    )
    middle = (slice(14, 36), slice(14, 44), slice(14, 34))
    np.testing.assert_allclose(oblique[middle], upright[middle], atol=1.5)
    assert np.abs(oblique - upright)[middle].mean() < 0.3 < upright[middle].std() / 30


def test_an_affine_that_scales_changes_the_kernel_too():
    """An image of 4 mm that is aligned by halving its size is one of 2 mm."""
    affine, shape = finer(2)
    values = np.random.default_rng(0).uniform(50, 100, shape).astype(np.float32)
    doubled = np.diag([2.0, 2, 2, 1])
    straight = lay_on_grid(nibabel.Nifti1Image(values, affine), GRID)
    aligned = lay_on_grid(nibabel.Nifti1Image(values, doubled @ affine), GRID, np.linalg.inv(doubled))
    np.testing.assert_allclose(aligned, straight, rtol=1e-5)


@pytest.mark.parametrize("times", [1, 0.5, 0.8])
def test_what_is_not_finer_comes_out_as_nilearn_makes_it_bit_by_bit(times):
    turn = Rotation.from_euler("xyz", [5, 3, -4], degrees=True).as_matrix()
    affine, shape = finer(times, turn)
    image = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=shape).astype(np.float32), affine)
    options = dict(interpolation="linear", copy_header=True, force_resample=True)
    expected = resample_img(image, target_affine=GRID.affine, target_shape=GRID.shape, **options)
    np.testing.assert_array_equal(lay_on_grid(image, GRID), np.asarray(expected.dataobj))
    on_it = nibabel.Nifti1Image(np.random.default_rng(1).normal(size=GRID.shape).astype(np.float32), GRID.affine)
    np.testing.assert_array_equal(lay_on_grid(on_it, GRID), np.asarray(on_it.dataobj))


def test_a_stripped_brain_neither_grows_nor_shrinks():
    affine, shape = finer(4)
    place = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    ball = np.linalg.norm(place - [0, -18, 5], axis=-1) < 50
    laid = lay_on_grid(nibabel.Nifti1Image(np.where(ball, 100, 0).astype(np.float32), affine), GRID)
    assert (laid != 0).sum() * 64 == pytest.approx(4 / 3 * np.pi * 50**3, rel=0.01)
    distance = np.linalg.norm(apply_affine(GRID.affine, np.argwhere(laid)) - [0, -18, 5], axis=1)
    assert distance.max() < 52.5 and laid.max() == pytest.approx(100, rel=1e-5)
    assert laid[laid != 0].min() > 45  # half of it is brain, where it is brain at all


def test_a_slab_stays_bright_up_to_its_ends_and_nan_counts_as_empty():
    affine, shape = finer(2)
    values = np.full(shape, 80, np.float32)
    slab = nibabel.Nifti1Image(
        values[:, :, 30:60], affine @ np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 30], [0, 0, 0, 1]])
    )
    laid = lay_on_grid(slab, GRID)
    np.testing.assert_allclose(laid[5:-5, 5:-5, 15:30], 80, rtol=1e-5)
    assert not laid[:, :, :14].any() and not laid[:, :, 31:].any()
    holes = values.copy()
    holes[:40] = np.nan
    empty = np.where(np.isnan(holes), 0, holes)
    made, expected = (match_resolution(nibabel.Nifti1Image(one, affine), GRID.affine) for one in (holes, empty))
    np.testing.assert_array_equal(np.asarray(made.dataobj), np.asarray(expected.dataobj))


def test_elsewhere_there_is_nothing():
    far = GRID.affine.copy()
    far[0, 3] += 5000
    assert not resample(nibabel.Nifti1Image(np.ones(GRID.shape, np.float32), far), GRID.affine, GRID.shape).any()
