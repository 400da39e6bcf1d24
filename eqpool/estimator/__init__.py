"""Pooling a table as a scikit-learn transformer: fit, transform, harmonised features back in their own units.

pooling = EquivariantPooling().fit(X, y, site=site, covariates=age)
phi = pooling.transform(new_X)                  # needs neither site nor age nor target
harmonised = pooling.harmonise(new_X, site=new_site)
"""

import pathlib
import warnings
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from eqpool.config import RunConfig
from eqpool.config.check import plain
from eqpool.data.cohort import CovariateScaling
from eqpool.data.shape import DataShape
from eqpool.data.splits import assign_splits
from eqpool.data.tables.arrays import CovariateCoding, LabelWarning, as_features, as_names, as_nuisances, reordered
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.coding import LARGEST_NUMBER, UNKNOWN, code_labels
from eqpool.data.tables.scaling import ColumnScaling, pooled_change
from eqpool.data.tables.targets import TargetCoding
from eqpool.engine.compilation import standard_promotion
from eqpool.engine.session import Session, TrainingData
from eqpool.errors import InputError
from eqpool.estimator.archive import read_estimator, write_estimator
from eqpool.estimator.design import DesignWarning, examine_fit
from eqpool.estimator.parameters import Parameters
from eqpool.methods.networks import train_networks

__all__ = ["DesignWarning", "EquivariantPooling", "LabelWarning", "UnseenSiteWarning"]


class UnseenSiteWarning(UserWarning):
    """Rows come from a site that the calibration does not know."""


