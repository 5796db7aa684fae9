"""Model files: one format, read with suspicion."""

from ..door import door

__getattr__ = door(
    __name__,
    {
        "Card": "card",
        "Channel": "card",
        "HARMONIZATION": "card",
        "IMAGE_TO_IMAGE": "card",
        "ModelError": "card",
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
        "list_models": "library",
        "model_folders": "library",
        "Model": "model",
        "Description": "foreign.description",
        "Image": "foreign.description",
        "adopt": "foreign.adopt",
        "adopt_denoiser": "foreign.adopt",
    },
)
