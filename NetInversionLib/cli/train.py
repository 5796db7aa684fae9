"""`netinversion train`: networks made on one's own images."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

from .. import models
from ..core.progress import Progress
from .cards import card_arguments, card_of
from .fields import add_fields, given, json_fields, number
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
    checkpoint = _checkpoint(options)
    device = machine(options)
    from ..training import synthetic_ct

    scans = synthetic_ct.read_scans(
        *options.folder, progress=options.shell, leave_out=options.leave_out
    )
    settings = synthetic_ct.SyntheticCTSettings(**given(options, synthetic_ct.SyntheticCTSettings))
    start = models.load(options.start_from) if options.start_from else None
    with _kept(checkpoint):
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
    return _written(options, path)


def start_argument(parser: argparse.ArgumentParser) -> None:
    """What the training begins with."""
    parser.add_argument(
        "--start-from",
        metavar="FILE",
        help="model file, of the same layers, whose weights the training begins with",
    )


def checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Where the state of a training is kept; ``_checkpoint`` reads it."""
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


def _checkpoint(options: argparse.Namespace, ending: str = ".checkpoint") -> Path:
    """Where a training's state is kept; refuses an output that another training has made."""
    kept = Path(options.checkpoint or Path(options.output).with_suffix(ending))
    model = getattr(options, "model", None) or ""
    added_to = bool(model) and Path(model).resolve() == Path(options.output).resolve()
    # A folder with scans that were looked at says nothing of the output.
    require_new(options.output, options.overwrite, added_to, kept.is_file())
    return kept


@contextmanager
def _kept(checkpoint: Path) -> Iterator[None]:
    """Say of a training that is stopped how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if not checkpoint.exists() or checkpoint.is_dir() and not any(checkpoint.iterdir()):
            raise KeyboardInterrupt("before the first checkpoint: nothing is kept") from None
        raise KeyboardInterrupt(
            f"{checkpoint} keeps what was learnt; the same command goes on from there"
        ) from None


def _written(options: argparse.Namespace, path: Path | str) -> int:
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

    checkpoint = _checkpoint(options)
    device, first = process(options)
    chosen = {**options.settings, **given(options, flow.FlowSettings)}
    unknown = set(chosen) - {field.name for field in fields(flow.FlowSettings)}
    if unknown:
        raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
    settings = flow.FlowSettings(**chosen)
    progress = options.shell if first else Progress()
    cases = flow.read_cases(options.folder, settings.spacing_mm, progress)
    with _kept(checkpoint):
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
    return _written(options, path) if first else 0


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
    checkpoint = _checkpoint(options, ".aligned")
    scans = corrector.find_scans(options.folder, options.leave_out)
    with _kept(checkpoint):
        learnt = corrector.train(list(scans), settings, checkpoint, options.shell, scans)
    card = card_of(options)
    path = corrector.save(learnt, list(scans), options.output, settings, options.model, card)
    return _written(options, path)


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

    checkpoint = _checkpoint(options, ".looks")
    lacking = flow_file.what_is_missing(options.model)
    if lacking:
        options.shell.log(lacking)
    scans = corrector.find_scans(options.folder, options.leave_out)
    with _kept(checkpoint):
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
    return _written(options, path)


# Denoisers and their invariances ------------------------------------------------------------------


CHOSEN = ("architecture", "arguments", "loss")
"""Settings of denoisers that have options of their own."""


def _train_denoiser_arguments(parser: argparse.ArgumentParser) -> None:
    from ..networks.denoisers import denoisers
    from ..training.denoiser import DenoiserSettings

    _low_dose_arguments(parser, "*")
    parser.add_argument(
        "--low", metavar="FOLDER", help="real low-dose CT, files named as those of --normal"
    )
    parser.add_argument(
        "--normal",
        metavar="FOLDER",
        help=(
            "the same scans at normal dose: pairs instead of simulated noise. 70 %% of the "
            "patients are trained on, 20 %% judge it meanwhile, and 10 %% at the end"
        ),
    )
    parser.add_argument(
        "--architecture",
        default="cnn10",
        choices=denoisers(),
        help="of the network",
    )
    parser.add_argument(
        "--arguments",
        type=json_fields,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="of the architecture, such as out_ch=32",
    )
    parser.add_argument("--loss", choices=["mse", "wgan"], help="wgan: adversarial and perceptual")
    parser.add_argument(
        "--features",
        metavar="FILE",
        help=(
            "for wgan: the network whose features the perceptual term compares, a denoiser's model "
            "file or VGG-19's"
        ),
    )
    start_argument(parser)
    parser.add_argument(
        "--as-published",
        action="store_true",
        help="the published network and its paper's settings, as far as it gives them",
    )
    parser.add_argument(
        "--cache", metavar="FILE", help="keep simulated noise there for the next training"
    )
    add_fields(parser, DenoiserSettings, leave_out=CHOSEN)


def _low_dose_arguments(parser: argparse.ArgumentParser, count: str | None = None) -> None:
    parser.add_argument(
        "folder",
        nargs=count,
        help="CT volumes in HU, and people.csv (file,person) if a person has several",
    )
    parser.add_argument("--leave-out", metavar="PERSON", help="not trained on, measured instead")
    output_arguments(parser, "model file to write", "FILE")
    checkpoint_argument(parser)
    parser.add_argument(
        "--every", type=number(at_least=1), default=1, metavar="N", help="take every n-th slice"
    )
    machine_arguments(parser)
    card_arguments(parser)


@command("train", "denoiser", _train_denoiser_arguments, advice=LESS_STEPS)
def train_denoiser(options: argparse.Namespace) -> int:
    """Train a CT denoiser on low dose simulated from normal CT, or on real pairs.

    On several GPUs: torchrun --nproc-per-node 4 -m NetInversionLib.cli train denoiser ...
    """
    checkpoint = _checkpoint(options)
    device, first = process(options)
    from ..training import denoiser
    from ..training.features import read_features

    progress = options.shell if first else Progress()
    settings = _denoiser_settings(options)
    features = read_features(options.features, device) if options.features else None
    start = models.load(options.start_from) if options.start_from else None
    examples = _denoiser_examples(options, settings, progress)
    with _kept(checkpoint):
        path = denoiser.train(
            examples,
            options.output,
            settings,
            options.leave_out,
            checkpoint,
            features,
            progress,
            device,
            card_of(options),
            start,
        )
    return _written(options, path) if first else 0


def _denoiser_settings(options: argparse.Namespace):
    """What the options ask for, beside the recipe or the papers' settings."""
    from ..training import denoiser

    if options.as_published:
        settings = denoiser.as_published(options.architecture)
    else:
        loss = options.loss or "mse"
        settings = denoiser.recipe(options.architecture, loss, real=bool(options.low))
    asked = given(options, denoiser.DenoiserSettings, CHOSEN)
    if options.loss:
        asked["loss"] = options.loss
    if options.arguments:
        asked["arguments"] = tuple((k, v) for one in options.arguments for k, v in one.items())
    return replace(settings, **asked)


