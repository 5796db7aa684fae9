"""A network of the user's own: described, probed, adapted, and asked both questions."""

import copy

import numpy as np
import pytest
import torch
import toy_models
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from NetInversionLib import ideal_input, invariances, jobs, models
from NetInversionLib.core import steps
from NetInversionLib.core.progress import Progress
from NetInversionLib.core.volumes import Volume
from NetInversionLib.ideal_input import reading
from NetInversionLib.invariances import spectrum
from NetInversionLib.invariances.level_set import LevelSet, Window
from NetInversionLib.models import ModelError
from NetInversionLib.models.foreign.adapted import Adapted, Form
from NetInversionLib.models.foreign.description import (
    Description,
    Image,
    ScaledChannel,
    described,
    input_channel,
)
from NetInversionLib.models.foreign.probe import probe


def patient(shape=(3, 24, 28), seed=0, name="MR"):
    return toy_models.volume(400 * toy_models.smooth(shape, seed) + 50, name)


def ct_of(mr):
    return Volume(3 * mr.array - 700, mr.ijk_to_ras, "CT", "HU")


class Unit(nn.Module):
    """Convolutions of the smallest kind that look around."""

    def __init__(self, channels=(1, 6, 1), dimensions=2):
        super().__init__()
        kind = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.first = kind(channels[0], channels[1], 3, padding=1)
        self.last = kind(channels[1], channels[2], 3, padding=1)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


# What is said of it -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"colour": 3}, "no field 'colour'"),
        ({"orientation": "LAS"}, "orientation .* 'LPS', 'RAS', not 'LAS'"),
        ({"dimensions": 4}, "dimensions"),
        ({"inputs": 3}, "inputs"),
        ({"inputs": [{"name": "a", "scale": "range"}]}, "no field 'scale'"),
        ({"inputs": ["a", "A"]}, "same name.*a name of its own"),
        ({"inputs": ["a"], "scaling": "range"}, "scaling of 'a'.*low and high"),
        ({"inputs": ["a"], "scaling": "mean-std", "mean": 1.0}, "std above 0"),
        ({"outputs": ["a"], "scaling": "z-score"}, "an output"),
        ({"inputs": ["a"], "low": 3, "high": 3}, "low is below high"),
        ({"inputs": ["a"], "percentiles": (90, 10)}, "in order"),
        ({"spacing_mm": "1 mm"}, "spacing_mm"),
        ({"size_multiple": 2.5}, "size_multiple"),
        ("a network", "dictionary"),
    ],
)
def test_a_wrong_description_is_refused_by_the_field(given, words):
    with pytest.raises(ModelError, match=words):
        described(given)


@pytest.mark.parametrize(
    ("task", "name"), [("image-to-image", "Output CT"), ("denoising", "Denoised CT")]
)
def test_an_output_may_have_the_name_of_an_input(task, name):
    told = described({"task": task, "inputs": ["CT"], "outputs": ["CT"]})
    assert (told.inputs[0].name, told.outputs[0].name) == ("CT", name)
    assert described(told.to_json()) == told == described(told)


def test_a_description_is_read_back_from_its_json():
    told = described(
        {
            "inputs": ["T1-weighted", {"name": "T2", "scaling": "percentile"}],
            "outputs": [{"name": "CT", "units": "HU", "scaling": "range", "low": -1024, "high": 1}],
            "scaling": "z-score",
            "orientation": "RAS",
        }
        | {"outputs": [Image("CT", "HU", "range", -1024.0, 3071.0, (-1.0, 1.0))]}
    )
    assert [image.scaling for image in told.inputs] == ["z-score", "percentile"]
    assert [image.role for image in told.inputs] == ["t1_weighted", "t2"]
    assert described(told.to_json()) == told


