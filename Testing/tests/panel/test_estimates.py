"""The time that a panel announces: it follows this computer's speed, and what earlier runs took."""

import json
from types import SimpleNamespace

import host
import pytest
import torch

host.start()

from NetInversionLib import invariances  # noqa: E402
from NetInversionLib.invariances import level_set  # noqa: E402
from NetInversionLib.invariances.choices import (
    TOLD,  # noqa: E402
    Pass,  # noqa: E402
    _tiles,  # noqa: E402
    network_voxels,  # noqa: E402
    pass_of,  # noqa: E402
)
from NetInversionLib.invariances.settings import Settings  # noqa: E402
from NetInversionLib.jobs import speed  # noqa: E402
from NetInversionLib.panel import (
    estimates,  # noqa: E402
    job,  # noqa: E402
)
from NetInversionLib.panel import logic as panel_logic  # noqa: E402

CARD = SimpleNamespace(name="Net", version="1")


@pytest.fixture
def machine(scene, monkeypatch):
    """A computer of which nothing is known."""
    from host import qt

    monkeypatch.setattr(estimates, "MACHINE", estimates.Machine())
    for key in [key for key in qt.QSettings().allKeys() if "Speed" in key or "SecondsPer" in key]:
        qt.QSettings().remove(key)
    return estimates.MACHINE


class Logic(panel_logic.ModuleLogic):
    def __init__(self):
        self.moduleName = "Estimates"


def test_a_guess_grows_with_what_the_computer_needs_for_a_convolution(machine):
    logic = Logic()
    start, work = speed.REFERENCE_START_S, 100 * 0.2
    assert logic.secondsFor(CARD, "cpu", 100, 0.2) == (start + work, False)
    machine._measured["cpu"] = {"pass_s": 3 * speed.REFERENCE_PASS_S, "start_s": 8.0}
    assert logic.secondsFor(CARD, "cpu", 100, 0.2) == (pytest.approx(8 + 3 * work), False)
    assert logic.secondsFor(CARD, "cuda", 100, 0.2) == (
        start + work,
        False,
    )  # that one was not measured


def test_after_a_run_its_own_pace_counts(machine):
    logic = Logic()
    machine._measured["cpu"] = {"pass_s": 3 * speed.REFERENCE_PASS_S, "start_s": 8.0}
    logic.learnSpeed(CARD, "cpu", 100, 28.0)
    seconds, known = logic.secondsFor(CARD, "cpu", 200, 0.2)
    assert known and seconds == pytest.approx(8 + 2 * 20)


def test_the_words_say_how_sure_the_time_is(machine, monkeypatch):
    logic = Logic()
    assert "A first guess" in logic.timeText(30, False, "cpu")
    machine._measured["cpu"] = {"pass_s": 1.0, "start_s": 8.0}
    assert "this computer's speed" in logic.timeText(30, False, "cpu")
    assert logic.timeText(30, True, "cpu") == "Takes about 30 s."
    monkeypatch.setattr(panel_logic, "installed", lambda name: ())
    assert "about 30 s after installation of PyTorch" in logic.timeText(30, False, "cpu")


def test_a_process_measures_once_and_the_next_session_knows_it(machine):
    ended = []
    machine.measure(job.find_python(), "cpu", lambda: ended.append(machine.slowness("cpu")))
    machine.measure(job.find_python(), "cpu", lambda: ended.append("twice"))
    assert not machine.is_measured("cpu")
    host.wait(lambda: ended, 300)
    assert len(ended) == 1 and ended[0] > 0 and machine.start_seconds("cpu") > 0.1
    assert estimates.Machine().slowness("cpu") == ended[0]


def test_a_measurement_that_fails_leaves_the_guess(machine):
    ended = []
    machine.measure(job.find_python(), "no such device", lambda: ended.append(1))
    process = machine._processes["no such device"]
    host.wait(lambda: process.state() == type(process).NotRunning, 300)
    host.wait(lambda: True)
    assert not ended and machine.slowness("no such device") == 1


def test_a_pass_of_more_work_takes_longer(monkeypatch):
    small = speed.pass_seconds("cpu", 0.1)
    monkeypatch.setattr(speed, "SIZE", 4 * speed.SIZE)
    assert speed.pass_seconds("cpu", 0.1) > 3 * small > 0


def test_what_the_process_prints_is_read_back(capsys):
    assert speed.main(["cpu", "0"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"pass_s", "start_s"}


@pytest.mark.parametrize(
    "side, tile, overlap",
    [(20, 128, 32), (128, 128, 32), (129, 128, 32), (512, 128, 32), (300, 64, 0)],
)
def test_tiles_are_counted_as_they_are_made(side, tile, overlap):
    made = list(invariances.tiles(level_set.Window(0, side, 0, 9), tile, overlap))
    assert _tiles(side, tile, overlap) == len(made)


def test_the_cost_follows_what_is_asked_for():
    image, region = (512, 512), (124, 124)
    base = network_voxels(image, region, 1, Settings())
    assert network_voxels(image, region, 3, Settings()) == pytest.approx(3 * base)
    assert network_voxels(image, region, 1, Settings(projected=32)) > 1.2 * base
    assert network_voxels(image, image, 1, Settings()) > 5 * base
    asked = network_voxels(image, region, 1, Settings(lesion=(0, 0, 0)))
    assert network_voxels(image, region, 1, Settings(lesion=(0, 0, 0), draws=640)) > asked > base
    assert network_voxels(image, region, 1, Settings(max_evaluations=2)) < base
    assert network_voxels(image, region, 1, Settings(spectrum=("output",))) > 2 * base
    assert network_voxels(image, region, 1, Settings(), TOLD) > 2 * base


def test_a_pass_costs_what_the_card_says():
    plain, told = (
        SimpleNamespace(architecture="cnn10", arguments=arguments)
        for arguments in ({}, {"level": "learned"})
    )
    assert pass_of(plain) == Pass() and pass_of(told) == TOLD
    larger = SimpleNamespace(architecture="redcnn", arguments=told.arguments)
    assert pass_of(larger).weight > TOLD.weight


def test_the_typical_evaluations_are_those_of_a_projection():
    """What the cost rests on: most samples are accepted long before the last evaluation."""
    from toy_ct import averaging, body, run

    torch.manual_seed(0)
    found = run(body(), averaging(), samples=8, projected=8, max_evaluations=150)
    assert found.tables["proof"].columns["evaluations per sample"][0] < 60
