"""`netinversion simulate`: images to try the rest on."""

from __future__ import annotations

import argparse

from .fields import add_fields, given
from .options import command, format_argument, output_arguments, seed_argument


def _simulate_arguments(parser: argparse.ArgumentParser) -> None:
    from ..ideal_input.dixon import DixonSettings

    parser.add_argument("ct", help="CT volume in HU: a file or a DICOM folder")
    output_arguments(parser, "for the three images")
    format_argument(parser)
    seed_argument(parser)
    add_fields(parser, DixonSettings)


@command("simulate", "dixon", _simulate_arguments)
def simulate_dixon(options: argparse.Namespace) -> int:
    """Simulate Dixon MR images (in-phase, fat fraction, water fraction) from a CT volume."""
    from ..cohort.folders import RunFolder
    from ..core import files as core_files
    from ..core import result_files
    from ..ideal_input import dixon
    from .results import undisturbed

    settings = dixon.DixonSettings(**given(options, dixon.DixonSettings))
    written = []
    names = [f"simulated_{role}" for role in dixon.CHANNELS]
    with RunFolder(options.output, "simulate dixon", options.overwrite, names) as folder:
        ct = core_files.load(options.ct)
        suffix = result_files.suffix_for(options.ct, options.format)
        images = dixon.simulate_dixon(ct, settings, options.seed)
        with undisturbed(f"the images are written to {folder.folder}"):
            for role, volume in images.items():
                path = result_files.write_image(
                    volume, folder.new, f"simulated_{role}", suffix, options.ct, options.shell.log
                )
                written.append(folder.folder / path.name)
            folder.deliver()
    for path in written:
        options.shell.say(path)
    options.shell.tell(images=[str(path) for path in written], output=str(folder.folder))
    return 0


def _family_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="model file of a network family's example")
    parser.add_argument("brain", help="brain-extracted MR image: a file or a DICOM folder")
    parser.add_argument(
        "--other", metavar="FILE", help="another person's, for networks that take two"
    )
    output_arguments(parser, "for the images, each named by its role")
    format_argument(parser)


@command("simulate", "family", _family_arguments)
def simulate_family(options: argparse.Namespace) -> int:
    """Simulate what the example of a network family takes and should give, from a brain."""
    from .. import jobs
    from ..cohort.folders import RunFolder
    from ..core import files as core_files
    from ..core import result_files
    from .results import undisturbed

    given = {"brain": options.brain, "other": options.other}
    images = {name: core_files.load(path) for name, path in given.items() if path}
    request = jobs.Request("family_sample", images, {"network": options.model})
    with RunFolder(options.output, "simulate family", options.overwrite) as folder:
        made = jobs.run_here(request, options.shell).volumes
        suffix = result_files.suffix_for(options.brain, options.format)
        written = []
        with undisturbed(f"the images are written to {folder.folder}"):
            for role, volume in made.items():
                path = result_files.write_image(
                    volume, folder.new, role, suffix, options.brain, options.shell.log
                )
                written.append(f"{role}={folder.folder / path.name}")
            folder.deliver()
    for line in written:
        options.shell.say(line)
    options.shell.tell(images=written, output=str(folder.folder))
    return 0
