"""What may change in the input without this network noticing?"""

from ..door import door

__getattr__ = door(
    __name__,
    {
        "Blended": "moments",
        "Moments": "moments",
        "tiles": "moments",
        "image_noise": "choices",
        "invariances": "run",
        "of_network": "own",
        "run_analysis": "run",
        "Settings": "settings",
    },
)