# Scaling and axes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["image", "nonzero", "body"])
def test_a_z_score_reaches_the_network_as_one(over):
    array = np.random.default_rng(3).gamma(2.0, 50.0, (4, 10, 12)).astype(np.float32)
    array[:2] = 0
    channel = input_channel(Image("mr", scaling="z-score", over=over))
    scaling = channel.scaling_for(array)
    unit = (array - scaling["low"]) / (scaling["high"] - scaling["low"])
    out = ScaledChannel("o", "o", "", 0.0, 1.0)
    seen = Adapted(nn.Identity(), Form(), (channel,), (out,))(torch.from_numpy(unit)[:, None])
    chosen = {"image": array, "nonzero": array[array != 0], "body": array[array > array.mean()]}
    values = chosen[over].astype(np.float64)
    expected = (array - values.mean()) / values.std()
    np.testing.assert_allclose(seen[:, 0], expected, atol=2e-5)


def test_percentiles_and_clipping_reach_the_network():
    array = np.random.default_rng(3).gamma(2.0, 50.0, (4, 10, 12)).astype(np.float32)
    image = Image("mr", scaling="percentile", percentiles=(2, 98), to=(-1.0, 1.0), clipped=True)
    channel = input_channel(image)
    scaling = channel.scaling_for(array)
    unit = torch.from_numpy((array - scaling["low"]) / (scaling["high"] - scaling["low"]))[:, None]
    out = ScaledChannel("o", "o", "", 0.0, 1.0)
    seen = Adapted(nn.Identity(), Form(), (channel,), (out,))(unit)[:, 0].numpy()
    low, high = np.percentile(array, (2, 98))
    expected = np.clip(2 * (array - low) / (high - low) - 1, -1, 1)
    np.testing.assert_allclose(seen, expected, atol=1e-5)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("axes", ["kji", "ijk"])
def test_a_ras_network_sees_the_patient_turned(dimensions, axes):
    """Of two volumes of the same body, one in RAS order: both come out the same."""
    torch.manual_seed(1)
    network = Unit(dimensions=dimensions)  # its random kernels tell left from right
    mr = patient((4, 10, 12))
    told = {"inputs": ["MR"], "outputs": ["CT"], "scaling": "none", "orientation": "RAS"}
    model = models.adopt(
        network, {**told, "axes": axes, "dimensions": dimensions}, [mr], [ct_of(mr)]
    )
    scaling = model.scalings([mr])
    output = model.denormalise_output(model(model.normalise([mr], scaling)))
    x = torch.from_numpy(mr.array)[None] if dimensions == 3 else torch.from_numpy(mr.array)
    x = x[:, None].flip((-1, -2))
    turned = x.permute(0, 1, *range(x.dim() - 1, 1, -1)) if axes == "ijk" else x
    with torch.no_grad():
        y = network(turned)
    y = y.permute(0, 1, *range(y.dim() - 1, 1, -1)) if axes == "ijk" else y
    torch.testing.assert_close(output, y.flip((-1, -2)), atol=0.05, rtol=1e-4)


def test_a_network_of_neighbouring_slices_sees_them():
    torch.manual_seed(1)
    network = Unit((3, 6, 1))
    mr = patient((5, 12, 14))
    model = models.adopt(network, {"scaling": "none"}, [mr], [ct_of(mr)])
    assert model.card.dimensions == 3  # whole volumes, so that slices see each other
    scaling = model.scalings([mr])
    output = model.denormalise_output(model(model.normalise([mr], scaling)))[0, 0]
    padded = torch.from_numpy(mr.array)[[0, 0, 1, 2, 3, 4, 4]]
    with torch.no_grad():
        expected = network(torch.stack([padded[:-2], padded[1:-1], padded[2:]], 1))[:, 0]
    torch.testing.assert_close(output, expected, atol=0.05, rtol=1e-4)


def test_one_argument_an_image_and_a_chosen_output():
    torch.manual_seed(1)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Conv2d(2, 1, 3, padding=1)

        def forward(self, first, second):
            y = self.mix(torch.cat([second, first], 1))
            return {"features": y.mean(), "ct": y}

    network, mr, other = Two(), patient(), patient(seed=1)
    model = models.adopt(network, {"scaling": "none"}, [mr, other], [ct_of(mr)])
    output = model.denormalise_output(
        model(model.normalise([mr, other], model.scalings([mr, other])))
    )
    with torch.no_grad():
        first, second = (torch.from_numpy(v.array)[:, None] for v in (mr, other))
        expected = network(first, second)["ct"]
    torch.testing.assert_close(output, expected, atol=0.05, rtol=1e-4)


