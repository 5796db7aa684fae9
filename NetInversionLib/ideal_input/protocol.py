"""What a scanner's settings do to a Dixon image: signal, sharpness, noise and time.

A protocol is a multi-echo spoiled gradient echo sequence in three dimensions. Its settings are
numbers in [-1, 1] (``Protocol.of``): 0 is the reference, the ends are bounds. All formulas are
differentiable, so that the settings can be searched for.

Left out: motion, inhomogeneity of the main field, eddy currents, and what tissues differ in from
one person to the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Tissue(NamedTuple):
    """Signal of pure tissue at 3 T: ``density`` beside soft tissue's, times in ms."""

    density: float
    t1_ms: float
    t2star_ms: float


WATER = Tissue(1.0, 1412.0, 25.0)
"""T1 of muscle: Stanisz et al., Magn Reson Med 2005;54:507."""
FAT = Tissue(1.0, 382.0, 15.0)
"""T1 of fat under the skin: de Bazelaire et al., Radiology 2004;230:652."""
BONE = Tissue(0.2, 223.0, 0.5)
"""Cortical bone's water: Du & Bydder, NMR Biomed 2013;26:489; density and T2* as in ``dixon``."""
WATER_FAT_HZ = 434.0
"""Between water and the main fat peak at 3 T (3.4 ppm)."""
OVERHEAD_MS = 1.2
"""Excitation, spoiling and rewinding in each repetition, beside the echoes."""
SHORT_ECHO_MS = 1.0
"""Echoes sooner than this need centre-out readouts, which cover half as much each (Robson et al., J
Comput Assist Tomogr 2003;27:825): twice the repetitions."""


class Setting(NamedTuple):
    """One of a scanner's settings: reference, bounds, and where the bounds come from."""

    name: str
    reference: float
    low: float
    high: float
    unit: str
    source: str

    def value(self, v: Tensor) -> Tensor:
        """The setting for v in [-1, 1], in equal ratios from the reference to each bound."""
        up, down = math.log(self.high / self.reference), math.log(self.reference / self.low)
        return self.reference * torch.exp(torch.where(v > 0, v * up, v * down))


SETTINGS = (
    Setting("echo time", 2.3, 0.03, 4.6, "ms", "UTE and ZTE: Wiesinger, MRM 2016;75:107"),
    Setting("repetition time", 6.0, 3.0, 30.0, "ms", "Bernstein, Handbook of MRI Pulse Sequences"),
    Setting("flip angle", 8.0, 1.0, 40.0, "degrees", "Bernstein, Handbook of MRI Pulse Sequences"),
    Setting("echo spacing", 1.15, 0.7, 2.0, "ms", "Reeder et al., MRM 2005;54:636"),
    Setting("number of echoes", 2.0, 1.999, 6.0, "", "Reeder et al., MRM 2005;54:636"),
    Setting("averages", 1.0, 0.25, 8.0, "", "Edelstein et al., MRM 1986;3:604"),
    Setting("voxel size", 1.0, 0.5, 2.0, "x", "Edelstein et al., MRM 1986;3:604"),
)
ECHO_TIME, REPETITION, FLIP, SPACING, ECHOES, AVERAGES, VOXEL = range(len(SETTINGS))


@dataclass(frozen=True)
class Protocol:
    """A sequence; every field is a scalar tensor, in the units of ``SETTINGS``."""

    echo_time: Tensor
    repetition: Tensor
    flip: Tensor
    spacing: Tensor
    echoes: Tensor
    averages: Tensor
    voxel: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Protocol:
        """The protocol of settings (7,) in [-1, 1]."""
        return cls(*(setting.value(v) for setting, v in zip(SETTINGS, values)))

    @property
    def repetition_ms(self) -> Tensor:
        """Repetition time, long enough for all echoes."""
        needed = self.echo_time + (self.echoes - 1) * self.spacing + OVERHEAD_MS
        return torch.maximum(self.repetition, needed)

    def signal(self, tissue: Tissue) -> Tensor:
        """Mean over the echoes of a spoiled gradient echo's signal, 0 to ``density``.

        Source:
            Ernst & Anderson, Rev Sci Instrum 1966;37:93.
        """
        angle = self.flip * (math.pi / 180)
        recovered = torch.exp(-self.repetition_ms / tissue.t1_ms)
        steady = torch.sin(angle) * (1 - recovered) / (1 - torch.cos(angle) * recovered)
        between = torch.exp(-self.spacing / tissue.t2star_ms)
        # The sum of a geometric series, for a number of echoes that need not be whole.
        echoes = (1 - between**self.echoes) / (1 - between) / self.echoes
        return tissue.density * steady * torch.exp(-self.echo_time / tissue.t2star_ms) * echoes

    def averaging(self) -> Tensor:
        """Effective number of samples behind a water or fat value of one acquisition.

        Source:
            Pineda et al., Magn Reson Med 2005;54:625.
        """
        half = math.pi * WATER_FAT_HZ * self.spacing / 1000
        overlap = (torch.sin(self.echoes * half) / torch.sin(half)) ** 2
        return (self.echoes**2 - overlap).clamp(min=1e-3) / self.echoes

    def noise(self) -> Tensor:
        """Noise of water and fat in units of a voxel's signal, up to a constant of the scanner.

        Source:
            Edelstein et al., Magn Reson Med 1986;3:604: voxel volume times the root of the time in
            which samples are taken.
        """
        samples = self.averages * self.averaging() / self.voxel**2
        return 1 / (self.voxel**3 * samples.sqrt())

    def minutes(self, lines: float) -> Tensor:
        """Scan time.

        Args:
            lines: Phase encodings of the reference (rows times partitions), after acceleration.
        """
        centre_out = 1 + torch.sigmoid((SHORT_ECHO_MS - self.echo_time) / 0.02)
        shots = lines * self.averages / self.voxel**2 * centre_out
        return shots * self.repetition_ms / 60_000

    def words(self) -> str:
        """The protocol in one line."""
        numbers = [float(getattr(self, name)) for name in self.__dataclass_fields__]
        numbers[REPETITION] = float(self.repetition_ms)
        return ", ".join(map(in_words, SETTINGS, numbers))


def in_words(setting: Setting, number: float) -> str:
    """A setting as a scanner's console shows it."""
    if setting.name == "number of echoes":
        return f"{number:.0f} echoes"
    digits = 0 if setting.unit == "degrees" else 2
    return f"{setting.name} {number:.{digits}f} {setting.unit}".rstrip()
