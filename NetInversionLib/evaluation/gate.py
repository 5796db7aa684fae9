"""How often the gate is right.

Counted are false alarms on people of the target and on simulated scanners, and wrong images that
are let through.

Everything is measured in folds: the gate learns from the other folds' people. Families, wrong
placements and artefacts are made on the 2 mm grid that the gate looks at; result means histogram
matching to the learned people's quantiles.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..core import files as core_files
from ..core import scans, volumes
from ..core.progress import Progress
from ..core.results import Table
from ..core.writing import replacing
from ..harmonize import gate as harmonize_gate
from ..harmonize import gate_figures, gate_template, matching, simulated_scanners
from ..harmonize import scan as harmonize_scan
from ..harmonize.gate import Check
from ..harmonize.scan import Scan
from ..training import gate as training_gate
from . import wrong_scans
from .wrong_scans import ARTEFACT, BACKGROUND, RIGHT, UNCHANGED, WRONG, changes

if TYPE_CHECKING:
    import torch


def evaluate(
    people: dict[str, Scan],
    other: dict[str, Scan],
    wrong: dict[str, Scan],
    folds: int = 5,
    seed: int = 0,
    bits: Callable[[Scan, int], tuple[float, dict[str, np.ndarray]]] | None = None,
    progress: Progress | None = None,
    record: Path | None = None,
    about: str = "",
) -> tuple[Table, Table]:
    """Check everybody and everything; returns (a row per kind, a row per case).

    Args:
        people: Scans of the target domain by name, shrunk (see ``read``).
        other: Scans of other scanners that should pass, checked with the first fold's people.
        wrong: What has to be caught, likewise.
        bits: bits/dim of a result under the flow of a fold, and the statistics that judge it.
        record: File that keeps every case as it is judged: the same evaluation goes on from there
            after a kill, one of other images, settings or code starts anew.
        about: What ``bits`` are of, in words, for the same purpose.

    Raises:
        ValueError: Fewer people than two per fold's complement, or fewer than two folds.
    """
    progress = progress or Progress()
    names = sorted(people)
    if folds < 2 or len(names) < folds + 1:
        raise ValueError(
            f"{len(names)} people cannot be judged in {folds} folds: at least two folds, and more"
            " people than folds"
        )
    looks = {name: gate_figures.look(scan) for name, scan in people.items()}
    judged = Record(record, _fingerprint((people, other, wrong), folds, seed, about))
    rows = []
    for fold in range(folds):
        apart = names[fold::folds]
        learned = [name for name in names if name not in apart]
        cases = [
            GateCase(expected, kind, name, people[name], change)
            for number, name in enumerate(apart)
            for expected, kind, change in changes(number)
        ]
        if fold == 0:
            cases += [GateCase(RIGHT, "other scanners", name, scan) for name, scan in other.items()]
            cases += [GateCase(WRONG, "wrong files", name, scan) for name, scan in wrong.items()]
        statistics = None
        for number, case in enumerate(cases):
            checks = judged.find(fold, case)
            if checks is None:
                if statistics is None:
                    progress.log(
                        f"fold {fold + 1} of {folds}: the gate learns from {len(learned)} people"
                    )
                    statistics = training_gate.fit_looks([looks[name] for name in learned])
                    target = matching.mean_quantiles(people[name] for name in learned)
                checks = gate(
                    *case.images(target, seed),
                    statistics,
                    None if bits is None else (lambda scan: bits(scan, fold)),
                )
                judged.keep(fold, case, checks)
            rows.append((case.expected, case.kind, case.name, checks))
            progress.report(
                (fold + (number + 1) / len(cases)) / folds,
                f"fold {fold + 1}: {case.kind}, {case.name}",
            )
    return summary_table(rows), cases_table(rows)


@dataclass(frozen=True)
class GateCase:
    """One thing to judge: a scan, as it is or changed on purpose."""

    expected: str
    kind: str
    name: str
    scan: Scan
    change: Callable[[Scan, np.random.Generator], Scan] | None = None

    def images(self, target: np.ndarray, seed: int) -> tuple[Scan, Scan]:
        """The source and the result.

        The result is matched to the target's quantiles, of shape (513,), unless it comes from the
        target unchanged.
        """
        source = self.change(self.scan, np.random.default_rng(seed)) if self.change else self.scan
        return source, (
            source
            if self.kind == UNCHANGED
            else source.with_image(matching.match_histogram(source, target))
        )


class Judged(Protocol):
    """A case, told from others by its kind and name."""

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str: ...


class Record:
    """The checks of cases judged so far, a JSON line each behind one that says of which evaluation.

    A torn line is dropped.
    """

    def __init__(self, path: Path | None, fingerprint: str):
        self.path, self.found = path, {}
        if path is None:
            return
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines and lines[0] == fingerprint:
            for line in lines[1:]:
                try:
                    fold, kind, name, checks = json.loads(line)
                except ValueError:
                    continue
                self.found[fold, kind, name] = [Check(*values) for values in checks]
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = [self._line(*key, checks) for key, checks in self.found.items()]
        with replacing(path) as part:
            part.write_text("\n".join([fingerprint, *whole, ""]), encoding="utf-8")

    def find(self, fold: int, case: Judged) -> list[Check] | None:
        return self.found.get((fold, case.kind, case.name))

    def keep(self, fold: int, case: Judged, checks: list[Check]) -> None:
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(self._line(fold, case.kind, case.name, checks) + "\n")

    @staticmethod
    def _line(fold: int, kind: str, name: str, checks: list[Check]) -> str:
        return json.dumps([fold, kind, name, [astuple(check) for check in checks]])


def _fingerprint(groups: Iterable[dict[str, Scan]], folds: int, seed: int, about: str) -> str:
    """Changes with any image, any setting, and the code that judges."""
    digest = hashlib.sha256(f"{folds} {seed} {about}".encode())
    judges = (harmonize_gate, gate_figures, gate_template, training_gate, wrong_scans)
    for module in (harmonize_scan, matching, simulated_scanners, *judges, sys.modules[__name__]):
        digest.update(inspect.getsource(module).encode())
    for group in groups:
        for name, scan in sorted(group.items()):
            digest.update(f"{name} {scan.image.shape}".encode("utf-8", "surrogatepass"))
            digest.update(
                np.ascontiguousarray(scan.image).tobytes()
                + scan.mask.tobytes()
                + scan.volume.ijk_to_ras.tobytes()
            )
        digest.update(b"end")
    return digest.hexdigest()


def gate(
    source: Scan,
    result: Scan,
    statistics: dict[str, np.ndarray],
    bits: Callable[[Scan], tuple[float, dict[str, np.ndarray]]] | None = None,
) -> list[Check]:
    """The source's checks and, unless they refuse it, the result's.

    Args:
        source: The scan as it came, scaled.
        result: The same scan harmonized.
        statistics: What is stored of the target, by name; ``training.gate.fit`` says of which shape
            each is.
        bits: bits/dim of a result, and the statistics that judge it.
    """
    seen = gate_figures.look(source)
    checks = harmonize_gate.check_source(seen, statistics)
    if harmonize_gate.verdict(checks)[0] == "refused":
        return checks
    value, more = bits(result) if bits else (None, {})
    return checks + harmonize_gate.check_result(
        seen, seen if result is source else result, {**more, **statistics}, value
    )


def with_flows(
    paths: Sequence[Path | str], folds: int, device: torch.device | str
) -> Callable[[Scan, int], tuple[float, dict[str, np.ndarray]]]:
    """The ``bits`` of ``evaluate``: a harmonization model per fold.

    Args:
        paths: The models' files, in the order of the folds.
        folds: How many folds there are.
        device: Where the models run.

    Returns:
        A function of a scan and its fold: bits/dim under that fold's flow, and the flow's
        statistics by name, of any shape.

    Raises:
        ValueError: Another number of models than folds, or a model for something else.
    """
    from .. import harmonize, models

    if len(paths) != folds:
        raise ValueError(f"{len(paths)} flows for {folds} folds: give one for each, in order")
    loaded = [models.load(path, device) for path in paths]
    networks = [harmonize.harmonizer(model) for model in loaded]

    def bits(scan: Scan, fold: int) -> tuple[float, dict[str, np.ndarray]]:
        return harmonize.bits_per_dim(
            networks[fold], scan, loaded[fold]
        ), harmonize.gate_statistics(networks[fold])

    return bits


def read_all(paths: Iterable[str], log: Callable[[str], None]) -> dict[str, Scan]:
    """All images among files and folders (at any depth), by name.

    What cannot be used is named and left out.

    Raises:
        ValueError: There are paths, but no image that can be used.
    """
    found: dict[str, Scan] = {}
    places = [Path(path) for path in paths]
    for path in places:
        files = scans.find(path).scans if path.is_dir() else [path]
        for file in files or [path]:
            try:
                name = str(file.relative_to(path.parent)) if path.is_dir() else file.name
                found[name] = read(file)
            except ValueError as error:
                log(f"left out: {error}")
    if places and not found:
        raise ValueError(f"no image that can be used in {', '.join(map(str, places))}")
    return found


def read(path: Path) -> Scan:
    """A file as the evaluation uses it, shrunk.

    Within its NAME_mask, or masked above 3 % of its brightness.

    Raises:
        ValueError: The file cannot be used.
    """
    if given := harmonize_scan.mask_beside(path):
        return gate_figures.shrink(harmonize_scan.read(path, given))
    volume = core_files.load(path)
    image = volume.float32()
    bright = (
        np.percentile(image[image > 0], harmonize_scan.SCALE_PERCENTILE) if (image > 0).any() else 0
    )
    if bright > 0:  # the air around it takes most of the time
        there = np.nonzero(image > BACKGROUND * bright)
        volume = volumes.crop(
            volume,
            tuple(
                edge
                for axis, n in zip(there, image.shape)
                for edge in (max(int(axis.min()) - 2, 0), min(int(axis.max()) + 3, n))
            ),
        )
        image = volume.float32()
    mask = harmonize_scan.foreground(image * (image > BACKGROUND * bright))
    return gate_figures.shrink(
        harmonize_scan.prepare(
            volume, volume.with_array(mask.astype(np.uint8)) if mask.any() else None
        )
    )


# Tables -------------------------------------------------------------------------------------------


def summary_table(rows: list) -> Table:
    """A row per kind: how many were accepted, flagged and refused, and what fails most often.

    Args:
        rows: Expected, kind, name and checks of each case.
    """
    kinds = dict.fromkeys((expected, kind) for expected, kind, _, _ in rows)
    columns: dict[str, list] = {
        name: []
        for name in ("kind", "expected", "cases", "accepted", "flagged", "refused", "what fails")
    }
    for expected, kind in sorted(kinds, key=lambda k: (RIGHT, WRONG, ARTEFACT).index(k[0])):
        found = [checks for e, k, _, checks in rows if (e, k) == (expected, kind)]
        words = [harmonize_gate.verdict(checks)[0] for checks in found]
        failed = [check.name for checks in found for check in checks if not check.passed]
        most = sorted(dict.fromkeys(failed), key=lambda name: -failed.count(name))[:3]
        often = ", ".join(f"{name} ({failed.count(name)})" for name in most)
        row = (
            kind,
            expected,
            len(found),
            *(words.count(word) for word in ("accepted", "flagged", "refused")),
            often,
        )
        for name, value in zip(columns, row):
            columns[name].append(value)
    return Table("The gate's verdicts", columns)


def cases_table(rows: list) -> Table:
    """A row per case, see ``summary_table``."""
    verdicts = [harmonize_gate.verdict(checks) for _, _, _, checks in rows]
    return Table(
        "The gate's verdicts, case by case",
        {
            "kind": [kind for _, kind, _, _ in rows],
            "expected": [expected for expected, _, _, _ in rows],
            "name": [name for _, _, name, _ in rows],
            "verdict": [word for word, _ in verdicts],
            "failed": [
                "; ".join(
                    f"{c.name} {c.value:.3g} not in [{c.low:.3g}, {c.high:.3g}]"
                    for c in checks
                    if not c.passed
                )
                for _, _, _, checks in rows
            ],
            "reasons": [" ".join(reasons) for _, reasons in verdicts],
        },
    )


def totals(summary: Table) -> list[str]:
    """The sentences that matter.

    False alarms on people and on simulated scanners, and wrong images let through.
    """

    def share(chosen: Callable[[str, str], bool]) -> tuple[int, int]:
        picked = [
            n
            for n, (k, e) in enumerate(zip(summary.columns["kind"], summary.columns["expected"]))
            if chosen(k, e)
        ]
        return tuple(sum(summary.columns[c][n] for n in picked) for c in ("accepted", "cases"))

    good, all_people = share(lambda k, e: k == UNCHANGED)
    fine, simulated = share(lambda k, e: k.startswith("simulated"))
    missed, wrong = share(lambda k, e: e == WRONG)
    unseen, artefacts = share(lambda k, e: e == ARTEFACT)
    return [
        (
            f"false alarms among the target's people, left out in folds: {all_people - good} of"
            f" {all_people}"
        ),
        f"false alarms on simulated scanners: {simulated - fine} of {simulated}",
        f"wrong images let through: {missed} of {wrong}",
        f"artefacts, down to faint ones, let through: {unseen} of {artefacts}",
    ]
