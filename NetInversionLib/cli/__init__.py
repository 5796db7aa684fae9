"""The command ``netinversion``."""

from ..door import door

__getattr__ = door(
    __name__,
    {
        "COMMANDS": "options",
        "main": "program",
    },
)