def _denoiser_examples(options: argparse.Namespace, settings, progress: Progress) -> list:
    """Pairs or windows to train on."""
    from ..training import noisy, pairs

    if bool(options.low) != bool(options.normal) or bool(options.low) == bool(options.folder):
        raise ValueError("name folders with normal CT, or --low and --normal together")
    if options.low:
        return pairs.read_real_pairs(options.low, options.normal, options.every, progress)
    if settings.noisy is None:
        found = []
        for folder in options.folder:
            found += pairs.read_pairs(folder, settings, options.every, progress)
        return found
    left_out = [options.leave_out] if options.leave_out else []
    return noisy.read_windows(
        options.folder, settings.noisy, left_out, options.every, options.cache, progress
    )


def _train_vae_arguments(parser: argparse.ArgumentParser) -> None:
    from ..training.sampler import VAESettings

    _low_dose_arguments(parser)
    add_fields(parser, VAESettings)


@command("train", "vae", _train_vae_arguments, advice=LESS_STEPS)
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
    parser.add_argument("--layers", nargs="+", default=["output"], help="names or numbers")
    from ..training.sampler import CINNSettings

    add_fields(parser, CINNSettings, leave_out=["layers"])


@command("train", "cinn", _train_cinn_arguments, advice=LESS_STEPS)
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
    from ..training import denoiser, pairs

    checkpoint = _checkpoint(options)
    device, first = process(options)
    settings = kind(**given(options, kind, chosen or ()), **(chosen or {}))
    progress = options.shell if first else Progress()
    loaded = {
        name: models.load(path, device) if path else None for name, path in (networks or {}).items()
    }
    simulated = denoiser.DenoiserSettings(seed=settings.seed)
    kept = checkpoint.with_suffix(".simulated")
    examples = pairs.read_pairs(options.folder, simulated, options.every, progress, kept)
    with _kept(checkpoint):
        path = train(
            examples,
            options.output,
            settings=settings,
            leave_out=options.leave_out,
            progress=progress,
            device=device,
            checkpoint=checkpoint,
            card=card_of(options),
            **loaded,
        )
    return _written(options, path) if first else 0
