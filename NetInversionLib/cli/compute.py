"""`netinversion compute`, `simulate` and `harmonize`: runs on images, from a shell."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .. import models
from .options import command, json_fields, machine, machine_arguments
from .output import REPORT, Lines, print_table, write_result

if TYPE_CHECKING:
    from ..invariances.settings import Settings

# Synthetic CT -------------------------------------------------------------------------------------


def _simulate_arguments(parser: argparse.ArgumentParser) -> None:
    from ..ideal_input.dixon import DixonSettings

    parser.add_argument("ct", help="CT volume in HU")
    parser.add_argument("--output", required=True, help="folder for the three images")
    parser.add_argument("--seed", type=int, default=0)
    for name, value in asdict(DixonSettings()).items():
        parser.add_argument(
            "--" + name.replace("_", "-"), type=float, default=value, help=f"default {value:g}"
        )


@command("simulate", "dixon", _simulate_arguments)
def simulate_dixon(options: argparse.Namespace) -> int:
    """Simulate Dixon MR images (in-phase, fat fraction, water fraction) from a CT volume."""
    from ..core import files as core_files
    from ..ideal_input import dixon

    settings = dixon.DixonSettings(
        **{name: getattr(options, name) for name in asdict(dixon.DixonSettings())}
    )
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    for role, volume in dixon.simulate_dixon(
        core_files.load(options.ct), settings, options.seed
    ).items():
        core_files.save(volume, folder / f"simulated_{role}.nii.gz")
        print(folder / f"simulated_{role}.nii.gz")
    return 0


# Ideal input --------------------------------------------------------------------------------------


def _ideal_input_arguments(parser: argparse.ArgumentParser) -> None:
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
        "--output",
        required=True,
        metavar="FOLDER",
        help="for images (NRRD), tables (CSV), facts.json and report.html",
    )
    parser.add_argument(
        "--model", help="model file; default the first shipped one that has these roles"
    )
    parser.add_argument(
        "--second", metavar="FILE", help="another network, on which the gain is tried"
    )
    parser.add_argument(
        "--settings",
        type=json_fields,
        default={},
        metavar="JSON",
        help=(
            "fields of "
            'NetInversionLib.ideal_input.Settings, such as \'{"starts": ["patient", "zeros"]}\''
        ),
    )
    parser.add_argument("--threads", type=int, help="CPU threads")


@command("compute", "ideal-input", _ideal_input_arguments)
def compute_ideal_input(options: argparse.Namespace) -> int:
    """Find the input images that a network would err least on.

    Images, tables, all facts and a report go to a folder.
    """
    import torch

    from .. import jobs
    from ..core import files as core_files
    from ..ideal_input import reading, report

    if options.threads:
        torch.set_num_threads(options.threads)
    files = dict(pair.split("=", 1) if "=" in pair else (pair, "") for pair in options.volumes)
    nameless = [role for role, path in files.items() if not path]
    if nameless:
        raise ValueError(
            f"write ROLE=FILE, such as ct=scan.nii.gz, instead of {', '.join(nameless)}"
        )
    paths = {"network": options.model or _model_for(set(files) - {"mask"})}
    if options.second:
        paths["second"] = options.second
    images = {role: core_files.load(path) for role, path in files.items()}
    result = jobs.run_here(jobs.Request("ideal_input", images, paths, options.settings), Lines())

    write_result(result, Path(options.output))
    first = images[models.read_card(paths["network"]).inputs[0].role]
    report.write(result, first, Path(options.output) / REPORT)
    print_table(result.tables["error"])
    print(f"{reading.answer(result.facts, result.tables)} Research use only.")
    print(Path(options.output))
    return 0


def _model_for(roles: set[str]) -> str:
    for path, card in models.list_models().items():
        if (
            isinstance(card, models.Card)
            and {c.role for c in (*card.inputs, *card.outputs)} == roles
        ):
            return str(path)
    raise ValueError(
        f"no model takes and gives exactly {', '.join(sorted(roles))}; name one with --model, or"
        " see 'netinversion models list'"
    )


# Invariances --------------------------------------------------------------------------------------


def _invariances_arguments(parser: argparse.ArgumentParser) -> None:
    from ..invariances.settings import Settings

    known = Settings()
    parser.add_argument("low_dose", help="CT volume in HU")
    parser.add_argument("--model", metavar="FILE", help="denoiser; default the first shipped one")
    parser.add_argument(
        "--second", metavar="FILE", help="another denoiser, asked about the same noise and textures"
    )
    parser.add_argument(
        "--sampler",
        metavar="FILE",
        help=(
            "autoencoder and flows made for the denoiser by 'train cinn'; default "
            "the first that is found"
        ),
    )
    parser.add_argument("--second-sampler", metavar="FILE", help="the same for the second denoiser")
    parser.add_argument(
        "--segments", metavar="FILE", help="label map: statistics inside its labels"
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="for images (NRRD), tables (CSV), facts.json and report.html",
    )
    _question_arguments(parser, known)
    machine_arguments(parser)


def _question_arguments(parser: argparse.ArgumentParser, known: Settings) -> None:
    """What is asked of the denoiser; defaults are those of ``known``."""
    parser.add_argument(
        "--slices",
        nargs=2,
        type=int,
        metavar=("FIRST", "LAST"),
        help="indices k of the file, LAST included",
    )
    parser.add_argument(
        "--layer", default=known.layer, help="'output' (default), or a layer's name or number"
    )
    parser.add_argument(
        "--proposals",
        nargs="+",
        help=(
            "cinn (drawn by the sampler), noise, texture; default cinn where there is "
            "a sampler, else noise"
        ),
    )
    for name in ("samples", "projected", "shown", "seed"):
        parser.add_argument(
            f"--{name}",
            type=int,
            default=getattr(known, name),
            help=f"default {getattr(known, name)}",
        )
    parser.add_argument(
        "--epsilon",
        type=float,
        metavar="HU",
        help="output change that counts as unnoticed; default a tenth of the image's noise",
    )
    parser.add_argument(
        "--lesion",
        nargs=3,
        type=float,
        metavar=("R", "A", "S"),
        help="point in mm at which lesions are tried",
    )
    parser.add_argument(
        "--spectrum",
        nargs="+",
        default=[],
        metavar="LAYER",
        help="layers whose lost directions are counted",
    )
    parser.add_argument(
        "--settings",
        type=json_fields,
        default={},
        metavar="JSON",
        help=(
            "other fields of "
            "NetInversionLib.invariances.settings.Settings, such as '{\"dose\": 0.1}'"
        ),
    )


@command("compute", "invariances", _invariances_arguments)
def compute_invariances(options: argparse.Namespace) -> int:
    """Find what may change in a CT without a denoiser noticing.

    Images, tables, all facts and a report go to a folder.
    """
    device = machine(options)
    from .. import jobs
    from ..core import files as core_files
    from ..invariances import reading as invariances_reading
    from ..invariances import report as invariances_report

    images = {"low_dose": core_files.load(options.low_dose)}
    if options.segments:
        images["segments"] = core_files.load(options.segments)
    paths = _invariances_models(options)
    chosen = {
        name: getattr(options, name)
        for name in ("layer", "samples", "projected", "shown", "seed", "lesion", "spectrum")
    }
    chosen["proposals"] = options.proposals or (["cinn"] if "sampler" in paths else ["noise"])
    if options.slices:
        chosen["region"] = [
            options.slices[0],
            options.slices[1] + 1,
            *(bound for size in images["low_dose"].shape[1:] for bound in (0, size)),
        ]
    settings = {**chosen, "epsilon_hu": options.epsilon, "device": str(device), **options.settings}
    result = jobs.run_here(jobs.Request("invariances", images, paths, settings), Lines())

    write_result(result, Path(options.output))
    invariances_report.write(result, images["low_dose"], Path(options.output) / REPORT)
    print_table(result.tables["bands"])
    print(f"{invariances_reading.answer(result.facts, result.tables)} Research use only.")
    print(Path(options.output))
    return 0


def _invariances_models(options) -> dict[str, str]:
    """Paths by what they are for; samplers that were not named are looked for, and told."""
    from ..models.library import samplers_for

    paths = {
        "denoiser": options.model or _denoiser(),
        "second": options.second,
        "sampler": options.sampler,
        "second sampler": options.second_sampler,
    }
    for denoiser, key in (("denoiser", "sampler"), ("second", "second sampler")):
        if paths[denoiser] and not paths[key]:
            paths[key] = next(map(str, samplers_for(paths[denoiser])), None)
            if paths[key]:
                print(f"sampler: {paths[key]}", file=sys.stderr)
    return {key: path for key, path in paths.items() if path}


def _denoiser() -> str:
    for path, card in models.list_models().items():
        if isinstance(card, models.Card) and card.task == "denoising":
            return str(path)
    raise ValueError("no denoiser is shipped or installed; name one with --model")


# Harmonization of cohorts -------------------------------------------------------------------------


def _harmonize_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", help="volumes (NIfTI, NRRD, DICOM folders) at any depth, or a BIDS data set"
    )
    parser.add_argument(
        "output",
        help=(
            "folder for images, summary.csv and summary.html; BIDS derivatives if the input is BIDS"
        ),
    )
    parser.add_argument(
        "--model", metavar="FILE", help="model of the target scanner; default the shipped one"
    )
    parser.add_argument("--mode", help="anatomy-safe (default), published or no-flow")
    parser.add_argument(
        "--strength", type=float, help="0 to 1, share of free-form refinement; default 0"
    )
    parser.add_argument(
        "--settings",
        type=json_fields,
        default={},
        metavar="JSON",
        help=(
            "more fields of "
            'NetInversionLib.harmonize.settings.Settings, such as \'{"output_range": "target"}\''
        ),
    )
    parser.add_argument(
        "--mask",
        metavar="PATTERN",
        help=(
            "a volume's mask as seen from its folder, such as '{name}_brain.nii.gz'; {name},"
            " {folder}, {subject} and {session} are filled in; default: NAME_mask beside NAME,"
            " where there is one"
        ),
    )
    parser.add_argument(
        "--suffix", default="T1w", help="which images of a BIDS data set; default T1w"
    )
    parser.add_argument(
        "--force", action="store_true", help="write the images of refused volumes too"
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="volumes at the same time; default 1"
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="use the workers of this Dask cluster, such as tcp://host:8786",
    )
    for name in ("tls-ca-file", "tls-cert", "tls-key"):
        parser.add_argument(f"--{name}", metavar="PEM", help="for a scheduler with TLS")


@command("harmonize", "", _harmonize_arguments)
def harmonize(options: argparse.Namespace) -> int:
    """Harmonize all MR volumes of a folder or BIDS data set; run again, it goes on where it was."""
    from .. import cohort
    from ..core.text import shown
    from ..harmonize import settings as harmonize_settings

    settings = {
        key: value for key in ("mode", "strength") if (value := getattr(options, key)) is not None
    }
    settings = {**options.settings, **settings}
    harmonize_settings.Settings.from_json(settings)
    if options.processes < 1:
        raise ValueError("--processes is at least 1")
    scheduler = options.scheduler and cohort.Scheduler(
        options.scheduler, options.tls_ca_file, options.tls_cert, options.tls_key
    )
    model = options.model or _harmonization_model()
    card = models.read_card(model)
    if card.task != models.HARMONIZATION:
        raise ValueError(
            f"{model} is for {card.task}; name a harmonization model, made by 'netinversion train"
            " flow'"
        )

    def log(line: str) -> None:
        Lines().log(shown(line))

    items = cohort.plan(
        options.folder,
        options.output,
        {"model": model},
        settings,
        mask=options.mask,
        suffix=options.suffix,
        force=options.force,
        log=log,
    )
    cohort.prepare(options.folder, options.output)
    records = cohort.run(items, options.processes, scheduler, log)
    print(cohort.counts(records))
    print(shown(Path(options.output) / "summary.html"))
    failed = sum(record["status"] == "failed" for record in records)
    if failed:
        print(
            f"netinversion: {failed} of {len(records)} volumes failed; the summary says why",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _harmonization_model() -> str:
    for path, card in models.list_models().items():
        if isinstance(card, models.Card) and card.task == models.HARMONIZATION:
            return str(path)
    raise ValueError("no harmonization model is there; name one with --model")
