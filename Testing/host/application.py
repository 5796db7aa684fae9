"""Starting the host: ``slicer.app``, modules, the event loop and panel pictures."""

import atexit
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
import time
import traceback
import types
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
REPOSITORY = Path(__file__).resolve().parents[2]
PANEL_WIDTH = 500  # pixels, what Slicer gives its module panel on a common screen

import slicer  # noqa: E402
import slicer.util  # noqa: E402
from PySide6 import QtCore, QtGui, QtWidgets  # noqa: E402  (after the platform is chosen)

from . import i18n, qt  # noqa: E402
from .plots import save_picture  # noqa: E402
from .pythonqt import emit, wrap  # noqa: E402
from .views import Strict, Views  # noqa: E402

# Tracebacks of exceptions that slots, timers and MRML observers raised since the last clear().
errors: list[str] = []


def temporary_folder() -> str:
    """A new folder that goes when the process ends."""
    folder = tempfile.mkdtemp(prefix="netinversion-host-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class _Application(QtCore.QObject):
    """``slicer.app``."""

    startupCompleted = QtCore.Signal()

    applicationName = QtCore.Property(str, lambda self: "Slicer")
    applicationVersion = QtCore.Property(str, lambda self: "5.10.0")
    majorVersion = QtCore.Property(int, lambda self: 5)
    minorVersion = QtCore.Property(int, lambda self: 10)
    revision = QtCore.Property(str, lambda self: "the stand-in of the tests, not Slicer")
    applicationLocaleName = QtCore.Property(str, lambda self: "en_US")
    temporaryPath = QtCore.Property(str, lambda self: self._temporary)
    slicerHome = QtCore.Property(str, lambda self: self._temporary)
    documentationBaseUrl = QtCore.Property(
        str, lambda self: "https://slicer.readthedocs.io/en/latest/"
    )

    def __init__(self):
        super().__init__()
        self._temporary = temporary_folder()
        self._testing, self._modules = True, modules_manager()
        self._options = CommandOptions()
        self._python = PythonConsole()

    def translate(self, context, text):
        return text

    def _open_module(self, name):
        """The host's own: the module selector of the main window ends here."""
        open_module(name)

    def moduleManager(self):
        return self._modules

    def commandOptions(self):
        return self._options

    def exit(self, code=0):
        QtCore.QCoreApplication.exit(code)

    def layoutManager(self):
        return slicer.views

    def applicationLogic(self):
        return slicer.views.application_logic

    def coreIOManager(self):
        from . import files

        return files

    ioManager = coreIOManager

    def mrmlScene(self):
        return slicer.mrmlScene

    def testingEnabled(self):
        return self._testing

    def setTestingEnabled(self, enabled):
        """Not in Slicer: tests use it to see the dialogs that testing mode hides."""
        self._testing = enabled

    def processEvents(self, *_):
        QtWidgets.QApplication.processEvents()

    def setOverrideCursor(self, cursor):
        QtWidgets.QApplication.setOverrideCursor(cursor)

    def restoreOverrideCursor(self):
        QtWidgets.QApplication.restoreOverrideCursor()

    def topLevelWidgets(self):
        return QtWidgets.QApplication.topLevelWidgets()

    def userSettings(self):
        return qt.QSettings()

    settings = userSettings

    def pythonConsole(self):
        return self._python

    def startupEnvironment(self):
        return dict(os.environ)

    def moduleDocumentationUrl(self, name):
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def pauseRender(self):
        pass

    resumeRender = restart = pauseRender


class CommandOptions(Strict):
    """``slicer.app.commandOptions()``.

    ``slicer.util.exit`` tells it that a script ends the application itself.
    """

    __slots__ = ("runPythonAndExit",)

    def __init__(self):
        self.runPythonAndExit = False


class PythonConsole(Strict):
    """Only what a log needs."""

    def clear(self):
        pass


class _ModuleManager(QtCore.QObject):
    moduleLoaded = QtCore.Signal(str)
    moduleAboutToBeUnloaded = QtCore.Signal(str)

    def __init__(self):
        super().__init__()
        self._loaded, self._registered = {}, {}

    def module(self, name):
        return self._loaded.get(name)

    def factoryManager(self):
        return self

    def loadedModuleNames(self):
        return tuple(self._loaded)

    # Of the factory manager

    def registerModule(self, info):
        path = Path(info.absoluteFilePath())
        if path.is_file():
            self._registered[path.stem] = path

    def isRegistered(self, name):
        return name in self._registered

    def loadModules(self, names):
        """True if all could be loaded.

        As in Slicer, startupCompleted is over by now and does not come again.
        """
        for name in names:
            try:
                add_module(self._registered[name])
            except Exception:
                traceback.print_exc()
                return False
        return True


def modules_manager():
    return wrap(_ModuleManager, "qSlicerModuleManager")()


class _Modules(types.SimpleNamespace):
    """``slicer.modules``."""

    def __getattr__(self, name):
        raise AttributeError(f"slicer.modules.{name}: no such module is loaded in the test host")


class qSlicerScriptedLoadableModule(Strict):
    """What a scripted module's constructor gets as ``parent``.

    Only the names that Slicer knows can be set.
    """

    __slots__ = (
        "title",
        "categories",
        "dependencies",
        "contributors",
        "helpText",
        "acknowledgementText",
        "icon",
        "path",
        "hidden",
        "index",
        "associatedNodeTypes",
        "name",
        "widgetRepresentationCreationEnabled",
        "_python",
        "_source",
        "_page",
    )

    def __init__(self, path: Path):
        self.path, self.name, self._page = str(path), path.stem, None
        self.title, self.categories, self.dependencies, self.contributors = "", [], [], []
        self.hidden, self.icon, self._source = False, qt.QIcon(), _import(path)
        self._python = getattr(self._source, self.name)(self)

    def widgetRepresentation(self):
        """The module's page in the module panel, made and set up at the first call."""
        if self._page is None:
            self._page = self.createNewWidgetRepresentation()
        return self._page

    def createNewWidgetRepresentation(self):
        page = slicer.qSlicerScriptedLoadableModuleWidget()
        page.setLayout(qt.QVBoxLayout())
        page.setMRMLScene(slicer.mrmlScene)
        self._page = page
        page.setup(lambda parent: getattr(sys.modules[self.name], self.name + "Widget")(parent))
        return page

    def logic(self):
        return None


def _import(path: Path):
    """Import a module file as Slicer's module factory does.

    Its own folder goes to the end of sys.path first.
    """
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    source = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(source)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return source


# Start and end


def start():
    """Make this process look like Slicer: idempotent; a later call only clears the scene."""
    if hasattr(slicer, "app"):
        clear()
        return
    _start_qt()
    sys.modules["qt"] = qt
    from . import ctk

    sys.modules["ctk"] = ctk
    slicer.selfTests, slicer.modules = {}, _Modules()
    from . import mrml_widgets, ui_files

    qt.QUiLoader = ui_files.QUiLoader
    vars(slicer).update(
        mrml_widgets.HERE, qSlicerScriptedLoadableModule=qSlicerScriptedLoadableModule
    )
    slicer.app = wrap(_Application, "qSlicerApplication")()
    from . import viewport

    slicer.views = Views(slicer.app.temporaryPath, viewport.viewport)
    slicer.app._main_window = slicer.qSlicerMainWindow()
    slicer.app._main_window.objectName = "qSlicerMainWindow"
    _install_python_files()
    from . import sample_data

    sys.modules["SampleData"] = sample_data
    _record_errors()


def _print_qt_message(kind, context, text):
    if "propagateSizeHints" not in text:  # the offscreen platform says so for every window
        print(text, file=sys.stderr)


def _start_qt():
    QtCore.qInstallMessageHandler(_print_qt_message)
    QtCore.QLocale.setDefault(
        QtCore.QLocale.c()
    )  # as Slicer does: a point in numbers in every country
    QtCore.QCoreApplication.setOrganizationName("NetInversion")
    QtCore.QCoreApplication.setApplicationName("host")
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
    QtCore.QSettings.setPath(
        QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, temporary_folder()
    )
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["host"])
    application.setStyle("Fusion")
    if hasattr(application.styleHints(), "setColorScheme"):  # Qt 6.8
        application.styleHints().setColorScheme(QtCore.Qt.ColorScheme.Light)
    # A machine without fonts draws no text offscreen; matplotlib brings one, and pictures are alike
    # everywhere.
    import matplotlib

    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    QtGui.QFontDatabase.addApplicationFont(str(font))
    application.setFont(QtGui.QFont("DejaVu Sans", 9))


