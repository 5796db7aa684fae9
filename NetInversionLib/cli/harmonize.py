"""`netinversion harmonize`: one MR image, or all of a folder, as another scanner shows them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import models
from .fields import add_fields, given, json_fields, number
from .options import (
    command,
    format_argument,
    machine_arguments,
    overwrite_argument,
    require_writable,
    set_threads,
)

if TYPE_CHECKING:
    from .results import Asked

AUTO = "auto"
"""The pattern of ``--mask`` that has the brain found."""
OTHERWISE = ("force", "device", "find_brain")
"""Settings that are not options of their own, or not of their own kind."""
REFERENCE_VOLUME_S = 25.0
"""Seconds of a volume on two cores; says only whether a cohort is a matter of minutes or hours."""


def _harmonize_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="INPUT",
        help=(
            "one volume (NIfTI, NRRD, MetaImage, a DICOM folder), a folder with volumes at any"
            " depth, or a BIDS data set"
        ),
    )
    parser.add_argument(
        "output_place",
        nargs="?",
        metavar="OUTPUT",
        help=(
            "image to write, for one volume; folder for images, summary.csv and summary.html; BIDS"
            " derivatives if the input is BIDS"
        ),
    )
    parser.add_argument("--output", metavar="PATH", help="the same as OUTPUT")
    overwrite_argument(parser)
    format_argument(parser)
    model_arguments(parser)
    cohort_arguments(parser)


def model_arguments(parser: argparse.ArgumentParser) -> None:
    """With what each volume is harmonized, and where."""
    from ..harmonize.settings import Settings

    parser.add_argument(
        "--model", metavar="FILE", help="model of the target scanner (default: the shipped one)"
    )
    parser.add_argument(
        "--mask",
        metavar="PATTERN",
        help=(
            "a volume's mask as seen from its folder, such as '{name}_brain.nii.gz'; {name},"
            " {folder}, {subject} and {session} are filled in (default: NAME_mask beside NAME,"
            " where there is one); auto: the same, and in an image without one that shows the whole"
            " head the brain is found"
        ),
    )
    parser.add_argument("--suffix", default="T1w", help="which images of a BIDS data set")
    parser.add_argument(
        "--force", action="store_true", help="write the images of refused volumes too"
    )
    machine_arguments(parser, "auto")
    parser.add_argument("--settings", type=json_fields, default={}, help=argparse.SUPPRESS)
    add_fields(parser, Settings, leave_out=OTHERWISE)


def cohort_arguments(parser: argparse.ArgumentParser) -> None:
    """How the work on many volumes is shared out."""
    parser.add_argument(
        "--processes",
        type=number(at_least=1),
        default=1,
        metavar="N",
        help="volumes at the same time",
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="use the workers of this Dask cluster, such as tcp://host:8786",
    )
    for name in ("tls-ca-file", "tls-cert", "tls-key"):
        parser.add_argument(f"--{name}", metavar="PEM", help="for a scheduler with TLS (tls://)")


@command(
    "harmonize",
    "",
    _harmonize_arguments,
    advice="It takes less with --processes N (volumes at the same time) or --strength 0. Stopped,"
    " it goes on with the same command.",
)
def harmonize(options: argparse.Namespace) -> int:
    """Harmonize an MR volume, or all of a folder or BIDS data set; run again, it goes on.

    netinversion harmonize ONE.nii.gz OUT.nii.gz, or netinversion harmonize FOLDER RESULTS
    """
    from ..core import derived_series, result_files

    asked_for = options.output or options.output_place
    if not asked_for:
        raise ValueError("say where to write: netinversion harmonize INPUT OUTPUT")
    output = Path(asked_for)
    model, settings = model_and_settings(options)
    source = Path(options.folder)
    if not source.exists():
        raise ValueError(f"there is no file or folder {source}")
    set_threads(options)
    image = result_files.is_one_file(output)
    if source.is_file() or (image and derived_series.holds_dicom(source)):
        return _one(source, output, model, settings, options)
    if image:
        raise ValueError(f"{source} is a folder of volumes; name a folder for the results")
    return run_cohort(source, output, model, settings, options)


def model_and_settings(options: argparse.Namespace) -> tuple[str, dict]:
    """The model's path and the settings that a command line asks for, both checked.

    Raises:
        ValueError: A setting is none, or the model is for something else.
    """
    from ..harmonize.settings import Settings

    settings = {**options.settings, **given(options, Settings, OTHERWISE)}
    if options.mask == AUTO:
        settings["find_brain"] = True
    if options.device != "auto":  # else cohorts of before would count as made otherwise
        settings["device"] = options.device
    Settings.from_json(settings)
    model = options.model or _harmonization_model()
    card = models.read_card(model)
    if card.task != models.HARMONIZATION:
        raise ValueError(
            f"{model} is for {card.task}; name a harmonization model, made by 'netinversion train"
            " flow'"
        )
    return model, settings


def _pattern(options: argparse.Namespace) -> str | None:
    """Which file is a volume's mask; None: NAME_mask beside NAME."""
    return None if options.mask == AUTO else options.mask


