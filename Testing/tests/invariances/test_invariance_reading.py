"""The words of an invariance result say what its figures say, with their conditions."""

import html

import pytest

from NetInversionLib.core.results import Table
from NetInversionLib.invariances import reading


def facts(**changes):
    settings = dict(
        layer="output",
        region=[0, 1, 2, 9, 2, 9],
        region_from="",
        epsilon_hu=None,
        epsilon_noise=0.1,
        structure_mm=5.0,
        lesion=None,
    )
    settings.update(changes.pop("settings", {}))
    return {
        "complete": True,
        "model": {"name": "Denoiser <7>"},
        "epsilon": 4.4,
        "epsilon_units": "HU",
        "accepted": 14,
        "projected": 16,
        "settings": settings,
        **changes,
    }


def tables(coarse=2.0, fine=7.0, **changes):
    return {
        "proof": Table(
            "Proof",
            {
                "survived (%)": [10.0, 20.0, float("nan")],
                "input change before (HU)": [60.0, 70.0, 80.0],
                "input change after (HU)": [17.0, 19.0, 18.0],
            },
        ),
        "bands": Table("Bands", {"band": ["structure", "noise"], "proven (HU)": [coarse, fine]}),
        **changes,
    }


def lesions(**changes):
    return Table(
        "",
        {
            "diameter (mm)": [3.0, 8.0, 8.0],
            "contrast (HU)": [60.0, -20.0, 60.0],
            "contrast that survives (HU)": [5.0, -12.0, float("nan")],
            **changes,
        },
    )


def test_the_answer_says_what_was_asked_found_and_how_sure_it_is():
    words = reading.answer(
        facts(settings={"region_from": "80 x 80 mm around the view's centre"}), tables()
    )
    assert words.startswith(
        "In 80 x 80 mm around the view's centre, images that differ by 18 HU on average pass for "
        "the patient's with Denoiser <7>: the network's output stays within 4.4 HU, 0.1 times the "
        "noise of 44 HU; 15 % of what was proposed (70 HU) is left in them, mostly finer than 5 mm."
    )
    assert "14 of 16 were proven" in words and "changes that were not tried may pass too" in words
    assert (
        "an average over the region, so a small spot may change by more" in words
        and "Next: " in words
    )
    assert words.count(". ") == 2  # three sentences
    local = reading.answer(facts(settings={"patch_mm": 5.0}), tables())
    assert "no patch of 5 mm changes by more than the limit" in local
    assert "average over the region" not in local


@pytest.mark.parametrize(
    "coarse, fine, said",
    [
        (2, 7, "mostly finer than 5 mm"),
        (7, 2, "mostly coarser than 5 mm"),
        (5, 5.2, ""),
        (float("nan"), float("nan"), ""),
        (0, 0, ""),
    ],
)
def test_what_is_left_is_called_fine_or_coarse_only_where_it_is(coarse, fine, said):
    words = reading.answer(facts(), tables(coarse, fine))
    assert said in words and ("mostly" in words) == bool(said)


@pytest.mark.parametrize("value, said", [(4.41, "4.4 HU"), (99.4, "99 HU"), (174.2, "174 HU")])
def test_no_amount_has_an_exponent(value, said):
    assert reading.amount({"epsilon_units": "HU"}, value) == said


def test_a_limit_that_was_set_is_not_called_a_share_of_the_noise():
    words = reading.answer(facts(epsilon=1.0, settings={"epsilon_hu": 1.0}), tables())
    assert "within 1 HU;" in words and "noise of" not in words


def test_nothing_projected_and_nothing_accepted_prove_nothing():
    words = reading.answer(facts(projected=0, accepted=0), tables())
    assert (
        words.startswith("Nothing is proven about Denoiser <7>")
        and "set Projected above 0" in words
    )
    words = reading.answer(facts(accepted=0), tables())
    assert (
        words.startswith("None of 16 changes")
        and "does not prove that everything is noticed" in words
    )
    assert "% of what" not in words


