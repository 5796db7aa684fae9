"""Real networks of other people's code with random weights, small, by the ways they come in.

A class is named as a user would name it: "package:Class", or "real_networks:name" for what takes
more than one call. Networks of packages that are not there are skipped; Testing/real_networks.sh
makes an environment that has them all.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

Z = {"scaling": "z-score", "over": "nonzero"}
PERCENTILE = {"scaling": "percentile"}
CT = {"name": "CT", "units": "HU", "scaling": "range", "low": -500, "high": 800}


@dataclass(frozen=True)
class Entry:
    """How a network is made, and what is said of it.

    Attributes:
        spec: Its class, as ``--architecture`` takes it.
        arguments: That it is made with.
        taken: How Ideal Input scales what it takes.
        packages: That it needs.
        known: Whether Invariances recognise its weights by their names.
        untold: Arguments that weights which are recognised do not tell.
    """

    spec: str
    arguments: dict = field(default_factory=dict)
    taken: dict = field(default_factory=lambda: PERCENTILE)
    packages: tuple[str, ...] = ()
    known: bool = False
    untold: dict | None = None

    def make(self) -> nn.Module:
        """The network, as its authors' code makes it."""
        for package in self.packages:
            pytest.importorskip(package, exc_type=(ImportError, RuntimeError))
        torch.manual_seed(0)
        if ":" not in self.spec:
            from NetInversionLib import networks

            return networks.build(self.spec, **self.arguments).eval()
        place, _, name = self.spec.partition(":")
        return getattr(importlib.import_module(place), name)(**self.arguments).eval()

    def save(self, folder: Path) -> Path:
        """A file of it, as its users have one: weights, or a bundle."""
        network = self.make()
        if self is NETWORKS["MONAI bundle"]:
            return bundle(network, self.arguments, folder)
        path = folder / "own.pt"
        torch.save({"state_dict": network.state_dict(), "epoch": 3}, path)
        return path

    def description(self, task: str) -> dict:
        """What is said of it for a module's task."""
        if task == "denoising":
            hu = {"units": "HU", "scaling": "mean-std", "mean": 0.0, "std": 1000.0}
            names = {"inputs": "low dose", "outputs": "denoised"}
            return {"task": task, **{key: [{"name": n, **hu}] for key, n in names.items()}}
        return {"task": task, "inputs": [{"name": "MR", **self.taken}], "outputs": [CT]}


# What takes more than one call --------------------------------------------------------------------


def swin_unetr(**arguments) -> nn.Module:
    """MONAI's Swin UNETR; before MONAI 1.5 it wants a size of images, and takes others too."""
    from monai.networks.nets import SwinUNETR

    if "img_size" in inspect.signature(SwinUNETR).parameters:
        arguments["img_size"] = (32, 32)
    return SwinUNETR(**arguments)


