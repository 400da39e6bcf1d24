"""Progress bars with the remaining time, on a terminal only."""

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_terminal: list[TextIO] = []  # where bars are drawn under `beside_bars`


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
    return tqdm(
        items,
        label,
        total=total,
        initial=initial,
        unit=unit,
        leave=leave,
        disable=None if wanted else True,
        file=_terminal[-1] if _terminal else None,
    )


@contextlib.contextmanager
def closing_bars() -> Iterator[None]:
    """Closes the bars that work leaves open where it ends early, so that they are not drawn below the reason."""
    try:
        yield
    finally:
        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Draws no bars meanwhile, as several processes would draw them over each other."""
    _terminal.append(io.StringIO())
    try:
        yield
    finally:
        _terminal.pop()


@contextlib.contextmanager
def beside_bars() -> Iterator[None]:
    """Lets whatever is printed meanwhile stand on lines of its own above the bars, which are drawn again below it."""
    before = sys.stdout, sys.stderr
    _terminal.append(sys.stderr)
    sys.stdout, sys.stderr = (_BesideBars(stream, _terminal[-1]) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
        _terminal.pop()


class _BesideBars:
    """A text stream that takes the bars away while it writes, one or more whole lines at a time."""

    def __init__(self, stream: TextIO, terminal: TextIO):
        self._stream, self._terminal, self._held = stream, terminal, ""

    def write(self, text: str) -> int:
        """Writes the lines that are complete, and holds the rest until it is, or until `flush`."""
        *lines, self._held = (self._held + text).splitlines(keepends=True) or [""]
        if self._held.endswith("\n"):
            lines, self._held = [*lines, self._held], ""
        if lines:
            self._put("".join(lines))
        return len(text)

    def flush(self) -> None:
        """Writes what is held."""
        held, self._held = self._held, ""
        if held:
            self._put(held)
        self._stream.flush()

    def _put(self, text: str) -> None:
        with tqdm.external_write_mode(file=self._terminal):
            self._stream.write(text)
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