def test_a_hidden_layer_says_nothing_of_the_image():
    words = reading.answer(
        facts(epsilon=0.01, epsilon_units="relative", settings={"layer": "layers.2"}), tables()
    )
    assert (
        "the network's layer layers.2 stays within 1 %" in words
        and "of the denoised image nothing is proven" in words
    )


def test_a_stopped_run_is_of_a_part():
    early = facts(complete=False)
    assert reading.answer(early, tables()).startswith(
        "Stopped early, so this is of a part only: In the chosen region"
    )
    assert "<b>Incomplete</b>" in reading.summary(early, tables())
    assert "Nothing is proven" in reading.answer(facts(complete=False, projected=0, accepted=0), {})


def test_the_nodule_of_which_most_survives_is_named_with_its_own_contrast():
    words = reading.answer(facts(settings={"lesion": [0, 0, 0]}), tables(lesions=lesions()))
    assert "a nodule of 8 mm could be there with 12 of its 20 HU and not show" in words
    none = lesions(**{"contrast that survives (HU)": 3 * [float("nan")]})
    assert "Next: read the table of lesions." in reading.answer(
        facts(settings={"lesion": [0, 0, 0]}), tables(lesions=none)
    )


def test_a_second_denoiser_stands_beside_the_first():
    both = facts(second=facts(model={"name": "Other"}, accepted=3))
    shown = tables(**{"proof second": Table("", {"survived (%)": [40.0]})})
    assert "(with Other: 40 %)" in reading.answer(both, shown)
    assert "<b>Other</b>: 3 of 16 projected samples" in reading.summary(both, shown)


def test_a_name_is_text_and_no_html():
    assert html.escape("Denoiser <7>") in reading.summary(
        facts(), tables()
    ) and "<7>" not in reading.summary(facts(), tables())
    assert reading.summary(None, {}) == reading.REMOVED


def test_what_is_said_of_a_sample_is_the_worst_of_its_accepted_slices():
    part = facts(epsilon=0.01, epsilon_units="relative", settings={"layer": "3"})
    table = Table(
        "",
        {
            "slice": [0, 1, 2, 0],
            "sample": [5, 5, 5, 2],
            "unproven, change of the layer 3 (relative)": [0.5, 0.6, 0.7, 0.9],
            "projected, change of the layer 3 (relative)": [0.008, 0.009, 0.4, 0.001],
            "accepted": [True, True, False, True],
            "projected, change of the output (HU)": [2.0, 1.0, 50.0, 9.0],
            "survived (%)": [10.0, 20.0, 90.0, 70.0],
        },
    )
    for written in (
        table,
        Table("", {**table.columns, "accepted": ["True", "True", "False", "True"]}),
    ):  # read from a scene
        known = {"proof of samples": written}
        assert (
            reading.proof(part, known, "samples", 5)
            == "Sample 5, proven: the network's layer 3 changes by 0.9 %, at most 1 % are allowed."
            " Its output changes by 2 HU. 15 % of the proposed change survived."
        )
        assert (
            reading.proof(part, known, "proposals", 5)
            == "Proposal 5, unproven: the network's layer 3 changes by 70 %; 1 % count as"
            " unnoticed."
        )
    assert (
        reading.proof({**part, "second": part}, {}, "samples second", 1)
        == "Proven: the network's layer 3 changes by at most 1 %."
    )
    assert reading.proof(part, {}, "hidden lesion", None).endswith(
        "the network's layer 3 changes by at most 1 %."
    )
    assert reading.proof(part, {}, "component 1", None) == ""


def test_the_sentence_fits_what_a_run_gives():
    from toy_ct import averaging, body, run

    result = run(body(), averaging(), samples=4, projected=3, region=(0, 1, 10, 30, 12, 34))
    words = reading.answer(result.facts, result.tables)
    share = sum(result.tables["proof"].columns["survived (%)"]) / len(
        result.tables["proof"].columns["survived (%)"]
    )
    assert (
        "3 of 3 were proven" in words
        and f"{share:.0f} % of what was proposed" in words
        and "within 1 HU" in words
    )
    assert "Sample 1, proven" in reading.proof(result.facts, result.tables, "samples", 1)
