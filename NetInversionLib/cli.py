"""The ``netinversion`` command: look at models, simulate, train, evaluate.

    netinversion models list
    netinversion simulate dixon ct.nii.gz --output folder
    netinversion harmonize folder-of-mr folder-for-results
    netinversion train synthetic-ct folder-of-ct --leave-out pelvis --output model.safetensors
    netinversion evaluate synthetic-ct folder-of-ct model.safetensors --output folder
    netinversion evaluate harmonize folder-of-mr --simulate --people 'sub-2[5-9],sub-30' --model model.safetensors --output folder
    netinversion evaluate gate folder-of-mr --wrong other-contrasts --output folder
    netinversion compute ideal-input in_phase=ip.nrrd fat_fraction=f.nrrd water_fraction=w.nrrd ct=ct.nrrd --output folder
    netinversion compute invariances low_dose.nii.gz --model denoiser.safetensors --output folder

``COMMANDS`` is the table of them all: a module adds its own with ``@command``.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from . import devices, models
from .results import Progress, Result, Table


@dataclass(frozen=True)
class Command:
    """``netinversion <group> <name>``: ``arguments`` fills a parser, ``run`` does it and returns the exit status.

    Without a ``name`` the group is the command: ``netinversion <group>``.
    """

    group: str
    name: str
    summary: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS: list[Command] = []

REPORT = "report.html"
"""Name of the report beside the images of a result."""


def command(group: str, name: str, arguments: Callable[[argparse.ArgumentParser], None]) -> Callable:
    """Decorator that adds a function to ``COMMANDS``; the first line of its docstring is the help."""

    def add(run: Callable[[argparse.Namespace], int]) -> Callable:
        COMMANDS.append(Command(group, name, run.__doc__.splitlines()[0], arguments, run))
        return run

    return add


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; 0 if it went well, 1 with a sentence on stderr if not, 2 for a wrong command line."""
    devices.wait_asleep()
    devices.give_memory_back()
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"netinversion: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("netinversion: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("netinversion", description="Research use only, never for diagnosis.")
    groups = parser.add_subparsers(required=True, metavar="|".join(dict.fromkeys(c.group for c in COMMANDS)))
    names = {}
    for c in COMMANDS:
        if c.name and c.group not in names:
            names[c.group] = groups.add_parser(c.group).add_subparsers(required=True)
        parent, name = (names[c.group], c.name) if c.name else (groups, c.group)
        one = parent.add_parser(name, help=c.summary, description=c.run.__doc__)
        c.arguments(one)
        one.set_defaults(run=c.run)
    return parser


def _fields(text: str) -> dict:
    """Names and values given as JSON on the command line."""
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not JSON ({error}); write names in double quotes, such as "
                                         "'{\"name\": 1}'") from error
    if not isinstance(fields, dict):
        raise argparse.ArgumentTypeError(f"{text} has no names; write names and values, such as '{{\"name\": 1}}'")
    return fields