def _install_python_files():
    """Put the module base classes into ``slicer``.

    They are the host's, or Slicer's own from SLICER_BASE_PYTHON.
    """
    names = ("i18n", "parameterNodeWrapper", "ScriptedLoadableModule")
    base = os.environ.get("SLICER_BASE_PYTHON")
    if base:
        if not (Path(base) / "slicer" / "ScriptedLoadableModule.py").is_file():
            raise FileNotFoundError(
                f"SLICER_BASE_PYTHON={base} has no slicer/ScriptedLoadableModule.py"
            )
        slicer.__path__.append(str(Path(base) / "slicer"))
        for name in names:
            importlib.import_module(f"slicer.{name}")
        return
    sys.modules["slicer.i18n"] = slicer.i18n = i18n
    from . import parameter_node, scripted_module

    for name, module in zip(names, (i18n, parameter_node, scripted_module)):
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)


def _record_errors():
    """Record the exceptions of slots and observers.

    PythonQt and VTK print them through sys.excepthook and go on.
    """
    previous = sys.excepthook

    def hook(kind, value, trace):
        errors.append("".join(traceback.format_exception(kind, value, trace)))
        previous(kind, value, trace)

    sys.excepthook = hook


def clear():
    """Unload all modules and give a scene as at start; forget errors, dialogs and replies."""
    for name in slicer.app.moduleManager().loadedModuleNames():
        unload_module(name)
    vars(slicer.modules).pop("sampleDataSources", None)
    slicer.views.clear()
    errors.clear()
    qt.dialogs.clear()
    qt.replies.clear()
    slicer.app.setTestingEnabled(True)
    while QtWidgets.QApplication.overrideCursor() is not None:
        QtWidgets.QApplication.restoreOverrideCursor()


