"""Writes the harmonised volumes of a cohort, and measures those of held-out rows."""

import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from eqpool.config import EvaluateConfig, RunConfig
from eqpool.data.cohort import Cohort
from eqpool.data.volumes.intensity_scale import CommonScale
from eqpool.data.volumes.parallel import in_parallel
from eqpool.evaluate.intervals import bootstrap_interval
from eqpool.evaluate.similarity import peak_signal_to_noise, structural_similarity_inside
from eqpool.methods.decoding import EncoderDecoder, Pooled, pool_volumes, prepared_rows
from eqpool.methods.scored_voxels import ScoredVoxels, scanner_free_volume
from eqpool.methods.volume_writer import VolumeWriter
from eqpool.storage.files import write_arrays
from eqpool.storage.run_folder import RunFolder

SAMPLES_A_SITE, MOST_SITES = 3, 6  # for the report's figures
Metrics = dict[str, Any]


def harmonise_cohort(
    trained: EncoderDecoder,
    cohort: Cohort,
    folder: RunFolder,
    harmonised: str,
    say: Callable[[str], None] = lambda text: None,
    voxels: ScoredVoxels | None = None,
) -> Metrics:
    """Writes every row's harmonised volume under `folder`/derivatives/eqpool and measures those of held-out rows.

    `say` receives a line on the voxels that were set to 0, if any. `voxels` gathers the scored rows before and after,
    and without a scanner if they are simulated. With harmonised "none" only these and the held-out rows are decoded,
    and what is gathered is the form "change".

    Returns:
      `psnr_*` (dB) and `ssim_*` of `change` and `decoded` against the input, inside the brain mask. A simulated cohort
      also has `recovery_error_*`, the root-mean-square error to the scanner-free truth in z-scores, of the input, of
      both forms, and of the calibrated volume if there is a site calibration. Each value is a mean over held-out
      volumes, with its interval.
    """
    rows = rows_to_harmonise(cohort, harmonised, voxels)
    stream = pool_volumes(trained, prepared_rows(cohort, rows))
    by = "" if cohort.volumes is None or cohort.volumes.calibration is None else "calibrated_"
    scale = None if harmonised == "none" else trained.scale
    return write_and_measure(
        stream, rows, cohort, folder, trained.config, harmonised, say, by=by, scale=scale, voxels=voxels
    )


def rows_to_harmonise(cohort: Cohort, harmonised: str, voxels: ScoredVoxels | None = None) -> list[int]:
    """Returns the rows that a run harmonises: all of them, or the held-out and scored rows if no volume is written."""
    if harmonised != "none":
        return list(range(len(cohort.site)))
    return sorted({*cohort.rows("test").tolist(), *([] if voxels is None else voxels.rows.tolist())})


def write_and_measure(
    stream: Iterable[Pooled],
    rows: list[int],
    cohort: Cohort,
    folder: RunFolder,
    config: RunConfig,
    harmonised: str,
    say: Callable[[str], None],
    *,
    by: str = "",
    scale: CommonScale | None = None,
    voxels: ScoredVoxels | None = None,
) -> Metrics:
    """Writes a stream of harmonised volumes and measures the held-out ones, as `harmonise_cohort` does.

    Args:
      stream: the volumes of `rows`, in order.
      rows: row numbers.
      cohort: cohort of the volumes.
      folder: folder of the run.
      config: config of the run.
      harmonised: form of the written volumes.
      say: receives a line on the voxels that were set to 0.
      by: prefix of the form's description, such as "combat_".
      scale: intensity scale of the written volumes; None for the units of each scan.
      voxels: gathers the scored rows.
    """
    assert cohort.volumes is not None
    volumes, test = cohort.volumes, set(cohort.rows("test").tolist())
    writer = None if harmonised == "none" else _writer(config, cohort, folder, harmonised, by, scale)

    chosen = sample_rows(cohort)
    drawn: dict[int, Pooled] = {}

    def work(pooled: Pooled) -> Metrics | None:
        if writer is not None:
            pooled.write(writer, volumes.facts_of(pooled.row))
        if pooled.row in chosen:
            drawn[pooled.row] = pooled
        scored = voxels is not None and pooled.row in voxels
        truth = scanner_free_volume(cohort, pooled.row) if scored or pooled.row in test else None
        if voxels is not None and scored:
            voxels.take(pooled.row, pooled.inputs, truth, pooled.handed_back(harmonised), pooled.calibrated)
        return measure(cohort, pooled, truth) if pooled.row in test else None

    label = "Harmonising"
    with in_parallel(work, stream, workers=config.data.workers, progress=True, label=label, total=len(rows)) as r:
        measured = [metrics for metrics in r if metrics is not None]
    if writer is not None:
        writer.report(say)
    _write_samples(cohort, [drawn[row] for row in chosen], folder)
    subject = cohort.participant_id[[row for row in rows if row in test]]
    return summarise(measured, subject, config.evaluate, config.seed)


