"""The part that the estimators of this package share: tables of sites, their scaling and their calibration."""

import copy
import pathlib
import warnings
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from eqpool.config.check import plain
from eqpool.data.tables.arrays import as_features, as_names, encode_covariates, reordered
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.coding import LARGEST_NUMBER, UNKNOWN
from eqpool.data.tables.covariate_coding import CovariateCoding
from eqpool.data.tables.levels import code_labels
from eqpool.data.tables.scaling import ColumnScaling
from eqpool.data.tables.targets import TargetCoding
from eqpool.errors import InputError
from eqpool.estimator.archive import Archive
from eqpool.estimator.fit_rows import FitRows, as_subjects

_ROWS_OF_A_CONSTANT = 10  # fewest new rows whose one common value counts as failed


class UnseenSiteWarning(UserWarning):
    """Warning that rows come from a site that was not calibrated."""


class FailedColumnWarning(UserWarning):
    """Warning that a feature is constant or 0 where it should vary, so that it is returned as it is."""


class SiteTable(BaseEstimator):
    """A fitted scaling and site calibration of a table, with the readers of new rows.

    Attributes:
      sites_: sorted names of the sites in `fit`.
      covariate_names_: names of the covariates, categories as `sex=M`. Empty without covariates.
      n_features_in_, feature_names_in_: number and names of the features of X. Names exist only if X was a frame.
      calibration_: the site calibration, None without one. `calibration_.describe()` returns what it corrects.
      unseen_sites_: names of the unknown sites in the last call that was given new rows, such as `transform`.
      clipped_: (F,) counts of the values that the last call set to 0 because of `keep_sign`.
    """

    _archive: ClassVar[Archive]
    keep_sign: Any
    calibration_: SiteCalibration | None
    covariates_: CovariateCoding
    target_: TargetCoding
    scaling_: ColumnScaling
    _columns: tuple[str, ...] | None

    @property
    def covariate_names_(self) -> tuple[str, ...]:
        """Returns the names of the covariates, categories as `sex=M`."""
        return self.covariates_.names

    @property
    def feature_mean_(self) -> np.ndarray:
        """Returns the (F,) float64 means over the rows of `fit`."""
        return self.scaling_.mean

    @property
    def feature_scale_(self) -> np.ndarray:
        """Returns the (F,) float64 standard deviations over the rows of `fit`, 1 for a constant feature."""
        return self.scaling_.deviation

    def calibrate(self, X: Any, site: Any, covariates: Any = None, y: Any = None, subject: Any = None) -> Self:
        """Returns a copy that also knows a new site, learnt from one to hundreds of its rows.

        The estimator itself does not change. The effect of the site is shrunk towards the distribution of the known
        sites' effects, so that a single row moves little. Networks do not change.

        Args:
          X: (N, F) features of the site's controls, preferably ten or more.
          site: name of the site, or (N,) copies of it.
          covariates: covariates in the form that `fit` accepts, required if `fit` had them. Without them, a difference
            in age would be mistaken for a scanner effect.
          y: (N,) targets of these rows. Without it, every row is given the mean target of the training rows.
          subject: (N,) labels of persons, if some have several rows.

        Warns:
          FailedColumnWarning: a feature has one value in all rows, or is 0 where it should be positive. It has no
            estimate, and `harmonise` returns it unchanged for this site.
        """
        check_is_fitted(self)
        X = self._features(X, reset=False)
        names = as_names([site] * len(X) if np.ndim(site) == 0 else site, len(X), "site")
        _, found = code_labels(names)
        if len(found) != 1 or (names == UNKNOWN).any():
            raise InputError(
                f"site: {', '.join(found) or 'unknown'}, expected the one name of the new site in each row"
            )
        if self.calibration_ is None:
            raise InputError("calibrate: fit learnt no scanner effects, expected calibrate_sites and known sites")
        if covariates is None and self.covariate_names_:
            raise InputError(f"covariates: None, expected {', '.join(self.covariate_names_)} as in fit")
        given = np.zeros((len(X), 0)) if covariates is None else covariates
        values = encode_covariates(self.covariates_, given, len(X))
        target = None if y is None else self.target_.columns(*self.target_.encode(y, len(X)))
        failed = self.scaling_.failed(X).any(axis=0) | ((np.ptp(np.nan_to_num(X), axis=0) == 0) & (len(X) > 1))
        self._warn_failed(failed, f"site {found[0]}, ")
        added = copy.copy(self)
        added.calibration_ = self.calibration_.with_site(
            found[0], self.scaling_.apply(X), values, target, None if subject is None else as_subjects(subject, len(X)),
            failed=failed,
        )  # fmt: skip
        return added

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the fitted estimator to one .npz file of plain arrays and JSON, without pickle."""
        check_is_fitted(self)
        self._archive.write(self, pathlib.Path(path))

    @classmethod
    def load(cls, path: str | pathlib.Path) -> Self:
        """Returns the estimator that `save` wrote.

        Raises:
          InputError: the file does not exist, or `save` did not write it.
        """
        parameters, attributes = cls._archive.read(pathlib.Path(path))
        self = cls(**parameters)
        for name, value in attributes.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _features(self, X: Any, reset: bool) -> np.ndarray:
        X = as_features(X, None if reset else self._columns)
        if reset:
            self._columns = tuple(map(str, X.columns)) if isinstance(X, pd.DataFrame) else None
        if isinstance(X, pd.DataFrame) and not all(isinstance(name, str) for name in X.columns):
            # scikit-learn supports only names that are text, and silently ignores names that are numbers.
            named = not reset and hasattr(self, "feature_names_in_")
            X = X.set_axis(list(map(str, X.columns)), axis=1) if named else X.to_numpy()
        X = validate_data(
            self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2 if reset else 1
        )
        for place in np.flatnonzero((np.abs(np.nan_to_num(X)) > LARGEST_NUMBER).any(axis=0))[:1]:
            raise InputError(
                f"X, column {self._names(X)[place]}: a value above {LARGEST_NUMBER:g} in size, expected less"
            )
        return X

    def _names(self, X: np.ndarray) -> tuple[str, ...]:
        """Returns the column names of `fit`, or column numbers if `fit` was given an array."""
        return self._columns or tuple(map(str, range(X.shape[1])))

    def _labelled(self, X: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(X, columns=list(self._names(X)))

    def _fit_table(
        self, X: np.ndarray, rows: FitRows, method: str, prior_rows: float | None, reference: str | None
    ) -> np.ndarray:
        """Fits scaling and calibration, and returns the (N, F) z-scores before calibration."""
        self.covariates_, self.target_, self.sites_ = rows.coding, rows.target_coding, np.array(rows.sites, np.str_)
        self.unseen_sites_: tuple[str, ...] = ()
        self.clipped_ = np.zeros(X.shape[1], np.int64)
        self.scaling_ = ColumnScaling.fit(X)
        inputs = self.scaling_.apply(X)
        self.calibration_ = None
        if reference and reference not in rows.sites:
            raise InputError(f"reference: {reference}, expected one of {', '.join(rows.sites) or 'the sites of fit'}")
        if method != "none" and rows.sites:
            self.calibration_ = SiteCalibration.fit(
                inputs, rows.site, rows.covariates, rows.target_columns, method=method, prior_rows=prior_rows,
                reference=reference or "", fit_on=rows.fit_on, subject=rows.subject,
            )  # fmt: skip
            for name, effect in self.calibration_.sites.items():
                self._warn_failed(np.asarray(effect.unchanged & ~self.scaling_.constant), f"site {name}, ")
        lone = [name for index, name in enumerate(rows.sites) if np.sum(rows.site_code == index) == 1]
        if lone:
            warnings.warn(
                f"site {', '.join(lone)}: a single row, which is kept; its scanner effect is hardly known",
                UserWarning,
                stacklevel=3,
            )
        return inputs

    def _encoded(self, covariates: Any, count: int) -> np.ndarray | None:
        """Returns `count` rows of covariates as the calibration reads them, or None if they are unknown."""
        return None if covariates is None else encode_covariates(self.covariates_, covariates, count)

    def _calibrated(self, inputs: np.ndarray, names: np.ndarray, covariates: np.ndarray | None = None) -> np.ndarray:
        if self.calibration_ is None:
            return inputs.astype(np.float32)
        return self.calibration_.apply(inputs, names, covariates)

    def _new_rows(self, X: Any, site: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns new rows in their own units and their sites, and warns of unseen sites."""
        features = self._features(X, reset=False)
        names = np.full(len(features), UNKNOWN) if site is None else as_names(site, len(features), "site")
        seen = {*self.sites_, *(self.calibration_.sites if self.calibration_ else ())}
        self.unseen_sites_ = tuple(sorted({str(name) for name in names} - seen - {UNKNOWN}))
        if self.unseen_sites_:
            warnings.warn(
                f"site {', '.join(self.unseen_sites_)}: not seen in fit; its rows are corrected as far as they look "
                "like a known site. Calibrate it on a few of its controls: calibrate(X, site, covariates)",
                UnseenSiteWarning,
                stacklevel=4,
            )
        return features, names

    def _unchanged(self, features: np.ndarray, names: np.ndarray) -> np.ndarray:
        """Returns the (N, F) values that are returned as they are, and warns of the failed ones among them.

        They are the values of the reference site, of features that failed at a site in `fit` or `calibrate`, zeros that
        should be positive, and columns with one value in all of at least ten rows.
        """
        failed = self.scaling_.failed(features)
        if len(features) >= _ROWS_OF_A_CONSTANT:
            failed = failed | (features == features[0]).all(axis=0) & ~self.scaling_.constant
        self._warn_failed(np.asarray(failed.any(axis=0)), "")
        return failed if self.calibration_ is None else failed | self.calibration_.unchanged(names)

    def _warn_failed(self, failed: np.ndarray, where: str) -> None:
        if failed.any():
            columns = ", ".join(np.array(self._names(failed[None]), object)[failed])
            warnings.warn(
                f"{where}column {columns}: constant, or 0 where it should be positive; such values are returned as "
                "they are",
                FailedColumnWarning,
                stacklevel=4,
            )

    def _as_given(self, values: np.ndarray, like: Any) -> Any:
        """Clips values if `keep_sign` is set, and returns them as a frame if `like` is a frame."""
        if plain(self.keep_sign):
            values, self.clipped_ = self.scaling_.clipped(values)
        if isinstance(like, pd.DataFrame):
            columns = like.columns if self._columns is None else reordered(like, self._columns).columns
            return pd.DataFrame(values, index=like.index, columns=columns)
        return values

    def _with_change(self, features: np.ndarray, names: np.ndarray, change: np.ndarray, like: Any) -> Any:
        """Returns the features with an (N, F) change in z-scores, in the form of `like`."""
        known = np.where(np.isfinite(features), features, self.scaling_.mean)
        changed = self.scaling_.with_change(known, np.where(self._unchanged(features, names), 0.0, change))
        return self._as_given(changed, like)
