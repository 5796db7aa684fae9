"""Options of both searches and settings of parts are checked where all settings are."""

import math

import pytest

from NetInversionLib.core.settings import Checked
from NetInversionLib.harmonize.fitting import FitSettings
from NetInversionLib.invariances.low_dose import LowDoseSettings
from NetInversionLib.optimise import descent, lbfgs


@pytest.mark.parametrize(
    ("kind", "wrong", "says"),
    [
        (lbfgs.Options, {"history": 0}, "history must be a whole number at least 1, not 0"),
        (lbfgs.Options, {"armijo": 0.95}, "armijo must be below wolfe"),
        (lbfgs.Options, {"enough": math.nan}, "enough must be a number, not nan"),
        (descent.Options, {"rounding": (0.1, 0)}, "each above 0, not"),
        (FitSettings, {"looks": "two"}, "looks must be a whole number at least 1, not 'two'"),
        (LowDoseSettings, {"dose": math.inf}, "dose must be a finite number above 0"),
    ],
)
def test_a_wrong_value_is_refused_by_name(kind, wrong, says):
    assert issubclass(kind, Checked)
    with pytest.raises(ValueError, match=says):
        kind(**wrong)


@pytest.mark.parametrize("kind", [lbfgs.Options, descent.Options])
def test_a_loss_may_have_no_bound_that_is_low_enough(kind):
    assert kind().enough == -math.inf and kind(enough=-math.inf).enough == -math.inf
