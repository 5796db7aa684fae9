"""Networks that remove noise from low-dose CT, with the key names of the published weights
(ldct-benchmark).

All take and give one channel of any size, (N, 1, H, W), in normalised units; none ends in a ReLU,
since the units are centred on zero. The layers that the sources count include the ReLUs: 1 is the
first convolution, 2 its ReLU.

Sources: Chen, Zhang, Zhang et al., ISBI 2017, 143 (three layers); Chen, Zhang, Kalra et al., IEEE
    TMI 2017;36:2524, arXiv:1702.00288 (RED-CNN); Yang, Yan, Zhang et al., IEEE TMI 2018;37:1348,
    arXiv:1708.00961 (the generator of WGAN-VGG). Key names and the missing last ReLU: Eulig, Ommer
    & Kachelriess, Med. Phys. 2024;51:8776, arXiv:2401.04661.
"""

from __future__ import annotations

from torch import Tensor, nn

from .registry import register

MAX_CHANNELS = 512


@register("cnn10")
class CNN10(nn.Module):
    """Chen's three convolutions: 9 x 9 to 64 channels, 3 x 3 to 32, and a last one to the image.

    Args:
        last_kernel: Side of the last kernel: 5 as published with weights, 3 as in the invariances
            paper's table.

    Raises:
        ValueError: ``last_kernel`` is not 3 or 5.
    """

    dimensions = 2
    size_multiple = 1

    def __init__(self, last_kernel: int = 5):
        super().__init__()
        if last_kernel not in (3, 5):
            raise ValueError(f"last_kernel is 3 or 5, not {last_kernel!r}")
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 9, padding=4),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 32, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 1, last_kernel, padding=last_kernel // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@register("wganvgg")
class WGANVGG(nn.Module):
    """Yang's generator: eight 3 x 3 convolutions of 32 channels, ReLUs between them."""

    dimensions = 2
    size_multiple = 1

    def __init__(self):
        super().__init__()
        channels = [1, *[32] * 7, 1]
        layers = []
        for taken, given in zip(channels, channels[1:]):
            layers += [nn.Conv2d(taken, given, 3, padding=1), nn.ReLU(inplace=True)]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@register("redcnn")
class REDCNN(nn.Module):
    """Chen's residual encoder-decoder.

    Five 5 x 5 convolutions without padding, five transposed ones, three shortcuts.

    Args:
        out_ch: Channels inside (96 as published).

    Raises:
        ValueError: ``out_ch`` is not a whole number from 1 to 512. In use: an image smaller than 21
            x 21.
    """

    dimensions = 2
    size_multiple = 1
    smallest_size = 21

    def __init__(self, out_ch: int = 96):
        super().__init__()
        if type(out_ch) is not int or not 1 <= out_ch <= MAX_CHANNELS:
            raise ValueError(
                f"out_ch must be a whole number from 1 to {MAX_CHANNELS}, not {out_ch!r}"
            )
        for n in range(1, 6):
            setattr(self, f"conv{n}", nn.Conv2d(1 if n == 1 else out_ch, out_ch, 5))
            setattr(self, f"tconv{n}", nn.ConvTranspose2d(out_ch, 1 if n == 5 else out_ch, 5))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < self.smallest_size:
            raise ValueError(
                f"RED-CNN needs images of at least 21 x 21 voxels, not {tuple(x.shape[2:])}"
            )
        kept = [x]
        for n in range(1, 6):
            x = self.relu(getattr(self, f"conv{n}")(x))
            if n in (2, 4):
                kept.append(x)
        for n in range(1, 6):
            x = getattr(self, f"tconv{n}")(x)
            if n % 2:
                x = x + kept.pop()
            if n < 5:
                x = self.relu(x)
        return x
