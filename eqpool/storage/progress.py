"""Progress of long work, with the time left: one bar on a terminal, nothing where the output goes to a file."""

from collections.abc import Iterable, Sized
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def track(
    items: Iterable[Item],
    label: str,
    *,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    leave: bool = False,
    wanted: bool = True,
) -> "tqdm[Item]":
    """The items, with a bar on a terminal while they are taken; the bar of finished work goes away unless `leave`.

    Args:
      items: taken one by one.
      label: what is being done.
      unit: of an item.
      total: how many there are; by default as many as `items` has.
      initial: how many of them were done before.
      leave: keep the finished bar on the screen.
      wanted: False draws no bar, on a terminal either.
    """
    total = len(items) if total is None and isinstance(items, Sized) else total
    return tqdm(items, label, total=total, initial=initial, unit=unit, leave=leave, disable=None if wanted else True)
