"""The network families of the field, under the engines of both questions.

They go from learned inverses to registration; the engines are those of Ideal Input and Invariances.
"""

from ..door import door

__getattr__ = door(
    __name__,
    {
        "Acquisition": "analysis",
        "Blur": "operators",
        "Coarse": "operators",
        "Coils": "operators",
        "Fourier": "operators",
        "Gradient": "operators",
        "Haar": "operators",
        "Hallucination": "analysis",
        "Hidden": "analysis",
        "Identity": "operators",
        "Matrix": "operators",
        "Operator": "operators",
        "ParallelBeam": "operators",
        "ROWS": "rows",
        "Row": "rows",
        "Scan": "kspace",
        "Sparse": "solvers",
        "admm": "solvers",
        "answers": "directions",
        "cgnr": "solvers",
        "fista": "solvers",
        "hallucination": "analysis",
        "hides": "analysis",
        "ideal_acquisition": "analysis",
        "kaczmarz": "solvers",
        "landweber": "solvers",
        "line_answers": "analysis",
        "of_network": "analysis",
        "row": "rows",
        "scan": "kspace",
        "settings_for": "training",
        "shown": "directions",
        "split": "solvers",
    },
)
