"""Optimisers and objectives, for any loss written in PyTorch."""

from ..door import door

__getattr__ = door(
    __name__,
    {
        "minimize": "lbfgs",
        "Objective": "objective",
    },
)
