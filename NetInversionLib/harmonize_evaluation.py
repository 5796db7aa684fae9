"""Measure harmonization: on simulated scanners, where the truth is known; between two real ones;
between two visits.

A method takes a scaled source scan and gives the scaled result on the same grid. All evaluations
take named methods, so that ours and the classical peers (``intensity_matching.peers``) stand in the
same table; scans are read one at a time. People may have several scans (``person``): these stay
together wherever some people are judged by others, and a mean over people counts each person once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from . import intensity_matching, mr, mrflow, similarity, simulated_domains, volumes
from .intensity_matching import Method
from .mr import Scan
from .results import Progress, Table
from .simulated_domains import UNCHANGED, Domain
from .volumes import Volume

MEASURES = {"PSNR (dB)": similarity.psnr, "SSIM": similarity.ssim, "MAE": similarity.mae}
HISTOGRAM_BINS = 130  # 0 to 1.3

# Region numbers of MUSE/DLMUSE labels; every other one that is not 0 is grey matter.
MUSE_CSF = (1, 4, 11, 46, 49, 50, 51, 52)
MUSE_WHITE = (35, 40, 41, *range(81, 96))


def run(options, model, output: Path | None, progress: Progress) -> Iterator[tuple[Table, str]]:
    """What ``netinversion evaluate harmonize`` asks for: tables, each with a file name; figures go
    to ``output``.

    Args:
        options: With the attributes of the command's arguments (``netinversion evaluate harmonize
            --help``).
        model: ``models.Model`` of the target scanner, or None.

    Raises:
        ValueError: People, a list of domains, or a volume cannot be used.
    """
    if output:
        output.mkdir(parents=True, exist_ok=True)
    modes = options.mode or ["anatomy-safe"]
    if options.visits:
        first, second, *given = (
            volumes.load(p) for p in (*options.visits, *(options.template or ()))
        )
        mask = volumes.load(options.mask) if options.mask else None
        methods = methods_of(
            _target(options, None, [], model, progress), model, modes, options.methods
        )
        yield repeatability(first, second, methods, mask, given or None), "visits"
        return
    source, target = options.prospective or (options.folder, options.folder)
    people = find_people(source, options.people)
    if options.prospective:
        targets = find_people(target, options.target_people)
        methods = methods_of(
            _target(options, target, [], model, progress), model, modes, options.methods
        )
        table, means, histograms = prospective(
            people, targets, methods, options.labels and Path(options.labels), progress
        )
        if output:
            draw_histograms(histograms, output / "histograms.png")
        yield means, "prospective"
        yield table, "prospective_people"
        return
    domains = simulated_domains.parse(options.simulate) if options.simulate else None
    methods = methods_of(
        _target(options, target, people, model, progress), model, modes, options.methods
    )
    table = simulate(people, methods, domains, progress)
    for measure in MEASURES:
        name = measure.split()[0]
        if output:
            draw_families(table, output / f"{name}.png", measure)
        yield family_means(table, measure), f"simulated_{name}"
    if output:
        yield table, "simulated_people"


# People and methods -------------------------------------------------------------------------------


def find_people(folder: str | Path, patterns: str = "*") -> list[Path]:
    """The volumes of a folder (NIfTI, NRRD, MHA files, DICOM folders) whose names fit, sorted;
    NAME_mask of NAME is none.

    ``patterns``: with commas between, such as "sub-2[5-9],sub-30"; a file's name counts without its
    suffix.

    Raises:
        ValueError: No such folder, or nothing in it fits.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name one with a volume for each person")
    paths = [
        p
        for p in sorted(folder.iterdir())
        if p.is_dir() or p.name.endswith(volumes.SUFFIXES) and not mr.is_mask(p)
    ]
    found = [
        p
        for p in paths
        if any(fnmatch(volumes.scan_name(p), one.strip()) for one in patterns.split(","))
    ]
    if not found:
        held = ", ".join(map(volumes.scan_name, paths)) or "none"
        raise ValueError(f"no volume in {folder} fits '{patterns}': it holds {held}")
    return found


def person(path: Path) -> str:
    """Whose scan a file is: the same for all sessions of a BIDS subject, see ``mrflow.person_of``.
    """
    return mrflow.person_of(volumes.scan_name(path))


