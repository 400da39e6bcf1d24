"""Interpretation of the metrics in results.json in plain words, based on their 95% intervals.

An estimate is called better or worse than a level (chance, the site floor, a guess) only if its whole 95% interval is
on that side of the level. Otherwise its verdict is "open", whatever the estimate. A missing difference is never called
proof that there is none. A metric that is not defined on the held-out rows is "not defined", with the reason.
"""

import dataclasses
import string
from collections.abc import Callable, Iterator
from typing import Any, Literal

from eqpool.report.formatting import format_metric, format_number, is_defined, why_not_defined
from eqpool.storage.run_folder import NON_FINITE_ROWS

Metrics = dict[str, Any]
Verdict = Literal["good", "bad", "open", "plain"]
Section = Literal["removed", "kept", "images"]
SIGNIFICANT = 0.05
BEST_OF_SIX = 1.346  # factor by which a normal 95% interval widens for six simultaneous readings (Bonferroni)


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


Judgement = tuple[Verdict, str]
Judge = Callable[[Metrics, str], Judgement]


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


def compare(interval: tuple[float, float] | None, level: float | None, *, higher_is_better: bool) -> Verdict:
    """Returns the verdict for an interval: "open" if it contains `level`, and "plain" if either is missing.

    Otherwise the verdict is "good" or "bad", depending on the side of `level` on which the interval lies.
    """
    if not interval or level is None:
        return "plain"
    low, high = interval
    if low <= level <= high:
        return "open"
    return "good" if (low > level) == higher_is_better else "bad"


def _site_told(level_name: str, level_key: str) -> Judge:
    """Returns a judge of site classification accuracy.

    The judge compares the accuracy with the level expected without any trace of the scanner, then with the accuracy
    before pooling.
    """

    def judge(metrics: Metrics, name: str) -> Judgement:
        level, interval = metrics.get(level_key), metrics.get(f"{name}_interval")
        if level is None or not interval:
            return "plain", "no level to compare with"
        low, high = interval
        floor_interval = metrics.get(f"{level_key}_interval") or (level, level)
        if low > floor_interval[1]:
            verdict: Verdict = "bad"
            text = f"more than {level_name} ({level:.3g}): the site can still be told"
        elif low > level:
            verdict, text = "open", f"seems more than {level_name} ({level:.3g}), but their intervals overlap"
        else:
            verdict = "open"
            text = f"no more than {level_name} ({level:.3g}) is seen; up to {high:.2g} fits these rows too"
        return verdict, text + _since(metrics, high)

    return judge


def _covariate_free(metrics: Metrics, name: str) -> Judgement:
    """Judges site classification accuracy from tau^-1 Phi by the permutation test with shuffled sites, if it was run.

    The best of several probes exceeds 1 / sites even by chance. Without the test, the interval is therefore widened for
    the best of six probes.
    """
    p = metrics.get(f"{name}_p_value")
    interval = metrics.get(f"{name}_interval")
    if p is None or not interval:
        chance, told = metrics.get("site_chance"), metrics[name]
        if chance is not None and interval and told - BEST_OF_SIX * (told - interval[0]) <= chance < interval[0]:
            text = f"seems more than chance ({chance:.3g}), but the best of several probes may lie there by itself"
            return "open", f"{text} (config.evaluate.probe_permutations tells)" + _since(metrics, interval[1])
        return _site_chance(metrics, name)
    verdict: Verdict = "bad" if p <= SIGNIFICANT else "open"
    said = "more" if verdict == "bad" else "no more"
    text = f"{said} than of shuffled sites ({format_number(metrics.get(f'{name}_shuffled'))}; permutation p = {p:.2g})"
    return verdict, text + _since(metrics, interval[1])


def _since(metrics: Metrics, high: float) -> str:
    """Returns text that compares the upper end of an interval, `high`, with site classification before pooling."""
    before = metrics.get("strongest_probe_before_interval")
    if not before:
        return ""
    return "; clearly less than before pooling" if high < before[0] else "; not clearly less than before pooling"


def _before(metrics: Metrics, name: str) -> Judgement:
    return "plain", f"before pooling; chance is {format_number(metrics.get('site_chance'))}"


