"""`netinversion evaluate`: how good a model is, on images that it has not seen."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from .. import models
from ..core.results import Table
from .options import command, machine, machine_arguments
from .output import Lines, print_table, write_table


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="CT volumes, as for train")
    parser.add_argument(
        "model", nargs="+", help="models, each evaluated on the people it was not trained on"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="also write evaluation.csv and evaluation.json there"
    )
    parser.add_argument(
        "--record",
        default=[],
        action="append",
        metavar="FILE",
        help="write the means into this model file's card; repeatable",
    )
    parser.add_argument("--seed", type=int, default=0)
    machine_arguments(parser)


@command("evaluate", "synthetic-ct", _evaluate_arguments)
def evaluate_synthetic_ct(options: argparse.Namespace) -> int:
    """Mean absolute error on people left out, overall and in bone, in HU.

    Two trivial predictors stand beside it.
    """
    device = machine(options)
    from ..evaluation import synthetic_ct
    from ..training import synthetic_ct as training_synthetic_ct

    trained = [models.load(path, device) for path in options.model]
    table = synthetic_ct.evaluate(
        training_synthetic_ct.read_scans(options.folder), trained, options.seed, Lines()
    )
    print_table(table)
    if options.output:
        write_table(table, Path(options.output), "evaluation")
        (Path(options.output) / "evaluation.json").write_text(
            json.dumps(asdict(table), indent=1), encoding="utf-8"
        )
    for path in options.record:
        models.record_quality(path, synthetic_ct.quality(table))
    return 0


# The gate of harmonization ------------------------------------------------------------------------


def _gate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", help="brain-extracted volumes of the target scanner, one per person"
    )
    parser.add_argument("--folds", type=int, default=5, help="default 5")
    parser.add_argument(
        "--wrong",
        nargs="+",
        default=[],
        metavar="PATH",
        help="files or folders that have to be caught",
    )
    parser.add_argument(
        "--other",
        nargs="+",
        default=[],
        metavar="PATH",
        help="files or folders, of other scanners, that should pass",
    )
    parser.add_argument(
        "--flows",
        nargs="+",
        default=[],
        metavar="FILE",
        help=(
            "a model per fold, not trained on the fold's people (person n, by name, is in fold n"
            " modulo FOLDS); without them bits/dim are left out"
        ),
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help=(
            "also write gate.csv and gate_cases.csv there; a run that was ended "
            "goes on where it was (gate_cases.jsonl)"
        ),
    )
    parser.add_argument("--seed", type=int, default=0)
    machine_arguments(parser)


@command("evaluate", "gate", _gate_arguments)
def evaluate_gate(options: argparse.Namespace) -> int:
    """The harmonization's gate: false alarms, and wrong images let through.

    In folds over the target's people.
    """
    device = machine(options)
    from ..evaluation import gate

    bits = gate.with_flows(options.flows, options.folds, device) if options.flows else None
    people, other, wrong = (
        gate.read_all(paths, Lines().log)
        for paths in ([options.folder], options.other, options.wrong)
    )
    record = Path(options.output) / "gate_cases.jsonl" if options.output else None
    summary, cases = gate.evaluate(
        people,
        other,
        wrong,
        options.folds,
        options.seed,
        bits,
        Lines(),
        record,
        str(options.flows),
    )
    print_table(summary)
    for line in (
        *gate.totals(summary),
        *([] if bits else ["bits/dim was not judged: no flows were given (--flows)"]),
    ):
        print(line)
    if options.output:
        write_table(summary, Path(options.output), "gate")
        write_table(cases, Path(options.output), "gate_cases")
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
    parser.add_argument(
        "--output", metavar="FOLDER", help="also write tables (CSV) and figures (PNG) there"
    )
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
    folder = Path(options.output) if options.output else None
    model = models.load(options.model, device) if options.model else None
    for table, name in _asked_tables(options, model, folder):
        print(table.title)
        print_table(
            Table(
                table.title,
                {
                    key: [f"{v:.4g}" if isinstance(v, float) else v for v in column]
                    for key, column in table.columns.items()
                },
            )
        )
        if folder:
            write_table(table, folder, name)
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
            options.visits, compared, options.mask, options.template, Lines()
        )
    if options.prospective:
        return harmonize.compare_scanners(
            options.prospective[0], options.people, compared, options.labels, output, Lines()
        )
    return harmonize.compare_simulated(
        options.folder, options.people, options.simulate, compared, output, Lines()
    )