def read(path: Path) -> Scan:
    """A prepared scan, within its NAME_mask if that lies beside it. Raises as ``mr.read``."""
    return mr.read(path, mr.mask_beside(path))


def methods_of(
    target: np.ndarray, model=None, modes: Sequence[str] = ("anatomy-safe",), wanted: str = "*"
) -> dict[str, Method]:
    """The classical peers, and with a model its modes.

    Args:
        target: Quantiles, (513,).
        model: ``models.Model`` of the target domain; None runs the peers alone.
        wanted: Patterns of names with commas between; "source" always stays, since everything is
            compared to it.
    """
    methods = intensity_matching.peers(target)
    if model is not None:
        from . import harmonize

        methods |= {mode: harmonize.method(model, mode) for mode in modes}
    return {
        name: method
        for name, method in methods.items()
        if name == "source" or any(fnmatch(name, one.strip()) for one in wanted.split(","))
    }


def _target(
    options, folder: str | None, evaluated: list[Path], model, progress: Progress
) -> np.ndarray:
    """The target's quantiles: those in the model, else of the people who are not evaluated."""
    if model is not None:
        from . import harmonize

        return harmonize.harmonizer(model).statistic("quantiles").double().cpu().numpy()
    if folder is None:
        if options.folder is None:
            progress.log(
                "no target: the methods go by a straight line of quantiles; name a folder of target people or a model"
            )
            return np.linspace(0, 1, len(intensity_matching.FRACTIONS))
        folder = options.folder
    apart = set(map(person, evaluated))
    others = [
        path for path in find_people(folder, options.target_people) if person(path) not in apart
    ]
    if not others:
        raise ValueError(
            f"everybody in {folder} is evaluated, so nobody is left to learn the target from: evaluate fewer people "
            "(--people), or name a model"
        )
    progress.log(f"target: {len(set(map(person, others)))} people of {folder}")
    return intensity_matching.mean_quantiles(map(read, others))


# Simulated scanners -------------------------------------------------------------------------------


def simulate(
    people: Sequence[Path],
    methods: Mapping[str, Method],
    domains: Sequence[Domain] | None = None,
    progress: Progress | None = None,
) -> Table:
    """Show people as simulated scanners would, harmonize, and compare with the truth inside the
    mask.

    Args:
        people: Files of the target domain that no method has learnt from.
        domains: Default: the seven families, and the unchanged scan.

    Returns:
        A row for every scan, domain and method: PSNR in dB (peak 1.0), SSIM (range 1.0, 3-D, 7
        voxels), MAE (scaled units), and seconds.
    """
    domains = [*simulated_domains.parse(), UNCHANGED] if domains is None else list(domains)
    progress = progress or Progress()
    rows = []
    for n, path in enumerate(people):
        truth = read(path)
        for m, domain in enumerate(domains):
            progress.report(
                (n + m / len(domains)) / len(people), f"{volumes.scan_name(path)}: {domain.name}"
            )
            seen = domain(truth)
            for name, method in methods.items():
                image, seconds = _timed(method, seen)
                measured = [
                    measure(image, truth.image, truth.mask) for measure in MEASURES.values()
                ]
                rows.append(
                    (person(path), volumes.scan_name(path), domain.name, name, *measured, seconds)
                )
    return _table(
        "Simulated scanners", ["person", "scan", "domain", "method", *MEASURES, "time (s)"], rows
    )


def family_means(table: Table, measure: str = "PSNR (dB)") -> Table:
    """A simulated evaluation's means over people: a row per domain, a column per method, and rows
    of means over domains.

    The mean of all domains, and the mean of those with a field, leave the unchanged scan out.
    """
    columns = table.columns
    domains, methods = (list(dict.fromkeys(columns[key])) for key in ("domain", "method"))
    means = {}
    for method in methods:
        cell = {d: _over_people(table, measure, domain=d, method=method) for d in domains}
        changed = [d for d in domains if d != UNCHANGED.name]
        spatial = [d for d in changed if simulated_domains.parse(d)[0].spatial]
        cell |= {
            name: float(np.mean([cell[d] for d in some]))
            for name, some in (("mean", changed), ("mean of those with a field", spatial))
            if some
        }
        means[method] = cell
    rows = [
        (row, *(means[method][row] for method in methods)) for row in next(iter(means.values()), {})
    ]
    return _table(
        f"{measure}, mean over {len(set(columns['person']))} people", ["domain", *methods], rows
    )


