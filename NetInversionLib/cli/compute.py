"""`netinversion compute`: a network run backwards on images, from a shell."""

from __future__ import annotations

import argparse
from typing import Any

from .. import models
from .fields import add_fields, given, json_fields
from .options import (
    command,
    format_argument,
    machine_arguments,
    output_arguments,
    set_threads,
)

WRITTEN = "for images (of the input's format), tables and curves (CSV), facts.json and report.html"


def _settings_argument(parser: argparse.ArgumentParser) -> None:
    """Settings as JSON, as command lines of older scripts have them; ``--config`` took over."""
    parser.add_argument("--settings", type=json_fields, default={}, help=argparse.SUPPRESS)


# Ideal input --------------------------------------------------------------------------------------


def _ideal_input_arguments(parser: argparse.ArgumentParser) -> None:
    from ..ideal_input.settings import PRESETS, Settings

    parser.add_argument(
        "volumes",
        nargs="+",
        metavar="ROLE=FILE",
        help=(
            "an image for each channel of the network, by the roles that 'models info' prints,"
            " targets included; mask=FILE limits where the input may change"
        ),
    )
    parser.add_argument(
        "--model",
        metavar="FILE",
        help="model file (default: the first shipped one that has these roles)",
    )
    parser.add_argument(
        "--second", metavar="FILE", help="another network, on which the gain is tried"
    )
    output_arguments(parser, WRITTEN)
    format_argument(parser)
    machine_arguments(parser, "auto")
    _settings_argument(parser)
    parser.add_argument(
        "--search",
        choices=PRESETS,
        default="near",
        help=(
            "near: near the patient's images, and the input serves blurred too; free: the least"
            " error at any price; published: the source's optimiser, from all starts (default:"
            " near). Single settings count before it"
        ),
    )
    add_fields(parser, Settings, leave_out=["device"])


@command(
    "compute",
    "ideal-input",
    _ideal_input_arguments,
    advice="It takes less with --region (a part of the image), fewer --starts, --max-evaluations,"
    " --no-validity and --no-knobs.",
)
def compute_ideal_input(options: argparse.Namespace) -> int:
    """Find the input images that a network would err least on.

    Images, tables, curves, all facts and a report go to a folder.
    """
    from ..cohort.folders import RunFolder
    from ..ideal_input.settings import PRESETS, Settings
    from .results import Asked, compute

    settings = {
        "device": options.device,
        **PRESETS[options.search],
        **options.settings,
        **given(options, Settings, ["device"]),
    }
    chosen = Settings.from_json(settings).chosen()
    settings |= {"near": chosen.near, "blurred": chosen.blurred}  # the record says them
    files = _files_by_role(options.volumes)
    paths = {"network": options.model or _model_for(set(files) - {"mask"})}
    if options.second:
        paths["second"] = options.second
    first = models.read_card(paths["network"]).inputs[0].role
    files = {role: files[role] for role in sorted(files, key=lambda role: role != first)}
    with RunFolder(options.output, "compute ideal-input", options.overwrite) as folder:
        set_threads(options)
        asked = Asked("ideal_input", files, paths, settings, options.format)
        return compute(asked, folder, options.shell, "error")


def _files_by_role(words: list[str]) -> dict[str, str]:
    """Paths of ROLE=FILE.

    Raises:
        ValueError: A word has no role, or a role comes twice.
    """
    pairs = [(word.partition("=")[0], word.partition("=")[2]) for word in words]
    nameless = [role for role, path in pairs if not path]
    if nameless:
        raise ValueError(
            f"write ROLE=FILE, such as ct=scan.nii.gz, instead of {', '.join(nameless)}"
        )
    files = dict(pairs)
    if len(files) < len(pairs):
        raise ValueError("two files are given for the same role")
    return files


def _model_for(roles: set[str]) -> str:
    found = models.default_model(
        lambda card: {c.role for c in (*card.inputs, *card.outputs)} == roles,
        f"no model takes and gives exactly {', '.join(sorted(roles))}; name one with --model, or"
        " see 'netinversion models list'",
    )
    return str(found)


# Invariances --------------------------------------------------------------------------------------


SHELL_SAYS = ("region", "region_from", "segments", "device")
"""Settings of Invariances that options of another kind give."""


