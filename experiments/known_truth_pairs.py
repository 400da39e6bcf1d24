"""Makes tables of known truth: the same people, measured by two pipelines."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from eqpool.data.tables.splines import CovariateDesign
from experiments.cohorts.cohort import Table

DESIGNS = {
    "alike": "ages alike",
    "shifted": "ages shifted",
    "few": "40 rows of the second pipeline",
}
SCALE = 1.36  # median deviation of the second pipeline over the first's, as in real pairs
NOISE = 0.5  # deviation of what the second pipeline measures by itself, in deviations of the first
ALIKE = 0.85  # share of that noise's variance that is correlated between features as people's features are
FEW = 40
GENERATED = "generated"


@dataclasses.dataclass(frozen=True)
class Pairs:
    """N people, each measured by two pipelines.

    Attributes:
      name: name of the cohort that the people are from, or "generated".
      measured: (2, N, F) float64 features by each pipeline, without missing values.
      covariates: (N, 2) float64, age in years, and sex, 1 for male.
      pipeline: (N,) int, the pipeline that measured a person when he or she is a training row.
    """

    name: str
    measured: np.ndarray
    covariates: np.ndarray
    pipeline: np.ndarray


def people_of(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Returns the (N, F) standardised features of a cohort and its (N, 2) covariates.

    The means of the cohort's own sites are removed, beside age and sex, so that the rows stand for people of one
    scanner. Features with missing values in more than a tenth of the rows, and constant ones, are left out. Other
    missing values become the mean.
    """
    kept = (np.isnan(table.features).mean(axis=0) < 0.1) & (np.nanstd(table.features, axis=0) > 0)
    features = table.features[:, kept]
    features = np.nan_to_num((features - np.nanmean(features, axis=0)) / np.nanstd(features, axis=0))
    terms = CovariateDesign.fit(table.covariates).apply(table.covariates)
    sites = (table.site[:, None] == np.unique(table.site)[None]).astype(float)
    effects = np.linalg.lstsq(np.concatenate([terms, sites], axis=1), features, rcond=None)[0]
    features = features - sites @ effects[terms.shape[1] :]
    return (features - features.mean(axis=0)) / features.std(axis=0), table.covariates


def generated_people(seed: int, rows: int = 700, features: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Returns standardised features of generated people, which share eight factors, and their covariates."""
    generator = np.random.default_rng(seed)
    covariates = np.column_stack([generator.uniform(20, 80, rows), generator.integers(0, 2, rows)])
    terms = np.column_stack([(covariates[:, 0] - 50) / 17, covariates[:, 1] - 0.5])
    effects = np.stack([-0.5 * np.abs(generator.normal(size=features)), 0.4 * generator.normal(size=features)])
    factors = generator.normal(size=(rows, 8)) @ generator.normal(size=(8, features)) / 4
    people = terms @ effects + factors + 0.6 * generator.normal(size=(rows, features))
    return (people - people.mean(axis=0)) / people.std(axis=0), covariates


def make_pairs(name: str, people: np.ndarray, covariates: np.ndarray, design: str, splits: int, seed: int) -> Pairs:
    """Measures people a second time and assigns each to a pipeline.

    Args:
      name: name of the cohort.
      people: (N, F) standardised features, as the first pipeline measures them.
      covariates: (N, 2) age and sex.
      design: one of `DESIGNS`.
      splits: number of folds, of which one is held out.
      seed: seed of the second pipeline and of the assignment.
    """
    generator = np.random.default_rng(seed)
    second = _second_pipeline(people, generator)
    return Pairs(name, np.stack([people, second]), covariates, _assigned(covariates[:, 0], design, splits, generator))


def _second_pipeline(people: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Shifts, scales, bends and blurs features, each by another strength, to `SCALE` times the deviation in the median.

    A quarter of the features is all but untouched and a quarter is hit twice as hard. Most of the noise is correlated
    between features as people's features are.
    """
    count = people.shape[1]
    strength = generator.choice([0.1, 1.0, 1.0, 2.0], count)
    alike = people[generator.permutation(len(people))]
    errors = np.sqrt(ALIKE) * alike + np.sqrt(1 - ALIKE) * generator.normal(size=people.shape)
    noise = NOISE * np.sqrt(strength) * errors
    bent = people + 0.08 * strength * generator.normal(size=count) * (people**2 - 1)
    leaked = bent + 0.1 * strength * np.roll(bent, 1, axis=1)
    measured = leaked + noise
    scale = np.exp(0.15 * strength * generator.normal(size=count))
    scale *= SCALE / np.median(scale * measured.std(axis=0))
    return 0.5 * strength * generator.normal(0.4, 1.0, count) + scale * measured


def _assigned(age: np.ndarray, design: str, splits: int, generator: np.random.Generator) -> np.ndarray:
    drawn = generator.uniform(size=len(age))
    if design == "few":
        return (np.argsort(np.argsort(drawn)) < FEW * splits / (splits - 1)).astype(int)  # 40 in the training rows
    scaled = (age - np.median(age)) / age.std()
    return (drawn < (1 / (1 + np.exp(-2 * scaled)) if design == "shifted" else 0.5)).astype(int)


def training_rows(pairs: Pairs, train: np.ndarray) -> np.ndarray:
    """Returns the (T, F) features of the training people `train`, each by the pipeline that measured the person."""
    return pairs.measured[pairs.pipeline[train], train]


def site_names(pipeline: np.ndarray | Sequence[int]) -> np.ndarray:
    """Returns the names of pipelines as the sites of a table."""
    return np.array(["first", "second"])[np.asarray(pipeline)]
