"""Training a flow on one scanner: from reading, grids and batches to the model file.

In between: resume, several processes, and figures.
"""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage
from toy_brains import made_up_brain

from NetInversionLib import cli, models, networks
from NetInversionLib.cli import program
from NetInversionLib.core import files
from NetInversionLib.core.progress import Cancelled, Progress
from NetInversionLib.core.volumes import Volume
from NetInversionLib.harmonize import scan as harmonize_scan
from NetInversionLib.harmonize import slices
from NetInversionLib.training import checkpoint as checkpoints
from NetInversionLib.training import flow as training_flow
from NetInversionLib.training import flow_file
from NetInversionLib.training import people as training_people

SMALL = training_flow.FlowSettings(
    steps=9,
    batch=4,
    spacing_mm=4.0,
    levels=2,
    flow_steps=2,
    hidden=8,
    features=(4, 8),
    checkpoint_every=3,
)


def made_up_volume(seed, size=40):
    image, _ = made_up_brain(seed, size)
    return Volume(
        (image * 1000).astype(np.float32), np.diag([-2.0, -2.0, 2.0, 1.0]), f"sub-{seed:02d}"
    )


@pytest.fixture(scope="module")
def cases():
    return [
        slices.make_case(harmonize_scan.prepare(made_up_volume(seed)), 4.0) for seed in range(4)
    ]


@pytest.fixture(scope="module")
def trained(cases, tmp_path_factory):
    return training_flow.train(
        cases, tmp_path_factory.mktemp("trained") / "flow.safetensors", SMALL
    )


def weights(path):
    return {name: values for name, values in load_file(path).items() if name.startswith("flow.")}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


# -- reading ---------------------------------------------------------------------------------------


def test_folders_files_masks_and_series_are_found(tmp_path):
    brain = made_up_volume(1)
    files.save(brain, tmp_path / "b.nii.gz")
    files.save(brain.with_array((brain.array > 500).astype(np.uint8)), tmp_path / "b_mask.nii.gz")
    (tmp_path / "deeper" / "more").mkdir(parents=True)
    files.save(brain, tmp_path / "deeper" / "more" / "a.nrrd")
    (tmp_path / "notes.txt").write_text("not an image")
    found = training_people.find_scans(tmp_path)
    assert found == {
        "a": (tmp_path / "deeper" / "more" / "a.nrrd", None),
        "b": (tmp_path / "b.nii.gz", tmp_path / "b_mask.nii.gz"),
    }
    a, b = training_flow.read_cases(tmp_path, 4.0)
    assert (a.name, b.name) == ("a", "b") and b.mask.sum() < a.mask.sum()
    files.save(brain, tmp_path / "deeper" / "b.nrrd")
    with pytest.raises(ValueError, match="called b: rename"):
        training_people.find_scans(tmp_path)


def test_dicom_series_reads_as_the_same_case(tmp_path):
    import SimpleITK as sitk

    brain = made_up_volume(2)
    brain = brain.with_array(brain.array.astype(np.int16))
    image = sitk.GetImageFromArray(brain.array)
    image.SetSpacing((2.0, 2.0, 2.0))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    (tmp_path / "person").mkdir()
    for k in range(image.GetSize()[2]):
        part = image[:, :, k]
        tags = {
            "0008|0060": "MR",
            "0020|000e": "1.2.3",
            "0020|000d": "1.2",
            "0008|0018": f"1.2.3.{k}",
            "0020|0013": str(k),
            "0020|0032": f"0\\0\\{2 * k}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": "2",
        }
        for tag, value in tags.items():
            part.SetMetaData(tag, value)
        writer.SetFileName(str(tmp_path / "person" / f"{k}.dcm"))
        writer.Execute(part)
    (case,) = training_flow.read_cases(tmp_path, 4.0)
    expected = slices.make_case(harmonize_scan.prepare(brain), 4.0)
    assert case.name == "person" and np.allclose(case.image, expected.image, atol=2e-3)


@pytest.mark.parametrize("make", [lambda p: p / "absent", lambda p: p])
def test_nothing_to_read_says_so(tmp_path, make):
    with pytest.raises(ValueError, match="no folder|no MR volume"):
        training_people.find_scans(make(tmp_path))


