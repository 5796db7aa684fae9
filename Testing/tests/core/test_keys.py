"""Keys and columns: their text says all of them, and can be read again."""

import re

from hypothesis import given
from hypothesis import strategies as st

from NetInversionLib.core.keys import (
    COUNT,
    NUMBER,
    OWN,
    SECOND,
    TEXT,
    TRUTH,
    Column,
    Key,
    column_kind,
)
from NetInversionLib.core.results import Result, Table

ROLES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda role: role != SECOND)
STARTS = st.sampled_from([OWN, "patient", "zeros", "noise", "noise 2", "noise 12"])
NETWORKS = st.sampled_from(["", SECOND])
KEYS = st.one_of(
    st.builds(
        Key,
        st.sampled_from(["ideal", "change", "output", "error"]),
        channel=ROLES,
        start=STARTS,
        network=NETWORKS,
    ),
    st.builds(Key, st.just("spread"), channel=ROLES),
    st.builds(Key, st.just("spectrum"), start=STARTS),
    st.builds(
        Key,
        st.sampled_from(["sample", "proposal", "answer", "component"]),
        number=st.integers(1, 999),
        network=NETWORKS,
    ),
    st.builds(
        Key,
        st.sampled_from(["std proven", "output", "change", "proof of samples", "hidden lesion"]),
        network=NETWORKS,
    ),
)


def fields(key):
    return key.kind, key.channel, key.start, key.number, key.network


@given(KEYS)
def test_a_key_is_read_from_its_text(key):
    again = Key.read(str(key))
    assert (again, fields(again)) == (key, fields(key))


@given(KEYS)
def test_names_of_files_have_no_spaces_quotes_or_apostrophes(key):
    assert re.fullmatch(r"[\w-]+", key.file_name)


@given(KEYS, KEYS)
def test_different_things_have_different_keys_and_files(one, other):
    assert (one == other) == (fields(one) == fields(other)) == (one.file_name == other.file_name)


def test_before_and_from_the_patients_start_cannot_be_confused():
    own, found = Key("error", "ct", OWN), Key("error", "ct", "patient")
    assert own.file_name == "error_ct_own" and found.file_name == "error_ct_from-patient"
    assert Key.read("error ct patient's") == own != found  # as older versions called it
    assert Key.read("error ct patient") == found


def test_a_sequence_knows_its_members():
    assert Key.read("samples second").member(3) == Key("sample", number=3, network=SECOND)


@given(st.text("abc de,%", min_size=1).map(str.strip).filter(bool), st.sampled_from(["", "HU"]))
def test_a_column_is_read_from_its_heading(name, unit):
    column = Column.read(str(Column(name, unit)))
    assert (column.name, column.unit) == (name, unit)


def test_columns_know_their_kind():
    assert column_kind([1, None, 2]) == COUNT and column_kind([1, 2.0]) == column_kind([]) == NUMBER
    assert (
        column_kind([True, False]) == TRUTH
        and column_kind(["a", 1]) == column_kind([True, 1]) == TEXT
    )


def test_a_table_is_asked_by_name_and_keeps_truths():
    table = Table("t", {"MAE (HU)": [1.5], "MAE body (HU)": [3.0], "accepted": ["True"]})
    assert table.values("MAE") == [1.5] and table.column("MAE body").unit == "HU"
    assert table.values("accepted") == [True] and table.column("accepted").kind == TRUTH
    assert table.values("bias") == [] and table.column("bias") is None
    assert table.columns["MAE (HU)"] == [1.5]


def test_a_result_reads_plain_texts_as_keys():
    result = Result(roles={"error ct patient's": "error"})
    assert result.roles == {Key("error", "ct", OWN): "error"}
    assert [key.start for key in result.roles] == [OWN]
