"""Decides for `data.align` "auto" whether the volumes of a cohort are registered to the template."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from eqpool.data.volumes.overlap import count_astray, is_misaligned
from eqpool.data.volumes.preparation import Preparation
from eqpool.data.volumes.read import ALIGNED_OVERLAP


class AlignChoice(NamedTuple):
    """The preparation that "auto" stands for, with `align` "none" or "affine", and the line that says why."""

    preparation: Preparation
    note: str


def choose_alignment(preparation: Preparation, facts: Sequence[dict[str, Any]]) -> AlignChoice:
    """Returns the preparation that suits a cohort, from the facts of its volumes as they are.

    All volumes are registered if more than a tenth of those that may hold a whole brain miss the template's brain. A
    volume that could not be prepared counts as one that misses it: most heads far from MNI space are refused.

    Args:
      preparation: settings, whose `align` is "auto".
      facts: what `Preparation.apply` returns for each volume without alignment, with "bad", its fault or None.
    """
    astray, whole = count_astray(facts)
    share = f"{astray} of {whole} volumes overlap the template's brain mask by a Dice below {ALIGNED_OVERLAP:g}"
    if is_misaligned(astray, whole):
        return AlignChoice(
            dataclasses.replace(preparation, align="affine"),
            f"data.align = auto: every volume is registered to the template, since {share}",
        )
    return AlignChoice(
        dataclasses.replace(preparation, align="none"), f"data.align = auto: no volume is registered, since {share}"
    )