def _endings() -> tuple[str, ...]:
    from ..core import files as core_files

    return core_files.SUFFIXES


def _harmonization_model() -> str:
    found = models.default_model(
        lambda card: card.task == models.HARMONIZATION,
        "no harmonization model is there; name one with --model",
    )
    return str(found)


# One volume ---------------------------------------------------------------------------------------


def _one(
    source: Path, output: Path, model: str, settings: dict, options: argparse.Namespace
) -> int:
    from ..cohort.items import mask_of
    from .results import Asked

    files = {"source": str(source)}
    mask = mask_of(source, _pattern(options))
    if mask:
        options.shell.log(f"mask: {mask}")
        files["mask"] = mask
    asked = Asked("harmonize", files, {"model": model}, settings, options.format)
    return _harmonize_one(asked, _place(source, output, options.format), options, options.force)


def one_again(asked: Asked, record: Path, options: argparse.Namespace) -> int:
    """Harmonize one volume as its record says; for ``netinversion rerun``."""
    here = record.resolve()
    output = Path(options.output or here.with_name(f"{here.stem}-again"))
    source = Path(asked.files["source"])
    place = _place(source, output, asked.format, again=not options.output)
    forced = bool(asked.settings.get("force"))
    return _harmonize_one(asked, place, options, forced)


def _place(source: Path, output: Path, format: str | None, again: bool = False) -> Path:
    """Where the image goes: the file that was named, or one in the folder that was named."""
    from ..core.result_files import DICOM, suffix_for

    named = next((e for e in _endings() if output.name.lower().endswith(e)), None)
    if named:
        if format and format != named.lstrip("."):
            raise ValueError(f"{output.name} and --format {format} say two formats; give one")
        return output
    suffix = suffix_for(source, format)
    if suffix == DICOM:
        return output
    if again:
        return output.with_name(output.name + suffix)
    from ..core import files as core_files

    return output / f"{core_files.scan_name(source)}_harmonized{suffix}"


