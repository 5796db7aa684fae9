"""Pictures of an evaluation, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..core.results import Table
from ..harmonize import scan

HISTOGRAM_BINS = 130  # 0 to 1.3


# Pictures and pieces ------------------------------------------------------------------------------


def draw_families(table: Table, path: Path, measure: str = "PSNR (dB)") -> None:
    """Box plots over people: an axis per domain, a box per method; written to ``path`` (PNG)."""
    from matplotlib.figure import Figure

    columns = table.columns
    domains, methods = (list(dict.fromkeys(columns[key])) for key in ("domain", "method"))
    across = min(4, len(domains))
    down = -(-len(domains) // across)
    figure = Figure(figsize=(3.4 * across, 1.2 + 2.6 * down), layout="constrained")
    for axes, domain in zip(figure.subplots(down, across, squeeze=False).flat, domains):
        boxes = [
            [
                value
                for value, *where in zip(columns[measure], columns["domain"], columns["method"])
                if where == [domain, method] and np.isfinite(value)
            ]
            for method in methods
        ]
        axes.boxplot(boxes)
        axes.set_xticks(range(1, len(methods) + 1), methods, rotation=30, ha="right", fontsize=8)
        axes.set_title(domain, fontsize=10)
        axes.set_ylabel(measure)
        axes.grid(axis="y", alpha=0.3)
    for axes in figure.axes[len(domains) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=120)


def draw_histograms(histograms: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw mean histograms of the target, the source and every method.

    Args:
        histograms: By method, of shape (130,), shares of 0 to 1.3 in scaled units.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    x = (np.arange(HISTOGRAM_BINS) + 0.5) * scan.BRIGHTEST / HISTOGRAM_BINS
    for name, shares in histograms.items():
        strong = name in ("target", "source")
        axes.plot(
            x,
            shares,
            label=name,
            linewidth=2.2 if strong else 1.1,
            color={"target": "black", "source": "grey"}.get(name),
        )
    axes.set_xlabel("scaled intensity")
    axes.set_ylabel("share of the voxels in the mask")
    axes.legend()
    figure.savefig(path, dpi=120)