class Lines(Progress):
    """Progress on stderr: a line every few per cent."""

    def __init__(self, every: float = 0.02):
        self.every, self.last = every, -1.0

    def report(self, fraction: float, message: str) -> None:
        if fraction >= self.last + self.every:
            self.last = fraction
            self.log(message)

    def log(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


# Models -------------------------------------------------------------------------------------------------------------

@command("models", "list", lambda p: p.add_argument("folder", nargs="*", help="where to look; else the usual folders"))
def models_list(options) -> int:
    """List the model files that are found, and say of each unusable one what is wrong."""
    found = models.list_models(options.folder or None)
    for path, card in found.items():
        usable = isinstance(card, models.Card)
        print(path, f"{card.name}, version {card.version}" if usable else f"cannot be used: {card}", sep="\n  ")
    if not found:
        print("no models in", ", ".join(map(str, options.folder or models.model_folders())))
    return 0


@command("models", "info", lambda p: p.add_argument("file"))
def models_info(options) -> int:
    """Print a model's card: channels, what it was trained on, licence, measured quality, intended use."""
    for key, value in asdict(models.read_card(options.file)).items():
        if key in ("inputs", "outputs"):
            value = "".join(f"\n  {channel}" for channel in value)
        elif isinstance(value, dict):
            value = "".join(f"\n  {k}: {v}" for k, v in value.items())
        print(f"{key}: {value}")
    return 0


@command("models", "verify", lambda p: p.add_argument("file", nargs="+"))
def models_verify(options) -> int:
    """Check model files through and through: header, shapes, finite weights, one run with gradients."""
    wrong = 0
    for path in options.file:
        try:
            model = models.verify(path)
            print(f"{path}: good, {model.card.name} version {model.card.version}, SHA-256 {model.sha256}")
        except models.ModelError as error:
            wrong += 1
            print(error, file=sys.stderr)
    return 1 if wrong else 0


# Synthetic CT -------------------------------------------------------------------------------------------------------

def _simulate_arguments(parser) -> None:
    from .dixon import DixonSettings

    parser.add_argument("ct", help="CT volume in HU")
    parser.add_argument("--output", required=True, help="folder for the three images")
    parser.add_argument("--seed", type=int, default=0)
    for name, value in asdict(DixonSettings()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=value, help=f"default {value:g}")


@command("simulate", "dixon", _simulate_arguments)
def simulate_dixon(options) -> int:
    """Simulate Dixon MR images (in-phase, fat fraction, water fraction) from a CT volume."""
    from . import dixon, volumes

    settings = dixon.DixonSettings(**{name: getattr(options, name) for name in asdict(dixon.DixonSettings())})
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    for role, volume in dixon.simulate_dixon(volumes.load(options.ct), settings, options.seed).items():
        volumes.save(volume, folder / f"simulated_{role}.nii.gz")
        print(folder / f"simulated_{role}.nii.gz")
    return 0


def _train_arguments(parser) -> None:
    parser.add_argument("folder", help="CT volumes, and people.csv (file,person) if a person has several")
    parser.add_argument("--leave-out", default=[], action="append", metavar="PERSON", help="not trained on; repeatable")
    parser.add_argument("--output", required=True, metavar="FILE", help="model file to write")
    parser.add_argument("--checkpoint", metavar="FILE", help="training state, gone on from if it is there "
                        "(default: the output's name with .checkpoint)")
    parser.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0)
    _machine_arguments(parser)


