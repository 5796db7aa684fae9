"""The reports of ideal inputs and of invariances.

They show the result's own numbers, the right slice, and all settings in words.
"""

from dataclasses import fields

import numpy as np
import pytest
from pages import Reader, check_alone, pictures_of
from toy_ct import averaging, body, denoiser
from toy_ct import run as run_invariances
from toy_models import LPS, model, smooth, volume
from toy_mr import mixer, two_channels
from toy_mr import run as run_ideal

from NetInversionLib import cli
from NetInversionLib.core import figures, files, page, volumes
from NetInversionLib.core import page as core_page
from NetInversionLib.core.results import Curve, Result
from NetInversionLib.core.volumes import Volume
from NetInversionLib.harmonize import report as harmonize_report
from NetInversionLib.harmonize import settings as harmonize_settings
from NetInversionLib.ideal_input import report as ideal_input_report
from NetInversionLib.ideal_input import settings as ideal_input_settings
from NetInversionLib.invariances import invariances
from NetInversionLib.invariances import report as invariances_report
from NetInversionLib.invariances import settings as invariances_settings

NASTY = "<script>alert('x')</script> & \"quoted\" Größe\x1b[31m"
REGION = (1, 3, 4, 12, 5, 15)
SHAPE = (4, 18, 22)
ANISOTROPIC = LPS.copy()
ANISOTROPIC[:3, :3] = np.diag([-1.0, -2.0, 4.0])


@pytest.fixture(scope="module")
def ideal():
    """(result, first input) of a run on a region, with every table."""
    images = two_channels(shape=SHAPE, matrix=ANISOTROPIC)
    network = model(mixer(), inputs=("mr", "fat"))
    result = run_ideal(
        images,
        network,
        starts=("patient", "zeros"),
        region=REGION,
        context=3,
        max_evaluations=8,
        validity=True,
        knobs=True,
    )
    return result, images["mr"]


@pytest.fixture(scope="module")
def found():
    """(result, low dose) of a run on a region, with a lesion and a spectrum."""
    ct = body(noise=30.0, matrix=ANISOTROPIC)
    point = tuple((ct.ijk_to_ras @ [22, 20, 1, 1])[:3])
    result = run_invariances(
        ct,
        averaging(),
        region=(0, 2, 10, 30, 12, 34),
        lesion=point,
        lesion_diameters_mm=(6.0,),
        lesion_contrasts_hu=(-40.0, 40.0),
        spectrum=("output",),
        spectrum_size=8,
        components=2,
    )
    return result, ct


@pytest.fixture(params=["ideal", "found"])
def made(request):
    """(library file of the report, result, source)."""
    library = {"ideal": ideal_input_report, "found": invariances_report}[request.param]
    return library, *request.getfixturevalue(request.param)


# Both ---------------------------------------------------------------------------------------------


def test_a_page_is_well_formed_and_needs_nothing_else(made, tmp_path):
    library, result, source = made
    path = library.write(result, source, tmp_path / "report.html")
    reader = check_alone(path.read_text(encoding="utf-8"))
    headings = [tag for tag, _ in reader.seen if tag == "h2"]
    assert len(headings) > 6 and len(pictures_of(path.read_text(encoding="utf-8"))) > 3


def test_every_number_of_every_table_stands_on_the_page(made):
    library, result, source = made
    cells = Reader(library.page(result, source)).cells
    for table in result.tables.values():
        for heading, values in table.columns.items():
            assert heading in cells, f"{heading} of {table.title}"
            for value in values:
                assert page.cell(value) in cells
                if isinstance(value, float) and np.isfinite(value):
                    assert float(page.cell(value)) == pytest.approx(value, rel=1e-3, abs=1e-12)


def test_whatever_a_name_holds_is_text(made):
    library, result, source = made
    model_facts = {**result.facts["model"], "name": NASTY, "trained_on": [NASTY]}
    facts = {**result.facts, "model": model_facts, "inputs": {NASTY: NASTY}, "warnings": [NASTY]}
    facts["channels"] = {"mr": NASTY}
    nasty = Result(result.volumes, result.tables, result.curves, facts, result.roles)
    text = library.page(nasty, volume(source.array, NASTY, source.ijk_to_ras))
    check_alone(text)
    assert "\x1b" not in text and "&lt;script&gt;" in text and "Größe" in text


def test_a_page_says_what_is_needed_to_run_it_again(made):
    library, result, source = made
    text = library.page(result, source)
    cells = Reader(text).cells
    facts = result.facts
    assert facts["model"]["sha256"] in cells and facts["versions"]["torch"] in cells
    assert facts["device"] in cells and page.NOTICE in text
    assert source.name in cells, "the inputs by name"
    for name, value in facts["settings"].items():
        assert name in cells and page.value_of(value) in cells
    methods = library.methods(page.plain(facts))
    assert facts["model"]["sha256"][:16] in methods and page.text(methods) in text
    assert "ISMRM 2019, abstract 4866" in text or "doi:10.1117/12.2647170" in text


