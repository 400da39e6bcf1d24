"""Progress bars with the remaining time, on a terminal only."""

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
    """Iterates over items with a progress bar on a terminal. The finished bar disappears unless `leave`.

    Args:
      items: items, consumed one by one.
      label: name of the work.
      unit: name of one item.
      total: number of items; by default the length of `items`.
      initial: number of items done before.
      leave: whether the finished bar stays on the screen.
      wanted: whether to draw a bar at all.
    """
    total = len(items) if total is None and isinstance(items, Sized) else total
    return tqdm(items, label, total=total, initial=initial, unit=unit, leave=leave, disable=None if wanted else True)
