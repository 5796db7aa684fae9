"""`netinversion train`: networks made on one's own images."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from .. import models
from ..core.progress import Progress
from .cards import card_arguments, card_of
from .fields import add_fields, given, json_fields
from .options import (
    command,
    machine,
    machine_arguments,
    output_arguments,
    process,
    require_new,
    set_threads,
    threads_argument,
)

KEPT_SCANS = "scans read and aligned, to go on from (default: the output's name with"
LESS_STEPS = "It takes less with fewer --steps. Stopped, it goes on with the same command."
LESS_VIEWS = "It takes less with fewer --views. Stopped, it goes on with the same command."


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        nargs="+",
        help="CT volumes, and people.csv (file,person) if a person has several",
    )
    parser.add_argument(
        "--leave-out",
        default=[],
        action="append",
        metavar="PERSON",
        help="not trained on; repeatable",
    )
    output_arguments(parser, "model file to write", "FILE")
    checkpoint_argument(parser)
    machine_arguments(parser)
    card_arguments(parser)
    start_argument(parser)
    from ..training.synthetic_ct import SyntheticCTSettings

    add_fields(parser, SyntheticCTSettings)


@command("train", "synthetic-ct", _train_arguments, advice=LESS_STEPS)
def train_synthetic_ct(options: argparse.Namespace) -> int:
    """Train the reference network, Dixon MR to synthetic CT, on Dixon images simulated from CT."""
    checkpoint = checkpoint_of(options)
    device = machine(options)
    from ..training import synthetic_ct

    scans = synthetic_ct.read_scans(
        *options.folder, progress=options.shell, leave_out=options.leave_out
    )
    settings = synthetic_ct.SyntheticCTSettings(**given(options, synthetic_ct.SyntheticCTSettings))
    start = models.load(options.start_from) if options.start_from else None
    with keeping(checkpoint):
        path = synthetic_ct.train(
            scans,
            options.output,
            settings,
            checkpoint,
            options.shell,
            device,
            card_of(options),
            start,
        )
    return written(options, path)


def start_argument(parser: argparse.ArgumentParser) -> None:
    """What the training begins with."""
    parser.add_argument(
        "--start-from",
        metavar="FILE",
        help="model file, of the same layers, whose weights the training begins with",
    )


def checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Where the state of a training is kept; ``checkpoint_of`` reads it."""
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="training state to go on from (default: the output's name with .checkpoint)",
    )


def hold_out_argument(parser: argparse.ArgumentParser) -> None:
    """Who is not trained on."""
    parser.add_argument(
        "--hold-out",
        action="append",
        metavar="PERSON",
        help="not trained on, measured instead; repeatable (default: the last fifth by name)",
    )


def checkpoint_of(options: argparse.Namespace, ending: str = ".checkpoint") -> Path:
    """Where a training's state is kept; refuses an output that another training has made."""
    kept = Path(options.checkpoint or Path(options.output).with_suffix(ending))
    model = getattr(options, "model", None) or ""
    added_to = bool(model) and Path(model).resolve() == Path(options.output).resolve()
    # A folder with scans that were looked at says nothing of the output.
    require_new(options.output, options.overwrite, added_to, kept.is_file())
    return kept


