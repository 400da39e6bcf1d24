"""Loads UCI Adult and Statlog German credit through tensorflow_datasets builders, without TensorFlow.

Adult: Becker and Kohavi (1996), doi:10.24432/C5XW20. German: Hofmann (1994), doi:10.24432/C5NC77. Both CC BY 4.0.
Importing this module loads tensorflow_datasets, so `eqpool.data.load` imports it only when one of them is needed.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds

from eqpool.data.cohort import Cohort
from eqpool.data.sources.builders import prepare_once
from eqpool.data.sources.downloads import raw_files
from eqpool.data.splits import assign_splits
from eqpool.data.tables.encoding import fit_encoding
from eqpool.data.tables.inputs import TableInputs
from eqpool.errors import InputError


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The columns of a raw file and their roles."""

    columns: tuple[str, ...]
    numbers: tuple[str, ...]
    dropped: tuple[str, ...]  # columns without a role
    separator: str | None  # None for any white space
    site: dict[str, str]  # raw value to name, in the order of the published arrays' 0 and 1
    target: dict[str, str]
    site_column: str
    target_column: str = "target"
    covariate_column: str = "age"

    @property
    def features(self) -> tuple[str, ...]:
        others = {*self.dropped, self.site_column, self.target_column, self.covariate_column}
        return tuple(column for column in self.columns if column not in others)


_ADULT = _Layout(
    columns=(
        *("age", "workclass", "fnlwgt", "education", "education_years", "marital_status", "occupation"),
        *("relationship", "race", "gender", "capital_gain", "capital_loss", "hours_per_week", "country", "target"),
    ),
    numbers=("education_years", "capital_gain", "capital_loss", "hours_per_week"),
    dropped=("fnlwgt",),  # the census's sampling weight, a property of the survey and not of the person
    separator=",",
    site={"Male": "Male", "Female": "Female"},
    target={"<=50K": "<=50K", ">50K": ">50K"},
    site_column="gender",
)
_GERMAN = _Layout(
    columns=(
        *("status", "duration_months", "history", "purpose", "amount", "savings", "employment", "instalment_rate"),
        *("personal_status", "debtors", "residence", "property", "age", "other_plans", "housing", "credits", "job"),
        *("dependants", "telephone", "foreign_worker", "target"),
    ),
    numbers=("duration_months", "amount", "instalment_rate", "residence", "credits", "dependants"),
    dropped=(),
    separator=None,
    site={"A202": "not foreign worker", "A201": "foreign worker"},
    target={"1": "good", "2": "bad"},
    site_column="foreign_worker",
)


def _parse(path: pathlib.Path, layout: _Layout) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("|"):  # adult.test begins with a comment
            continue
        fields = [field.strip() for field in line.split(layout.separator)]
        if len(fields) != len(layout.columns):
            raise InputError(f"{path}, line {number}: {len(fields)} fields, expected {len(layout.columns)}")
        row = dict(zip(layout.columns, fields, strict=True))
        yield _example(row, layout, f"{path}, line {number}")


def _example(row: dict[str, str], layout: _Layout, where: str) -> dict[str, Any]:
    site, target = row[layout.site_column], row[layout.target_column].rstrip(".")
    if site not in layout.site:
        raise InputError(f'{where}, {layout.site_column}: "{site}", expected one of {", ".join(layout.site)}')
    if target not in layout.target:
        raise InputError(f'{where}, {layout.target_column}: "{target}", expected one of {", ".join(layout.target)}')
    categories = [row[name] for name in layout.features if name not in layout.numbers]
    return {
        "numbers": np.array([_number(row, name, where) for name in layout.numbers], np.float64),
        "categories": categories,
        "site": list(layout.site).index(site),
        "covariate": _number(row, layout.covariate_column, where),
        "target": list(layout.target).index(target),
    }


def _number(row: dict[str, str], name: str, where: str) -> float:
    try:
        return float(row[name])
    except ValueError:
        raise InputError(f'{where}, {name}: "{row[name]}", expected a number') from None


