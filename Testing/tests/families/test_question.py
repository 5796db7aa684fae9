"""What a family's network adds and hides: against NumPy's Fourier transform, on made-up heads."""

import numpy as np
import pytest
import torch
from test_families_in_questions import a_model
from toy_slices import heads

from NetInversionLib.core.volumes import Volume, VolumeError
from NetInversionLib.core.words import catalogue
from NetInversionLib.families import question, reading, report, sample
from NetInversionLib.ideal_input import ideal_input
from NetInversionLib.ideal_input.settings import Settings

SIDE = 32


def brain(seed=0):
    """A brain-extracted scan of 20 slices of 6 mm, voxels of 2.4 mm."""
    array = (
        np.repeat(heads(1, seed), 20, 0) * np.linspace(0.9, 1, 20, dtype=np.float32)[:, None, None]
    )
    return Volume(1000 * array, np.diag([-2.4, -2.4, 6.0, 1.0]), f"person{seed}")


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """(the small sibling of a deep cascade, its sample, what was found)."""
    model = a_model("deep-cascade", tmp_path_factory.mktemp("family"), SIDE)
    volumes = sample.sample_for(model.card, brain())
    return model, volumes, question.ask(volumes, model)


def complex_of(volumes, role):
    return volumes[f"{role}_real"].array + 1j * volumes[f"{role}_imaginary"].array


def numpys_fft(images, inverse=False):
    """Centred and orthonormal, of the last two axes."""
    turned = np.fft.ifftshift(images, (-2, -1))
    change = np.fft.ifft2 if inverse else np.fft.fft2
    return np.fft.fftshift(change(turned, norm="ortho"), (-2, -1))


def test_a_sample_is_what_a_scanner_gives_of_its_truth(cascade):
    _model, volumes, _result = cascade
    mask = volumes["sampling"].array
    truth, measured = complex_of(volumes, "image"), complex_of(volumes, "kspace")
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert np.abs(measured[mask == 0]).max() < 1e-5
    noise = (measured - mask * numpys_fft(truth))[mask == 1]
    assert noise.std() == pytest.approx(0.01 * 2**0.5, rel=0.1)


def test_what_is_added_is_told_as_numpy_tells_it(cascade):
    model, volumes, result = cascade
    mask, truth = volumes["sampling"].array, complex_of(volumes, "image")
    zero_filled = numpys_fft(complex_of(volumes, "kspace"), inverse=True)
    inputs = [volumes[channel.role] for channel in model.card.inputs]
    with torch.no_grad():
        found = model.denormalise_output(model(model.normalise(inputs, model.scalings(inputs))))
    image = found[:, 0].numpy() + 1j * found[:, 1].numpy()
    shown = result.volumes
    np.testing.assert_allclose(shown["image"].array, np.abs(image), atol=1e-5)
    np.testing.assert_allclose(shown["given"].array, np.abs(zero_filled), atol=1e-5)
    np.testing.assert_allclose(shown["miss"].array, np.abs(image - truth), atol=1e-5)
    hidden = numpys_fft((1 - mask) * numpys_fft(image), inverse=True)
    inside = np.abs(image) > 0.05
    along = np.real(np.conj(image / np.abs(image)) * hidden) * inside
    np.testing.assert_allclose(shown["added"].array, along, atol=1e-4)
    table = result.tables["hallucination"]
    added, missing = image - zero_filled, numpys_fft((1 - mask) * numpys_fft(truth), inverse=True)
    energy = lambda a: (np.abs(a) ** 2).sum((1, 2))  # noqa: E731
    expected = 100 * energy(hidden) / energy(added)
    np.testing.assert_allclose(table.values("added, in the null space"), expected, rtol=1e-3)
    expected = np.sqrt(energy(hidden - missing) / energy(missing))
    np.testing.assert_allclose(table.values("error there (1: adding nothing)"), expected, rtol=1e-3)
    phase = np.where(inside, np.angle(image), 0)
    np.testing.assert_allclose(shown["image phase"].array, phase, atol=1e-3)
    assert shown["image phase"].units == "rad" and result.roles["image phase"] == "phase"


