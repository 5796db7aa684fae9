"""The workshop: networks are made here, never on a patient's way."""

from ..door import door

__getattr__ = door(
    __name__,
    {
        "Group": "loop",
        "State": "loop",
        "plain": "loop",
        "run": "loop",
    },
)
