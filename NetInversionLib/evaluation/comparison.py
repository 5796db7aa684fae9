"""Who is evaluated, and by which methods: the classical peers and the modes of a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from ..core import files, scans
from ..core.progress import Progress
from ..core.results import Table
from ..harmonize import matching
from ..harmonize import scan as harmonize_scan
from ..harmonize.matching import Method
from ..harmonize.scan import Scan
from ..models import Model
from ..training import people as training_people
from . import white_stripe

N4_MATCHED = "N4 + histogram matching"


def find_people(folder: str | Path, patterns: str = "*") -> list[Path]:
    """The volumes of a folder (NIfTI, NRRD, MHA files, DICOM folders) whose names fit, sorted.

    NAME_mask of NAME is none.

    ``patterns``: with commas between, such as "sub-2[5-9],sub-30"; a file's name counts without its
    suffix.

    Raises:
        ValueError: No such folder, or nothing in it fits.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name one with a volume for each person")
    paths = sorted(scans.find(folder, deep=False).scans)
    found = [
        p
        for p in paths
        if any(fnmatch(files.scan_name(p), one.strip()) for one in patterns.split(","))
    ]
    if not found:
        held = ", ".join(map(files.scan_name, paths)) or "none"
        raise ValueError(f"no volume in {folder} fits '{patterns}': it holds {held}")
    return found


def person(path: Path) -> str:
    """Whose scan a file is: the same for all sessions of a BIDS subject, see ``person_of``."""
    return training_people.person_of(files.scan_name(path))


def read(path: Path) -> Scan:
    """A prepared scan, within its NAME_mask if that lies beside it. Raises as ``mr.read``."""
    return harmonize_scan.read(path, harmonize_scan.mask_beside(path))


def methods_of(
    target: np.ndarray,
    model: Model | None = None,
    modes: Sequence[str] = ("anatomy-safe",),
    wanted: str = "*",
) -> dict[str, Method]:
    """The classical peers, and with a model its modes.

    Args:
        target: Quantiles of shape (513,).
        model: Of the target domain; None runs the peers alone.
        modes: Of the model.
        wanted: Patterns of names with commas between; "source" always stays, since everything is
            compared to it.
    """
    methods = matching.peers(target)
    without_field = methods["N4"]
    methods[N4_MATCHED] = lambda scan: matching.match_histogram(
        scan.with_image(without_field(scan)), target
    )
    if white_stripe.installed():
        methods[white_stripe.NAME] = white_stripe.white_stripe(target)
    if model is not None:
        from .. import harmonize
        from ..harmonize.settings import FORMER_MODES

        named = (FORMER_MODES.get(mode, mode) for mode in modes)
        methods |= {mode: harmonize.method(model, mode) for mode in named}
    return {
        name: method
        for name, method in methods.items()
        if name == "source" or _wanted(name, wanted)
    }


def _wanted(name: str, patterns: str) -> bool:
    return any(fnmatch(name, one.strip()) for one in patterns.split(","))


def with_absent(table: Table, wanted: str) -> Table:
    """A table of methods, with a row that says so where one was wanted and cannot run here.

    Args:
        table: Its first column names the methods, all others hold numbers.
        wanted: Patterns of methods' names with commas between.
    """
    if white_stripe.installed() or not _wanted(white_stripe.NAME, wanted):
        return table
    first, *others = table.columns
    columns = {key: [*table.columns[key], float("nan")] for key in others}
    return Table(table.title, {first: [*table.columns[first], white_stripe.ABSENT], **columns})


@dataclass(frozen=True)
class Comparison:
    """Which methods are compared, and what they go by.

    Attributes:
        model: Of the target scanner; None compares the classical methods alone.
        modes: Of the model, each a method.
        wanted: Patterns of methods' names with commas between.
        targets: Folder with people of the target scanner, by whose quantiles the classical methods
            go without a model; None lets them go by a straight line.
        target_people: Patterns of these people's names, see ``find_people``.
    """

    model: Model | None = None
    modes: Sequence[str] = ("anatomy-safe",)
    wanted: str = "*"
    targets: str | Path | None = None
    target_people: str = "*"

    def methods(self, evaluated: Sequence[Path], progress: Progress) -> dict[str, Method]:
        """The methods by name; nobody who is evaluated is a target.

        Raises:
            ValueError: Nobody is left to learn the target from.
        """
        return methods_of(self._target(evaluated, progress), self.model, self.modes, self.wanted)

    def _target(self, evaluated: Sequence[Path], progress: Progress) -> np.ndarray:
        """The target's quantiles (513,): the model's, else of the people who are not evaluated."""
        if self.model is not None:
            from .. import harmonize

            return harmonize.harmonizer(self.model).needed("quantiles").double().cpu().numpy()
        if self.targets is None:
            progress.log(
                "no target: the methods go by a straight line of quantiles; name a folder of target"
                " people or a model"
            )
            return np.linspace(0, 1, len(matching.FRACTIONS))
        apart = set(map(person, evaluated))
        people = find_people(self.targets, self.target_people)
        others = [path for path in people if person(path) not in apart]
        if not others:
            raise ValueError(
                f"everybody in {self.targets} is evaluated, so nobody is left to learn the target"
                " from: evaluate fewer people (--people), or name a model"
            )
        progress.log(f"target: {len(set(map(person, others)))} people of {self.targets}")
        return matching.mean_quantiles(map(read, others))


# Over people, and timed ---------------------------------------------------------------------------


def over_people(
    table: Table, measure: str, average: Callable[[list[float]], float] = np.mean, **where: str
) -> float:
    """The average over people of the mean over each one's scans.

    It is taken in the rows whose columns hold what ``where`` says.
    """
    columns = table.columns
    values: dict[str, list[float]] = {}
    for n, value in enumerate(columns[measure]):
        if all(columns[key][n] == wanted for key, wanted in where.items()):
            values.setdefault(columns["person"][n], []).append(value)
    return float(average([float(np.mean(own)) for own in values.values()]))


def timed(method: Method, scan: Scan) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    return method(scan), time.perf_counter() - start
