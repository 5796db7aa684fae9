"""What a scanner's settings do to a Dixon image: signal, sharpness, noise, motion and time.

A protocol is a multi-echo spoiled gradient echo sequence in three dimensions at 3 T. Its settings
are numbers in [-1, 1] (``Protocol.of``): 0 is the reference, the ends are bounds. All formulas are
differentiable, so that the settings can be searched for.

Each constant says where it comes from: the range that was found in the literature, and the value
taken from it. ASSUMED is what has no source.

Left out: inhomogeneity of the main and of the transmit field, eddy currents, decay during the
readout, noise that parallel imaging adds, magnetization transfer, and what tissues differ in from
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
"""Soft tissue. T1 of muscle: 898 +- 33 ms in the living (de Bazelaire et al., Radiology
2004;230:652, where pelvic and abdominal organs have 725 to 1616) to 1412 +- 13 in vitro (Stanisz et
al., Magn Reson Med 2005;54:507), which is taken. T2*: ASSUMED; it cannot exceed T2, 29 +- 4 ms in
muscle (de Bazelaire et al.). Density: 1 by definition."""
FAT = Tissue(1.0, 382.0, 15.0)
"""Adipose tissue. T1: 382 +- 13 ms under the skin (de Bazelaire et al., as above); 312 where it
holds little water, more where it holds much (Hu & Nayak, Magn Reson Med 2010;63:494). T2*:
ASSUMED; its several peaks dephase sooner than T2, 68 +- 4 ms (de Bazelaire et al.), says. Density:
ASSUMED."""
BONE = Tissue(0.2, 246.0, 0.5)
"""Water of cortical bone. Density: 20 % (Ma et al., Front Endocrinol 2020;11:567417) to 25 % of the
volume (Li et al., NMR Biomed 2015;28:70). T1: 246 +- 32 ms in the tibia of the living (Chen et al.,
Magn Reson Med 2017;77:2136; water bound to the matrix alone 134 +- 11). T2*: 0.4 ms of bound water,
over 1 ms of water in pores (Manhard et al., Magn Reson Med 2014;71:2166)."""
WATER_FAT_HZ = 434.0
"""Between water and the main fat peak, 3.4 ppm, at 3 T (127.7 MHz)."""
OVERHEAD_MS = 1.2
"""Excitation, spoiling and rewinding in each repetition, beside the echoes. ASSUMED."""
SHORT_ECHO_MS = 1.0
"""Echoes sooner than this need centre-out readouts, which cover half as much each (Robson et al., J
Comput Assist Tomogr 2003;27:825): twice the repetitions. The limit itself is ASSUMED."""
DRIFT_MM_PER_MINUTE = 0.3
"""Growth of the standard deviation of where an organ is while it is imaged. Of the prostate, of
people who lie on their back: 0.61 mm over the first 2 minutes, 1.2 over 4; with a balloon or prone
0.14 to 0.54 mm a minute (Vargas et al., Am J Clin Oncol 2010;33:11). Bone drifts less."""
BREATH_HOLD_S = 20.0
"""Longer scans go on while the patient breathes. ASSUMED: 15 to 25 s are usual."""
BREATHING_MM = 2.0
"""Standard deviation of where an organ is in free breathing. Kidneys, along the body: a window of
4 mm at the diaphragm keeps half of the data, so 3 mm there, and kidneys move 0.6 to 0.7 as far
(Song et al., J Magn Reson Imaging 2011;33:143). The same in plane is ASSUMED: too much in the
pelvis."""


WIDTH = 2.3548
"""Full width at half maximum of a Gaussian of standard deviation 1."""


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
    Setting("echo time", 2.3, 0.03, 4.6, "ms", "UTE from 0.008: Li et al., NMR Biomed 2015;28:70"),
    Setting("repetition time", 6.0, 3.0, 30.0, "ms", "Bernstein, Handbook of MRI Pulse Sequences"),
    Setting("flip angle", 8.0, 1.0, 40.0, "degrees", "Bernstein, Handbook of MRI Pulse Sequences"),
    Setting("echo spacing", 1.15, 0.7, 2.0, "ms", "Reeder et al., MRM 2005;54:636"),
    Setting("number of echoes", 2.0, 1.999, 6.0, "", "Reeder et al., MRM 2005;54:636"),
    Setting("averages", 1.0, 0.25, 8.0, "", "below 1: Pruessmann et al., MRM 1999;42:952"),
    Setting("gating", 0.999, 0.3, 0.9999, "", "Song et al., JMRI 2011;33:143"),
    Setting("voxel size", 1.0, 0.5, 2.0, "x", "Edelstein et al., MRM 1986;3:604"),
)
"""Gating is the share of the data that is kept, those near the organ's usual place."""
ECHO_TIME, REPETITION, FLIP, SPACING, ECHOES, AVERAGES, GATING, VOXEL = range(len(SETTINGS))


@dataclass(frozen=True)
class Protocol:
    """A sequence; every field is a scalar tensor, in the units of ``SETTINGS``."""

    echo_time: Tensor
    repetition: Tensor
    flip: Tensor
    spacing: Tensor
    echoes: Tensor
    averages: Tensor
    gating: Tensor
    voxel: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Protocol:
        """The protocol of settings (8,) in [-1, 1]."""
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
        shots = lines * self.averages / self.gating / self.voxel**2 * centre_out
        return shots * self.repetition_ms / 60_000

    def motion_mm(self, lines: float) -> Tensor:
        """Standard deviation of where the patient's tissue is in the data that are kept, mm.

        It drifts as long as the scan lasts. Beyond a breath-hold the patient breathes, about a
        usual place, by a normal distribution; gating keeps its middle.

        Args:
            lines: As for ``minutes``.
        """
        minutes = self.minutes(lines)
        reach = math.sqrt(2) * torch.erfinv(self.gating)
        density = torch.exp(-(reach**2) / 2) / math.sqrt(2 * math.pi)
        variance = 1 - 2 * reach * density / self.gating
        breathes = torch.sigmoid((60 * minutes - BREATH_HOLD_S) / 0.5)
        breathing = breathes * variance.clamp(min=0) * BREATHING_MM**2
        return (breathing + (DRIFT_MM_PER_MINUTE * minutes) ** 2).sqrt()

    def sharpness(self, lines: float, spacing_mm: float) -> Tensor:
        """Full width at half maximum of a point as it is seen, in voxels of the image: the
        protocol's own voxel, and motion.

        A Gaussian in place of a Cartesian scan's sinc, 1.2 voxels wide, is ASSUMED.

        Args:
            lines: As for ``minutes``.
            spacing_mm: Edge of the image's voxels.
        """
        moved = WIDTH * self.motion_mm(lines) / spacing_mm
        return (self.voxel**2 + moved**2).sqrt()

    def words(self) -> str:
        """The protocol in one line."""
        numbers = [float(getattr(self, name)) for name in self.__dataclass_fields__]
        numbers[REPETITION] = float(self.repetition_ms)
        return ", ".join(map(in_words, SETTINGS, numbers))


def in_words(setting: Setting, number: float) -> str:
    """A setting as a scanner's console shows it."""
    if setting.name == "number of echoes":
        return f"{number:.0f} echoes"
    if setting.name == "gating":
        return f"{100 * number:.0f} % of the data kept"
    digits = 0 if setting.unit == "degrees" else 2
    return f"{setting.name} {number:.{digits}f} {setting.unit}".rstrip()
