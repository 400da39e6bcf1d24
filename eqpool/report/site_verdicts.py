"""Verdicts on what is left of the site and of nuisances in latents and images."""

from eqpool.report.formatting import format_number
from eqpool.report.judgement import Judge, Judgement, Metrics, Verdict, compare

_SIGNIFICANT = 0.05
_BEST_OF_SIX = 1.346  # factor by which a normal 95% interval widens for six simultaneous readings (Bonferroni)


def site_predicted(level_name: str, level_key: str) -> Judge:
    """Returns a judge of site classification accuracy.

    The judge compares the accuracy with the level expected without any trace of the scanner, then with the accuracy
    from the latent l, which b receives.
    """

    def judge(metrics: Metrics, name: str) -> Judgement:
        level, interval = metrics.get(level_key), metrics.get(f"{name}_interval")
        if level is None or not interval:
            return "plain", "no level to compare with"
        low, high = interval
        floor_interval = metrics.get(f"{level_key}_interval") or (level, level)
        if low > floor_interval[1]:
            verdict: Verdict = "bad"
            text = f"above {level_name} ({level:.3g}): the site can still be predicted"
        elif low > level:
            verdict, text = "open", f"perhaps above {level_name} ({level:.3g}), but their intervals overlap"
        else:
            verdict = "open"
            text = f"not clearly above {level_name} ({level:.3g}). Accuracies up to {high:.2g} cannot be ruled out"
        return verdict, text + _since(metrics, high)

    return judge


def covariate_free(metrics: Metrics, name: str) -> Judgement:
    """Judges site classification accuracy from tau^-1 Phi by the permutation test with shuffled sites, if it was run.

    The best of several probes exceeds 1 / sites even by chance. Without the test, the interval is therefore widened for
    the best of six probes.
    """
    p = metrics.get(f"{name}_p_value")
    interval = metrics.get(f"{name}_interval")
    if p is None or not interval:
        chance, accuracy = metrics.get("site_chance"), metrics[name]
        if (
            chance is not None
            and interval
            and accuracy - _BEST_OF_SIX * (accuracy - interval[0]) <= chance < interval[0]
        ):
            text = f"perhaps above chance ({chance:.3g}), but the best of several classifiers may lie there by luck"
            return "open", f"{text} (set config.evaluate.probe_permutations to test it)" + _since(metrics, interval[1])
        return site_predicted("chance", "site_chance")(metrics, name)
    verdict: Verdict = "bad" if p <= _SIGNIFICANT else "open"
    said = "above" if verdict == "bad" else "not clearly above"
    shuffled = format_number(metrics.get(f"{name}_shuffled"))
    text = f"{said} the accuracy on shuffled sites ({shuffled}; permutation p = {p:.2g})"
    return verdict, text + _since(metrics, interval[1])


def _since(metrics: Metrics, high: float) -> str:
    """Returns text that compares the upper end of an interval, `high`, with site classification from the latent l."""
    before = metrics.get("strongest_probe_before_interval")
    if not before:
        return ""
    return f". {'Clearly' if high < before[0] else 'Not clearly'} lower than before pooling"


def before(metrics: Metrics, name: str) -> Judgement:
    """Reports site classification accuracy from the latent l, which is learnt from what the calibration left."""
    return (
        "plain",
        f"from the latent that pooling receives, not from the raw input. Chance is "
        f"{format_number(metrics.get('site_chance'))}",
    )


def adversary(metrics: Metrics, name: str) -> Judgement:
    """Reports the accuracy of the adversary, which is not judged."""
    return "plain", "the paper's Adv, one of the classifiers. Chance is the share of the largest site"


def nuisance(metrics: Metrics, name: str) -> Judgement:
    """Judges how well a nuisance is predictable from tau^-1 Phi, against chance."""
    level = metrics.get(f"{name}_chance")
    verdict = compare(metrics.get(f"{name}_interval"), level, higher_is_better=False)
    chance = format_number(level)
    text = {"bad": f"above chance ({chance})", "open": f"not clearly above chance ({chance})"}
    return verdict, text.get(verdict, f"chance is {chance}")


def mmd(metrics: Metrics, name: str) -> Judgement:
    """Judges the distance between the sites' latents by its permutation test."""
    p = metrics.get(f"{name}_p_value")
    if p is None:
        return "plain", "no permutation p, so nothing is concluded"
    if p <= _SIGNIFICANT:
        also = ". Different ages alone give such a difference too" if name == "mmd" else ""
        return "bad", f"the sites differ (permutation p = {p:.3g}){also}"
    return (
        "open",
        f"no difference between sites is found (permutation p = {p:.3g}). This does not prove that there is none",
    )


def image_mmd_before(metrics: Metrics, name: str) -> Judgement:
    """Reports the distance between the sites' images before the ISTN."""
    p = format_number(metrics.get("image_mmd_before_p_value"))
    return "plain", f"how far apart the images of the two sites are (permutation p = {p})"


def image_mmd_after(metrics: Metrics, name: str) -> Judgement:
    """Judges the distance between the sites' images after the ISTN by its permutation test."""
    p_value, before = metrics.get("image_mmd_after_p_value"), metrics.get("image_mmd_before")
    if p_value is None:
        return "plain", "no permutation p, so nothing is concluded"
    p, further = f"permutation p = {p_value:.3g}", before is not None and metrics[name] > before
    if p_value <= _SIGNIFICANT:
        return "bad", f"further apart than before ({before:.3g}; {p})" if further else f"the images still differ ({p})"
    if further:
        text = (
            f"the estimate is further apart than before ({before:.3g}), but no difference is found ({p}). This does not"
        )
        return "open", f"{text} prove that there is none"
    return "open", f"no difference is found any more ({p}). This does not prove that there is none"