def _adversary(metrics: Metrics, name: str) -> Judgement:
    return "plain", "the paper's Adv, one of the probes; chance is the largest site's share"


def _non_finite(metrics: Metrics, name: str) -> Judgement:
    return "bad", "the latent has values that are not finite: no pooling result can be read from this run"


def _mmd(metrics: Metrics, name: str) -> Judgement:
    p = metrics.get(f"{name}_p_value")
    if p is None:
        return "plain", "no permutation p, so nothing is concluded"
    if p <= SIGNIFICANT:
        also = ", as it does too where only ages differ" if name == "mmd" else ""
        return "bad", f"it differs between sites (permutation p = {p:.3g}){also}"
    return (
        "open",
        f"no difference between sites is seen (permutation p = {p:.3g}), which is no proof that there is none",
    )


def _image_mmd_before(metrics: Metrics, name: str) -> Judgement:
    p = format_number(metrics.get("image_mmd_before_p_value"))
    return "plain", f"how far apart the two sites' images are (permutation p = {p})"


def _image_mmd_after(metrics: Metrics, name: str) -> Judgement:
    p_value, before = metrics.get("image_mmd_after_p_value"), metrics.get("image_mmd_before")
    if p_value is None:
        return "plain", "no permutation p, so nothing is concluded"
    p, further = f"permutation p = {p_value:.3g}", before is not None and metrics[name] > before
    if p_value <= SIGNIFICANT:
        return "bad", f"further apart than before ({before:.3g}; {p})" if further else f"the images still differ ({p})"
    if further:
        text = (
            f"by its estimate further apart than before ({before:.3g}), though no difference is seen ({p}), which is no"
        )
        return "open", f"{text} proof that there is none"
    return "open", f"no difference is seen any more ({p}), which is no proof that there is none"


def _delta_eq(metrics: Metrics, name: str) -> Judgement:
    ratio, interval = metrics.get("delta_eq_ratio_to_permuted"), metrics.get("delta_eq_interval")
    if not ratio:
        return "plain", "no permuted value to compare with"
    verdict = compare(interval, metrics[name] / ratio, higher_is_better=True)
    said = {
        "good": "differs with the covariate beyond noise",
        "bad": "less than at permuted covariates",
        "open": "not told from noise",
        "plain": "no interval, so nothing is concluded",
    }[verdict]
    return verdict, f"{ratio:.3g} times that of permuted covariates (1: noise): {said}"


def _than(level_name: str, level: str | float, *, higher: bool, of: str = "") -> Judge:
    """Returns a judge that compares with a number, or with the metric of that name. Its texts begin with `of`."""

    def judge(metrics: Metrics, name: str) -> Judgement:
        value = metrics.get(level) if isinstance(level, str) else level
        verdict = compare(metrics.get(f"{name}_interval"), value, higher_is_better=higher)
        if verdict == "plain":
            return verdict, of or "on held-out rows"
        said = {"good": "better than", "bad": "worse than", "open": "not told from"}[verdict]
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
        text = f"on the reference: {gain:+.2f} against before"
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
            "good": f"{covariate} can still be read from Phi",
            "bad": f"{covariate} is read worse than by its mean",
            "open": f"whether {covariate} can be read is not decided",
            "plain": "no interval, so nothing is concluded",
        }[verdict]
        if metrics.get(f"{name}_before") is None:
            return verdict, text
        text += f"; before pooling {metrics[f'{name}_before']:.2f}"
        return verdict, text + (", clearly more" if own and before and own[1] < before[0] else "")

    return judge


def _nuisance_lines(metrics: Metrics) -> Iterator[tuple[str, str, Section, Judge]]:
    for key in metrics:
        if key.startswith("nuisance_") and f"{key}_chance" in metrics:
            name = key.removeprefix("nuisance_")
            yield key, f"{name} told from tau^-1 Phi", "removed", _nuisance


def _nuisance(metrics: Metrics, name: str) -> Judgement:
    level = metrics.get(f"{name}_chance")
    verdict = compare(metrics.get(f"{name}_interval"), level, higher_is_better=False)
    chance = format_number(level)
    text = {"bad": f"more than chance ({chance})", "open": f"no more than chance ({chance}) is seen"}
    return verdict, text.get(verdict, f"chance is {chance}")


