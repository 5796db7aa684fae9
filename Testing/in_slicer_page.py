"""The page that in_slicer.py writes: steps, pictures and versions in one file that names nobody."""

from __future__ import annotations

import base64
import getpass
import html
import importlib.metadata
import locale
import os
import platform
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import ctk
import qt
import slicer

TITLE = "NetInversion inside 3D Slicer"
WIDEST = 1100  # pixels of a picture on the page
PACKAGES = ("numpy", "scipy", "torch", "scikit-image", "safetensors", "matplotlib")
STYLE = """
body { font: 15px/1.5 sans-serif; color: #222; max-width: 72em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; }
td, th { text-align: left; padding: 0.2em 1em 0.2em 0; vertical-align: top; }
.passed { color: #00600f; } .waiting { color: #666; }
.failed, .running { color: #a80000; font-weight: bold; }
pre { background: #f4f4f4; padding: 0.6em; overflow-x: auto; white-space: pre-wrap; }
p { white-space: pre-line; }
figure { margin: 1em 0; } figcaption { color: #555; }
img { max-width: 100%; border: 1px solid #ccc; }
"""
WORDS = {"passed": "passed", "failed": "FAILED", "running": "did not end", "waiting": "not begun"}


@dataclass
class Entry:
    """One step on the page."""

    title: str
    state: str = "waiting"
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    error: str = ""
    pictures: list[tuple[str, bytes]] = field(default_factory=list)
    """(caption, PNG)"""


class Page:
    """Everything that is known so far; ``write`` is called before each step, and at the end."""

    def __init__(self, path: Path, root: Path, titles: list[str]):
        self.path = path
        self.entries = [Entry(title) for title in titles]
        self.facts: list[tuple[str, str]] = []
        self._begun = time.strftime("%Y-%m-%d %H:%M")
        self._private = _Private(root)

    def write(self) -> None:
        failed = [entry.title for entry in self.entries if entry.state == "failed"]
        open_ends = [entry.title for entry in self.entries if entry.state in ("running", "waiting")]
        verdict = "Every step passed."
        if failed:
            verdict = f"Failed at: {failed[0]}."
        elif open_ends:
            verdict = f"The run has not ended, or Slicer ended in: {open_ends[0]}."
        parts = [
            f"<h1>{TITLE}</h1><p><b>{self._text(verdict)}</b> {self._begun}.</p>",
            self._table(),
            "<h2>Versions and settings</h2>",
            self._facts(),
            *(
                self._chapter(number, entry)
                for number, entry in enumerate(self.entries)
                if _has_more(entry)
            ),
        ]
        self.path.write_text(
            f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>{TITLE}</title>"
            f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n",
            encoding="utf-8",
        )

    def shorten(self, text: str) -> str:
        """The text without the names of persons and their folders."""
        return self._private(text)

    def _text(self, text: str) -> str:
        return html.escape(self._private(str(text)))

    def _table(self) -> str:
        rows = []
        for number, entry in enumerate(self.entries):
            title = self._text(entry.title)
            title = f"<a href='#step{number}'>{title}</a>" if _has_more(entry) else title
            seconds = f"{entry.seconds:.1f} s" if entry.state in ("passed", "failed") else ""
            state = f"<td class='{entry.state}'>{WORDS[entry.state]}</td>"
            rows.append(f"<tr><td>{title}</td>{state}<td>{seconds}</td></tr>")
        return (
            "<table><tr><th>step</th><th>end</th><th>time</th></tr>\n"
            + "\n".join(rows)
            + "</table>"
        )

    def _facts(self) -> str:
        rows = (
            f"<tr><td>{self._text(name)}</td><td>{self._text(value)}</td></tr>"
            for name, value in self.facts
        )
        return "<table>" + "\n".join(rows) + "</table>"

    def _chapter(self, number: int, entry: Entry) -> str:
        parts = [f"<h2 id='step{number}'>{self._text(entry.title)}</h2>"]
        parts += [f"<p>{self._text(note)}</p>" for note in entry.notes]
        if entry.error:
            parts.append(f"<pre>{self._text(entry.error)}</pre>")
        for caption, picture in entry.pictures:
            source = "data:image/png;base64," + base64.b64encode(picture).decode()
            caption = self._text(caption)
            image = f"<img src='{source}' alt='{caption}'>"
            parts.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
        return "\n".join(parts)


