"""A family's network under the engine of Ideal Input, by the way that all models take."""

import numpy as np
import pytest
import torch

from NetInversionLib import models, networks
from NetInversionLib.families import kspace, rows, training
from NetInversionLib.ideal_input import ideal_input
from NetInversionLib.ideal_input.settings import Settings

SIDE = 16


@pytest.fixture
def made(tmp_path):
    """A small model's file, and the volumes of a scan of two slices."""
    row = rows.row("deep-cascade")
    state = training._State(row, training.FamilySettings(steps=1, size=SIDE), [], row.smaller)
    torch.manual_seed(0)
    network = networks.build(row.architecture, **row.smaller)
    for weight in network.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    path = models.save(tmp_path / "m.safetensors", network, training.make_card(row, state, {}))
    rng = np.random.default_rng(0)
    images = rng.random((2, SIDE, SIDE), np.float32)
    return models.load(path), kspace.as_volumes(kspace.scan(images, rng), 2.4, 6.0)


def test_a_scan_goes_through_a_models_units_unchanged(made):
    model, volumes = made
    inputs = [volumes[channel.role] for channel in model.card.inputs]
    scaling = model.scalings(inputs)
    given = model.normalise(inputs, scaling)
    measured = torch.complex(*(torch.from_numpy(v.array) for v in inputs[:2]))
    expected = kspace.given(measured, torch.from_numpy(inputs[2].array))
    assert torch.allclose(given, expected, atol=1e-6)
    target, clipped = model.normalise_target([volumes[c.role] for c in model.card.outputs])
    truth = torch.complex(*(torch.from_numpy(volumes[c.role].array) for c in model.card.outputs))
    assert torch.allclose(kspace.image_of(target), truth, atol=1e-5) and clipped == 0


def test_the_ideal_kspace_errs_less_and_changes_only_what_was_measured(made):
    model, volumes = made
    settings = Settings(
        near=0.0,
        blurred=0.0,
        locked=("sampling",),
        optimiser="lbfgs",
        max_evaluations=20,
        validity=False,
        knobs=False,
    )
    result = ideal_input(volumes, {"network": model}, settings)
    columns = result.tables["error"].columns
    errors = next(values for name, values in columns.items() if name.startswith("MAE everything"))
    assert errors[1] < 0.98 * errors[0]
    mask = volumes["sampling"].array
    assert np.array_equal(result.volumes["ideal sampling patient"].array, mask)
    for role in ("kspace_real", "kspace_imaginary"):
        change = result.volumes[f"ideal {role} patient"].array - volumes[role].array
        assert np.abs(change[mask == 0]).max() < 1e-4 < np.abs(change[mask == 1]).max()