def _writer(
    config: RunConfig, cohort: Cohort, folder: RunFolder, harmonised: str, by: str, scale: CommonScale | None
) -> VolumeWriter:
    assert cohort.volumes is not None
    volumes = cohort.volumes
    return VolumeWriter(
        folder.derivatives,
        volumes.scan_name.tolist(),
        [pathlib.Path(path) for path in volumes.image_path],
        pathlib.Path(volumes.image_root),
        volumes.grid,
        config.output,
        form=harmonised,
        by=by,
        origin=": SIMULATED images" if cohort.simulated else "",
        scale=scale,
    )


def sample_rows(cohort: Cohort) -> list[int]:
    """Selects a few held-out rows to draw, equally many from each site, from low to high first covariate."""
    here = [cohort.rows("test")[cohort.site[cohort.rows("test")] == site] for site in range(len(cohort.site_names))]
    here = [rows[np.argsort(cohort.covariates[rows, 0], kind="stable")] for rows in here if len(rows)][:MOST_SITES]
    each = min([SAMPLES_A_SITE, *map(len, here)])
    return [int(rows[round(place)]) for rows in here for place in np.linspace(0, len(rows) - 1, each)]


def _write_samples(cohort: Cohort, drawn: list[Pooled], folder: RunFolder) -> None:
    """Writes images/samples.npz, axial slices through the middle of the brain mask, if there are rows to draw."""
    assert cohort.volumes is not None
    if not drawn:  # no held-out volume has a known site
        return
    mask = cohort.volumes.grid.mask
    middle = round(float(np.average(np.arange(mask.shape[2]), weights=mask.sum(axis=(0, 1)))))
    rows = [pooled.row for pooled in drawn]
    change = np.stack([np.where(mask, pooled.change, 0)[:, :, middle] for pooled in drawn])
    inputs = np.stack([pooled.inputs[:, :, middle] for pooled in drawn])
    write_arrays(
        folder.samples_file,
        {
            "site": np.array(cohort.site_names)[cohort.site[rows]],
            "covariate": cohort.covariates[rows, 0],
            "input": inputs,
            "harmonised": inputs + change,
            "change": change,
        },
    )


def measure(cohort: Cohort, pooled: Pooled, truth: np.ndarray | None) -> Metrics:
    """Measures the similarity of both forms to the input and, if the truth is known, their error to it."""
    assert cohort.volumes is not None and pooled.pooled is not None
    mask = cohort.volumes.grid.mask
    forms = {"change": pooled.inputs + pooled.change, "decoded": pooled.pooled}
    result: Metrics = {}
    for name, volume in forms.items():
        result[f"psnr_{name}"] = peak_signal_to_noise(volume, pooled.inputs, mask)
        result[f"ssim_{name}"] = structural_similarity_inside(volume, pooled.inputs, mask)
    if truth is not None:
        calibrated = {} if pooled.calibrated is None else {"calibrated": pooled.calibrated}
        for name, volume in ({"input": pooled.inputs} | calibrated | forms).items():
            result[f"recovery_error_{name}"] = float(np.sqrt(np.mean((volume - truth)[mask] ** 2)))
    return result


def summarise(measured: list[Metrics], subject: np.ndarray, config: EvaluateConfig, seed: int) -> Metrics:
    """Averages each metric over volumes, with a bootstrap interval over subjects, None if no volume has it.

    A volume that comes back as it came, such as one of the reference site, has no finite PSNR.
    """
    result: Metrics = {}
    for name in measured[0] if measured else ():
        values = np.array([metrics[name] for metrics in measured])
        has_it = np.isfinite(values)
        values = values[has_it]
        interval = bootstrap_interval(_mean_of(values), len(values), config.bootstraps, seed, subject[has_it])
        result |= {name: float(values.mean()) if len(values) else None, f"{name}_interval": interval}
    return result


def _mean_of(values: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda rows: float(values[rows].mean())