def _machine_arguments(parser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps or auto")
    parser.add_argument("--threads", type=int, help="CPU threads")


@command("train", "synthetic-ct", _train_arguments)
def train_synthetic_ct(options) -> int:
    """Train the reference network, Dixon MR to synthetic CT, on Dixon images simulated from CT."""
    device = _machine(options)
    from . import synthetic_ct

    scans = synthetic_ct.read_scans(options.folder)
    unknown = set(options.leave_out) - {s.person for s in scans}
    if unknown:
        raise ValueError(f"no scan of {', '.join(sorted(unknown))} in {options.folder}; "
                         f"people there: {', '.join(sorted({s.person for s in scans}))}")
    settings = replace(synthetic_ct.TrainSettings(), seed=options.seed)
    if options.steps:
        settings = replace(settings, steps=options.steps)
    scans = [s for s in scans if s.person not in options.leave_out]
    checkpoint = options.checkpoint or Path(options.output).with_suffix(".checkpoint")
    print(synthetic_ct.train(scans, options.output, settings, checkpoint, Lines(), device))
    return 0


def _evaluate_arguments(parser) -> None:
    parser.add_argument("folder", help="CT volumes, as for train")
    parser.add_argument("model", nargs="+", help="models, each evaluated on the people it was not trained on")
    parser.add_argument("--output", metavar="FOLDER", help="also write evaluation.csv and evaluation.json there")
    parser.add_argument("--record", default=[], action="append", metavar="FILE",
                        help="write the means into this model file's card; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    _machine_arguments(parser)


@command("evaluate", "synthetic-ct", _evaluate_arguments)
def evaluate_synthetic_ct(options) -> int:
    """Mean absolute error in HU on people left out, overall and in bone, beside two trivial predictors."""
    device = _machine(options)
    from . import synthetic_ct

    trained = [models.load(path, device) for path in options.model]
    table = synthetic_ct.evaluate(synthetic_ct.read_scans(options.folder), trained, options.seed, Lines())
    _print_table(table)
    if options.output:
        _write_table(table, Path(options.output), "evaluation")
        (Path(options.output) / "evaluation.json").write_text(json.dumps(asdict(table), indent=1), encoding="utf-8")
    for path in options.record:
        models.record_quality(path, synthetic_ct.quality(table))
    return 0


# Ideal input --------------------------------------------------------------------------------------------------------

def _ideal_input_arguments(parser) -> None:
    parser.add_argument("volumes", nargs="+", metavar="ROLE=FILE", help="an image for each channel of the network, by the "
                        "roles that 'models info' prints, targets included; mask=FILE limits where the input may change")
    parser.add_argument("--output", required=True, metavar="FOLDER",
                        help="for images (NRRD), tables (CSV), facts.json and report.html")
    parser.add_argument("--model", help="model file; default the first shipped one that has these roles")
    parser.add_argument("--second", metavar="FILE", help="another network, on which the gain is tried")
    parser.add_argument("--settings", type=_fields, default={}, metavar="JSON", help="fields of "
                        "NetInversionLib.ideal_input.Settings, such as '{\"starts\": [\"patient\", \"zeros\"]}'")
    parser.add_argument("--threads", type=int, help="CPU threads")


@command("compute", "ideal-input", _ideal_input_arguments)
def compute_ideal_input(options) -> int:
    """Find the input images that a network would err least on; images, tables, all facts and a report go to a folder."""
    import torch

    from . import ideal_input_reading, ideal_input_report, jobs, volumes

    if options.threads:
        torch.set_num_threads(options.threads)
    files = dict(pair.split("=", 1) if "=" in pair else (pair, "") for pair in options.volumes)
    nameless = [role for role, path in files.items() if not path]
    if nameless:
        raise ValueError(f"write ROLE=FILE, such as ct=scan.nii.gz, instead of {', '.join(nameless)}")
    paths = {"network": options.model or _model_for(set(files) - {"mask"})}
    if options.second:
        paths["second"] = options.second
    images = {role: volumes.load(path) for role, path in files.items()}
    result = jobs.run_here(jobs.Request("ideal_input", images, paths, options.settings), Lines())

    _write_result(result, Path(options.output))
    first = images[models.read_card(paths["network"]).inputs[0].role]
    ideal_input_report.write(result, first, Path(options.output) / REPORT)
    _print_table(result.tables["error"])
    print(f"{ideal_input_reading.answer(result.facts, result.tables)} Research use only.")
    print(Path(options.output))
    return 0


def _model_for(roles: set[str]) -> str:
    for path, card in models.list_models().items():
        if isinstance(card, models.Card) and {c.role for c in (*card.inputs, *card.outputs)} == roles:
            return str(path)
    raise ValueError(f"no model takes and gives exactly {', '.join(sorted(roles))}; name one with --model, or see "
                     "'netinversion models list'")


# Invariances --------------------------------------------------------------------------------------------------------

def _invariances_arguments(parser) -> None:
    from .invariance_settings import Settings

    known = Settings()
    parser.add_argument("low_dose", help="CT volume in HU")
    parser.add_argument("--model", metavar="FILE", help="denoiser; default the first shipped one")
    parser.add_argument("--second", metavar="FILE", help="another denoiser, asked about the same noise and textures")
    parser.add_argument("--sampler", metavar="FILE", help="autoencoder and flows made for the denoiser by 'train cinn'; default "
                        "the first that is found")
    parser.add_argument("--second-sampler", metavar="FILE", help="the same for the second denoiser")
    parser.add_argument("--segments", metavar="FILE", help="label map: statistics inside its labels")
    parser.add_argument("--output", required=True, metavar="FOLDER",
                        help="for images (NRRD), tables (CSV), facts.json and report.html")
    parser.add_argument("--slices", nargs=2, type=int, metavar=("FIRST", "LAST"), help="indices k of the file, LAST included")
    parser.add_argument("--layer", default=known.layer, help="'output' (default), or a layer's name or number")
    parser.add_argument("--proposals", nargs="+", help="cinn (drawn by the sampler), noise, texture; default cinn where there is "
                        "a sampler, else noise")
    for name in ("samples", "projected", "shown", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(known, name), help=f"default {getattr(known, name)}")
    parser.add_argument("--epsilon", type=float, metavar="HU", help="output change that counts as unnoticed; default a tenth of "
                        "the image's noise")
    parser.add_argument("--lesion", nargs=3, type=float, metavar=("R", "A", "S"), help="point in mm at which lesions are tried")
    parser.add_argument("--spectrum", nargs="+", default=[], metavar="LAYER", help="layers whose lost directions are counted")
    parser.add_argument("--settings", type=_fields, default={}, metavar="JSON", help="other fields of "
                        "NetInversionLib.invariance_settings.Settings, such as '{\"dose\": 0.1}'")
    _machine_arguments(parser)


@command("compute", "invariances", _invariances_arguments)
def compute_invariances(options) -> int:
    """Find what may change in a CT without a denoiser noticing; images, tables, all facts and a report go to a folder."""
    device = _machine(options)
    from . import invariance_reading, invariance_report, jobs, volumes

    images = {"low_dose": volumes.load(options.low_dose)}
    if options.segments:
        images["segments"] = volumes.load(options.segments)
    paths = _invariances_models(options)
    chosen = {name: getattr(options, name) for name in ("layer", "samples", "projected", "shown", "seed", "lesion", "spectrum")}
    chosen["proposals"] = options.proposals or (["cinn"] if "sampler" in paths else ["noise"])
    if options.slices:
        chosen["region"] = [options.slices[0], options.slices[1] + 1,
                            *(bound for size in images["low_dose"].shape[1:] for bound in (0, size))]
    settings = {**chosen, "epsilon_hu": options.epsilon, "device": str(device), **options.settings}
    result = jobs.run_here(jobs.Request("invariances", images, paths, settings), Lines())

    _write_result(result, Path(options.output))
    invariance_report.write(result, images["low_dose"], Path(options.output) / REPORT)
    _print_table(result.tables["bands"])
    print(f"{invariance_reading.answer(result.facts, result.tables)} Research use only.")
    print(Path(options.output))
    return 0


def _invariances_models(options) -> dict[str, str]:
    """Paths by what they are for; samplers that were not named are looked for, and told."""
    from .invariance_settings import samplers_for

    paths = {"denoiser": options.model or _denoiser(), "second": options.second, "sampler": options.sampler,
             "second sampler": options.second_sampler}
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


# The gate of harmonization -------------------------------------------------------------------------------------------

def _gate_arguments(parser) -> None:
    parser.add_argument("folder", help="brain-extracted volumes of the target scanner, one per person")
    parser.add_argument("--folds", type=int, default=5, help="default 5")
    parser.add_argument("--wrong", nargs="+", default=[], metavar="PATH", help="files or folders that have to be caught")
    parser.add_argument("--other", nargs="+", default=[], metavar="PATH", help="files or folders, of other scanners, that should "
                        "pass")
    parser.add_argument("--flows", nargs="+", default=[], metavar="FILE", help="a model per fold, not trained on the fold's "
                        "people (person n, by name, is in fold n modulo FOLDS); without them bits/dim are left out")
    parser.add_argument("--output", metavar="FOLDER", help="also write gate.csv and gate_cases.csv there; a run that was ended "
                        "goes on where it was (gate_cases.jsonl)")
    parser.add_argument("--seed", type=int, default=0)
    _machine_arguments(parser)


@command("evaluate", "gate", _gate_arguments)
def evaluate_gate(options) -> int:
    """The harmonization's gate: false alarms, and wrong images let through, in folds over the target's people."""
    device = _machine(options)
    from . import gate_evaluation

    bits = gate_evaluation.with_flows(options.flows, options.folds, device) if options.flows else None
    scans = [gate_evaluation.read_all(paths, Lines().log) for paths in ([options.folder], options.other, options.wrong)]
    record = Path(options.output) / "gate_cases.jsonl" if options.output else None
    summary, cases = gate_evaluation.evaluate(*scans, options.folds, options.seed, bits, Lines(), record, str(options.flows))
    _print_table(summary)
    for line in (*gate_evaluation.totals(summary), *([] if bits else ["bits/dim was not judged: no flows were given (--flows)"])):
        print(line)
    if options.output:
        _write_table(summary, Path(options.output), "gate")
        _write_table(cases, Path(options.output), "gate_cases")
    return 0


# Harmonization, measured ----------------------------------------------------------------------------------------------

def _evaluate_harmonize_arguments(parser) -> None:
    parser.add_argument("folder", nargs="?", help="people of the target scanner, for --simulate: one volume or DICOM folder each")
    parser.add_argument("--simulate", nargs="?", const="", metavar="LIST", help="show them as simulated scanners would and "
                        "compare with the truth; the seven standard families and the unchanged scan, or a list such as "
                        "'gamma 0.7, log 3 + field 0.3 seed 5, none'")
    parser.add_argument("--prospective", nargs=2, metavar=("SOURCE", "TARGET"), help="folders of two real scanners")
    parser.add_argument("--visits", nargs=2, metavar=("FIRST", "SECOND"), help="two volumes of one person: how far apart?")
    parser.add_argument("--people", default="*", metavar="PATTERNS", help="who is evaluated of the folder (or of SOURCE), by "
                        "name without suffix, such as 'sub-2[5-9],sub-30'; default all")
    parser.add_argument("--target-people", default="*", metavar="PATTERNS", help="whose quantiles the classical methods go by, "
                        "without a model; default all of the folder (or of TARGET) who are not evaluated")
    parser.add_argument("--model", metavar="FILE", help="model of the target scanner; without one the classical methods alone")
    parser.add_argument("--mode", default=[], action="append", help="of the model; repeatable; default anatomy-safe")
    parser.add_argument("--methods", default="*", metavar="PATTERNS", help="such as 'histogram*,anatomy-safe'; default all")
    parser.add_argument("--labels", metavar="FOLDER", help="region labels of SOURCE's people, in files of the same names")
    parser.add_argument("--mask", metavar="FILE", help="brain mask of the first visit")
    parser.add_argument("--template", nargs=2, metavar=("IMAGE", "MASK"), help="brain template (MNI152) and its brain mask, to "
                        "find the brain of the first visit by registration")
    parser.add_argument("--output", metavar="FOLDER", help="also write tables (CSV) and figures (PNG) there")
    _machine_arguments(parser)


@command("evaluate", "harmonize", _evaluate_harmonize_arguments)
def evaluate_harmonize(options) -> int:
    """Harmonization beside the classical methods: on simulated scanners, between two real ones, between two visits."""
    device = _machine(options)
    from . import harmonize_evaluation

    asked = [options.simulate is not None, bool(options.prospective), bool(options.visits)]
    if sum(asked) != 1:
        raise ValueError("say what to evaluate: FOLDER --simulate, --prospective SOURCE TARGET or --visits FIRST SECOND")
    if options.simulate is not None and not options.folder:
        raise ValueError("--simulate needs the folder with the target scanner's people: write it before --simulate")
    folder = Path(options.output) if options.output else None
    model = models.load(options.model, device) if options.model else None
    for table, name in harmonize_evaluation.run(options, model, folder, Lines()):
        print(table.title)
        _print_table(Table(table.title, {key: [f"{v:.4g}" if isinstance(v, float) else v for v in column]
                                         for key, column in table.columns.items()}))
        if folder:
            _write_table(table, folder, name)
    return 0


# Harmonization of cohorts -------------------------------------------------------------------------------------------

def _harmonize_arguments(parser) -> None:
    parser.add_argument("folder", help="volumes (NIfTI, NRRD, DICOM folders) at any depth, or a BIDS data set")
    parser.add_argument("output", help="folder for images, summary.csv and summary.html; BIDS derivatives if the input is BIDS")
    parser.add_argument("--model", metavar="FILE", help="model of the target scanner; default the shipped one")
    parser.add_argument("--mode", help="anatomy-safe (default), seed or no-flow")
    parser.add_argument("--strength", type=float, help="0 to 1, share of free-form refinement; default 0")
    parser.add_argument("--settings", type=_fields, default={}, metavar="JSON", help="more fields of "
                        "NetInversionLib.harmonize_settings.Settings, such as '{\"output_range\": \"target\"}'")
    parser.add_argument("--mask", metavar="PATTERN", help="a volume's mask as seen from its folder, such as "
                        "'{name}_brain.nii.gz'; {name}, {folder}, {subject} and {session} are filled in; default: NAME_mask "
                        "beside NAME, where there is one")
    parser.add_argument("--suffix", default="T1w", help="which images of a BIDS data set; default T1w")
    parser.add_argument("--force", action="store_true", help="write the images of refused volumes too")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="volumes at the same time; default 1")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="use the workers of this Dask cluster, such as tcp://host:8786")
    for name in ("tls-ca-file", "tls-cert", "tls-key"):
        parser.add_argument(f"--{name}", metavar="PEM", help="for a scheduler with TLS")


