"""Runs the three modules inside 3D Slicer (5.10 or later) without anybody at the mouse.

It writes one page about the run:

    Slicer --no-splash --testing --python-script Testing/in_slicer.py
    Slicer --no-splash --testing --python-script Testing/in_slicer.py -- --modules IdealInput

Each module's own test runs. Then its panel goes through sample data, Apply, the result, saving
the scene, closing it, loading it again and deleting the result. The page has the steps with
their times, pictures of the panel and the views, and versions; its path is printed. Slicer ends
with 0 if every step passed, else with 1 after the first that did not.

--testing is right: Slicer then shows no dialog that would wait for somebody, takes no settings of
earlier sessions, and installs nothing. So install what the modules need before (the first Apply
in an ordinary Slicer offers it). Extensions are not loaded in this mode; the modules of this
checkout are. Arguments after ``--`` are this file's.

Slicer executes the file in its own namespace, so it imports itself: errors then name file and
line. Testing mode would end Slicer as soon as the file has been read; the steps run from a
timer, and Slicer ends after them.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import importlib
import logging
import os
import re
import sys
import tempfile
import threading
import time
import traceback
import unittest.mock
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

TICK_MS = 50
SETTLE_S = 0.5  # what views and panel get to draw themselves before a picture is taken
OLDEST = (5, 10)
MODULES = ("IdealInput", "Invariances", "MRFlowHarmonize")
OURS = ("NetInversion", *MODULES)  # in a traceback or a logger's name
SUMMARIES = ("summaryLabel", "verdictLabel")  # the label with a result's answer


class Failed(Exception):
    """Something is not as it should be; the message is for whoever reads the page."""


@dataclass
class Wait:
    """What a step yields: it goes on at the event loop's first turn at which ``until()`` holds."""

    what: str
    until: Callable[[], bool]


@dataclass
class Step:
    title: str
    limit_s: float
    work: Callable[[Run], Iterator[Wait]]


# The run


