"""A misspelt volume or model is refused by every analysis: else the run goes on without it."""

import numpy as np
import pytest

from NetInversionLib import models
from NetInversionLib.core.volumes import Volume
from NetInversionLib.jobs import Request, run_here

SHIPPED = models.model_folders()[-2]
MODELS = {
    "invariances": {"denoiser": "ct-denoiser-cnn10"},
    "harmonize": {"model": "t1-brain"},
    "ideal_input": {"network": "dixon-to-synthetic-ct"},
}
VOLUMES = {
    "invariances": ["low_dose", "segments"],
    "harmonize": ["source", "mask"],
    "ideal_input": ["in_phase", "fat_fraction", "water_fraction", "ct", "mask", "other 1 in_phase"],
}
EMPTY = Volume(np.zeros((2, 3, 4)), np.eye(4), "empty")


def paths(analysis):
    return {name: str(SHIPPED / f"{stem}.safetensors") for name, stem in MODELS[analysis].items()}


@pytest.mark.parametrize(
    "analysis, name", [(t, name) for t, names in VOLUMES.items() for name in names]
)
def test_a_misspelt_volume_is_refused_by_name(analysis, name):
    wrong = name[:-1] + name[-1] * 2
    volumes = {one: EMPTY for one in VOLUMES[analysis] if one != name} | {wrong: EMPTY}
    with pytest.raises(ValueError, match=f"volume called '{wrong}'.*did you mean '{name}'"):
        run_here(Request(analysis, volumes, paths(analysis)))


@pytest.mark.parametrize("analysis", MODELS)
def test_a_misspelt_model_is_refused_by_name(analysis):
    volumes = {name: EMPTY for name in VOLUMES[analysis]}
    extra = {**paths(analysis), "secnd": next(iter(paths(analysis).values()))}
    with pytest.raises(ValueError, match="model called 'secnd'"):
        run_here(Request(analysis, volumes, extra))
