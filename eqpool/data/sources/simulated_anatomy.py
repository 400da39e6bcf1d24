"""Simulates scanner-free brains: nilearn's packaged MNI152 anatomy with effects of age, disease and individuality.

Age widens the ventricles and thins cortical grey matter. Disease shrinks the hippocampi, widens the temporal horns
beside them and adds a little to both effects of age. Each subject has a smooth deformation and tissue variation.
Intensities: 0 outside the brain, about 0.28 fluid, 0.66 grey, 0.88 white (least-squares levels of the template).
"""

import dataclasses

import numpy as np
from nibabel.affines import apply_affine
from nilearn import datasets
from scipy import ndimage

from eqpool.data.volumes.inputs import Grid

FLUID, GREY, WHITE = 0.28, 0.66, 0.88
REFERENCE_AGE_YEARS = 65.0
_SOURCE_MM = 2  # resolution at which the template is read
_HIPPOCAMPUS_MM = ((27.0, -20.0, -14.0), (8.0, 17.0, 8.0))  # centre (right; the left is its mirror) and radii
_TEMPORAL_HORN_MM = ((35.0, -18.0, -13.0), (5.0, 17.0, 6.0))
_VENTRICLES_MM = ((0.0, -12.0, 14.0), (32.0, 46.0, 26.0))
_MODES = 4  # cosine modes along each axis of the smooth random fields
_GYRUS_MM = 6.0
_FRONT_MM = 30.0  # length over which the sexes' difference in grey matter turns from back to front
_NEIGHBOURHOOD_MM = 8.0  # margin around the brain mask that a deformation may pull in


@dataclasses.dataclass(frozen=True)
class Subject:
    """The properties of one brain.

    Attributes:
      brain_age: effective age in years, the subject's own age plus the amount by which the brain looks older.
      severity: severity of medial temporal atrophy, 0 if healthy and about 1 in a patient.
      seed: seed of the individual deformation and tissue variation.
      individuality: scale of both, 0 for the average subject.
      maleness: about 1 in men and -1 in women. Higher values give a larger brain, with grey matter that is thinner in
        front and thicker behind.
    """

    brain_age: float
    severity: float
    seed: tuple[int, ...]
    individuality: float = 1.0
    maleness: float = 0.0