class Attention(nn.Module):
    """A vision transformer's block (timm's, where it is) on 4 x 4 patches; any size."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.split = nn.Conv2d(1, width, 4, stride=4)
        if importlib.util.find_spec("timm") is not None:
            from timm.models.vision_transformer import Block

            self.block: nn.Module = Block(width, 2, mlp_ratio=2.0, qkv_bias=True)
        else:
            self.block = nn.TransformerEncoderLayer(
                width, 2, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
        self.join = nn.ConvTranspose2d(width, 1, 4, stride=4)

    def forward(self, x):
        y = self.split(x)
        tokens = self.block(y.flatten(2).transpose(1, 2))
        return x + self.join(tokens.transpose(1, 2).unflatten(2, y.shape[2:]))


def fcn() -> nn.Module:
    """torchvision's fully convolutional network on a residual backbone, for one output image.

    It takes three channels, and gives a dictionary.
    """
    from torchvision.models import resnet18
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.segmentation.fcn import FCN, FCNHead

    backbone = IntermediateLayerGetter(resnet18(weights=None), {"layer2": "out"})
    return FCN(backbone, FCNHead(128, 1))


class DRUNetOfDeepinv(nn.Module):
    """deepinv's DRUNet wants the noise's level beside the image."""

    def __init__(self):
        super().__init__()
        from deepinv.models import DRUNet

        self.model = DRUNet(1, 1, nc=[4, 4, 8, 8], nb=2, pretrained=None)

    def forward(self, x):
        return self.model(x, 0.05)


def planned(plan: dict) -> nn.Module:
    """The network of an nnU-Net plan: nnU-Net's own class where it is, else MONAI's for it."""
    stages = len(plan["features_per_stage"])
    if importlib.util.find_spec("dynamic_network_architectures") is not None:
        from dynamic_network_architectures.architectures.unet import PlainConvUNet

        return PlainConvUNet(
            1, stages, plan["features_per_stage"], nn.Conv2d, plan["kernel_sizes"],
            plan["strides"], 2, 1, 2, conv_bias=True, norm_op=nn.InstanceNorm2d,
            norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        )  # fmt: skip
    from monai.networks.nets import DynUNet

    return DynUNet(
        2, 1, 1, plan["kernel_sizes"], plan["strides"], plan["strides"][1:],
        filters=plan["features_per_stage"], norm_name="instance",
    )  # fmt: skip


def bundle(network: nn.Module, arguments: dict, folder: Path) -> Path:
    """A zipped MONAI bundle whose configuration makes the network."""
    whole = folder / "a_bundle"
    (whole / "configs").mkdir(parents=True)
    (whole / "models").mkdir()
    torch.save(network.state_dict(), whole / "models" / "model.pt")
    definition = {"network_def": {"_target_": "UNet", **arguments}}
    (whole / "configs" / "inference.json").write_text(json.dumps(definition))
    entry = {
        "type": "image", "format": "magnitude", "num_channels": 1,
        "spatial_shape": ["2**p*n", "2**p*n"], "value_range": [0, 1], "channel_def": {"0": "MR"},
    }  # fmt: skip
    given = {
        **entry,
        "format": "hounsfield",
        "channel_def": {"0": "CT"},
        "value_range": [-500, 800],
    }
    formats = {"inputs": {"image": entry}, "outputs": {"pred": given}}
    metadata = {"name": "own", "network_data_format": formats}
    (whole / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return Path(shutil.make_archive(str(folder / "own"), "zip", folder, "a_bundle"))


NETS = "monai.networks.nets:"
ONE = {"spatial_dims": 2, "in_channels": 1, "out_channels": 1}
UNET = {**ONE, "channels": [4, 8, 8], "strides": [2, 2], "norm": "batch"}
DYNAMIC = {**ONE, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2],
           "filters": [4, 8, 8], "norm_name": "batch", "res_block": True}  # fmt: skip
SWIN = {**ONE, "feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
PLAN = {"features_per_stage": [4, 8, 8], "kernel_sizes": [[3, 3], [3, 3], [3, 3]],
        "strides": [[1, 1], [2, 2], [2, 2]]}  # fmt: skip
NETWORKS = {
    "MONAI UNet": Entry(NETS + "UNet", UNET, packages=("monai",)),
    "MONAI DynUNet": Entry(NETS + "DynUNet", DYNAMIC, packages=("monai",)),
    "MONAI SwinUNETR": Entry("real_networks:swin_unetr", SWIN, packages=("monai", "einops")),
    "MONAI bundle": Entry(NETS + "UNet", UNET, packages=("monai",)),
    "torchvision FCN": Entry("real_networks:fcn", packages=("torchvision",)),
    "deepinv DnCNN": Entry(
        "deepinv.models:DnCNN",
        {"in_channels": 1, "out_channels": 1, "depth": 5, "nf": 8, "pretrained": None},
        packages=("deepinv",),
    ),
    "deepinv DRUNet": Entry("real_networks:DRUNetOfDeepinv", packages=("deepinv",)),
    "timm's attention": Entry("real_networks:Attention"),
    "published RED-CNN": Entry("redcnn", {"out_ch": 4}, known=True),
    "Zavala's LWFSN": Entry(
        "lwfsn",
        {"levels": 2, "width": 4, "residual": False},
        known=True,
        untold={"residual": False},
    ),
    "nnU-Net's plan": Entry("real_networks:planned", {"plan": PLAN}, Z, ("monai",)),
}