@command("harmonize", "", _harmonize_arguments)
def harmonize(options) -> int:
    """Harmonize all MR volumes of a folder or BIDS data set; run again, it goes on where it was."""
    from . import cohort, harmonize_settings
    from .cohort_page import shown

    settings = {key: value for key in ("mode", "strength") if (value := getattr(options, key)) is not None}
    settings = {**options.settings, **settings}
    harmonize_settings.Settings.from_json(settings)
    if options.processes < 1:
        raise ValueError("--processes is at least 1")
    scheduler = options.scheduler and cohort.Scheduler(options.scheduler, options.tls_ca_file, options.tls_cert, options.tls_key)
    model = options.model or _harmonization_model()
    card = models.read_card(model)
    if card.task != models.HARMONIZATION:
        raise ValueError(f"{model} is for {card.task}; name a harmonization model, made by 'netinversion train flow'")

    def log(line: str) -> None:
        Lines().log(shown(line))

    items = cohort.plan(options.folder, options.output, {"model": model}, settings, mask=options.mask,
                        suffix=options.suffix, force=options.force, log=log)
    cohort.prepare(options.folder, options.output)
    records = cohort.run(items, options.processes, scheduler, log)
    print(cohort.counts(records))
    print(shown(Path(options.output) / "summary.html"))
    failed = sum(record["status"] == "failed" for record in records)
    if failed:
        print(f"netinversion: {failed} of {len(records)} volumes failed; the summary says why", file=sys.stderr)
    return 1 if failed else 0