class Run:
    """Does the steps from the event loop, one after the other, and keeps the page up to date."""

    def __init__(self, steps: list[Step], path: Path, root: Path, ended: Callable[[int], None]):
        import in_slicer_page
        import qt

        self._pages = in_slicer_page
        self.page = in_slicer_page.Page(path, root, [step.title for step in steps])
        self.page.facts = in_slicer_page.environment()
        self._steps, self._ended = steps, ended
        self._number, self._work, self._wait = -1, None, None
        self._begun = time.monotonic()
        self._inside = False
        self._seen: list[str] = []  # raised in slots and observers, or logged, in this step
        self._previous_hook, sys.excepthook = sys.excepthook, self._on_exception
        self._handler = _ErrorLog(self._on_log)
        logging.getLogger().addHandler(self._handler)
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._tick)
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self) -> None:
        self._next()
        self._timer.start()

    # For the steps

    def note(self, text: str) -> None:
        """A sentence under the present step."""
        self._entry.notes.append(text)

    def picture(self, caption: str, widget) -> None:
        self._entry.pictures.append((caption, self._pages.picture_of(widget)))

    # The driver's own

    @property
    def _entry(self):
        return self.page.entries[self._number]

    def _tick(self) -> None:
        if self._inside:  # a step runs the event loop itself
            return
        self._inside = True
        try:
            self._go_on()
        except Exception:  # noqa: BLE001 - whatever it is, the page says it
            self._fail(traceback.format_exc())
        finally:
            self._inside = False

    def _go_on(self) -> None:
        step = self._steps[self._number]
        try:
            if self._wait is None or self._wait.until():
                self._wait = next(self._work)
        except StopIteration:
            self._check_time(step)
            self._pass()
            return
        except Failed as failure:
            self._fail(str(failure))
            return
        if self._seen:
            self._fail("")
        else:
            self._check_time(step)

    def _check_time(self, step: Step) -> None:
        if time.monotonic() - self._begun > step.limit_s:
            waited = f" It waited until {self._wait.what}." if self._wait else ""
            raise Failed(f"It took longer than {step.limit_s:g} s.{waited}")

    def _next(self) -> None:
        self._number += 1
        if self._number == len(self._steps):
            self._end(0)
            return
        self._begun, self._wait, self._seen = time.monotonic(), None, []
        self._entry.state = "running"
        self.page.write()
        print(f"{self._entry.title} ...", flush=True)
        self._work = self._steps[self._number].work(self)

    def _pass(self) -> None:
        if self._seen:
            self._fail("")
            return
        self._close("passed")
        self._next()

    def _fail(self, words: str) -> None:
        self._entry.error = "\n\n".join(dict.fromkeys(filter(None, [words, *self._seen])))
        self._close("failed")
        for caption, widget in _views_and_panel():
            with contextlib.suppress(Exception):  # the panel is broken; what broke it is said
                self.picture(caption, widget)
        print(self.page.shorten(f"FAILED: {self._entry.title}\n{self._entry.error}"), flush=True)
        self._end(1)

    def _close(self, state: str) -> None:
        self._entry.state, self._entry.seconds = state, time.monotonic() - self._begun

    def _end(self, code: int) -> None:
        self._timer.stop()
        self._number = len(self._steps)
        sys.excepthook = self._previous_hook
        logging.getLogger().removeHandler(self._handler)
        self.page.write()
        print(f"The page: {self.page.path}", flush=True)
        self._ended(code)

    # What goes wrong elsewhere

    def _on_exception(self, kind, value, trace) -> None:
        """PythonQt and VTK hand what a slot or an observer raises to sys.excepthook, and go on."""
        text = "".join(traceback.format_exception(kind, value, trace))
        if any(name in text for name in OURS):
            self._seen.append("Raised in a slot or an observer:\n" + text)
        elif self._number < len(self._steps):
            self.note("Raised elsewhere in Slicer: " + text)
        self._previous_hook(kind, value, trace)

    def _on_log(self, record: logging.LogRecord) -> None:
        if self._number >= len(self._steps):
            return
        text = self._handler.format(record)
        if record.name.startswith(OURS):
            self._seen.append("Logged as an error:\n" + text)
        else:
            self.note("Logged as an error: " + text)

    def _watch(self) -> None:
        """End Slicer where a step neither ends nor gives the event loop back for twice its time."""
        main = threading.main_thread().ident
        while self._number < len(self._steps):
            time.sleep(1)
            number = self._number
            if not 0 <= number < len(self._steps):
                continue
            limit = self._steps[number].limit_s
            if time.monotonic() - self._begun > 2 * limit + 1:
                stack = "".join(traceback.format_stack(sys._current_frames()[main]))
                self._entry.error = (
                    f"Slicer did not answer for {2 * limit:g} s. It was here:\n{stack}"
                )
                self._close("failed")
                self.page.write()
                print(f"FAILED: {self._entry.title}\nThe page: {self.page.path}", flush=True)
                os._exit(1)


class _ErrorLog(logging.Handler):
    def __init__(self, tell: Callable[[logging.LogRecord], None]):
        super().__init__(logging.ERROR)
        self.emit = tell


def _views_and_panel():
    """(caption, widget) of what Slicer shows now."""
    import slicer

    name = slicer.util.mainWindow().moduleSelector().selectedModule
    if name in MODULES:
        yield "The panel", slicer.util.getModuleWidget(name).parent
    yield "The views", slicer.app.layoutManager().viewport()


# The steps of all modules


def load_modules(names, root: Path):
    def work(run: Run):
        import slicer

        version = (slicer.app.majorVersion, slicer.app.minorVersion)
        if version < OLDEST:
            raise Failed(
                f"This is Slicer {version[0]}.{version[1]}; the modules need 5.10 or later."
            )
        _register([name for name in names if not slicer.app.moduleManager().module(name)], root)
        yield Wait(
            "the modules are there",
            lambda: all(slicer.app.moduleManager().module(name) for name in names),
        )
        for name in names:
            run.note(f"{name}: {slicer.util.modulePath(name)}")
            _offer_sample(name)

    return work


