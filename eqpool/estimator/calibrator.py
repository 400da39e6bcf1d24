"""Provides the site calibration of a table alone, as a scikit-learn transformer."""

from typing import Any

import numpy as np
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from eqpool.estimator.archive import Archive, read_calibrator, write_calibrator
from eqpool.estimator.design import examine_fit
from eqpool.estimator.fit_rows import FitRows
from eqpool.estimator.parameters import calibration_method, method_of, prior_rows, reference_site
from eqpool.estimator.site_table import SiteTable


class SiteCalibrator(OneToOneFeatureMixin, TransformerMixin, SiteTable):
    """A transformer that removes the scanners' effects from a table, in the features' own units, without networks.

    It corrects location and scale of each site and, as far as held-out rows support it, the covariance. The effects of
    covariates and target are kept. All estimates are shrunk by empirical Bayes (`eqpool.data.tables.calibration`). It
    is the first step of `EquivariantPooling`, which trains networks on its result.

    Args:
      method: "location", "location_scale", "covariance", or "auto", which chooses inside the rows of `fit`.
      prior_rows: number of rows without a scanner effect that each site's covariance is averaged with. None chooses it
        ("auto") or means 1.2 per feature ("covariance").
      reference: site whose rows come back unchanged, and whose look the other sites take. None for the average scanner.
      target_type: "auto", "classes" or "number".
      keep_sign: whether to set negative values to 0 in features without a negative value in `fit`.

    Attributes:
      sites_, covariate_names_, n_features_in_, feature_names_in_, calibration_, unseen_sites_, clipped_: as in
        `SiteTable`.
      findings_: findings of the design check in `fit`, as dicts in the format of `eqpool.preflight`.
    """

    _archive = Archive(write_calibrator, read_calibrator)

    def __init__(
        self,
        method: str = "auto",
        *,
        prior_rows: float | None = None,
        reference: str | None = None,
        target_type: str = "auto",
        keep_sign: bool = False,
    ):
        self.method = method
        self.prior_rows = prior_rows
        self.reference = reference
        self.target_type = target_type
        self.keep_sign = keep_sign

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        site: Any = None,
        covariates: Any = None,
        fit_on: Any = None,
        subject: Any = None,
    ) -> "SiteCalibrator":
        """Learns the scanners' effects. The arguments and errors are those of `EquivariantPooling.fit`.

        Without sites, `transform` returns the features as they are.
        """
        method = method_of(calibration_method(self.method, "SiteCalibrator.method"))
        rows_of_prior = prior_rows(self.prior_rows, "SiteCalibrator")
        reference = reference_site(self.reference, "SiteCalibrator")
        X = self._features(X, reset=True)
        rows = FitRows.read(len(X), y, site, covariates, target_type=self.target_type, subject=subject, fit_on=fit_on)
        self.findings_ = examine_fit(self._labelled(X), rows)
        self._fit_table(X, rows, method, rows_of_prior, reference)
        return self

    def fit_transform(self, X: Any, y: Any = None, *, site: Any = None, **options: Any) -> Any:
        """Learns the scanners' effects and returns the calibrated features of the same rows.

        The options are those of `fit`.
        """
        return self.fit(X, y, site=site, **options).transform(X, site)

    def transform(self, X: Any, site: Any = None, covariates: Any = None) -> Any:
        """Returns (N, F) calibrated features in their own units, a frame for a frame.

        The arguments are those of `EquivariantPooling.harmonise`. A missing value becomes the mean.
        """
        check_is_fitted(self)
        features, names = self._new_rows(X, site)
        values = self._encoded(covariates, len(features))
        before = self.scaling_.apply(features)
        change = self._calibrated(before, names, values).astype(np.float64) - before
        return self._with_change(features, names, change, X)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64"]
        return tags