def _harmonization_model() -> str:
    for path, card in models.list_models().items():
        if isinstance(card, models.Card) and card.task == models.HARMONIZATION:
            return str(path)
    raise ValueError("no harmonization model is there; name one with --model")


# Harmonization flow ---------------------------------------------------------------------------------------------------

def _train_flow_arguments(parser) -> None:
    parser.add_argument("folder", help="MR scans of ONE scanner: NIfTI, NRRD, MHA (NAME_mask beside NAME is its mask), or a "
                        "sub-folder of DICOM slices for each series")
    parser.add_argument("--output", required=True, metavar="FILE", help="model file to write; the learning curve goes beside it")
    parser.add_argument("--hold-out", action="append", metavar="PERSON", help="not trained on, measured instead; repeatable "
                        "(default: the last fifth by name)")
    parser.add_argument("--checkpoint", metavar="FILE", help="training state, gone on from if it is there "
                        "(default: the output's name with .checkpoint)")
    parser.add_argument("--name", help="of the model, as users will see it")
    parser.add_argument("--sources", help="where the scans come from, and their licence")
    parser.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--batch", type=int, help="slices in each step, over all processes")
    parser.add_argument("--spacing", type=float, metavar="MM", help="voxel size of the flow's grid")
    parser.add_argument("--negative", type=float, metavar="SHARE", help="share of slices spoilt by random curves and fields, "
                        "whose likelihood is pushed down (default 0)")
    parser.add_argument("--settings", type=_fields, default={}, metavar="JSON", help="other fields of "
                        "NetInversionLib.mrflow.FlowSettings, such as '{\"hidden\": 48, \"features\": [16, 32, 64]}'")
    parser.add_argument("--seed", type=int, default=0)
    _machine_arguments(parser)


