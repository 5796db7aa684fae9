"""An ideal input's result in words, on results whose figures are known."""

import re

import pytest

from NetInversionLib.core.results import Table
from NetInversionLib.ideal_input.reading import (
    answer,
    best_start,
    input_words,
    start_words,
    summary,
)

OWN, PATIENT, ZEROS = "own", "patient", "zeros"


def result(own=40.0, errors=None, noisier=9.0, blurred=38.0, direction="best", tissues=True):
    """Facts and tables as the algorithm gives them.

    Errors are of the whole region; those of the body are twice as large.
    """
    errors = errors or {PATIENT: 4.0}
    kind = "ideal" if direction == "best" else "worst"
    errors = {OWN: own, **errors}
    facts = {
        "error": errors,
        "settings": {"direction": direction},
        "model": {
            "name": "A <small> network",
            "intended_use": "Demonstration on SIMULATED images.",
        },
    }
    columns = {
        "input": [input_words(name, kind) for name in errors],
        "MAE everything (HU)": list(errors.values()),
    }
    if tissues:
        columns["MAE body (HU)"] = [2 * error for error in errors.values()]
        columns["MAE bone (HU)"] = [5 * error for error in errors.values()]
        columns["MAE fat (HU)"] = [error for error in errors.values()]
    validity = {
        input_words(OWN): own,
        f"{input_words(OWN)}, blurred": own + 5,
        f"{input_words(OWN)}, noisier": own + 1,
    }
    for start in list(errors)[1:]:
        words = input_words(start, kind)
        validity |= {
            words: errors[start],
            f"{words}, blurred": blurred,
            f"{words}, noisier": noisier,
        }
    starts = [start_words(start) for start in list(errors)[1:]]
    swapped = {
        "start": [start for start in starts for _ in range(2)],
        "channel put back": ["in_phase", "water_fraction"] * len(starts),
        "MAE (HU)": [20.0, 30.0] * len(starts),
        "share of the gain lost (%)": [44.0, 72.0] * len(starts),
    }
    return facts, {
        "error": Table("Error", columns),
        "swap back": Table("Swap", swapped),
        "validity": Table(
            "Validity", {"input": list(validity), "MAE (HU)": list(validity.values())}
        ),
    }


def test_what_came_out_how_sure_and_what_next():
    text = answer(*result())
    assert text.startswith(
        "With the patient's own input the network's image differs from the target by 80.0 HU on "
        "average inside the body;"
    )
    assert (
        "with the ideal input (searched from the patient's images) by 8.0 HU, 10 % of that" in text
    )
    # Of a gain of 36 HU, 41 - 9 stay under noise and 45 - 38 under the blur.
    assert (
        "of the gain 89 % stays when noise of 2 % of the input's range is added to both inputs"
        in text
    )
    assert ", 19 % when both are blurred by 1 voxel" in text
    assert (
        "most of it lies in fine patterns and tells about this network, not about a scanner" in text
    )
    assert (
        "Look next at the change of the water fraction (without it only 28 % of the gain is left)"
        in text
    )
    assert text.endswith("and at bone (error 200 before, 20 HU after).")
    assert len(re.findall(r"\.(?: |$)", text)) == 3


def test_a_gain_that_lasts_is_told_as_such():
    text = answer(*result(noisier=6.0, blurred=12.0))
    assert "97 % stays when noise" in text and "92 % when both are blurred" in text
    assert "does not hang on fine patterns alone" in text and "about this network" not in text


def test_a_gain_that_a_blur_takes_is_told_as_nothing():
    text = answer(*result(noisier=50.0, blurred=60.0))
    assert "of the gain nothing stays when noise" in text
    assert ", nothing when both are blurred by 1 voxel: most of it lies in fine patterns" in text


