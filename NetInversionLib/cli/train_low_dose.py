"""`netinversion train` of CT denoisers, and of what draws images for their invariances."""

from __future__ import annotations

import argparse
from dataclasses import replace

from .. import models
from ..core.progress import Progress
from .cards import card_arguments, card_of
from .fields import add_fields, given, json_fields, number
from .options import command, machine_arguments, output_arguments, process
from .train import LESS_STEPS, checkpoint_argument, checkpoint_of, keeping, start_argument, written

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
    checkpoint = checkpoint_of(options)
    device, first = process(options)
    from ..training import denoiser
    from ..training.features import read_features

    progress = options.shell if first else Progress()
    settings = _denoiser_settings(options)
    features = read_features(options.features, device) if options.features else None
    start = models.load(options.start_from) if options.start_from else None
    examples = _denoiser_examples(options, settings, progress)
    with keeping(checkpoint):
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
    return written(options, path) if first else 0


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

    checkpoint = checkpoint_of(options)
    device, first = process(options)
    settings = kind(**given(options, kind, chosen or ()), **(chosen or {}))
    progress = options.shell if first else Progress()
    loaded = {
        name: models.load(path, device) if path else None for name, path in (networks or {}).items()
    }
    simulated = denoiser.DenoiserSettings(seed=settings.seed)
    kept = checkpoint.with_suffix(".simulated")
    examples = pairs.read_pairs(options.folder, simulated, options.every, progress, kept)
    with keeping(checkpoint):
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
    return written(options, path) if first else 0
