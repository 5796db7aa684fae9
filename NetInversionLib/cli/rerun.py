"""`netinversion rerun`: a result computed again, from its own record."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from .options import command, format_argument, overwrite_argument, set_threads, threads_argument

TABLES = {"ideal_input": "error", "invariances": "bands"}
"""The table of a result that is printed, by analysis."""


def _rerun_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FACTS", help="facts.json of a result")
    parser.add_argument(
        "--output", metavar="FOLDER", help="default: the result's folder with '-again'"
    )
    overwrite_argument(parser)
    format_argument(parser)
    parser.add_argument("--device", help="default: as in the record")
    threads_argument(parser)


@command("rerun", "", _rerun_arguments, advice="Its record says how long it took before.")
def rerun(options: argparse.Namespace) -> int:
    """Compute a result again from its record: the same images, models and settings.

    Images and models have to be where they were, seen from the record, and unchanged.
    """
    from ..cohort.folders import RunFolder
    from . import results

    set_threads(options)
    path = Path(options.file)
    asked = results.from_record(path)
    if options.format:
        asked = replace(asked, format=options.format)
    if options.device:
        asked = replace(asked, settings={**asked.settings, "device": options.device})
    if asked.analysis == "harmonize":
        from .harmonize import one_again

        return one_again(asked, path, options)
    here = path.resolve().parent
    output = options.output or here.with_name(f"{here.name}-again")
    with RunFolder(output, "rerun", options.overwrite) as folder:
        return results.compute(asked, folder, options.shell, TABLES[asked.analysis])