def _register(names, root: Path) -> None:
    """Load modules of this checkout, as the module Extension Wizard does."""
    import qt
    import slicer

    factory = slicer.app.moduleManager().factoryManager()
    for name in names:
        factory.registerModule(qt.QFileInfo(str(root / name / f"{name}.py")))
        if not factory.isRegistered(name):
            raise Failed(f"Slicer could not register {name}; its log says why.")
    if names and not factory.loadModules(names):
        raise Failed(f"Slicer could not load {', '.join(names)}; its log says why.")


def _offer_sample(name: str) -> None:
    """A module registers its sample when Slicer starts, which it had before it read this file."""
    import SampleData

    module = sys.modules[name]
    if SampleData.SampleDataLogic().sourceForSampleName(module.SAMPLE) is None:
        module.registerSampleData()


def check_packages(run: Run):
    from NetInversionLib.panel import packages

    yield Wait("Slicer has settled", lambda: True)
    try:
        packages.ensure_packages("NetInversion")
    except packages.PackagesMissing as error:
        raise Failed(
            f"{error} Start Slicer without --testing, open one of the modules, press Apply and "
            "agree to the installation; then run this again."
        ) from None


# The steps of one module


class PanelCheck:
    """One module's test, and its panel from sample data to a result that was opened again."""

    def __init__(self, name: str, options: argparse.Namespace, folder: Path):
        self.name, self._options = name, options
        self._scene = folder / f"{name}.mrb"
        self._made_up = options.made_up
        self._before = None  # what the panel and its parameter node said when the scene was saved

    def steps(self) -> list[Step]:
        works = (
            ("its own test", 300, self.own_test),
            ("the panel opens", 60, self.open),
            ("sample data", 600, self.sample),
            ("Apply", 900, self.apply),
            ("the result is shown", 60, self.result),
            ("the scene is saved", 300, self.save),
            ("the scene is closed", 60, self.close),
            ("the scene is loaded again", 300, self.load),
            ("the result is deleted", 60, self.delete),
            ("the scene is closed again", 60, self.close),
        )
        longest = self._options.limit or float("inf")
        return [
            Step(f"{self.name}: {title}", min(limit, longest), work) for title, limit, work in works
        ]

    @property
    def widget(self):
        import slicer

        return slicer.util.getModuleWidget(self.name)

    # Each yields what it waits for

    def own_test(self, run: Run):
        import slicer

        yield _settled()
        slicer.selfTests[self.name]()

    def open(self, run: Run):
        import slicer

        slicer.mrmlScene.Clear(0)
        slicer.util.selectModule(self.name)
        yield Wait(
            "the panel is in front",
            lambda: self.widget.parent.isEntered and self.widget._parameterNode is not None,
        )
        yield _settled()
        if self.widget.ui.resultsCollapsibleButton.visible:
            raise Failed("The panel shows a result in an empty scene.")

    def sample(self, run: Run):
        yield _settled()
        if not self._made_up:
            self._made_up = not self._download(run)
        module = sys.modules[self.name]
        if self._made_up:
            run.note("A MADE-UP image, not the sample: the answer means nothing.")
            MADE_UP[self.name](module, self.widget)
        else:
            self._source().customDownloader(self._source())
            self.widget.initializeParameterNode()
        if self._options.short:
            run.note("SHORT: few iterations, the answer means nothing.")
            SHORT[self.name](self.widget._parameterNode)
        button = self.widget.ui.applyButton
        yield Wait(
            f"Apply can be pressed; its tooltip says: {button.toolTip}", lambda: button.enabled
        )

    def _source(self):
        import SampleData

        return SampleData.SampleDataLogic().sourceForSampleName(sys.modules[self.name].SAMPLE)

    def _download(self, run: Run) -> bool:
        """Fetch the file that the sample is made of, which Slicer then keeps.

        Returns:
            False, with a note on the page, if there is no way to it.
        """
        import SampleData
        import slicer

        try:
            loaded = SampleData.SampleDataLogic().downloadFromSource(self._source())
        except Exception as error:  # noqa: BLE001 - Slicer raises several kinds
            run.note(f"The sample could not be downloaded ({type(error).__name__}: {error}).")
            return False
        nodes = [node for node in loaded or () if hasattr(node, "GetID")]
        for node in nodes:
            slicer.mrmlScene.RemoveNode(node)
        if not nodes:
            run.note("The sample could not be downloaded; Slicer's log says why.")
        return bool(nodes)

    def apply(self, run: Run):
        widget = self.widget
        if widget.ui.estimateLabel.visible:
            run.note(f"Before Apply the panel says:\n{plain(widget.ui.estimateLabel.text)}")
        begun = time.monotonic()
        widget.ui.applyButton.click()
        yield Wait("the run ends", lambda: widget._going is None)
        run.note(f"From Apply to the end: {time.monotonic() - begun:.1f} s. The panel's log:")
        run.note(widget.ui.logText.plainText)
        if not widget._parameterNode.run:
            raise Failed(f"The run gave no result. The panel says: {widget.ui.statusLabel.text}")

    def result(self, run: Run):
        yield _settled()
        self._before = self._state()
        run.note(f"The panel says:\n{plain(self._before['summary'])}")
        for caption, widget in _views_and_panel():
            run.picture(caption, widget)

    def _state(self) -> dict:
        """What a result consists of and how the panel shows it; Failed if there is none."""
        widget = self.widget
        node = widget._parameterNode
        nodes = widget.logic.resultNodes(node.run)
        if not nodes:
            raise Failed("The scene has no node of the result.")
        if not widget.ui.resultsCollapsibleButton.visible:
            raise Failed("The panel does not show the result, whose nodes are in the scene.")
        labels = [getattr(widget.ui, label) for label in SUMMARIES if hasattr(widget.ui, label)]
        if not labels or not labels[0].text:
            raise Failed("The panel has no words about the result.")
        return {
            "summary": labels[0].text,
            "result": {key: each.GetName() for key, each in sorted(nodes.items())},
            "values": _values(node.parameterNode),
        }

    def save(self, run: Run):
        import slicer

        yield _settled()
        if not slicer.util.saveScene(str(self._scene)) or not self._scene.is_file():
            raise Failed("Slicer could not save the scene.")
        run.note(f"{self._scene.stat().st_size / 1e6:.1f} MB.")

    def close(self, run: Run):
        import slicer

        slicer.mrmlScene.Clear(0)
        yield Wait(
            "the panel shows no result", lambda: not self.widget.ui.resultsCollapsibleButton.visible
        )
        yield _settled()
        if self.widget._parameterNode is None or self.widget._parameterNode.run:
            raise Failed("The panel keeps the result of a scene that was closed.")

    def load(self, run: Run):
        import slicer

        slicer.util.loadScene(str(self._scene))
        yield Wait(
            "the panel shows the result", lambda: self.widget.ui.resultsCollapsibleButton.visible
        )
        self.widget.ui.showButton.click()
        yield _settled()
        for caption, widget in _views_and_panel():
            run.picture(caption, widget)
        now = self._state()
        for part in now:
            if now[part] != self._before[part]:
                raise Failed(
                    f"The {part} changed.\nSaved:\n{self._before[part]}\nLoaded:\n{now[part]}"
                )

    def delete(self, run: Run):
        import slicer

        widget = self.widget
        yield _settled()
        result = widget._parameterNode.run
        # The panel asks first, and in testing mode Slicer answers that question with no.
        with unittest.mock.patch.object(slicer.util, "confirmOkCancelDisplay", _yes):
            widget.ui.deleteRunButton.click()
        yield Wait("the result's nodes are gone", lambda: not widget.logic.resultNodes(result))
        yield Wait(
            "the panel shows no result", lambda: not widget.ui.resultsCollapsibleButton.visible
        )


