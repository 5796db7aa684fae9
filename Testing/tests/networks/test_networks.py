"""U-Net: any size, both dimensions, items independent, gradients everywhere."""

import pytest
import torch

from NetInversionLib import networks

BOTH = pytest.mark.parametrize("name", ["unet", "voxel_unet"])
LISTED = {"activation": ["silu"]}
SMALL = {"in_channels": 2, "out_channels": 1, "features": [4, 6, 8]}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (7, 13), (33, 4), (5, 6, 7), (1, 9, 8)])
@BOTH
def test_output_has_the_size_of_the_input(size, name):
    network = networks.build(name, dimensions=len(size), **SMALL)
    assert network(torch.rand(2, 2, *size)).shape == (2, 1, *size)


@pytest.mark.parametrize("dimensions", [2, 3])
@BOTH
def test_items_of_a_batch_do_not_see_each_other(dimensions, name):
    network = networks.build(name, dimensions=dimensions, **SMALL).double().eval()
    images = torch.rand(3, 2, *(8,) * dimensions, dtype=torch.float64)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone, rtol=1e-12, atol=1e-12)


def test_absolute_intensity_is_visible():
    # An instance-normalised network would give nearly the same for both.
    network = networks.build("unet", **SMALL)
    image = torch.rand(1, 2, 16, 16)
    low, high = network(image), network(2 * image + 0.3)
    assert (high - low).abs().mean() > 0.3 * low.abs().mean()


@pytest.mark.parametrize("dimensions", [2, 3])
@BOTH
def test_every_input_voxel_has_a_gradient_from_zeros_too(dimensions, name):
    network = networks.build(name, dimensions=dimensions, **SMALL)
    image = torch.zeros(1, 2, *(9,) * dimensions, requires_grad=True)
    (network(image) - 1).abs().mean().backward()
    assert (image.grad != 0).all()


def test_input_gradient_equals_the_numerical_one():
    network = networks.build("unet", in_channels=1, features=[2, 3]).double()
    image = torch.rand(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, image)


def perturbed(**arguments):
    """A voxel U-Net in double precision whose U-Net says something."""
    network = networks.build("voxel_unet", **arguments).double()
    torch.nn.init.normal_(network.space.out.weight)
    return network


def test_second_derivatives_of_a_voxel_unet_equal_the_numerical_ones():
    # A leaky activation has none; a smooth one bends, so that a search knows more than a slope.
    network = perturbed(in_channels=1, features=[2, 3], voxel_features=3)
    image = torch.rand(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, image)
    assert torch.autograd.gradgradcheck(network, image)


def test_a_voxel_unet_begins_as_a_function_of_each_voxel_alone():
    network = networks.build("voxel_unet", **SMALL).double()
    image = torch.rand(1, 2, 8, 8, dtype=torch.float64)
    order = torch.randperm(64)
    shuffled = image.flatten(2)[..., order].view_as(image)
    expected = network(image).flatten(2)[..., order].view(1, 1, 8, 8)
    torch.testing.assert_close(network(shuffled), expected, rtol=1e-12, atol=1e-12)
    network = perturbed(**SMALL)
    assert not torch.allclose(
        network(shuffled), network(image).flatten(2)[..., order].view(1, 1, 8, 8)
    )


def test_sizes_that_are_multiples_are_not_padded():
    # An output voxel sees 8 * multiple - 6 voxels far; what lies farther from the new part must not
    # change.
    network = networks.build("unet", **SMALL).double()
    image = torch.rand(1, 2, 64, 64, dtype=torch.float64)
    larger = torch.cat([image, torch.rand(1, 2, 64, 64, dtype=torch.float64)], 2)
    inner = 64 - (8 * network.size_multiple - 6)
    torch.testing.assert_close(
        network(larger)[:, :, :inner], network(image)[:, :, :inner], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"dimensions": 4},
        {"dimensions": "2"},
        {"in_channels": 0},
        {"in_channels": 10**9},
        {"out_channels": 1.5},
        {"features": []},
        {"features": [4] * 7},
        {"features": [4, -1]},
        {"features": [10**6]},
        {"features": "444"},
        {"features": [True]},
        {"features": None},
        {"colour": 3},
        {"in_channels": None},
        {"activation": "step"},
        {"activation": ["silu"]},
        {"voxel_features": 0},
        {"voxel_features": "8"},
    ],
)
def test_arguments_that_make_no_sense_are_refused(wrong):
    name = "voxel_unet" if "voxel_features" in wrong else "unet"
    with pytest.raises(ValueError, match="arguments" if wrong == LISTED else next(iter(wrong))):
        networks.build(name, **wrong)


def test_unknown_architecture_names_the_known_ones():
    with pytest.raises(ValueError, match="'gan'.*unet"):
        networks.build("gan")


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="already"):
        networks.register("unet")(object)
