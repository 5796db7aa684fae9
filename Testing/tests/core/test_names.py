"""What is handed over by name is neither misspelt nor missing."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from NetInversionLib.core.names import require_names

WORDS = st.text("abcdef_ ", min_size=1, max_size=8)


@given(st.lists(WORDS, unique=True, max_size=4), st.lists(WORDS, unique=True, max_size=4), WORDS)
def test_names_that_are_known_pass_and_every_other_is_named(needed, possible, other):
    require_names("volume", [*needed, *possible], needed, possible)
    require_names("volume", needed, needed, possible)
    assume(other not in (*needed, *possible))
    with pytest.raises(ValueError) as error:
        require_names("volume", [*needed, other], needed, possible)
    assert f"a volume called {other!r}" in str(error.value)


def test_what_was_meant_and_what_is_missing_is_said():
    with pytest.raises(ValueError, match="'lowdose'.*did you mean 'low_dose'"):
        require_names("volume", ["lowdose"], ["low_dose"])
    with pytest.raises(ValueError, match="the model 'denoiser' is missing"):
        require_names("model", ["second"], ["denoiser"], ["second"])
    with pytest.raises(ValueError, match=r"\\x1b") as error:
        require_names("volume", ["\x1b[31m"], ["source"])
    assert str(error.value).isprintable()