def _has_more(entry: Entry) -> bool:
    return bool(entry.notes or entry.error or entry.pictures)


class _Private:
    """Takes what would name a person out of a text: folders get short names, the account goes."""

    def __init__(self, root: Path):
        folders = {
            str(root): "<NetInversion>",
            slicer.app.slicerHome: "<Slicer>",
            slicer.app.temporaryPath: "<temporary>",
            tempfile.gettempdir(): "<temporary>",
            str(Path.home()): "~",
        }
        self._folders = [
            (_path_pattern(folder), short)
            for folder, short in sorted(folders.items(), key=lambda item: -len(item[0]))
            if len(folder) > 3
        ]
        try:
            account = getpass.getuser()
        except Exception:  # no account has a name here
            account = ""
        self._account = (
            re.compile(rf"(?<=[\\/]){re.escape(account)}(?=[\\/]|$)", re.IGNORECASE)
            if account
            else None
        )

    def __call__(self, text: str) -> str:
        for pattern, short in self._folders:
            text = pattern.sub(lambda _match, short=short: short, text)
        return self._account.sub("<account>", text) if self._account else text


def _path_pattern(folder: str) -> re.Pattern:
    """Matches a folder however its separators are written: C:\\x, C:/x, C:\\\\x."""
    parts = re.split(r"[\\/]+", folder.rstrip("\\/"))
    return re.compile(
        r"[\\/]+".join(re.escape(part) for part in parts) + r"(?![\w-])", re.IGNORECASE
    )


# Pictures


def picture_of(widget) -> bytes:
    """A widget as PNG, no wider than the page."""
    image = ctk.ctkWidgetsUtils.grabWidget(widget)
    if image.width() > WIDEST:
        image = image.scaledToWidth(WIDEST, qt.Qt.SmoothTransformation)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        if not image.save(str(path)):
            raise RuntimeError("Qt could not write the picture.")
        return path.read_bytes()


# Versions and settings


def environment() -> list[tuple[str, str]]:
    """(what, value) of all that may make one Slicer unlike another; or why it is not known."""
    versions = (
        ("Slicer", _slicer),
        ("Operating system", platform.platform),
        ("Processor", _processor),
        ("Python", lambda: sys.version.split()[0]),
        ("Qt", _qt),
        ("Binding of Qt", _binding),
        ("VTK", _vtk),
    )
    packages = ((name, lambda name=name: _package(name)) for name in PACKAGES)
    settings = (
        ("Computation devices", _devices),
        ("Graphics", _graphics),
        ("Language and numbers", _language),
        ("Screen", _screen),
        ("Testing mode", lambda: slicer.app.testingEnabled()),
    )
    found = []
    for name, query in (*versions, *packages, *settings):
        try:
            found.append((name, str(query())))
        except Exception as error:  # noqa: BLE001 - one that is not known must not cost the others
            found.append((name, f"not known ({type(error).__name__}: {error})"))
    return found


def _slicer():
    return f"{slicer.app.applicationVersion}, revision {slicer.app.revision}"


def _processor():
    return f"{platform.machine()}, {os.cpu_count()} cores"


def _qt():
    return qt.qVersion() if hasattr(qt, "qVersion") else qt.Qt.qVersion()


def _binding():
    return qt.QWidget.__module__.split(".")[0]


def _vtk():
    import vtk

    return vtk.vtkVersion.GetVTKVersion()


def _package(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices():
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("Apple GPU (MPS)")
    return ", ".join([*names, f"CPU with {torch.get_num_threads()} threads"])


def _graphics():
    window = slicer.app.layoutManager().sliceWidget("Red").sliceView().renderWindow()
    lines = window.ReportCapabilities().splitlines()
    return "; ".join(
        line.strip()
        for line in lines
        if re.match(r"OpenGL (vendor|renderer|version) string", line.strip())
    )


def _language():
    numbers = qt.QLocale().toString(1234.5)
    python = locale.setlocale(locale.LC_ALL)
    return f"Slicer {slicer.app.applicationLocaleName}, Python {python}, 1234.5 is {numbers}"


def _screen():
    window = slicer.util.mainWindow()
    scale = f"{window.devicePixelRatioF():g} pixels per point, {window.logicalDpiX()} dpi"
    return f"{scale}, window {window.width} x {window.height}"