def _harmonize_one(asked: Asked, place: Path, options: argparse.Namespace, force: bool) -> int:
    """Harmonize a volume into a file or DICOM folder; its record becomes a JSON file beside."""
    from .. import jobs
    from ..cohort.items import found_mask
    from ..core import files as core_files
    from ..core import result_files
    from .results import undisturbed

    shell = options.shell
    record = place.with_name(f"{core_files.scan_name(place)}.json")
    masks = [found_mask(place)] if asked.settings.get("find_brain") else []
    for path in (place, record, *masks):
        if path.exists() and not options.overwrite:
            raise ValueError(f"{path} is there already; choose another name, or --overwrite")
    if place.resolve() == Path(asked.first).resolve():
        raise ValueError("the result would replace the image that it is made from")
    require_writable(place)
    if force:
        asked = replace(asked, settings={**asked.settings, "force": True})
    try:
        images = {key: core_files.load(path) for key, path in asked.files.items()}
        request = jobs.Request(asked.analysis, images, asked.models, asked.settings)
        result = jobs.run_here(request, shell)
    except KeyboardInterrupt:
        # Half a harmonization is no better half: its gate has not judged it.
        raise KeyboardInterrupt(
            f"{asked.first} was not harmonized and judged yet, and nothing is written"
        ) from None
    verdict, reasons = result.facts.get("verdict", ""), result.facts.get("reasons", [])
    shell.tell(verdict=verdict, reasons=reasons, facts=result.facts)
    shell.say(f"{verdict}: {'; '.join(reasons)}" if reasons else verdict)
    image = result.volumes.get("harmonized")
    if verdict == "refused" and not force or image is None:
        head = " If it is a head, --mask auto looks for the brain in it."
        more = head if result.facts.get("whole_head") and "found_ml" not in result.facts else ""
        raise ValueError(
            f"{asked.first} was refused, no image is written (--force writes it).{more}"
        )
    with undisturbed(f"{place} is written"):
        place.parent.mkdir(parents=True, exist_ok=True)
        _write_one(image, place, asked, options.overwrite)
        if "mask" in result.volumes:
            core_files.save(result.volumes["mask"], found_mask(place))
        result.facts["run"] = asked.record(record.parent)
        result_files.write_facts(result.facts, record)
    shell.say(place)
    shell.tell(output=str(place))
    return 0


def _write_one(image: Any, place: Path, asked: Asked, overwrite: bool) -> None:
    import shutil

    from ..core import result_files

    if result_files.is_one_file(place):
        result_files.save_image(image, place, asked.first, "harmonized")
        return
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        result_files.save_image(image, partial, asked.first, "harmonized")
        if overwrite and place.is_dir():
            shutil.rmtree(place)
        os.replace(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# Many volumes -------------------------------------------------------------------------------------


def run_cohort(
    source: Path,
    output: Path,
    model: str,
    settings: dict,
    options: argparse.Namespace,
    chosen: Callable[[list, argparse.Namespace], list] = lambda items, options: items,
) -> int:
    """Harmonize the volumes of a folder, those that are chosen, and say what came of them."""
    from .. import cohort

    shell = options.shell
    scheduler = options.scheduler and cohort.Scheduler(
        options.scheduler, options.tls_ca_file, options.tls_cert, options.tls_key
    )
    everyone = cohort.plan(
        source,
        output,
        {"model": model},
        settings,
        mask=_pattern(options),
        suffix=options.suffix,
        force=options.force,
        log=shell.log,
        format=options.format,
    )
    items = chosen(everyone, options)
    cohort.prepare(source, output, everyone, options.overwrite)
    _tell_length(len(items), options)
    try:
        records = cohort.run(
            items, options.processes, scheduler, shell.log, None, shell.report, everyone
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"finished volumes are kept in {output}; the same command goes on from there"
        ) from None
    return say_cohort(records, output, options)


def say_cohort(records: list[dict], output: Path, options: argparse.Namespace) -> int:
    """Say what came of volumes; the exit status."""
    from .. import cohort

    shell = options.shell
    shell.say(cohort.counts(records))
    shell.say(output / "summary.html")
    shell.tell(output=str(output), summary=cohort.counts(records), volumes=records)
    failed = sum(record["status"] == "failed" for record in records)
    if failed:
        shell.complain(
            f"netinversion: {failed} of {len(records)} volumes failed; the summary says why"
        )
    return 1 if failed else 0


def _tell_length(count: int, options: argparse.Namespace) -> None:
    """Say at the start that a cohort takes long."""
    from ..core.text import duration

    seconds = count * REFERENCE_VOLUME_S / options.processes
    if seconds > 600 and not options.scheduler:
        options.shell.log(
            f"{count} volumes take about {duration(seconds)} on a computer of two cores."
            f" {options.advice}"
        )