def _over_people(
    table: Table, measure: str, average: Callable[[list[float]], float] = np.mean, **where: str
) -> float:
    """The average over people of the mean over each one's scans, in the rows whose columns hold
    what ``where`` says.
    """
    columns, values = table.columns, {}
    for n, value in enumerate(columns[measure]):
        if all(columns[key][n] == wanted for key, wanted in where.items()):
            values.setdefault(columns["person"][n], []).append(value)
    return float(average([np.mean(own) for own in values.values()]))


# Two real scanners --------------------------------------------------------------------------------


def prospective(
    sources: Sequence[Path],
    targets: Sequence[Path],
    methods: Mapping[str, Method],
    labels: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Table, Table, dict[str, np.ndarray]]:
    """Harmonize one scanner's people to another's, and ask how alike the two groups are, before and
    after.

    Args:
        labels: Folder with region labels (MUSE numbers, or 1, 2, 3 for CSF, grey, white) in files
            named as the sources.

    Returns:
        A table with a row per scan and method, targets' own scans included as method "target"
        (their Wasserstein distance is to the mean of the other people's); a table with a row per
        method, the first being the target; and mean histograms (130 shares, 0 to 1.3) by method.
    """
    progress = progress or Progress()
    rows, seen = [], {"target": []}
    for n, path in enumerate(targets):
        progress.report(0.3 * n / len(targets), f"target: {volumes.scan_name(path)}")
        seen["target"].append(_look(read(path)))
    own = np.array([look["quantiles"] for look in seen["target"]])
    for path, look, distance in zip(targets, seen["target"], _distances_to_others(own, targets)):
        rows.append(
            (
                person(path),
                volumes.scan_name(path),
                "target",
                distance,
                *look["contrasts"],
                *[np.nan] * 7,
                0.0,
            )
        )
    for n, path in enumerate(sources):
        progress.report(0.3 + 0.7 * n / len(sources), f"source: {volumes.scan_name(path)}")
        scan = read(path)
        classes = _label_classes(scan, volumes.load(labels / path.name)) if labels else None
        for name, method in methods.items():
            image, seconds = _timed(method, scan)
            look = _look(scan.with_image(image))
            seen.setdefault(name, []).append(look)
            distance = similarity.wasserstein(look["quantiles"], own.mean(axis=0))
            rows.append(
                (
                    person(path),
                    volumes.scan_name(path),
                    name,
                    distance,
                    *look["contrasts"],
                    *_in_labels(scan.with_image(image), classes),
                    similarity.edge_agreement(image, scan.image, scan.mask),
                    similarity.slice_score(image, scan.image, scan.mask),
                    seconds,
                )
            )
    headings = [
        "person",
        "scan",
        "method",
        "Wasserstein",
        "white/grey contrast",
        "grey/CSF contrast",
        "white/grey in labels",
        "grey/CSF in labels",
        "CSF overlap",
        "grey overlap",
        "white overlap",
        "edge agreement",
        "slice score",
        "time (s)",
    ]
    table = _table("Two scanners, by person", headings, rows)
    histograms = {
        name: np.mean([look["histogram"] for look in looks], axis=0) for name, looks in seen.items()
    }
    return table, _two_scanners(table, seen, [person(p) for p in [*targets, *sources]]), histograms


def _distances_to_others(quantiles: np.ndarray, paths: Sequence[Path]) -> list[float]:
    """Of each scan, (scans, 513), the Wasserstein distance to the mean of the other people's; NaN
    where there are none.
    """
    people = np.array([person(path) for path in paths])
    return [
        similarity.wasserstein(own, quantiles[people != whose].mean(axis=0))
        if (people != whose).any()
        else np.nan
        for own, whose in zip(quantiles, people)
    ]


