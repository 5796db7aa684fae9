"""What values mean, by one function each, and that every door asks it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_models
from hypothesis import given, settings
from hypothesis import strategies as st

from NetInversionLib.core import meaning
from NetInversionLib.core.progress import Progress
from NetInversionLib.core.volumes import Volume, VolumeError
from NetInversionLib.harmonize import scan as harmonize_scan
from NetInversionLib.ideal_input import Settings, dixon
from NetInversionLib.ideal_input.case import prepare
from NetInversionLib.invariances import low_dose
from NetInversionLib.models import Channel
from NetInversionLib.training import denoiser, pairs, synthetic_ct

few = settings(deadline=None, max_examples=60)
GRID = np.diag([-3.0, -3.0, 3.0, 1.0])


def body(air=-1000, seed=0):
    """A body of soft tissue, fat and bone in air, HU."""
    rng = np.random.default_rng(seed)
    hu = np.full((4, 48, 48), float(air))
    hu[:, 8:40, 8:40] = -90
    hu[:, 10:38, 10:38] = 40
    hu[:, 20:26, 20:26] = 900
    return Volume(hu + rng.normal(0, 8, hu.shape), GRID, "body")


def brain(seed=0):
    rng = np.random.default_rng(seed)
    image = np.zeros((24, 24, 24))
    image[4:20, 4:20, 4:20] = 300 + 80 * rng.standard_normal((16, 16, 16)).clip(-3, 3)
    return Volume(image, np.eye(4), "T1")


# ----------------------------------------------------------------------------------------------- HU


@few
@given(seed=st.integers(0, 99), air=st.sampled_from([-1000, -1024]), padding=st.booleans())
def test_a_ct_is_one_and_its_stored_values_are_none(seed, air, padding):
    ct = body(air, seed)
    stored = ct.with_array((ct.array + 1024).clip(0))
    if padding:  # the corners of a scan, in stored values too
        ct.array[:, :3, :3] = -3024
        stored.array[:, :3, :3] = -2000
    assert meaning.why_no_hu(ct) == ""
    assert "no air" in meaning.why_no_hu(stored)
    assert "no air" in meaning.why_no_hu(replace(stored, units="HU"))


@pytest.mark.parametrize("units", ["", "HU"])
def test_a_crop_to_soft_tissue_is_a_ct(units):
    liver = 50 + 30 * np.random.default_rng(0).standard_normal((1, 48, 48))
    volume = Volume(liver, GRID, "liver", units)
    assert (meaning.why_no_hu(volume) == "") == (units == "HU")
    fat = body().array[:, 8:40, 8:40]
    assert meaning.why_no_hu(Volume(fat, GRID, "trunk", units)) == ""


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).standard_normal((4, 9, 9)),
        np.random.default_rng(0).random((4, 9, 9)),
        brain().array,
        brain().array + np.random.default_rng(1).normal(0, 5, (24, 24, 24)),
        body().array + 1024,
        body().array / 1000 + 1,
    ],
    ids=["z-scored", "normalised", "MR", "MR with noise", "stored", "attenuation"],
)
def test_what_is_no_ct_is_refused_at_every_door(array):
    volume = Volume(array, GRID, "other")
    for door in (
        meaning.require_hu,
        lambda v: dixon.simulate_dixon(v),
        lambda v: synthetic_ct.prepare(v, "other", "person"),
        lambda v: low_dose.simulate_low_dose(v),
        lambda v: pairs.pairs_of(v, "person", denoiser.DenoiserSettings()),
    ):
        with pytest.raises(VolumeError, match="'other' holds no air.*is it a CT in HU"):
            door(volume)


@few
@given(seed=st.integers(0, 99), right=st.booleans())
def test_a_target_that_cannot_be_in_hu_is_warned_of_and_a_ct_is_not(seed, right):
    """Here a warning only: a network may learn from targets in other ranges."""
    stored = body(seed=seed)
    ct = stored if right else stored.with_array(stored.array + 1024)
    mr = stored.with_array(stored.array.clip(-1000) / 3000 + 0.4, "MR")
    outputs = (Channel("CT", "ct", "HU", -1000.0, 2000.0),)
    case = prepare(
        {"mr": mr, "ct": ct},
        toy_models.model(toy_models.linear([[1.0]]), outputs=outputs),
        Settings(device="cpu"),
        Progress(),
        torch.device("cpu"),
    )
    warned = [words for words in case.facts["warnings"] if "is it a CT in HU?" in words]
    assert len(warned) == (0 if right else 1)
    assert right or "'body' holds no air" in warned[0]


# ------------------------------------------------------------------------------------------- labels


@few
@given(labels=st.lists(st.integers(0, 300), min_size=8, max_size=8), whole=st.booleans())
def test_labels_are_whole_numbers_of_any_type(labels, whole):
    array = np.reshape(labels, (2, 2, 2)).astype(float)
    if whole:
        assert meaning.require_labels(Volume(array, GRID, "labels")).array is array
        return
    array[0, 0, 0] += 0.5
    with pytest.raises(VolumeError, match="'labels' is no label map.*whole"):
        meaning.require_labels(Volume(array, GRID, "labels"))
    with pytest.raises(VolumeError, match="'labels' is no label map.*-1"):
        meaning.require_labels(Volume(np.full((1, 1, 1), -1), GRID, "labels"))


# ----------------------------------------------------------------------------------------------- MR


@few
@given(seed=st.integers(0, 99), masked=st.booleans(), whole_head=st.booleans())
def test_a_z_scored_brain_is_refused_and_the_scanners_is_taken(seed, masked, whole_head):
    raw = brain(seed)
    inside = raw.array > 0
    mask = raw.with_array(inside.astype(np.uint8)) if masked else None
    harmonize_scan.prepare(raw, mask)
    mean, deviation = raw.array[inside].mean(), raw.array[inside].std()
    scored = (raw.array - mean) / deviation
    scored = raw.with_array(scored if whole_head else np.where(inside, scored, 0))
    with pytest.raises(VolumeError, match="below 0.*z-scored"):
        harmonize_scan.prepare(scored, mask)


@few
@given(seed=st.integers(0, 99), noise=st.floats(0, 8))
def test_noise_around_zero_in_the_air_is_no_reason(seed, noise):
    raw = brain(seed)
    noisy = raw.with_array(raw.array + np.random.default_rng(seed).normal(0, noise, raw.shape))
    assert meaning.require_mr(noisy) is noisy
    assert meaning.require_mr(noisy, raw.array > 100) is noisy
