"""Maps a function over items in several processes, where that is quicker."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from joblib import Parallel, cpu_count, delayed

from eqpool.storage.progress import without_bars

Item = TypeVar("Item")
Result = TypeVar("Result")
START_SECONDS = 5.0
_MOST_PROCESSES = 16  # each takes some hundreds of megabytes


def map_on_cores(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    start_seconds: float = START_SECONDS,
    processes: int = 0,
) -> Iterator[Result]:
    """Returns an iterator over `function(item)` in the order of the items.

    The first item is computed here. If the others would take longer than processes take to start, they are computed in
    one process a core, which begin at once. The environment variable LOKY_MAX_CPU_COUNT limits the cores.

    Args:
      function: function that can be pickled and does not use JAX, which would take the accelerator a second time.
      items: items that can be pickled.
      start_seconds: time that a process takes to start, as it imports what the function needs.
      processes: number of processes, 0 for one a core.
    """
    if not items:
        return iter(())
    begin = time.monotonic()
    first = function(items[0])
    rest = items[1:]
    processes = min(processes or cpu_count(), len(rest), _MOST_PROCESSES)
    if processes < 2 or (time.monotonic() - begin) * len(rest) < 2 * start_seconds:
        return itertools.chain([first], map(function, rest))
    parallel = Parallel(n_jobs=processes, return_as="generator", max_nbytes=None)
    return itertools.chain([first], parallel(delayed(_without_bars)(function, item) for item in rest))


def _without_bars(function: Callable[[Item], Result], item: Item) -> Result:
    with without_bars():
        return function(item)
