"""Writes the figures of a run; one that fails is a line in the report and on the terminal, and no end of the run."""

import os
import pathlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

from eqpool.errors import DISK_ERRORS, InputError, complain
from eqpool.report import figures
from eqpool.report.figures import FigureKind
from eqpool.report.lettering import Figure
from eqpool.report.style import SIMULATED
from eqpool.report.workfolder import WorkFolder
from eqpool.storage.files import write_atomically, write_json
from eqpool.storage.progress import track
from eqpool.storage.run_folder import RunFolder

STRICT = "EQPOOL_STRICT_FIGURES"  # set to 1, as the tests do: a figure that fails raises, so that a bug is seen
Result = TypeVar("Result")
_LONGEST_ERROR = 300  # characters; a formula that matplotlib cannot read has a page


class Drawn(NamedTuple):
    """A figure of the report.

    Attributes:
      kind: which one.
      path: its PNG; None where it was left out or failed.
      caption, alt: what stands below it and in its place for those who cannot see it.
      absent: why there is no picture, in one line; "" where there is one.
    """

    kind: FigureKind
    path: pathlib.Path | None
    caption: str = ""
    alt: str = ""
    absent: str = ""


class FigureFailed(Exception):
    """A figure could not be drawn; the message is one line with the error's name and text."""


def write_figures(work: WorkFolder) -> list[Drawn]:
    """Draws every figure that this run's files allow, as PNG and SVG under figures/.

    What is left out because rows are too few, and what fails, has a line that says so in place of a picture; the
    picture of an earlier call is removed. What fails is also said on stderr and kept for `has_failed`.
    """
    drawn: list[Drawn] = []
    failed: dict[str, str] = {}
    characters: set[str] = set()
    for kind in track(figures.FIGURES, "Drawing", unit="figure"):
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
    """What `draw` returns; whatever it raises comes as `FigureFailed`, but a full disk, which is the user's to mend.

    Under `EQPOOL_STRICT_FIGURES=1` the error itself goes on up.
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
    """Whether a figure of this work directory failed when its report was written."""
    return folder.failed_figures_file.exists()


def _write(work: WorkFolder, kind: FigureKind) -> tuple[Drawn | None, frozenset[str]]:
    """One figure, None where the run has none of this kind; and the characters that no font has."""
    if not kind.exists(work):
        return None, frozenset()
    absent = kind.too_little(work)
    if absent:
        return Drawn(kind, None, absent=absent), frozenset()
    figure = kind.draw(work)
    if work.results["simulated"]:
        figure.suptitle("SIMULATED DATA", x=0.995, ha="right", fontsize=9, color=SIMULATED, weight="bold")
    path = work.folder.figures / f"{kind.name}.png"
    save(figure, path.with_suffix(".svg"))
    save(figure, path)
    caption = f"{kind.caption} {kind.remark(work)}".rstrip()
    return Drawn(kind, path, caption, kind.alt(work)), figure.missing


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a figure whole or not at all, in the format that the end of its name says."""
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
