"""`netinversion evaluate gate`: how often the harmonization's gate is right."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from .. import models
from ..core.results import Table
from ..core.table_files import write_table
from ..core.volumes import Volume
from .fields import number
from .options import (
    command,
    machine,
    machine_arguments,
    overwrite_argument,
    seed_argument,
)

FOLDS = 5
NAMES = ["gate.csv", "gate_cases.csv", "gate_cases.jsonl"]


def _gate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", help="brain-extracted volumes of the target scanner, one per person"
    )
    _image_arguments(parser)
    parser.add_argument(
        "--folds",
        type=number(at_least=2),
        metavar="N",
        help=f"parts of the people (default {FOLDS}); without --model",
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
    _shipped_arguments(parser)
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help=(
            "also write gate.csv and gate_cases.csv there, and gate_reasons.csv with --model; a"
            " run that was ended goes on where it was (gate_cases.jsonl)"
        ),
    )
    overwrite_argument(parser)
    seed_argument(parser)
    machine_arguments(parser)


def _image_arguments(parser: argparse.ArgumentParser) -> None:
    """What is judged beside the target's people."""
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


def _shipped_arguments(parser: argparse.ArgumentParser) -> None:
    """What is asked of a model as it ships."""
    parser.add_argument(
        "--model",
        metavar="FILE",
        help=(
            "harmonize every image with this model, and judge with all of its checks, as a user"
            " would; nothing is learned anew"
        ),
    )
    parser.add_argument(
        "--people",
        default="*",
        metavar="PATTERNS",
        help=(
            "with --model: whom of the folder it was not trained on, by name without suffix, such"
            " as 'sub-2[5-9],sub-30'; default all"
        ),
    )
    parser.add_argument(
        "--no-changes",
        action="store_true",
        help="with --model: people as they are only, no simulated scanners, flips and artefacts",
    )
    parser.add_argument(
        "--heads",
        nargs="+",
        default=[],
        metavar="PATH",
        help="with --model: whole heads of other scanners, whose brain is found",
    )
    parser.add_argument(
        "--template",
        nargs=2,
        metavar=("IMAGE", "MASK"),
        help="mean brain and its mask, by which that is done (default: the model's own)",
    )


def _asked(options: argparse.Namespace) -> str:
    """What tells this evaluation from others; the same for the same one."""
    paths = [options.folder, *options.other, "wrong", *options.wrong, "flows", *options.flows]
    seen = [os.path.abspath(path) for path in paths]
    asked: list = [seen, options.folds or FOLDS, options.seed]
    if options.model:
        more = [options.model, *(options.template or ()), "heads", *options.heads]
        asked += [[os.path.abspath(path) for path in more], options.people, options.no_changes]
        asked.append(models.load(options.model, "cpu").facts())
    return json.dumps(asked, sort_keys=True, default=str)


def _go_on(options: argparse.Namespace, asked: str) -> None:
    """The gate's folder: the same evaluation goes on in it, another one is refused."""
    from ..cohort.folders import go_on
    from ..cohort.items import text_hash

    names = [*NAMES, "gate_reasons.csv"] if options.model else NAMES
    go_on(Path(options.output), "evaluate gate", text_hash(asked), names, options.overwrite)


def _require_fitting(options: argparse.Namespace) -> None:
    """Refuse options that have no say in what was asked for."""
    if options.model and (options.flows or options.folds):
        raise ValueError(
            "--folds and --flows are for a gate that is learned anew; leave them out with --model"
        )
    needs_model = options.heads or options.template or options.people != "*" or options.no_changes
    if needs_model and not options.model:
        raise ValueError("--people, --no-changes, --heads and --template need --model")
    if options.template and not options.heads:
        raise ValueError("--template is for --heads; name some, or leave it out")


@command("evaluate", "gate", _gate_arguments)
def evaluate_gate(options: argparse.Namespace) -> int:
    """The harmonization's gate: false alarms, and wrong images let through.

    Learned anew in folds over the target's people; or, with --model, as that model ships.
    """
    _require_fitting(options)
    asked = _asked(options)
    if options.output:
        _go_on(options, asked)
    tables, said = _as_shipped(options, asked) if options.model else _in_folds(options)
    for name, table in tables.items():
        if name != "gate_cases":
            options.shell.table(table, name)
    for line in said:
        options.shell.say(line)
    options.shell.tell(totals=said)
    if options.output:
        for name, table in tables.items():
            write_table(table, Path(options.output), name)
    return 0


def _in_folds(options: argparse.Namespace) -> tuple[dict[str, Table], list[str]]:
    """The tables by their files' names, and what to say of them."""
    device = machine(options)
    from ..evaluation import gate

    folds = options.folds or FOLDS
    bits = gate.with_flows(options.flows, folds, device) if options.flows else None
    people, other, wrong = (
        gate.read_all(paths, options.shell.log)
        for paths in ([options.folder], options.other, options.wrong)
    )
    summary, cases = gate.evaluate(
        people,
        other,
        wrong,
        folds,
        options.seed,
        bits,
        options.shell,
        _record(options),
        str(options.flows),
    )
    unjudged = [] if bits else ["bits/dim was not judged: no flows were given (--flows)"]
    return {"gate": summary, "gate_cases": cases}, [*gate.totals(summary), *unjudged]


def _as_shipped(options: argparse.Namespace, asked: str) -> tuple[dict[str, Table], list[str]]:
    """As ``_in_folds``, of the model that was named."""
    device = machine(options)
    from ..evaluation import comparison, shipped
    from ..evaluation.wrong_scans import RIGHT, WRONG

    model = models.load(options.model, device)
    template = _mean_brain(options, model) if options.heads else None
    people = comparison.find_people(options.folder, options.people)
    cases = [
        *shipped.of_files(options.other, RIGHT, "other scanner"),
        *shipped.of_files(options.heads, RIGHT, "other scanner, brain by registration", template),
        *shipped.of_files(options.wrong, WRONG, "wrong files"),
        *shipped.of_people(people, not options.no_changes),
    ]
    summary, reasons, judged = shipped.evaluate(
        cases,
        model,
        options.shell,
        _record(options),
        asked,
    )
    tables = {"gate": summary, "gate_reasons": reasons, "gate_cases": judged}
    return tables, shipped.totals(summary)


def _mean_brain(options: argparse.Namespace, model: models.Model) -> dict[str, Volume]:
    """Image and mask of the brain by which others are found in their heads."""
    from ..core import files
    from ..harmonize import harmonizer, heads
    from ..harmonize.statistics import Target

    if options.template:
        return dict(zip(("source", "mask"), map(files.load, options.template)))
    mean = heads.mean_brain(Target(harmonizer(model).corrector))
    return dict(zip(("source", "mask"), mean))


def _record(options: argparse.Namespace) -> Path | None:
    return Path(options.output) / "gate_cases.jsonl" if options.output else None
