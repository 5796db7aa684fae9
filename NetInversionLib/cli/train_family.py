"""`netinversion train family`: small examples of the field's network families."""

from __future__ import annotations

import argparse

from .cards import card_arguments, card_of
from .fields import add_fields, given
from .options import command, output_arguments, set_threads, threads_argument
from .train import (
    LESS_STEPS,
    checkpoint_argument,
    checkpoint_of,
    hold_out_argument,
    keeping,
    written,
)


def _arguments(parser: argparse.ArgumentParser) -> None:
    from ..families.rows import trainable
    from ..families.settings import FamilySettings

    parser.add_argument("family", help="one of " + ", ".join(trainable()))
    parser.add_argument(
        "folder", help="brain-extracted MR scans, one for each person, as for 'train flow'"
    )
    output_arguments(parser, "model file to write", "FILE")
    hold_out_argument(parser)
    checkpoint_argument(parser)
    threads_argument(parser)
    card_arguments(parser)
    add_fields(parser, FamilySettings, also={"spacing_mm": "--spacing"})


@command("train", "family", _arguments, advice=LESS_STEPS)
def train_family(options: argparse.Namespace) -> int:
    """Train the small example of a network family on images simulated from brain scans.

    Minutes on one core.
    """
    from ..families import training
    from ..families.settings import FamilySettings

    checkpoint = checkpoint_of(options)
    set_threads(options)
    settings = training.settings_for(options.family, **given(options, FamilySettings))
    cases = training.read(options.family, options.folder, settings, options.shell)
    with keeping(checkpoint):
        path = training.train(
            options.family,
            cases,
            options.output,
            settings,
            options.hold_out,
            checkpoint,
            options.shell,
            card_of(options),
        )
    return written(options, path)
