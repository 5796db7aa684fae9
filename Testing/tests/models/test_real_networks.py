"""Real networks of other people's code, with random weights, asked both questions.

They are read by console and by file; by panel in modules/test_real_networks_modules.py.
"""

import numpy as np
import pytest
import torch
import toy_models
from real_networks import NETWORKS

from NetInversionLib import ideal_input, invariances, models
from NetInversionLib.models.foreign import formats
from NetInversionLib.models.foreign.importing import Wishes, import_network

pytestmark = pytest.mark.filterwarnings("ignore")
IMAGES, DENOISING = "image-to-image", "denoising"


def mr_and_ct():
    mr = toy_models.volume(400 * toy_models.smooth((1, 24, 28), 0), "MR")
    return mr, toy_models.volume(900 * toy_models.smooth((1, 24, 28), 1) - 300, "CT", units="HU")


def low_dose():
    hu = np.full((1, 24, 28), -1000.0, np.float32)
    hu[:, 4:20, 4:24] = 40 + 30 * np.random.default_rng(0).normal(size=(1, 16, 20))
    return toy_models.volume(hu, "low dose", units="HU")


# Near the patient's images random weights need not gain anything: the free search has to.
SEARCH = ideal_input.Settings(
    max_evaluations=8, device="cpu", knobs=False, validity=False, region=(0, 1, 0, 24, 0, 28),
    near=0.0, blurred=0.0,
)  # fmt: skip
ASKED = invariances.Settings(
    samples=2, projected=1, shown=1, epsilon_hu=5.0, max_evaluations=100, device="cpu",
    proposals=("texture",), region=(0, 1, 8, 16, 8, 20),
)  # fmt: skip


# With random weights and few evaluations no proposal need come near enough.
NONE_MAY_PASS = ("Zavala's LWFSN", "MONAI DynUNet")


def require_both(found, asked, name):
    """An input that errs less, and changes that the output does not show."""
    errors = found.tables["error"].columns["MAE everything (HU)"]
    assert errors[1] < errors[0] and found.facts["quality"]["network"] == pytest.approx(errors[0])
    assert asked.volumes["std unproven"].array.max() > 10
    proof = asked.tables["proof"].columns
    accepted = np.isfinite(proof["largest accepted (HU)"])
    # Shrinkage jumps where a coefficient passes its threshold: not every change can be projected.
    assert accepted.any() or (name in NONE_MAY_PASS and proof["accepted (%)"][0] == 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_real_network_answers_both_questions(name):
    entry = NETWORKS[name]
    network, (mr, ct) = entry.make(), mr_and_ct()
    told = entry.description(IMAGES)
    found = ideal_input.of_network([mr], [ct], network, told, SEARCH)
    ranges = entry.description(DENOISING)
    require_both(found, invariances.of_network(low_dose(), network, ranges, ASKED), name)


@pytest.mark.skipif(
    formats.torch_is_unsafe(), reason="checkpoints: PyTorch before 2.6 opens none safely"
)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_real_network_comes_in_from_its_file(name, tmp_path, monkeypatch):
    """Outputs and gradients are those of the module itself; both questions are answered."""
    monkeypatch.setenv("NETINVERSION_SETTINGS", str(tmp_path / "settings"))
    entry = NETWORKS[name]
    path, network = entry.save(tmp_path), entry.make()
    asked, loaded = [], {}
    for task in (IMAGES, DENOISING):
        known = path.suffix == ".zip" or (entry.known and task == DENOISING)
        wishes = Wishes(
            "" if known else entry.spec,
            entry.untold if known else entry.arguments,
            None if known and task == IMAGES else entry.description(task),
            folder=tmp_path / task,
        )
        made = import_network(path, wishes, lambda *of: asked.append(of[0].name) or True)
        loaded[task] = models.load(made)
        assert models.runs_code(made) == (not entry.known)
    # Once for the bundle, the package or the file of tests; never for what is registered.
    assert len(asked) == len(set(asked)) == (0 if entry.known else 1)

    model = loaded[IMAGES]
    if path.suffix != ".zip":  # whose axes are turned
        mr, ct = mr_and_ct()
        same = models.adopt(network, entry.description(IMAGES), [mr], [ct])
        x = same.normalise([mr], same.scalings([mr])).requires_grad_()
        ours, theirs = model(x), same(x)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        slopes = [torch.autograd.grad(y.square().sum(), x)[0] for y in (ours, theirs)]
        torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-4)
    mr, ct = mr_and_ct()
    found = ideal_input.ideal_input({"mr": mr, "ct": ct}, {"network": model}, SEARCH)
    volumes = {"low_dose": low_dose()}
    of_denoiser = invariances.invariances(volumes, {"denoiser": loaded[DENOISING]}, ASKED)
    require_both(found, of_denoiser, name)


def test_the_weights_of_deepinv_give_what_deepinv_gives(tmp_path, monkeypatch):
    """Its DnCNN and DRUNet are recognised by their names; outputs as its own code has them."""
    found = pytest.importorskip("deepinv").models
    monkeypatch.setenv("NETINVERSION_SETTINGS", str(tmp_path / "settings"))
    x = torch.rand(1, 1, 32, 40)  # smaller ones deepinv pads otherwise
    for name, network in (
        ("dncnn", found.DnCNN(1, 1, depth=5, nf=8, pretrained=None)),
        ("drunet", found.DRUNet(1, 1, nc=[4, 4, 8, 8], nb=2, pretrained=None)),
    ):
        torch.save(network.eval().state_dict(), tmp_path / f"{name}.pth")
        wishes = Wishes(arguments={"sigma": 0.05} if name == "drunet" else None)
        model = models.load(import_network(tmp_path / f"{name}.pth", wishes))
        assert model.card.architecture == name
        with torch.no_grad():
            torch.testing.assert_close(model(x), network(x, 0.05), rtol=1e-5, atol=1e-5)
