"""Text in figures, drawn exactly as written.

Dollar signs do not start a formula, legends drop no entry, and every script gets a font if one is installed.
"""

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

# Fonts with wide coverage, in order of preference. The first is matplotlib's own, which lacks Chinese, Japanese and
# Korean.
_FONTS = (
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
LONGEST_NAME = 30  # width of a drawn name, in characters; a Chinese one counts as two. The page shows the whole name.
_MISSING_GLYPH = re.compile(r"Glyph (\d+) .*missing from")


class Figure(figure.Figure):
    """A matplotlib figure that never reads its text as formulas.

    Matplotlib parses the text between two dollar signs as a formula, and fails if it is not one. Names of sites,
    columns and classes may hold any character, so this figure draws all text literally. eqpool's own labels use Unicode
    instead ("R²", "τ⁻¹Φ").

    Attributes:
      missing: characters that no installed font had when the figure was last drawn, so that boxes replace them.
    """

    def __init__(self, *arguments: Any, **options: Any):
        self.missing: frozenset[str] = frozenset()
        super().__init__(*arguments, **options)

    def draw(self, renderer: Any) -> None:
        """Draws the figure on a renderer.

        Ticks create their text only while the figure is drawn, so the settings have to hold during this call.
        """
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
    """Returns the installed ones of `_FONTS`, in order. Matplotlib would log every missing font for every text.

    Matplotlib caches its list of fonts when it first runs, so fonts that were installed later are added here.
    """
    manager = font_manager.fontManager
    for path in set(font_manager.findSystemFonts()) - {entry.fname for entry in manager.ttflist}:
        with suppress(Exception):  # matplotlib cannot read bitmap and colour fonts
            manager.addfont(path)
    here = {entry.name for entry in manager.ttflist}
    return tuple(name for name in _FONTS if name in here) or ("sans-serif",)


@contextmanager
def _noting_missing_glyphs() -> Iterator[set[str]]:
    """Collects the characters that matplotlib reports as missing, and passes all other warnings on."""
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
    """Shortens a name to one line of at most `most` characters by cutting out its middle ("Siemens…Prisma 2").

    Line breaks and other control characters become spaces. A wide character (Chinese, emoji) counts as two, and a
    combining accent counts as none.
    """
    letters = [" " if unicodedata.category(letter) == "Cc" else letter for letter in str(name)]
    if sum(map(_width, letters)) <= most:
        return "".join(letters)
    head, tail = _fitting(letters, most - most // 2 - 1), _fitting(letters[::-1], most // 2)[::-1]
    return "".join([*head, "…", *tail])


def drawn_names(names: Sequence[str], most: int = LONGEST_NAME) -> list[str]:
    """Applies `drawn_name` to each name. Names that would look alike get their position appended ("Siemens… [3]")."""
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
    """Returns as many of the first letters as fit into the width `room`."""
    taken: list[str] = []
    for letter in letters:
        room -= _width(letter)
        if room < 0:
            break
        taken.append(letter)
    return taken


def legend_of(axes_or_figure: Any, handles: Sequence[Artist], names: Sequence[str], **options: Any) -> Legend:
    """Adds a legend with one line per name. Matplotlib's own legend drops names that begin with an underscore."""
    legend = axes_or_figure.legend(handles, [f"name {number}" for number in range(len(names))], **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
    return legend
