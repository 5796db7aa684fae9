"""The people that no CT denoiser, autoencoder or prior of ours is ever trained on.

It is one list, read by every command that trains or evaluates.

All of COVID-19-NY-SBU, every fifth person of TCGA (by name), and the chest scan.
"""

from __future__ import annotations

COVID_NY_SBU = ("A002304", "A027284", "A048383", "A056642", "A062055", "A067967", "A098752")
TCGA = (
    "TCGA-17-Z028",
    "TCGA-17-Z045",
    "TCGA-17-Z054",
    "TCGA-34-8455",
    "TCGA-50-6594",
    "TCGA-51-4080",
    "TCGA-60-2722",
    "TCGA-92-8064",
)
CHEST = ("chest",)
HELD_OUT = frozenset((*COVID_NY_SBU, *TCGA, *CHEST))


def is_held_out(person: str) -> bool:
    """Whether a person is kept for evaluation."""
    return person in HELD_OUT
