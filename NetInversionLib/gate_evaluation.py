"""How often the gate is right: false alarms on people of the target and on simulated scanners, and wrong images let through.

Everything is measured in folds: the gate learns from the other folds' people. Families, wrong placements and artefacts are made
on the 2 mm grid that the gate looks at; result means histogram matching to the learned people's quantiles.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from . import intensity_matching, mr, simulated_domains, typicality, volumes
from .mr import Scan
from .results import Progress, Table
from .typicality import Check

RIGHT, WRONG, ARTEFACT = "to be accepted", "to be caught", "artefact"
UNCHANGED = "unchanged"
# Largest share of the mask's 99.5th percentile that is still background in files that bring no mask.
BACKGROUND = 0.03


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
        record: File that keeps every case as it is judged: the same evaluation goes on from there after a kill, one of other
            images, settings or code starts anew.
        about: What ``bits`` are of, in words, for the same purpose.

    Raises:
        ValueError: Fewer people than two per fold's complement, or fewer than two folds.
    """
    progress = progress or Progress()
    names = sorted(people)
    if folds < 2 or len(names) < folds + 1:
        raise ValueError(
            f"{len(names)} people cannot be judged in {folds} folds: at least two folds, and more people than folds"
        )
    looks = {name: typicality.look(scan) for name, scan in people.items()}
    judged = Record(record, _fingerprint((people, other, wrong), folds, seed, about))
    rows = []
    for fold in range(folds):
        apart = names[fold::folds]
        learned = [name for name in names if name not in apart]
        cases = [
            Case(expected, kind, name, people[name], change)
            for number, name in enumerate(apart)
            for expected, kind, change in _changes(number)
        ]
        if fold == 0:
            cases += [Case(RIGHT, "other scanners", name, scan) for name, scan in other.items()]
            cases += [Case(WRONG, "wrong files", name, scan) for name, scan in wrong.items()]
        statistics = None
        for number, case in enumerate(cases):
            checks = judged.find(fold, case)
            if checks is None:
                if statistics is None:
                    progress.log(
                        f"fold {fold + 1} of {folds}: the gate learns from {len(learned)} people"
                    )
                    statistics = typicality.fit_looks([looks[name] for name in learned])
                    target = intensity_matching.mean_quantiles(people[name] for name in learned)
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
    return _summary(rows), _cases(rows)


@dataclass(frozen=True)
class Case:
    """One thing to judge: a scan, as it is or changed on purpose."""

    expected: str
    kind: str
    name: str
    scan: Scan
    change: Callable[[Scan, np.random.Generator], Scan] | None = None

    def images(self, target: np.ndarray, seed: int) -> tuple[Scan, Scan]:
        """The source, and the result: matched to the target's quantiles unless it comes from the target unchanged."""
        source = self.change(self.scan, np.random.default_rng(seed)) if self.change else self.scan
        return source, source if self.kind == UNCHANGED else source.with_image(
            intensity_matching.match_histogram(source, target)
        )


class Record:
    """The checks of cases judged so far, a JSON line each behind one that says of which evaluation; a torn line is dropped."""

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
        fresh = path.with_name(path.name + ".part")
        fresh.write_text("\n".join([fingerprint, *whole, ""]), encoding="utf-8")
        fresh.replace(path)

    def find(self, fold: int, case: Case) -> list[Check] | None:
        return self.found.get((fold, case.kind, case.name))

    def keep(self, fold: int, case: Case, checks: list[Check]) -> None:
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(self._line(fold, case.kind, case.name, checks) + "\n")

    @staticmethod
    def _line(fold: int, kind: str, name: str, checks: list[Check]) -> str:
        return json.dumps([fold, kind, name, [astuple(check) for check in checks]])


def _fingerprint(groups: Iterable[dict[str, Scan]], folds: int, seed: int, about: str) -> str:
    """Changes with any image, any setting, and the code that judges."""
    digest = hashlib.sha256(f"{folds} {seed} {about}".encode())
    for module in (mr, intensity_matching, simulated_domains, typicality, sys.modules[__name__]):
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


def gate(source: Scan, result: Scan, statistics: dict[str, np.ndarray], bits=None) -> list[Check]:
    """The source's checks and, unless they refuse it, the result's."""
    seen = typicality.look(source)
    checks = typicality.check_source(seen, statistics)
    if typicality.verdict(checks)[0] == "refused":
        return checks
    value, more = bits(result) if bits else (None, {})
    return checks + typicality.check_result(
        seen, seen if result is source else result, {**more, **statistics}, value
    )