def _invariances_arguments(parser: argparse.ArgumentParser) -> None:
    from ..invariances.settings import Settings

    parser.add_argument("low_dose", help="CT volume in HU: a file or a DICOM folder")
    parser.add_argument("--model", metavar="FILE", help="denoiser (default: the first shipped one)")
    parser.add_argument(
        "--second", metavar="FILE", help="another denoiser, asked about the same noise and textures"
    )
    parser.add_argument(
        "--sampler",
        metavar="FILE",
        help=(
            "autoencoder and flows made for the denoiser by 'train cinn' (default: the first that"
            " is found)"
        ),
    )
    parser.add_argument("--second-sampler", metavar="FILE", help="the same for the second denoiser")
    parser.add_argument(
        "--normal-dose",
        metavar="FILE",
        help=(
            "the same CT at normal dose: how well lesions are seen, and how often the truth lies"
            " inside the maps, is told from it"
        ),
    )
    parser.add_argument(
        "--segments", metavar="FILE", help="label map: statistics inside its labels"
    )
    parser.add_argument(
        "--slices",
        nargs=2,
        type=int,
        metavar=("FIRST", "LAST"),
        help="indices k of the file, LAST included (default: all)",
    )
    output_arguments(parser, WRITTEN)
    format_argument(parser)
    machine_arguments(parser)
    _settings_argument(parser)
    add_fields(parser, Settings, leave_out=SHELL_SAYS, also={"epsilon_hu": "--epsilon"})


@command(
    "compute",
    "invariances",
    _invariances_arguments,
    advice="It takes less with --slices FIRST LAST (a part of the image), fewer --samples and"
    " --projected.",
)
def compute_invariances(options: argparse.Namespace) -> int:
    """Find what may change in a CT without a denoiser noticing.

    Images, tables, curves, all facts and a report go to a folder.
    """
    from ..cohort.folders import RunFolder
    from ..invariances.settings import Settings
    from .results import Asked, compute

    paths = _invariances_models(options)
    drawn = {"proposals": ["cinn"] if "sampler" in paths else ["noise"]}
    device = {"device": options.device}
    settings = {**drawn, **device, **options.settings, **given(options, Settings, SHELL_SAYS)}
    Settings.from_json(settings)
    given_files = {
        "low_dose": options.low_dose,
        "normal_dose": options.normal_dose,
        "segments": options.segments,
    }
    files = {role: path for role, path in given_files.items() if path}
    with RunFolder(options.output, "compute invariances", options.overwrite) as folder:
        set_threads(options)
        if options.slices:
            settings["region"] = _region(options.low_dose, options.slices)
        asked = Asked("invariances", files, paths, settings, options.format)
        return compute(asked, folder, options.shell, "bands")


def _region(path: str, slices: list[int]) -> list[int]:
    """Bounds of slices FIRST to LAST of a volume, as settings have them."""
    from ..core import files as core_files

    shape = core_files.load(path).shape
    first, last = slices
    if not 0 <= first <= last < shape[0]:
        raise ValueError(
            f"--slices {first} {last}: the file has slices 0 to {shape[0] - 1}, the first before"
            " the last"
        )
    return [first, last + 1, *(bound for size in shape[1:] for bound in (0, size))]


def _invariances_models(options: Any) -> dict[str, str]:
    """Paths by what they are for; samplers that were not named are looked for, and told."""
    from ..models.library import default_sampler

    paths = {
        "denoiser": options.model or _denoiser(),
        "second": options.second,
        "sampler": options.sampler,
        "second sampler": options.second_sampler,
    }
    for denoiser, key in (("denoiser", "sampler"), ("second", "second sampler")):
        if paths[denoiser] and not paths[key]:
            found = default_sampler(paths[denoiser])
            if found:
                paths[key] = str(found)
                options.shell.log(f"sampler: {found}")
    return {key: path for key, path in paths.items() if path}


def _denoiser() -> str:
    found = models.default_model(
        lambda card: card.task == models.DENOISING,
        "no denoiser is shipped or installed; name one with --model",
    )
    return str(found)


# Examples of the network families ----------------------------------------------------------------


def _families_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "volumes",
        nargs="+",
        metavar="ROLE=FILE",
        help="an image for each channel of the network, targets included, as 'simulate family'"
        " writes them",
    )
    parser.add_argument("--model", metavar="FILE", required=True, help="model file of an example")
    output_arguments(parser, WRITTEN)
    format_argument(parser)
    machine_arguments(parser)


@command("compute", "families", _families_arguments)
def compute_families(options: argparse.Namespace) -> int:
    """Say what an example of a network family adds that nobody measured, and what it hides."""
    from ..cohort.folders import RunFolder
    from .results import Asked, compute

    files = _files_by_role(options.volumes)
    if options.device != "cpu":
        raise ValueError("examples are asked on the CPU, since they are tiny: leave out --device")
    with RunFolder(options.output, "compute families", options.overwrite) as folder:
        set_threads(options)
        asked = Asked("families", files, {"network": options.model}, {}, options.format)
        return compute(asked, folder, options.shell, "quality")
