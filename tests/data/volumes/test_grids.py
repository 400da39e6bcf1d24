import socket

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nilearn.datasets import load_mni152_brain_mask

from eqpool.data.volumes.grids import named_grid
from eqpool.errors import InputError


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    named_grid.cache_clear()


@pytest.mark.parametrize(
    ("text", "shape", "voxel_mm", "origin"),
    [
        ("mni_4mm", (50, 59, 48), 4.0, (-98, -134, -72)),
        ("mni_2mm", (91, 109, 91), 2.0, (-90, -126, -72)),
        ("64", (64, 64, 64), None, None),
        ("24x28x24", (24, 28, 24), None, None),
    ],
)
def test_named_grids(text, shape, voxel_mm, origin):
    grid = named_grid(text)
    assert grid.shape == shape and grid.mask.shape == shape and grid.mask.dtype == bool
    assert nibabel.aff2axcodes(grid.affine) == ("R", "A", "S")
    sides = np.diag(grid.affine)[:3]
    assert sides.min() == sides.max() and (voxel_mm is None or sides[0] == voxel_mm)
    assert origin is None or tuple(grid.affine[:3, 3]) == origin
    reference = load_mni152_brain_mask(resolution=2)
    brain_mm3 = reference.get_fdata().sum() * 8
    assert grid.mask.sum() * sides.prod() == pytest.approx(brain_mm3, rel=0.02)


@pytest.mark.parametrize(
    ("text", "shape", "sides"),
    [("91x109x91@2", (91, 109, 91), (2, 2, 2)), ("30x40x32@5.5x5x6", (30, 40, 32), (5.5, 5, 6))],
)
def test_any_shape_and_voxel(text, shape, sides):
    grid = named_grid(text)
    assert grid.shape == shape and tuple(np.diag(grid.affine)[:3]) == sides
    found, covering = apply_affine(grid.affine, np.argwhere(grid.mask)), named_grid("64")
    there = apply_affine(covering.affine, np.argwhere(covering.mask))
    for end in (np.min, np.max):
        np.testing.assert_allclose(end(found, axis=0), end(there, axis=0), atol=max(sides))
    brain_mm3 = load_mni152_brain_mask(resolution=2).get_fdata().sum() * 8
    assert grid.mask.sum() * np.prod(sides) == pytest.approx(brain_mm3, rel=0.02)


def test_a_grid_may_hold_a_part_of_the_brain():
    assert named_grid("16x16x16@2").mask.mean() > 0.9  # its middle


@pytest.mark.parametrize("text", ["64", "32x40x32", "mni_2mm"])
def test_the_mask_lies_where_the_brain_is(text):
    grid = named_grid(text)
    reference = load_mni152_brain_mask(resolution=2)
    inside = np.argwhere(reference.get_fdata() > 0)
    centre = apply_affine(reference.affine, inside).mean(axis=0)
    found = apply_affine(grid.affine, np.argwhere(grid.mask))
    np.testing.assert_allclose(found.mean(axis=0), centre, atol=1.0)
    voxels = apply_affine(np.linalg.inv(grid.affine), apply_affine(reference.affine, inside))
    assert (voxels > -0.5).all() and (voxels < np.array(grid.shape) - 0.5).all()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mni",
        "4mm",
        "32x32",
        "32x32x32x32",
        "4",
        "5000",
        "-64",
        "32.5",
        "32X32X32",
        "32@",
        "32@0",
        "32@21",
        "32@4x4",
        "32@-4",
        "32@1e9",
        "mni_4mm@4",
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(InputError, match="config.data.grid"):
        named_grid(text)


def test_a_grid_has_its_middle_where_it_is_asked_for():
    grid = named_grid("16x20x12@1.5x1.5x2@-26,-20.5,-14")
    np.testing.assert_allclose(apply_affine(grid.affine, (np.array(grid.shape) - 1) / 2), [-26, -20.5, -14])
    assert grid.mask.all()  # deep inside the brain
    for text in ("16@1@0,0", "16@1@0,0,", "16@1@1e3,0,0", "16@@0,0,0", "16x16x16@1@300,0,0", "mni_4mm@1@0,0,0"):
        with pytest.raises(InputError, match="config.data.grid"):
            named_grid(text)
