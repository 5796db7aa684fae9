"""A family's network under the engine of Ideal Input, by the way that all models take."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from NetInversionLib import models, networks
from NetInversionLib.families import rows, slices, training
from NetInversionLib.ideal_input import ideal_input
from NetInversionLib.ideal_input.settings import Settings

SIDE = 16
SETTINGS = Settings(
    near=0.0, blurred=0.0, optimiser="lbfgs", max_evaluations=20, validity=False, knobs=False
)


def a_model(name, folder, side=SIDE):
    """A row's small sibling with random weights, as a model file that was opened."""
    row = rows.row(name)
    settings = training.settings_for(name, steps=1, size=side)
    state = training.begin(row, settings, [], row.smaller)
    torch.manual_seed(0)
    network = networks.build(row.architecture, **row.smaller)
    for weight in network.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    path = models.save(folder / "m.safetensors", network, training.make_card(row, state, {}))
    return models.load(path)


def people(count):
    """Two people, each of so many slices."""
    rng = np.random.default_rng(0)
    shape = count, SIDE, SIDE
    return [slices.Slices(f"sub-{n}", rng.random(shape, np.float32)) for n in range(2)]


def judged(name):
    """The task of a row, and what a person is judged on."""
    task = training.TASKS[rows.row(name).recipe]
    count = SIDE if task.dimensions == 3 else 6
    trials = task.judged(people(count), training.settings_for(name, size=SIDE))
    return task, trials["sub-0"]


def errors(result):
    columns = result.tables["error"].columns
    return next(values for name, values in columns.items() if name.startswith("MAE everything"))


@pytest.mark.parametrize("name", ["deep-cascade", "varnet"])
def test_a_scan_goes_through_a_models_units_unchanged(name, tmp_path):
    model, (task, trial) = a_model(name, tmp_path), judged(name)
    volumes = task.volumes(trial, 2.4)
    inputs = [volumes[channel.role] for channel in model.card.inputs]
    assert torch.allclose(model.normalise(inputs, model.scalings(inputs)), trial.given, atol=1e-6)
    target, clipped = model.normalise_target([volumes[c.role] for c in model.card.outputs])
    assert torch.allclose(task.image_of(target), trial.image, atol=1e-5) and clipped == 0
    measured = trial.measured if name == "deep-cascade" else trial.measured[:, 0]
    shown = torch.complex(*(torch.from_numpy(volume.array) for volume in inputs[:2]))
    assert torch.allclose(shown, measured, atol=1e-5)


def test_the_ideal_kspace_errs_less_and_changes_only_what_was_measured(tmp_path):
    model, (task, trial) = a_model("deep-cascade", tmp_path), judged("deep-cascade")
    volumes = task.volumes(trial, 2.4)
    result = ideal_input(volumes, {"network": model}, replace(SETTINGS, locked=task.held))
    before, after = errors(result)[:2]
    assert after < 0.98 * before
    mask = volumes["sampling"].array
    assert np.array_equal(result.volumes["ideal sampling patient"].array, mask)
    for role in ("kspace_real", "kspace_imaginary"):
        change = result.volumes[f"ideal {role} patient"].array - volumes[role].array
        assert np.abs(change[mask == 0]).max() < 1e-4 < np.abs(change[mask == 1]).max()


@pytest.mark.parametrize(
    "name",
    [
        "varnet",
        "denoising-autoencoder",
        "super-resolution",
        "registration",
        "gan-synthesis",
        "cycle-gan",
        "srgan-3d",
        "vox2vox",
    ],
)
def test_the_ideal_input_of_a_row_errs_less_and_leaves_what_is_held(name, tmp_path):
    model, (task, trial) = a_model(name, tmp_path), judged(name)
    volumes = task.volumes(trial, 2.4)
    result = ideal_input(volumes, {"network": model}, replace(SETTINGS, locked=task.held))
    before, after = errors(result)[:2]
    assert after < 0.995 * before
    for channel in model.card.inputs:
        change = result.volumes[f"ideal {channel.role} patient"].array - volumes[channel.role].array
        moved = np.abs(change).max() > 1e-5
        assert moved == (channel.role not in task.held)
