"""How would this MR image look on the scanner that a model knows?"""

from ..door import door

__getattr__ = door(
    __name__,
    {
        "gate_statistics": "change",
        "harmonizer": "change",
        "method": "change",
        "bits_per_dim": "figures",
        "LEAST_ALIGNMENT": "gate",
        "harmonize": "run",
        "run_analysis": "run",
        "Settings": "settings",
    },
)
