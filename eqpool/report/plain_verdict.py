"""The verdict on a run or a harmonised table in a few plain sentences, which stand at the top of every report.

A number is said to have fallen, risen or improved only if the whole 95% interval of the difference on the same held-out
rows is on one side of zero.
"""

from typing import Any, NamedTuple

from eqpool.report.formatting import format_number, is_defined
from eqpool.report.judgement import compare
from eqpool.report.score_table import FEWEST_ROWS, Card, is_site_left, listed

_RAW, _COMBAT = "raw", "combat"


class _Kept(NamedTuple):
    """A score of what is kept: its key, who is predicted, the name of the number, and how it reads."""

    key: str
    of: str
    name: str
    higher_is_better: bool


_KEPT = (
    _Kept("covariate_mae_within_sites", "covariate", "mean error within sites", False),
    _Kept("target_balanced_accuracy", "target", "accuracy", True),
    _Kept("target_mae", "target", "mean error", False),
)


def plain_verdict(card: Card, change_scale: float | None = None) -> list[str]:
    """Returns up to three parts: on the site, beside ComBat and chance; on what is kept; and on what was not changed.

    Args:
      card: scorecard of results.json.
      change_scale: factor on the networks' change, None if there are no networks.
    """
    own = card["handed_back"]
    if not own:
        return _without_product(card)
    versions = card["versions"]
    if own not in versions or "non_finite_rows" in versions[own]:
        return ["What is handed back has values that are not finite. Do not use it."]
    kept = " ".join(sentence for sentence in (_kept(card), _truth(card)) if sentence)
    return [part for part in (_site(card), kept, _unchanged(card, change_scale)) if part]


def rows_named(card: Card) -> str:
    """Returns what the held-out rows are: scans, images or rows of a table."""
    if not card["components"]:
        return "rows"
    return "scans" if card.get("unit", "z-scores") == "z-scores" else "images"


def percent(share: float) -> str:
    """Returns a share as a whole number of percent."""
    return f"{100 * share:.0f}%"


def _without_product(card: Card) -> list[str]:
    said = "This method hands back no harmonised data."
    raw = card["versions"].get(_RAW, {}).get("site")
    if not is_defined(raw):
        return [said]
    rows = f"{card['rows']['test']} held-out {rows_named(card)}"
    return [f"{said} Site classification accuracy is {percent(raw)} in the raw input, on {rows}{_beside(card)}."]


def _site(card: Card) -> str:
    before, after = (card["versions"][name].get("site") for name in (_RAW, card["handed_back"]))
    if not is_defined(before) or not is_defined(after):
        return ""
    on, beside = f"on {card['rows']['test']} held-out {rows_named(card)}", _beside(card)
    few = f" With so few {rows_named(card)} no change is called clear." if _few(card) else ""
    if before == after:
        return f"Site classification accuracy stayed at {percent(after)} {on}{beside}.{few}"
    verdict = _difference(card, _RAW, "site", higher_is_better=False)
    if verdict in ("good", "bad"):
        verb = "fell" if verdict == "good" else "rose"
        still = " The site can still be predicted." if is_site_left(card) else ""
        return f"Site classification accuracy {verb} from {percent(before)} to {percent(after)} {on}{beside}.{still}"
    now = f"it was {percent(before)} and is now {percent(after)}"
    return f"Site classification accuracy did not clearly change {on}: {now}{beside}.{few}"


def _beside(card: Card) -> str:
    """Returns what the accuracy is held against, in brackets: ComBat, chance, and the floor."""
    combat = card["versions"].get(_COMBAT, {}).get("site")
    chance, floor = (card["levels"].get(name) for name in ("site_chance", "site_floor"))
    said = []
    if card["handed_back"] != _COMBAT and is_defined(combat):
        against = _difference(card, _COMBAT, "site", higher_is_better=False)
        clearly = {"good": ", clearly higher", "bad": ", clearly lower"}.get(against, "")
        said.append(f"ComBat: {percent(combat)}{clearly}")
    if is_defined(chance):
        said.append(f"chance: {percent(chance)}")
    if is_defined(floor):
        said.append(f"floor: {percent(floor)}")
    return f" ({'; '.join(said)})" if said else ""


def _truth(card: Card) -> str:
    before, after = (card["versions"][name].get("error_to_truth") for name in (_RAW, card["handed_back"]))
    if not is_defined(before) or not is_defined(after):
        return ""
    of_reference = card.get("truth_is") == "as_reference"
    truth = "as the reference shows them" if of_reference else "without a scanner"
    verdict = _difference(card, _RAW, "error_to_truth", higher_is_better=False)
    verb = {"good": "fell", "bad": "rose"}.get(verdict, "did not clearly change, going")
    combat = card["versions"].get(_COMBAT, {}).get("error_to_truth")
    beside = f" (ComBat: {format_number(combat)})" if is_defined(combat) and card["handed_back"] != _COMBAT else ""
    return (
        f"The error to the same people {truth} {verb} from {format_number(before)} to {format_number(after)}{beside}."
    )


def _kept(card: Card) -> str:
    parts: dict[str, list[str]] = {"good": [], "bad": [], "same": [], "open": []}
    versions = card["versions"]
    for one in _KEPT:
        before, after = (versions[name].get(one.key) for name in (_RAW, card["handed_back"]))
        if not is_defined(before) or not is_defined(after):
            continue
        verdict = _difference(card, _RAW, one.key, higher_is_better=one.higher_is_better)
        show = percent if one.name == "accuracy" else format_number
        numbers = f"({one.name} {show(before)} before, {show(after)} now)"
        kind = "same" if before == after else verdict if verdict in ("good", "bad") else "open"
        parts[kind].append(card[one.of] if kind == "same" else f"{card[one.of]} {numbers}")
    words = {
        "bad": "worse than before",
        "good": "better than before",
        "same": "exactly as before",
        "open": f"as well as before, as far as {card['rows']['test']} {rows_named(card)} can show",
    }
    if _few(card):
        words["open"] = "neither clearly better nor clearly worse than before"
    said = [
        f"{_capital(listed(parts[kind]))} {'is' if len(parts[kind]) == 1 else 'are'} predicted {word}."
        for kind, word in words.items()
        if parts[kind]
    ]
    return " ".join(said)


def _unchanged(card: Card, change_scale: float | None) -> str:
    if change_scale != 0:
        return ""
    versions = card["versions"]
    calibrated = "calibrated" in versions or versions[card["handed_back"]].get("site") != versions[_RAW].get("site")
    left = "the calibration of sites alone" if calibrated else "the raw input, unchanged"
    return f"The networks' change was scaled to nothing: what is handed back is {left}."


def _difference(card: Card, other: str, key: str, *, higher_is_better: bool) -> str:
    interval: Any = card["differences"].get(other, {}).get(f"{key}_interval")
    if _few(card) or not interval or not is_defined(interval):
        return "open"
    return compare(tuple(interval), 0.0, higher_is_better=higher_is_better)


def _few(card: Card) -> bool:
    return card["rows"]["test"] < FEWEST_ROWS


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
