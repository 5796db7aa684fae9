"""A harmonization's result in words, on results whose figures are known."""

import pytest

from NetInversionLib.core.results import Table
from NetInversionLib.harmonize.reading import answer, batch_text, summary, verdict_text

NOISY = "The image is <noisier> than the target's people."


def result(
    verdict="accepted",
    after=0.005,
    typical=0.01,
    reasons=(),
    mode="anatomy-safe",
    strength=0.0,
    **facts,
):
    passed = ["yes", "yes", "yes" if verdict == "accepted" else f"no, {verdict}"]
    tables = {"verdict": Table("Checks", {"check": ["a", "b", "c"], "passed": passed})}
    if verdict != "refused":
        nan = float("nan")
        tables["summary"] = Table(
            "What changed",
            {
                "image": ["source", "harmonized", "target, median person"],
                "Wasserstein distance to the target": [0.15, after, typical],
                "edge agreement with the source": [1.0, 0.998, nan],
                "mean change": [0.0, 0.179, nan],
            },
        )
    return {
        "verdict": verdict,
        "reasons": list(reasons),
        "model": {"name": "T1 <3 T>"},
        "settings": {"mode": mode, "strength": strength},
        **facts,
    }, tables


def test_an_accepted_result_says_what_came_out_how_sure_and_what_next():
    text = answer(*result(order_margin=0.031))
    assert text.startswith(
        "Shown as by the target scanner (T1 <3 T>), the image's intensities are 0.005 from the"
        " target's, 0.150 before: as near as the target's own people are (0.010)."
    )
    assert "3 of 3 checks passed" in text
    assert (
        "no structure of more contrast than 3.1 % of the brightest tissue can have appeared or"
        " vanished" in text
    )
    assert text.endswith(
        "Look next at the two fields: they should look like shading, without anatomy."
    )


@pytest.mark.parametrize(
    "after, words",
    [
        (0.02, "as near as the target's own people are"),
        (0.05, "nearer, but not as near"),
        (0.2, "no nearer than before"),
    ],
)
def test_how_near_it_came(after, words):
    assert words in answer(*result(after=after))


@pytest.mark.parametrize("changes", [{"mode": "published"}, {"mode": "no-flow"}, {"strength": 0.5}])
def test_free_form_does_not_promise_the_anatomy(changes):
    text = answer(*result(**changes))
    assert "structures may have been drawn or erased" in text and "no structure" not in text
    assert "Look next at the change: " in text and "fields" not in text


def test_a_flagged_result_sends_to_the_reasons():
    facts, tables = result("flagged", reasons=[NOISY])
    assert "2 of 3 checks passed" in answer(
        facts, tables
    ) and "compare result and source" in answer(facts, tables)
    word, text = summary(facts, tables)
    assert word == "flagged" and "- The image is &lt;noisier&gt; than the target's people." in text
    assert verdict_text(facts) == f"Flagged: {NOISY}"


def test_a_refused_volume_has_no_image_and_no_figures():
    facts, tables = result("refused", reasons=["Choose another model."])
    text = answer(facts, tables)
    assert text.startswith(
        "The model does not fit this volume, and no image was made. 2 of 3 checks passed."
    )
    assert "say what to choose" in text and "structure" not in text
    word, page = summary(facts, tables)
    assert word == "refused" and "Choose another model." in page and "Mean change" not in page


def test_every_per_cent_says_what_of():
    _, text = summary(*result())
    assert "Mean change: 17.9 % of the brightest tissue's intensity" in text
    assert "99.8 % of the source's gradients" in text
    assert "0.150 before, <b>0.005</b> after (the target's own people: 0.010)" in text
    assert "T1 &lt;3 T&gt;" in text and "<3 T>" not in text


def test_nothing_is_made_up_where_something_is_missing():
    facts, tables = result()
    assert "checks passed" not in answer(facts, {"summary": tables["summary"]})
    assert answer({}, {}) == "The run did not come to a verdict."
    assert summary({}, {}) == (
        "",
        "The text with this result's figures was removed from the scene.",
    )
    assert verdict_text({}) == ""


def test_a_check_that_was_not_decided_is_not_counted_as_passed():
    facts, tables = result()
    tables["verdict"].columns["in words"] = [
        "as in the target's people",
        "not decided: too symmetric",
        "as in",
    ]
    assert "2 of 3 checks passed, 1 not decided;" in answer(facts, tables)


def test_a_batch_s_end_names_those_that_failed():
    ends = [("a", "done"), ("b", "failed"), ("c", "stopped"), ("d", ""), ("e", "")]
    assert batch_text(ends) == "Batch: 1 of 5 volumes done. Failed: b. Stopped: c. Left out: d, e."
    assert batch_text([("a", "done")]) == "Batch: 1 of 1 volumes done."