def test_the_curve_of_error_against_change_has_a_chapter(ideal):
    result, source = ideal
    assert "How much change buys how much?</h2>" not in ideal_input_report.page(result, source)
    curve = Curve("How much change buys how much?", "change", "error", {"the input": ([0], [1])})
    told = {"half": 1.5, "images": 2, "of": 2}
    with_curve = Result(
        result.volumes,
        result.tables,
        {**result.curves, "trade-off": curve},
        {**result.facts, "trade_off": told, "change_in_noise": {"patient": 3.0, "zeros": 3.0}},
        result.roles,
    )
    text = ideal_input_report.page(with_curve, source)
    chapter = text.partition("How much change buys how much?</h2>")[2].partition("<h2")[0]
    assert "<img" in chapter and "one price of leaving the patient" in chapter
    assert "by 3 times the images" in text


def test_methods_of_an_ideal_input_tell_the_prices_that_there_were(ideal):
    facts = page.plain(ideal[0].facts)
    paid = {**facts["settings"], "near": 0.1, "blurred": 1.0}
    text = ideal_input_report.methods({**facts, "settings": paid})
    assert "a Gaussian of standard deviation 1 voxel counted with it, with weight 1." in text
    assert "a price of 0.0001 (of the output's range) times the mean square change" in text
    for older in ({"near": None, "blurred": None}, {"near": 0.0, "blurred": 0.0}):
        text = ideal_input_report.methods({**facts, "settings": {**facts["settings"], **older}})
        assert "price of 0.0001" not in text and "blurred" not in text
    del facts["settings"]["near"], facts["settings"]["blurred"]
    assert ideal_input_report.methods(facts) == text, "as versions before the price wrote it"


def test_images_that_were_removed_are_told(made):
    library, result, source = made
    with pytest.raises(ValueError, match="run it again"):
        library.page(Result({}, result.tables, result.curves, result.facts), source)


@pytest.mark.parametrize(
    "report, settings",
    [
        (ideal_input_report, ideal_input_settings),
        (invariances_report, invariances_settings),
        (harmonize_report, harmonize_settings),
    ],
)
def test_every_setting_has_words(report, settings):
    names = {field.name for field in fields(settings.Settings)}
    assert set(report.SETTINGS) <= names <= set(report.SETTINGS) | set(core_page.COMMON_SETTINGS)
    assert not set(report.SETTINGS) & set(core_page.COMMON_SETTINGS)


@pytest.fixture
def sheets(monkeypatch):
    """The rows of pictures of every sheet that is drawn."""
    drawn = []
    monkeypatch.setattr(figures, "sheet", lambda rows: drawn.append(rows) or b"")
    return drawn


def named(sheets, words):
    """Pictures by title, of those whose title holds these words."""
    every = [picture for rows in sheets for row in rows for picture in row if picture is not None]
    return [picture for picture in every if words in picture.title]


# Ideal input --------------------------------------------------------------------------------------


def test_errors_have_one_scale_and_images_of_a_channel_too(ideal, sheets):
    result, source = ideal
    ideal_input_report.page(result, source)
    errors = named(sheets, "Error: ")
    assert len(errors) == 3 and len({picture.scale for picture in errors}) == 1
    assert errors[0].scale.low == 0 and errors[0].scale.units.startswith("absolute error")
    for words in ("mr, patient's own", "mr, ideal"):
        assert named(sheets, words)[0].scale == named(sheets, "mr, patient's own")[0].scale
    change = named(sheets, "mr, change")[0].scale
    assert change.low == -change.high


def test_before_is_the_patient_s_image(ideal, sheets):
    result, source = ideal
    ideal_input_report.page(result, source)
    before = named(sheets, "mr, patient's own")[0].slice
    place = [n for n in range(SHAPE[0]) if f"S {4.0 * n:.1f} mm" == before.position]
    k, (j0, j1, i0, i1) = place[0], (max(0, 4 - 3), 12 + 3, 5 - 3, 15 + 3)  # region and context
    np.testing.assert_allclose(before.array, source.array[k, j0:j1, i0:i1], atol=1e-5)
    assert before.spacing_mm == (2, 1)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SAL"])
def test_the_slice_shown_is_the_one_that_changed_most_with_its_marker_in_place(axes, sheets):
    """A change on the patient's left and front, in the third slice only: up and to the right."""
    change = np.zeros(SHAPE, np.float32)
    change[2, 2:5, 16:20] = 0.5
    change[1] = 0.01
    images = {
        "change mr patient": volume(change, "change", ANISOTROPIC),
        "ideal mr patient": volume(smooth(SHAPE, 1) + change, "ideal", ANISOTROPIC),
    }
    images = {key: volumes.reorient(image, axes) for key, image in images.items()}
    settings = {field.name: field.default for field in fields(ideal_input_settings.Settings)}
    facts = {"complete": False, "settings": settings, "model": {"name": "toy", "version": "1"}}
    facts["model"] |= {"sha256": "ab", "trained_on": []}
    text = ideal_input_report.page(Result(images, facts=facts), None)
    assert "stopped before its end" in text
    shown = named(sheets, "mr, change")[0].slice
    rows, columns = np.nonzero(shown.array > 0.4)
    assert shown.position == "S 8.0 mm" and shown.sides[:2] == ("R", "L")
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 4, 16, 19)