@command("train", "flow", _train_flow_arguments)
def train_flow(options) -> int:
    """Learn what one scanner's MR images look like, for harmonization.

    On several GPUs: torchrun --nproc-per-node 4 -m NetInversionLib.cli train flow ...
    """
    from . import mrflow

    device, first = _process(options)
    given = {"steps": options.steps, "batch": options.batch, "spacing_mm": options.spacing, "negative": options.negative}
    given = {**options.settings, **{k: v for k, v in given.items() if v is not None}, "seed": options.seed}
    try:
        settings = replace(mrflow.FlowSettings(), **given)
    except TypeError as error:
        raise ValueError(f"no such setting: {error}") from error
    progress = Lines() if first else Progress()
    cases = mrflow.read_cases(options.folder, settings.spacing_mm, progress)
    checkpoint = options.checkpoint or Path(options.output).with_suffix(".checkpoint")
    card = {k: v for k, v in {"name": options.name, "sources": options.sources}.items() if v}
    path = mrflow.train(cases, options.output, settings, options.hold_out, checkpoint, progress, device, card)
    if first:
        print(path)
    return 0


def _train_corrector_arguments(parser) -> None:
    parser.add_argument("folder", help="MR scans of ONE scanner, one for each person, as for 'train flow'")
    parser.add_argument("--output", required=True, metavar="FILE", help="model file to write")
    parser.add_argument("--model", metavar="FILE", help="file with a flow of the same scanner ('train flow'), to put it into")
    parser.add_argument("--leave-out", default=[], action="append", metavar="PERSON", help="not trained on; repeatable")
    parser.add_argument("--checkpoint", metavar="FOLDER", help="scans read and aligned, gone on from if they are there "
                        "(default: the output's name with .aligned)")
    parser.add_argument("--views", type=int, help="brains looked at, warped ones among them")
    parser.add_argument("--seed", type=int, default=0)