def _covariate_lines(metrics: Metrics) -> Iterator[tuple[str, str, Section, Judge]]:
    for key in metrics:
        if key.startswith("kept_") and key.endswith("_r_squared"):
            covariate = key.removeprefix("kept_").removesuffix("_r_squared")
            yield f"kept_{covariate}_mae", f"{covariate} read from Phi, mean error", "kept", _says("in its own units")
            yield key, f"{covariate} read from Phi, R^2", "kept", _kept(covariate)


def _task_lines(kind: str, unit: str, *, higher: bool) -> Iterator[tuple[str, str, Section, Judge]]:
    """Yields the lines about an ISTN's task models, where `kind` is "accuracy" or "mae"."""
    yield f"source_{kind}", f"source model on the source, {unit}", "kept", _says("one site alone: what can be regained")
    yield f"before_{kind}", f"source model on the reference, {unit}", "kept", _says("before")
    judge = _against_before(kind, higher=higher)
    yield f"scratch_{kind}", f"retrained on S2T from scratch, {unit}", "kept", judge
    yield f"finetuned_{kind}", f"fine-tuned on S2T, {unit}", "kept", judge


def _recovery(metrics: Metrics, name: str) -> Judgement:
    """Judges the error of harmonised volumes against that of the input; both intervals are over the same volumes."""
    own, before = metrics.get(f"{name}_interval"), metrics.get("recovery_error_input_interval")
    text = f"z-scores, to the simulated truth; the input's is {format_number(metrics.get('recovery_error_input'))}"
    if not own or not before or (own[0] <= before[1] and before[0] <= own[1]):
        return "open", f"{text}, not told apart"
    return ("good", f"{text}, clearly nearer") if own[1] < before[0] else ("bad", f"{text}, clearly farther")


_TARGET = "of the target"
_site_floor = _site_told("covariates and target alone tell", "site_floor")
_site_chance = _site_told("chance", "site_chance")
# (key, label, section, judge), in the order of both the terminal and the report
_LINES: tuple[tuple[str, str, Section, Judge], ...] = (
    (NON_FINITE_ROWS, "rows with a latent that is not finite", "removed", _non_finite),
    *_task_lines("accuracy", "%", higher=True),
    *_task_lines("mae", "MAE", higher=False),
    ("image_mmd_before", "100 MMD^2 of images, S to T", "removed", _image_mmd_before),
    ("image_mmd_after", "100 MMD^2 of images, S2T to T", "removed", _image_mmd_after),
    ("strongest_probe_before", "site told before pooling, from l", "removed", _before),
    ("strongest_probe", "site told after pooling, from Phi", "removed", _site_floor),
    ("strongest_probe_covariate_free", "site told after, from tau^-1 Phi", "removed", _covariate_free),
    ("adversary", "adversary on Phi, accuracy %", "removed", _adversary),
    ("mmd", "M = 100 MMD^2 of Phi, unbiased", "removed", _mmd),
    ("mmd_covariate_free", "M of tau^-1 Phi", "removed", _mmd),
    ("delta_eq", "delta_eq of tau", "kept", _delta_eq),
    ("equivariance_error", "equivariance error", "kept", _than("a tau that never turns", 1.0, higher=False)),
    ("accuracy", "accuracy %", "kept", _than("the commonest class", "majority_accuracy", higher=True, of=_TARGET)),
    ("balanced_accuracy", "balanced accuracy %", "kept", _than("a guess", "target_chance", higher=True, of=_TARGET)),
    (
        "mae",
        "mean absolute error",
        "kept",
        _than("always the median", "constant_mae", higher=False, of=f"{_TARGET}, its units"),
    ),
    ("r_squared", "R^2", "kept", _than("always the mean", 0.0, higher=True, of=_TARGET)),
    ("ssim_change", "SSIM of harmonised volumes", "images", _says("input plus change; PSNR {psnr_change} dB")),
    (
        "ssim_decoded",
        "SSIM of their pure decodes",
        "images",
        _says("PSNR {psnr_decoded} dB; blurred by the latent"),
    ),
    ("recovery_error_change", "error to the scanner-free volume", "images", _recovery),
)
