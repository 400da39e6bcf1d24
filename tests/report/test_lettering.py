"""Names of any kind are drawn as they are: glyph by glyph, whole lines, every legend entry, without a warning."""

import io
import unicodedata
import warnings
import xml.dom.minidom

import matplotlib.figure
import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from eqpool.report import lettering
from eqpool.report.brain_maps import draw_share_maps
from eqpool.report.lettering import LONGEST_NAME, Figure, drawn_name, drawn_names, legend_of
from eqpool.report.people import draw_groups, draw_samples
from eqpool.report.sites import draw_by_site, draw_embeddings
from eqpool.report.style import legend_below, scatter_sites
from eqpool.report.transformations import draw_transformations
from eqpool.report.trend import draw_covariate_trend
from eqpool.storage.run_folder import RunFolder
from tests.report.test_brain_maps import write_maps

NAMES = (
    "A$_$",
    "cost$^$",
    "$\\frac{1}",
    "_GE",
    "^%",
    "back\\slash",
    "{brace",
    "<script>alert('&amp;')</script>",
    "x" * 200,
    "אתר א",
    "موقع",
    "医院一号",
    "🧠 GE",
    "a\nb",
    "-->",
    "e\u0301tude",
    "\x07bell",
    "007",
)


def saved(figure) -> str:
    """The figure's SVG, after its PNG was drawn too; a warning of any kind is an error."""
    svg = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(io.BytesIO(), format="png")
        figure.savefig(svg, format="svg")
    xml.dom.minidom.parseString(svg.getvalue().encode())
    return svg.getvalue()


@pytest.fixture(scope="module")
def rows():
    """(sites, values, places) of 72 rows, four of each name."""
    count, generator = 4 * len(NAMES), np.random.default_rng(0)
    sites = np.array(NAMES)[np.arange(count) % len(NAMES)]
    return sites, generator.uniform(20, 80, count), generator.normal(size=(count, 2))


@pytest.mark.parametrize("name", NAMES)
def test_each_name_as_a_site_and_as_a_column(name):
    sites = np.array([name, "other"])[np.arange(24) % 2]
    values = np.arange(24.0) % 7
    figure = draw_by_site(pd.DataFrame({name: values, "age": values}), sites)
    saved(figure)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert sorted(labels) == sorted(f"{drawn_name(one)} (n = 12)" for one in (name, "other"))
    assert figure.axes[0].get_xlabel().startswith(drawn_name(name, 24))


def test_every_drawing_takes_every_name_at_once(rows, tmp_path):
    sites, values, places = rows
    names, covariate = sorted(set(sites)), "cost$^$ _{%"
    half = np.arange(len(sites) // 2)
    saved(draw_by_site(pd.DataFrame(dict.fromkeys(NAMES, values)), sites))
    saved(draw_embeddings({"l": places, "Phi": places}, sites, names, values, covariate))
    saved(draw_groups({"l": places}, values, covariate))
    saved(draw_covariate_trend({"l": places}, values, sites, names, half, half + len(half), covariate))
    images = {name: places.reshape(-1, 6, 6)[:4] for name in ("input", "harmonised", "change")}
    two = np.array([*["$a$_"] * 2, *["L" * 200] * 2])
    saved(draw_samples(images | {"site": two, "covariate": np.array([50.0, 60, 55, 70])}, covariate))
    steps = {name: places.reshape(-1, 6, 6)[:4] for name in ("source", "appearance", "image")}
    saved(draw_transformations(steps | {"name": np.array(NAMES[:4])}))
    saved(draw_share_maps(RunFolder(tmp_path), write_maps(tmp_path), "age", f"partial R² of {covariate}"))


def test_two_dollars_are_drawn_as_matplotlib_draws_escaped_ones():
    def pixels(figure) -> np.ndarray:
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        return matplotlib.image.imread(io.BytesIO(drawn.getvalue()))

    ours, escaped, formula = Figure(), matplotlib.figure.Figure(), matplotlib.figure.Figure()
    ours.text(0.1, 0.5, "5$ to 6$")
    escaped.text(0.1, 0.5, r"5\$ to 6\$")
    formula.text(0.1, 0.5, "5$ to 6$")
    np.testing.assert_array_equal(pixels(ours), pixels(escaped))
    assert (pixels(ours) != pixels(formula)).any()


def test_a_legend_has_every_name_beside_its_own_mark(rows):
    sites, _, places = rows
    figure, names = Figure(layout="constrained"), sorted(set(sites))
    axes = figure.subplots()
    scatter_sites(axes, places, sites, names)
    legend_below(figure, axes, names)
    saved(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == drawn_names(names)
    colours = [handle.get_facecolor()[0].tolist() for handle in legend.legend_handles]
    assert colours == [one.get_facecolor()[0].tolist() for one in axes.collections]
    line = axes.plot([0, 1], label="_hidden")
    assert [text.get_text() for text in legend_of(axes, line, ["_hidden"]).get_texts()] == ["_hidden"]


def test_a_character_that_no_font_has_is_counted_and_not_warned_of(caplog):
    first, second = "\U000f1234", "\U000f1235"  # for private use
    figure = Figure()
    for place in range(5):
        figure.text(0.1, place / 5, f"{first}{second} A")
    saved(figure)
    assert figure.missing == {first, second} and not caplog.records


def test_a_warning_of_another_kind_goes_through():
    class Warns(Figure):
        def findobj(self, *arguments, **options):
            warnings.warn("something else", UserWarning, stacklevel=2)
            return super().findobj(*arguments, **options)

    with pytest.warns(UserWarning, match="something else"):
        Warns().savefig(io.BytesIO(), format="png")


def test_fonts_are_installed_ones_with_matplotlibs_own_first():
    assert lettering.installed_fonts()[0] == "DejaVu Sans"


def test_long_names_lose_their_middle():
    assert drawn_name("Siemens Prisma 2") == "Siemens Prisma 2"
    assert drawn_name("x" * LONGEST_NAME) == "x" * LONGEST_NAME
    long = drawn_name("Siemens " + "x" * 200 + " Prisma 2")
    assert len(long) == LONGEST_NAME and long.startswith("Siemens xxx") and long.endswith("xxx Prisma 2")
    assert drawn_name("abcdefghij", 6) == "ab…hij"


def test_wide_characters_count_twice_and_accents_not():
    wide = drawn_name("医" * 40, 11)
    assert wide == "医医…医医"
    accented = "e\u0301" * LONGEST_NAME
    assert drawn_name(accented) == accented
    assert all(unicodedata.category(letter) != "Cc" for letter in drawn_name("a\r\n\tb\x00c"))


def test_names_that_shorten_to_the_same_stay_apart():
    first, second = ("x" * 100 + middle + "y" * 100 for middle in "ab")
    drawn = drawn_names([first, second, "GE"])
    assert len(set(drawn)) == 3 and drawn[2] == "GE" and max(map(len, drawn)) <= LONGEST_NAME
