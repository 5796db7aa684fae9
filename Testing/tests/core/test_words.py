"""Languages: one catalogue file is all that another language takes."""

import ast
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from extension import MODULES, PANELS

from NetInversionLib.core import page, words
from NetInversionLib.core.results import Table
from NetInversionLib.harmonize import reading
from NetInversionLib.panel import texts

ROOT = Path(__file__).resolve().parents[3]
TEXTS = {
    "Checks": "Prüfungen",
    "{done} of {count} volumes are done.": "{count} Volumen, {done} davon fertig.",
    "The run did not come to a verdict.": "Der Lauf kam zu keinem Urteil.",
    "{name} holds no air (lowest value {low:g}).": "In {name} ist keine Luft ({low}).",
    "{what} and {what}": "zweimal {what}",
    "error": "Fehler",
    "Error of {channel}, from {start}": "Fehler: {channel}, Anfang: {start}",
    "zeros": "Nullen",
    "{low:g} to {high:g} HU": "{low:g} bis {high:g} HE",
}


@pytest.fixture
def german(tmp_path, monkeypatch):
    """Texts are told in German, of which ``TEXTS`` are known."""
    (tmp_path / "de.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    known = words.catalogue("de_AT", tmp_path)
    monkeypatch.setattr(words, "catalogue", lambda language: known)
    monkeypatch.setenv(words.VARIABLE, "de_AT")


def test_messages_of_the_library_are_told_whether_filled_in_or_not(german):
    assert words.tr("Checks") == "Prüfungen"
    assert words.tr("3 of 4 volumes are done.") == "4 Volumen, 3 davon fertig."
    assert words.tr("{done} of {count} volumes are done.") == TEXTS[list(TEXTS)[1]]
    assert (
        words.tr("CT <b> holds no air (lowest value -12.5).") == "In CT <b> ist keine Luft (-12.5)."
    )
    assert (
        words.tr("this and this") == "zweimal this" and words.tr("this and that") == "this and that"
    )
    assert words.tr("No such text.") == "No such text."


def test_sentences_are_told_one_by_one(german):
    told = words.tr("1 of 2 volumes are done. Nobody knows this. 2 of 2 volumes are done.")
    assert told == "2 Volumen, 1 davon fertig. Nobody knows this. 2 Volumen, 2 davon fertig."


def test_titles_and_headings_are_told_part_by_part(german):
    assert words.title("Error of CT, from zeros") == "Fehler: CT, Anfang: Nullen"
    assert words.title("error, blurred (HU)") == "Fehler, blurred (HU)"
    assert words.title("zeros (error)") == "Nullen (Fehler)"
    assert words.title("MAE body (HU)") == "MAE body (HU)"
    assert words.title("") == ""
    # A message keeps what was filled in: it may be a name that the user gave.
    assert words.tr("Error of CT, from zeros") == "Fehler: CT, Anfang: zeros"


def test_a_number_that_is_filled_in_already_needs_no_format(german):
    assert words.tr("-1 to 2.5 HU") == "-1 bis 2.5 HE"
    assert words.tr("{low:g} to {high:g} HU").format(low=-1.0, high=2.5) == "-1 bis 2.5 HE"


def test_answers_and_pages_are_told(german):
    assert reading.answer({}, {}) == "Der Lauf kam zu keinem Urteil."
    assert page.heading("Checks") == "<h3>Prüfungen</h3>"
    table = Table("", {"error (HU)": [1.0], "kept": [2]})
    told = page.table(table, notes={"error (HU)": "Checks"})
    assert "<th>Fehler (HU)</th><th>kept</th>" in told and "Fehler (HU): Prüfungen" in told


def test_what_the_library_says_is_told_where_a_panel_shows_it(german):
    assert texts.literal("Checks\nNo such text.") == "Prüfungen\nNo such text."
    assert "&lt;b&gt; ist keine Luft" in texts.literal("CT <b> holds no air (lowest value -12.5).")


def test_without_a_language_texts_stay_as_they_are(monkeypatch):
    monkeypatch.delenv(words.VARIABLE, raising=False)
    words.use("")
    assert words.tr("Checks") == "Checks"
    words.use("xx")  # of which there is no catalogue
    try:
        assert words.tr("Checks") == "Checks"
    finally:
        words.use("")


@pytest.mark.parametrize("held", ["[", "[]", '{"a": 1}', '{"a {b}": "a {c}"}'])
def test_a_damaged_catalogue_is_told(tmp_path, held):
    (tmp_path / "la.json").write_text(held, encoding="utf-8")
    with pytest.raises(ValueError, match="la.json"):
        words.catalogue("la", tmp_path)


def test_a_name_of_a_language_is_no_path(tmp_path):
    (tmp_path / "secret.json").write_text('{"a": "b"}', encoding="utf-8")
    (tmp_path / "in").mkdir()
    assert not words.catalogue("../secret", tmp_path / "in").texts


def test_every_shipped_text_is_one_that_the_program_says():
    sources = [*ROOT.glob("NetInversionLib/**/*.py")]
    for module in MODULES:
        sources += (ROOT / module).rglob("*.py")
    said = {text for path in sources for text in _texts(ast.parse(path.read_text("utf-8")))}
    said |= {_form(text) for text in panel_texts()}
    for path in words.FOLDER.glob("*.json"):
        catalogue = words.catalogue(path.stem)
        assert catalogue.texts
        unknown = [text for text in catalogue.texts if _form(text) not in said]
        assert not unknown, f"{path.name} translates what is never said: {unknown}"


LANGUAGES = sorted(words.FOLDER.glob("*.json"))
WHOLE = [words.FOLDER / "de.json"]
"""Languages that must have every text of the panels; others may begin with a few."""
SHOWN = {
    "text",
    "title",
    "toolTip",
    "placeholderText",
    "noneDisplay",
    "prefix",
    "suffix",
    "specialValueText",
}


def panel_texts():
    """All texts of the .ui files that a user can see."""
    for path in ROOT.glob("*/Resources/UI/*.ui"):
        for shown in ElementTree.parse(path).iter("property"):
            text = shown.findtext("string")
            if shown.get("name") in SHOWN and text and text.strip():
                yield text


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_every_text_of_a_panel_is_in_a_whole_language(path):
    texts = words.catalogue(path.stem).texts
    shown = set(panel_texts())
    assert len(shown) > 150
    assert not shown - set(texts), f"add these to {path.name}"


@pytest.mark.parametrize("path", LANGUAGES, ids=lambda path: path.stem)
def test_a_translation_keeps_names_keys_and_spaces(path):
    """What is filled in, the letter of the keyboard, and the space before a unit."""
    texts = words.catalogue(path.stem).texts
    for text, told in texts.items():
        assert told.strip(), text
        names, used = (sorted(set(re.findall(r"\{(\w+)", one))) for one in (text, told))
        assert names == used, text
        assert text.count("&") == told.count("&"), text
        assert text.startswith(" ") == told.startswith(" "), text
        assert text.endswith(" ") == told.endswith(" "), text


@pytest.mark.parametrize("name", PANELS)
@pytest.mark.parametrize("path", LANGUAGES, ids=lambda path: path.stem)
def test_no_key_of_a_panel_is_taken_twice(path, name):
    file = ROOT / name / f"Resources/UI/{name}.ui"
    known = words.catalogue(path.stem)
    labels = [
        known.tr(shown.findtext("string"))
        for shown in ElementTree.parse(file).iter("property")
        if shown.get("name") == "text" and shown.findtext("string")
    ]
    keys = [label[label.index("&") + 1].lower() for label in labels if "&" in label]
    assert keys and len(keys) == len(set(keys))


def _texts(tree):
    """Literals and what f-strings look like, with nothing between their braces."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield _form(node.value)
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else "{}" for part in node.values
            )


def _form(text):
    return re.sub(r"\{[^}]*\}", "{}", text)
