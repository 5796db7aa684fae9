"""The command ``netinversion``."""

from ..door import door

__getattr__ = door(
    __name__,
    {
        "COMMANDS": "options",
        "entry": "entry",
        "main": "program",
        "parser": "program",
    },
)
