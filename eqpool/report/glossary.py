"""The glossary of the report: what its terms mean, for the list at its end and for each term where it first stands.

A marked term shows its meaning under the pointer and when the keyboard reaches it. On paper the list has them.
"""

import html
import re
from collections.abc import Mapping

Glossary = Mapping[str, str]

_OF_SCORES = {
    "site classification accuracy": "how often the best of several classifiers finds a scan's site. Each site counts "
    "the same, whatever its size. Lower is better.",
    "balanced accuracy": "the share of rows that is predicted right, averaged over classes or sites, so that large "
    "ones do not count for more.",
    "chance": "the accuracy of a guess: one over the number of sites or classes.",
    "floor": "how well the site is predictable from covariates and target alone, because sites scan different people. "
    "Data that keep the effects of age and diagnosis cannot go below it.",
    "sites shuffled": "the same classifiers on randomly exchanged sites, which shows what they find by luck.",
    "held out": "people whom neither training nor any correction saw.",
    "ComBat": "the usual correction of location and scale for each site (Johnson et al. 2007), fitted on the same "
    "rows.",
    "calibration": "eqpool's correction of location, scale and covariance for each site by empirical Bayes, without "
    "networks.",
    "handed back": "what you take home: the harmonised volumes or features.",
    "MAE": "mean absolute error, in the units of what is predicted.",
    "partial R²": "the share of the features' variance that one factor explains beyond the others.",
    "95% interval": "other people of the same sites would give numbers in this range. It knows nothing of other sites, "
    "seeds or splits.",
}
_OF_LATENTS = {
    "latent": "the short vector to which the encoder reduces a scan. It is called l before pooling.",
    "Phi": "the latent after pooling (Φ), which keeps covariates and target.",
    "tau^-1 Phi": "the pooled latent turned back by tau, so that the covariate is taken out too.",
    "tau": "the rotation (τ) by which the latent turns as the covariate changes.",
    "delta_eq": "how far tau differs between people of different covariates. Its ratio to permuted covariates is 1 for "
    "noise.",
    "equivariance error": "how far the latents of two people are from the rotation that their covariates ask for: 0 is "
    "perfect, and a tau that never turns gives 1.",
    "M": "100 times the squared maximum mean discrepancy (MMD) between the sites: 0 where their distributions agree.",
    "adversary": "one network that was trained to find the site, as in the paper.",
    "permutation p": "the share of random exchanges of the sites that give a difference as large as this.",
}
_OF_IMAGES = {
    "SSIM": "structural similarity of the harmonised image to its input: 1 is the same image.",
    "PSNR": "peak signal-to-noise ratio of the harmonised image to its input, in dB: higher is more alike.",
    "z-scores": "differences from the training mean, in standard deviations.",
}
_OF_ISTN = {
    "ITN": "the network that changes the intensities of an image.",
    "STN": "the network that changes the shape of an image.",
    "S2T": "the source's image made to look like one of the reference site. S is the source's, T the reference's.",
    "discriminator": "the network that tries to find out which images were changed. The ITN and STN learn to mislead "
    "it.",
}


def glossary(*, latents: bool, images: bool, istn: bool) -> Glossary:
    """Returns the terms of a report and their meanings, those of networks and images where it has any."""
    return _OF_SCORES | (_OF_LATENTS if latents else {}) | (_OF_IMAGES if images else {}) | (_OF_ISTN if istn else {})


def mark_terms(text: str, terms: Glossary) -> str:
    """Returns `text` escaped for HTML, with the first place of every term marked so that its meaning can be shown."""
    if not terms:
        return html.escape(text)
    longest_first = "|".join(re.escape(term) for term in sorted(terms, key=len, reverse=True))
    pieces: list[str] = []
    seen: set[str] = set()
    end = 0
    for found in re.finditer(rf"(?<![\w^])(?:{longest_first})(?![\w^])", _with_small_start(text)):
        if found[0] in seen:
            continue
        seen.add(found[0])
        start, end_of_term = found.span()
        pieces += [html.escape(text[end:start]), _marked(text[start:end_of_term], terms[found[0]])]
        end = end_of_term
    return "".join([*pieces, html.escape(text[end:])])


def _marked(term: str, meaning: str) -> str:
    inner = f'<span class="meaning" role="note">{html.escape(meaning)}</span>'
    return f'<span class="term" tabindex="0">{html.escape(term)}{inner}</span>'


def _with_small_start(text: str) -> str:
    """Returns a sentence as it would go on in another one. "M of Phi" and "SSIM" stay as they are."""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