def _look(scan: Scan) -> dict:
    histogram = np.histogram(scan.inside, HISTOGRAM_BINS, (0, mr.BRIGHTEST))[0] / scan.mask.sum()
    return {
        "quantiles": intensity_matching.quantiles(scan),
        "contrasts": similarity.fit_tissues(scan.inside).contrasts,
        "histogram": histogram,
        **{"probe " + key: value for key, value in similarity.probe_features(scan).items()},
    }


def _two_scanners(table: Table, seen: dict, people: list[str]) -> Table:
    """A row per method: means over people, and what the site probe still tells. ``people``: of
    targets, then of sources.
    """
    picked = [key for key in table.columns if key not in ("person", "scan", "method")]
    # Somebody who was on both scanners is left out of both at once.
    sites = [0] * len(seen["target"]) + [1] * (len(people) - len(seen["target"]))
    rows = []
    for name, looks in seen.items():
        probes = [float("nan")] * 2
        if name != "target":
            kinds = ("probe histogram",), ("probe histogram", "probe texture")
            features = [
                np.array(
                    [np.concatenate([look[k] for k in kind]) for look in seen["target"] + looks]
                )
                for kind in kinds
            ]
            probes = [similarity.site_probe(f, sites, people) for f in features]
        rows.append(
            (
                name,
                _over_people(table, "Wasserstein", np.median, method=name),
                *(_over_people(table, key, method=name) for key in picked),
                *probes,
            )
        )
    return _table(
        "Two scanners",
        ["method", "median Wasserstein", *picked, "site probe (histogram)", "site probe (all)"],
        rows,
    )


def label_overlap(scan: Scan, labels: Volume) -> tuple[float, float, float]:
    """Dice overlap of the unsupervised classes with labelled CSF, grey and white matter.

    Args:
        scan: Scaled, with its mask.
        labels: [k, j, i]; see ``prospective``.
    """
    return _in_labels(scan, _label_classes(scan, labels))[2:]


def _label_classes(scan: Scan, labels: Volume) -> np.ndarray:
    """0, 1, 2 for CSF, grey, white matter on the scan's grid; -1 elsewhere."""
    labels = volumes.resample(
        volumes.reorient(volumes.check(labels), "RAS"), scan.volume, "nearest", fill=0
    ).array
    few = labels.max() <= 3
    classes = np.where(labels > 0, 1, -1)
    classes[np.isin(labels, (1,) if few else MUSE_CSF)] = 0
    classes[np.isin(labels, (3,) if few else MUSE_WHITE)] = 2
    return np.where(scan.mask, classes, -1)


def _in_labels(scan: Scan, classes: np.ndarray | None) -> tuple[float, ...]:
    """Two contrasts of the labelled tissues' means, as ``Tissues.contrasts``, and the Dice overlap
    of three fitted classes.
    """
    if classes is None:
        return (float("nan"),) * 5
    means = np.array([scan.image[classes == tissue].mean() for tissue in range(3)])
    labelled = classes >= 0
    fitted = similarity.fit_tissues(scan.inside).classify(scan.image[labelled])
    truth = classes[labelled]
    overlaps = [
        2 * np.sum((fitted == t) & (truth == t)) / max(np.sum(fitted == t) + np.sum(truth == t), 1)
        for t in range(3)
    ]
    return (*similarity.Tissues(means, np.ones(3), 1.0).contrasts, *map(float, overlaps))


# Two visits ---------------------------------------------------------------------------------------