def test_sizes_that_the_network_does_not_take_are_padded():
    def strict(x):
        if any(n % 8 for n in x.shape[2:]):
            raise RuntimeError("sizes must be multiples of 8")
        return 2 * x

    mr = patient((2, 21, 30))
    model = models.adopt(strict, {"scaling": "none"}, [mr], [ct_of(mr)])
    assert model.card.size_multiple == 8
    images = model.normalise([mr], model.scalings([mr]))
    output = model.denormalise_output(model(images))
    np.testing.assert_allclose(output[:, 0], 2 * mr.array, rtol=1e-4)


def test_an_enlarging_network_is_averaged_onto_the_input_grid():
    def twice(x):
        return F.interpolate(x, scale_factor=2, mode="nearest")

    mr = patient((2, 20, 24))
    model = models.adopt(twice, {"scaling": "none"}, [mr], [mr])
    output = model.denormalise_output(model(model.normalise([mr], model.scalings([mr]))))
    np.testing.assert_allclose(output[:, 0], mr.array, rtol=1e-4)


def test_the_users_network_stays_as_it_is():
    network = Unit().train()
    before = copy.deepcopy(network.state_dict())
    models.adopt(network, None, [patient()], [ct_of(patient())])
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in network.state_dict().items())


# The probe ----------------------------------------------------------------------------------------


def test_what_the_probe_finds_of_a_network_with_strides():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=4, padding=1), nn.Tanh(), nn.ConvTranspose2d(4, 3, 4, stride=4)
    )
    found = probe(network.eval())
    assert (found.dimensions, found.inputs, found.outputs) == (2, 2, 3)
    assert (found.multiple, found.smallest, found.fixed, found.magnification) == (4, 4, None, 1)
    assert found.repeatable and found.batch and found.alone and found.double
    assert found.gradient_error < 1e-6
    assert found.reach is not None and found.reach <= 4


def test_the_probe_finds_reach_and_sight_of_the_whole_image():
    assert probe(nn.Conv2d(1, 1, 9, padding=4)).reach == 4
    assert probe(nn.Conv3d(1, 1, 5, padding=2)).reach == 2
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4))
    assert probe(pooled.eval()).reach is None


def test_the_probe_finds_dropout_batches_that_mix_and_magnification():
    assert not probe(nn.Sequential(nn.Conv2d(1, 8, 1), nn.Dropout(0.5)).train()).repeatable
    mixing = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert not probe(mixing.eval()).alone
    larger = nn.Sequential(nn.Conv2d(1, 9, 3, padding=1), nn.PixelShuffle(3))
    assert probe(larger).magnification == 3
    halved = nn.Conv2d(1, 1, 2, stride=2)
    assert probe(halved).magnification == 0.5


def test_the_probe_finds_the_only_size_of_a_dense_network():
    dense = nn.Sequential(nn.Flatten(), nn.Linear(256, 256), nn.Unflatten(1, (1, 16, 16)))
    found = probe(dense)
    assert (found.fixed, found.reach) == (16, None)


class _Liar(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * x

    @staticmethod
    def backward(ctx, slope):
        return slope  # of x itself, not of its square


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (_Liar.apply, "differ from finite differences"),
        (lambda x: x.detach() * 2, "no gradient passes.*detach"),
        (lambda x: x * 0 + 1, "does not depend on its input"),
        (lambda x: x.mean((1, 2, 3)), "no image"),
        (nn.Linear(7, 3), "runs on no image.*1 channel in 2-D.*mat1 and mat2"),
        (lambda x: "text", "gives str"),
    ],
    ids=["wrong gradient", "detached", "constant", "one number", "no images", "text"],
)
def test_what_cannot_be_optimised_is_refused_with_the_networks_own_words(network, words):
    with pytest.raises(ModelError, match=words):
        models.adopt(network, {"inputs": ["a"], "outputs": ["b"]})


