"""Settings: whatever JSON holds, a field is taken as what it is or refused by name."""

import json
import math
from dataclasses import asdict, dataclass, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from NetInversionLib import cli
from NetInversionLib.core.settings import Checked, setting
from NetInversionLib.harmonize.settings import Settings as HarmonizeSettings
from NetInversionLib.ideal_input.settings import PRESETS
from NetInversionLib.ideal_input.settings import Settings as IdealInputSettings
from NetInversionLib.invariances.settings import Settings as InvariancesSettings

ALL = (HarmonizeSettings, IdealInputSettings, InvariancesSettings)
EVERY_FIELD = [
    pytest.param(cls, field.name, field.type, id=f"{cls.__module__.split('.')[1]}-{field.name}")
    for cls in ALL
    for field in fields(cls)
]
NUMBERS = st.integers() | st.floats()
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
JSON_VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


def is_of(value, kind: str) -> bool:
    """Whether a value of JSON is of the type that a field's annotation names."""
    if " | None" in kind and value is None:
        return True
    kind = kind.removesuffix(" | None")
    if kind.startswith("tuple["):
        items = kind[len("tuple[") : -1].split(", ")
        right_length = items[-1] == "..." or (isinstance(value, list) and len(value) == len(items))
        return (
            isinstance(value, list) and right_length and all(is_of(one, items[0]) for one in value)
        )
    if isinstance(value, bool):
        return kind == "bool"
    if kind == "float":
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, {"str": str, "int": int, "bool": bool}[kind])


@pytest.mark.parametrize("cls, name, kind", EVERY_FIELD)
@hypothesis_settings(deadline=None, max_examples=60)
@given(value=JSON_VALUES)
def test_a_value_of_another_type_is_refused_by_name(cls, name, kind, value):
    if is_of(value, kind):
        return
    with pytest.raises(ValueError) as caught:
        cls.from_json({name: value})
    sentence = str(caught.value)
    assert sentence.startswith(f"{name} must be ") and ", not " in sentence


@pytest.mark.parametrize("cls, name, kind", EVERY_FIELD)
@hypothesis_settings(deadline=None, max_examples=60)
@given(value=JSON_VALUES)
def test_every_value_is_taken_whole_or_refused_with_a_sentence(cls, name, kind, value):
    """There is no other end, such as a TypeError, and no value becomes another."""
    try:
        taken = getattr(cls.from_json({name: value}), name)
    except ValueError as error:
        assert len(str(error)) > len(name)
    else:
        assert is_of(value, kind)
        assert taken == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("cls", ALL)
def test_every_default_comes_back_from_json(cls):
    assert cls.from_json(json.loads(json.dumps(asdict(cls())))) == cls()
    for name, value in json.loads(json.dumps(asdict(cls()))).items():
        assert cls.from_json({name: value}) == cls()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_comes_back_from_json(preset):
    made = IdealInputSettings(**PRESETS[preset])
    assert IdealInputSettings.from_json(json.loads(json.dumps(PRESETS[preset]))) == made


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("nothing", [[], [1], "auto", 3, None])
def test_what_is_no_object_is_refused(cls, nothing):
    with pytest.raises(ValueError, match="must be a JSON object with any of .*device"):
        cls.from_json(nothing)


@pytest.mark.parametrize("cls", ALL)
def test_a_name_that_is_no_setting_is_told(cls):
    with pytest.raises(ValueError, match="unknown settings: stars"):
        cls.from_json({"stars": 1})


@pytest.mark.parametrize(
    ("cls", "wrong", "sentence"),
    [
        (IdealInputSettings, {"box": "no"}, "box must be true or false, not 'no'"),
        (
            IdealInputSettings,
            {"max_evaluations": "ten"},
            "max_evaluations must be a whole number at least 1, not 'ten'",
        ),
        (
            IdealInputSettings,
            {"starts": []},
            "starts must be a list of any of patient, zeros, noise (at least one), not an empty"
            " list",
        ),
        (
            IdealInputSettings,
            {"ball": -1},
            "ball must be a finite number above 0 or none (null), not -1",
        ),
        (
            InvariancesSettings,
            {"spectrum_size": 2},
            "spectrum_size must be a whole number at least 4 and at most 128, not 2",
        ),
        (
            InvariancesSettings,
            {"lesion": [1.0, 2.0]},
            "lesion must be a list of 3 finite numbers or none (null), not [1.0, 2.0]: a point, RAS"
            " in mm",
        ),
        (
            InvariancesSettings,
            {"lesion_contrasts_hu": [20, 0]},
            "lesion_contrasts_hu must be a list of finite numbers, each other than 0 (at least"
            " one), not [20, 0]",
        ),
        (
            InvariancesSettings,
            {"overlap": 65},
            "overlap must be at most half of tile (128), not 65",
        ),
        (
            HarmonizeSettings,
            {"output_range": "8 bit"},
            "output_range must be one of native, target, not '8 bit'",
        ),
    ],
)
def test_the_sentence_says_what_it_may_be_and_what_it_is(cls, wrong, sentence):
    with pytest.raises(ValueError) as caught:
        cls.from_json(wrong)
    assert str(caught.value) == sentence


def test_numbers_of_arrays_are_numbers():
    taken = InvariancesSettings(samples=np.int64(5), projected=0, shown=0, dose=np.float32(0.5))
    assert (taken.samples, taken.dose) == (5, 0.5)


def test_settings_and_records_that_call_the_published_mode_seed_are_read():
    record = json.loads('{"Task": "harmonize", "Settings": {"mode": "seed", "iterations": 4}}')
    today = HarmonizeSettings(mode="published", iterations=4)
    assert HarmonizeSettings.from_json(record["Settings"]) == today
    assert HarmonizeSettings(mode="seed", iterations=4) == today
    assert HarmonizeSettings.in_todays_names({**record["Settings"], "gone": 1}) == {
        "mode": "published",
        "iterations": 4,
        "gone": 1,
    }


@pytest.mark.parametrize(
    ("mode", "problem"), [("seed", "no volumes in"), ("gan", "mode must be one of anatomy-safe")]
)
@pytest.mark.parametrize("given", ["--mode", "--settings"])
def test_commands_that_call_the_published_mode_seed_go_on(mode, problem, given, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    words = mode if given == "--mode" else json.dumps({"mode": mode})
    folders = [str(tmp_path / "in"), str(tmp_path / "out")]
    assert cli.main(["harmonize", *folders, given, words]) != 0
    assert problem in capsys.readouterr().err


@dataclass(frozen=True)
class Small(Checked):
    names: tuple[str, ...] = setting(("a",), choices=("a", "b"), formerly={"old": "b"})
    name: str = setting("a", choices=("a", "b"), formerly={"old": "b"})
    free: str = ""


def test_former_names_are_today_s():
    assert Small(names=["old", "a"], name="old", free="old") == Small(("b", "a"), "b", "old")


def test_a_limit_that_there_is_not_is_no_setting():
    with pytest.raises(TypeError, match="beneath"):
        setting(1, beneath=3)
