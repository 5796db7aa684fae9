"""Real lesions: the rules find what is one, and contrast and AUC are what they are said to be."""

import numpy as np
import pytest

from NetInversionLib import cli
from NetInversionLib.core import files
from NetInversionLib.core.volumes import Volume
from NetInversionLib.evaluation import real_lesions
from NetInversionLib.evaluation.real_lesions import Outlines
from NetInversionLib.harmonize import scan as harmonize_scan

FLUID, GREY, WHITE, LESION = (0.3, 1.0), (0.6, 0.5), (0.9, 0.4), (0.65, 0.8)  # T1, T2


@pytest.fixture(scope="module")
def head():
    """A ball of white matter about fluid, with a rind of grey and two lesions: T1, T2, lesions."""
    k, j, i = np.ogrid[-40:41, -40:41, -40:41]
    radius = np.sqrt(k**2 + j**2 + i**2)
    lesions = ((k - 18) ** 2 + j**2 + i**2 < 16) | ((i + 20) ** 2 + j**2 + k**2 < 9)
    images = []
    for which in (0, 1):
        image = np.where(radius < 8, FLUID[which], WHITE[which])
        image = np.where(radius > 32, GREY[which], image)
        image = np.where(lesions, LESION[which], image)
        noise = np.random.default_rng(which).normal(0, 0.02, image.shape)
        images.append(((image + noise) * (radius < 38)).astype(np.float32))
    return *images, lesions


def volume(array, name="head"):
    return Volume(array, np.eye(4), name)


def test_lesions_are_found_and_fluid_and_grey_matter_are_not(head):
    t1, t2, lesions = head
    found = real_lesions.outline(harmonize_scan.prepare(volume(t1)), t2)
    both, either = (found.lesions & lesions).sum(), found.lesions.sum() + lesions.sum()
    assert 2 * both / either > 0.95, "Dice"
    assert not (found.white & lesions).any() and np.median(t1[found.white]) == pytest.approx(
        WHITE[0], abs=0.01
    )


def test_a_lesion_is_found_whatever_it_looks_like_in_t1(head):
    t1, t2, lesions = head
    hidden = np.where(lesions, WHITE[0], t1).astype(np.float32)
    found = real_lesions.outline(harmonize_scan.prepare(volume(hidden)), t2)
    assert (found.lesions & lesions).sum() / lesions.sum() > 0.95


def test_without_a_lesion_nothing_is_measured(head):
    t1, t2, lesions = head
    healthy = np.where(lesions, WHITE[1], t2).astype(np.float32)
    with pytest.raises(ValueError, match="no lesion"):
        real_lesions.outline(harmonize_scan.prepare(volume(t1)), healthy)


def test_contrast_and_auc_are_those_of_the_definition():
    lesions = np.zeros((1, 1, 7), bool)
    lesions[..., :3] = True
    found = Outlines(lesions, ~lesions)
    image = np.array([[[1.0, 2.0, 5.0, 3.0, 4.0, 5.0, 6.0]]])
    assert real_lesions.contrast(image, found) == pytest.approx(8 / 3 / 4.5 - 1)
    pairs = [(b > d) + 0.5 * (b == d) for d in (1, 2, 5) for b in (3, 4, 5, 6)]
    assert real_lesions.auc(image, found) == pytest.approx(np.mean(pairs))
    assert real_lesions.auc(image**3, found) == pytest.approx(np.mean(pairs)), "ranks only"


def test_otsu_parts_three_classes():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(m, 0.03, 900) for m in (0.2, 0.5, 0.9)])
    low, high = real_lesions._otsu(values)
    assert 0.25 < low < 0.45 and 0.58 < high < 0.82


def test_pairs_are_those_of_one_visit(tmp_path, capsys):
    for name in ("a_T1", "a_T2", "b_T1", "c"):
        files.save(volume(np.ones((3, 3, 3), np.float32)), tmp_path / f"{name}.nii.gz")
    ((first, second),) = real_lesions.find_pairs([tmp_path])
    assert (first.name, second.name) == ("a_T1.nii.gz", "a_T2.nii.gz")
    with pytest.raises(ValueError, match="fits 'b'"):
        real_lesions.find_pairs([tmp_path], "b")
    (tmp_path / "a_T2.nii.gz").unlink()
    with pytest.raises(ValueError, match="NAME_T1"):
        real_lesions.find_pairs([tmp_path])
    for line in (["--model", "m"], ["folder", "--real", "x", "--model", "m"]):
        assert cli.main(["evaluate", "lesions", *line]) == 1
    assert "with --real" in capsys.readouterr().err