def close():
    """Close the scene as File > Close Scene does; modules stay."""
    slicer.mrmlScene.Clear(0)


# Modules


def find_module(name_or_path) -> Path:
    """A module's file.

    It is looked for in the flat folder NETINVERSION_MODULES if that is set, else in the source
    tree.
    """
    path = Path(name_or_path)
    if path.suffix == ".py":
        return path.resolve()
    installed = os.environ.get("NETINVERSION_MODULES")
    path = Path(installed) / f"{path}.py" if installed else REPOSITORY / path / f"{path}.py"
    if not path.is_file():
        raise FileNotFoundError(f"No module file {path}")
    return path.resolve()


def load_module(name_or_path):
    """Load a scripted module and register it as ``slicer.modules.<name>``.

    It is given by name, or by the path of its .py.
    """
    path = find_module(name_or_path)
    manager = slicer.app.moduleManager()
    if manager.module(path.stem) is None:
        add_module(path)
        emit(slicer.app, "startupCompleted()")
        slicer.app.startupCompleted.disconnect()  # each module hears of it once
    return manager.module(path.stem)


def add_module(path: Path):
    """What Slicer's module factory does with one file."""
    manager, module = slicer.app.moduleManager(), qSlicerScriptedLoadableModule(path)
    manager._loaded[module.name] = module
    setattr(slicer.modules, module.name.lower(), module)
    emit(manager, "moduleLoaded(QString)", module.name)


def open_module(name_or_path):
    """Load a module if needed, leave the one that is open, enter this one.

    Returns its Python widget.
    """
    manager = slicer.app.moduleManager()
    module = manager.module(str(name_or_path)) or load_module(name_or_path)
    for other in manager._loaded.values():
        if other is not module and other._page is not None and other._page.isEntered:
            other._page.exit()
    page = module.widgetRepresentation()
    if not page.isEntered:
        page.enter()
    return page.self()


def unload_module(name):
    """What Slicer does with a module when it quits: exit, cleanup, delete."""
    manager = slicer.app.moduleManager()
    module = manager.module(name)
    if module._page is not None and module._page.isEntered:
        module._page.exit()
    emit(manager, "moduleAboutToBeUnloaded(QString)", name)
    if module._page is not None:
        vars(slicer.modules).pop(name + "Widget", None)
        module._page._retire()
    del manager._loaded[name]
    vars(slicer.modules).pop(name.lower(), None)
    slicer.selfTests.pop(name, None)
    sys.modules.pop(name, None)


def shown_text(text: str) -> str:
    """What a label, a tooltip or a dialog shows of a text.

    What looks like HTML to Qt is HTML there.
    """
    if not QtGui.Qt.mightBeRichText(text):
        return text
    document = QtGui.QTextDocument()
    document.setHtml(text)
    return document.toPlainText()


# The event loop


@dataclass
class Waited:
    elapsed_s: float
    # The longest time in which the event loop was not served though this thread could run.
    largest_gap_s: float


def _clock() -> float:
    """Seconds in which this thread had a processor or did not want one.

    Those in which it was ready but other programs had the processors are left out (Linux tells).
    """
    try:
        kept_waiting = int(Path("/proc/thread-self/schedstat").read_text().split()[1]) * 1e-9
    except OSError:
        kept_waiting = 0.0
    return time.perf_counter() - kept_waiting


def wait(condition, timeout_s: float = 10.0, message: str = "") -> Waited:
    """Serve the event loop until ``condition()`` holds.

    TimeoutError, with the recorded errors, if it never does.
    """
    begin, last = time.perf_counter(), _clock()
    largest = 0.0
    timer = QtCore.QTimer()
    timer.setInterval(2)
    ticks = []
    timer.timeout.connect(lambda: ticks.append(_clock()))
    timer.start()
    while True:
        QtWidgets.QApplication.processEvents(QtCore.QEventLoop.ProcessEventsFlag.WaitForMoreEvents)
        for tick in [*ticks, _clock()]:
            largest, last = max(largest, tick - last), tick
        ticks.clear()
        if condition():
            return Waited(time.perf_counter() - begin, largest)
        if time.perf_counter() - begin > timeout_s:
            raise TimeoutError(
                f"{message or 'The condition'} did not hold within {timeout_s} s\n"
                + "\n".join(errors)
            )


def grab(widget, path, width: int = PANEL_WIDTH) -> Path:
    """Save a picture of a panel as wide as Slicer's module panel, as high as it wants to be."""
    QtWidgets.QWidget.resize(widget, width, max(QtWidgets.QWidget.sizeHint(widget).height(), 50))
    widget.show()
    for _ in range(3):
        QtWidgets.QApplication.processEvents()
    height = QtWidgets.QWidget.sizeHint(widget).height()
    QtWidgets.QWidget.resize(widget, width, height)
    QtWidgets.QApplication.processEvents()
    return save_picture(QtWidgets.QWidget.grab(widget), path)