def test_last_fifth_is_held_out_by_person(cases):
    names = ["sub-1_a", "sub-1_b", "sub-2", "sub-3", "sub-4", "sub-5_ses-1", "sub-5_ses-2"]
    people = [replace(cases[0], name=n) for n in names]
    training, held_out = training_flow.split_people(people, None)
    assert [c.name for c in held_out] == names[5:] and [c.name for c in training] == names[:5]
    assert [c.name for c in training_flow.split_people(people, ["sub-1"])[1]] == names[:2]
    with pytest.raises(ValueError, match="called sub-9"):
        training_flow.split_people(people, ["sub-9"])
    with pytest.raises(ValueError, match="nobody is left"):
        training_flow.split_people(people, [f"sub-{n}" for n in range(1, 6)])


# -- grid and slices -------------------------------------------------------------------------------


def test_grid_keeps_places_and_values():
    j, i = np.mgrid[:30, :34]
    image = np.broadcast_to(0.3 + 0.01 * i + 0.005 * j, (20, 30, 34)).astype(np.float32)
    matrix = np.diag([1.5, 1.2, 2.5, 1.0])
    matrix[:3, 3] = (-20, 5, 7)
    scan = harmonize_scan.prepare(Volume(image, matrix, "ramp"))
    grid = slices.on_grid(scan, 3.0)
    assert np.allclose(grid.volume.spacing_mm, 3)
    where = np.argwhere(ndimage.binary_erosion(grid.mask, iterations=2))[:, ::-1]
    places = np.c_[where, np.ones(len(where))] @ grid.volume.ijk_to_ras.T
    index = places @ np.linalg.inv(scan.volume.ijk_to_ras).T
    expected = (0.3 + 0.01 * index[:, 0] + 0.005 * index[:, 1]) / scan.scale
    assert len(where) > 200 and np.allclose(grid.image[tuple(where.T[::-1])], expected, atol=1e-5)
    assert 0.9 < grid.mask.sum() * 27 / (scan.mask.sum() * 4.5) < 1.1


def test_slices_are_the_volumes_own(cases):
    for axis in range(3):
        images, edges, masks = slices.slices(cases[0], axis, 8)
        assert (
            images.shape[2] % 8 == images.shape[3] % 8 == 0
            and images.shape == edges.shape == masks.shape
        )
        used = cases[0].mask.any(tuple({0, 1, 2} - {axis}))
        height, width = (n for k, n in enumerate(cases[0].image.shape) if k != axis)
        assert np.array_equal(
            images[:, 0, :height, :width], np.moveaxis(cases[0].image, axis, 0)[used]
        )
        assert masks.sum() == cases[0].mask.sum()


def test_of_a_thin_slab_a_slice_is_left(cases, trained):
    """Two slices of 0.8 mm make one of the model's: there is no third one, and yet figures."""
    whole = made_up_volume(0)
    slab = replace(
        whole, array=whole.array[19:21], ijk_to_ras=whole.ijk_to_ras @ np.diag([1.0, 1.0, 0.4, 1.0])
    )
    case = slices.make_case(harmonize_scan.prepare(slab), 4.0)
    assert case.mask.any((1, 2)).sum() == 1
    images, _, masks = slices.slices(case, 0, 4, every=3)
    assert len(images) == 1 and masks.sum() == case.mask.sum()
    bits, rms = slices.figures(models.load(trained).network.flow, case, SMALL.bin_width, every=3)
    assert np.isfinite(bits).all() and np.isfinite(rms).all()
    assert len(slices.slices(cases[0], 0, 4, every=3)[0]) == len(
        np.flatnonzero(cases[0].mask.any((1, 2)))[1::3]
    )


def test_a_mask_of_nearly_nothing_says_so():
    image = np.random.default_rng(0).uniform(1, 2, (20, 20, 20)).astype(np.float32)
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[10, 10, 10] = 1
    matrix = np.eye(4)
    with pytest.raises(harmonize_scan.ScanError, match="draw or choose a mask"):
        slices.make_case(
            harmonize_scan.prepare(Volume(image, matrix, "a"), Volume(mask, matrix, "mask")), 4.0
        )


def test_batches_follow_from_the_step_and_fill_bins(cases):
    one, again, other = (training_flow.draw_batch(cases, SMALL, step) for step in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, again)) and not torch.equal(
        one[0], other[0][..., : one[0].shape[2], :1]
    )
    images, edges, labels = one
    assert images.dtype == edges.dtype == torch.float32 and (labels == 1).all()
    air = images[edges == 0]
    assert 0 <= air.min() and images.max() < harmonize_scan.BRIGHTEST + SMALL.bin_width
    # Air is noise within the first bin, and its centre at inference.
    first = images[images < SMALL.bin_width]
    assert (
        len(first) > 500 and abs(float(first.mean()) - SMALL.bin_width / 2) < 0.05 * SMALL.bin_width
    )
    assert torch.allclose(
        slices.quantised(first, SMALL.bin_width), torch.tensor(SMALL.bin_width / 2)
    )