class _UciBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A builder for the unencoded rows of raw UCI files, given by `layout` and `files`."""

    VERSION = tfds.core.Version("1.0.0")
    layout: _Layout
    files: dict[str, str]  # split of the raw files to file name

    def __init__(self, *, folder: pathlib.Path, data_dir: str):
        self._folder = folder
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        width = len(self.layout.features) - len(self.layout.numbers)
        features = tfds.features.FeaturesDict(
            {
                "numbers": tfds.features.Tensor(shape=(len(self.layout.numbers),), dtype=np.float64),
                "categories": tfds.features.Tensor(shape=(width,), dtype=np.str_),
                "site": tfds.features.Scalar(dtype=np.int64),
                "covariate": tfds.features.Scalar(dtype=np.float64),
                "target": tfds.features.Scalar(dtype=np.int64),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # its retries take minutes without a network, and `raw_files` has the files already
        return {split: self._generate_examples(self._folder / name) for split, name in self.files.items()}

    def _generate_examples(self, path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(_parse(path, self.layout))


class UciAdult(_UciBuilder):
    """48 842 people of the 1994 census: splits `data` (32 561) and `test` (16 281), as UCI divides them."""

    layout = _ADULT
    files = {"data": "adult.data", "test": "adult.test"}


class UciGerman(_UciBuilder):
    """1 000 credit applicants: split `data`."""

    layout = _GERMAN
    files = {"data": "german.data"}


def load_uci(dataset: str, raw_dir: str, cache_dir: pathlib.Path, seed: int) -> Cohort:
    """Loads Adult or German with a sound split.

    Args:
      dataset: "adult" (site gender, target income) or "german" (site foreign worker, target credit). Age is the
        covariate.
      raw_dir: folder with UCI's raw files, or "" to download them once.
      cache_dir: folder for the prepared builder and the downloads.
      seed: seed of the split.

    Returns:
      A `Cohort` with features encoded from training rows only. German is split 64/16/20 %, stratified by site and
      target. Adult's test split is adult.test, and adult.data is divided 80/20 into train and validation.

    Raises:
      InputError: if a raw file is missing or altered, or cannot be downloaded.
    """
    builder_class = {"adult": UciAdult, "german": UciGerman}[dataset]
    layout = builder_class.layout
    # Files are verified on every run, so that an earlier preparation cannot hide a change in a local file.
    folder = raw_files(tuple(builder_class.files.values()), raw_dir, cache_dir / "downloads")
    builder = builder_class(folder=folder, data_dir=str(cache_dir / "tensorflow_datasets"))
    columns, origin = _read(builder)
    participant_id = np.array([f"{split}-{row:05d}" for row, split in enumerate(origin, start=1)])
    strata = list(zip(columns["site"].tolist(), columns["target"].tolist(), strict=True))
    split = _split(dataset, participant_id, strata, origin, seed)
    frame = _frame(columns, layout)
    encoding = fit_encoding(frame, np.flatnonzero(split == "train"))
    inputs = encoding.apply(frame)
    return Cohort(
        name=dataset,
        simulated=False,
        participant_id=participant_id,
        inputs=inputs,
        site=columns["site"].astype(np.int32),
        site_names=tuple(layout.site.values()),
        covariates=columns["covariate"].astype(np.float64)[:, None],
        covariate_names=(layout.covariate_column,),
        target=columns["target"].astype(np.int32),
        target_name="income" if dataset == "adult" else "credit",
        target_classes=tuple(layout.target.values()),
        split=split,
        table=TableInputs(encoding.input_names, inputs),
        notes=_notes(layout, participant_id.size, raw_dir),
    )


def _read(builder: _UciBuilder) -> tuple[dict[str, np.ndarray], list[str]]:
    prepare_once(builder)
    examples: list[dict[str, Any]] = []
    origin: list[str] = []
    for split in builder.files:
        source = builder.as_data_source(split=split)
        read = source.__getitems__(range(len(source)))
        examples.extend(read)
        origin.extend([split] * len(read))
    return {key: np.array([example[key] for example in examples]) for key in examples[0]}, origin


def _frame(columns: dict[str, np.ndarray], layout: _Layout) -> pd.DataFrame:
    categorical = [name for name in layout.features if name not in layout.numbers]
    values: dict[str, Any] = {name: columns["numbers"][:, index] for index, name in enumerate(layout.numbers)}
    for index, name in enumerate(categorical):
        values[name] = [value.decode() for value in columns["categories"][:, index]]
    return pd.DataFrame({name: values[name] for name in layout.features})


def _split(
    dataset: str, participant_id: np.ndarray, strata: list[tuple[int, int]], origin: list[str], seed: int
) -> np.ndarray:
    if dataset == "german":
        return assign_splits(participant_id, strata, validation_fraction=0.16, test_fraction=0.2, seed=seed)
    split = np.array(origin, dtype="<U10")
    rows = np.flatnonzero(split == "data")
    train_strata = [strata[row] for row in rows]
    split[rows] = assign_splits(
        participant_id[rows], train_strata, validation_fraction=0.2, test_fraction=0.0, seed=seed
    )
    return split


def _notes(layout: _Layout, count: int, raw_dir: str) -> tuple[str, ...]:
    source = f"the files in {raw_dir}" if raw_dir else "UCI's server"
    notes = [f"{count} rows from {source}, SHA-256 verified"]
    notes.append(f"site {layout.site_column} and covariate {layout.covariate_column} are not among the features")
    if layout.dropped:
        notes.append(f"left out of the features: {', '.join(layout.dropped)} (a sampling weight, not a personal trait)")
    return tuple(notes)
