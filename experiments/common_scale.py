"""Predicts the scanner from the raw intensities of written volumes, as scanned and on the common scale.

Every volume of a simulated cohort is written to disk as it came, with the change of ComBat, and with that of the site
calibration, each in the units of its scan (`output.scale=as_scanned`) and on the common scale. No network is trained.
The files are read again, and the scanner is predicted from their raw values on held-out rows by the strongest of three
probes in two designs (`eqpool.evaluate.site_probes`): from tissue mean and deviation, and from principal components of
voxels. The simulated scanners differ in gain by up to 3.6 times, and scans of one scanner by about 15 percent.
"""

import argparse
import pathlib
import tempfile
from typing import Any

import nibabel
import numpy as np

from eqpool.config import DataConfig, RunConfig
from eqpool.data.cohort import Cohort, Scaling
from eqpool.data.load import load_cohort
from eqpool.data.sources.simulated import scanner_free_path
from eqpool.data.volumes.intensity_scale import CommonScale
from eqpool.evaluate.components import Components
from eqpool.evaluate.probes import site_floor_features
from eqpool.evaluate.scorecard import COMPONENTS
from eqpool.evaluate.site_probes import predict_sites, strongest
from eqpool.methods.combat import fit_combat
from eqpool.methods.facts import ModelFacts
from eqpool.methods.volume_writer import VolumeWriter
from eqpool.storage.files import read_json
from eqpool.storage.progress import track
from experiments.flags import some_of, whole_numbers
from experiments.provenance import made_here, written_by
from experiments.registry import Experiment
from experiments.tables import Measured, mean_and_deviation, table

_COHORTS, _FOLDS = ("adni", "adcp"), 5
_FEATURES = {"tissue": "tissue mean and deviation", "components": "principal components"}
Scores = dict[str, dict[str, float]]


