"""The report of one harmonization: a single HTML page with pictures, figures, settings and a paragraph for a paper."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from html import escape
from pathlib import Path

import numpy as np

from . import __version__, volumes
from .cohort_page import STYLE, shown
from .results import Curve, Result, Table
from .volumes import Volume

VIEWS = ("axial", "coronal", "sagittal")
WORDS = {"accepted": "The result looks like an image of the target scanner.",
         "flagged": "The result is given, but something is unusual: read the reasons before using it.",
         "refused": "The volume was refused: the model does not fit it."}


def write(result: Result, source: Volume, path: Path | str) -> Path:
    """Write the page for a result of ``harmonize.harmonize`` and the volume it came from; replaced whole.

    Raises:
        OSError: The folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.part")
    half.write_text(page(result, source), encoding="utf-8")
    os.replace(half, path)
    return path


def page(result: Result, source: Volume) -> str:
    """The page as text; it refers to no other file, and whatever a name holds is text."""
    facts = result.facts
    word = facts["verdict"]
    reasons = "".join(f"<li>{_text(reason)}</li>" for reason in facts["reasons"])
    parts = [f"<h1>Harmonization of {_text(source.name)}</h1>",
             "<p><strong>Research use only, never for diagnosis.</strong></p>",
             f"<p><span class='status {_text(word)}'>{_text(word)}</span> {_text(WORDS[word])}</p><ul>{reasons}</ul>",
             _picture(views(result, source), "source, result, change and fields, middle slices")]
    parts += [_picture(plot(curve), curve.title) for curve in result.curves.values()]
    parts += [_table(table) for name, table in result.tables.items() if name != "curve"]
    parts += ["<h2>For the methods section</h2>", f"<p>{_text(methods(facts))}</p>",
              "<details><summary>Settings and provenance</summary><pre>"
              f"{escape(json.dumps(facts, indent=1, default=str))}</pre></details>"]
    return (f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>Harmonization of {_text(source.name)}</title>"
            f"<style>{STYLE} figure {{ margin: 1em 0 }} figure img {{ background: none; max-width: 100% }}</style></head><body>"
            + "\n".join(parts) + "</body></html>\n")


def methods(facts: dict) -> str:
    """A paragraph to paste: what was done, with what model, version and settings."""
    settings, model = facts["settings"], facts["model"]
    how = {"anatomy-safe": "a strictly monotone tone curve after smooth multiplicative and additive fields, estimated from the "
                           "image and knowledge of the target scanner alone",
           "seed": f"{settings['iterations']} iterations of latent shrinkage (alpha {settings['alpha']:g}) in a normalizing "
                   "flow trained on the target scanner, with correlation and edge terms (beta 1 "
                   f"{settings['beta_edges']:g}, beta 2 {settings['beta_similarity']:g}), after Jeong et al. (MRFlow)",
           "no-flow": "the correlation and edge terms of MRFlow without its normalizing flow (an ablation)"}[settings["mode"]]
    also = (f", followed by a free-form refinement of strength {settings['strength']:g}"
            if settings["mode"] == "anatomy-safe" and settings["strength"] else "")
    masked = f" ({facts['mask']})" if "mask" in facts else ""  # scenes saved by older versions do not say
    return (f"MR images were harmonized with NetInversion {__version__} (mode {settings['mode']}: {how}{also}). The target "
            f"domain was the model \"{model['name']}\", version {model['version']} (SHA-256 {model['sha256'][:16]}), trained on "
            f"{len(model['trained_on'])} volumes. Intensities were scaled by the 99.5th percentile inside the "
            f"mask{masked}. Each result was checked for typicality in the target domain, tissue contrast, "
            f"orientation and artefacts; this one was {facts['verdict']}.")


# Pictures -----------------------------------------------------------------------------------------------------------

