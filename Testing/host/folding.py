"""How CTK's sections hide what they hold while they are closed.

The sections are ctkCollapsibleButton and ctkCollapsibleGroupBox.
"""

from PySide6 import QtCore, QtWidgets
from shiboken6 import Shiboken

CREATED = QtCore.Qt.WidgetAttribute.WA_WState_Created
EXPLICIT = QtCore.Qt.WidgetAttribute.WA_WState_ExplicitShowHide
HIDDEN = QtCore.Qt.WidgetAttribute.WA_WState_Hidden
ASKED = (
    "visibilityToParent"  # CTK's own dynamic property: what was last asked of a child by setVisible
)


class Folding:
    """A section that folds.

    What is hidden inside of it stays hidden when it opens, and what is shown while it is closed
    appears when it opens. Nothing is hidden before the section itself is first shown.
    """

    def _fold_children(self):
        for child in QtCore.QObject.children(self):
            if isinstance(child, QtWidgets.QWidget):
                self._fold(child)

    def _fold(self, child):
        if not QtWidgets.QWidget.testAttribute(self, CREATED):
            return
        self._forcing = True
        asked = QtCore.QObject.property(child, ASKED)
        visible = not self.collapsed and asked is not False
        if QtWidgets.QWidget.testAttribute(child, CREATED) or not visible:
            QtWidgets.QWidget.setVisible(child, visible)
        if asked is not False:  # not as if the panel had asked for it
            QtWidgets.QWidget.setAttribute(child, EXPLICIT, False)
        self._forcing = False

    def childEvent(self, event):
        child = event.child()
        if event.added() and isinstance(child, QtWidgets.QWidget):
            if all(QtWidgets.QWidget.testAttribute(child, flag) for flag in (EXPLICIT, HIDDEN)):
                QtCore.QObject.setProperty(child, ASKED, False)
            QtCore.QObject.installEventFilter(child, self)
            self._fold(child)
        super().childEvent(event)

    def setVisible(self, visible):
        self._forcing = True
        super().setVisible(visible)
        self._forcing = False
        if "_seen" not in vars(self) and QtWidgets.QWidget.testAttribute(self, CREATED):
            self._seen = True
            self._fold_children()

    def eventFilter(self, child, event):
        if not Shiboken.isValid(self) or vars(self).get("_forcing"):
            return False
        if event.type() == QtCore.QEvent.Type.ShowToParent:
            QtCore.QObject.setProperty(child, ASKED, True)
            self._fold(child)
        elif event.type() == QtCore.QEvent.Type.HideToParent:
            QtCore.QObject.setProperty(child, ASKED, False)
        return False