def add_flags(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    """Adds the experiment's own flags."""
    parser.add_argument("--cohorts", type=some_of(_COHORTS), default=",".join(_COHORTS), help="simulated cohorts")
    parser.add_argument("--splits", type=whole_numbers, default="0,1,2", help="comma-separated seeds of the split")


def run(experiment: Experiment, options: argparse.Namespace) -> Measured:
    """Scores every cohort and split."""
    scores: dict[str, list[Scores]] = {}
    for name in options.cohorts:
        configs = [_config(name, split) for split in options.splits]
        scores[name] = [score_split(config, options.runs / "cache") for config in configs]
    return Measured(
        {"splits": options.splits, "scores": scores}, [made_here(RunConfig(data=_config(options.cohorts[0], 0)), 0)]
    )


def markdown(experiment: Experiment, content: dict[str, Any]) -> str:
    """Returns the table with a row for each version of the volumes."""
    columns = [(name, key) for name in content["scores"] for key in _FEATURES]
    rows = []
    for version in next(iter(content["scores"].values()))[0]:
        splits = {name: [split[version] for split in one] for name, one in content["scores"].items()}
        cells = [mean_and_deviation([split.get(key) for split in splits[name]], 3) for name, key in columns]
        clipped = [split["set_to_0"] for one in splits.values() for split in one if "set_to_0" in split]
        rows.append([version, *cells, f"{100 * max(clipped):.1f}" if clipped else ""])
    head = ["version", *(f"{name}, {_FEATURES[key]}" for name, key in columns), "voxels set to 0, %"]
    return "\n".join(
        [
            f"SIMULATED data. {written_by(experiment.name, content)}",
            f"Balanced accuracy of the scanner on held-out rows, means (standard deviations) over "
            f"{len(content['splits'])} splits. Voxels set to 0 are the largest share in a split.",
            "",
            *table(head, rows),
        ]
    )


def score_split(config: DataConfig, cache: pathlib.Path) -> Scores:
    """Returns the scores of each version of the volumes of one split."""
    cohort = load_cohort(config, cache)
    assert cohort.volumes is not None
    mask, everyone = cohort.volumes.grid.mask, range(len(cohort.site))
    common = ModelFacts.of(cohort, Scaling.fit(cohort)).common_scale
    combat, names = fit_combat(cohort, RunConfig(data=config)), cohort.site_labels

    def by_combat(row: int) -> np.ndarray:
        change, before = np.zeros(mask.shape, np.float32), np.asarray(cohort.uncalibrated[row])[mask][None]
        change[mask] = (combat.apply(before, names[[row]]) - before)[0]
        return change

    changes = {
        "input": lambda row: np.zeros(mask.shape, np.float32),
        "ComBat": by_combat,
        "location_scale": lambda row: np.asarray(cohort.inputs[row]) - np.asarray(cohort.uncalibrated[row]),
    }
    scores: Scores = {}
    for version, change in changes.items():
        for label, scale in (("as_scanned", None), ("common", common)):
            with tempfile.TemporaryDirectory() as folder:
                made = [change(row) for row in everyone]
                voxels, share = written_voxels(cohort, made, scale, pathlib.Path(folder))
            scores[f"{version}, {label}"] = score_voxels(cohort, voxels) | {"set_to_0": share}
    truth = [_values(scanner_free_path(pathlib.Path(path)), mask) for path in cohort.volumes.image_path]
    scores["truth, without a scanner"] = score_voxels(cohort, np.stack(truth))
    floor = _accuracy(cohort, site_floor_features(cohort.covariates, cohort.target, cohort.target_classes), 0)
    scores["age and diagnosis alone"] = dict.fromkeys(_FEATURES, floor)
    return scores


def written_voxels(
    cohort: Cohort, changes: list[np.ndarray], scale: CommonScale | None, folder: pathlib.Path
) -> tuple[np.ndarray, float]:
    """Writes every volume with its change as a run writes it, and reads the files again.

    Args:
      cohort: N volumes that lie on their grid.
      changes: change of each volume, `grid.shape`, z-scores of its tissue.
      scale: scale of the files; None for the units of each scan.
      folder: empty folder.

    Returns:
      The (N, V) raw values inside the brain mask, float32, and the mean share of voxels that were set to 0.
    """
    volumes = cohort.volumes
    assert volumes is not None
    sources = [pathlib.Path(path) for path in volumes.image_path]
    root, output, names = pathlib.Path(volumes.image_root), RunConfig().output, volumes.scan_name.tolist()
    writer = VolumeWriter(folder, names, sources, root, volumes.grid, output, form="change", scale=scale)
    for row, change in enumerate(track(changes, "Writing", unit="volume")):
        writer.write(row, change, change, volumes.facts_of(row))
    files = [next((folder / name).parent.glob("*_T1w.nii.gz")) for name in names]
    sidecars = [read_json(file.with_name(file.name.replace(".nii.gz", ".json"))) for file in files]
    share = float(np.mean([sidecar["ShareSetToZero"] for sidecar in sidecars]))
    return np.stack([_values(file, volumes.grid.mask) for file in files]), share


def score_voxels(cohort: Cohort, voxels: np.ndarray) -> dict[str, float]:
    """Returns the balanced accuracy of the strongest probe on both kinds of features of (N, V) raw values."""
    tissue = [values[values != 0].astype(np.float64) for values in voxels]
    moments = np.array([[values.mean(), values.std()] for values in tissue])
    return {"tissue": _accuracy(cohort, moments, 0), "components": _accuracy(cohort, voxels, COMPONENTS)}


def _values(path: pathlib.Path, mask: np.ndarray) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj, np.float32)[mask]  # type: ignore[attr-defined]


def _accuracy(cohort: Cohort, features: np.ndarray, components: int) -> float:
    train, test = cohort.rows("train"), cohort.rows("test")
    predictions = predict_sites(
        features[train],
        cohort.site[train],
        features[test],
        cohort.site[test],
        cohort.participant_id[test],
        across=Components.fit_few(features[train], components),
        components=components,
        num_folds=_FOLDS,
    )
    return strongest(predictions).accuracy


def _config(name: str, split: int) -> DataConfig:
    return DataConfig(dataset=name, split_seed=split, site_calibration="location_scale")  # type: ignore[arg-type]