def test_spoilt_slices_keep_air_and_range_and_are_spoilt(cases):
    image = cases[0].image[len(cases[0].image) // 2]
    for seed in range(20):
        spoilt = training_flow.spoilt(image, np.random.default_rng(seed))
        assert (
            (spoilt[image == 0] == 0).all()
            and 0 <= spoilt.min()
            and spoilt.max() <= harmonize_scan.BRIGHTEST
        )
        assert np.abs(spoilt - image).max() > 0.02


# -- figures ---------------------------------------------------------------------------------------


def test_bits_of_a_standard_normal_are_known(cases):
    """The figures follow from the image alone.

    Without training every map is volume preserving and orthogonal.
    """
    flow = networks.build("conditional_flow", **SMALL.flow()).eval()
    bits, rms = slices.figures(flow, cases[0], SMALL.bin_width)
    for axis in range(3):
        x = slices.quantised(slices.slices(cases[0], axis, 4)[0], SMALL.bin_width).double()
        nats = 0.5 * (x.square().sum() + x.numel() * np.log(2 * np.pi))
        expected = (
            float(nats / np.log(2) - x.numel() * np.log2(SMALL.bin_width)) / cases[0].mask.sum()
        )
        assert bits[axis] == pytest.approx(expected, rel=1e-5)
    assert bits[3] == pytest.approx(bits[:3].mean()) and rms.shape == (2,) and (rms > 0).all()


def test_training_lowers_bits_on_people_not_trained_on(cases, tmp_path):
    seen = []

    class Watch(Progress):
        def point(self, curve, x, y):
            if curve == "held-out bits/dim":
                seen.append(y)

    training_flow.train(
        cases,
        tmp_path / "a.safetensors",
        replace(SMALL, steps=60, learning_rate=5e-3),
        progress=Watch(),
    )
    assert len(seen) == 10 and seen[-1] < 0.85 * seen[0]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_negative_examples_become_less_likely_up_to_a_margin(cases):
    settings = replace(SMALL, steps=1000, learning_rate=1e-2, average=0.0)
    state = training_flow._State(settings, ["a"], torch.device("cpu"))
    images, edges, labels = training_flow.draw_batch(cases, settings, 0)
    state.initialise((images, edges, labels))
    labels[2:] = -1

    def bits():
        z, log_det = state.averaged()(images, edges)
        return slices.bits_of_bins(z, log_det, settings.bin_width) / images[0].numel()

    before = bits()
    for _ in range(30):
        state.advance((images, edges, labels), training_flow.Group())
        state.stepped()
    after = bits()
    gaps = [b[2:].mean() - b[:2].mean() for b in (before, after)]
    assert after[:2].mean() < before[:2].mean() and gaps[1] > gaps[0] + 0.05
    # Slices that are unlikely enough already are left alone.
    state.settings = replace(settings, negative_margin=-100.0)
    labels[:] = -1
    state.advance((images, edges, labels), training_flow.Group())
    assert not any(p.grad.any() for p in state.flow.parameters())


def test_negative_examples_come_late(cases):
    settings = replace(SMALL, steps=100, negative=0.4, batch=8)
    labels = [
        torch.cat([training_flow.draw_batch(cases, settings, step)[2] for step in steps])
        for steps in (range(30), range(30, 100))
    ]
    assert (labels[0] == 1).all() and 0.3 < (labels[1] < 0).float().mean() < 0.5


# -- resuming --------------------------------------------------------------------------------------


class StopsAt(Progress):
    def __init__(self, step):
        self.step = step

    def point(self, curve, x, y):
        if curve == "bits/dim" and x == self.step:
            raise Cancelled


@pytest.mark.parametrize("stop", [2, 3, 7])
def test_stopped_and_resumed_gives_the_same_bits(cases, trained, tmp_path, stop):
    with pytest.raises(Cancelled):
        training_flow.train(
            cases,
            tmp_path / "b.safetensors",
            SMALL,
            checkpoint=tmp_path / "state",
            progress=StopsAt(stop),
        )
    assert checkpoints.load(tmp_path / "state")["step"] == stop
    training_flow.train(cases, tmp_path / "b.safetensors", SMALL, checkpoint=tmp_path / "state")
    assert same(load_file(trained), load_file(tmp_path / "b.safetensors"))


# It kills itself as soon as the file is there: another process might get no processor before the
# training is over.
KILLED = """
import os, signal, sys, threading, time
from NetInversionLib import cli
def watch():
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
cli.main(sys.argv[2:])
"""


@pytest.mark.skipif(os.name != "posix", reason="has no SIGKILL")
def test_killed_and_resumed_gives_the_same_bits(tmp_path):
    """A real kill, by the command line, in mid-training."""
    for seed in range(3):
        files.save(made_up_volume(seed, 24), tmp_path / f"sub-{seed}.nii.gz")
    settings = (
        '{"flow_steps": 2, "hidden": 8, "levels": 2, "features": [4, 8], "checkpoint_every": 2}'
    )
    arguments = [
        "train",
        "flow",
        str(tmp_path),
        "--settings",
        settings,
        "--steps",
        "40",
        "--batch",
        "2",
        "--spacing",
        "4",
        "--threads",
        "1",
        "--name",
        "made up",
        "--hold-out",
        "sub-1",
    ]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a.checkpoint"), *arguments]
    process = subprocess.run(
        [*command, "--output", str(tmp_path / "a.safetensors")],
        stderr=subprocess.PIPE,
        text=True,
        cwd=program.__file__.rsplit("/", 3)[0],
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert (tmp_path / "a.checkpoint").exists() and not (tmp_path / "a.safetensors").exists()
    threads = torch.get_num_threads()
    try:
        assert cli.main([*arguments, "--output", str(tmp_path / "a.safetensors")]) == 0
        assert cli.main([*arguments, "--output", str(tmp_path / "b.safetensors")]) == 0
    finally:
        torch.set_num_threads(threads)
    assert same(load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors"))
    card = models.read_card(tmp_path / "a.safetensors")
    assert (
        card.name == "made up"
        and card.trained_on == ("sub-0", "sub-2")
        and card.training["held out"] == "sub-1"
    )


def test_foreign_checkpoint_is_refused(cases, tmp_path):
    training_flow.train(
        cases, tmp_path / "a.safetensors", replace(SMALL, seed=2), checkpoint=tmp_path / "state"
    )
    with pytest.raises(ValueError, match="other settings"):
        training_flow.train(cases, tmp_path / "a.safetensors", SMALL, checkpoint=tmp_path / "state")


# -- several processes -----------------------------------------------------------------------------

TOGETHER = """
import os, sys
import numpy as np, torch
torch.set_num_threads(1)
sys.path[:0] = sys.argv[1].split(os.pathsep)
import test_mrflow as t
from NetInversionLib.core.progress import Progress
from NetInversionLib.harmonize import scan, slices
from NetInversionLib.training import flow
cases = [slices.make_case(scan.prepare(t.made_up_volume(seed)), 4.0) for seed in range(4)]
kept = {}
class Keep(Progress):
    def point(self, curve, x, y):
        kept.setdefault(curve, []).append(y)
rank = os.environ.get("RANK", "alone")
mean = flow._State.averaged
def averaged(self):
    kept["state"] = self
    return mean(self)
flow._State.averaged = averaged
advance = flow._State.advance
def watched(self, *given):
    kept["state"] = self
    return advance(self, *given)
flow._State.advance = watched
flow.train(cases, sys.argv[2] + f"/{rank}.safetensors", t.SMALL, progress=Keep())
weights = {n: w.detach() for n, w in kept["state"].flow.named_parameters()}
np.savez(sys.argv[2] + f"/{rank}.npz", bits=kept["bits/dim"], **weights)
"""


def test_two_processes_train_one_flow(tmp_path):
    """The same weights in both, and, up to rounding, of one process that has the whole batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(**environment):
        return subprocess.Popen(
            [sys.executable, "-c", TOGETHER, os.pathsep.join(sys.path), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **environment},
        )

    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for process in (
        start(**group, RANK="0", LOCAL_RANK="0"),
        start(**group, RANK="1", LOCAL_RANK="1"),
        start(),
    ):
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    first, second, alone = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("0", "1", "alone"))
    assert all(np.array_equal(first[n], second[n]) for n in first)
    assert np.allclose(first["bits"], alone["bits"], rtol=1e-3)
    # Adam turns rounding into steps where a gradient is next to nothing: a few per cent of the
    # learning rate times the steps.
    assert (
        max(np.abs(first[n] - alone[n]).max() for n in first if n != "bits")
        < 0.2 * SMALL.learning_rate * SMALL.steps
    )
    assert (tmp_path / "0.safetensors").exists() and not (tmp_path / "1.safetensors").exists()


def test_batch_that_cannot_be_shared_is_refused(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(training_flow.Group, "joined", classmethod(lambda cls, device: cls(0, 3)))
    with pytest.raises(ValueError, match="cannot be shared by 3"):
        training_flow.train(cases, tmp_path / "a.safetensors", SMALL)


# -- the model file --------------------------------------------------------------------------------


def test_model_file_holds_the_targets_figures(cases, trained):
    model = models.verify(trained)
    figure = {n: v.numpy() for n, v in model.network.statistics.named_buffers()}
    people = np.stack(
        [
            np.quantile(harmonize_scan.prepare(made_up_volume(n)).inside, np.linspace(0, 1, 513))
            for n in range(3)
        ]
    )
    assert np.allclose(figure["person_quantiles"], people, atol=1e-6)
    assert np.allclose(figure["quantiles"], people.mean(0), atol=1e-6)
    assert np.allclose(
        figure["scale"], [harmonize_scan.prepare(made_up_volume(n)).scale for n in range(3)]
    )
    assert figure["histogram"].sum() == pytest.approx(1, abs=1e-3) and list(figure["held_out"]) == [
        0,
        0,
        0,
        1,
    ]
    again = [slices.figures(model.network.flow, c, SMALL.bin_width) for c in cases]
    assert np.allclose(figure["bits_per_dim"], [b for b, _ in again], rtol=1e-5)
    assert np.allclose(figure["typical_radius"], np.stack([again[3][1], [0, 0]], 1), rtol=1e-5)
    card = model.card
    assert (card.task, card.orientation, card.trained_on) == (
        "harmonization",
        "RAS",
        ("sub-00", "sub-01", "sub-02"),
    )
    assert card.quality["held-out people, bits/dim inside the mask"] == pytest.approx(
        figure["bits_per_dim"][3, 3], abs=1e-3
    )
    assert model.network.statistic("absent") is None


def test_combined_file_has_more_statistics_and_the_same_flow(cases, trained, tmp_path):
    template = torch.rand(3, 4, 5)
    path = flow_file.combine(
        trained,
        tmp_path / "b.safetensors",
        statistics={"template": template, "scale": torch.ones(3)},
        quality={"PSNR (dB)": 33.5},
        training={"corrector": "none"},
    )
    old, new = models.load(trained), models.verify(path)
    assert torch.equal(new.network.statistic("template"), template) and torch.equal(
        new.network.statistic("scale"), torch.ones(3)
    )
    assert torch.equal(new.network.statistic("quantiles"), old.network.statistic("quantiles"))
    assert same(weights(trained), weights(path))
    assert (
        new.card.quality == {**old.card.quality, "PSNR (dB)": 33.5}
        and new.card.training["corrector"] == "none"
    )


@pytest.mark.parametrize(
    "statistics", [{"a b": [1]}, {"training": [1]}, {"a": [-1]}, {"a": ["1"]}, {"a": [10**8]}, [1]]
)
def test_hostile_statistics_are_refused(statistics):
    with pytest.raises(ValueError):
        networks.build("mrflow", flow=SMALL.flow(), statistics=statistics)


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"negative": 1.0}, {"spacing_mm": float("nan")}, {"bin_width": -1}]
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(SMALL, **changes)


def test_combined_file_has_the_corrector(trained, tmp_path):
    arguments = {"blocks": 2, "rank": 2, "components": 3}
    built = networks.build("mrflow", flow=SMALL.flow(), corrector=arguments).corrector
    for values in built.state_dict().values():
        values.uniform_()
    path = flow_file.combine(trained, tmp_path / "b.safetensors", built, arguments)
    # Again, with the corrector kept: nothing but the statistics changes.
    path = flow_file.combine(path, tmp_path / "c.safetensors", statistics={"more": torch.ones(2)})
    model = models.verify(path)
    assert same(dict(built.state_dict()), dict(model.network.corrector.state_dict())) and same(
        weights(trained), weights(path)
    )


def test_training_astray_stops_before_the_weights_are_lost(cases, tmp_path):
    with pytest.raises(ValueError, match="lower learning rate"):
        training_flow.train(
            [replace(c, image=c.image * np.float32(np.nan)) for c in cases],
            tmp_path / "a.safetensors",
            SMALL,
        )
    assert not list(tmp_path.iterdir())
