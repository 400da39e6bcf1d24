"""Colours that are seen by everyone: contrast by WCAG 2, and distance as red- or green-deficient eyes have it."""

import itertools
import pathlib
import re

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

import eqpool.report
from eqpool.report.style import INK, SIMULATED, SITE_COLOURS, SITE_MARKERS, site_style

CSS = (pathlib.Path(eqpool.report.__file__).parent / "page.css").read_text()
VARIABLES = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", CSS))
# Linear RGB as seen with no green or no red cones (Machado, Oliveira and Fernandes, 2009, severity 1).
SIGHT = {
    "all cones": np.eye(3),
    "no green cones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no red cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    light, dark = sorted((float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (first, second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_contrast_of_black_on_white_is_what_wcag_says():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("ink", ["ink", "quiet", "alarm", "good"])
@pytest.mark.parametrize("paper", ["paper", "panel"])
def test_text_stands_out(ink, paper):
    assert contrast(VARIABLES[ink], VARIABLES[paper]) >= 4.5


def test_every_colour_of_the_page_is_one_of_those():
    used = re.findall(r"(?:color|background): ([^;}]+)", CSS)
    assert used and all(re.fullmatch(r"var\(--\w+\)", value) or value == "exact" for value in used)


@pytest.mark.parametrize("colour", [*SITE_COLOURS, INK, SIMULATED])
def test_marks_stand_out(colour):
    assert contrast(colour, "#ffffff") >= 3


@pytest.mark.parametrize("sight", list(SIGHT))
def test_sites_are_told_apart(sight):
    seen = np.clip(np.stack([np.array(SIGHT[sight]) @ linear(colour) for colour in SITE_COLOURS]), 0, 1)
    encoded = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(encoded[None])[0]
    distances = [float(deltaE_ciede2000(*pair)) for pair in itertools.combinations(lab, 2)]
    assert min(distances) > 15


def test_no_two_of_twenty_sites_look_alike():
    assert len({site_style(index) for index in range(len(SITE_COLOURS) * len(SITE_MARKERS))}) == 30
