"""The arrays published with Lokhande et al. 2022 for Adult and German: a reference to reproduce, not a benchmark."""

import pathlib

import numpy as np

from eqpool.data.cohort import SPLITS, Cohort
from eqpool.data.tables.inputs import TableInputs
from eqpool.errors import InputError, to_path
from eqpool.storage.files import read_arrays

_KEYS = ("x", "y", "site", "covariate")
_SITES = {"adult": ("Male", "Female"), "german": ("not foreign worker", "foreign worker")}
_TARGETS = {"adult": ("income", ("<=50K", ">50K")), "german": ("credit", ("good", "bad"))}
_LARGEST_AGE_YEARS = {"adult": 90.0, "german": 75.0}


def load_published(dataset: str, raw_dir: str) -> Cohort:
    """Loads the arrays published with Lokhande et al. 2022 from `raw_dir`/{german,adult}.npz.

    The file holds `{train,validation,test}_{x,y,site,covariate}`. Its covariate is age / largest age, and the cohort's
    is age in years.

    Raises:
      InputError: if the file or one of its arrays is missing.
    """
    path = to_path(raw_dir) / f"{dataset}.npz"
    if not raw_dir or not path.is_file():
        raise InputError(
            f'{path}: no such file; config.data.split = "published" needs {dataset}.npz in config.data.raw_dir'
        )
    parts = _published_arrays(path)
    counts = [len(parts[f"{split}_y"]) for split in SPLITS]
    joined = {key: np.concatenate([parts[f"{split}_{key}"] for split in SPLITS]) for key in _KEYS}
    inputs = joined["x"].astype(np.float32)
    notes = ["the published arrays and split: min-max scaled features without names"]
    if dataset == "adult":
        notes.append("the published Adult test covariates are misaligned with their rows: read test figures with care")
    return Cohort(
        name=dataset,
        simulated=False,
        participant_id=np.array([f"{s}-{i:05d}" for s, n in zip(SPLITS, counts, strict=True) for i in range(1, n + 1)]),
        inputs=inputs,
        site=joined["site"].astype(np.int32),
        site_names=_SITES[dataset],
        covariates=np.round(joined["covariate"].astype(np.float64) * _LARGEST_AGE_YEARS[dataset])[:, None],
        covariate_names=("age",),
        target=joined["y"].astype(np.int32),
        target_name=_TARGETS[dataset][0],
        target_classes=_TARGETS[dataset][1],
        split=np.repeat(np.array(SPLITS), counts),
        table=TableInputs(tuple(f"x{index:03d}" for index in range(inputs.shape[1])), inputs),
        notes=tuple(notes),
    )


def _published_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    arrays = read_arrays(path)
    for name in (f"{split}_{key}" for split in SPLITS for key in _KEYS):
        if name not in arrays:
            raise InputError(f"{path}: no array {name}; found {', '.join(sorted(arrays))}")
    return arrays
