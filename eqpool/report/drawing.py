"""Writes the figures of a run.

A figure that cannot be drawn does not stop the run. The report and the terminal show a line about it instead.
"""

import os
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from matplotlib import rc_context

from eqpool.errors import DISK_ERRORS, InputError, complain
from eqpool.report.figures import FIGURES, FigureKind
from eqpool.report.lettering import Figure
from eqpool.report.style import SIMULATED
from eqpool.report.workfolder import WorkFolder
from eqpool.storage.files import write_atomically, write_json
from eqpool.storage.progress import track
from eqpool.storage.run_folder import RunFolder

STRICT = "EQPOOL_STRICT_FIGURES"  # the tests set it to 1, so that a failing figure raises and bugs are noticed
Result = TypeVar("Result")
_LONGEST_ERROR = 300  # characters, because matplotlib's message about an invalid formula fills a page


class Drawn(NamedTuple):
    """A figure of the report.

    Attributes:
      kind: kind of the figure.
      path: path of its PNG, or None if the figure was left out or failed.
      caption: text below the picture.
      alt: alternative text for readers who cannot see the picture.
      absent: one line with the reason why there is no picture, or "" if there is one.
    """

    kind: FigureKind
    path: pathlib.Path | None
    caption: str = ""
    alt: str = ""
    absent: str = ""


class FigureFailed(Exception):
    """Error for a figure that could not be drawn. Its message is one line with the original error's name and text."""


def write_figures(work: WorkFolder, kinds: Sequence[FigureKind] = FIGURES) -> list[Drawn]:
    """Draws the figures of these kinds that this run's files allow, as PNG and SVG under figures/.

    A figure that fails, or that is left out because there are too few rows, gets a line with the reason in place of its
    picture. The picture of an earlier call is removed. Failures are also reported on stderr and recorded for
    `has_failed`.
    """
    drawn: list[Drawn] = []
    failed: dict[str, str] = {}
    characters: set[str] = set()
    for kind in track(kinds, "Drawing", unit="figure"):
        try:
            one, missing = protected(partial(_write, work, kind))
            characters |= missing
        except FigureFailed as failure:
            failed[kind.name] = str(failure)
            one = Drawn(kind, None, absent=f"could not be drawn ({failure}); the same command draws it again")
        if one is not None:
            drawn.append(one)
        if one is None or one.path is None:
            _remove(work, kind)
    _keep_failures(work.folder, failed)
    for name, error in failed.items():
        complain(f"figure {name} was not drawn ({error}); the report says so, and the same command draws it again")
    if characters:
        complain(f"no installed font has {_listed(characters)}: figures have boxes there (try fonts-noto-cjk)")
    return drawn


def protected(draw: Callable[[], Result]) -> Result:
    """Calls `draw` and returns its result.

    Errors are raised again as `FigureFailed`. Errors of the disk, such as a full one, are raised unchanged, because
    only the user can fix them. Under `EQPOOL_STRICT_FIGURES=1` every error is raised unchanged.
    """
    try:
        return draw()
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InputError) else error
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            raise
        if os.environ.get(STRICT) == "1":
            raise
        text = " ".join(str(error).split())
        raise FigureFailed(f"{type(error).__name__}: {text[:_LONGEST_ERROR]}") from error


def has_failed(folder: RunFolder) -> bool:
    """Returns True if a figure of this work directory failed when its report was written."""
    return folder.failed_figures_file.exists()


def _write(work: WorkFolder, kind: FigureKind) -> tuple[Drawn | None, frozenset[str]]:
    """Writes one figure and returns it, or None if the run has no such figure, with the characters that no font has."""
    if not kind.exists(work):
        return None, frozenset()
    absent = kind.too_little(work)
    if absent:
        return Drawn(kind, None, absent=absent), frozenset()
    with rc_context({"font.size": 9, "axes.titlesize": "medium"}):
        figure = kind.draw(work)
    if work.results["simulated"]:
        figure.suptitle("SIMULATED DATA", x=0.995, ha="right", fontsize=9, color=SIMULATED, weight="bold")
    path = work.folder.figures / f"{kind.name}.png"
    save(figure, path.with_suffix(".svg"))
    save(figure, path)
    caption = f"{kind.caption} {kind.remark(work)}".rstrip()
    return Drawn(kind, path, caption, kind.alt(work)), figure.missing


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a figure atomically, in the format given by the file's suffix."""
    write_atomically(path, partial(figure.savefig, dpi=150) if path.suffix == ".png" else figure.savefig)


def _remove(work: WorkFolder, kind: FigureKind) -> None:
    for suffix in (".png", ".svg"):
        (work.folder.figures / f"{kind.name}{suffix}").unlink(missing_ok=True)


def _keep_failures(folder: RunFolder, failed: dict[str, str]) -> None:
    if failed:
        write_json(folder.failed_figures_file, failed)
    else:
        folder.failed_figures_file.unlink(missing_ok=True)


def _listed(characters: set[str], most: int = 5) -> str:
    shown = ", ".join(sorted(characters)[:most])
    return f"{shown} and {len(characters) - most} more characters" if len(characters) > most else shown
