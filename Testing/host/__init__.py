"""A small, strict stand-in for the Slicer application, for tests and for the demo.

Module files run here unmodified: MRML, its logics and ``slicer.util`` are the real ones (wheel
``slicer-core``), Qt is PySide6 seen as through PythonQt, and what only the application has (module
base classes, parameter node wrapper, qMRML and ctk widgets, ``slicer.app``) is written here. What
the host does not support raises; it never pretends.

    import host host.start()                              # a scene, slicer, qt, ctk, SampleData
    widget = host.open_module("IdealInput")   # load (once), setup, enter; the module's own widget
    object gap = host.wait(lambda: widget.logic.done, timeout_s=10).largest_gap_s
    host.grab(widget.parent, "panel.png") host.render_slice_views("slices.png", [volumeA, volumeB])

``python -m host --python-script FILE`` starts in place of ``Slicer`` and executes a script.

With ``SLICER_BASE_PYTHON`` naming the ``Base/Python`` folder of a Slicer source checkout, Slicer's
own ScriptedLoadableModule, parameterNodeWrapper and i18n take the place of the host's.
"""

from .application import (
    clear,
    close,
    errors,
    grab,
    load_module,
    open_module,
    shown_text,
    start,
    unload_module,
    wait,
)
from .plots import render_plot
from .rendering import render_slice_views

__all__ = [
    "clear",
    "close",
    "errors",
    "grab",
    "load_module",
    "open_module",
    "render_plot",
    "render_slice_views",
    "shown_text",
    "start",
    "unload_module",
    "wait",
]
