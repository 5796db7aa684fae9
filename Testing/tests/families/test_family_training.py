"""Every row's small sibling learns, and becomes a model file with its figures."""

import numpy as np
import pytest
import torch
from toy_slices import SIDE, people, small

from NetInversionLib import models, networks
from NetInversionLib.families import rows, training

LEARNT = [one for one in rows.ROWS if one.recipe]
ROW = pytest.mark.parametrize("row", LEARNT, ids=lambda one: one.name)


def settings(row, **chosen):
    size = SIDE // 2 if training.TASKS[row.recipe].dimensions == 3 else SIDE
    return training.settings_for(row.name, **{"size": size, "batch": 2, **chosen})


@ROW
def test_each_rows_small_sibling_learns(row):
    cases = people(2, training.TASKS[row.recipe].dimensions)
    state = training.begin(row, settings(row, steps=1), cases, row.smaller)
    rate = 3e-3 if row.name == "post-processing" else 1e-2
    optimiser = torch.optim.Adam(state.network.parameters(), lr=rate)
    errors = []
    for _ in range(30):  # the same scans each time
        loss = state.loss()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.9 * errors[0]


@ROW
def test_each_row_becomes_a_model_with_its_figures(row, tmp_path):
    chosen, task = settings(row, steps=2), training.TASKS[row.recipe]
    cases = people(3, task.dimensions)
    path = training.train(
        row.name, cases, tmp_path / "small.safetensors", chosen, arguments=row.smaller
    )
    model = models.load(path)
    assert model.card.trained_on == ("sub-0", "sub-1")
    assert model.card.dimensions == task.dimensions
    assert model.card.training["family"] == row.name and model.card.training["left out"] == "sub-2"
    assert model.card.training["steps"] == 2 and model.card.training["size"] == chosen.size
    told = model.card.quality
    assert f"sub-2, held out, {task.figure}" in told
    (trial,) = task.judged(cases[2:], chosen).values()
    images = {"network": task.made(model.network, trial)}
    images |= {name: peer(trial) for name, peer in task.peers_of(cases[:2], chosen).items()}
    for name, image in images.items():
        expected = np.mean(task.scores(image, trial.image))
        figure = told[f"held out, mean {task.figure}, {name}"]
        assert figure == pytest.approx(expected, abs=0.01)


@ROW
def test_a_rows_images_are_judged_alike_each_time_and_unlike_those_of_training(row):
    chosen, task = settings(row), training.TASKS[row.recipe]
    cases = people(2, task.dimensions)
    first, again = (task.judged(cases, chosen) for _ in range(2))
    assert first.keys() == {"sub-0", "sub-1"}
    for name, trial in first.items():
        assert torch.equal(trial.given, again[name].given)
        assert torch.equal(trial.image, again[name].image)
    drawn = [task.draw(cases, chosen, step).given for step in (3, 3, 4)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@ROW
def test_a_network_gives_what_its_row_wants(row):
    chosen, task = settings(row), training.TASKS[row.recipe]
    trial = task.draw(people(2, task.dimensions), chosen, 0)
    network = small(row)
    found = network(trial.given)
    assert found.shape == trial.wanted.shape
    assert trial.given.shape[1] == len(task.inputs) == network.in_channels
    assert trial.wanted.shape[1] == len(task.outputs) == network.out_channels
    assert torch.allclose(task.image_of(trial.wanted), trial.image, atol=1e-5)
    assert {channel.role for channel in task.inputs} >= set(task.held)


def test_a_row_that_is_not_built_is_not_trained(tmp_path):
    with pytest.raises(ValueError, match="cannot be trained"):
        training.train("no-learning", people(2), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="no family is called"):
        rows.row("cycle")


def test_a_rows_own_settings_give_way_to_those_that_are_chosen():
    assert training.settings_for("super-resolution").spacing_mm == 1.2
    assert training.settings_for("super-resolution", spacing_mm=1.0).spacing_mm == 1.0
    assert training.settings_for("deep-cascade").spacing_mm == 2.4


def test_every_row_of_the_table_is_there_once():
    names = [one.name for one in rows.ROWS]
    assert len(set(names)) == len(names) == 15
    assert all(one.source and one.network and one.optimised for one in rows.ROWS)
    assert [one.name for one in rows.ROWS if not one.learnt] == ["no-learning"]
    assert all(one.built for one in rows.ROWS)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("multi_scale_super_resolution", {"factor": 1}),
        ("multi_scale_super_resolution", {"width": 10**6}),
        ("multi_scale_super_resolution", {"depth": True}),
        ("denoising_autoencoder", {"features": [0]}),
        ("voxelmorph", {"features": 3}),
        ("varnet", {"coils": 32}),
        ("varnet", {"cascades": 0}),
        ("latent_generator", {"cells": 0}),
        ("cycle_translation", {"features": [0]}),
        ("volume_super_resolution", {"factor": 9}),
        ("vox2vox", {"features": []}),
    ],
)
def test_arguments_that_make_no_sense_are_refused(name, wrong):
    with pytest.raises(ValueError):
        networks.build(name, **wrong)
