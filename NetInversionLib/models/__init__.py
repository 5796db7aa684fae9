"""Model files: one format, read with suspicion."""

from ..door import door

__getattr__ = door(
    __name__,
    {
        "Card": "card",
        "Channel": "card",
        "DENOISING": "card",
        "FEATURES": "card",
        "HARMONIZATION": "card",
        "IMAGE_TO_IMAGE": "card",
        "ModelError": "card",
        "SAMPLING": "card",
        "percentile_high": "card",
        "FORMAT": "files",
        "MAX_HEADER_BYTES": "files",
        "METADATA_KEY": "files",
        "load": "opening",
        "opened": "opening",
        "runs_code": "foreign.cards",
        "read_card": "opening",
        "record_quality": "files",
        "save": "files",
        "verify": "files",
        "default_model": "library",
        "list_models": "library",
        "model_folders": "library",
        "usable": "library",
        "Model": "model",
        "Description": "foreign.description",
        "Image": "foreign.description",
        "adopt": "foreign.adopt",
        "adopt_denoiser": "foreign.adopt",
    },
)