@pytest.mark.parametrize("count", [1, 2])
def test_neighbouring_slices_of_every_image_are_found(count):
    names = ["a", "b"][:count]
    told = {"inputs": names, "outputs": ["c"], "scaling": "range", "low": 0, "high": 1}
    model = models.adopt(Unit((3 * count, 4, 1)), told)
    assert model.network.form.dimensions == 2.5 and len(model.card.inputs) == count
    assert "neighbouring slices, 1 on each side" in model.card.quality["probe"]


def test_a_description_that_does_not_fit_says_which_field():
    network = Unit((2, 4, 1))
    with pytest.raises(ModelError, match="^inputs.*2 channels.*1 images|runs on no image"):
        models.adopt(network, {"inputs": ["a"], "outputs": ["b"]})
    with pytest.raises(ModelError, match="^outputs.*1 channels"):
        models.adopt(network, {"inputs": ["a", "b"], "outputs": ["c", "d"]})
    with pytest.raises(ModelError, match="inputs.*1 images.*2 volumes"):
        models.adopt(network, {"inputs": ["a"]}, [patient(), patient(seed=1)])


# Scaling that is not told -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        lambda x: 3 * x - 700,
        lambda x: (3 * (x * RANGE[1] + RANGE[0]) - 700) / 1000,
        lambda x: 3 * (x * RANGE[1] + RANGE[0]) - 700,
    ],
    ids=["none", "range in, HU / 1000 out", "range in, HU out"],
)
def test_the_scaling_is_found_by_trying(network):
    mr = patient()
    RANGE[:] = [float(mr.array.min()), float(np.ptp(mr.array))]
    said = []
    model = models.adopt(network, None, [mr], [ct_of(mr)], log=said.append)
    output = model.denormalise_output(model(model.normalise([mr], model.scalings([mr]))))
    np.testing.assert_allclose(output[:, 0], ct_of(mr).array, atol=0.5)
    assert any("ways were tried" in line for line in said)


RANGE = [0.0, 1.0]


# Both questions -----------------------------------------------------------------------------------

QUICK = {"max_evaluations": 15, "device": "cpu", "knobs": False, "validity": False}


@pytest.mark.parametrize("dimensions", [2, 3])
def test_ideal_input_of_a_module_errs_less_and_says_how_good_it_is(dimensions):
    torch.manual_seed(2)
    mr = patient((6, 16, 18))
    said = []

    class Told(Progress):
        def log(self, message):
            said.append(message)

    result = ideal_input.of_network(
        [mr],
        [ct_of(mr)],
        Unit(dimensions=dimensions),
        {
            "inputs": ["T1"],
            "outputs": [
                {"name": "CT", "units": "HU", "scaling": "range", "low": -1000, "high": 2000}
            ],
            "scaling": "percentile",
        },
        ideal_input.Settings(**QUICK),
        Told(),
    )
    errors = result.tables["error"].columns["MAE everything (HU)"]
    assert errors[1] < errors[0]
    quality = result.facts["quality"]
    assert quality["network"] == pytest.approx(errors[0], rel=1e-3)
    assert quality["linear"] < 1 < quality["constant"] < quality["network"]
    assert any("no better than what needs no network" in w for w in result.facts["warnings"])
    assert any("the network errs by" in line for line in said)
    assert quality["words"] in reading.answer(result.facts, result.tables)
    assert result.volumes["ideal t1 patient"].array.shape == mr.array.shape


