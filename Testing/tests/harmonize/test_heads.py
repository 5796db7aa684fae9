"""The brain found in drawn heads: skull and scalp left out, whatever lies deep left in."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from toy_brains import brain

from NetInversionLib.core import volumes
from NetInversionLib.harmonize import heads
from NetInversionLib.harmonize import scan as harmonize_scan

ROOM = 10  # voxels of air and scalp around the drawn brains


def padded(volume):
    matrix = volume.ijk_to_ras.copy()
    matrix[:3, 3] -= ROOM * np.array(volume.spacing_mm)
    return replace(volume, array=np.pad(volume.array, ROOM), ijk_to_ras=matrix)


def head(person, **changes):
    """(a drawn head, its brain): fluid and bone 6 mm wide around it, then fat, then skin."""
    inner = padded(brain(person, **changes))
    inside = harmonize_scan.foreground(inner.array)
    away = ndimage.distance_transform_edt(~inside, inner.spacing_mm[::-1])
    rings = [inside, away < 3, away < 7, away < 13, away < 18]
    image = np.select(rings, [inner.array, 180.0, 60.0, 1500.0, 500.0], 0.0)
    noise = np.random.default_rng(person).normal(0, 20, image.shape)
    return inner.with_array(np.maximum(image + noise, 0).astype(np.float32)), inside


@pytest.fixture(scope="module")
def mean():
    """A mean brain and its mask, of two people who are not asked about."""
    first, second = (padded(brain(person)) for person in (0, 1))
    image = first.with_array((first.array + volumes.resample(second, first, fill=0).array) / 2)
    return image, image.with_array((image.array > 100).astype(np.uint8))


def overlap(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_the_brain_is_found_in_any_axes_and_better_than_by_the_air_alone(mean, monkeypatch):
    monkeypatch.setattr(heads, "STARTS_MM", (0.0,))  # quicker; there is no neck
    image, truth = head(5)
    there = heads.find_brain(volumes.reorient(image, "PIL"), *mean)
    mask = volumes.reorient(there, "RAS").array > 0
    assert overlap(mask, truth) > 0.95
    assert overlap(image.array > 0, truth) < 0.75
    assert ndimage.label(mask)[1] == 1
    assert np.array_equal(ndimage.binary_fill_holes(mask), mask)


def at_work(image, mask):
    """Image and mask as they are outlined: in cubes of 2 mm."""
    share = heads.isotropic(image.with_array(mask.astype(np.float32)), heads.HEAD_MM)
    return heads.isotropic(image, heads.HEAD_MM).array, share.array > 0.5


@pytest.mark.parametrize("rough", [-2, 0, 2])
def test_a_dark_lesion_and_wide_ventricles_stay_inside_a_rough_outline(rough):
    """Also if the outline is 4 mm too narrow or too wide."""
    image, truth = at_work(*head(6))
    k, j, i = (a - c for a, c in zip(np.indices(image.shape), np.argwhere(truth).mean(axis=0)))
    lesion = np.sqrt((k - 6) ** 2 + j**2 + (i - 13) ** 2) < 6
    wide = np.sqrt((k / 9) ** 2 + (j / 13) ** 2 + (i / 8) ** 2) < 1
    sick = np.where(lesion | wide, 120.0, image).astype(np.float32)
    turned = {-2: ndimage.binary_erosion, 2: ndimage.binary_dilation}
    outline = turned[rough](truth, iterations=abs(rough)) if rough else truth
    mask = heads.outlined(sick, outline)
    assert mask[lesion | wide].all()
    assert overlap(mask, truth) > (max(0.93, overlap(outline, truth)) if rough else 0.95)


def test_an_extracted_brain_is_no_head_and_a_head_is():
    image, truth = head(5)
    brain_there = image.with_array(truth.astype(np.uint8))
    bare = image.with_array(np.where(truth, image.array, 0))
    for volume, is_head in ((image, True), (bare, False)):
        assert heads.is_more_than(harmonize_scan.prepare(volume), brain_there) == is_head


def test_what_is_no_head_says_so(mean, monkeypatch):
    """ITK finds no overlap, or hardly any."""
    away = sitk.TranslationTransform(3, [200.0, 0.0, 0.0])
    for found in (Mock(side_effect=RuntimeError), Mock(return_value=away)):
        monkeypatch.setattr(heads, "alignment", found)
        with pytest.raises(harmonize_scan.ScanError, match="no brain was found"):
            heads.find_brain(mean[0], *mean)


def test_a_mask_is_judged_by_what_lies_around_it():
    image, truth = head(5)

    def check(mask):
        given = image.with_array(mask.astype(np.uint8))
        return heads.mask_check(harmonize_scan.prepare(image, given))

    assert check(truth).passed
    narrow = check(ndimage.binary_erosion(truth, iterations=4))
    assert not narrow.passed and narrow.severity == "flagged" and "outline" in narrow.words
