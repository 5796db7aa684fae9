"""Features of a perceptual term, from a model file or torchvision's file.

A file is opened safely or not at all.
"""

import os

import pytest
import torch

from NetInversionLib import networks
from NetInversionLib.models import ModelError
from NetInversionLib.models.foreign import formats
from NetInversionLib.training.features import read_features

needs_safe_torch = pytest.mark.skipif(
    formats.torch_is_unsafe(), reason="PyTorch before 2.6 opens no .pth file safely"
)


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    state = networks.build("vgg19").state_dict()
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save({**state, "classifier.0.bias": torch.zeros(3)}, path)
    return path


@needs_safe_torch
def test_torchvisions_file_gives_its_weights(file):
    model, kept = read_features(file), torch.load(file, weights_only=True)
    for name, weight in model.network.state_dict().items():
        assert torch.equal(weight, kept[name])


@needs_safe_torch
def test_no_code_is_run_and_other_files_are_refused(tmp_path):
    torch.save({"features.0.weight": Bomb(tmp_path / "exploded")}, tmp_path / "bomb.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("bomb", "other", "text"):
        with pytest.raises(ModelError, match=f"{name}.pth"):
            read_features(tmp_path / f"{name}.pth")
    assert not (tmp_path / "exploded").exists()


def test_a_pytorch_that_could_run_code_opens_none_and_says_what_is_needed(file, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(ModelError, match="use PyTorch 2.6 or later"):
        read_features(file)
