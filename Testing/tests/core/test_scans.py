"""Which files are scans: one answer for cohorts, trainings, evaluations and the demo."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import STORED, slice_of, write_series

from NetInversionLib import cohort
from NetInversionLib.core import scans
from NetInversionLib.evaluation import comparison
from NetInversionLib.training import people

few = settings(deadline=None, max_examples=60)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def found(root, **options):
    listing = scans.find(root, **options)
    return sorted(path.relative_to(root).as_posix() for path in listing.scans)


def asked(root):
    """What each user of the finder takes, names below the folder."""
    out = root.parent / "results"
    return {
        "harmonize": [Path(item.source) for item in cohort.plan(root, out)],
        "train flow": [path.relative_to(root) for path, _ in people.find_scans(root).values()],
        "train denoiser": [path.relative_to(root) for path in people.read_people(root)],
        "evaluate": [path.relative_to(root) for path in comparison.find_people(root)],
    }


def test_everybody_takes_the_same_files(tmp_path):
    root = tmp_path / "in"
    (root / "folder.nii.gz").mkdir(parents=True)
    wanted = ["SUB-02.NII.GZ", "a.nii.gz", "a.nrrd", "pair.hdr", "sub-01.nii.gz"]
    touch(
        root,
        *wanted,
        "._sub-01.nii.gz",
        ".hidden.nrrd",
        "z.seg.nrrd",
        "a_mask.nii.gz",
        "a_labels.nii.gz",
        "b_dseg.nii",
        "sub-01_part-phase_T1w.nii.gz",
        "pair.img",
        "notes.txt",
        ".cache/c.nii.gz",
    )
    for who, paths in asked(root).items():
        assert sorted(path.as_posix() for path in paths) == wanted, who


def test_names_that_differ_in_their_ending_only_are_one_person(tmp_path):
    touch(tmp_path, "sub-1_T1w.nrrd", "sub-1_T1w.nii.gz", "a.nrrd", "a.nii.gz")
    names = people.find_scans(tmp_path)
    assert len(names) == 4 and {people.person_of(name) for name in names} == {"sub-1", "a"}
    assert set(people.read_people(tmp_path).values()) == {"sub-1_T1w", "a"}
    (tmp_path / "people.csv").write_text("file,person\na.nrrd,anna\na.nii.gz,anna\n")
    assert {path.name: who for path, who in people.read_people(tmp_path).items()} == {
        "a.nrrd": "anna",
        "a.nii.gz": "anna",
    }


def test_folders_of_slices_are_scans_wherever_they_lie(tmp_path):
    for name in ("one", "deep/two", "named.by.points"):
        write_series(tmp_path / name, [slice_of(1, STORED[0], (0, 0, 0))])
    touch(tmp_path, "deep/DICOMDIR", "x.nii")
    assert found(tmp_path) == ["deep/two", "named.by.points", "one", "x.nii"]
    assert found(tmp_path, deep=False) == ["named.by.points", "one", "x.nii"]
    assert found(tmp_path / "one") == ["."]


def test_a_bids_data_set_names_what_is_left_out(tmp_path):
    touch(
        tmp_path,
        "sub-1/anat/sub-1_T1w.nii.gz",
        "sub-2/anat/sub-2_T1w.nii.gz",
        "sub-2/anat/sub-2_part-phase_T1w.nii.gz",
        "sub-3/ses-1/anat/sub-3_ses-1_T1w.nii.gz",
        "derivatives/x/sub-1/anat/sub-1_desc-old_T1w.nii.gz",
        "sourcedata/sub-1.nii.gz",
        "extra/other.nii.gz",
    )
    (tmp_path / "dataset_description.json").write_text("{}")
    (tmp_path / ".bidsignore").write_text("extra/\n**/sub-2_T1w.nii.gz\n# a comment\n")
    wanted = ["sub-1/anat/sub-1_T1w.nii.gz", "sub-3/ses-1/anat/sub-3_ses-1_T1w.nii.gz"]
    assert found(tmp_path) == wanted
    items = cohort.plan(tmp_path, tmp_path.parent / "out")
    assert [item.source for item in items] == wanted


def test_masks_belong_to_names_and_a_lonely_one_is_an_image(tmp_path):
    touch(tmp_path, "a.nii.gz", "a_mask.nrrd", "B.nrrd", "masks/b_MASK.nii", "alone_mask.nii.gz")
    listing = scans.find(tmp_path)
    assert found(tmp_path) == ["B.nrrd", "a.nii.gz", "alone_mask.nii.gz"]
    assert listing.masks == {tmp_path / "a.nii.gz": [tmp_path / "a_mask.nrrd"]}
    assert listing.left_out == {
        tmp_path / "a_mask.nrrd": "a mask",
        tmp_path / "masks/b_MASK.nii": "a mask",
    }


def test_two_scans_of_one_name_in_two_folders_are_refused(tmp_path):
    touch(tmp_path, "p/a.nii.gz", "q/a.nrrd")
    with pytest.raises(ValueError, match="called a: rename"):
        scans.unique_names(tmp_path, scans.find(tmp_path).scans)


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_that_are_not_utf8_are_found_and_never_kill(tmp_path):
    name = os.fsdecode(b"caf\xe9.nii.gz")
    touch(tmp_path, name)
    (tmp_path / ".bidsignore").write_bytes(b"na\xefve\n")
    assert [path.name for path in scans.find(tmp_path).scans] == [name]


STEMS = st.sampled_from(
    ["a", "A", "sub-1_T1w", "b.c", "x_mask", "x", "._a", ".a", "s.seg", "l_dseg"]
)
ENDINGS = st.sampled_from(
    [".nii", ".nii.gz", ".NII.GZ", ".nrrd", ".Nrrd", ".mha", ".mhd", ".txt", ""]
)


@few
@given(names=st.sets(st.tuples(STEMS, ENDINGS).map("".join), max_size=12))
def test_every_image_is_a_scan_or_left_out_with_a_reason_and_none_is_hidden(
    tmp_path_factory, names
):
    root = tmp_path_factory.mktemp("names")
    touch(root, *(name for name in names if name))
    listing = scans.find(root)
    visible = {
        path
        for path in root.iterdir()
        if path.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"))
        and not path.name.startswith(".")
    }
    assert set(listing.scans) | set(listing.left_out) == visible
    assert not set(listing.scans) & set(listing.left_out)
    assert len(scans.unique_names(root, listing.scans)) == len(listing.scans)
    for path in listing.left_out:
        assert scans.scan_name(path) in ("x_mask", "s.seg", "l_dseg")


FOLDERS = st.sampled_from(["", "deep/", "deep/er/", ".cache/", "one.nii.gz/"])
PHASES = ("sub-2_part-phase_T1w", "part-imag_x", "sub-2_part-mag_T1w", "apart-phase_x")
TREE_STEMS = st.sampled_from(["a", "b", "a_mask", "._a", "s.seg", "l_dseg", *PHASES])


@few
@given(
    names=st.sets(st.tuples(FOLDERS, TREE_STEMS, ENDINGS).map("".join), min_size=1, max_size=10),
    series=st.sets(st.sampled_from(["d", "deep/d2", "deep/er/d3", ".cache/d4"])),
    ignored=st.sets(st.sampled_from(["deep/", "*.nrrd", "b.*", "d/"])),
)
def test_everybody_takes_the_same_scans_of_any_tree(tmp_path_factory, names, series, ignored):
    root = tmp_path_factory.mktemp("tree") / "in"
    root.mkdir()
    touch(root, *names)
    for folder in series:
        write_series(root / folder, [slice_of(1, STORED[0], (0, 0, 0))])
    (root / ".bidsignore").write_text("\n".join(sorted(ignored)) + "\n")
    expected = found(root)
    for name in expected:
        assert not any(part.startswith(".") for part in Path(name).parts)
        assert not name.startswith("deep/") or "deep/" not in ignored
        assert not name.endswith(".nrrd") or "*.nrrd" not in ignored
        assert "part-phase_" not in name.replace("apart-", "") and "part-imag" not in name
        assert (root / name).is_file() or name in series
    missed = {name for name in series if not name.startswith(".")} - set(expected)
    assert all("deep/" in ignored if name != "d" else "d/" in ignored for name in missed)
    try:
        taken = asked(root)
    except ValueError as error:
        # Nothing to take; or the same name in two folders: nobody chooses in silence.
        words = str(error)
        assert ("two scans" in words and "rename" in words) or not found(root, deep=False)
        return
    flat = found(root, deep=False)
    for who, paths in taken.items():  # a person a file: these take no sub-folders
        wanted = flat if who in ("train denoiser", "evaluate") else expected
        assert sorted(path.as_posix() for path in paths) == wanted, who
