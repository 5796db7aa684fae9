"""``slicer.i18n``: translations go through ``slicer.app.translate``.

In the host that returns the text itself.
"""

import inspect
from pathlib import Path


def translate(context, text):
    import slicer

    return slicer.app.translate(context, text)


def getContext(source_file):
    """The translation context of a Python file.

    It is its name, with the package in front if it is in one.
    """
    path = Path(source_file)
    return (
        f"{path.parent.name}.{path.stem}" if (path.parent / "__init__.py").is_file() else path.stem
    )


def tr(text):
    if not isinstance(text, str):
        raise TypeError(f"tr() translates a str, got {type(text).__name__}")
    return translate(getContext(inspect.currentframe().f_back.f_code.co_filename), text)