@command("train", "corrector", _train_corrector_arguments)
def train_corrector(options) -> int:
    """Learn where in the head one scanner shows which intensities, for anatomy-safe harmonization; minutes on one core."""
    from . import corrector_training

    settings = replace(corrector_training.TrainSettings(), seed=options.seed)
    if options.views:
        settings = replace(settings, views=options.views)
    scans = corrector_training.find_scans(options.folder, options.leave_out)
    checkpoint = options.checkpoint or Path(options.output).with_suffix(".aligned")
    learnt = corrector_training.train(list(scans), settings, checkpoint, Lines(), scans)
    print(corrector_training.save(learnt, list(scans), options.output, settings, options.model))
    return 0


def _train_gate_arguments(parser) -> None:
    parser.add_argument("folder", help="MR scans of ONE scanner, one for each person, as for 'train flow'")
    parser.add_argument("--model", required=True, metavar="FILE", help="model of the same scanner, made by 'train flow'")
    parser.add_argument("--leave-out", default=[], action="append", metavar="PERSON", help="not learnt from; repeatable")
    parser.add_argument("--output", required=True, metavar="FILE", help="model file to write; may be the same")


@command("train", "gate", _train_gate_arguments)
def train_gate(options) -> int:
    """Learn which scans and results are typical of a scanner, and add that to its harmonization model."""
    import torch

    from . import corrector_training, mr, mrflow, typicality

    scans = corrector_training.find_scans(options.folder, options.leave_out)
    found = typicality.fit((mr.read(*scan) for scan in scans.items()), Lines())
    print(mrflow.combine(options.model, options.output, statistics={n: torch.from_numpy(v) for n, v in found.items()}))
    return 0


# Denoisers and their invariances --------------------------------------------------------------------------------------

def _train_denoiser_arguments(parser) -> None:
    _low_dose_arguments(parser)
    parser.add_argument("--architecture", default="cnn10", choices=["cnn10", "wganvgg", "redcnn"])
    parser.add_argument("--arguments", type=_fields, default={}, metavar="JSON", help="of the architecture, such as "
                        "'{\"out_ch\": 32}'")
    parser.add_argument("--loss", default="mse", choices=["mse", "wgan"], help="wgan: adversarial and perceptual")
    parser.add_argument("--features", metavar="FILE", help="for wgan: the denoiser whose features the perceptual term compares")


def _low_dose_arguments(parser) -> None:
    parser.add_argument("folder", help="CT volumes in HU, and people.csv (file,person) if a person has several")
    parser.add_argument("--leave-out", metavar="PERSON", help="not trained on, measured instead")
    parser.add_argument("--output", required=True, metavar="FILE", help="model file to write")
    parser.add_argument("--checkpoint", metavar="FILE", help="training state, gone on from if it is there "
                        "(default: the output's name with .checkpoint)")
    parser.add_argument("--every", type=int, default=1, help="take every n-th slice")
    parser.add_argument("--steps", type=int, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0)
    _machine_arguments(parser)


