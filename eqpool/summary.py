"""What a run says on the terminal: what the data is, and what came out."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from eqpool.data.cohort import SPLITS, Cohort
from eqpool.data.findings import Finding


def describe_cohort(cohort: Cohort) -> str:
    """What is pooled, in plain words: simulated or real, rows by site and class, covariates, notes."""
    kind = "SIMULATED data (made by eqpool, not measured)" if cohort.simulated else "real data"
    shape = "x".join(map(str, cohort.inputs.shape[1:]))
    if cohort.grid is not None:
        what = f"volumes of {shape} voxels (grid {cohort.grid.name})"
    else:
        what = f"{shape} features a row" if cohort.input_names else f"images of {shape} pixels"
    lines = [f"{cohort.name}: {kind}, {len(cohort.site)} rows, {what}", *_site_lines(cohort)]
    lines.append("  rows by split: " + ", ".join(f"{split} {len(cohort.rows(split))}" for split in SPLITS))
    lines += [f"  note: {note}" for note in cohort.notes]
    return "\n".join(lines)


def describe_findings(findings: Sequence[Finding], everything: bool = False) -> str:
    """The pre-flight check, one line a finding: warnings and refusals, or `everything`."""
    shown = [finding for finding in findings if everything or finding.severity != "info"]
    lines = [f"  {finding.severity}: {finding.check}: {finding.message}" for finding in shown]
    return "\n".join(["pre-flight check" + ("" if lines else ": nothing to warn about"), *lines])


def _site_lines(cohort: Cohort) -> list[str]:
    width = max(len(name) for name in cohort.site_names)
    lines = []
    for index, name in enumerate(cohort.site_names):
        here = cohort.site == index
        ranges = ", ".join(
            f"{covariate} {values.min():g} to {values.max():g} (median {np.median(values):g})"
            for covariate, values in zip(cohort.covariate_names, cohort.covariates[here].T, strict=True)
        )
        lines.append(f"  site {name:<{width}}  {here.sum():>6} rows, {_target_text(cohort, here)}; {ranges}")
    return lines


def _target_text(cohort: Cohort, here: np.ndarray) -> str:
    if cohort.target_classes:
        counts = (f"{label} {np.sum(cohort.target[here] == i)}" for i, label in enumerate(cohort.target_classes))
        return f"{cohort.target_name}: " + " / ".join(counts)
    return f"{cohort.target_name}: mean {np.nanmean(cohort.target[here]):.3g}"


def describe_results(results: dict[str, Any], folder: pathlib.Path) -> str:
    """The metrics of results.json as a short table with a reading of each, and where the files are."""
    metrics = results["metrics"]
    kind = "SIMULATED data" if results["simulated"] else "real data"
    lines = [f"{results['dataset']} ({kind}), method {results['method']}, seed {results['seed']}, held-out rows:"]
    for name, label, reading in METRIC_READINGS:
        if metrics.get(name) is not None:
            lines.append(f"  {label:<34} {format_metric(metrics, name):<24} {reading.format(**metrics)}")
    lines.append(f"  took {results['wall_seconds']:.0f} s on {results['device']}")
    table = "predictions.tsv, images/" if results["method"] == "istn" else "embeddings.tsv"
    lines.append(f"files: {folder}/ results.json, {table}, metrics.jsonl, figures/, checkpoints/, report.html")
    return "\n".join(lines)


def format_metric(metrics: dict[str, Any], name: str) -> str:
    """`value [low, high]`, or the value alone where there is no interval."""
    value = f"{metrics[name]:.3g}"
    interval = metrics.get(f"{name}_interval")
    return value if not interval else f"{value} [{interval[0]:.3g}, {interval[1]:.3g}]"


# (key, label, how to read it); braces take other metrics.
METRIC_READINGS = (
    ("source_accuracy", "source model on the source, %", "single site: what there is to recover"),
    ("before_accuracy", "source model on the reference, %", "before"),
    ("scratch_accuracy", "retrained on S2T from scratch, %", "Acc_s, on the reference: {gain_scratch:+.1f}"),
    ("finetuned_accuracy", "fine-tuned on S2T, %", "Acc_f, on the reference: {gain_finetuned:+.1f}"),
    ("source_mae", "source model on the source, MAE", "single site: what there is to recover"),
    ("before_mae", "source model on the reference, MAE", "before"),
    ("scratch_mae", "retrained on S2T from scratch, MAE", "on the reference: better by {gain_scratch:.2f}"),
    ("finetuned_mae", "fine-tuned on S2T, MAE", "on the reference: better by {gain_finetuned:.2f}"),
    ("image_mmd_before", "100 MMD^2 of images, S to T", "p = {image_mmd_before_p_value:.3g}"),
    ("image_mmd_after", "100 MMD^2 of images, S2T to T", "p = {image_mmd_after_p_value:.3g}"),
    ("strongest_probe_before", "site told from the latent l", "balanced accuracy before stage two"),
    ("strongest_probe", "site told from Phi", "site floor (covariates and target alone): {site_floor:.3g}"),
    ("strongest_probe_covariate_free", "site told from tau^-1 Phi", "chance: {site_chance:.3g}"),
    ("adversary", "adversary on Phi, accuracy %", "the paper's Adv; lower is better"),
    ("mmd", "M = 100 MMD^2, unbiased", "permutation p = {mmd_p_value:.3g}; p > 0.05: no site difference seen"),
    ("delta_eq", "delta_eq of tau", "{delta_eq_ratio_to_permuted:.3g} times that of permuted covariates (1: noise)"),
    ("equivariance_error", "equivariance error", "0 is perfect, 1 is no equivariance"),
    ("accuracy", "accuracy %", "of the target, on held-out rows"),
    ("balanced_accuracy", "balanced accuracy %", ""),
    ("mae", "mean absolute error", "of the target, on held-out rows, in its units"),
    ("r_squared", "R^2", ""),
    ("ssim_change", "SSIM of harmonised volumes", "input plus change against the input; PSNR {psnr_change:.3g} dB"),
    ("ssim_decoded", "SSIM of their pure decodes", "PSNR {psnr_decoded:.3g} dB; blurred by the latent"),
    ("recovery_error_change", "error to the scanner-free volume", "z-scores; the input's: {recovery_error_input:.3g}"),
    ("kept_age_mae", "age read from Phi, MAE", "R^2 {kept_age_r_squared:.3g}"),
)
