"""The network families of the field, under the engines of both questions.

They go from learned inverses to registration; the engines are those of Ideal Input and Invariances.
"""

from ..door import door

__getattr__ = door(
    __name__,
    {
        "Blur": "operators",
        "Coarse": "operators",
        "Coils": "operators",
        "Fourier": "operators",
        "Gradient": "operators",
        "Haar": "operators",
        "Identity": "operators",
        "Matrix": "operators",
        "Operator": "operators",
        "ParallelBeam": "operators",
        "Sparse": "solvers",
        "admm": "solvers",
        "cgnr": "solvers",
        "fista": "solvers",
        "kaczmarz": "solvers",
        "landweber": "solvers",
        "split": "solvers",
    },
)