@contextmanager
def keeping(checkpoint: Path) -> Iterator[None]:
    """Say of a training that is stopped how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if not checkpoint.exists() or checkpoint.is_dir() and not any(checkpoint.iterdir()):
            raise KeyboardInterrupt("before the first checkpoint: nothing is kept") from None
        raise KeyboardInterrupt(
            f"{checkpoint} keeps what was learnt; the same command goes on from there"
        ) from None


def written(options: argparse.Namespace, path: Path | str) -> int:
    """Say where the model is."""
    options.shell.say(path)
    options.shell.tell(output=str(path))
    return 0


# Harmonization flow -------------------------------------------------------------------------------


def _train_flow_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        help=(
            "MR scans of ONE scanner: NIfTI, NRRD, MHA (NAME_mask beside NAME is its mask), or a "
            "sub-folder of DICOM slices for each series"
        ),
    )
    output_arguments(parser, "model file to write; the learning curve goes beside it", "FILE")
    hold_out_argument(parser)
    checkpoint_argument(parser)
    machine_arguments(parser)
    card_arguments(parser)
    parser.add_argument("--settings", type=json_fields, default={}, help=argparse.SUPPRESS)
    from ..training.flow import FlowSettings

    add_fields(parser, FlowSettings, also={"spacing_mm": "--spacing"})


@command("train", "flow", _train_flow_arguments, advice=LESS_STEPS)
def train_flow(options: argparse.Namespace) -> int:
    """Learn what one scanner's MR images look like, for harmonization.

    On several GPUs: torchrun --nproc-per-node 4 -m NetInversionLib.cli train flow ...
    """
    from ..training import flow

    checkpoint = checkpoint_of(options)
    device, first = process(options)
    chosen = {**options.settings, **given(options, flow.FlowSettings)}
    unknown = set(chosen) - {field.name for field in fields(flow.FlowSettings)}
    if unknown:
        raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
    settings = flow.FlowSettings(**chosen)
    progress = options.shell if first else Progress()
    cases = flow.read_cases(options.folder, settings.spacing_mm, progress)
    with keeping(checkpoint):
        path = flow.train(
            cases,
            options.output,
            settings,
            options.hold_out,
            checkpoint,
            progress,
            device,
            card_of(options),
        )
    return written(options, path) if first else 0


def _train_corrector_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", help="MR scans of ONE scanner, one for each person, as for 'train flow'"
    )
    output_arguments(parser, "model file to write", "FILE")
    parser.add_argument(
        "--model",
        metavar="FILE",
        help="file with a flow of the same scanner ('train flow'), to put it into",
    )
    parser.add_argument(
        "--leave-out",
        default=[],
        action="append",
        metavar="PERSON",
        help="not trained on; repeatable",
    )
    parser.add_argument("--checkpoint", metavar="FOLDER", help=f"{KEPT_SCANS} .aligned)")
    threads_argument(parser)
    card_arguments(parser)
    from ..training.corrector import CorrectorSettings

    add_fields(parser, CorrectorSettings)


@command("train", "corrector", _train_corrector_arguments, advice=LESS_VIEWS)
def train_corrector(options: argparse.Namespace) -> int:
    """Learn where in the head one scanner shows which intensities, for anatomy-safe harmonization.

    Minutes on one core.
    """
    from ..training import corrector

    set_threads(options)
    settings = corrector.CorrectorSettings(**given(options, corrector.CorrectorSettings))
    checkpoint = checkpoint_of(options, ".aligned")
    scans = corrector.find_scans(options.folder, options.leave_out)
    with keeping(checkpoint):
        learnt = corrector.train(list(scans), settings, checkpoint, options.shell, scans)
    card = card_of(options)
    path = corrector.save(learnt, list(scans), options.output, settings, options.model, card)
    return written(options, path)


def _train_gate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", help="MR scans of ONE scanner, one for each person, as for 'train flow'"
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="FILE",
        help="model of the same scanner, made by 'train flow'",
    )
    parser.add_argument(
        "--leave-out",
        default=[],
        action="append",
        metavar="PERSON",
        help="not learnt from; repeatable",
    )
    output_arguments(parser, "model file to write; may be the same", "FILE")
    parser.add_argument("--checkpoint", metavar="FOLDER", help=f"{KEPT_SCANS} .looks)")
    threads_argument(parser)
    card_arguments(parser)


@command("train", "gate", _train_gate_arguments)
def train_gate(options: argparse.Namespace) -> int:
    """Learn which scans and results are typical of a scanner.

    What is learnt is added to the scanner's harmonization model.
    """
    import torch

    set_threads(options)
    from ..harmonize import harmonizer
    from ..training import corrector, flow_file, gate
    from ..training.kept import Kept

    checkpoint = checkpoint_of(options, ".looks")
    lacking = flow_file.what_is_missing(options.model)
    if lacking:
        options.shell.log(lacking)
    scans = corrector.find_scans(options.folder, options.leave_out)
    with keeping(checkpoint):
        kept = Kept(checkpoint)
        found = gate.fit(gate.looks_of(scans, kept), options.shell, kept)
        model = models.load(options.model)
        few = {path: scans[path] for path in gate.few_of(list(scans), model)}
        network = harmonizer(model)
        found["gate_coarse"] = gate.coarse(network, model, few, options.shell, kept)
    path = flow_file.combine(
        options.model,
        options.output,
        statistics={n: torch.from_numpy(v) for n, v in found.items()},
        chosen=card_of(options),
    )
    return written(options, path)
