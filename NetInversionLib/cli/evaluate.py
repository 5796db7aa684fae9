"""`netinversion evaluate`: how good a model is, on images that it has not seen."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .. import models
from ..core.results import Table
from ..core.table_files import write_table
from .fields import number
from .options import (
    command,
    machine,
    machine_arguments,
    output_arguments,
    seed_argument,
)

if TYPE_CHECKING:
    from ..cohort.folders import RunFolder


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="+", help="CT volumes, as for train")
    parser.add_argument(
        "--model",
        nargs="+",
        required=True,
        metavar="FILE",
        help="models, each evaluated on the people it was not trained on",
    )
    output_arguments(parser, "also write evaluation.csv and evaluation.json there", required=False)
    parser.add_argument(
        "--record",
        default=[],
        nargs="+",
        metavar="FILE",
        help="write the means into these model files' cards",
    )
    seed_argument(parser)
    machine_arguments(parser)


@command("evaluate", "synthetic-ct", _evaluate_arguments)
def evaluate_synthetic_ct(options: argparse.Namespace) -> int:
    """Mean absolute error on people left out, overall and in bone, in HU.

    Predictors that look at no neighbourhood stand beside it: a look-up table, linear regression
    and a constant, fitted on the people that the model was trained on.
    """
    device = machine(options)
    from ..evaluation import synthetic_ct
    from ..training import synthetic_ct as training_synthetic_ct

    with _folder(options, "evaluate synthetic-ct") as folder:
        trained = [models.load(path, device) for path in options.model]
        table = synthetic_ct.evaluate(
            training_synthetic_ct.read_scans(*options.folder), trained, options.seed, options.shell
        )
        if folder:
            write_table(table, folder.new, "evaluation")
            (folder.new / "evaluation.json").write_text(
                json.dumps(asdict(table), indent=1), encoding="utf-8"
            )
            folder.deliver()
    options.shell.table(table, "evaluation")
    for where, (won, people) in synthetic_ct.below(table).items():
        options.shell.log(f"{where}: network below the look-up for {won} of {people} people")
    for path in options.record:
        models.record_quality(path, synthetic_ct.quality(table))
    return 0


@contextmanager
def _folder(options: argparse.Namespace, command: str) -> Iterator[RunFolder | None]:
    """The folder that was named for tables, if one was; a stopped run leaves what it had there."""
    if not options.output:
        yield None
        return
    from ..cohort.folders import RunFolder

    with RunFolder(options.output, command, options.overwrite) as folder:
        try:
            yield folder
        except KeyboardInterrupt:
            if not any(folder.new.iterdir()):
                raise KeyboardInterrupt("before the first table; nothing is written") from None
            (folder.new / "partial.json").write_text('{"partial": true}', encoding="utf-8")
            folder.deliver()
            raise KeyboardInterrupt(
                f"the tables so far are in {folder.folder}, marked partial"
            ) from None


# Denoisers ----------------------------------------------------------------------------------------


def _denoiser_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", nargs="+", help="CT volumes or slices in HU, as for 'train denoiser'"
    )
    parser.add_argument(
        "--model", nargs="+", default=[], metavar="FILE", help="denoisers to evaluate"
    )
    parser.add_argument(
        "--people",
        type=number(at_least=1),
        metavar="N",
        help="at most so many of the held-out people (default all)",
    )
    parser.add_argument(
        "--tune-on",
        type=number(at_least=1),
        default=3,
        metavar="N",
        help="people that the peers' strength is chosen on",
    )
    parser.add_argument(
        "--phantom", metavar="FILE", help="a phantom's truth, which should stay as it is"
    )
    output_arguments(parser, "also write tables (CSV) there", required=False)
    parser.add_argument(
        "--cases",
        metavar="FILE",
        help="keep each figure there (JSON lines): a run that was ended goes on where it was",
    )
    parser.add_argument(
        "--record", action="store_true", help="write the figures into the models' cards"
    )
    seed_argument(parser)
    machine_arguments(parser)


@command("evaluate", "denoiser", _denoiser_arguments)
def evaluate_denoiser(options: argparse.Namespace) -> int:
    """Denoisers on held-out people, beside doing nothing and classical peers that know the noise.

    By dose, kernel and voxel size, in soft tissue and in the body.
    """
    device = machine(options)
    from ..evaluation import denoisers

    loaded = {Path(path).stem: models.load(path, device) for path in options.model}
    with _folder(options, "evaluate denoiser") as folder:
        rows, strengths = denoisers.run(
            options.folder,
            loaded,
            options.people,
            options.tune_on,
            options.seed,
            Path(options.cases) if options.cases else None,
            options.shell,
        )
        tables = {
            "denoisers": denoisers.summary(rows),
            "cells_soft": denoisers.cells(rows),
            "cells_body": denoisers.cells(rows, "RMSE body"),
            "strengths": strengths,
        }
        if options.phantom:
            tables["phantom"] = denoisers.change_of_phantom(options.phantom, loaded)
        for name, table in tables.items():
            options.shell.say(table.title)
            options.shell.table(table, name, ".4g")
            if folder:
                write_table(table, folder.new, name)
        if folder:
            folder.deliver()
    if options.record:
        for name, path in zip(loaded, options.model):
            models.record_quality(path, denoisers.quality(rows, name))
    return 0


# Harmonization, measured --------------------------------------------------------------------------


def _comparison_arguments(parser: argparse.ArgumentParser) -> None:
    """Whom the harmonized images are compared with."""
    parser.add_argument(
        "folder",
        nargs="?",
        help="people of the target scanner, for --simulate: one volume or DICOM folder each",
    )
    parser.add_argument(
        "--simulate",
        nargs="?",
        const="",
        metavar="LIST",
        help=(
            "show them as simulated scanners would and compare with the truth; the seven standard"
            " families and the unchanged scan, or a list such as 'gamma 0.7, log 3 + field 0.3 seed"
            " 5, none'"
        ),
    )
    parser.add_argument(
        "--prospective", nargs=2, metavar=("SOURCE", "TARGET"), help="folders of two real scanners"
    )
    parser.add_argument(
        "--visits",
        nargs=2,
        metavar=("FIRST", "SECOND"),
        help="two volumes of one person: how far apart?",
    )


def _evaluate_harmonize_arguments(parser: argparse.ArgumentParser) -> None:
    _comparison_arguments(parser)
    parser.add_argument(
        "--people",
        default="*",
        metavar="PATTERNS",
        help=(
            "who is evaluated of the folder (or of SOURCE), by "
            "name without suffix, such as 'sub-2[5-9],sub-30'; default all"
        ),
    )
    parser.add_argument(
        "--target-people",
        default="*",
        metavar="PATTERNS",
        help=(
            "whose quantiles the classical methods go by, "
            "without a model; default all of the folder (or of TARGET) who are not evaluated"
        ),
    )
    parser.add_argument(
        "--model",
        metavar="FILE",
        help="model of the target scanner; without one the classical methods alone",
    )
    parser.add_argument(
        "--mode", default=[], action="append", help="of the model; repeatable; default anatomy-safe"
    )
    parser.add_argument(
        "--methods",
        default="*",
        metavar="PATTERNS",
        help="such as 'histogram*,anatomy-safe'; default all",
    )
    parser.add_argument(
        "--labels",
        metavar="FOLDER",
        help="region labels of SOURCE's people, in files of the same names",
    )
    parser.add_argument("--mask", metavar="FILE", help="brain mask of the first visit")
    parser.add_argument(
        "--template",
        nargs=2,
        metavar=("IMAGE", "MASK"),
        help=(
            "brain template (MNI152) and its brain mask, to "
            "find the brain of the first visit by registration"
        ),
    )
    output_arguments(parser, "also write tables (CSV) and figures (PNG) there", required=False)
    machine_arguments(parser)


@command("evaluate", "harmonize", _evaluate_harmonize_arguments)
def evaluate_harmonize(options: argparse.Namespace) -> int:
    """Harmonization beside the classical methods.

    On simulated scanners, between two real ones, or between two visits.
    """
    device = machine(options)
    asked = [options.simulate is not None, bool(options.prospective), bool(options.visits)]
    if sum(asked) != 1:
        raise ValueError(
            "say what to evaluate: FOLDER --simulate, --prospective SOURCE TARGET or --visits FIRST"
            " SECOND"
        )
    if options.simulate is not None and not options.folder:
        raise ValueError(
            "--simulate needs the folder with the target scanner's people: write it before"
            " --simulate"
        )
    with _folder(options, "evaluate harmonize") as folder:
        model = models.load(options.model, device) if options.model else None
        for table, name in _asked_tables(options, model, folder.new if folder else None):
            options.shell.say(table.title)
            options.shell.table(table, name, ".4g")
            if folder:
                write_table(table, folder.new, name)
        if folder:
            folder.deliver()
    return 0


def _asked_tables(
    options: argparse.Namespace, model: models.Model | None, output: Path | None
) -> Iterator[tuple[Table, str]]:
    """The tables that were asked for, each with a file name."""
    from ..evaluation import harmonize

    compared = harmonize.Comparison(
        model,
        tuple(options.mode or ["anatomy-safe"]),
        options.methods,
        options.prospective[1] if options.prospective else options.folder,
        options.target_people,
    )
    if options.visits:
        return harmonize.compare_visits(
            options.visits, compared, options.mask, options.template, options.shell
        )
    if options.prospective:
        return harmonize.compare_scanners(
            options.prospective[0], options.people, compared, options.labels, output, options.shell
        )
    return harmonize.compare_simulated(
        options.folder, options.people, options.simulate, compared, output, options.shell
    )


def _lesion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", help="people of the target scanner, without lesions")
    parser.add_argument(
        "--real",
        nargs="+",
        metavar="FOLDER",
        help=(
            "instead of people without lesions: patients, NAME_T1 and NAME_T2 of a visit, whose"
            " lesions are outlined by rules on both"
        ),
    )
    parser.add_argument(
        "--template",
        nargs=2,
        metavar=("IMAGE", "MASK"),
        help="brain template (MNI152) and its brain mask, for --real of whole heads",
    )
    parser.add_argument("--model", required=True, metavar="FILE", help="model of the scanner")
    parser.add_argument(
        "--people",
        default="*",
        metavar="PATTERNS",
        help="whom the model was not trained on, by name (of the T1) without suffix; default all",
    )
    parser.add_argument(
        "--cases",
        type=number(at_least=1),
        default=60,
        metavar="N",
        help="lesions altogether, every second with shading (default 60)",
    )
    parser.add_argument(
        "--methods",
        default="*",
        metavar="PATTERNS",
        help="such as 'histogram*,anatomy-safe'; default all",
    )
    output_arguments(parser, "also write lesions.csv and lesion_cases.csv there", required=False)
    seed_argument(parser)
    machine_arguments(parser)


@command("evaluate", "lesions", _lesion_arguments)
def evaluate_lesions(options: argparse.Namespace) -> int:
    """Do lesions keep their contrast in harmonization, and is shading invented on them?

    Lesions of 1 to 150 ml are put into healthy people, with and without shading, or real ones are
    outlined (--real); doing nothing, histogram matching and N4 with histogram matching stand
    beside.
    """
    if bool(options.folder) == bool(options.real):
        raise ValueError("name a folder of people without lesions, or patients with --real")
    if options.template and not options.real:
        raise ValueError("--template needs --real")
    with _folder(options, "evaluate lesions") as folder:
        summary, cases = _real_lesions(options) if options.real else _made_lesions(options)
        options.shell.table(summary, "lesions", ".4g")
        if folder:
            write_table(summary, folder.new, "lesions")
            write_table(cases, folder.new, "lesion_cases")
            folder.deliver()
    return 0


def _made_lesions(options: argparse.Namespace) -> tuple[Table, Table]:
    """A row for each method, and one for each case."""
    device = machine(options)
    from ..evaluation import comparison, lesions

    people = comparison.find_people(options.folder, options.people)
    cases = lesions.evaluate(
        people,
        models.load(options.model, device),
        options.cases,
        options.seed,
        options.methods,
        options.shell,
    )
    return lesions.summary(cases), cases


def _real_lesions(options: argparse.Namespace) -> tuple[Table, Table]:
    """As ``_made_lesions``."""
    device = machine(options)
    from ..core import files
    from ..evaluation import real_lesions

    image, mask = map(files.load, options.template) if options.template else (None, None)
    cases = real_lesions.evaluate(
        real_lesions.find_pairs(options.real, options.people),
        models.load(options.model, device),
        (image, mask) if image and mask else None,
        options.methods,
        options.shell,
    )
    return real_lesions.summary(cases), cases