def test_the_answer_is_told_in_german_too(cascade, monkeypatch):
    facts = cascade[2].facts
    english = reading.answer(facts, {})
    assert "where nobody measured" in english and "total variation" in english
    monkeypatch.setattr(reading, "tr", catalogue("de").tr)
    told = reading.answer(facts, {})
    assert "wo niemand gemessen hat" in told and "measured" not in told and "network" not in told


@pytest.mark.parametrize(
    "name",
    ["varnet", "super-resolution", "denoising-autoencoder", "srgan-3d", "vox2vox", "cycle-gan"],
)
def test_every_kind_of_row_answers(name, tmp_path):
    model = a_model(name, tmp_path, SIDE)
    result = question.ask(sample.sample_for(model.card, brain(), brain(1)), model)
    assert {"truth", "given", "image", "miss"} <= set(result.volumes)
    assert ("added" in result.volumes) == (name in ("varnet", "super-resolution", "srgan-3d"))
    assert np.isfinite(list(result.facts["findings"]["reached"].values())).all()
    if name == "super-resolution":  # means over 2 x 2 voxels are all that is looked at
        assert result.facts["findings"]["unseen"] == pytest.approx(0.75)
        change = result.volumes["unnoticed"].array.reshape(4, SIDE // 2, 2, SIDE // 2, 2)
        assert np.abs(change.mean((2, 4))).max() < 1e-4 < np.abs(change).max()


def test_a_missing_volume_and_another_grid_are_told(cascade):
    model, volumes, _result = cascade
    with pytest.raises(VolumeError, match="Sampling mask"):
        question.ask({role: v for role, v in volumes.items() if role != "sampling"}, model)
    moved = Volume(volumes["sampling"].array, np.diag([-2.0, -2.0, 6.0, 1.0]), "mask")
    with pytest.raises(VolumeError, match="same voxels"):
        question.ask({**volumes, "sampling": moved}, model)


def test_ideal_input_tells_magnitude_and_phase(cascade):
    model, volumes, _result = cascade
    settings = Settings(
        near=0.0,
        blurred=0.0,
        optimiser="lbfgs",
        max_evaluations=5,
        locked=("sampling",),
        validity=False,
        knobs=False,
    )
    result = ideal_input(volumes, {"network": model}, settings)
    output = {
        part: result.volumes[f"output image_{part} own"].array for part in ("real", "imaginary")
    }
    image, truth = output["real"] + 1j * output["imaginary"], complex_of(volumes, "image")
    shown = result.volumes
    np.testing.assert_allclose(shown["output image_magnitude own"].array, np.abs(image), atol=1e-5)
    np.testing.assert_allclose(shown["output image_phase own"].array, np.angle(image), atol=1e-5)
    error = shown["error image_magnitude own"].array
    np.testing.assert_allclose(error, np.abs(image - truth), atol=1e-4)
    kspace = np.abs(complex_of(volumes, "kspace"))
    decades = np.log10(np.maximum(kspace / kspace.max(), 1e-4)) + 4
    np.testing.assert_allclose(shown["patient kspace_magnitude"].array, decades, atol=0.02)
    head = np.abs(truth) > 0.05 * np.abs(truth).max()
    expected = np.abs(np.angle(image * np.conj(truth)))[head].mean()
    assert result.tables["complex"].values("mean error of the phase")[0] == pytest.approx(
        expected, rel=1e-3
    )


def test_the_report_shows_every_image_and_table(cascade):
    result = cascade[2]
    page = report.page(result, cascade[1]["kspace_real"])
    assert page.count("<img") == 1 + len(result.curves)
    assert all(table.title in page for table in result.tables.values())
    assert "where nobody measured" in page and "simulated" in page