def repeatability(
    first: Volume,
    second: Volume,
    methods: Mapping[str, Method],
    mask: Volume | None = None,
    template: tuple[Volume, Volume] | None = None,
) -> Table:
    """How much two visits of a person differ, harmonized in different ways.

    The second visit is aligned rigidly to the first; each is harmonized on its own grid, then the
    second is resampled to the first's, and they are compared inside the common mask.

    Args:
        mask: The first visit's brain, nonzero inside. Without it (and without a template) both must
            be brain-extracted.
        template: A brain template (the MNI152 template) and its brain mask; registered affinely to
            find the first's brain.

    Returns:
        A row per method: the mean absolute difference after division by each one's 99.5th
        percentile; the same after taking off the median and dividing by the interquartile range, so
        that a target of stronger contrast does not count as a larger difference; and the
        correlation.
    """
    if mask is None:
        mask = template_mask(first, *template) if template else _own_mask(first)
    between = align(first, second, mask)
    brains = [
        mr.prepare(first, mask),
        mr.prepare(second, move(mask, between.GetInverse(), second, "nearest", 0)),
    ]
    target = brains[0].volume
    covered = (
        move(
            second.with_array(np.ones(second.shape, np.float32)), between, target, "nearest", 0
        ).array
        > 0
    )
    inside = brains[0].mask & covered
    rows = []
    for name, method in methods.items():
        one, other = (scan.volume.with_array(method(scan)) for scan in brains)
        pair = [one.array, move(other, between, target, "linear", 0).array]
        scaled = [mr.rescaled(image, inside) for image in pair]
        quartiles = [np.percentile(image[inside], (25, 50, 75)) for image in pair]
        robust = [(image - q[1]) / max(q[2] - q[0], 1e-6) for image, q in zip(pair, quartiles)]
        rows.append(
            (
                name,
                similarity.mae(*scaled, inside),
                similarity.mae(*robust, inside),
                float(np.corrcoef(pair[0][inside], pair[1][inside])[0, 1]),
            )
        )
    return _table(
        "Two visits",
        ["method", "mean absolute difference", "in interquartile ranges", "correlation"],
        rows,
    )


def _own_mask(volume: Volume) -> Volume:
    return volume.with_array(mr.foreground(volume.float32()).astype(np.uint8))


def template_mask(volume: Volume, template: Volume, brain: Volume) -> Volume:
    """The brain in a whole-head volume: a template's brain mask, moved by an affine registration;
    uint8 on its grid.

    Mutual information inside the template's brain, since a template without a head says nothing
    outside; rigid, then affine, from several starts; the same bits every time.
    """
    # The MNI brain is a tenth larger than most; from its own size the registration may end on the
    # skull.
    smaller = np.diag([0.92, 0.92, 0.92, 1.0])
    template, brain = (
        replace(one, ijk_to_ras=smaller @ one.ijk_to_ras) for one in (template, brain)
    )
    fixed, moving = _float_image(template), _float_image(volume)
    # Air all around: points beyond the image do not count, so that a wrong place would be judged by
    # few, well-fitting ones.
    moving = sitk.ConstantPad(moving, *[[int(60 / length) for length in moving.GetSpacing()]] * 2)
    inside = volumes.to_image(brain) > 0
    # A head's centre of mass is below its brain's, by how much depends on how much neck was taken.
    tries = [_affine(fixed, moving, _start(fixed, moving, up), inside) for up in (-20, 0, 20, 40)]
    found = min(tries, key=lambda one: one[1])[0]
    return move(
        replace(brain, array=(brain.array > 0).astype(np.uint8)),
        found.GetInverse(),
        volume,
        "nearest",
        0,
    )


def _affine(fixed, moving, start, mask):
    rigid, _ = _register(fixed, moving, start, mask, levels=1)
    affine = sitk.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    return _register(fixed, moving, affine, mask, levels=1, step=0.3)


def align(first: Volume, second: Volume, mask: Volume | None = None) -> sitk.Transform:
    """The rigid transform from places in the first volume to the same anatomy in the second.

    Mutual information; the same bits every time.

    Args:
        first: [k, j, i], any unit.
        second: Likewise, on its own grid.
        mask: Of the first; it counts a little widened.

    Returns:
        In LPS mm, as ITK has it.
    """
    fixed, moving = _float_image(first), _float_image(second)
    wide = None if mask is None else sitk.BinaryDilate(volumes.to_image(mask) > 0, [3, 3, 1])
    return _register(fixed, moving, _start(fixed, moving), wide, levels=3)[0]


def _float_image(volume: Volume):
    return sitk.Cast(volumes.to_image(volume), sitk.sitkFloat32)


