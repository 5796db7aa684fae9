"""What harmonization says of real images as it ships: every check on, nothing learned anew.

Each image goes the whole way through one model, as it would for a user. Changed images (simulated
scanners, flips, artefacts) are made on the 2 mm grid that the gate looks at; all others come on
their own grid. A model leaves few people out, so others are drawn from these: turned, stretched to
other heads' sizes, and taken at 2 mm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import harmonize
from ..core import files, scans
from ..core.keys import Key
from ..core.progress import Progress
from ..core.results import Table, table_of_rows
from ..core.volumes import Volume
from ..harmonize import gate_figures
from ..harmonize import scan as harmonize_scan
from ..harmonize.gate import Check
from ..harmonize.heads import find_brain
from ..harmonize.reading import PASSED
from ..harmonize.scan import Scan
from ..harmonize.settings import HarmonizeSettings
from ..models import Model
from .gate import Record, cases_table, summary_table
from .lesions import cropped
from .wrong_scans import ARTEFACT, RIGHT, UNCHANGED, WRONG, changes, lying_otherwise

Images = dict[str, Volume]
DRAWN = 4  # people drawn from each one of the scanner's
DRAWN_KIND = "unchanged, but turned and stretched"
REASON_HEADINGS = ["kind", "check", "means", "cases", "of", "in words"]


@dataclass(frozen=True)
class ShippedCase:
    """One image to judge.

    Attributes:
        expected: ``RIGHT``, ``WRONG`` or ``ARTEFACT``.
        kind: What it is an example of.
        name: Of the image.
        images: Reads it: "source" and, if there is one, its "mask".
    """

    expected: str
    kind: str
    name: str
    images: Callable[[], Images]


# Which images ------------------------------------------------------------------------------------


def of_files(
    paths: Sequence[str], expected: str, kind: str, template: Images | None = None
) -> Iterator[ShippedCase]:
    """The images among files and folders (at any depth); each place is a kind of its own.

    Args:
        paths: Files or folders.
        expected: Of all of them.
        kind: Of all of them; the folder's name is added.
        template: "source" and "mask" of a brain, by which the brain of each is found; without it
            an image comes with its NAME_mask, where there is one.

    Raises:
        ValueError: A folder holds no image.
    """
    for place in map(Path, paths):
        found = sorted(scans.find(place).scans) if place.is_dir() else [place]
        if not found:
            raise ValueError(f"no image that can be used in {place}")
        folder = place if place.is_dir() else place.parent
        for path in found:
            yield ShippedCase(
                expected, f"{kind}: {folder.name}", path.name, _reader(path, template)
            )


def _reader(path: Path, template: Images | None) -> Callable[[], Images]:
    def read() -> Images:
        source, beside = files.load(path), harmonize_scan.mask_beside(path)
        if beside is not None:
            return {"source": source, "mask": files.load(beside)}
        if template is None:
            return {"source": source}
        mask = find_brain(source, template["source"], template["mask"])
        return {"source": source, "mask": mask}

    return read


def of_people(paths: Sequence[Path], changed: bool) -> Iterator[ShippedCase]:
    """People of the target scanner whom the model was not trained on.

    Args:
        paths: Their files.
        changed: Also people drawn from each, and what must pass or be caught of each, see
            ``wrong_scans.changes``.
    """
    for number, path in enumerate(paths):
        yield ShippedCase(RIGHT, UNCHANGED, path.name, _reader(path, None))
        if not changed:
            continue
        for seed in range(DRAWN):
            name = f"{path.name}, drawn {seed + 1}"
            yield ShippedCase(RIGHT, DRAWN_KIND, name, _drawn(path, seed))
        for expected, kind, change in changes(number):
            if change is not None:
                yield ShippedCase(expected, kind, path.name, _changed(path, change))


def _drawn(path: Path, seed: int) -> Callable[[], Images]:
    def read() -> Images:
        turned = lying_otherwise(cropped(_scan(path)), np.random.default_rng(seed))
        return _images(gate_figures.shrink(turned))

    return read


def _changed(path: Path, change: Callable) -> Callable[[], Images]:
    def read() -> Images:
        return _images(change(gate_figures.shrink(_scan(path)), np.random.default_rng(0)))

    return read


def _scan(path: Path) -> Scan:
    return harmonize_scan.read(path, harmonize_scan.mask_beside(path))


def _images(scan: Scan) -> Images:
    mask = scan.volume.with_array(scan.mask.astype(np.uint8))
    return {"source": scan.volume, "mask": mask}


# Judged ------------------------------------------------------------------------------------------


def evaluate(
    cases: Sequence[ShippedCase],
    model: Model,
    progress: Progress | None = None,
    record: Path | None = None,
    asked: str = "",
) -> tuple[Table, Table, Table]:
    """Harmonize every image and count the verdicts.

    Args:
        cases: What is judged.
        model: Of the target scanner, as it ships.
        progress: Receives what is done.
        record: File that keeps every case as it is judged, see ``gate.Record``.
        asked: What tells this evaluation from others: images, model and settings, in words.

    Returns:
        A row per kind; a row per kind and reason, with how many images have it; a row per image.
    """
    progress = progress or Progress()
    judged = Record(record, fingerprint(asked))
    rows = []
    for number, case in enumerate(cases):
        checks = judged.find(0, case)
        if checks is None:
            checks = judge(case, model)
            judged.keep(0, case, checks)
        rows.append((case.expected, case.kind, case.name, checks))
        progress.report((number + 1) / len(cases), f"{case.kind}, {case.name}")
    return summary_table(rows), reasons_table(rows), cases_table(rows)


def judge(case: ShippedCase, model: Model) -> list[Check]:
    """All checks of one image; what cannot be used at all is refused with the sentence said."""
    try:
        found = harmonize.harmonize(case.images(), {"model": model}, HarmonizeSettings())
    except ValueError as error:
        return [Check("can be used", np.nan, -np.inf, np.inf, False, str(error), "refused")]
    return checks_of(found.tables[Key("verdict")])


def checks_of(table: Table) -> list[Check]:
    """The checks of a table "verdict", see ``harmonize.gate.table``."""
    columns = ("check", "value", "from", "to", "passed", "in words")
    return [
        Check(
            name,
            value,
            float(low or -np.inf),
            float(high or np.inf),
            told == PASSED,
            words,
            "refused" if told.endswith("refused") else "flagged",
        )
        for name, value, low, high, told, words in zip(*(table.columns[c] for c in columns))
    ]


def reasons_table(rows: Sequence[tuple[str, str, str, list[Check]]]) -> Table:
    """How many images of a kind fail a check, the most frequent first.

    Args:
        rows: Expected, kind, name and checks of each image.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    number: dict[str, int] = {}
    for _, kind, _, checks in rows:
        number[kind] = number.get(kind, 0) + 1
        for check in checks:
            if not check.passed:
                found.setdefault((kind, check.name, check.severity), []).append(check.words)
    order = list(number)
    lines = [
        (kind, name, severity, len(words), number[kind], max(set(words), key=words.count))
        for (kind, name, severity), words in found.items()
    ]
    lines.sort(key=lambda line: (order.index(line[0]), line[2] != "refused", -line[3]))
    return table_of_rows("What fails, and how often", REASON_HEADINGS, lines)