def test_where_the_region_lies_is_shown_on_the_whole_slice(ideal, sheets):
    result, source = ideal
    ideal_input_report.page(result, source)
    (whole,) = named(sheets, "Where the region lies")
    assert whole.slice.array.shape == SHAPE[1:] and whole.box == (4, 12, 5, 15)
    sheets.clear()
    ideal_input_report.page(result, None)
    assert not named(sheets, "Where the region lies")


def test_the_worst_input_is_called_so():
    images = two_channels(shape=SHAPE)
    result = run_ideal(
        images,
        model(mixer(), inputs=("mr", "fat")),
        direction="worst",
        ball=0.05,
        max_evaluations=5,
    )
    text = ideal_input_report.page(result, images["mr"])
    assert "Worst input" in text and "greatest error" in text and "mr, ideal" not in text


# Invariances --------------------------------------------------------------------------------------


def test_both_maps_have_one_scale_over_the_ct_in_hu(found, sheets):
    result, source = found
    invariances_report.page(result, source)
    unproven, proven = named(sheets, "Unproven")[0], named(sheets, "Proven: ")[0]
    assert unproven.over[1] == proven.over[1] and unproven.over[1].low == 0
    assert unproven.over[1].units == "standard deviation (HU)"
    np.testing.assert_array_equal(unproven.slice.array, named(sheets, "Low dose")[1].slice.array)
    values = np.nan_to_num(proven.over[0].array)
    k = round(float(proven.slice.position.split()[1]) / 4.0)
    maps = result.volumes["std proven"].array
    np.testing.assert_array_equal(values[values > 0], maps[k][maps[k] > 0])
    assert maps[k].mean() == max(part.mean() for part in maps), "the slice with the largest spread"


def test_the_tolerance_is_told_with_its_unit(found):
    text = invariances_report.page(*found)
    assert "the network&#x27;s output changes by at most 1 HU (root mean square" in text
    automatic = {"epsilon_hu": None, "epsilon_noise": 0.1, "layer": "output"}
    facts = {"settings": automatic, "epsilon": 4.4, "epsilon_units": "HU"}
    assert "at most 4.4 HU, 0.1 times the noise of 44 HU" in invariances_report.tolerance(facts)
    hidden = {**facts, "settings": {**automatic, "layer": "3"}, "epsilon": 0.01}
    hidden["epsilon_units"] = "relative"
    assert "layer 3 changes by at most 1 %" in invariances_report.tolerance(hidden)


def test_the_lesion_is_shown_around_its_point(found, sheets):
    result, source = found
    invariances_report.page(result, source)
    nodule = named(sheets, "The nodule")[0]
    strength = np.abs(nodule.slice.array)
    rows, columns = np.nonzero(strength > 0.5 * strength.max())
    down, across = (rows.mean() + 0.5, columns.mean() + 0.5)
    assert down == pytest.approx(15.5, abs=1.5) and across == pytest.approx(22.5, abs=1.5)
    assert nodule.slice.position == "S 4.0 mm"


def test_two_denoisers_have_chapters_of_their_own():
    settings = invariances_settings.Settings(
        samples=6, projected=3, shown=1, epsilon_hu=1.0, proposals=("texture",), device="cpu"
    )
    second = denoiser(averaging(3))
    ct = body(slices=1)
    result = invariances(
        {"low_dose": ct}, {"denoiser": denoiser(averaging()), "second": second}, settings
    )
    text = invariances_report.page(result, ct)
    check_alone(text)
    assert text.count("<h2>Proof</h2>") == 1 and "<h2>Proof, second denoiser: denoiser</h2>" in text


def test_a_run_without_projected_samples_has_a_report():
    """Nothing was projected, and no sample kept."""
    result = run_invariances(body(), averaging(), projected=0, shown=0)
    text = invariances_report.page(result, None)
    assert "Nothing is proven" in text and "No sample is there as an image" in text


# Command line -------------------------------------------------------------------------------------


def test_compute_invariances_writes_a_report(tmp_path, capsys):
    from test_invariances_module import plain

    file = plain(tmp_path / "average.safetensors")
    ct = files.save(Volume(body(slices=1).array, LPS, "ct", "HU"), tmp_path / "ct.nrrd")
    options = ["--samples", "6", "--projected", "3", "--shown", "1", "--proposals", "texture"]
    command = ["compute", "invariances", str(ct), "--model", str(file), *options]
    assert cli.main([*command, "--output", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    check_alone(text)
    assert "What Averaging does not notice: ct" in text
