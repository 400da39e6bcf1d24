"""Names in figures, drawn as they are written: no mathematics, no dropped legend entry, a font for every script."""

import functools
import logging
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from matplotlib import figure, font_manager, rc_context
from matplotlib.artist import Artist
from matplotlib.legend import Legend
from matplotlib.text import Text

# Of wide coverage, those that are installed; matplotlib's own, which has no Chinese, Japanese or Korean, comes first.
FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Hiragino Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Arial Unicode MS",
    "FreeSans",
    "Unifont",
    "Noto Emoji",
    "Symbola",
)
LONGEST_NAME = 30  # characters of a drawn name, of which a Chinese one counts as two; the page has the whole name
_MISSING_GLYPH = re.compile(r"Glyph (\d+) .*missing from")


class Figure(figure.Figure):
    """A matplotlib figure of which every text is drawn letter by letter.

    Matplotlib reads what stands between two dollar signs as a formula, and fails where it is none. Sites, columns and
    classes have any name, so no text of this figure is ever a formula; labels of our own use Unicode ("R²", "τ⁻¹Φ").

    Attributes:
      missing: the characters that no installed font had when the figure was last drawn; boxes stand in their place.
    """

    def __init__(self, *arguments: Any, **options: Any):
        self.missing: frozenset[str] = frozenset()
        super().__init__(*arguments, **options)

    def draw(self, renderer: Any) -> None:
        """Draws on a renderer; ticks make their texts only here, hence the settings for as long as it takes."""
        fonts = list(installed_fonts())
        with rc_context({"text.parse_math": False, "font.family": fonts}), _noting_missing_glyphs() as missing:
            for text in self.findobj(Text):
                assert isinstance(text, Text)
                text.set_parse_math(False)
                text.set_fontfamily(fonts)
            super().draw(renderer)
        self.missing = frozenset(missing)


@functools.cache
def installed_fonts() -> tuple[str, ...]:
    """Those of `FONTS` that are here, in their order; matplotlib would log each one that is not, at each text.

    Matplotlib keeps a list of fonts from when it first ran, so those that were installed since are added to it.
    """
    manager = font_manager.fontManager
    for path in set(font_manager.findSystemFonts()) - {entry.fname for entry in manager.ttflist}:
        with suppress(Exception):  # bitmaps and colour fonts, which it cannot read
            manager.addfont(path)
    here = {entry.name for entry in manager.ttflist}
    return tuple(name for name in FONTS if name in here) or ("sans-serif",)


@contextmanager
def _noting_missing_glyphs() -> Iterator[set[str]]:
    """Collects the characters that matplotlib warns of, once for each text, and lets other warnings through."""
    missing: set[str] = set()
    logger = logging.getLogger("matplotlib.font_manager")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield missing
        finally:
            logger.setLevel(level)
    for warning in caught:
        found = _MISSING_GLYPH.match(str(warning.message))
        if found:
            missing.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def drawn_name(name: str, most: int = LONGEST_NAME) -> str:
    """A name on one line of at most `most` characters, its middle left out where it has more ("Siemens…Prisma 2").

    Line breaks and other control characters become spaces. A name of wide characters (Chinese, emoji) has half as many,
    and accents that combine with a letter count as nothing.
    """
    letters = [" " if unicodedata.category(letter) == "Cc" else letter for letter in str(name)]
    if sum(map(_width, letters)) <= most:
        return "".join(letters)
    head, tail = _fitting(letters, most - most // 2 - 1), _fitting(letters[::-1], most // 2)[::-1]
    return "".join([*head, "…", *tail])


def drawn_names(names: Sequence[str], most: int = LONGEST_NAME) -> list[str]:
    """`drawn_name` of each; names that would look alike get their number in the row, so that none stands for two."""
    drawn = [drawn_name(name, most) for name in names]
    return [
        f"{drawn_name(name, most - 6)} [{place + 1}]" if drawn.count(short) > 1 else short
        for place, (name, short) in enumerate(zip(names, drawn, strict=True))
    ]


def _width(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _fitting(letters: Sequence[str], room: int) -> list[str]:
    """The first letters that have `room` together."""
    taken: list[str] = []
    for letter in letters:
        room -= _width(letter)
        if room < 0:
            break
        taken.append(letter)
    return taken


def legend_of(axes_or_figure: Any, handles: Sequence[Artist], names: Sequence[str], **options: Any) -> Legend:
    """A legend with a line a name; matplotlib's own leaves out names that begin with an underscore."""
    legend = axes_or_figure.legend(handles, [f"name {number}" for number in range(len(names))], **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
    return legend
