"""``python -m host`` in place of ``Slicer``: executes a script, then serves the event loop.

    python -m host --no-splash --testing --python-script FILE [-- ARGUMENTS]
    python -m host --additional-module-paths FOLDER ... --python-script FILE

Of Slicer's options it has these only.
"""

import argparse
import os
import sys
from pathlib import Path

import host

host.start()

import slicer  # noqa: E402
from PySide6 import QtCore, QtWidgets  # noqa: E402


def main(words) -> int:
    words, rest = (
        (words[: words.index("--")], words[words.index("--") + 1 :])
        if "--" in words
        else (words, [])
    )
    parser = argparse.ArgumentParser(prog="python -m host")
    parser.add_argument("--no-splash", action="store_true")
    parser.add_argument("--testing", action="store_true")
    parser.add_argument("--python-script", required=True)
    parser.add_argument("--additional-module-paths", nargs="+", default=[])
    options = parser.parse_args(words)
    slicer.app.setTestingEnabled(options.testing)
    for folder in options.additional_module_paths:
        for path in sorted(Path(folder).glob("*.py")):
            host.load_module(path)
    sys.argv = [options.python_script, *rest]
    QtCore.QTimer.singleShot(0, lambda: _execute(options))
    code = QtWidgets.QApplication.exec()
    if options.testing and host.errors:  # as Slicer: what a slot raised makes testing mode fail
        code = code or 1
    host.clear()
    return code


def _execute(options) -> None:
    """As ctkAbstractPythonManager::executeFile does, in the namespace of the Python console."""
    slicer.app.commandOptions().runPythonAndExit = options.testing
    folder = str(Path(options.python_script).resolve().parent)
    sys.path.insert(0, folder)
    failed = True
    try:
        names = vars(sys.modules["__main__"])
        names["__file__"] = options.python_script
        exec(open(options.python_script).read(), names)
        failed = False
    finally:
        sys.path.remove(folder)
        if slicer.app.commandOptions().runPythonAndExit:
            slicer.app.exit(int(failed))


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Python's own end takes Qt's and VTK's objects down in an order that may crash
