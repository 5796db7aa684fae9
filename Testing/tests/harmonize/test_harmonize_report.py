"""The report holds everything in one file.

Whatever a name holds is text, pictures are pictures, and a report is replaced whole.
"""

import base64
import html
import io
import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image
from toy_models import smooth, volume

from NetInversionLib.core.page import NOTICE
from NetInversionLib.core.results import Curve, Result, Table
from NetInversionLib.harmonize import reading, report
from NetInversionLib.harmonize.settings import Settings

NASTY = "<script>alert('x')</script> & \"quoted\"\x1b[31m"


def result(name="T1 of somebody", verdict="accepted", mode="anatomy-safe", **settings):
    images = {
        key: volume(smooth((6, 7, 8), n, low, high), f"{name} {key}")
        for n, (key, low, high) in enumerate(
            (
                ("harmonized", 0, 900),
                ("change", -50, 50),
                ("multiplicative field", 0.8, 1.2),
                ("additive field", -0.1, 0.1),
            )
        )
    }
    facts = {
        "verdict": verdict,
        "reasons": [f"because of {name}"],
        "settings": asdict(Settings(mode=mode, **settings)),
        "model": {
            "name": "T1 of one scanner",
            "version": "1",
            "sha256": "ab" * 32,
            "trained_on": ["a", "b", "c"],
        },
    }
    columns = {
        "image": ["source", "harmonized", name],
        reading.DISTANCE: [0.3, 0.1, float("nan")],
        "distance": [0.25, float("nan"), 1.0],
        "fine": [True, False, True],
    }
    tables = {
        "summary": Table("What changed", columns),
        "curve": Table("Tone curve", {"input": [0.0, 1.0], "output": [0.0, 1.0]}),
    }
    curves = {
        "tone curve": Curve("Tone curve", "before", "after", {name: ([0, 0.5, 1], [0, 0.7, 1])})
    }
    return Result(images, tables, curves, facts)


def pictures(page):
    return [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r"data:image/png;base64,([^']+)'", page)
    ]


def test_the_page_needs_no_other_file_and_shows_everything():
    source = volume(smooth((6, 7, 8), 9, 0, 1000), "T1 of somebody")
    page = report.page(result(), source)
    assert not re.findall(r"(src|href)='(?!data:)", page)
    assert (
        "Research use only" in page and "accepted" in page and "because of T1 of somebody" in page
    )
    assert "<th>distance</th>" in page and "<td>0.25</td>" in page and "<td>yes</td>" in page
    assert "Tone curve" in page and "<td>0.0</td>" not in page  # the curve as plot, not as table
    images = pictures(page)
    assert page.count(NOTICE) == 1
    assert len(images) == 2 and all(min(image.size) > 100 for image in images)
    assert np.asarray(images[0].convert("L")).std() > 10  # not one flat colour


def test_whatever_a_name_holds_is_text():
    page = report.page(result(NASTY), volume(smooth((6, 7, 8), 9), NASTY))
    assert "<script" not in page and "\x1b" not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize(
    "mode, settings, words",
    [
        ("anatomy-safe", {}, "monotone tone curve after smooth multiplicative and additive fields"),
        ("anatomy-safe", {"strength": 0.5}, "free-form refinement of strength 0.5"),
        (
            "published",
            {"iterations": 7, "alpha": 0.02},
            "7 iterations of latent shrinkage (alpha 0.02)",
        ),
        ("no-flow", {}, "without its normalizing flow"),
    ],
)
def test_the_methods_paragraph_says_what_was_done(mode, settings, words):
    text = report.methods(result(mode=mode, **settings).facts)
    assert (
        words in text and "abababababababab" in text and "3 volumes" in text and "accepted" in text
    )


def test_a_result_of_an_older_version_calls_the_published_mode_seed():
    facts = result(mode="published", iterations=7).facts
    older = {**facts, "settings": {**facts["settings"], "mode": "seed"}}
    assert report.methods(older) == report.methods(facts)
    assert "mode published: 7 iterations" in report.methods(older)
    saved = result(mode="published")
    saved.facts["settings"]["mode"] = "seed"
    assert "shrinkage" in report.page(saved, volume(smooth((6, 7, 8), 9), "source"))


def test_the_mask_is_told_as_it_was():
    facts = result().facts
    assert "brain mask" not in report.methods(facts)
    assert "inside the mask (voxels above 0)." in report.methods(
        {**facts, "mask": "voxels above 0"}
    )


@pytest.mark.parametrize("output_range", ["native", "target"])
def test_a_result_in_the_target_s_intensities_has_its_own_window(output_range):
    one = result(output_range=output_range)
    row = report.pictures(one, volume(smooth((6, 7, 8), 9, 0, 90), "T1"))[0]
    source, changed = (
        next(p.scale.high for p in row if p.title.startswith(f"{name},"))
        for name in ("source", "result")
    )
    own = float(np.percentile(one.volumes["harmonized"].array[::2, ::2, ::2], 99.5))
    wanted = source if output_range == "native" else pytest.approx(own, rel=0.1)
    assert source < 100 < own and changed == wanted


def test_a_refused_volume_has_a_report_without_images():
    refused = result(verdict="refused")
    refused.volumes.clear()
    page = report.page(refused, volume(smooth((6, 7, 8), 9), "wrong contrast"))
    assert "refused" in page and len(pictures(page)) == 2


def test_no_page_holds_nan_an_empty_panel_or_a_number_with_an_exponent():
    one = result()
    for key, neutral in (("multiplicative field", 1.0), ("additive field", 0.0)):
        image = one.volumes[key]
        one.volumes[key] = image.with_array(np.full_like(image.array, neutral))
    one.facts["figures"] = {"nothing": float("nan"), "endless": [float("inf")]}
    source = volume(smooth((6, 7, 8), 9, 0, 3234), "T1")
    titles = [picture.title for row in report.pictures(one, source) for picture in row]
    assert {title.partition(",")[0] for title in titles} == {
        "source",
        "result",
        "change (result - source)",
    }
    one.tables["summary"].columns[reading.DISTANCE][0] = 3234.6
    text = re.sub(r"base64,[^']*", "", report.page(one, source))
    assert not re.search(r"\b(nan|infinity|inf)\b|\de\+\d", text.lower())
    assert "<td>3235</td>" in text


def test_settings_can_be_read_back():
    page = report.page(result(), volume(smooth((6, 7, 8), 9), "T1"))
    facts = json.loads(html.unescape(re.search(r"<pre>(.*)</pre>", page, re.S)[1]))
    assert Settings.from_json(facts["settings"]) == Settings()


def test_an_old_report_is_replaced_whole(tmp_path):
    path = tmp_path / "reports" / "one.html"
    for verdict in ("accepted", "flagged"):
        assert (
            report.write(result(verdict=verdict), volume(smooth((6, 7, 8), 9), "T1"), path) == path
        )
    assert "flagged" in path.read_text(encoding="utf-8") and [
        p.name for p in path.parent.iterdir()
    ] == ["one.html"]