def test_invariances_of_a_module_and_of_a_function():
    hu = np.full((2, 40, 44), -1000.0, np.float32)
    hu[:, 6:34, 6:38] = 40 + 30 * np.random.default_rng(0).normal(size=(2, 28, 32))
    ct = toy_models.volume(hu, "low dose", units="HU")

    def smoothing(x):
        kernel = torch.ones(1, 1, 3, 3, dtype=x.dtype) / 9
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel)

    settings = invariances.Settings(
        samples=4,
        projected=2,
        shown=1,
        epsilon_hu=1.0,
        proposals=("texture",),
        region=(0, 1, 10, 26, 10, 30),
        device="cpu",
    )
    result = invariances.of_network(ct, smoothing, {"scaling": "none"}, settings)
    expected = ndimage.uniform_filter(hu[0], 3, mode="nearest")
    np.testing.assert_allclose(result.volumes["output"].array[0], expected, atol=0.05)
    assert max(result.tables["proof"].columns["largest accepted (HU)"]) <= 1.0
    seeing_all = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.Conv2d(4, 1, 3, padding=1)
    )
    result = invariances.of_network(
        ct, seeing_all, {"scaling": "mean-std", "mean": 0.0, "std": 1000.0}, settings
    )
    assert result.volumes["std unproven"].array.max() > 10


def test_a_network_in_memory_runs_here_and_is_not_sent_to_a_worker(tmp_path):
    model = models.adopt(Unit(), None, [patient()], [ct_of(patient())])
    request = jobs.Request("ideal_input", {}, {"network": model}, {})
    assert request.model_paths["network"] is model
    with pytest.raises(jobs.JobError, match="models import"):
        steps.finish(jobs.save_request(tmp_path, request))


def test_a_full_description_is_kept_as_it_is():
    told = Description(dimensions=2, size_multiple=4, smallest_size=8, takes="channels")
    found = probe(Unit(), told)
    assert (found.multiple, found.smallest) == (4, 8)


@pytest.mark.parametrize("dimensions", [2.5, 3])
def test_a_slice_alone_has_equal_neighbours(dimensions):
    """Of a network that adds up slices, the slice times the weights' sum, far from any border."""
    weights = torch.tensor([0.2, 0.5, 0.4])
    if dimensions == 3:
        network = nn.Conv3d(1, 1, (3, 1, 1), padding=(1, 0, 0), bias=False)
        network.weight.data = weights.reshape(1, 1, 3, 1, 1)
    else:
        network = nn.Conv2d(3, 1, 1, bias=False)
        network.weight.data = weights.reshape(1, 3, 1, 1)
    told = {"scaling": "mean-std", "mean": 0.0, "std": 1000.0, "dimensions": dimensions}
    model = models.adopt_denoiser(network, told)
    low, high = model.card.inputs[0].low, model.card.inputs[0].high
    hu = torch.rand(2, 1, 9, 11) * 1000 - 500
    output = model((hu - low) / (high - low)) * (high - low) + low
    torch.testing.assert_close(output, 1.1 * hu, atol=0.01, rtol=1e-4)


# Outputs of another size and number of channels ---------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.PixelShuffle(2)),  # three, twice as large
        nn.Conv2d(1, 3, 4, stride=2, padding=1),  # three channels, half as large
    ],
    ids=["larger", "smaller"],
)
def test_level_sets_and_spectra_of_outputs_of_another_size(network):
    """A linear network: gains are the singular values of its matrix on the region."""
    network = network.double().requires_grad_(False)
    image = torch.rand(1, 1, 12, 14, dtype=torch.float64)
    region = Window(4, 8, 4, 8)
    target = LevelSet(network, image, region, scale=10.0)
    change = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    moved = image.clone()
    moved[..., 4:8, 4:8] += change
    difference = network(moved) - network(image)
    expected = 10 * (difference.square().sum() / 16).sqrt()
    assert float(target.measure(target.start + change)) == pytest.approx(float(expected))
    columns = []
    for n in range(16):
        unit = torch.zeros(16, dtype=torch.float64)
        unit[n] = 1
        moved = image.clone()
        moved[..., 4:8, 4:8] += unit.reshape(4, 4)
        columns.append((network(moved) - network(image)).flatten())
    gains = 10 * torch.linalg.svdvals(torch.stack(columns, 1))
    found = spectrum.spectrum(target, seed=0)
    tolerance = float(gains.max()) * 1e-4
    for share in (0.25, 0.5, 0.75):
        limit = float(torch.quantile(gains, share)) + tolerance
        lost = float((gains <= limit).double().mean())
        assert found.lost(limit, 1.0) == pytest.approx(lost, abs=0.07)