def with_flows(
    paths: list[str], folds: int, device
) -> Callable[[Scan, int], tuple[float, dict[str, np.ndarray]]]:
    """The ``bits`` of ``evaluate``: a harmonization model per fold.

    Raises:
        ValueError: Another number of models than folds, or a model for something else.
    """
    from . import harmonize, models

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
    """All images among files and folders (at any depth), by name; what cannot be used is named and left out.

    Raises:
        ValueError: There are paths, but no image that can be used.
    """
    found, paths = {}, [Path(path) for path in paths]
    for path in paths:
        files = (
            [path]
            if not path.is_dir()
            else sorted(
                f
                for f in path.rglob("*")
                if f.name.lower().endswith(volumes.SUFFIXES) and not mr.is_mask(f)
            )
        )
        for file in files or [path]:
            try:
                name = str(file.relative_to(path.parent)) if path.is_dir() else file.name
                found[name] = read(file)
            except ValueError as error:
                log(f"left out: {error}")
    if paths and not found:
        raise ValueError(f"no image that can be used in {', '.join(map(str, paths))}")
    return found


def read(path: Path) -> Scan:
    """A file as the evaluation uses it: within its NAME_mask, or masked above 3 % of its brightness; shrunk.

    Raises:
        ValueError: The file cannot be used.
    """
    if given := mr.mask_beside(path):
        return typicality.shrink(mr.read(path, given))
    volume = volumes.load(path)
    image = volume.float32()
    bright = np.percentile(image[image > 0], mr.SCALE_PERCENTILE) if (image > 0).any() else 0
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
    mask = mr.foreground(image * (image > BACKGROUND * bright))
    return typicality.shrink(
        mr.prepare(volume, volume.with_array(mask.astype(np.uint8)) if mask.any() else None)
    )


def _changes(
    number: int,
) -> Iterator[tuple[str, str, Callable[[Scan, np.random.Generator], Scan] | None]]:
    """What is made of the fold's person of that number: (what is expected, kind, change)."""

    def fixed(change: Callable[[Scan], Scan]) -> Callable[[Scan, np.random.Generator], Scan]:
        return lambda scan, rng: change(scan)

    yield RIGHT, UNCHANGED, None
    yield from (
        (RIGHT, f"simulated: {domain.name}", fixed(domain)) for domain in simulated_domains.parse()
    )
    yield WRONG, "flipped left to right", fixed(lambda scan: flipped(scan, (2,)))
    if (
        number < 2
    ):  # the rest takes long: the first two people of each fold, and the first one, have to do
        yield from ((WRONG, kind, fixed(change)) for kind, change in PLACEMENTS.items())
        yield from ((WRONG, kind, change) for kind, change in CONTRASTS.items())
    if number < 1:
        yield from ((ARTEFACT, kind, change) for kind, change in ARTEFACTS.items())


# Wrong placements: the header stays ---------------------------------------------------------------------------------


def flipped(scan: Scan, axes: tuple[int, ...]) -> Scan:
    """The voxels reversed along array axes (0 k, 1 j, 2 i), the header as it was."""
    return _with(scan, np.flip(scan.image, axes), np.flip(scan.mask, axes))


def rotated(scan: Scan, axes: tuple[int, int], times: int = 1) -> Scan:
    """The voxels turned by 90 degrees in a plane of array axes, the header's axes and spacing as they were."""
    return _with(scan, np.rot90(scan.image, times, axes), np.rot90(scan.mask, times, axes))


def _with(scan: Scan, image: np.ndarray, mask: np.ndarray) -> Scan:
    image, mask = np.ascontiguousarray(image, np.float32), np.ascontiguousarray(mask)
    volume = volumes.Volume(image, scan.volume.ijk_to_ras, scan.volume.name)
    return Scan(volume, mask, scan.scale, volume)


PLACEMENTS: dict[str, Callable[[Scan], Scan]] = {
    "flipped front to back": lambda scan: flipped(scan, (1,)),
    "flipped upside down": lambda scan: flipped(scan, (0,)),
    "turned by 180 degrees, axial": lambda scan: flipped(scan, (1, 2)),
    "turned by 90 degrees, axial": lambda scan: rotated(scan, (1, 2)),
    "turned by 90 degrees, coronal": lambda scan: rotated(scan, (0, 2)),
    "turned by 90 degrees, sagittal": lambda scan: rotated(scan, (0, 1)),
}


# Wrong contents and artefacts ---------------------------------------------------------------------------------------


def _changed(change: Callable) -> Callable[[Scan, np.random.Generator], Scan]:
    """A change of the image inside its mask, scaled anew."""

    def apply(scan: Scan, rng: np.random.Generator) -> Scan:
        image = np.abs(change(scan.image * scan.mask, rng)).astype(np.float32) * scan.mask
        return _with(scan, mr.rescaled(image, scan.mask), scan.mask)

    return apply


def _noise(amount: float) -> Callable:
    return _changed(lambda image, rng: image + rng.normal(0, amount, image.shape))