def fingerprint(asked: str) -> str:
    """Changes with what is asked and with the code that harmonizes and judges."""
    digest = hashlib.sha256(asked.encode("utf-8", "surrogatepass"))
    here = Path(__file__)
    judges = [here, *(here.with_name(f"{name}.py") for name in ("visits", "wrong_scans"))]
    for path in [*sorted(Path(harmonize.__file__).parent.glob("*.py")), *judges]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def totals(summary: Table) -> list[str]:
    """The sentences that matter.

    Args:
        summary: A row per kind, see ``evaluate``.
    """

    def share(chosen: Callable[[str, str], bool]) -> str:
        c = summary.columns
        picked = [n for n, row in enumerate(zip(c["kind"], c["expected"])) if chosen(*row)]
        return "{} of {}".format(*(sum(c[key][n] for n in picked) for key in ("accepted", "cases")))

    return [
        f"people of the scanner, accepted: {share(lambda k, e: k == UNCHANGED)}",
        f"drawn from them, accepted: {share(lambda k, e: k == DRAWN_KIND)}",
        f"simulated scanners, accepted: {share(lambda k, e: k.startswith('simulated'))}",
        f"people of other scanners, accepted: {share(lambda k, e: k.startswith('other scanner'))}",
        f"wrong images let through: {share(lambda k, e: e == WRONG)}",
        f"artefacts, down to faint ones, let through: {share(lambda k, e: e == ARTEFACT)}",
    ]