@command("train", "denoiser", _train_denoiser_arguments)
def train_denoiser(options) -> int:
    """Train a CT denoiser on low dose simulated from normal CT.

    On several GPUs: torchrun --nproc-per-node 4 -m NetInversionLib.cli train denoiser ...
    """
    from . import denoising

    chosen = {"architecture": options.architecture, "arguments": tuple(options.arguments.items()), "loss": options.loss}
    return _train_on_low_dose(options, denoising.train, denoising.DenoiserSettings, chosen, {"features": options.features})


@command("train", "vae", _low_dose_arguments)
def train_vae(options) -> int:
    """Train an autoencoder of low-dose CT, for Invariances; torchrun as for denoisers."""
    from . import invariance_training

    return _train_on_low_dose(options, invariance_training.train_vae, invariance_training.VAESettings)


def _train_cinn_arguments(parser) -> None:
    _low_dose_arguments(parser)
    parser.add_argument("--vae", required=True, metavar="FILE", help="autoencoder from 'train vae'")
    parser.add_argument("--denoiser", required=True, metavar="FILE", help="network whose layers condition the flows")
    parser.add_argument("--layers", nargs="+", default=["output"], help="names or numbers; default output")


@command("train", "cinn", _train_cinn_arguments)
def train_cinn(options) -> int:
    """Train a conditional flow for each of a denoiser's layers; writes one model file of them and the autoencoder."""
    from . import invariance_training

    return _train_on_low_dose(options, invariance_training.train_cinn, invariance_training.CINNSettings,
                              {"layers": tuple(options.layers)}, {"vae": options.vae, "denoiser": options.denoiser})


def _train_on_low_dose(options, train, kind, chosen: dict | None = None, networks: dict | None = None) -> int:
    """Read the CTs and train with settings of a kind; ``networks`` are files to load, by the names of train's arguments."""
    from . import denoising

    device, first = _process(options)
    settings = kind(seed=options.seed, **({"steps": options.steps} if options.steps else {}), **(chosen or {}))
    progress = Lines() if first else Progress()
    loaded = {name: models.load(path, device) if path else None for name, path in (networks or {}).items()}
    data = settings if kind is denoising.DenoiserSettings else denoising.DenoiserSettings(seed=options.seed)
    pairs = denoising.read_pairs(options.folder, data, options.every, progress)
    path = train(pairs, options.output, settings=settings, leave_out=options.leave_out, progress=progress, device=device,
                 checkpoint=options.checkpoint or Path(options.output).with_suffix(".checkpoint"), **loaded)
    if first:
        print(path)
    return 0


# Pieces -------------------------------------------------------------------------------------------------------------

def _process(options):
    """(device, whether this is the first) of the processes that torchrun started; of the only one without it."""
    import os

    place, device = os.environ.get("LOCAL_RANK"), _machine(options)
    if place and device.type == "cuda":
        device = devices.choose(f"cuda:{place}")
    return device, place in (None, "0")


def _machine(options):
    """Set the threads, and the device that was asked for."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    return devices.choose(options.device)


def _print_table(table: Table) -> None:
    columns = [[heading, *(f"{v:.1f}" if isinstance(v, float) else str(v) for v in values)]
               for heading, values in table.columns.items()]
    widths = [max(map(len, column)) for column in columns]
    for row in zip(*columns):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _write_result(result: Result, folder: Path) -> None:
    """Images as NRRD, tables as CSV and all facts as JSON."""
    from . import volumes

    folder.mkdir(parents=True, exist_ok=True)
    for key, volume in result.volumes.items():
        volumes.save(volume, folder / f"{key}.nrrd")
    for key, table in result.tables.items():
        _write_table(table, folder, key)
    (folder / "facts.json").write_text(json.dumps(result.facts, indent=1), encoding="utf-8")


def _write_table(table: Table, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table.columns)
        writer.writerows(zip(*table.columns.values()))


if __name__ == "__main__":
    sys.exit(main())
