"""Reports of results, the same in every module.

They take two buttons in the panel, one call in the console.
"""

from __future__ import annotations

import importlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
import slicer

from ..scene import read, runs
from .words import tr as _

Nodes = Mapping[str, Any]
"""The nodes of a result by their keys."""


class ReportLogic:
    """Part of a module's logic that writes the report of a result; see ``logic.ModuleLogic``."""

    if TYPE_CHECKING:
        moduleName: str
        TITLE: str

    REPORT = ""
    """Library file with ``write(result, source, path)``, such as "harmonize.report"."""

    REPORT_NEEDS_SOURCE = False
    """Whether there is no report without the volume that the result was made of."""

    def sourceOf(self, nodes: Nodes) -> slicer.vtkMRMLNode | None:
        """The volume that a result was made of; None if it has left the scene."""
        references = (node.GetNodeReference(f"{self.moduleName}.input") for node in nodes.values())
        return next((node for node in references if node is not None), None)

    def reportOf(self, nodes: Nodes) -> str:
        """The library file that writes the report of a result."""
        return self.REPORT

    def reportProblem(self, nodes: Nodes) -> str:
        """Why a result has no report, and what to do; "" if it has one."""
        if not nodes:
            return _("There is no result yet. Press Apply first.")
        if "facts" not in nodes:
            return _(
                "The text with the result's figures was removed from the scene, and the report "
                "needs it. Run {title} again."
            ).format(title=self.TITLE)
        if self.REPORT_NEEDS_SOURCE and self.sourceOf(nodes) is None:
            return _(
                "The source volume was removed from the scene, and the report needs it. Run "
                "{title} again."
            ).format(title=self.TITLE)
        return ""

    def saveReport(self, nodes: Nodes, path: str | Path) -> Path:
        """Write a result's report, one HTML page that needs no other file.

        Args:
            nodes: As in ``run(...).nodes``, also of a scene that was saved and opened again.
            path: File to write; an older one is replaced.

        Returns:
            The file.

        Raises:
            ValueError: Something of the result was removed from the scene; says what to do.
            OSError: The file cannot be written.
            packages.PackagesMissing: matplotlib is missing and was not installed.
        """
        from . import packages  # which imports this file

        problem = self.reportProblem(nodes)
        if problem:
            raise ValueError(problem)
        packages.ensure_packages(self.TITLE, {"matplotlib": "3.6"})
        source = self.sourceOf(nodes)
        volume = read.volume_from_node(source) if source is not None else None
        report = importlib.import_module(f"NetInversionLib.{self.reportOf(nodes)}")
        return report.write(runs.result_from_nodes(nodes), volume, path)

    def reportName(self, nodes: Nodes) -> str:
        """A file name to offer."""
        source = self.sourceOf(nodes)
        name = source.GetName() if source is not None else _("result")
        return re.sub(r'[\\/:*?"<>|]', "-", f"{name} {self.TITLE}.html")


class ReportPanel:
    """Part of a module's widget with the buttons Save report and Show report.

    See ``panel.ModulePanel``.
    """

    if TYPE_CHECKING:
        moduleName: str
        logic: Any
        ui: Any
        _parameterNode: Any

        def say(self, message: str) -> None: ...
        def fail(self, message: str, details: str = "") -> None: ...

    _shownReports: tempfile.TemporaryDirectory | None = None
    """Folder of the pages that are open in the web browser."""

    def forgetReports(self) -> None:
        """Remove the pages that were shown."""
        if self._shownReports is not None:
            self._shownReports.cleanup()
            self._shownReports = None

    def addReportButtons(self) -> None:
        """Two buttons, the last row of the section with results."""
        row = qt.QWidget()
        layout = qt.QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        tip = _("One HTML page with pictures, figures, settings and a paragraph for the methods.")
        for name, text, what, pressed in (
            ("saveReportButton", _("Save report..."), tip, self.onSaveReport),
            (
                "showReportButton",
                _("Show report"),
                _("Open the page in the web browser."),
                self.onShowReport,
            ),
        ):
            button = qt.QPushButton(text)
            button.objectName = name
            button.setProperty("tip", what)
            button.connect("clicked(bool)", pressed)
            layout.addWidget(button)
            setattr(self.ui, name, button)
        self.ui.resultsCollapsibleButton.layout().addRow(row)

    def showReportButtons(self, nodes: Nodes) -> None:
        """The buttons can be pressed when there is a result to report."""
        problem = self.logic.reportProblem(nodes)
        for button in (self.ui.saveReportButton, self.ui.showReportButton):
            button.enabled = not problem
            button.toolTip = problem or button.property("tip")

    def onSaveReport(self, clicked: bool = False) -> None:
        """Ask for a file and write the report of the shown result."""
        nodes = self.logic.resultNodes(self._parameterNode.run)
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(),
            _("Save report"),
            self.logic.reportName(nodes),
            _("Web page") + " (*.html)",
        )
        if not path:
            return
        if not path.lower().endswith((".html", ".htm")):
            path += ".html"
        if self._writeReport(nodes, path):
            self.say(_("The report was saved as {path}.").format(path=path))

    def onShowReport(self, clicked: bool = False) -> None:
        """Write the report of the shown result and open it in the web browser."""
        nodes = self.logic.resultNodes(self._parameterNode.run)
        if self._shownReports is None:
            # It shows a patient: nobody else may read it, and it goes when the panel does.
            self._shownReports = tempfile.TemporaryDirectory(
                prefix="netinversion-", dir=slicer.app.temporaryPath, ignore_cleanup_errors=True
            )
        path = Path(self._shownReports.name) / f"NetInversion-{self.moduleName}.html"
        if not self._writeReport(nodes, path):
            return
        if qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path))) is False:
            self.fail(
                _("No web browser could be opened. The report is {path}: open it yourself.").format(
                    path=path
                )
            )

    def _writeReport(self, nodes: Nodes, path: str | Path) -> bool:
        from . import packages  # which imports this file

        try:
            with slicer.util.WaitCursor():
                self.logic.saveReport(nodes, path)
        except (ValueError, packages.PackagesMissing) as error:
            self.fail(str(error))
            return False
        except OSError as error:
            self.fail(
                _(
                    "The report could not be written to {path} ({reason}). Choose another folder."
                ).format(path=path, reason=error.strerror or error)
            )
            return False
        return True