def test_the_size_of_the_change_is_told_in_units_of_the_noise():
    facts, tables = result(errors={PATIENT: 4.0, ZEROS: 5.0})
    assert "How far" not in answer(facts, tables), "it was not measured"
    facts["change_in_noise"] = {PATIENT: 3.14, ZEROS: 9.0}
    measured = (
        "How far: the ideal input differs from the patient's own by 3.1 times the images' own noise"
        " (root mean square)"
    )
    assert f" {measured}. Look next" in answer(facts, tables)
    facts["trade_off"] = {"half": 1.38, "images": 3, "of": 3}
    text = answer(facts, tables)
    assert f"{measured}; half of the gain needs 1.4 times that noise. Look next" in text
    assert summary(facts, tables).partition("</b>")[0].endswith("10 % of that.")
    facts["trade_off"]["of"] = 20
    assert "half of the gain, on 3 of 20 images, needs 1.4 times" in answer(facts, tables)
    facts["trade_off"]["half"] = None
    assert f"{measured}. Look next" in answer(facts, tables)


def test_the_change_of_another_start_has_no_curve():
    facts, tables = result(errors={PATIENT: 5.0, ZEROS: 4.0})
    facts |= {"change_in_noise": {PATIENT: 3.0, ZEROS: 8.0}, "trade_off": {"half": 1.0}}
    text = answer(facts, tables)
    assert "by 8 times the images' own noise (root mean square)." in text


def test_several_starts_are_compared_and_the_best_is_told():
    facts, tables = result(errors={PATIENT: 4.0, ZEROS: 3.0})
    assert best_start(facts) == ZEROS
    text = answer(facts, tables)
    assert "searched from zeros) by 6.0 HU" in text
    assert (
        "the 2 starts end between 3.0 and 4.0 HU over the whole region, so this input is one answer"
        " of several" in text
    )


def test_starts_that_disagree_are_told_as_such():
    assert "what is found depends on the start" in answer(
        *result(errors={PATIENT: 4.0, ZEROS: 20.0})
    )


def test_the_worst_input_is_the_one_with_the_greatest_error():
    facts, tables = result(errors={PATIENT: 60.0}, direction="worst")
    text = answer(facts, tables)
    assert (
        "worst input (searched from the patient's images within the largest change) by 120.0 HU,"
        " 150 % of that" in text
    )
    assert "stays when" not in text
    assert "Worst, from the patient's images: 60.0 HU, 150 % of the patient's own" in summary(
        facts, tables
    )


def test_nothing_to_gain_and_nothing_gained():
    assert answer(*result(own=0.0, errors={PATIENT: 0.0})).endswith("there is nothing to gain.")
    text = answer(*result(errors={PATIENT: 40.0}))
    assert "100 % of that." in text and "Look next" not in text and "How sure" not in text


@pytest.mark.parametrize("missing", [("validity",), ("swap back",), ("validity", "swap back")])
def test_tables_that_are_missing_are_left_out(missing):
    facts, tables = result()
    text = answer(facts, {key: table for key, table in tables.items() if key not in missing})
    assert ("How sure" in text) == ("validity" not in missing)
    assert ("water fraction" in text) == ("swap back" not in missing)
    assert "bone" in text


def test_without_tissues_the_figures_are_of_the_region():
    text = answer(*result(tissues=False))
    assert "by 40.0 HU on average over the region" in text and "inside the body" not in text


def test_tables_of_other_words_give_no_wrong_sentence():
    """Scenes saved by an earlier version name the rows otherwise."""
    facts, tables = result()
    tables["validity"].columns["input"] = ["patient's", "ideal patient", *["x"] * 4]
    tables["swap back"].columns["start"] = ["patient", "patient"]
    text = answer(facts, tables)
    assert "How sure" not in text and "without it" not in text and "10 % of that" in text


def test_a_stopped_run_and_removed_figures():
    facts = {"images_done": 2, "images": 4}
    assert "stopped with 2 of 4 images finished" in answer(facts, {})
    assert summary(facts, {}).startswith("<b>Incomplete.</b>")
    assert "was removed from the scene" in summary({}, {})


def test_summary_has_each_input_and_what_the_network_is():
    text = summary(*result(errors={PATIENT: 4.0, ZEROS: 10.0}))
    assert "Mean absolute error over all voxels of the region, air included:" in text
    assert "- Patient's own input: 40.0 HU<br>" in text
    assert "- Ideal, from the patient's images: 4.0 HU, 10 % of the patient's own" in text
    assert "- Ideal, from zeros: 10.0 HU, 25 % of the patient's own" in text
    assert (
        text.startswith("<b>With the patient's own input") and "% of that.</b> How sure: " in text
    )
    assert "A &lt;small&gt; network. Demonstration on SIMULATED images." in text
