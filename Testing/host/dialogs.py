"""Modal dialogs never block: each is noted in ``shown`` and answered from ``replies``.

An unexpected one raises, because in a test nobody would ever press its button.
"""

shown: list[dict] = []  # every dialog: {"class", "title", "text"}
replies: list = []  # what exec() and the static dialog functions return, first come first served

STATIC = {
    "QColorDialog": ["getColor"],
    "QMessageBox": ["about", "critical", "information", "question", "warning"],
    "QFileDialog": [
        "getExistingDirectory",
        "getOpenFileName",
        "getOpenFileNames",
        "getSaveFileName",
    ],
    "QInputDialog": ["getDouble", "getInt", "getItem", "getText"],
}


def execute(dialog):
    """``dialog.exec_()``."""
    texts = (
        str(getattr(dialog, p))
        for p in ("text", "informativeText", "labelText")
        if hasattr(dialog, p)
    )
    return _reply(dialog.className(), dialog.windowTitle, "\n".join(filter(None, texts)))


def static(class_name, function):
    """``qt.QMessageBox.question(parent, title, text)`` and the like."""

    def ask(*arguments, **keywords):
        texts = [a for a in [*arguments, *keywords.values()] if isinstance(a, str)]
        return _reply(f"{class_name}.{function}", "", "\n".join(texts))

    return staticmethod(ask)


def _reply(class_name, title, text):
    shown.append({"class": class_name, "title": title, "text": text})
    if not replies:
        raise AssertionError(
            f"A dialog waits for an answer that no test gives (qt.replies): {shown[-1]}"
        )
    return replies.pop(0)
