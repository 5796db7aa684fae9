"""The language that people read: every message of library and panel passes through ``tr``.

Texts are written in English where they arise. A language is one file, ``languages/de.json`` say: an
object of English texts and what they are in it. A text with names in braces, "{count} samples are
shown", stands for all messages of that form, also for those that the library has filled in already;
its translation has the same names. What a catalogue does not hold stays English.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "languages"
VARIABLE = "NETINVERSION_LANGUAGE"
"""Environment variable that names a language, such as "de"; it counts before the application's."""
_FORMAT = re.compile(r"\{(\w+)[:!][^}]*\}")
_BRACKET = re.compile(r"(.+) \(([^()]+)\)", re.DOTALL)
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?:]) (?=[A-Z0-9'\"])")


class Catalogue:
    """The texts of one language.

    Args:
        texts: Translations by English text.
    """

    def __init__(self, texts: dict[str, str]):
        self.texts = texts
        forms = sorted((text for text in texts if "{" in text), key=_literal, reverse=True)
        # What is filled in is text already, which takes no format.
        self.forms = [(_pattern(text), _FORMAT.sub(r"{\1}", texts[text])) for text in forms]

    def tr(self, text: str) -> str:
        """A text in this language; sentence by sentence where it is not known as a whole."""
        whole = self._known(text)
        if whole is not None:
            return whole
        sentences = _BETWEEN_SENTENCES.split(text)
        return " ".join(self._known(one) or one for one in sentences)

    def title(self, text: str) -> str:
        """A title or a heading in this language; part by part where it is not known as a whole.

        Parts are what stands in a last pair of brackets, what commas part, and what is filled in.
        """
        whole = self._known(text, self.title)
        if whole is not None:
            return whole
        bracket = _BRACKET.fullmatch(text)
        if bracket:
            return f"{self.title(bracket[1])} ({self.title(bracket[2])})"
        first, comma, last = text.rpartition(", ")
        return f"{self.title(first)}, {self.title(last)}" if comma else text

    def _known(self, text: str, of_part: Callable[[str], str] = str) -> str | None:
        if text in self.texts:
            return self.texts[text]
        for pattern, translation in self.forms:
            found = pattern.fullmatch(text)
            # A name stands for a word or some, never for the rest of another sentence.
            if found and not any(map(_BETWEEN_SENTENCES.search, found.groups())):
                parts = {name: of_part(part) for name, part in found.groupdict().items()}
                return translation.format(**parts)
        return None


def _literal(text: str) -> int:
    """How many letters a text has outside of its braces: the more, the better it fits."""
    return len(re.sub(r"\{[^}]*\}", "", text))


def _pattern(text: str) -> re.Pattern[str]:
    """All messages of a text's form; a format after a colon, as in "{share:g}", says nothing."""
    parts: list[str] = []
    seen: set[str] = set()
    for literal, name in re.findall(r"([^{]*)(?:\{(\w+)(?:[:!][^}]*)?\})?", text):
        parts.append(re.escape(literal))
        if name:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>.+?)")
            seen.add(name)
    return re.compile("".join(parts), re.DOTALL)


@lru_cache(maxsize=8)
def catalogue(language: str, folder: Path = FOLDER) -> Catalogue:
    """The catalogue of a language, such as "de" or "de_AT"; an empty one where there is none.

    Raises:
        ValueError: The file is no catalogue; says which.
    """
    for name in (language, language.split("_")[0].split("-")[0]):
        path = folder / f"{name}.json"
        if re.fullmatch(r"\w+", name) and path.is_file():
            return Catalogue(_read(path))
    return Catalogue({})


def _read(path: Path) -> dict[str, str]:
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is no catalogue of texts: {error}") from error
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"{path.name} is no catalogue of texts: it must hold texts by text")
    for text, translation in texts.items():
        names, used = (set(re.findall(r"\{(\w+)", one)) for one in (text, translation))
        if not used <= names:
            raise ValueError(f"{path.name}: the translation of {text!r} names what is not in it")
    return texts


_chosen = ""


def use(language: str) -> None:
    """Have texts told in a language from here on; "" for English."""
    global _chosen
    _chosen = language


def tr(text: str) -> str:
    """A message of library or panel in the language that was chosen."""
    language = os.environ.get(VARIABLE) or _chosen
    return catalogue(language).tr(text) if language else text


def title(text: str) -> str:
    """A title or heading that the library made, in the language that was chosen.

    Files, keys and saved scenes keep the English one: machines read it.
    """
    language = os.environ.get(VARIABLE) or _chosen
    return catalogue(language).title(text) if language else text
