"""Crops: found by what they show, and helped by advice that works."""

import re

import nibabel
import numpy as np
import pytest
from nibabel.affines import apply_affine

from eqpool.data.volumes.alignment import find_alignment
from eqpool.data.volumes.field_of_view import advice_for_crop, brain_extent_mm, content_box_mm, is_part_of_brain
from eqpool.data.volumes.grids import named_grid
from eqpool.data.volumes.image_checks import BadVolumeError
from eqpool.data.volumes.image_files import read_volume
from eqpool.data.volumes.overlap import check_overlap
from eqpool.data.volumes.read import prepare_image, prepare_volume

WHOLE, FINE = named_grid("mni_4mm"), named_grid("mni_2mm")
HIPPOCAMPUS_MM = np.array([[-40.0, -44, -30], [-10, 0, 6]])


def head(grid=FINE):
    place = apply_affine(grid.affine, np.moveaxis(np.indices(grid.shape), 0, -1))
    return np.where(grid.mask, 100 + 30 * np.sin(place / 7).sum(axis=-1), 0).astype(np.float32)


def cut(values, affine, box_mm):
    """The voxels of a box, with the affine of their first one."""
    inverse = np.linalg.inv(affine)
    first, last = np.rint(apply_affine(inverse, box_mm)).astype(int)
    there = affine.copy()
    there[:3, 3] = apply_affine(affine, first)
    return nibabel.Nifti1Image(values[tuple(map(slice, first, last))], there)


def test_extents_are_those_of_the_voxels():
    values = np.zeros((10, 10, 10), np.float32)
    values[2:5, 3, 4:9] = 1
    box = content_box_mm(nibabel.Nifti1Image(values, np.diag([-2.0, 3, 4, 1])))
    np.testing.assert_allclose(box, [[-9, 7.5, 14], [-3, 10.5, 34]])
    np.testing.assert_allclose(brain_extent_mm(), [144, 180, 152], atol=8)  # of MNI152's brain


def test_a_box_around_the_hippocampus_gets_a_grid_that_works(tmp_path):
    path = tmp_path / "crop.nii.gz"
    nibabel.save(cut(head(), FINE.affine, HIPPOCAMPUS_MM), path)
    with pytest.raises(BadVolumeError, match="it shows 30x44x36 mm of a brain .* aligning cannot help") as caught:
        prepare_volume(path, WHOLE)
    assert "affine" not in str(caught.value)
    grid = re.search(r'config\.data\.grid = "(.*)"', str(caught.value))[1]
    assert grid == "15x22x18@2@-26,-23,-13"
    prepared = prepare_image(read_volume(path), path, named_grid(grid))
    assert prepared.volume.shape == (15, 22, 18) and prepared.tissue.overlap > 0.9


def test_a_structure_on_an_empty_grid_is_not_sent_to_alignment_either(tmp_path):
    place = apply_affine(FINE.affine, np.moveaxis(np.indices(FINE.shape), 0, -1))
    place[..., 0] = np.abs(place[..., 0])  # one on each side
    inside = (np.abs((place - [26, -22, -14]) / [7, 18, 7]) ** 2).sum(axis=-1) < 1
    nibabel.save(nibabel.Nifti1Image(np.where(inside, head(), 0), FINE.affine), tmp_path / "a.nii.gz")
    with pytest.raises(BadVolumeError, match="cut out a whole box around the structure, or pool its measures"):
        prepare_volume(tmp_path / "a.nii.gz", WHOLE)


def test_a_slab_is_not_registered(tmp_path):
    nibabel.save(cut(head(), FINE.affine, np.array([[-80.0, -110, 0], [80, 80, 40]])), tmp_path / "slab.nii.gz")
    with pytest.raises(
        BadVolumeError, match="slab.nii.gz: cannot be aligned to the template: it shows .* mm of a brain"
    ):
        find_alignment(
            read_volume(tmp_path / "slab.nii.gz"),
            tmp_path / "slab.nii.gz",
            None,
            lambda image: pytest.fail("registered"),
        )


def test_whole_brains_are_no_crops_wherever_they_lie():
    moved = FINE.affine.copy()
    moved[:3, 3] += [60, -40, 90]
    small = np.diag([0.7, 0.7, 0.7, 1.0]) @ FINE.affine  # an infant's
    for affine in (FINE.affine, moved, small):
        image = nibabel.Nifti1Image(head(), affine)
        assert not is_part_of_brain(image) and advice_for_crop(image) == ""


@pytest.mark.parametrize("align", ["none", "affine"])
def test_the_warning_has_advice_for_each_kind(align):
    facts = [("a", {"overlap": 0.5, "is_part": False}), ("b", {"overlap": 0.4, "is_part": True})]
    facts.append(("c", {"overlap": 0.95, "is_part": False}))
    (both,) = check_overlap(facts, align)
    assert both.severity == "warning" and both.message.startswith("2 of 3 volumes overlap")
    assert ("config.data.align = affine aligns" in both.message) == (align == "none")
    assert "1 of them show a part of the brain, which alignment cannot help" in both.message
    (crop,) = check_overlap(facts[1:], align)
    assert "config.data.align" not in crop.message and "alignment failed" not in crop.message
    assert check_overlap(facts[2:], align) == []
