"""`netinversion train`: networks made on one's own images."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from .. import models
from ..core.progress import Progress
from .options import command, json_fields, machine, machine_arguments, process
from .output import Lines


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", help="CT volumes, and people.csv (file,person) if a person has several"
    )
    parser.add_argument(
        "--leave-out",
        default=[],
        action="append",
        metavar="PERSON",
        help="not trained on; repeatable",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="model file to write")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help=(
            "training state, gone on from if it is there "
            "(default: the output's name with .checkpoint)"
        ),
    )
    parser.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0)
    machine_arguments(parser)


@command("train", "synthetic-ct", _train_arguments)
def train_synthetic_ct(options: argparse.Namespace) -> int:
    """Train the reference network, Dixon MR to synthetic CT, on Dixon images simulated from CT."""
    device = machine(options)
    from ..training import synthetic_ct

    scans = synthetic_ct.read_scans(options.folder)
    unknown = set(options.leave_out) - {s.person for s in scans}
    if unknown:
        raise ValueError(
            f"no scan of {', '.join(sorted(unknown))} in {options.folder}; "
            f"people there: {', '.join(sorted({s.person for s in scans}))}"
        )
    settings = replace(synthetic_ct.TrainSettings(), seed=options.seed)
    if options.steps:
        settings = replace(settings, steps=options.steps)
    scans = [s for s in scans if s.person not in options.leave_out]
    checkpoint = options.checkpoint or Path(options.output).with_suffix(".checkpoint")
    print(synthetic_ct.train(scans, options.output, settings, checkpoint, Lines(), device))
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
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="model file to write; the learning curve goes beside it",
    )
    parser.add_argument(
        "--hold-out",
        action="append",
        metavar="PERSON",
        help="not trained on, measured instead; repeatable (default: the last fifth by name)",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help=(
            "training state, gone on from if it is there "
            "(default: the output's name with .checkpoint)"
        ),
    )
    parser.add_argument("--name", help="of the model, as users will see it")
    parser.add_argument("--sources", help="where the scans come from, and their licence")
    parser.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--batch", type=int, help="slices in each step, over all processes")
    parser.add_argument("--spacing", type=float, metavar="MM", help="voxel size of the flow's grid")
    parser.add_argument(
        "--negative",
        type=float,
        metavar="SHARE",
        help=(
            "share of slices spoilt by random curves and fields, "
            "whose likelihood is pushed down (default 0)"
        ),
    )
    parser.add_argument(
        "--settings",
        type=json_fields,
        default={},
        metavar="JSON",
        help=(
            'other fields of NetInversionLib.training.flow.FlowSettings, such as \'{"hidden": 48,'
            ' "features": [16, 32, 64]}\''
        ),
    )
    parser.add_argument("--seed", type=int, default=0)
    machine_arguments(parser)


@command("train", "flow", _train_flow_arguments)
def train_flow(options: argparse.Namespace) -> int:
    """Learn what one scanner's MR images look like, for harmonization.

    On several GPUs: torchrun --nproc-per-node 4 -m NetInversionLib.cli train flow ...
    """
    from ..training import flow

    device, first = process(options)
    given = {
        "steps": options.steps,
        "batch": options.batch,
        "spacing_mm": options.spacing,
        "negative": options.negative,
    }
    given = {
        **options.settings,
        **{k: v for k, v in given.items() if v is not None},
        "seed": options.seed,
    }
    try:
        settings = replace(flow.FlowSettings(), **given)
    except TypeError as error:
        raise ValueError(f"no such setting: {error}") from error
    progress = Lines() if first else Progress()
    cases = flow.read_cases(options.folder, settings.spacing_mm, progress)
    checkpoint = options.checkpoint or Path(options.output).with_suffix(".checkpoint")
    card = {k: v for k, v in {"name": options.name, "sources": options.sources}.items() if v}
    path = flow.train(
        cases, options.output, settings, options.hold_out, checkpoint, progress, device, card
    )
    if first:
        print(path)
    return 0


def _train_corrector_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", help="MR scans of ONE scanner, one for each person, as for 'train flow'"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="model file to write")
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
    parser.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        help=(
            "scans read and aligned, gone on from if they are there "
            "(default: the output's name with .aligned)"
        ),
    )
    parser.add_argument("--views", type=int, help="brains looked at, warped ones among them")
    parser.add_argument("--seed", type=int, default=0)


@command("train", "corrector", _train_corrector_arguments)
def train_corrector(options: argparse.Namespace) -> int:
    """Learn where in the head one scanner shows which intensities, for anatomy-safe harmonization.

    Minutes on one core.
    """
    from ..training import corrector

    settings = replace(corrector.TrainSettings(), seed=options.seed)
    if options.views:
        settings = replace(settings, views=options.views)
    scans = corrector.find_scans(options.folder, options.leave_out)
    checkpoint = options.checkpoint or Path(options.output).with_suffix(".aligned")
    learnt = corrector.train(list(scans), settings, checkpoint, Lines(), scans)
    print(corrector.save(learnt, list(scans), options.output, settings, options.model))
    return 0


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
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="model file to write; may be the same"
    )


@command("train", "gate", _train_gate_arguments)
def train_gate(options: argparse.Namespace) -> int:
    """Learn which scans and results are typical of a scanner.

    What is learnt is added to the scanner's harmonization model.
    """
    import torch

    from ..harmonize import scan as harmonize_scan
    from ..training import corrector, flow_file, gate

    scans = corrector.find_scans(options.folder, options.leave_out)
    found = gate.fit((harmonize_scan.read(*scan) for scan in scans.items()), Lines())
    print(
        flow_file.combine(
            options.model,
            options.output,
            statistics={n: torch.from_numpy(v) for n, v in found.items()},
        )
    )
    return 0


# Denoisers and their invariances ------------------------------------------------------------------


def _train_denoiser_arguments(parser: argparse.ArgumentParser) -> None:
    _low_dose_arguments(parser)
    parser.add_argument("--architecture", default="cnn10", choices=["cnn10", "wganvgg", "redcnn"])
    parser.add_argument(
        "--arguments",
        type=json_fields,
        default={},
        metavar="JSON",
        help="of the architecture, such as '{\"out_ch\": 32}'",
    )
    parser.add_argument(
        "--loss", default="mse", choices=["mse", "wgan"], help="wgan: adversarial and perceptual"
    )
    parser.add_argument(
        "--features",
        metavar="FILE",
        help="for wgan: the denoiser whose features the perceptual term compares",
    )


def _low_dose_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", help="CT volumes in HU, and people.csv (file,person) if a person has several"
    )
    parser.add_argument("--leave-out", metavar="PERSON", help="not trained on, measured instead")
    parser.add_argument("--output", required=True, metavar="FILE", help="model file to write")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help=(
            "training state, gone on from if it is there "
            "(default: the output's name with .checkpoint)"
        ),
    )
    parser.add_argument("--every", type=int, default=1, help="take every n-th slice")
    parser.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0)
    machine_arguments(parser)


@command("train", "denoiser", _train_denoiser_arguments)
def train_denoiser(options: argparse.Namespace) -> int:
    """Train a CT denoiser on low dose simulated from normal CT.

    On several GPUs: torchrun --nproc-per-node 4 -m NetInversionLib.cli train denoiser ...
    """
    from ..training import denoiser

    chosen = {
        "architecture": options.architecture,
        "arguments": tuple(options.arguments.items()),
        "loss": options.loss,
    }
    return _train_on_low_dose(
        options, denoiser.train, denoiser.DenoiserSettings, chosen, {"features": options.features}
    )


@command("train", "vae", _low_dose_arguments)
def train_vae(options: argparse.Namespace) -> int:
    """Train an autoencoder of low-dose CT, for Invariances; torchrun as for denoisers."""
    from ..training import sampler

    return _train_on_low_dose(options, sampler.train_vae, sampler.VAESettings)


def _train_cinn_arguments(parser: argparse.ArgumentParser) -> None:
    _low_dose_arguments(parser)
    parser.add_argument("--vae", required=True, metavar="FILE", help="autoencoder from 'train vae'")
    parser.add_argument(
        "--denoiser", required=True, metavar="FILE", help="network whose layers condition the flows"
    )
    parser.add_argument(
        "--layers", nargs="+", default=["output"], help="names or numbers; default output"
    )


@command("train", "cinn", _train_cinn_arguments)
def train_cinn(options: argparse.Namespace) -> int:
    """Train a conditional flow for each of a denoiser's layers.

    Writes one model file of them and the autoencoder.
    """
    from ..training import sampler

    return _train_on_low_dose(
        options,
        sampler.train_cinn,
        sampler.CINNSettings,
        {"layers": tuple(options.layers)},
        {"vae": options.vae, "denoiser": options.denoiser},
    )


def _train_on_low_dose(
    options, train, kind, chosen: dict | None = None, networks: dict | None = None
) -> int:
    """Read the CTs and train with settings of a kind.

    ``networks`` are files to load, by the names of train's arguments.
    """
    from ..training import denoiser

    device, first = process(options)
    settings = kind(
        seed=options.seed, **({"steps": options.steps} if options.steps else {}), **(chosen or {})
    )
    progress = Lines() if first else Progress()
    loaded = {
        name: models.load(path, device) if path else None for name, path in (networks or {}).items()
    }
    data = (
        settings
        if kind is denoiser.DenoiserSettings
        else denoiser.DenoiserSettings(seed=options.seed)
    )
    pairs = denoiser.read_pairs(options.folder, data, options.every, progress)
    path = train(
        pairs,
        options.output,
        settings=settings,
        leave_out=options.leave_out,
        progress=progress,
        device=device,
        checkpoint=options.checkpoint or Path(options.output).with_suffix(".checkpoint"),
        **loaded,
    )
    if first:
        print(path)
    return 0