def _start(fixed, moving, up: float = 0.0):
    """Centre of mass on centre of mass, or that many mm above it in the moving image."""
    start = sitk.Euler3DTransform(
        sitk.CenteredTransformInitializer(
            fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    start.SetTranslation([*start.GetTranslation()[:2], start.GetTranslation()[2] + up])
    return start


def _register(fixed, moving, start, mask, levels: int, step: float = 2.0):
    """(transform, metric); ``levels``: 1 stops at about 8 mm, 2 at 4 mm, 3 at 2 mm, no finer than
    the fixed image's slices.

    ``step``: mm, the optimiser's first; it halves whenever the direction turns. An affine transform
    runs away at 2 mm.
    """
    registration = sitk.ImageRegistrationMethod()
    registration.SetMetricAsMattesMutualInformation(48)
    registration.SetMetricSamplingStrategy(registration.REGULAR)
    registration.SetMetricSamplingPercentagePerLevel([1, 0.3, 0.1][:levels], 1)
    if mask is not None:
        registration.SetMetricFixedMask(mask)
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetOptimizerAsRegularStepGradientDescent(step, 1e-3, 150, 0.5, 1e-8)
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetShrinkFactorsPerLevel(
        [max(1, round(mm / max(fixed.GetSpacing()))) for mm in (8, 4, 2)][:levels]
    )
    registration.SetSmoothingSigmasPerLevel([3, 1.5, 0][:levels])
    registration.SetNumberOfThreads(1)
    registration.SetInitialTransform(start, inPlace=False)
    found = registration.Execute(fixed, moving)
    while isinstance(found, sitk.CompositeTransform):
        found = found.GetNthTransform(0)
    return found.Downcast(), registration.GetMetricValue()


def move(
    volume: Volume, transform: sitk.Transform, reference: Volume, order: str, fill: float
) -> Volume:
    """A volume on a reference's grid.

    Args:
        volume: [k, j, i], any unit.
        transform: Takes the reference's places (LPS mm) to the volume's.
        reference: Its grid is taken.
        order: "nearest" or "linear".
        fill: Value outside the volume.
    """
    grid = volumes.to_image(reference.with_array(np.broadcast_to(np.uint8(0), reference.shape)))
    image = sitk.Resample(
        volumes.to_image(volume), grid, transform, volumes.INTERPOLATORS[order], fill
    )
    return replace(
        reference, array=sitk.GetArrayFromImage(image), name=volume.name, units=volume.units
    )


# Pictures and pieces ------------------------------------------------------------------------------


def draw_families(table: Table, path: Path, measure: str = "PSNR (dB)") -> None:
    """Box plots over people: an axis per domain, a box per method; written to ``path`` (PNG)."""
    from matplotlib.figure import Figure

    columns = table.columns
    domains, methods = (list(dict.fromkeys(columns[key])) for key in ("domain", "method"))
    across = min(4, len(domains))
    down = -(-len(domains) // across)
    figure = Figure(figsize=(3.4 * across, 1.2 + 2.6 * down), layout="constrained")
    for axes, domain in zip(figure.subplots(down, across, squeeze=False).flat, domains):
        boxes = [
            [
                value
                for value, *where in zip(columns[measure], columns["domain"], columns["method"])
                if where == [domain, method] and np.isfinite(value)
            ]
            for method in methods
        ]
        axes.boxplot(boxes)
        axes.set_xticks(range(1, len(methods) + 1), methods, rotation=30, ha="right", fontsize=8)
        axes.set_title(domain, fontsize=10)
        axes.set_ylabel(measure)
        axes.grid(axis="y", alpha=0.3)
    for axes in figure.axes[len(domains) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=120)


def draw_histograms(histograms: Mapping[str, np.ndarray], path: Path) -> None:
    """Mean histograms of the target, the source and every method, to ``path`` (PNG)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    x = (np.arange(HISTOGRAM_BINS) + 0.5) * mr.BRIGHTEST / HISTOGRAM_BINS
    for name, shares in histograms.items():
        strong = name in ("target", "source")
        axes.plot(
            x,
            shares,
            label=name,
            linewidth=2.2 if strong else 1.1,
            color={"target": "black", "source": "grey"}.get(name),
        )
    axes.set_xlabel("scaled intensity")
    axes.set_ylabel("share of the voxels in the mask")
    axes.legend()
    figure.savefig(path, dpi=120)


def _timed(method: Method, scan: Scan) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    return method(scan), time.perf_counter() - start


def _table(title: str, headings: list[str], rows: list[tuple]) -> Table:
    return Table(title, {heading: [row[n] for row in rows] for n, heading in enumerate(headings)})
