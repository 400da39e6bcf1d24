"""The scorecard of results.json in words: a table of versions, and whether what is handed back is better.

A version is called better or worse only if the whole 95% interval of the difference on the same held-out rows is on one
side of zero.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from eqpool.report.formatting import format_metric, format_number, is_defined
from eqpool.report.judgement import compare

FEWEST_ROWS = 10  # held-out rows; of fewer, no difference is called clear

Card = dict[str, Any]
VERSIONS = {
    "raw": "raw input",
    "combat": "ComBat",
    "calibrated": "calibration alone",
    "eqpool": "eqpool",
    "istn": "ISTN",
}
_TRUTHS = {"scanner_free": "without scanner", "as_reference": "reference's view"}
_TRUTH_PHRASES = {"scanner_free": "the truth", "as_reference": "the reference's view"}
_NAMES = VERSIONS | {"raw": "the raw input", "calibrated": "its calibration alone"}


class _Measure(NamedTuple):
    """A row of the table. {covariate}, {target}, {truth} and {unit} in its texts are filled in.

    Attributes:
      key: name of the score in the scorecard.
      label: name in the table.
      phrase: name in a sentence; "" if the measure is not judged.
      higher_is_better: which direction is better, if it is judged.
      levels: names of the levels beside it, by their key.
      in_short: whether the terminal shows it.
      of_all: whether every version has it; if not, the cell of one without it is empty.
    """

    key: str
    label: str
    phrase: str = ""
    higher_is_better: bool = False
    levels: dict[str, str] = {}
    in_short: bool = True
    of_all: bool = True


def _shuffled(of: str, in_short: bool = False) -> _Measure:
    return _Measure(f"{of}_shuffled", "the same with the sites shuffled", in_short=in_short, of_all=False)


def _explained(name: str, by: str) -> _Measure:
    key = f"partial_r_squared_{name}"
    return _Measure(key, f"partial R² of {by}", levels={f"{key}_by_chance": "by chance"}, in_short=False)


_MEASURES = (
    _Measure(
        "site",
        "site classification accuracy",
        "site classification accuracy",
        levels={"site_chance": "chance", "site_floor": "floor"},
    ),
    _shuffled("site", in_short=True),
    _Measure("site_transfer", "of these, by transfer from the training rows", in_short=False),
    _shuffled("site_transfer"),
    _Measure("site_within", "of these, cross-validated within the held-out rows", in_short=False),
    _shuffled("site_within"),
    _Measure("covariate_mae", "{covariate} MAE", levels={"constant_covariate_mae": "constant"}),
    _Measure(
        "covariate_mae_within_sites",
        "{covariate} MAE within sites",
        "the error of {covariate} within sites",
        levels={"constant_covariate_mae_within_sites": "constant"},
    ),
    _Measure(
        "target_balanced_accuracy",
        "{target} balanced accuracy",
        "the accuracy of {target}",
        higher_is_better=True,
        levels={"target_chance": "chance"},
    ),
    _Measure("target_mae", "{target} MAE", "the error of {target}", levels={"constant_target_mae": "constant"}),
    _explained("site", "site"),
    _explained("covariate", "{covariate}"),
    _explained("target", "{target}"),
    _Measure("error_to_truth", "error to {truth}, {unit}", "the error to {truth}"),
    _Measure(
        "pairwise_correlation_to_truth",
        "pairwise distances, correlation with {truth}",
        "the differences between people",
        higher_is_better=True,
    ),
    _Measure("pairwise_correlation_to_raw", "pairwise distances, correlation with the raw input"),
)


@dataclasses.dataclass(frozen=True)
class ScoreTable:
    """The table of a scorecard.

    Attributes:
      headings: names of the versions.
      handed_back: index of the version that users get, -1 if there is none.
      lines: (label, levels in words, one (value, interval) for each version) by measure.
    """

    headings: list[str]
    handed_back: int
    lines: list[tuple[str, str, list[tuple[str, str]]]]


def score_table(card: Card, *, in_short: bool = False) -> ScoreTable:
    """Returns the table, with the main measures alone if `in_short`."""
    versions = {name: scores for name, scores in card["versions"].items() if not (in_short and name == "truth")}
    lines = []
    for measure in _MEASURES:
        if any(measure.key in scores for scores in versions.values()) and (measure.in_short or not in_short):
            cells = [_cell(scores, measure) for scores in versions.values()]
            lines.append((_filled(measure.label, card), _levels(measure, card["levels"]), cells))
    heads = VERSIONS | {"truth": truth_named(card)}
    names = [heads.get(name, name) for name in versions]
    place = list(versions).index(card["handed_back"]) if card["handed_back"] in versions else -1
    return ScoreTable(names, place, lines)


def describe_scorecard(card: Card) -> list[str]:
    """Returns the lines of the terminal: the short table and the sentences of `judge_scorecard`."""
    table = score_table(card, in_short=True)
    heads = [f"{name} *" if place == table.handed_back else name for place, name in enumerate(table.headings)]
    marked = f", * handed back, {card['rows']['test']} held-out rows" if table.handed_back >= 0 else ""
    rows = [(f"scorecard{marked}:", *heads)]
    for label, levels, cells in table.lines:
        rows.append((f"  {label}" + (f" ({levels})" if levels else ""), *(" ".join(cell).strip() for cell in cells)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*padded, *(f"  {sentence}" for sentence in judge_scorecard(card))]


def judge_scorecard(card: Card) -> list[str]:
    """Returns sentences on whether what is handed back is better than the raw input, ComBat and other versions."""
    handed_back, rows = card["handed_back"], card["rows"]["test"]
    if not handed_back:
        return ["This method hands back no harmonised data. The table shows the raw input and what ComBat makes of it."]
    if handed_back not in card["versions"] or "non_finite_rows" in card["versions"][handed_back]:
        return ["What is handed back has values that are not finite. Do not use it."]
    if rows < FEWEST_ROWS:
        return [f"With {rows} held-out rows no difference between the versions is called clear."]
    compared = {other: _verdicts(card, other) for other in card["differences"]}
    first = {other: found for other, found in compared.items() if other in ("raw", "combat")}
    overall = _joined({other: _overall(found) for other, found in first.items()})
    sentences = [f"What is handed back is {overall}."] if first else []
    sentences += _site_left(card)
    return sentences + [_details(card, other, found) for other, found in compared.items()]


def _site_left(card: Card) -> list[str]:
    """Returns a sentence on the site in what is handed back, against what covariates and target alone give."""
    left, scores, levels = is_site_left(card), card["versions"][card["handed_back"]], card["levels"]
    if left is None:
        return []
    known = {
        "floor": levels.get("site_floor"),
        "sites shuffled": scores.get("site_shuffled"),
        "chance": levels["site_chance"],
    }
    shown = [f"{name} {format_number(value)}" for name, value in known.items() if value is not None]
    text = ", ".join([format_metric(scores, "site"), *shown])
    if left:
        return [f"The site is still predictable from it ({text})."]
    alone = "from covariates and target alone" if levels.get("site_floor") is not None else "by chance"
    return [f"The site is not clearly more predictable from it than {alone} ({text})."]


def is_site_left(card: Card) -> bool | None:
    """Returns whether the site is clearly more predictable from what is handed back than it should be.

    It should be no more predictable than from covariates and target alone, from shuffled sites, and by chance. None if
    that is not known.
    """
    interval, chance = card["versions"][card["handed_back"]].get("site_interval"), card["levels"].get("site_chance")
    if not interval or not is_defined(interval) or chance is None:
        return None
    floor, shuffled = (found or (chance, chance) for found in _intervals_by_chance(card))
    return interval[0] > max(floor[1], shuffled[1], chance)


def _intervals_by_chance(card: Card) -> tuple[Any, Any]:
    """Returns the intervals of the site floor and of what is handed back on shuffled sites, None without one."""
    scores = card["versions"][card["handed_back"]]
    return card["levels"].get("site_floor_interval"), scores.get("site_shuffled_interval")


def _verdicts(card: Card, other: str) -> dict[str, list[_Measure]]:
    """Returns the judged measures by "better", "worse" and "open".

    Open too are measures that are shown as the same number: rounding of written files differs, and nobody uses that.
    """
    found: dict[str, list[_Measure]] = {"better": [], "worse": [], "open": []}
    difference = card["differences"][other]
    handed_back, before = (card["versions"][name] for name in (card["handed_back"], other))
    for measure in _MEASURES:
        interval = difference.get(f"{measure.key}_interval")
        if not measure.phrase or not interval or not is_defined(interval):
            continue
        verdict = compare(tuple(interval), 0.0, higher_is_better=measure.higher_is_better)
        looks_same = format_number(handed_back[measure.key]) == format_number(before[measure.key])
        found["open" if looks_same else {"good": "better", "bad": "worse"}.get(verdict, "open")].append(measure)
    return found


def _overall(found: dict[str, list[_Measure]]) -> str:
    if found["better"] and found["worse"]:
        return "better in some ways and worse in others than"
    if found["better"]:
        return "better than"
    return "worse than" if found["worse"] else "not clearly different from"


def _joined(overall: dict[str, str]) -> str:
    """Returns "worse than the raw input and ComBat", with each word once if it holds for all."""
    names = {other: _NAMES.get(other, other) for other in overall}
    if len(set(overall.values())) == 1:
        return f"{next(iter(overall.values()))} {listed(list(names.values()))}"
    return " and ".join(f"{word} {names[other]}" for other, word in overall.items())


def _details(card: Card, other: str, found: dict[str, list[_Measure]]) -> str:
    handed_back, before = (card["versions"][name] for name in (card["handed_back"], other))
    parts = []
    for verdict in ("better", "worse"):
        named = [
            f"{_filled(measure.phrase, card)} ({format_number(before[measure.key])} to "
            f"{format_number(handed_back[measure.key])})"
            for measure in found[verdict]
        ]
        if named:
            parts.append(f"{verdict} in {listed(named)}")
    if found["open"]:
        parts.append(f"not clearly different in {listed([_filled(measure.phrase, card) for measure in found['open']])}")
    return f"Compared with {_NAMES.get(other, other)}: {'; '.join(parts) or 'nothing to compare'}."


def listed(names: Sequence[str]) -> str:
    """Returns "a", "a and b" or "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _filled(text: str, card: Card) -> str:
    words = {"covariate": card["covariate"], "target": card["target"], "unit": card.get("unit", "z-scores")}
    for name, word in (words | {"truth": _TRUTH_PHRASES[_truth_is(card)]}).items():
        text = text.replace(f"{{{name}}}", word)
    return text


def truth_named(card: Card) -> str:
    """Returns the name of the truth in a table or figure."""
    return _TRUTHS[_truth_is(card)]


def _truth_is(card: Card) -> str:
    """Returns what the truth is. Cards of earlier versions do not say so, and have no other."""
    return card.get("truth_is") or "scanner_free"


def _levels(measure: _Measure, levels: dict[str, Any]) -> str:
    return ", ".join(_each_level(measure, levels))


def _each_level(measure: _Measure, levels: dict[str, Any]) -> Iterator[str]:
    for key, name in measure.levels.items():
        if is_defined(levels.get(key)):
            yield f"{name} {format_number(levels[key])}"


def _cell(scores: dict[str, Any], measure: _Measure) -> tuple[str, str]:
    """Returns the value, and its interval in brackets or ""."""
    if measure.key not in scores:
        absent = "not defined" if measure.of_all else ""
        return ("not finite" if "non_finite_rows" in scores else absent), ""
    value, _, interval = format_metric(scores, measure.key).partition(" [")
    return value, f"[{interval}" if interval else ""