def _yes(*_arguments, **_keywords) -> bool:
    return True


def plain(text: str) -> str:
    """A label's text without its HTML."""
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<br\s*/?>|</p>", "\n", text)))


def _settled() -> Wait:
    """Some turns of the event loop, for views and panel to draw themselves."""
    begun = time.monotonic()
    return Wait("Slicer has settled", lambda: time.monotonic() - begun > SETTLE_S)


def _values(node) -> dict:
    """All that a parameter node keeps: its parameters, and the names of the nodes it refers to."""
    values = {name: node.GetParameter(name) for name in sorted(node.GetParameterNames())}
    roles = []
    node.GetNodeReferenceRoles(roles)
    for role in sorted(roles):
        nodes = (
            node.GetNthNodeReference(role, index)
            for index in range(node.GetNumberOfNodeReferences(role))
        )
        values[f"node of {role}"] = [each.GetName() for each in nodes if each is not None]
    return values


# Images that are made up, and settings for a short run


def _made_up_ideal_input(module, widget):
    nodes = module.IdealInputTest().madeUpVolumes(widget._card)
    for role, node in nodes.items():
        node.SetName(f"Made up, {role}")
        node.SetAttribute(module.CHANNEL, role)
    widget.initializeParameterNode()


def _made_up_invariances(module, widget):
    widget._parameterNode.lowDose = module.InvariancesTest().madeUpVolume()


