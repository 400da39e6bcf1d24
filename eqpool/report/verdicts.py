"""Interpretation of the metrics in results.json in plain words, based on their 95% intervals.

An estimate is called better or worse than a level (chance, the site floor, a guess) only if its whole 95% interval is
on that side of the level. Otherwise its verdict is "open", whatever the estimate. A missing difference is never called
proof that there is none. A metric that is not defined on the held-out rows is "not defined", with the reason.
"""

import dataclasses
import string
from collections.abc import Iterator
from typing import Literal

from eqpool.report.formatting import format_metric, format_number, is_defined, why_not_defined
from eqpool.report.judgement import Judge, Judgement, Metrics, Verdict, compare
from eqpool.report.site_verdicts import (
    adversary,
    before,
    covariate_free,
    image_mmd_after,
    image_mmd_before,
    mmd,
    nuisance,
    site_predicted,
)
from eqpool.storage.run_folder import NON_FINITE_ROWS

Section = Literal["removed", "kept", "images"]


@dataclasses.dataclass(frozen=True)
class Reading:
    """The interpretation of one metric, which is one line of the report.

    Attributes:
      metric: key in results.json.
      label: name in words.
      value: estimate with its interval.
      text: interpretation in words.
      verdict: "good" or "bad" if the interval decides, "open" if it does not, "plain" if the metric is not judged.
      section: section of the report.
    """

    metric: str
    label: str
    value: str
    text: str
    verdict: Verdict
    section: Section


def read_metrics(metrics: Metrics) -> list[Reading]:
    """Interprets every known metric of a run, in the order of the report.

    A metric that is null or not finite has no number, interval or verdict, and its text gives the reason. Comparisons
    with such a metric are left out of the texts of other metrics.
    """
    known = {name: value for name, value in metrics.items() if is_defined(value)}
    readings = []
    for name, label, section, judge in (*_LINES, *_nuisance_lines(metrics), *_covariate_lines(metrics)):
        if name not in metrics or f"scratch_{name}" in metrics:  # an ISTN has a line for scratch_<name> already
            continue
        verdict, text = judge(known, name) if name in known else ("plain", why_not_defined(name))
        readings.append(Reading(name, label, format_metric(metrics, name), text, verdict, section))
    return readings


def _non_finite(metrics: Metrics, name: str) -> Judgement:
    return "bad", "the latent has values that are not finite: no pooling result can be read from this run"


def _delta_eq(metrics: Metrics, name: str) -> Judgement:
    ratio, interval = metrics.get("delta_eq_ratio_to_permuted"), metrics.get("delta_eq_interval")
    if not ratio:
        return "plain", "no permuted value to compare with"
    verdict = compare(interval, metrics[name] / ratio, higher_is_better=True)
    said = {
        "good": "tau differs with the covariate beyond noise",
        "bad": "less than at permuted covariates",
        "open": "not distinguishable from noise",
        "plain": "no interval, so nothing is concluded",
    }[verdict]
    return verdict, f"{ratio:.3g} times the value at permuted covariates (1 is noise): {said}"


def _than(level_name: str, level: str | float, *, higher: bool, of: str = "") -> Judge:
    """Returns a judge that compares with a number, or with the metric of that name. Its texts begin with `of`."""

    def judge(metrics: Metrics, name: str) -> Judgement:
        value = metrics.get(level) if isinstance(level, str) else level
        verdict = compare(metrics.get(f"{name}_interval"), value, higher_is_better=higher)
        if verdict == "plain":
            return verdict, of or "on held-out rows"
        said = {"good": "better than", "bad": "worse than", "open": "not distinguishable from"}[verdict]
        return verdict, f"{of}{'; ' if of else ''}{said} {level_name} ({value:.3g})"

    return judge


def _against_before(kind: str, *, higher: bool) -> Judge:
    """Returns a judge of a task model on the reference site.

    The judge compares the model's interval with that of the source model on the same site.
    """

    def judge(metrics: Metrics, name: str) -> Judgement:
        before, own = metrics.get(f"before_{kind}_interval"), metrics.get(f"{name}_interval")
        gain = metrics.get(f"gain_{name.removesuffix(f'_{kind}')}")
        if gain is None:
            return "plain", "on the reference, after"
        text = f"on the reference: {gain:+.2f} compared with before"
        if not before or not own:
            return "plain", text
        if own[0] > before[1] or own[1] < before[0]:
            gained = (own[0] > before[1]) == higher
            return ("good", f"{text}, clearly better") if gained else ("bad", f"{text}, clearly worse")
        return "open", f"{text}, within the intervals"

    return judge


def _says(text: str) -> Judge:
    """Returns a judge that makes a plain remark. Names in braces are replaced by the metrics of these names."""

    def judge(metrics: Metrics, name: str) -> Judgement:
        fields = [field for _, field, _, _ in string.Formatter().parse(text) if field]
        return "plain", text.format(**{field: format_number(metrics.get(field)) for field in fields})

    return judge