class EquivariantPooling(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Pools features of several sites into a latent that turns with the covariates and is invariant to the site.

    Fitting has three steps, all on the rows given to `fit`: every site's features are moved, and with `prior_rows`
    finite turned, onto those of the average scanner (`eqpool.data.tables.calibration`); stage one learns the
    equivariant latent; stage two the invariant Phi (Lokhande et al. 2022). `transform` returns Phi, (N, latent_dim) on
    the unit sphere.

    Labels and numbers are read as `eqpool.data.tables.coding` says, and so as out of a table: 1, 1.0 and "1" are one
    site, and text that is a number is a number. A categorical column of pandas is always one of categories.

    Args:
      latent_dim: n; a covariate needs two dimensions at least.
      hidden_units: of the networks' hidden layers.
      rotation_range: radians that tau turns by over a covariate's training range; a number, or one a covariate.
      tau: "covariate" carries the covariates alone, "free" is any rotation (see `config.ModelConfig`).
      epochs: of stage one; stage two has as many.
      batch_size: rows of a training step; stage two takes four times as many. A remainder is spread over the steps.
      learning_rate: of Adam.
      equivariance_weight, reconstruction_weight, prediction_weight, mmd_weight: of the losses.
      mmd_match: what stage two matches across sites: "covariate_free" tau^-1 Phi, "phi", or "conditional" Phi where
        covariates agree.
      calibrate_sites: False leaves every site's features as they are.
      prior_rows: how many rows without a scanner effect a site's covariance is averaged with; infinity corrects means
        alone, None takes 1.2 a feature.
      target_type: "auto", "classes" or "number".
      class_weights: "equal", or "balanced" for each class to weigh the same.
      validation_fraction: of the subjects (rows), by which each stage's epoch is chosen.
      random_state: of initial weights, order and validation rows.
      keep_sign: sets harmonised values below 0 to 0 in features without a negative value in `fit`. Without it positive
        features of a skewed distribution may come back negative.

    Every parameter may be a number, a string or an array of NumPy.

    Attributes:
      sites_: names of the sites that are calibrated, sorted.
      covariate_names_: of the covariates, categories as `sex=M`; empty without any.
      nuisance_names_: of the nuisances; empty without any.
      n_features_in_, feature_names_in_: of X; names only where X was a frame.
      unseen_sites_: names that the last `transform` did not know.
      findings_: of the design check in `fit`, dicts as `eqpool.preflight` writes them.
      clipped_: (F,) how many values of each feature the last `harmonise` or `inverse_transform` set to 0.
    """

    calibration_: SiteCalibration | None
    _columns: tuple[str, ...] | None

    def __init__(
        self,
        latent_dim: int = 30,
        *,
        hidden_units: int = 64,
        rotation_range: float | tuple[float, ...] = 3.0,
        tau: str = "covariate",
        epochs: int = 150,
        batch_size: int = 128,
        learning_rate: float = 2e-3,
        equivariance_weight: float = 0.1,
        reconstruction_weight: float = 1.0,
        prediction_weight: float = 0.3,
        mmd_weight: float = 0.5,
        mmd_match: str = "covariate_free",
        calibrate_sites: bool = True,
        prior_rows: float | None = None,
        target_type: str = "auto",
        class_weights: str = "equal",
        validation_fraction: float = 0.1,
        random_state: Any = 0,
        keep_sign: bool = False,
    ):
        self.latent_dim = latent_dim
        self.hidden_units = hidden_units
        self.rotation_range = rotation_range
        self.tau = tau
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.equivariance_weight = equivariance_weight
        self.reconstruction_weight = reconstruction_weight
        self.prediction_weight = prediction_weight
        self.mmd_weight = mmd_weight
        self.mmd_match = mmd_match
        self.calibrate_sites = calibrate_sites
        self.prior_rows = prior_rows
        self.target_type = target_type
        self.class_weights = class_weights
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.keep_sign = keep_sign

    def fit(
        self, X: Any, y: Any = None, *, site: Any = None, covariates: Any = None, nuisances: Any = None
    ) -> "EquivariantPooling":
        """Learns calibration and both stages.

        Args:
          X: (N, F) features, an array or a frame; a missing value becomes the feature's mean.
          y: (N,) classes or numbers that Phi is to predict; missing where unknown; or None without a target.
          site: (N,) names; missing where unknown. Without it nothing is pooled: all rows count as one scanner's.
          covariates: (N, C) or (N,) numbers or text, or a frame; columns of text are categories. Phi turns with them.
          nuisances: (N,) labels or a frame of them, such as field strength, that Phi is to be invariant to as well, as
            far as `mmd_match` goes; missing where unknown. Invariance to one that is associated with the target
            removes part of the target.

        Raises:
          InputError: one line naming the argument, row or column, what was found and what was expected; also where the
            design check of `eqpool.preflight` refuses, as for a covariate that is decided by the site.

        Warns:
          DesignWarning: for each warning of the design check.
        """
        parameters = Parameters.check(self.get_params(deep=False))
        X = self._features(X, reset=True)
        count = len(X)
        names = np.full(count, UNKNOWN) if site is None else as_names(site, count, "site")
        covariates = np.zeros((count, 0)) if covariates is None else covariates
        self.covariates_ = CovariateCoding.fit(covariates, count)
        values = self.covariates_.apply(covariates, count)
        parameters.check_covariates(max(values.shape[1], 1))
        self.target_ = TargetCoding.fit(y, parameters.target_type)
        target, known = self.target_.encode(y, count)
        nuisance, self.nuisance_names_, levels = as_nuisances(nuisances, count)
        self.findings_ = examine_fit(
            self._labelled(X), None if site is None else names, values, self.covariates_.names, self.target_, y,
            nuisance, self.nuisance_names_,
        )  # fmt: skip
        inputs = self._fit_scaling(X)
        self._fit_calibration(parameters, inputs, names, values, self.target_.columns(target, known))
        # Without a covariate tau has none to carry: a constant one makes it turn nothing.
        values = values if values.shape[1] else np.zeros((count, 1))
        self.covariate_scaling_ = CovariateScaling.fit(values)
        columns = {
            "site": code_labels(names, self.sites_)[0],
            "covariate": self.covariate_scaling_.apply(values),
            "target": target,
            "target_known": known,
        } | ({} if nuisance is None else {"nuisance": nuisance})
        train, validation = self._split(parameters, names, target)
        shape = DataShape(
            X.shape[1:], values.shape[1], max(len(self.sites_), 1), self.target_.num_classes, tuple(map(len, levels))
        )
        data = TrainingData(self._calibrated(inputs, names), columns, train, validation)
        with standard_promotion():
            networks, _ = train_networks(Session.start(parameters.to_config()), shape, data)
        self.pooling_ = networks.on_host()
        self.parameters_ = parameters
        self._n_features_out = parameters.latent_dim
        self.unseen_sites_: tuple[str, ...] = ()
        return self

    @property
    def covariate_names_(self) -> tuple[str, ...]:
        """Of the covariates, categories as `sex=M`; empty without any."""
        return self.covariates_.names

    def fit_transform(
        self, X: Any, y: Any = None, *, site: Any = None, covariates: Any = None, nuisances: Any = None
    ) -> np.ndarray:
        """Phi of the rows that are fitted: `fit` and then `transform` with the same sites."""
        return self.fit(X, y, site=site, covariates=covariates, nuisances=nuisances).transform(X, site)

    def transform(self, X: Any, site: Any = None) -> np.ndarray:
        """Phi, (N, latent_dim) float32.

        Args:
          X: (N, F), or a frame with the columns of `fit` in any order.
          site: (N,) names. Rows without one, and rows of a site that was not calibrated (a warning names it), are
            treated as those of the site that they look most like.
        """
        check_is_fitted(self)
        return self.pooling_.apply(self._prepared(X, site)[1])["phi"]

    def embed(self, X: Any, site: Any = None) -> dict[str, np.ndarray]:
        """`latent` l, `covariate_free` tau^-1 Phi and `phi`, (N, latent_dim) float32 each; arguments as `transform`."""
        check_is_fitted(self)
        outputs = self.pooling_.apply(self._prepared(X, site)[1])
        return {name: outputs[name] for name in ("latent", "covariate_free", "phi")}

    def predict(self, X: Any, site: Any = None) -> np.ndarray:
        """(N,) the target predicted from Phi: class labels, or numbers in the target's units; NaN without a target."""
        check_is_fitted(self)
        prediction = self.pooling_.apply(self._prepared(X, site)[1])["prediction"]
        return self.target_.decode(prediction)

    def score(self, X: Any, y: Any = None, site: Any = None) -> float:
        """With y: accuracy of the predicted classes, or R^2 of a number. Without: R^2 of the decoded features."""
        check_is_fitted(self)
        if y is None:
            inputs = self._prepared(X, site)[1]
            decoded = self.pooling_.decode(self.pooling_.apply(inputs)["pooled_latent"])
            error = np.mean((decoded - inputs) ** 2)
            return float(1 - error / max(float(np.mean((inputs - inputs.mean(axis=0)) ** 2)), 1e-12))
        if self.target_.kind == "none":
            raise InputError("y: given to score, but fit had none; expected None")
        return self.target_.score(y, self.predict(X, site))

    def harmonise(self, X: Any, site: Any = None) -> Any:
        """(N, F) features in their own units, as the average scanner would have shown them, a frame for a frame.

        Each is the feature plus the change that calibration and pooling make
        (`eqpool.data.tables.scaling.pooled_change`), as `python -m eqpool.transform` computes it. A missing value
        becomes the mean, constant features stay as they are.
        """
        check_is_fitted(self)
        features, inputs = self._prepared(X, site)
        outputs = self.pooling_.apply(inputs)
        decoded, pooled = (self.pooling_.decode(outputs[name]) for name in ("latent", "pooled_latent"))
        change = pooled_change(self.scaling_.apply(features), inputs, decoded, pooled)
        known = np.where(np.isfinite(features), features, self.scaling_.mean)
        return self._as_given(self.scaling_.with_change(known, change), X)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Decodes (N, latent_dim) Phi alone to (N, F) features in their own units, D(Psi(Phi)).

        `harmonise` starts from the features themselves and keeps what Phi has no room for.
        """
        check_is_fitted(self)
        phi = check_array(X)
        if phi.shape[1] != self._n_features_out:
            raise InputError(f"X has {phi.shape[1]} columns, expected the {self._n_features_out} of Phi")
        return self._as_given(self.scaling_.mean + self.scaling_.deviation * self.pooling_.decode_phi(phi), None)

    def calibrate(self, X: Any, site: Any, covariates: Any = None, y: Any = None) -> "EquivariantPooling":
        """Learns the scanner effect of one new site from a few of its rows; the networks stay as they are.

        Args:
          X: (N, F) features of that site's controls, ten or more where possible; one is enough.
          site: its name, or (N,) times the same.
          covariates: as in `fit`, and required where `fit` had them: older controls are not a scanner effect.
          y: (N,) their target; without it they are taken to be as the training rows are on average.
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
            raise InputError("calibrate: fit learnt no scanner effects, expected calibrate_sites=True and known sites")
        if covariates is None and self.covariate_names_:
            raise InputError(f"covariates: None, expected {', '.join(self.covariate_names_)} as in fit")
        values = self.covariates_.apply(np.zeros((len(X), 0)) if covariates is None else covariates, len(X))
        target = None if y is None else self.target_.columns(*self.target_.encode(y, len(X)))
        self.calibration_ = self.calibration_.with_site(found[0], self.scaling_.apply(X), values, target)
        return self

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the fitted estimator to one .npz file of plain arrays and JSON; no pickle."""
        check_is_fitted(self)
        write_estimator(self, pathlib.Path(path))

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "EquivariantPooling":
        """The estimator that `save` wrote.

        Raises:
          InputError: no such file, or one that `save` did not write.
        """
        parameters, attributes = read_estimator(pathlib.Path(path))
        self = cls(**parameters)
        for name, value in attributes.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []  # Phi is float32, as all that the networks compute
        return tags

    @property
    def feature_mean_(self) -> np.ndarray:
        """(F,) float64, over the rows of `fit`."""
        return self.scaling_.mean

    @property
    def feature_scale_(self) -> np.ndarray:
        """(F,) float64, deviations over the rows of `fit`; 1 for a constant feature."""
        return self.scaling_.deviation

    def _features(self, X: Any, reset: bool) -> np.ndarray:
        X = as_features(X, None if reset else self._columns)
        if reset:
            self._columns = tuple(map(str, X.columns)) if isinstance(X, pd.DataFrame) else None
        if isinstance(X, pd.DataFrame) and not all(isinstance(name, str) for name in X.columns):
            # scikit-learn knows names of text alone, and would drop numbers without a word.
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

    def _config(self) -> RunConfig:
        """The run that trains the same networks."""
        return Parameters.check(self.get_params(deep=False)).to_config()

    def _names(self, X: np.ndarray) -> tuple[str, ...]:
        """The columns of `fit`, numbered where it had an array."""
        return self._columns or tuple(map(str, range(X.shape[1])))

    def _labelled(self, X: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(X, columns=list(self._names(X)))

    def _fit_scaling(self, X: np.ndarray) -> np.ndarray:
        self.scaling_ = ColumnScaling.fit(X)
        return self.scaling_.apply(X)

    def _fit_calibration(
        self,
        parameters: Parameters,
        inputs: np.ndarray,
        names: np.ndarray,
        covariates: np.ndarray,
        target: np.ndarray | None,
    ) -> None:
        codes, found = code_labels(names)
        self.sites_ = np.array(found, np.str_)
        self.calibration_ = None
        if parameters.calibrate_sites and found:
            self.calibration_ = SiteCalibration.fit(inputs, names, covariates, target, prior_rows=parameters.prior_rows)
        lone = [name for index, name in enumerate(found) if np.sum(codes == index) == 1]
        if lone:
            warnings.warn(
                f"site {', '.join(lone)}: a single row, which is kept; its scanner effect is hardly known",
                UserWarning,
                stacklevel=3,
            )

    def _calibrated(self, inputs: np.ndarray, names: np.ndarray) -> np.ndarray:
        if self.calibration_ is None:
            return inputs.astype(np.float32)
        return self.calibration_.apply(inputs, names)

    def _prepared(self, X: Any, site: Any) -> tuple[np.ndarray, np.ndarray]:
        """Features of new rows in their own units, and calibrated z-scores; warns of sites that `fit` did not see."""
        features = self._features(X, reset=False)
        names = np.full(len(features), UNKNOWN) if site is None else as_names(site, len(features), "site")
        seen = {*self.sites_, *(self.calibration_.sites if self.calibration_ else ())}
        self.unseen_sites_ = tuple(sorted({str(name) for name in names} - seen - {UNKNOWN}))
        if self.unseen_sites_:
            warnings.warn(
                f"site {', '.join(self.unseen_sites_)}: not seen in fit; its rows are treated as those of the site "
                "that they look most like. Calibrate it on a few of its controls: calibrate(X, site, covariates)",
                UnseenSiteWarning,
                stacklevel=3,
            )
        return features, self._calibrated(self.scaling_.apply(features), names)

    def _as_given(self, values: np.ndarray, like: Any) -> Any:
        """Values as a frame where they came as one, and clipped where `keep_sign` asks for it."""
        self.clipped_ = np.zeros(values.shape[1], np.int64)
        if plain(self.keep_sign):
            values, self.clipped_ = self.scaling_.clipped(values)
        if isinstance(like, pd.DataFrame):
            columns = like.columns if self._columns is None else reordered(like, self._columns).columns
            return pd.DataFrame(values, index=like.index, columns=columns)
        return values

    def _split(self, parameters: Parameters, names: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(len(names))
        levels = target.astype(int) if self.target_.num_classes else np.zeros(len(names), int)
        split = assign_splits(
            rows.astype(str),
            list(zip(names.tolist(), levels.tolist(), strict=True)),
            validation_fraction=parameters.validation_fraction,
            test_fraction=0.0,
            seed=parameters.random_state,
        )
        train, validation = (np.flatnonzero(split == name) for name in ("train", "validation"))
        return train, validation if validation.size else train