def _made_up_harmonize(module, widget):
    widget._parameterNode.sourceVolume = module.MRFlowHarmonizeTest().madeUpVolume()
    widget._parameterNode.force = True  # no network knows such a brain


def _short_ideal_input(node):
    node.maxEvaluations, node.knobs, node.validity = 10, False, False


def _short_invariances(node):
    node.samples, node.projected, node.shown = 6, 2, 2
    node.flow, node.noise = False, True


MADE_UP = {
    "IdealInput": _made_up_ideal_input,
    "Invariances": _made_up_invariances,
    "MRFlowHarmonize": _made_up_harmonize,
}
SHORT = {
    "IdealInput": _short_ideal_input,
    "Invariances": _short_invariances,
    "MRFlowHarmonize": lambda node: None,
}


# Start and end


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="in_slicer.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--page",
        type=Path,
        help="file to write; default NetInversion-in-Slicer.html in the present folder",
    )
    parser.add_argument("--modules", nargs="+", choices=MODULES, default=MODULES, help="only these")
    parser.add_argument(
        "--made-up", action="store_true", help="small made-up images instead of the samples"
    )
    parser.add_argument("--short", action="store_true", help="few iterations")
    parser.add_argument(
        "--limit",
        type=float,
        default=0.0,
        help="seconds that a step may take at most; default: its own limit",
    )
    return parser.parse_args(words[1:] if words[:1] == ["--"] else words)


def page_path(wanted: Path | None) -> Path:
    if wanted:
        return wanted.resolve()
    folder = Path.cwd() if os.access(Path.cwd(), os.W_OK) else Path(tempfile.gettempdir())
    return folder / "NetInversion-in-Slicer.html"


def start(root: Path) -> Run:
    """Begin; Slicer's event loop does the rest, and ends Slicer."""
    import slicer

    slicer.app.commandOptions().runPythonAndExit = False  # testing mode would end Slicer now
    options = arguments(sys.argv[1:])
    folder = tempfile.TemporaryDirectory(prefix="netinversion-", ignore_cleanup_errors=True)
    checks = [PanelCheck(name, options, Path(folder.name)) for name in options.modules]
    steps = [
        Step("The modules are loaded", 120, load_modules(options.modules, root)),
        Step("The packages are there", 120, check_packages),
        *(step for check in checks for step in check.steps()),
    ]

    def ended(code: int) -> None:
        folder.cleanup()
        slicer.util.exit(code)

    run = Run(steps, page_path(options.page), root, ended)
    run.start()
    return run


if __name__ == "__main__":
    running = importlib.import_module(Path(__file__).stem).start(
        Path(__file__).resolve().parents[1]
    )
