"""Warns about volumes that do not lie on the template."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eqpool.data.preflight.finding import Finding
from eqpool.data.volumes.read import ALIGNED_OVERLAP
from eqpool.errors import listed

MISALIGNED = "misaligned_cohort"  # the check whose warning is at the top of log and report
_MOST_ASTRAY = 0.1  # share of a cohort's whole brains, above which the cohort counts as misaligned


def count_astray(facts: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Counts the volumes that may hold a whole brain and miss the template's.

    Args:
      facts: what `eqpool.data.volumes.preparation.Preparation.apply` returns for each volume. The key "bad", if there
        is one, holds the fault of a volume that could not be prepared. Such a volume counts as one that misses.

    Returns:
      How many miss the template, and of how many.
    """
    whole = [fact for fact in facts if fact.get("bad") or not (fact["is_part"] and _misses(fact))]
    return sum(bool(fact.get("bad")) or _misses(fact) for fact in whole), len(whole)


def is_misaligned(astray: int, whole: int) -> bool:
    """Returns whether more than a tenth of a cohort's volumes miss the template."""
    return astray > _MOST_ASTRAY * whole


def _misses(fact: Mapping[str, Any]) -> bool:
    return bool(fact["overlap"] < ALIGNED_OVERLAP)


def check_overlap(facts: Sequence[tuple[str, Mapping[str, Any]]], align: str, where: str = "") -> list[Finding]:
    """Returns a warning with advice if volumes overlap the template's brain badly, and no finding otherwise.

    The warning is `MISALIGNED` if more than a tenth of the whole brains overlap badly, and "mask_overlap" otherwise.

    Args:
      facts: each volume's name, and the facts that `eqpool.data.volumes.prepare.Preparation.apply` returns for it.
      align: as in `Preparation`.
      where: clause for the message that names the file with all overlaps, "" for none.
    """
    apart = [(name, fact) for name, fact in facts if _misses(fact)]
    if not apart:
        return []
    parts = sum(fact["is_part"] for _, fact in apart)
    share = (
        f"{len(apart)} of {len(facts)} volumes overlap the template's brain mask by a Dice below {ALIGNED_OVERLAP:g}"
    )
    named = [f"{name} {fact['overlap']:.2f}" for name, fact in apart]
    message = f"{share} ({listed(named)}). "
    message += ". ".join([*_what_helps(len(apart), parts, align), *([where] if where else [])])
    numbers = {"volumes": len(facts), "below": len(apart), "parts_of_brains": parts}
    check = MISALIGNED if is_misaligned(*count_astray(fact for _, fact in facts)) else "mask_overlap"
    return [Finding("warning", check, message, numbers)]


def _what_helps(apart: int, parts: int, align: str) -> list[str]:
    """Returns advice, first for volumes that may hold a whole brain and then for those that show a part of one."""
    if align == "none":
        why = "They are not aligned or not skull-stripped, so that a correction falls on the wrong place of the brain. "
        whole = why + "config.data.align = affine aligns them"
    else:
        whole = "Their alignment failed or they are not skull-stripped"
    crops = (
        f"{parts} of them show a part of the brain, which alignment cannot help. Give them a grid of their own, "
        'such as config.data.grid = "32x40x32@1@-26,-20,-14" (voxels, mm, middle in MNI space)'
    )
    return [whole] * (parts < apart) + [crops] * (parts > 0)