class Canvas:
    """The points of a grid near a brain, with smooth random fields over them."""

    def __init__(self, grid: Grid):
        """Finds the points near the brain mask of `grid`."""
        self.grid = grid
        self.voxel_mm = np.sqrt((grid.affine[:3, :3] ** 2).sum(axis=0))
        reach = int(np.ceil(_NEIGHBOURHOOD_MM / self.voxel_mm.min()))
        self.near = ndimage.binary_dilation(grid.mask, iterations=reach)
        self.points_mm = apply_affine(grid.affine, np.argwhere(self.near)).astype(np.float32)
        self._modes, self._mode_scale = _cosine_modes(self.points_mm)

    def smooth_field(self, random: np.random.Generator, count: int = 1) -> np.ndarray:
        """Draws `count` random fields, (points, count) float32, with unit variance and a length scale of some 40 mm."""
        weights = random.standard_normal((self._modes.shape[1], count)).astype(np.float32)
        return self._modes @ (weights * self._mode_scale[:, None])

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Returns a volume with `values` at the points near the brain and 0 elsewhere."""
        volume = np.zeros(self.grid.shape, np.float32)
        volume[self.near] = values
        return volume


class Anatomy(Canvas):
    """The template sampled near the voxels of a grid, and the directions in which age, sex and disease change it.

    Everything that does not depend on the subject is computed once here, so that `brain` costs a few interpolations.
    """

    def __init__(self, grid: Grid):
        """Reads the packaged template, for volumes on `grid`."""
        super().__init__(grid)
        self._read_template(float(self.voxel_mm.mean()))
        self._outward = self._ventricle_field()
        self._hippocampus = _both_sides(self.points_mm, *_HIPPOCAMPUS_MM)
        self._horn = _both_sides(self.points_mm, *_TEMPORAL_HORN_MM)
        self._front = np.tanh(self.points_mm[:, 1] / _FRONT_MM)

    def brain(self, subject: Subject) -> np.ndarray:
        """Returns a subject's scanner-free brain, (points,) float32 in [0, 1], 0 outside. `on_grid` makes a volume."""
        random = np.random.default_rng(subject.seed)
        years = subject.brain_age - REFERENCE_AGE_YEARS
        fields = self.smooth_field(random, 4)
        local = self._local_field(random)
        widening_mm = 0.085 * years + 0.5 * subject.severity
        shift_mm = subject.individuality * (2.2 * fields[:, :3] + self._scaling_mm(random))
        shift_mm -= 0.01 * subject.maleness * self.points_mm  # the part of a brain 11 % larger that alignment leaves
        t1, grey, inside = self._sample(self.points_mm + shift_mm - widening_mm * self._outward)
        own_thinning = subject.individuality * (0.05 * fields[:, 3] + 0.04 * local)
        thinning = 0.13 + 0.0085 * years + 0.02 * subject.severity + own_thinning
        thinning = thinning + 0.04 * subject.maleness * self._front
        # Lost grey matter becomes fluid. Deep nuclei and the white matter hardly thin.
        t1 = t1 + (FLUID - GREY) * grey * np.clip(thinning, -0.3, 0.9)
        lost = np.clip(subject.severity * (0.75 * self._hippocampus * grey + 0.7 * self._horn), -0.3, 0.9)
        t1 = t1 + (FLUID - t1) * lost
        return np.where(inside > 0.5, np.clip(t1, 0.02, 1), 0).astype(np.float32)

    def _local_field(self, random: np.random.Generator) -> np.ndarray:
        """Draws a field, (points,), with unit variance and the length scale of a gyrus."""
        sigma = _GYRUS_MM / self.voxel_mm
        white = random.standard_normal(self.grid.shape, dtype=np.float32)
        # Smoothing white noise divides its variance by (2 sqrt(pi) sigma) along each axis.
        return ndimage.gaussian_filter(white, sigma, truncate=3)[self.near] * np.prod(
            np.sqrt(2 * np.sqrt(np.pi) * sigma)
        )

    def _scaling_mm(self, random: np.random.Generator) -> np.ndarray:
        return self.points_mm * (0.015 * random.standard_normal(3).astype(np.float32))

    def _read_template(self, voxel_mm: float) -> None:
        template = datasets.load_mni152_template(resolution=_SOURCE_MM)
        self._to_template = np.linalg.inv(template.affine)
        self._template_affine = template.affine
        # A voxel of a coarser grid holds the average of the tissue that it covers.
        sigma = 0.35 * max(0.0, voxel_mm / _SOURCE_MM - 1)
        loaders = (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template, datasets.load_mni152_brain_mask)
        images = [template, *(load(resolution=_SOURCE_MM) for load in loaders)]
        t1, grey, white, mask = (image.get_fdata().astype(np.float32) for image in images)
        self._fluid = np.clip(1 - grey - white, 0, 1) * mask
        # Beyond the brain's edge the template is 0, and a deformation would pull in a dark rim instead of fluid.
        t1 = np.where(mask > 0, t1, FLUID)
        self._maps = [ndimage.gaussian_filter(values, sigma) for values in (t1, grey)] + [mask]

    def _sample(self, points_mm: np.ndarray) -> list[np.ndarray]:
        coordinates = apply_affine(self._to_template, points_mm).T
        return [ndimage.map_coordinates(values, coordinates, order=1, mode="nearest") for values in self._maps]

    def _ventricle_field(self) -> np.ndarray:
        """Returns vectors away from the ventricles, (points, 3), of length 1 at the wall and fading with distance."""
        voxels = np.moveaxis(np.indices(self._fluid.shape, dtype=np.float32), 0, -1)
        centre, radii = _VENTRICLES_MM
        positions = apply_affine(self._template_affine, voxels)
        region = (((positions - centre) / np.array(radii)) ** 2).sum(axis=-1) < 1
        ventricles = region & (self._fluid > 0.5)
        distance = ndimage.distance_transform_edt(~ventricles) - ndimage.distance_transform_edt(ventricles)
        distance_mm = ndimage.gaussian_filter(distance * _SOURCE_MM, 1.0)
        gradient = np.stack(np.gradient(distance_mm, _SOURCE_MM), axis=0)
        gradient *= np.exp(-np.clip(distance_mm, 0, None) / 14.0)
        coordinates = apply_affine(self._to_template, self.points_mm).T
        sampled = [ndimage.map_coordinates(axis, coordinates, order=1, mode="nearest") for axis in gradient]
        return np.stack(sampled, axis=1).astype(np.float32)


def _both_sides(points_mm: np.ndarray, centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    """Returns a smooth bump in [0, 1] around a centre and its mirror image."""
    mirrored = np.stack([np.abs(points_mm[:, 0]), points_mm[:, 1], points_mm[:, 2]], axis=1)
    return np.exp(-((((mirrored - centre) / np.array(radii)) ** 2).sum(axis=1) ** 2)).astype(np.float32)


def _cosine_modes(points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (points, modes) products of cosines over the bounding box, and (modes,) scales falling with frequency."""
    low, high = points_mm.min(axis=0), points_mm.max(axis=0)
    unit = (points_mm - low) / (high - low)
    orders = np.argwhere(np.ones((_MODES,) * 3))[1:]
    axes = [np.cos(np.pi * unit[:, axis, None] * np.arange(_MODES)).astype(np.float32) for axis in range(3)]
    modes = axes[0][:, orders[:, 0]] * axes[1][:, orders[:, 1]] * axes[2][:, orders[:, 2]]
    scale = 1 / (2.0 + (orders**2).sum(axis=1))
    variance = ((modes * scale) ** 2).sum(axis=1).mean()
    return modes, (scale / np.sqrt(variance)).astype(np.float32)
