"""Estimates each scanner's effect on the voxels of prepared volumes, and removes it before training.

Covariates and target are regressed out beside the sites. What a site's volumes differ by on average, and how much more
or less they vary, is smoothed over neighbouring voxels and shrunk towards "no scanner effect". Applying the calibration
needs neither covariates nor target, and without a site the effects of all sites are weighted by how probable each is.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from eqpool.data.site_effects.discriminant import SiteDiscriminant, orthonormal
from eqpool.data.site_effects.moments import OpenStream, centred_terms, fit_site_model, site_index, terms_about
from eqpool.data.site_effects.passes import FirstPass, WatchedStream
from eqpool.data.site_effects.shading import Shading
from eqpool.data.site_effects.smoothing import BrainSmoother
from eqpool.data.site_effects.voxel_estimates import (
    FEW_SMOOTHING_MM,
    FEWEST_CONTROLS_FOR_SCALE,
    SCALE_PRIOR_ROWS,
    Smoothers,
    estimate_effects,
    mean_of_people,
    shrunk_mean,
    smooth_log_scale,
)
from eqpool.data.tables.coding import UNKNOWN
from eqpool.data.tables.levels import same_labels
from eqpool.errors import InputError


@dataclasses.dataclass(frozen=True)
class VoxelCalibration:
    """The effects of S sites at the V voxels of a brain mask.

    Attributes:
      mask: bool volume, the brain mask.
      voxel_mm: (3,) float64, size of a voxel.
      sites: names of the sites.
      rows: (S,) number of training volumes of each site.
      reference: site whose volumes stay as they are, "" for the average of all sites.
      term_mean: (P,) float64, means of the covariates and of the target's columns.
      coefficients: (P, V) float64, effects of covariates and target, which are kept.
      mean: (V,) float64, mean volume of the average site, or of the reference.
      variance: (V,) float64, pooled variance about the fit.
      location: (S, V) float64, each site's offset, smoothed and shrunk.
      log_scale: (S, V) float64, natural logarithm of each site's deviation over the pooled one, smoothed and shrunk; 0
        if only locations are corrected.
      shading: the correction of each scan's own shading, None if only locations are corrected.
      discriminant: predicts a volume's site.
    """

    mask: np.ndarray
    voxel_mm: np.ndarray
    sites: tuple[str, ...]
    rows: np.ndarray
    reference: str
    term_mean: np.ndarray
    coefficients: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    location: np.ndarray
    log_scale: np.ndarray
    shading: Shading | None
    discriminant: SiteDiscriminant

    @classmethod
    def fit_stream(
        cls,
        open_stream: OpenStream,
        site: np.ndarray,
        covariates: np.ndarray,
        target: np.ndarray | None = None,
        *,
        mask: np.ndarray,
        voxel_mm: np.ndarray,
        zero: float,
        scales: bool = True,
        reference: str = "",
        subject: np.ndarray | None = None,
    ) -> "VoxelCalibration":
        """Learns the effects in three passes over streamed volumes.

        Memory grows with the number of voxels, sites and terms, but not with the number of volumes. The first pass
        takes the mean volume, of which the shading needs to know, and the other two are those of `fit_site_model`.
        Repeated volumes of a person share a random intercept at each voxel. All voxels share one ratio of the variance
        between persons to that within a person, because a voxel's own would be noisy and differ from its neighbours'.

        Args:
          open_stream: opens a stream of (rows (n,), values (n, V)), z-scores at the mask's voxels, each row once. Rows
            of a person should follow each other, or they wait in memory.
          site: (N,) names. Rows with "" are left out and need not be in the stream.
          covariates: (N, C) covariates whose effects are kept. C may be 0.
          target: (N, K) columns whose effects are kept, such as 0-1 columns of classes, NaN where unknown.
          mask: bool volume with V True voxels.
          voxel_mm: (3,) size of a voxel.
          zero: z-score of an intensity of 0, for the shading.
          scales: whether each site's scale and each scan's own shading are corrected beside the location.
          reference: site whose volumes stay as they are and whose look the others take, "" for the average.
          subject: (N,) labels of persons. None if every row is another person's.

        Raises:
          ValueError: no row has a known site, or none that of the reference.
        """
        used = np.asarray(site) != UNKNOWN
        names, index = site_index(site, used, reference)
        terms, term_mean = centred_terms(covariates, target, used)
        seen = FirstPass.of(open_stream, terms, index, -1 if not reference else names.tolist().index(reference))
        points = np.argwhere(mask) * voxel_mm
        shading = Shading.fit(seen.mean, seen.variance, points, zero, kept=seen.effects) if scales else None
        watched = WatchedStream(open_stream, index, seen.centre, orthonormal(seen.mixtures), shading)
        model = fit_site_model(watched.open, terms, index, len(names), subject, shared_ratio=True)
        noise = seen.noise if shading is None else shading.remove_from_difference(seen.noise)
        chosen, smoothers = names == reference if reference else np.ones(len(names), bool), Smoothers.of(mask, voxel_mm)
        mean, variance, location, log_scale = estimate_effects(model, chosen, noise, smoothers, scales)
        if reference:
            location[chosen], log_scale[chosen] = 0, 0
        return cls(
            mask=mask,
            voxel_mm=np.asarray(voxel_mm, np.float64),
            sites=tuple(map(str, names)),
            rows=model.rows,
            reference=reference,
            term_mean=term_mean,
            coefficients=model.coefficients,
            mean=mean,
            variance=variance,
            location=location,
            log_scale=log_scale,
            shading=shading,
            discriminant=watched.discriminant(len(names)),
        )

    def with_site(
        self,
        name: str,
        values: np.ndarray,
        covariates: np.ndarray,
        target: np.ndarray | None = None,
        subject: np.ndarray | None = None,
    ) -> "VoxelCalibration":
        """Returns a copy with the effect of the site `name`, learnt from a few of its volumes.

        The offset is shrunk towards the average site, by how much of its mean square over voxels is the noise of a mean
        of n persons. Scales are corrected from 10 persons on. A known site of that name is replaced. Repeated volumes
        of a person count as one, their mean.

        Args:
          name: name of the site.
          values: (n, V) z-scores at the mask's voxels.
          covariates: (n, C) covariates of these volumes.
          target: (n, K) columns of the target, or None for its mean in the training rows.
          subject: (n,) labels of persons. None if every volume is another person's.
        """
        flat = self.shading.remove(values) if self.shading is not None else np.asarray(values, np.float64)
        residual = flat - self.mean - terms_about(self.term_mean, covariates, target) @ self.coefficients
        smoother, people = BrainSmoother(self.mask, FEW_SMOOTHING_MM / self.voxel_mm), mean_of_people(residual, subject)
        location, count = shrunk_mean(np.stack([smoother.apply(row) for row in people])), len(people)
        log_scale = np.zeros_like(location)
        if self.shading is not None and count >= FEWEST_CONTROLS_FOR_SCALE:
            squares = mean_of_people((residual - people.mean(axis=0)) ** 2, subject).sum(axis=0)
            log_scale = (
                smooth_log_scale(squares / (count - 1), self.variance, smoother) * count / (count + SCALE_PRIOR_ROWS)
            )
        place = self.sites.index(name) if name in self.sites else len(self.sites)

        def put(known: np.ndarray, row: Any) -> np.ndarray:
            return np.concatenate([known[:place], np.asarray(row)[None], known[place + 1 :]])

        return dataclasses.replace(
            self,
            sites=(*self.sites[:place], name, *self.sites[place + 1 :]),
            rows=put(self.rows, len(values)),
            location=put(self.location, location),
            log_scale=put(self.log_scale, log_scale),
            discriminant=self.discriminant.with_site(place, values),
        )

    def weights(self, volume: np.ndarray, site: str) -> np.ndarray:
        """Returns the (S,) weights of the sites' effects for a volume: 1 for its site, or `predict_site` without one.

        A site without an estimate counts as unknown.
        """
        if site in self.sites:
            return (np.array(self.sites) == site).astype(np.float64)
        return self.predict_site(volume)

    def predict_site(self, volume: np.ndarray) -> np.ndarray:
        """Returns the (S,) probabilities of the sites, given a prepared volume in z-scores."""
        return self.discriminant.probabilities(volume[self.mask][None].astype(np.float64))[0]

    def apply(self, volume: np.ndarray, site: str) -> np.ndarray:
        """Returns a volume, float32, as expected from the average scanner, or the reference.

        Args:
          volume: prepared volume, z-scores.
          site: name of its site, or "" if it is not known.
        """
        return self.apply_weights(volume, self.weights(volume, site))

    def apply_weights(self, volume: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Returns a volume, float32, less the sites' effects in a mixture with (S,) `weights`; see `apply`."""
        calibrated = volume.astype(np.float32)
        if self.reference and weights[self.sites.index(self.reference)] == 1:
            return calibrated
        values, used = calibrated[self.mask], np.flatnonzero(weights)
        if self.shading is not None:
            values = self.shading.remove_quickly(values)
        offset, scale = self._single(int(used[0])) if len(used) == 1 else self._mixture(weights)
        calibrated[self.mask] = values * scale + offset
        return calibrated

    def _mixture(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns offset and scale (V,), float32. A calibrated volume is values * scale + offset.

        They undo the mean of the sites' effects with (S,) `weights`.
        """
        scale = np.exp(-(weights @ self.log_scale))
        return _single_precision(self.mean - (weights @ self.location + self.mean) * scale), _single_precision(scale)

    def _single(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the `_mixture` of one site alone, which is kept, as volumes are read again in every epoch."""
        if index not in self._kept:
            self._kept[index] = self._mixture(np.arange(len(self.sites)) == index)
        return self._kept[index]

    @functools.cached_property
    def _kept(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {}

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns plain arrays, ready for an npz file. `from_arrays` is the inverse, up to float32."""
        values = {name: getattr(self, name) for name in _PLAIN}
        arrays = {name: np.asarray(value, np.str_ if name == "sites" else None) for name, value in values.items()}
        parts = {"discriminant": self.discriminant} | ({} if self.shading is None else {"shading": self.shading})
        for prefix, part in parts.items():
            arrays |= {f"{prefix}/{field.name}": getattr(part, field.name) for field in dataclasses.fields(part)}
        return {
            name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in arrays.items()
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any], where: str = "calibration") -> "VoxelCalibration":
        """Builds the calibration from the arrays that `to_arrays` returned.

        Raises:
          InputError: starts with `where`; an array is missing or has another shape than the others ask for.
        """
        try:
            values: dict[str, Any] = {name: _double(arrays[name]) for name in _PLAIN}
            values["sites"] = same_labels(arrays["sites"], where)
            values["reference"] = str(arrays["reference"])
            values["discriminant"] = SiteDiscriminant(**_under(arrays, "discriminant"))
            shading = _under(arrays, "shading")
            values["shading"] = Shading(**shading) if shading else None
        except (KeyError, TypeError) as error:
            raise InputError(f"{where}: expected what eqpool wrote for volumes; it lacks or misnames {error}") from None
        self = cls(**values)
        voxels, sites = int(np.sum(self.mask)), len(self.sites)
        if self.location.shape != (sites, voxels) or self.log_scale.shape != (sites, voxels):
            raise InputError(
                f"{where}: effects of shape {self.location.shape}, expected {(sites, voxels)}, sites by voxels"
            )
        return self


_PLAIN = (
    "mask",
    "voxel_mm",
    "sites",
    "rows",
    "reference",
    "term_mean",
    "coefficients",
    "mean",
    "variance",
    "location",
    "log_scale",
)


def _under(arrays: dict[str, Any], prefix: str) -> dict[str, np.ndarray]:
    found = (name for name in arrays if name.startswith(f"{prefix}/"))
    return {name.removeprefix(f"{prefix}/"): _double(arrays[name]) for name in found}


def _double(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64) if values.dtype == np.float32 else values


def _single_precision(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32)