def views(result: Result, source: Volume) -> str:
    """Axial, coronal and sagittal middle of every image, as a PNG in base64."""
    images = [("source", source, "gray"), ("result", result.volumes.get("harmonized"), "gray"),
              ("change", result.volumes.get("change"), "RdBu_r"),
              ("multiplicative field", result.volumes.get("multiplicative field"), "PuOr_r"),
              ("additive field", result.volumes.get("additive field"), "PuOr_r")]
    images = [(name, volumes.reorient(volume, "LPS"), colours) for name, volume, colours in images if volume is not None]
    figure = _figure(2.2 * len(images), 6.6)
    axes = np.reshape(figure.subplots(len(VIEWS), len(images), squeeze=False), (len(VIEWS), len(images)))
    # The same window shows what changed, unless the result's intensities are another scanner's.
    native = result.facts["settings"]["output_range"] == "native"
    source_window = _window(images[0][1].array, images[0][2], "source")
    for column, (name, volume, colours) in enumerate(images):
        low, high = source_window if name == "result" and native else _window(volume.array, colours, name)
        for row, (slice_, aspect) in enumerate(_middles(volume)):
            axis = axes[row, column]
            axis.imshow(slice_, cmap=colours, vmin=low, vmax=high, aspect=aspect, origin="upper" if row == 0 else "lower")
            axis.set_axis_off()
        axes[0, column].set_title(f"{name}\n{readable(low)} to {readable(high)}", fontsize=8)
    return _png(figure)


def plot(curve: Curve) -> str:
    """The curve's lines, as a PNG in base64."""
    figure = _figure(6.4, 3.6)
    axis = figure.subplots()
    for name, (x, y) in curve.lines.items():
        axis.plot(x, y, label=shown(name))
    axis.set(title=shown(curve.title), xlabel=shown(curve.x_label), ylabel=shown(curve.y_label),
             yscale="log" if curve.log_y else "linear")
    axis.legend(fontsize=8)
    return _png(figure)


def _middles(volume: Volume) -> list[tuple[np.ndarray, float]]:
    """Middle slices along k, j, i of an LPS volume and the height of their pixels over the width."""
    (k, j, i), (x, y, z) = (n // 2 for n in volume.shape), volume.spacing_mm
    array = np.asarray(volume.array, np.float32)
    return [(array[k], y / x), (array[:, j], z / x), (array[:, :, i], z / y)]


def _window(array: np.ndarray, colours: str, name: str) -> tuple[float, float]:
    """From 0 for images, symmetric around no change (1 for a factor, else 0) for the rest."""
    sample = np.asarray(array[::2, ::2, ::2], np.float32)
    if colours == "gray":
        return 0.0, float(np.percentile(sample[sample > 0], 99.5)) if (sample > 0).any() else 1.0
    neutral = 1.0 if name == "multiplicative field" else 0.0
    reach = max(float(np.percentile(np.abs(sample - neutral), 99.5)), 1e-6)
    return neutral - reach, neutral + reach


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return base64.b64encode(data.getvalue()).decode()


# Text ---------------------------------------------------------------------------------------------------------------

def _picture(data: str, words: str) -> str:
    return f"<figure><img alt='{_text(words)}' src='data:image/png;base64,{data}'></figure>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(heading)}</th>" for heading in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{_text(_cell(value))}</td>" for value in row) + "</tr>"
                   for row in zip(*table.columns.values()))
    return f"<h2>{_text(table.title)}</h2><table><tr>{head}</tr>{rows}</table>"


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return readable(value, 4) if isinstance(value, float) else str(value)


def readable(value: float, digits: int = 3) -> str:
    """A number to so many significant digits, without an exponent between 0.0001 and a million: 1000, not 1e+03."""
    large = math.isfinite(value) and 10**digits - 0.5 <= abs(value) < 1e6
    return f"{value:.0f}" if large else f"{value:.{digits}g}"


def _text(words: object) -> str:
    return escape(shown(words), quote=True)