def _spike(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    waves = np.fft.fftn(image)
    waves[tuple(n // d for n, d in zip(image.shape, (7, 4, 3)))] += 0.02 * image.size
    return np.fft.ifftn(waves).real


def _ghost(amount: float) -> Callable:
    return _changed(lambda image, rng: image + amount * np.roll(image, image.shape[1] // 2, 1))


def _wrap(scan: Scan, rng: np.random.Generator) -> Scan:
    """A field of view too short by a quarter: what lies beyond its front appears at the back, and is missing at its place."""
    image, mask = scan.image * scan.mask, scan.mask.copy()
    depth = image.shape[1] // 4
    for array in (image, mask):
        array[:, :depth] += array[:, -depth:]
        array[:, -depth:] = 0
    return _with(scan, mr.rescaled(image, mask), mask)


def _copied(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The front quarter a second time, over the back."""
    folded, depth = image.copy(), image.shape[1] // 4
    folded[:, :depth] += image[:, -depth:]
    return folded


def _motion(mm: float) -> Callable:
    """Sixteen blocks of phase-encoding lines, each acquired at another place; the middle one, most of the signal, at rest."""

    def change(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        lines, along = np.fft.fftfreq(image.shape[1]), np.fft.fftfreq(image.shape[2])
        block = np.minimum((np.abs(lines) * 32).astype(int), 15)
        shifts = rng.normal(0, mm / typicality.LOOK_MM, (16, 2)) * (np.arange(16) > 0)[:, None]
        phase = lines * shifts[block, 0]
        waves = np.fft.fftn(image) * np.exp(
            -2j * np.pi * (phase[:, None] + shifts[block, 1][:, None] * along)
        )
        return np.fft.ifftn(waves)

    return _changed(change)


def _cut(axis: int, share: float) -> Callable[[Scan, np.random.Generator], Scan]:
    """The far end of an axis missing, as if the field of view had been too small."""

    def apply(scan: Scan, rng: np.random.Generator) -> Scan:
        there = np.flatnonzero(scan.mask.any(axis=tuple(a for a in range(3) if a != axis)))
        keep = np.moveaxis(np.zeros(scan.mask.shape, bool), axis, 0)
        keep[: int(there[-1] - share * len(there)) + 1] = True
        mask = scan.mask & np.moveaxis(keep, 0, axis)
        return _with(scan, scan.image * mask, mask)

    return apply


def _empty_slices(scan: Scan, rng: np.random.Generator) -> Scan:
    image = scan.image.copy()
    image[image.shape[0] // 2 :][:2] = 0
    return _with(scan, image, mr.foreground(image * scan.mask))


def _only_noise(scan: Scan, rng: np.random.Generator) -> Scan:
    return _with(scan, rng.rayleigh(0.3, scan.image.shape) * scan.mask, scan.mask)


CONTRASTS: dict[str, Callable[[Scan, np.random.Generator], Scan]] = {
    "noise in the shape of a brain": _only_noise,
    "contrast inverted": _changed(lambda image, rng: 1.2 - 0.9 * image),
}
ARTEFACTS: dict[str, Callable[[Scan, np.random.Generator], Scan]] = {
    "noise, 3 % of white matter": _noise(0.03),
    "noise, 5 % of white matter": _noise(0.05),
    "noise, 10 % of white matter": _noise(0.1),
    "noise, 20 % of white matter": _noise(0.2),
    "spike in the raw data, 4 %": _changed(_spike),
    "ghost, 10 %": _ghost(0.1),
    "ghost, 20 %": _ghost(0.2),
    "ghost, 30 %": _ghost(0.3),
    "ghost, 60 %": _ghost(0.6),
    "motion, 2 mm": _motion(2),
    "motion, 4 mm": _motion(4),
    "motion, 8 mm": _motion(8),
    "wrapped, a quarter of the front": _wrap,
    "the front quarter again over the back": _changed(_copied),
    "top tenth cut off": _cut(0, 0.1),
    "top quarter cut off": _cut(0, 0.25),
    "front fifth cut off": _cut(1, 0.2),
    "two slices (4 mm) empty": _empty_slices,
    "blurred, sigma 2 mm": _changed(lambda image, rng: ndimage.gaussian_filter(image, 1.0)),
    "blurred, sigma 3 mm": _changed(lambda image, rng: ndimage.gaussian_filter(image, 1.5)),
}


# Tables -------------------------------------------------------------------------------------------------------------


def _summary(rows: list) -> Table:
    kinds = dict.fromkeys((expected, kind) for expected, kind, _, _ in rows)
    columns = {
        name: []
        for name in ("kind", "expected", "cases", "accepted", "flagged", "refused", "what fails")
    }
    for expected, kind in sorted(kinds, key=lambda k: (RIGHT, WRONG, ARTEFACT).index(k[0])):
        found = [checks for e, k, _, checks in rows if (e, k) == (expected, kind)]
        words = [typicality.verdict(checks)[0] for checks in found]
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


def _cases(rows: list) -> Table:
    verdicts = [typicality.verdict(checks) for _, _, _, checks in rows]
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
    """The sentences that matter: false alarms on people and on simulated scanners, and wrong images let through."""

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
        f"false alarms among the target's people, left out in folds: {all_people - good} of {all_people}",
        f"false alarms on simulated scanners: {simulated - fine} of {simulated}",
        f"wrong images let through: {missed} of {wrong}",
        f"artefacts, down to faint ones, let through: {unseen} of {artefacts}",
    ]
