"""Warns about volumes that do not lie on the template."""

from collections.abc import Mapping, Sequence
from typing import Any

from eqpool.data.preflight.finding import Finding
from eqpool.data.volumes.read import ALIGNED_OVERLAP
from eqpool.errors import listed


def check_overlap(facts: Sequence[tuple[str, Mapping[str, Any]]], align: str, where: str = "") -> list[Finding]:
    """Returns a warning with advice if volumes overlap the template's brain badly, and no finding otherwise.

    Args:
      facts: each volume's name, and the facts that `eqpool.data.volumes.prepare.Preparation.apply` returns for it.
      align: as in `Preparation`.
      where: clause for the message that names the file with all overlaps, "" for none.
    """
    apart = [(name, fact) for name, fact in facts if fact["overlap"] < ALIGNED_OVERLAP]
    if not apart:
        return []
    parts = sum(fact["is_part"] for _, fact in apart)
    share = (
        f"{len(apart)} of {len(facts)} volumes overlap the template's brain mask by a Dice below {ALIGNED_OVERLAP:g}"
    )
    named = [f"{name} {fact['overlap']:.2f}" for name, fact in apart]
    message = f"{share} ({listed(named)}); "
    message += "; ".join([*_what_helps(len(apart), parts, align), *([where] if where else [])])
    numbers = {"volumes": len(facts), "below": len(apart), "parts_of_brains": parts}
    return [Finding("warning", "mask_overlap", message, numbers)]


def _what_helps(apart: int, parts: int, align: str) -> list[str]:
    """Returns advice, first for volumes that may hold a whole brain and then for those that show a part of one."""
    if align == "none":
        why = "they are not aligned or not skull-stripped, and what pooling changes is then not at its place in them: "
        whole = why + "config.data.align = affine aligns them"
    else:
        whole = "their alignment failed or they are not skull-stripped"
    crops = (
        f"{parts} of them show a part of the brain, which aligning cannot help: give them a grid of their own, "
        'such as config.data.grid = "32x40x32@1@-26,-20,-14" (voxels, mm, middle in MNI space)'
    )
    return [whole] * (parts < apart) + [crops] * (parts > 0)
