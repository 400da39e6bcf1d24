import csv
import gzip

import numpy as np
import pytest

from eqpool.data.sources.morphometry import measure
from tests.data.sources.strokes import draw, line, ring


@pytest.mark.parametrize("thickness", [2.0, 3.0, 5.0])
@pytest.mark.parametrize("shape", [line, ring])
def test_thickness_of_a_stroke_of_known_thickness(shape, thickness):
    # The skeleton's ends lie within the round tips, whose radius is smaller, and the smoothing rounds corners off.
    assert measure(shape(thickness=thickness)).thickness_pixels == pytest.approx(thickness, abs=0.25)


@pytest.mark.parametrize("degrees", [-20, 0, 10, 30])
def test_slant_of_a_line_of_known_slant(degrees):
    assert np.degrees(measure(line(degrees, thickness=2.0)).slant_radians) == pytest.approx(degrees, abs=0.6)


def test_a_bar_across_does_not_lean():
    assert measure(draw((6, 14), (22, 14))).slant_radians == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [1 / 255, 0.3, 40.0])
def test_brightness_and_dtype_do_not_matter(scale):
    image = line(12)
    expected, found = measure(image), measure(image * scale)
    assert found.thickness_pixels == pytest.approx(expected.thickness_pixels)
    assert found.slant_radians == pytest.approx(expected.slant_radians)


@pytest.mark.parametrize("image", [np.zeros((28, 28), np.uint8), np.ones((2, 28, 28), np.uint8)])
def test_what_is_not_a_digit(image):
    with pytest.raises(ValueError, match="expected .height, width. with something brighter than 0"):
        measure(image)


def test_agrees_with_the_published_measurements(shared_data):
    """Of all 5 000: thickness 1.7 % and slant 0.0004 rad away on average, at most 12 % and 0.005 rad."""
    content = gzip.decompress((shared_data / "mnist" / "train-images-idx3-ubyte.gz").read_bytes())
    images = np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(shared_data / "morphometry" / "mnist_train_first5000.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))[::5]
    found = [measure(images[int(row["index"])]) for row in rows]
    theirs = np.array([float(row["thickness"]) for row in rows])
    off = np.abs([digit.thickness_pixels for digit in found] / theirs - 1)
    assert off.mean() < 0.02 and off.max() < 0.13
    off = np.abs([digit.slant_radians - float(row["slant"]) for digit, row in zip(found, rows, strict=True)])
    assert off.mean() < 0.0006 and off.max() < 0.006