def _kept(covariate: str) -> Judge:
    def judge(metrics: Metrics, name: str) -> Judgement:
        own, before = metrics.get(f"{name}_interval"), metrics.get(f"{name}_before_interval")
        verdict = compare(own, 0.0, higher_is_better=True)
        text = {
            "good": f"{covariate} can still be predicted from Phi",
            "bad": f"{covariate} is predicted worse than by its mean",
            "open": f"whether {covariate} can be predicted is not decided",
            "plain": "no interval, so nothing is concluded",
        }[verdict]
        if metrics.get(f"{name}_before") is None:
            return verdict, text
        text += f". Before pooling it was {metrics[f'{name}_before']:.2f}"
        return verdict, text + (", clearly more" if own and before and own[1] < before[0] else "")

    return judge


def _nuisance_lines(metrics: Metrics) -> Iterator[tuple[str, str, Section, Judge]]:
    for key in metrics:
        if key.startswith("nuisance_") and f"{key}_chance" in metrics:
            name = key.removeprefix("nuisance_")
            yield key, f"{name}, predicted from tau^-1 Phi", "removed", nuisance


def _covariate_lines(metrics: Metrics) -> Iterator[tuple[str, str, Section, Judge]]:
    for key in metrics:
        if key.startswith("kept_") and key.endswith("_r_squared"):
            covariate = key.removeprefix("kept_").removesuffix("_r_squared")
            yield (
                f"kept_{covariate}_mae",
                f"mean error of {covariate}, predicted from Phi",
                "kept",
                _says("in its own units"),
            )
            yield key, f"R² of {covariate}, predicted from Phi", "kept", _kept(covariate)


def _task_lines(kind: str, unit: str, *, higher: bool) -> Iterator[tuple[str, str, Section, Judge]]:
    """Yields the lines about an ISTN's task models, where `kind` is "accuracy" or "mae"."""
    yield (
        f"source_{kind}",
        f"source model on the source, {unit}",
        "kept",
        _says("on its own site: the best that can be regained"),
    )
    yield f"before_{kind}", f"source model on the reference, {unit}", "kept", _says("before any transformation")
    judge = _against_before(kind, higher=higher)
    yield f"scratch_{kind}", f"retrained on S2T from scratch, {unit}", "kept", judge
    yield f"finetuned_{kind}", f"fine-tuned on S2T, {unit}", "kept", judge


def _recovery(metrics: Metrics, name: str) -> Judgement:
    """Judges the error of harmonised volumes against that of the input; both intervals are over the same volumes."""
    own, before = metrics.get(f"{name}_interval"), metrics.get("recovery_error_input_interval")
    text = f"in z-scores, to the simulated truth. The input has {format_number(metrics.get('recovery_error_input'))}"
    if not own or not before or (own[0] <= before[1] and before[0] <= own[1]):
        return "open", f"{text}: the intervals overlap"
    return ("good", f"{text}: clearly nearer now") if own[1] < before[0] else ("bad", f"{text}: clearly farther now")


_site_floor = site_predicted("the accuracy from covariates and target", "site_floor")
# (key, label, section, judge), in the order of both the terminal and the report
_LINES: tuple[tuple[str, str, Section, Judge], ...] = (
    (NON_FINITE_ROWS, "rows with a latent that is not finite", "removed", _non_finite),
    *_task_lines("accuracy", "%", higher=True),
    *_task_lines("mae", "MAE", higher=False),
    ("image_mmd_before", "distance of the images S to T, M", "removed", image_mmd_before),
    ("image_mmd_after", "distance of the images S2T to T, M", "removed", image_mmd_after),
    ("strongest_probe_before", "site classification accuracy before pooling (l)", "removed", before),
    ("strongest_probe", "site classification accuracy after pooling (Phi)", "removed", _site_floor),
    (
        "strongest_probe_covariate_free",
        "site classification accuracy without the covariate (tau^-1 Phi)",
        "removed",
        covariate_free,
    ),
    ("adversary", "accuracy of the adversary on Phi, %", "removed", adversary),
    ("mmd", "distance between the sites, M of Phi", "removed", mmd),
    ("mmd_conditional", "distance at equal covariates, M of Phi", "removed", mmd),
    ("mmd_covariate_free", "distance without the covariate, M of tau^-1 Phi", "removed", mmd),
    ("delta_eq", "turning with the covariate, delta_eq of tau", "kept", _delta_eq),
    ("equivariance_error", "equivariance error", "kept", _than("a tau that never turns", 1.0, higher=False)),
    ("accuracy", "accuracy of the target, %", "kept", _than("the commonest class", "majority_accuracy", higher=True)),
    ("balanced_accuracy", "balanced accuracy of the target, %", "kept", _than("a guess", "target_chance", higher=True)),
    (
        "mae",
        "mean absolute error of the target",
        "kept",
        _than("always the median", "constant_mae", higher=False, of="in its own units"),
    ),
    ("r_squared", "R² of the target", "kept", _than("always the mean", 0.0, higher=True)),
    (
        "ssim_change",
        "SSIM of harmonised volumes",
        "images",
        _says("compared with their inputs. PSNR is {psnr_change} dB"),
    ),
    (
        "ssim_decoded",
        "SSIM of the decoder's own output",
        "images",
        _says("not written: the latent blurs it. PSNR is {psnr_decoded} dB"),
    ),
    ("recovery_error_change", "error to the volume without a scanner", "images", _recovery),
)
