"""The builder of reports: pages are well-formed, and each is alone in its file.

Everything is escaped, and numbers are as they are.
"""

import json
import re

import numpy as np
import pytest
from pages import Reader, check_alone

from NetInversionLib.core import page
from NetInversionLib.core.results import Table

NASTY = "<script>alert('x')</script> & \"quoted\" Größe\x1b[31m"
PIXEL = b"\x89PNG\r\n\x1a\n"


def everything(name=NASTY):
    table = Table(name, {name: [1.5, float("nan")], "share (%)": [True, None]})
    facts = {"versions": {name: name, "device": "cpu"}, "settings": {name: [name]}, "name": name}
    model = {
        "name": name,
        "version": name,
        "sha256": "ab",
        "trained_on": [name],
        "licence": name,
        "file": name,
    }
    return page.document(
        name,
        [
            page.lead(name, name, [name]),
            page.chapter(name, page.paragraph(name), page.heading(name), page.bullets([name])),
            page.chapter("pictures", page.picture(PIXEL, name, name)),
            page.table(table, name, {name: name}),
            page.settings({"a": name, name: 1}, {"a": (name, name)}),
            page.folded(name, page.paragraph(name)),
            page.provenance(facts, name, {name: model}, {name: name}),
            page.record(facts),
        ],
    )


def test_a_page_is_well_formed_and_needs_nothing_else():
    check_alone(everything("Größe"))


def test_whatever_a_name_holds_is_text():
    text = everything()
    check_alone(text)
    assert "\x1b" not in text and "&lt;script&gt;" in text and "Größe" in text
    held = re.search(r"<pre>(.*)</pre>", text, re.S)[1]
    assert "<" not in held


def test_research_only_stands_on_every_page():
    assert page.NOTICE in page.document("a", [])


def test_it_can_be_read_in_the_dark_and_on_paper():
    styles = Reader(page.document("a", [])).styles
    assert "prefers-color-scheme: dark" in styles and "@media print" in styles
    assert styles.count("{") == styles.count("}")


def test_a_table_s_numbers_are_the_result_s():
    rng = np.random.default_rng(0)
    columns = {
        "MAE (HU)": [float(v) for v in rng.normal(0, 500, 30)],
        "count": list(range(30)),
        "word": ["a"] * 30,
    }
    cells = Reader(page.table(Table("t", columns))).cells
    assert cells[:3] == list(columns)
    rows = [cells[n : n + 3] for n in range(3, len(cells), 3)]
    assert [float(row[0]) for row in rows] == pytest.approx(columns["MAE (HU)"], rel=1e-3)
    assert [int(row[1]) for row in rows] == columns["count"] and [
        row[2] for row in rows
    ] == columns["word"]


@pytest.mark.parametrize(
    "values, cells",
    [
        ([True, False], ["yes", "no"]),
        ([float("nan"), None, ""], ["–", "–", "–"]),
        ([1e-9, 123456.7], ["1e-09", "123457"]),
        ([np.float32(0.5), np.int64(3)], ["0.5", "3"]),
    ],
)
def test_values_in_words(values, cells):
    assert [page.cell(value) for value in values] == cells


def test_only_columns_that_are_there_are_explained():
    text = page.table(
        Table("t", {"a": [1]}), notes={"a": "what a is", "b": "what b is"}, columns=["a", "c"]
    )
    assert "what a is" in text and "what b is" not in text


def test_a_chapter_without_content_is_left_out():
    assert page.chapter("Nothing", "", "") == "" and page.bullets([]) == ""


def test_facts_are_the_same_before_and_after_a_scene():
    facts = {"a": (1, 2), "b": np.float32(0.25), "c": {"d": np.arange(3)}}
    assert (
        page.plain(facts)
        == page.plain(json.loads(json.dumps(page.plain(facts))))
        == {"a": [1, 2], "b": 0.25, "c": {"d": [0, 1, 2]}}
    )


def test_an_old_page_is_replaced_whole(tmp_path):
    path = tmp_path / "new folder" / "Bericht ä.html"
    for words in ("first", "second"):
        assert page.write(path, page.document(words, [])) == path
    assert "second" in path.read_text(encoding="utf-8") and [
        p.name for p in path.parent.iterdir()
    ] == [path.name]
